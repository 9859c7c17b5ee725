//! What is seen of the machine from this host: every test's end in it, and that nothing else passes for an end.

use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::{Completion, Trial};

use crate::inside;
use crate::machine::{Ended, How, boot};
use crate::packages::Packages;
use crate::support::test_where;

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
    inside.chain(harness).collect()
}

fn a_machine_that_panics_has_not_passed() -> Result<(), String> {
    let ended = boot(packages()?, "$BUSYBOX echo c >/proc/sysrq-trigger\nend 0\n", LIMIT).unwrap();
    assert_eq!(ended.how, How::Fell, "{}", ended.said);
    assert!(ended.said.contains("Kernel panic"), "{}", ended.said);
    Ok(())
}

fn a_machine_that_never_ends_is_ended() -> Result<(), String> {
    let ended = boot(packages()?, "$BUSYBOX sleep 100000\n", Duration::from_millis(500)).unwrap();
    assert_eq!(ended.how, How::TimedOut, "{}", ended.said);
    Ok(())
}

fn a_machine_that_cannot_start_has_not_passed() -> Result<(), String> {
    // The first program ends, and nobody said how it went.
    let ended = boot(packages()?, "exit 0\n", LIMIT).unwrap();
    assert_eq!(ended.how, How::Fell, "{}", ended.said);
    Ok(())
}

/// The machine that does the tests, once for all.
fn main_run() -> Result<&'static Ended, String> {
    static RUN: OnceLock<Result<Ended, String>> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let packages = packages()?;
        Ok(boot(packages, &script(), LIMIT).unwrap())
    });
    run.as_ref().map_err(Clone::clone)
}

fn packages() -> Result<&'static Packages, String> {
    static PACKAGES: OnceLock<Result<Packages, String>> = OnceLock::new();
    PACKAGES.get_or_init(Packages::ready).as_ref().map_err(Clone::clone)
}

/// One test at a time: they take the device away and bring it back. 101 is the status of a run in which some failed.
fn script() -> String {
    format!(
        "rdma link add {device} type rxe netdev lo || end 13
         {inside}=1 vm --test-threads 1 --color never
         case $? in
             0) end 0 ;;
             101) end 1 ;;
             *) end 2 ;;
         esac\n",
        device = inside::DEVICE,
        inside = inside::INSIDE
    )
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

/// Far more than it takes on two busy processors.
const LIMIT: Duration = Duration::from_secs(300);
