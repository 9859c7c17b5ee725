//! `lighter ca token`, `revoke` and `list` with `--remote`: join tokens, by the control plane's API.

use std::time::Duration;

use http::Method;
use lighter_config::name::ServiceName;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::access::{Access, Answered};
use super::explain;
use crate::api::message::{Files, JoinToken, JoinTokens, MadeToken, NewToken};
use crate::exit::Exit;
use crate::output;

/// Makes a token for `service`, for one use within `life`.
pub fn make(access: &Access, service: &ServiceName, life: Duration) -> miette::Result<Exit> {
    let new = NewToken { service: service.to_string(), life_seconds: Some(life.as_secs()) };
    done(access, Method::POST, "/v1/tokens", Some(&new), |made: MadeToken| output::line(made.token))
}

/// Takes a token back.
pub fn revoke(access: &Access, id: &str) -> miette::Result<Exit> {
    let target = format!("/v1/tokens/{id}");
    done(access, Method::DELETE, &target, None::<&()>, |gone: JoinToken| {
        output::line(format_args!("token {} is taken back", gone.id))
    })
}

/// Lists every token on record.
pub fn list(access: &Access, json: bool) -> miette::Result<Exit> {
    done(access, Method::GET, "/v1/tokens", None::<&()>, |listed: JoinTokens| match json {
        true => output::json(&listed),
        false => listed.tokens.iter().try_for_each(show),
    })
}

/// One line for a token.
pub fn show(token: &JoinToken) -> Result<(), output::OutputError> {
    output::line(format_args!("token {} {:<8} {}", token.id, token.state, token.service))
}

fn done<T: DeserializeOwned>(
    access: &Access,
    method: Method,
    target: &str,
    body: Option<&impl Serialize>,
    say: impl FnOnce(T) -> Result<(), output::OutputError>,
) -> miette::Result<Exit> {
    match access.ask::<T>(method, target, body)? {
        Answered::Done(answer) => {
            say(answer)?;
            Ok(Exit::Ok)
        }
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            Ok(Exit::Fault)
        }
    }
}
