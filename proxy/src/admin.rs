//! The admin port: `/ready /live /metrics /config_dump /clusters /drain /log_level`.
