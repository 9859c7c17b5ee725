//! Tests by section of RFC 9113.
