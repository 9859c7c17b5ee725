//! Whatever happens to the two, in any order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    ToAcceptor,
    ToOpener,
    Wait(u16),
    Carry,
    Meet(bool, bool),
    Fault(bool),
    Ask(bool),
    Forbid(bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::ToAcceptor),
        4 => Just(Step::ToOpener),
        2 => (0u16..3000).prop_map(Step::Wait),
        2 => Just(Step::Carry),
        4 => any::<(bool, bool)>().prop_map(|(side, works)| Step::Meet(side, works)),
        1 => any::<bool>().prop_map(Step::Fault),
        1 => any::<bool>().prop_map(Step::Ask),
        1 => any::<(bool, bool)>().prop_map(|(side, forbids)| Step::Forbid(side, forbids)),
    ]
}

proptest! {
    /// Whatever goes wrong, the two agree in the end: both on a ring, or, where one may not, both on TCP.
    #[test]
    fn both_ends_agree_in_the_end(steps in proptest::collection::vec(step(), 0..200), ends_forbidden: bool) {
        let mut pair = Pair::new(should(), should());
        for step in steps {
            let now = pair.now;
            match step {
                Step::ToAcceptor => {
                    let said = pair.opener.outbox.pop_front();
                    said.into_iter().for_each(|said| pair.acceptor.hear(now, said));
                }
                Step::ToOpener => {
                    let said = pair.acceptor.outbox.pop_front();
                    said.into_iter().for_each(|said| pair.opener.hear(now, said));
                }
                Step::Wait(millis) => pair.wait(Duration::from_millis(millis.into())),
                Step::Carry => pair.carry(1000),
                Step::Meet(opener, works) => {
                    let [first, second] = pair.both();
                    if opener { first } else { second }.meet(now, works);
                }
                Step::Fault(opener) => {
                    let [first, second] = pair.both();
                    let end = if opener { first } else { second };
                    end.open.into_iter().for_each(|open| end.freeze(now, open.generation, Cause::Fault));
                }
                Step::Ask(opener) => if opener { &pair.opener } else { &pair.acceptor }.rings.give_up_all(),
                Step::Forbid(opener, forbids) => {
                    let [first, second] = pair.both();
                    if opener { first } else { second }.policy = if forbids { must_not() } else { should() };
                }
            }
            let offers: Vec<_> = pair.opener.offers().iter().map(|offer| offer.generation).collect();
            prop_assert!(offers.is_sorted(), "{:?}", offers);
            prop_assert!(pair.acceptor.offers().is_empty());
        }
        pair.opener.policy = should();
        pair.acceptor.policy = if ends_forbidden { must_not() } else { should() };
        for _ in 0..200 {
            // A ring that nobody uses is given up.
            pair.second(2 * QUIET);
        }
        prop_assert_eq!(pair.is_on_wire(), (!ends_forbidden, !ends_forbidden));
        let held = [&pair.opener, &pair.acceptor].map(|end| end.negotiation.lease().is_some());
        prop_assert_eq!(held, [!ends_forbidden, !ends_forbidden]);
    }
}
