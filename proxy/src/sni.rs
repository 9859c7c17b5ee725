//! The server name of a TLS ClientHello, for passthrough.
