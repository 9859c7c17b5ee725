//! What is different where the state of a Service is what a function remembers: its program has to be the same at both places.

use std::sync::Arc;

use lighter_config::name::ServiceName;
use lighter_functions::memory::KEPT;

use crate::registry::{Presence, Remembering};
use crate::state::State;

/// The function whose keys and values are the state of this Service, where they are.
pub(super) fn of(service: &ServiceName, state: &State) -> Option<Arc<str>> {
    let snapshot = state.store.snapshot();
    let keeps = snapshot.services.get(service)?.state.as_ref()?;
    keeps.function().map(Arc::from)
}

/// Why what this function remembers cannot move from the first of these to the second.
pub(super) fn why_not(function: &str, places: [(&str, &Presence); 2]) -> Option<String> {
    let mut digests = Vec::new();
    for (name, presence) in places {
        let said = presence.remembering.as_ref().filter(|said| said.function == function);
        let Some(Remembering { digest, not_movable, .. }) = said else {
            return Some(format!(
                "not_movable: `{name}` has not said whether it has the function `{function}`"
            ));
        };
        if digest.is_empty() {
            return Some(format!("not_movable: at `{name}`, {not_movable}"));
        }
        digests.push((name, digest));
    }
    match &digests[..] {
        [(from, had), (to, has)] if had != has => {
            if program(had) == program(has) {
                let (kept, not) = if had.starts_with(KEPT) { (from, to) } else { (to, from) };
                return Some(format!(
                    "not_movable: `{function}` keeps its memory at `{kept}` (`memory: kept`), and not at `{not}`"
                ));
            }
            let begin = |digest: &str| program(digest).chars().take(SHOWN).collect::<String>();
            Some(format!(
                "not_movable: `{function}` is another program at `{to}` ({}…) than at `{from}` ({}…)",
                begin(has),
                begin(had)
            ))
        }
        _ => None,
    }
}

/// What is told of a program, without how it has its memory.
fn program(digest: &str) -> &str {
    digest.strip_prefix(KEPT).unwrap_or(digest)
}

/// So much of a digest tells one from another.
const SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(remembering: Option<(&str, &str, &str)>) -> Presence {
        let remembering = remembering.map(|(function, digest, not_movable)| Remembering {
            function: function.to_owned(),
            digest: digest.to_owned(),
            not_movable: not_movable.to_owned(),
            most_bytes: 0,
        });
        Presence { remembering, ..Presence::default() }
    }

    #[test]
    fn only_the_same_program_takes_what_a_function_remembers() {
        let why = |a, b| why_not("keep", [("a", &presence(a)), ("b", &presence(b))]);
        let one = Some(("keep", "0123456789abcdef", ""));
        assert_eq!(why(one, one), None);
        let other = why(one, Some(("keep", "fedcba9876543210", ""))).unwrap();
        assert_eq!(
            other,
            "not_movable: `keep` is another program at `b` (fedcba987654…) than at `a` (0123456789ab…)"
        );
        let kept = Some(("keep", "kept:0123456789abcdef", ""));
        assert_eq!(why(kept, kept), None);
        let (there, gone) = (why(one, kept).unwrap(), why(kept, one).unwrap());
        assert_eq!(there, "not_movable: `keep` keeps its memory at `b` (`memory: kept`), and not at `a`");
        assert_eq!(gone, "not_movable: `keep` keeps its memory at `a` (`memory: kept`), and not at `b`");
        let other = why(kept, Some(("keep", "kept:fedcba9876543210", ""))).unwrap();
        assert_eq!(
            other,
            "not_movable: `keep` is another program at `b` (fedcba987654…) than at `a` (0123456789ab…)"
        );
        let built_in = why(one, Some(("keep", "", "`keep` is built in, and remembers nothing"))).unwrap();
        assert_eq!(built_in, "not_movable: at `b`, `keep` is built in, and remembers nothing");
        for unknown in [None, Some(("other", "0123456789abcdef", ""))] {
            let why = why(unknown, one).unwrap();
            assert_eq!(why, "not_movable: `a` has not said whether it has the function `keep`");
        }
    }
}
