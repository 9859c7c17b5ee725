//! Hop-by-hop rules, in one place for both versions of HTTP (RFC 9110 §7.6, RFC 9112 §9, RFC 9113 §8.2).
