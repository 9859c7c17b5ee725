//! `GET /v1/migrations`, and having one aborted.

use http::StatusCode;

use super::answer::{self, Answer, refused};
use super::audit::About;
use super::message::{Aborting, MigrationList};
use super::query::Query;
use super::{Api, Caller};
use crate::migrate::NotAborted;

impl Api {
    pub(super) fn migrations(&self, query: &Query) -> Answer {
        let migrations = self.state.migrations.shown(query.namespace.as_deref());
        answer::json(StatusCode::OK, &MigrationList { migrations })
    }

    /// Has the migration `namespace/name` aborted.
    pub(super) fn abort_migration(&self, name: &str, caller: &Caller) -> Answer {
        match self.state.migrations.abort(name, &self.state) {
            Ok(()) => {
                self.note("abort", caller, &About::Migration(name));
                answer::json(StatusCode::OK, &Aborting { migration: name.to_owned() })
            }
            Err(error @ NotAborted::Unknown(_)) => refused(StatusCode::NOT_FOUND, error.to_string()),
            Err(error) => refused(StatusCode::CONFLICT, error.to_string()),
        }
    }
}
