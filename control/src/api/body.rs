//! Bodies of requests: whole, in time, and no larger than they may be.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;

use super::answer::{Answer, refused};

/// Reads a body of at most `most` bytes, or says how the request is refused.
pub async fn read<B>(body: B, most: usize, within: Duration) -> Result<Bytes, Box<Answer>>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    match tokio::time::timeout(within, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body has more than {most} bytes");
            Err(Box::new(refused(StatusCode::PAYLOAD_TOO_LARGE, message)))
        }
        Ok(Err(error)) => Err(Box::new(refused(StatusCode::BAD_REQUEST, error.to_string()))),
        Err(_) => Err(Box::new(refused(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))),
    }
}
