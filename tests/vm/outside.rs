//! What is seen of the machine from this host: every test's end in it, and that nothing else passes for an end.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};

use crate::inside;
use crate::machine::{self, Ended, How, Packages, Story};
use crate::support::sidecar::LIGHTER;
use crate::support::{self, test_where};

pub fn tests() -> Vec<Trial> {
    let inside = inside::tests().into_iter().map(|(name, _)| {
        Trial::ignorable_test(name, move || match main_run() {
            Ok(ended) => passed(name, ended).map(|()| Completion::Completed).map_err(Into::into),
            Err(reason) => Ok(Completion::ignored_with(reason)),
        })
    });
    let harness = [
        test_where("a_machine_that_panics_has_not_passed", a_machine_that_panics_has_not_passed),
        test_where("a_machine_that_never_ends_is_ended", a_machine_that_never_ends_is_ended),
        test_where("a_machine_that_cannot_start_has_not_passed", a_machine_that_cannot_start_has_not_passed),
    ];
    // Those do not depend on the sidecar.
    let harness = harness.into_iter().filter(|_| !inside::is_given());
    let costs = test_where("a_message_has_its_cost_on_each_wire", a_message_has_its_cost);
    inside.chain(harness).chain(support::full().then_some(costs)).collect()
}

fn a_machine_that_panics_has_not_passed() -> Result<(), String> {
    let ended = boot("$BUSYBOX echo c >/proc/sysrq-trigger\nend 0\n", LIMIT)?;
    assert_eq!(ended.how, How::Fell, "{}", ended.said);
    assert!(ended.said.contains("Kernel panic"), "{}", ended.said);
    Ok(())
}

fn a_machine_that_never_ends_is_ended() -> Result<(), String> {
    let ended = boot("while :; do :; done\n", Duration::from_millis(500))?;
    assert_eq!(ended.how, How::TimedOut, "{}", ended.said);
    Ok(())
}

fn a_machine_that_cannot_start_has_not_passed() -> Result<(), String> {
    // The first program ends, and nobody said how it went.
    let ended = boot("exit 0\n", LIMIT)?;
    assert_eq!(ended.how, How::Fell, "{}", ended.said);
    Ok(())
}

/// Says how many instructions a message takes.
fn a_message_has_its_cost() -> Result<(), String> {
    let (inside, costs) = (inside::INSIDE, inside::COSTS);
    let script = format!("{}\n{inside}={costs} vm && end 0\nend 1\n", at_home());
    let ended = boot(&script, LIMIT)?;
    assert_eq!(ended.how, How::Said(0), "{}", ended.said);
    let costs: Vec<_> = ended.said.lines().filter_map(|line| line.trim().strip_prefix("cost ")).collect();
    println!("instructions for a message of 1 KiB, of the sender's sidecar and the receiver's: {costs:?}");
    let wires: Vec<_> = costs.iter().filter_map(|cost| cost.split(' ').next()).collect();
    assert_eq!(wires, ["tcp", "shm", "rdma"], "{}", ended.said);
    Ok(())
}

/// The machine that does the tests, once for all.
fn main_run() -> Result<&'static Ended, String> {
    static RUN: OnceLock<Result<Ended, String>> = OnceLock::new();
    let run = || {
        let ended = boot(&script(), LIMIT)?;
        ended.said.lines().for_each(|line| println!("vm: {line}"));
        Ok(ended)
    };
    RUN.get_or_init(run).as_ref().map_err(Clone::clone)
}

/// Boots a machine with this program as `/bin/vm`, or says why there is none.
fn boot(script: &str, limit: Duration) -> Result<Ended, String> {
    // Each takes a processor.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let packages = packages()?;
    let own = std::env::current_exe().unwrap();
    // One that was built to be fast does in minutes what takes another an hour where the processor is software.
    let lighter = std::env::var_os(inside::SIDECAR).map_or_else(|| LIGHTER.into(), PathBuf::from);
    let programs = [("vm", own.as_path()), ("lighter", lighter.as_path())];
    let _alone = ONE_AT_A_TIME.lock();
    Ok(machine::boot(packages, &Story { script, programs: &programs, limit }, |_| true).unwrap())
}

fn packages() -> Result<&'static Packages, String> {
    static PACKAGES: OnceLock<Result<Packages, String>> = OnceLock::new();
    PACKAGES.get_or_init(|| Packages::ready(Path::new(CACHE))).as_ref().map_err(Clone::clone)
}

/// One test at a time: they take the device away and bring it back. Only those that are asked for here. 101 is the status of
/// a run in which some failed.
fn script() -> String {
    let full = if support::full() { "export LIGHTER_FULL=1" } else { "" };
    let sidecar = std::env::var_os(inside::SIDECAR).map(|_| format!("export {}=lighter", inside::SIDECAR));
    let sidecar = sidecar.unwrap_or_default();
    let filter = Arguments::from_args().filter.unwrap_or_default();
    format!(
        "{full}
         {sidecar}
         {at_home}
         rdma link add {device} type rxe netdev lo || end 13
         {inside}={tests} vm --test-threads 1 --color never {filter}
         case $? in
             0) end 0 ;;
             101) end 1 ;;
             *) end 2 ;;
         esac\n",
        at_home = at_home(),
        device = inside::DEVICE,
        inside = inside::INSIDE,
        tests = inside::TESTS,
    )
}

/// Has `lighter` where it is on this host too, where the tests look for it.
fn at_home() -> String {
    let folder = Path::new(LIGHTER).parent().unwrap().display();
    format!("$BUSYBOX mkdir -p {folder} && $BUSYBOX ln -s /bin/lighter {LIGHTER}")
}

/// Whether a test passed in the machine; otherwise what was said there. The kernel may speak in the middle of a line.
fn passed(name: &str, ended: &Ended) -> Result<(), String> {
    let was_run = ended.said.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("test") && words.next() == Some(name)
    });
    let failed = ended.said.contains(&format!("---- {name} ----"));
    match ended.how {
        How::Said(0) if was_run => Ok(()),
        How::Said(1) if was_run && !failed => Ok(()),
        ref how => Err(format!("the machine ended as {how:?}:\n{}", ended.said)),
    }
}

/// Far more than it takes on two busy processors, full counts or not.
const LIMIT: Duration = Duration::from_secs(1800);

/// Where packages are kept, from run to run.
const CACHE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/lighter/vm");
