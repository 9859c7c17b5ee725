//! What a connection speaks, found out without stalling it and without weakening policy.
