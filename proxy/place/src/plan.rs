//! Where functions are active: decided every few seconds for all sites, beside what is decided for each request.
//!
//! A site is a device that cannot have all of its functions active at once, or does not want to. What requests have waited for
//! for a moment comes first, the longest wait before others; then what policies' requests want where it brings most for its memory,
//! then what is used without a policy. What nobody wanted for a while is active nowhere.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::objective::Weights;
use crate::profile::{FunctionCost, Profile};
use crate::request::Request;
use crate::time::Time;

/// How a [`Planner`] goes about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanRules {
    /// A function that nobody wanted for so long is active nowhere, in seconds.
    pub idle_seconds: f64,
    /// What has become active stays so for as long where policies want it, whatever would bring more, in seconds.
    pub settle_seconds: f64,
}

/// A device whose functions are planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// What it is called. No two sites have one name.
    pub name: Arc<str>,
    /// What all that is active there may take together. None: everything fits.
    pub memory_bytes: Option<u64>,
    /// How many runs there can be at once.
    pub slots: u32,
    /// How many of them its limits let there be now. 0: its main task leaves nothing.
    pub allowed: u32,
    /// What it could run. No two have one name.
    pub functions: Vec<SiteFunction>,
}

/// A function of a site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteFunction {
    /// Its name.
    pub name: Arc<str>,
    /// What it takes while it is active.
    pub memory_bytes: u64,
    /// Whether it can be asked now.
    pub is_active: bool,
    /// Whether requests wait there until it can.
    pub is_waited_for: bool,
    /// Runs that ended of late.
    pub runs: u64,
    /// How long they took, together.
    pub run_seconds: f64,
    /// Runs under way.
    pub in_flight: u32,
}

/// What the requests of one policy want.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    /// What the policy is called. No two wants have one name.
    pub policy: Arc<str>,
    /// What they run.
    pub function: Arc<str>,
    /// How many come now, wherever they go, a second.
    pub rate: f64,
    /// Where else than on their host they may run.
    pub at: Vec<Foreseen>,
}

/// What is to be expected of a policy's requests at a site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Foreseen {
    /// Its place among the sites.
    pub site: usize,
    /// How long one takes there, as far as nothing was measured.
    pub seconds: f64,
    /// How many seconds of the host one is worth there: what its policy wants least of is so much less. Negative: more.
    pub worth: f64,
}

/// Why a function is to be active, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Because {
    /// Requests wait for it there.
    Waited,
    /// Policies' requests want it, and it brings most there.
    Wanted,
    /// It is used, by whom no policy sends there.
    Used,
    /// It was needed a moment ago, or has been active for no longer than that as far as is known.
    Lingers,
    /// Nobody has wanted it for a while.
    Idle,
    /// Other sites are enough.
    Elsewhere,
    /// There is no memory for it beside what brings more.
    NoRoom,
    /// Its limits leave no run at the site.
    HeldBack,
}

impl Because {
    /// Every reason.
    pub const ALL: [Because; 8] = [
        Because::Waited,
        Because::Wanted,
        Because::Used,
        Because::Lingers,
        Because::Idle,
        Because::Elsewhere,
        Because::NoRoom,
        Because::HeldBack,
    ];

    /// In a word, as a label.
    pub const fn label(self) -> &'static str {
        match self {
            Because::Waited => "waited",
            Because::Wanted => "wanted",
            Because::Used => "used",
            Because::Lingers => "lingers",
            Because::Idle => "idle",
            Because::Elsewhere => "elsewhere",
            Because::NoRoom => "no_room",
            Because::HeldBack => "held_back",
        }
    }

    /// Whether it says that the function is to be active.
    pub const fn is_active(self) -> bool {
        matches!(self, Because::Waited | Because::Wanted | Because::Used | Because::Lingers)
    }
}

/// What a function of a site is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which one.
    pub function: Arc<str>,
    /// Whether it is to be active, and why or why not.
    pub because: Because,
}

/// What was seen of sites and wants, from round to round.
#[derive(Clone, Debug)]
pub struct Planner {
    rules: PlanRules,
    last: Option<Time>,
    wants: BTreeMap<Arc<str>, Seen>,
    functions: BTreeMap<(Arc<str>, Arc<str>), Known>,
}

/// Of a policy.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Requests a second: up at once, down over some rounds.
    rate: f64,
    last: Option<Time>,
}

/// Of a function at a site.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// How long a run took of late, in seconds.
    run_seconds: Option<f64>,
    /// When it ran last, or was waited for.
    used: Option<Time>,
    /// When requests of policies needed it last.
    needed: Option<Time>,
    active_since: Option<Time>,
    /// When it was seen that callers do not choose it, though they could.
    spurned: Option<Time>,
    /// Since when requests wait for it.
    waited: Option<Time>,
}

/// A want at a site of which the plan may make use.
struct Bid<'w> {
    want: usize,
    at: Foreseen,
    function: usize,
    name: &'w Arc<str>,
    /// It has become active only now, so that something else has to wait.
    is_settling: bool,
    /// For each byte of memory.
    density: f64,
}

impl Planner {
    /// One that has seen nothing.
    pub fn new(rules: PlanRules) -> Self {
        Planner { rules, last: None, wants: BTreeMap::new(), functions: BTreeMap::new() }
    }

    /// Says of each site what each of its functions is to be, those that are to be active in order of what they are worth. What
    /// is active together never takes more than the site's memory.
    pub fn plan(&mut self, sites: &[Site], wants: &[Want], now: Time) -> Vec<Vec<Planned>> {
        self.see(sites, wants, now);
        let mut round = Round::new(sites);
        self.by_wait(sites, now, &mut round);
        self.by_worth(sites, wants, now, &mut round);
        self.by_use(sites, wants, now, &mut round);
        self.note(sites, wants, &round, now);
        round.said(sites)
    }

    /// What requests wait for, the longest wait first. What is in use, or has only just come, makes room only for those that have
    /// waited for a while: two that are always asked for, and do not fit together, take turns.
    fn by_wait(&self, sites: &[Site], now: Time, round: &mut Round<'_>) {
        for (at, site) in sites.iter().enumerate() {
            let waited = |number: &usize| self.known(site, &site.functions[*number]).waited;
            let mut order: Vec<usize> =
                (0..site.functions.len()).filter(|number| waited(number).is_some()).collect();
            order.sort_by_key(|number| (waited(number), *number));
            let is_patient = |number: &usize| {
                waited(number).is_some_and(|since| now.seconds_since(since) < PATIENCE_SECONDS)
            };
            let (patient, urgent): (Vec<usize>, Vec<usize>) = order.into_iter().partition(is_patient);
            for number in urgent {
                round.take(at, number, Because::Waited);
            }
            if patient.is_empty() {
                continue;
            }
            for (number, function) in site.functions.iter().enumerate() {
                let known = self.known(site, function);
                let is_recent = |moment: Option<Time>| {
                    moment.is_some_and(|moment| now.seconds_since(moment) < IN_USE_SECONDS)
                };
                let is_in_use =
                    function.in_flight > 0 || is_recent(known.used) || is_recent(known.active_since);
                if function.is_active && is_in_use && known.waited.is_none() {
                    round.take(at, number, Because::Used);
                }
            }
            for number in patient {
                round.take(at, number, Because::Waited);
            }
        }
    }

    /// What each function of each site that policies want is worth there, best first; each policy gets as many sites as its
    /// requests need.
    fn by_worth(&self, sites: &[Site], wants: &[Want], now: Time, round: &mut Round<'_>) {
        let mut bids = self.bids(sites, wants, now);
        bids.sort_by(|one, other| {
            let density = other.density.partial_cmp(&one.density).unwrap_or(Ordering::Equal);
            let names = (one.name, &sites[one.at.site].name).cmp(&(other.name, &sites[other.at.site].name));
            other.is_settling.cmp(&one.is_settling).then(density).then(names)
        });
        // Runs at once that each want still needs.
        let mut needs: Vec<Option<f64>> = vec![None; wants.len()];
        for bid in bids {
            let site = &sites[bid.at.site];
            let rate = self.wants.get(&wants[bid.want].policy).map_or(0.0, |seen| seen.rate);
            let seconds = self.seconds(site, &site.functions[bid.function], bid.at.seconds);
            let need = needs[bid.want].unwrap_or(f64::INFINITY);
            if site.allowed == 0 {
                round.leave(bid.at.site, bid.function, Because::HeldBack);
            } else if need <= 0.0 {
                round.leave(bid.at.site, bid.function, Because::Elsewhere);
            } else if round.take(bid.at.site, bid.function, Because::Wanted) {
                let carried = f64::from(site.allowed) * FULL / seconds.max(SHORTEST);
                let need = if need.is_finite() { need } else { rate };
                needs[bid.want] = Some(need - carried);
            }
        }
    }

    fn bids<'w>(&self, sites: &[Site], wants: &'w [Want], now: Time) -> Vec<Bid<'w>> {
        let mut bids = Vec::new();
        for (number, want) in wants.iter().enumerate() {
            let Some(seen) = self.wants.get(&want.policy).filter(|seen| self.is_recent(seen.last, now))
            else {
                continue;
            };
            for at in &want.at {
                let Some(site) = sites.get(at.site) else { continue };
                let Some(function) = site.functions.iter().position(|held| held.name == want.function) else {
                    continue;
                };
                let held = &site.functions[function];
                let known = self.known(site, held);
                let age = known.active_since.map(|since| now.seconds_since(since));
                let is_new = age.is_some_and(|age| age < self.rules.settle_seconds);
                // Whatever was foreseen, it is worth little to callers who go elsewhere.
                let is_spurned = known.spurned.is_some_and(|moment| {
                    now.seconds_since(moment) < SPURNED_TIMES * self.rules.idle_seconds
                });
                let worth = if is_spurned || !at.worth.is_finite() { 0.0 } else { at.worth.max(0.0) };
                let stays = if held.is_active { HYSTERESIS } else { 1.0 };
                // Where limits have taken something away, they may take more: others are asked first.
                let allowed = f64::from(site.allowed.min(site.slots)) / f64::from(site.slots.max(1));
                let density = (seen.rate + LEAST_RATE) * (worth + LEAST_WORTH) * stays * allowed;
                bids.push(Bid {
                    want: number,
                    at: *at,
                    function,
                    name: &want.policy,
                    is_settling: is_new,
                    density: density / held.memory_bytes.max(1) as f64,
                });
            }
        }
        bids
    }

    /// What is used without a policy, or was needed a moment ago, stays where there is room.
    fn by_use(&self, sites: &[Site], wants: &[Want], now: Time, round: &mut Round<'_>) {
        let mut wanted = BTreeSet::new();
        for want in wants {
            // Of one whose policy sends nothing, somebody else makes use.
            if self.wants.get(&want.policy).is_some_and(|seen| self.is_recent(seen.last, now)) {
                wanted.extend(want.at.iter().map(|at| (at.site, &want.function)));
            }
        }
        for (at, site) in sites.iter().enumerate() {
            // The last used first, should there not be room for all.
            let mut order: Vec<usize> = (0..site.functions.len()).collect();
            let used = |number: &usize| self.known(site, &site.functions[*number]).used;
            order.sort_by(|one, other| used(other).cmp(&used(one)).then(one.cmp(other)));
            for number in order {
                let function = &site.functions[number];
                let known = self.known(site, function);
                let is_used = !wanted.contains(&(at, &function.name)) && self.is_recent(known.used, now);
                // Of several instances one may not have it yet: what is used of the others stays.
                if is_used || function.in_flight > 0 {
                    round.take(at, number, Because::Used);
                } else if self.is_recent(known.needed.max(known.active_since), now) {
                    round.take(at, number, Because::Lingers);
                } else {
                    round.leave(at, number, Because::Idle);
                }
            }
        }
    }

    fn see(&mut self, sites: &[Site], wants: &[Want], now: Time) {
        let elapsed = self.last.map_or(0.0, |last| now.seconds_since(last));
        self.last = Some(now);
        let mut seen = std::mem::take(&mut self.wants);
        for want in wants {
            let mut of = seen.remove(&want.policy).unwrap_or_default();
            let share = (elapsed / FORGET_SECONDS).min(1.0);
            let rate = if want.rate.is_finite() { want.rate.max(0.0) } else { 0.0 };
            of.rate = if rate > of.rate { rate } else { of.rate + (rate - of.rate) * share };
            if rate > 0.0 {
                of.last = Some(now);
            }
            self.wants.insert(want.policy.clone(), of);
        }
        let idle = self.rules.idle_seconds;
        let mut known = std::mem::take(&mut self.functions);
        for (site, function) in
            sites.iter().flat_map(|site| site.functions.iter().map(move |one| (site, one)))
        {
            let key = (site.name.clone(), function.name.clone());
            let mut of = known.remove(&key).unwrap_or_default();
            if function.runs > 0 && function.run_seconds.is_finite() {
                let mean = function.run_seconds.max(0.0) / function.runs as f64;
                of.run_seconds =
                    Some(of.run_seconds.map_or(mean, |before| before + (mean - before) * NEW_SHARE));
            }
            if function.runs > 0 || function.in_flight > 0 || function.is_waited_for {
                of.used = Some(now);
            }
            of.waited = function.is_waited_for.then(|| of.waited.unwrap_or(now));
            of.active_since = function.is_active.then(|| of.active_since.unwrap_or(now));
            if of.used == Some(now) {
                of.spurned = None;
            } else if of.active_since.max(of.used).is_some_and(|since| now.seconds_since(since) >= idle)
                && function.is_active
            {
                of.spurned = Some(now);
            }
            self.functions.insert(key, of);
        }
    }

    /// What requests have needed in this round lingers from now.
    fn note(&mut self, sites: &[Site], wants: &[Want], round: &Round<'_>, now: Time) {
        let asked: BTreeSet<&Arc<str>> =
            wants.iter().filter(|want| want.rate > 0.0).map(|want| &want.function).collect();
        for (site, said) in sites.iter().zip(&round.because) {
            for (function, because) in site.functions.iter().zip(said) {
                let key = (site.name.clone(), function.name.clone());
                let Some(known) = self.functions.get_mut(&key) else { continue };
                let is_wanted = *because == Some(Because::Wanted) && asked.contains(&function.name);
                if is_wanted || *because == Some(Because::Waited) {
                    known.needed = Some(now);
                }
            }
        }
    }

    fn known(&self, site: &Site, function: &SiteFunction) -> Known {
        let key = (site.name.clone(), function.name.clone());
        self.functions.get(&key).copied().unwrap_or_default()
    }

    /// How long a run takes there: as it was, or else as it is foreseen.
    fn seconds(&self, site: &Site, function: &SiteFunction, foreseen: f64) -> f64 {
        let foreseen = if foreseen.is_finite() { foreseen } else { 0.0 };
        self.known(site, function).run_seconds.unwrap_or(foreseen)
    }

    fn is_recent(&self, moment: Option<Time>, now: Time) -> bool {
        moment.is_some_and(|moment| now.seconds_since(moment) < self.rules.idle_seconds)
    }
}

/// What one round has decided so far.
struct Round<'s> {
    sites: &'s [Site],
    left: Vec<u64>,
    because: Vec<Vec<Option<Because>>>,
    order: Vec<Vec<usize>>,
}

impl<'s> Round<'s> {
    fn new(sites: &'s [Site]) -> Self {
        Round {
            sites,
            left: sites.iter().map(|site| site.memory_bytes.unwrap_or(u64::MAX)).collect(),
            because: sites.iter().map(|site| vec![None; site.functions.len()]).collect(),
            order: vec![Vec::new(); sites.len()],
        }
    }

    /// Has it active, if there is room or it is anyway. Returns whether it is.
    fn take(&mut self, site: usize, function: usize, because: Because) -> bool {
        let said = &mut self.because[site][function];
        if said.is_some_and(Because::is_active) {
            return true;
        }
        let Some(left) = self.left[site].checked_sub(self.sites[site].functions[function].memory_bytes)
        else {
            said.get_or_insert(Because::NoRoom);
            return false;
        };
        self.left[site] = left;
        *said = Some(because);
        self.order[site].push(function);
        true
    }

    /// Says why it is not active, should nothing else have it so.
    fn leave(&mut self, site: usize, function: usize, because: Because) {
        self.because[site][function].get_or_insert(because);
    }

    fn said(self, sites: &[Site]) -> Vec<Vec<Planned>> {
        let of_site = |((site, because), order): ((&Site, &Vec<Option<Because>>), &Vec<usize>)| {
            let rest = (0..site.functions.len()).filter(|number| !order.contains(number));
            let all = order.iter().copied().chain(rest);
            all.map(|number| Planned {
                function: site.functions[number].name.clone(),
                because: because[number].unwrap_or(Because::Idle),
            })
            .collect()
        };
        sites.iter().zip(&self.because).zip(&self.order).map(of_site).collect()
    }
}

/// What is to be expected of a policy's requests on a device beside its host: how long one takes, and how many seconds of the
/// host it is worth, as [`Foreseen`] has them.
pub fn foresee(
    (host, device): (&Profile, &Profile),
    weights: &Weights,
    request: &Request,
    (cost, out_share): (&FunctionCost, f64),
) -> (f64, f64) {
    let bytes_out = request.worked_bytes() as f64 * out_share;
    let at = |place: &Profile| {
        let terms = place.terms(request, bytes_out, cost);
        let busy = terms.scan + terms.compute;
        let moved = place.moved_bytes(request, bytes_out);
        let seconds = terms.input + busy + terms.output;
        let joules = place.busy_watts * busy + place.joules_per_byte * moved;
        (seconds, weights.cost(seconds, joules, moved))
    };
    let ((host_seconds, host_cost), (seconds, device_cost)) = (at(host), at(device));
    let saved = if host_cost > 0.0 { (host_cost - device_cost) / host_cost } else { 0.0 };
    (seconds, saved * host_seconds)
}

/// Who waits does so for so long, in seconds, until what is in use makes room.
const PATIENCE_SECONDS: f64 = 1.0;
/// What was used less than so many seconds ago is in use: reports come every five.
const IN_USE_SECONDS: f64 = 6.0;
/// How much of its slots a site is given to do, so that requests do not queue.
const FULL: f64 = 0.7;
/// A rate falls over so many seconds.
const FORGET_SECONDS: f64 = 10.0;
/// What the newest runs count of how long they take.
const NEW_SHARE: f64 = 0.3;
/// What is active has to be outdone by so much.
const HYSTERESIS: f64 = 1.25;
/// For so many times as long as it takes to be idle, what callers did not choose is not tried again before others.
const SPURNED_TIMES: f64 = 10.0;
/// What nothing is foreseen of is worth a try, if there is room.
const LEAST_WORTH: f64 = 1e-6;
/// What was wanted a while ago still counts more than nothing.
const LEAST_RATE: f64 = 1e-3;
/// A run takes no less, in seconds.
const SHORTEST: f64 = 1e-6;

#[cfg(test)]
mod tests;
