//! Redis between a client that keeps its connection and servers that come and go.

mod attach;
mod counts;
mod inside;
mod relay;
pub mod resp;
pub mod session;

pub(crate) use relay::serve;

use crate::error::Cause;
use resp::Malformed;

/// What a client is told of a command that was not executed.
const fn refusal(cause: Cause) -> &'static str {
    match cause {
        Cause::NotServing => {
            "-ERR lighter: not executed: not_serving: the state of this Service is elsewhere\r\n"
        }
        Cause::ParkOverflow => {
            "-ERR lighter: not executed: park_overflow: too much waits for the state to move\r\n"
        }
        Cause::ParkTimeout => "-ERR lighter: not executed: park_timeout: the state moves for too long\r\n",
        Cause::Unsupported => {
            "-ERR lighter: not executed: the server does not take the session as it was\r\n"
        }
        _ => "-ERR lighter: not executed: no server can be reached\r\n",
    }
}

/// What a client is told of what is no RESP, before its connection ends.
const fn protocol_error(malformed: Malformed) -> &'static str {
    match malformed {
        Malformed::Length => "-ERR Protocol error: invalid length\r\n",
        Malformed::NoBulk => "-ERR Protocol error: expected '$'\r\n",
        Malformed::Inline => "-ERR Protocol error: too big inline request\r\n",
        Malformed::Type | Malformed::Line => "-ERR Protocol error: expected CRLF\r\n",
    }
}
