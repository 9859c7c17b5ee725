//! Join tokens: made, listed, taken back.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use lighter_config::xds::names;

use super::answer::{self, Answer, refused};
use super::audit::About;
use super::message::{JoinToken, JoinTokens, MadeToken, NewToken};
use super::resources::read;
use super::{Api, Caller};
use crate::ca::{CaError, TokenInfo};

impl Api {
    pub(super) fn tokens(&self) -> Answer {
        let now = SystemTime::now();
        match self.state.authority.tokens(now) {
            Ok(tokens) => {
                let tokens = tokens.iter().map(|info| JoinToken::of(info, now)).collect();
                answer::json(StatusCode::OK, &JoinTokens { tokens })
            }
            Err(error) => failed(&error),
        }
    }

    pub(super) fn make_token(&self, body: &[u8], caller: &Caller) -> Answer {
        let new = match read::<NewToken>(body) {
            Ok(new) => new,
            Err(answer) => return *answer,
        };
        let Some(service) = names::of_service(&new.service) else {
            let message = format!("`{}` is not `namespace/name` of a service", new.service.escape_debug());
            return refused(StatusCode::UNPROCESSABLE_ENTITY, message);
        };
        let life = new.life_seconds.map_or(USUAL_LIFE, Duration::from_secs);
        if life.is_zero() || life > LONGEST_LIFE {
            let message = format!("a token can be used for 1 to {} seconds", LONGEST_LIFE.as_secs());
            return refused(StatusCode::UNPROCESSABLE_ENTITY, message);
        }
        match self.state.authority.token(&service, life, SystemTime::now()) {
            Ok(token) => {
                self.note("token", caller, &About::Token(&new.service));
                answer::json(StatusCode::OK, &MadeToken { token })
            }
            Err(error) => failed(&error),
        }
    }

    pub(super) fn revoke(&self, id: &str, caller: &Caller) -> Answer {
        let now = SystemTime::now();
        let revoke = || -> Result<Option<TokenInfo>, CaError> {
            let found = self.state.authority.tokens(now)?.into_iter().find(|info| info.id == id);
            // Somebody else may have been faster.
            Ok(if self.state.authority.revoke(id)? { found } else { None })
        };
        match revoke() {
            Ok(Some(info)) => {
                self.note("revoke", caller, &About::Token(&info.service()));
                answer::json(StatusCode::OK, &JoinToken::of(&info, now))
            }
            Ok(None) => {
                refused(StatusCode::NOT_FOUND, format!("there is no join token {}", id.escape_debug()))
            }
            Err(error) => failed(&error),
        }
    }
}

fn failed(error: &CaError) -> Answer {
    tracing::error!(%error, "the authority failed");
    refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// How long a token can be used where nobody says.
const USUAL_LIFE: Duration = Duration::from_secs(15 * 60);

/// How long it can be used at most.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
