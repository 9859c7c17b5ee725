//! The explicit proxy port: HTTP CONNECT, absolute-form requests, SOCKS5.

use crate::carry::Call;

/// Serves a connection to the explicit proxy port.
pub(crate) async fn serve(_call: Call) {
    unimplemented!()
}
