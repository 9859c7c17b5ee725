//! The explicit proxy port: HTTP CONNECT, absolute-form requests, SOCKS5.
