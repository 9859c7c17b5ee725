//! Who gets the memory: which of the functions that are there stay, and which begin.

use std::time::Instant;

use super::{Activation, Function, Number, State};

/// What is to become of functions.
pub(super) struct Decision {
    /// Of each: one that is there stays. Otherwise it takes no new runs.
    pub(super) stays: Vec<bool>,
    /// These become active, for which there is room now.
    pub(super) begins: Vec<Number>,
}

/// As many of `plan` as there is room for, in its order.
pub(super) fn by_plan(all: &Activation, plan: &[Number], now: Instant) -> Decision {
    let functions = &all.functions;
    let mut stays = vec![false; functions.len()];
    let (mut left, mut free) = (all.budget, all.budget.saturating_sub(all.taken()));
    let mut begins = Vec::new();
    for number in plan {
        let (function, stays) = (&functions[*number], &mut stays[*number]);
        let is_away = function.state == State::Inactive && !function.may_try(now);
        if *stays || is_away || function.memory > left {
            continue;
        }
        left -= function.memory;
        *stays = true;
        // Others go first, for whose room it waits.
        if function.state == State::Inactive && function.memory <= free {
            free -= function.memory;
            begins.push(*number);
        }
    }
    Decision { stays, begins }
}

/// What is wanted, the longest wait first. Of what is not, as much stays as need not go. `requests`: they say what is
/// wanted, beside operators.
pub(super) fn by_requests(all: &Activation, now: Instant, requests: bool) -> Decision {
    let functions = &all.functions;
    let mut stays: Vec<bool> = functions.iter().map(|function| !function.dismissed).collect();
    let mut begins = Vec::new();
    let since = |function: &Function| if requests { function.wanted_since() } else { function.asked };
    let mut wanted: Vec<(Instant, Number)> = functions
        .iter()
        .enumerate()
        .filter_map(|(number, function)| Some((since(function)?, number)))
        .collect();
    wanted.sort_unstable();
    let goes = |(number, function): &(Number, &Function)| {
        function.state == State::Deactivating || (function.is_there() && !stays[*number])
    };
    let mut room = Room {
        free: all.budget.saturating_sub(all.taken()),
        coming: functions.iter().enumerate().filter(goes).map(|(_, function)| function.memory).sum(),
    };
    // Those that others before them did not want to go.
    let mut kept = vec![false; functions.len()];
    for (since, number) in wanted {
        let function = &functions[number];
        if function.is_there() {
            kept[number] = true;
        }
        if function.state != State::Inactive || !function.may_try(now) {
            continue;
        }
        if function.memory <= room.free {
            room.free -= function.memory;
            begins.push(number);
            continue;
        }
        let lacks = function.memory.saturating_sub(room.free.saturating_add(room.coming));
        let is_patient = now < since + all.patience();
        let may_go = |number: Number| {
            let function = &functions[number];
            let is_free = stays[number] && !kept[number] && function.is_there();
            is_free && (function.runs == 0 || !is_patient)
        };
        // Where it cannot be had at all, others may have what there is.
        let Some(go) = enough(functions, lacks, may_go) else { continue };
        for number in go {
            stays[number] = false;
            room.coming += functions[number].memory;
        }
        room.reserve(function.memory);
    }
    for (number, function) in functions.iter().enumerate().filter(|_| requests) {
        let is_away = function.state == State::Inactive && function.may_try(now);
        if function.again && is_away && function.memory <= room.free && !begins.contains(&number) {
            room.free -= function.memory;
            begins.push(number);
        }
    }
    Decision { stays, begins }
}

/// Memory that nobody has a claim to.
struct Room {
    free: u64,
    /// Of functions that go.
    coming: u64,
}

impl Room {
    /// So much is somebody's, as soon as it is there.
    fn reserve(&mut self, memory: u64) {
        let now = memory.min(self.free);
        self.free -= now;
        self.coming = self.coming.saturating_sub(memory - now);
    }
}

/// Functions that together take at least `lacks`: idle ones first, then the least recently used, and none too many. None: there
/// are not enough that may go.
fn enough(functions: &[Function], lacks: u64, may_go: impl Fn(Number) -> bool) -> Option<Vec<Number>> {
    let mut all: Vec<Number> = (0..functions.len()).filter(|number| may_go(*number)).collect();
    all.sort_by_key(|number| {
        let function = &functions[*number];
        (function.runs > 0, function.used)
    });
    let (mut found, mut go) = (0u64, Vec::new());
    for number in all {
        if found >= lacks {
            break;
        }
        found = found.saturating_add(functions[number].memory);
        go.push(number);
    }
    if found < lacks {
        return None;
    }
    go.retain(|number| {
        let without = found - functions[*number].memory;
        let is_needed = without < lacks;
        found = if is_needed { found } else { without };
        is_needed
    });
    Some(go)
}
