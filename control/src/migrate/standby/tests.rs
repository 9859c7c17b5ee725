//! Who keeps the journal, and who is let go.

use lighter_migrate::{Incarnation, Stamp, Stand};

use super::super::leave::tests::there;
use super::super::owner::decide;
use super::*;

fn with(stand: Stand, journal: Option<JournalStand>) -> Seen {
    let seen = there(|_| {});
    Seen { report: seen.report.map(|report| Report { stand, ..report }), journal, ..seen }
}

fn said(view: u64, whole: bool) -> Option<JournalStand> {
    Some(JournalStand { epoch: 3, view, whole, lost: false, ..JournalStand::default() })
}

/// `a` serves, and `b` keeps its journal.
fn moved() -> Moved {
    let token = vec![7; 32];
    let standby = Standby { epoch: Epoch(3), view: 5, number: 0, instance: Some("b".into()), token };
    let incarnation = there(|_| {}).report.map_or(Incarnation(0), |report| report.incarnation);
    let owner = Holder { instance: "a".into(), incarnation, source: Source::Nothing };
    Moved {
        epoch: Epoch(3),
        owner: Some(owner),
        listed: Some("a".into()),
        standby: Some(standby),
        ..Moved::default()
    }
}

/// Who is to keep the journal instead, at once.
fn choose(moved: &Moved, seen: &BTreeMap<Arc<str>, Seen>) -> Option<Option<Arc<str>>> {
    match kept(moved).choose(&sights(moved, seen))? {
        Change::Name(instance) => Some(instance.cloned()),
        other => panic!("{other:?}"),
    }
}

fn all(of: [(&str, Seen); 2]) -> BTreeMap<Arc<str>, Seen> {
    of.into_iter().map(|(name, seen)| (name.into(), seen)).collect()
}

#[test]
fn whoever_has_all_that_was_acknowledged_serves_next_and_nothing_is_lost() {
    let (moved, c) = (moved(), || ("c", with(Stand::Empty, None)));
    let after = |b: Seen| decide(&moved, &all([("b", b), c()]), true);
    let next = after(with(Stand::Empty, said(5, true))).unwrap();
    let owner = next.owner.unwrap();
    assert_eq!((&*owner.instance, owner.source), ("b", Source::Journal));
    assert_eq!((next.epoch, next.losses, next.listed), (Epoch(4), 0, None));
    // Who has yet to say what it has is waited for.
    let silent = Seen { report: None, ..with(Stand::Empty, None) };
    assert!(decide(&moved, &all([("b", silent), c()]), true).is_none());
    assert!(decide(&moved, &all([("b", with(Stand::Empty, said(5, true))), c()]), false).is_none());
    for lacks in [None, said(5, false), said(4, true)] {
        let next = after(with(Stand::Empty, lacks)).unwrap();
        assert_eq!((next.owner.unwrap().source, next.losses), (Source::Nothing, 1), "{lacks:?}");
    }
    // Nobody was named in a later epoch, so that nothing was acknowledged there, whoever served.
    let source = Source::Restored(lighter_migrate::Digest([0; 32]));
    let owner = moved.owner.clone().map(|owner| Holder { source, ..owner });
    let later = Moved { epoch: Epoch(4), owner, ..moved.clone() };
    let next = decide(&later, &all([("b", with(Stand::Empty, said(5, true))), c()]), true).unwrap();
    let owner = next.owner.unwrap();
    assert_eq!((&*owner.instance, owner.source), ("b", Source::Journal));
    assert_eq!((next.epoch, next.losses), (Epoch(5), 0));
}

#[test]
fn a_store_that_is_an_old_one_says_nothing_of_who_has_the_journal() {
    let moved = moved();
    let a = with(Stand::Serving { epoch: Epoch(6) }, said(9, false));
    let seen = all([("a", a), ("b", with(Stand::Empty, said(5, true)))]);
    let next = decide(&moved, &seen, true).unwrap();
    assert_eq!((next.epoch, next.losses), (Epoch(6), 0));
    let b = ("b", with(Stand::Empty, said(5, true)));
    let last = decide(&next, &all([b, ("c", with(Stand::Empty, None))]), true).unwrap();
    assert_eq!((last.owner.unwrap().source, last.losses), (Source::Nothing, 1));
}

#[test]
fn an_owner_that_has_begun_again_is_followed_and_so_is_an_heir_that_did_not_get_to_serve() {
    let moved = moved();
    let mut a = with(Stand::Empty, None);
    a.report = a.report.map(|report| Report {
        incarnation: Incarnation(report.incarnation.0 + 1),
        heard: Stamp::default(),
        ..report
    });
    let b = with(Stand::Empty, said(5, true));
    let next = decide(&moved, &all([("a", a.clone()), ("b", b.clone())]), true).unwrap();
    assert_eq!((&*next.owner.as_ref().unwrap().instance, next.losses), ("b", 0));
    // Its application has begun again before it served.
    let mut again = b;
    again.report =
        again.report.map(|report| Report { incarnation: Incarnation(report.incarnation.0 + 1), ..report });
    let last = decide(&next, &all([("a", a), ("b", again)]), true).unwrap();
    let owner = last.owner.unwrap();
    assert_eq!((&*owner.instance, owner.source, last.losses), ("b", Source::Journal, 0));
}

#[test]
fn another_keeps_the_journal_where_the_one_before_is_gone_or_not_reached() {
    let serves = || with(Stand::Serving { epoch: Epoch(3) }, said(5, false));
    let moved = moved();
    let one = |name: &'static str| (name, with(Stand::Empty, None));
    assert_eq!(choose(&moved, &all([("a", serves()), one("b")])), None, "it is there");
    assert_eq!(choose(&moved, &all([("a", serves()), one("c")])), Some(Some("c".into())));
    let alone: BTreeMap<Arc<str>, Seen> = [("a".into(), serves())].into();
    assert_eq!(choose(&moved, &alone), Some(None));
    let nobody = moved.standby.clone().map(|standby| Standby { instance: None, ..standby });
    assert_eq!(choose(&Moved { standby: nobody, ..moved.clone() }, &alone), None, "as before");
    let lost = Seen { journal: said(5, false).map(|said| JournalStand { lost: true, ..said }), ..serves() };
    let mut three = all([("a", lost.clone()), one("b")]);
    assert_eq!(choose(&moved, &three), None, "nobody is better");
    three.insert("c".into(), with(Stand::Empty, None));
    assert_eq!(choose(&moved, &three), Some(Some("c".into())));
    // One that leaves is kept until another one is there.
    for leaves in [true, false] {
        let mut b = with(Stand::Empty, None);
        (b.presence.leaving, b.presence.draining) = (leaves, !leaves);
        let mut few = all([("a", serves()), ("b", b)]);
        assert_eq!(choose(&moved, &few), None, "nobody is better");
        few.insert("c".into(), with(Stand::Empty, None));
        assert_eq!(choose(&moved, &few), Some(Some("c".into())));
    }
    // Whoever is not reached is followed by the next one, and not by one that was not reached before.
    let owner = moved.owner.clone().map(|owner| Holder { instance: "s".into(), ..owner });
    let far = Moved { owner, listed: Some("s".into()), ..moved.clone() };
    let mut four = all([("s", lost.clone()), ("b", with(Stand::Empty, None))]);
    four.extend(["a", "c"].map(|name| (name.into(), with(Stand::Empty, None))));
    assert_eq!(choose(&far, &four), Some(Some("c".into())));
    let other = Moved { epoch: Epoch(4), ..moved.clone() };
    let serves = with(Stand::Serving { epoch: Epoch(4) }, None);
    assert_eq!(choose(&other, &all([("a", serves), one("b")])), Some(Some("b".into())), "a new epoch");
    let opening = with(Stand::Opening { epoch: Epoch(3) }, None);
    assert_eq!(choose(&moved, &all([("a", opening), one("c")])), None, "it does not serve yet");
}

#[test]
fn the_heir_of_before_is_not_let_go_since_it_cannot_be_told_anything_for_a_moment() {
    let epoch = Epoch(4);
    let owner = moved().owner.map(|owner| Holder { instance: "c".into(), ..owner });
    let moved = Moved { epoch, owner, listed: Some("c".into()), ..moved() };
    let c = || ("c", knowing(Stand::Serving { epoch }, JournalStand { epoch: 4, ..JournalStand::default() }));
    let early = |change: fn(&mut crate::registry::Presence), serves_alone, are_back| {
        let b = Seen { journal: said(5, true), ..there(change) };
        let seen = all([("b", b), c()]);
        let sights = sights(&moved, &seen);
        let change = kept(&moved).choose(&sights).unwrap();
        assert_eq!(change, Change::Name(None));
        is_early(&moved, &seen, &change, serves_alone, are_back)
    };
    let changes: [fn(&mut crate::registry::Presence); 3] =
        [|b| b.is_heard = false, |b| b.ready = false, |b| b.link = None];
    for change in changes {
        assert!(early(change, false, true) && early(change, true, false) && !early(change, true, true));
    }
    assert!(!early(|b| b.leaving = true, false, true), "it goes");
    // Nor is it where the control plane has just begun, and may not have heard of another one.
    let alone: BTreeMap<Arc<str>, Seen> = [c()].map(|(name, seen)| (name.into(), seen)).into();
    let is_early = |are_back| is_early(&moved, &alone, &Change::Name(None), false, are_back);
    assert!(is_early(false) && !is_early(true));
}

#[test]
fn who_is_to_drain_and_was_to_follow_the_standby_is_let_go_where_whoever_serves_is_gone() {
    let next = Standby { view: 6, instance: Some("c".into()), ..moved().standby.unwrap() };
    let moved = Moved { next: Some(next), ..moved() };
    let leaves = |name, leaving| {
        let mut there = with(Stand::Empty, said(6, true));
        there.presence.leaving = leaving;
        (name, there)
    };
    let a = || with(Stand::Serving { epoch: Epoch(3) }, said(6, false));
    let stranded = |moved: &Moved, seen: &BTreeMap<_, _>| {
        super::stranded(moved, seen, true).map(|(name, _)| name.to_string())
    };
    let both = all([leaves("b", true), leaves("c", true)]);
    assert_eq!(stranded(&moved, &both).as_deref(), Some("c"), "the heir has everything");
    assert!(super::stranded(&moved, &both, false).is_none(), "whoever serves may come back");
    assert_eq!(stranded(&moved, &all([leaves("b", true), leaves("c", false)])), None);
    // Whoever serves, or just does not for a moment, sees to it.
    for stand in [a(), with(Stand::Frozen { epoch: Epoch(3) }, None), Seen { report: None, ..a() }] {
        let mut there = both.clone();
        there.insert("a".into(), stand);
        assert_eq!(stranded(&moved, &there), None);
    }
    let mut again = both.clone();
    let report = a().report.map(|report| Report { incarnation: Incarnation(99), ..report });
    again.insert("a".into(), Seen { report, ..a() });
    assert_eq!(stranded(&moved, &again).as_deref(), Some("c"));
    // It may be the heir, or serve next.
    let heir = Moved { standby: moved.next.clone(), ..moved.clone() };
    assert_eq!(stranded(&heir, &both), None);
    let owner = moved.owner.clone().map(|owner| Holder { instance: "c".into(), ..owner });
    assert_eq!(stranded(&Moved { owner, ..moved.clone() }, &both), None);
    // As before, of a standby that nobody follows.
    let last = Moved { next: None, ..moved };
    let alone = all([("a", a()), leaves("b", true)]);
    assert_eq!(stranded(&last, &alone).as_deref(), Some("b"));
    assert_eq!(stranded(&last, &both), None);
}

#[test]
fn both_are_told_until_they_know() {
    let moved = moved();
    let serves = |journal| with(Stand::Serving { epoch: Epoch(3) }, journal);
    let told = parts(&moved, &all([("a", serves(None)), ("b", with(Stand::Empty, said(4, false)))]));
    let (a, b) = (&told["a"], &told["b"]);
    assert!(b.keeps && !a.keeps && !a.standby.is_empty() && a.token == b.token && a.token.len() == 32);
    assert_eq!((a.view, b.view, a.epoch), (5, 5, 3));
    let told = parts(&moved, &all([("a", serves(said(5, false))), ("c", with(Stand::Empty, said(2, true)))]));
    let c = &told["c"];
    assert!(told.len() == 1 && !c.keeps && c.standby.is_empty() && c.token.is_empty(), "it lets go");
}

#[test]
fn whoever_kept_the_journal_of_an_earlier_epoch_lets_go_before_whoever_serves_is_told_whole_or_not() {
    let moved = moved();
    let serves = || with(Stand::Serving { epoch: Epoch(3) }, None);
    let earlier =
        |whole| Some(JournalStand { epoch: 2, view: 4, whole, lost: false, ..JournalStand::default() });
    let told = |c: Seen| {
        let mut seen = all([("a", serves()), ("b", with(Stand::Empty, None))]);
        seen.insert("c".into(), c);
        parts(&moved, &seen).into_keys().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    for whole in [false, true] {
        assert_eq!(told(with(Stand::Empty, earlier(whole))), ["b", "c"], "{whole}");
    }
    assert_eq!(told(with(Stand::Empty, said(5, false))), ["a", "b"], "it knows");
    assert_eq!(told(with(Stand::Serving { epoch: Epoch(2) }, earlier(false))), ["a", "b"]);
    let mut unheard = with(Stand::Empty, earlier(false));
    unheard.presence.is_heard = false;
    assert_eq!(told(unheard), ["a", "b"]);
}

/// One that knows that one follows another.
fn knowing(stand: Stand, said: JournalStand) -> Seen {
    with(stand, Some(JournalStand { hands_over: true, ..said }))
}

#[test]
fn the_standby_is_the_heir_until_another_one_has_everything_and_lets_go_last() {
    let stand = |view| JournalStand { epoch: 3, view, ..JournalStand::default() };
    let whole = |view| JournalStand { whole: true, whole_view: view, ..stand(view) };
    let a = |said| ("a", knowing(Stand::Serving { epoch: Epoch(3) }, said));
    let b = || {
        let mut b = knowing(Stand::Empty, whole(5));
        b.presence.draining = true;
        ("b", b)
    };
    let c = |said: Option<JournalStand>| ("c".into(), with(Stand::Empty, said));
    let mut moved = moved();
    let mut seen = all([a(stand(5)), b()]);
    seen.extend([c(None)]);
    let mut step = |seen: &BTreeMap<Arc<str>, Seen>| {
        let sights = sights(&moved, seen);
        let change = kept(&moved).choose(&sights);
        let is_changed = change.is_some();
        if let Some(change) = change {
            moved = changed(&moved, &change, &sights, vec![9; 32]);
        }
        let heir = match heir(
            &moved,
            &seen
                .iter()
                .filter(|(name, _)| &***name != "a")
                .map(|(name, seen)| (name.clone(), seen.clone()))
                .collect(),
        ) {
            Heir::Is(heir) => heir.instance.to_string(),
            other => format!("{other:?}"),
        };
        let told: Vec<String> = parts(&moved, seen).into_keys().map(|name| name.to_string()).collect();
        (is_changed, heir, told.join(" "), parts(&moved, seen).remove("a"))
    };
    let (_, heir, told, part) = step(&seen);
    let part = part.unwrap();
    assert_eq!((&*heir, &*told), ("b", "a c"));
    assert!(part.seat == 5 && part.view == 6 && part.next_seat == 6, "{part:?}");
    assert!(!part.standby.is_empty() && !part.next.is_empty() && part.token != part.next_token);
    // It has everything, and whoever serves has not said so; then that one says it, and the other one does not.
    for (said, other) in
        [(stand(6), Some(whole(6))), (JournalStand { confirmed: 6, ..stand(6) }, Some(stand(6)))]
    {
        seen.extend([c(other)]);
        seen.extend([a(said)].map(|(name, seen)| (name.into(), seen)));
        let (is_changed, heir, told, _) = step(&seen);
        assert!(!is_changed && heir == "b" && told.is_empty(), "{heir} {told}");
    }
    seen.extend([c(Some(whole(6)))]);
    let (_, heir, told, part) = step(&seen);
    assert_eq!((&*heir, &*told), ("c", "a"), "the one before does not let go yet");
    let part = part.unwrap();
    assert!(part.seat == 6 && part.view == 7 && part.next.is_empty(), "{part:?}");
    seen.extend([a(stand(7))].map(|(name, seen)| (name.into(), seen)));
    let (is_changed, heir, told, _) = step(&seen);
    assert_eq!((is_changed, &*heir, &*told), (false, "c", "b"));
}

#[test]
fn whoever_had_everything_before_a_move_is_the_heir_until_another_one_has_it() {
    let token = vec![7; 32];
    let epoch = Epoch(4);
    let owner = moved().owner.map(|owner| Holder { instance: "c".into(), ..owner });
    let moved = Moved { epoch, owner, listed: Some("c".into()), ..moved() };
    let said = |view, whole_view| JournalStand {
        epoch: 3,
        view,
        whole_view,
        hands_over: true,
        ..JournalStand::default()
    };
    let c = || ("c", with(Stand::Serving { epoch }, Some(said(0, 0))));
    let mut seen = all([("b", with(Stand::Empty, Some(said(5, 5)))), c()]);
    // It is the only one that is left, and keeps what it has beside what is new.
    assert_eq!(kept(&moved).choose(&sights(&moved, &seen)), Some(Change::Follow(&"b".into())));
    seen.insert("a".into(), with(Stand::Moved, None));
    let sights = sights(&moved, &seen);
    let change = kept(&moved).choose(&sights).unwrap();
    assert_eq!(change, Change::Follow(&"a".into()));
    let moved = changed(&moved, &change, &sights, token);
    assert!(matches!(heir(&moved, &seen), Heir::Is(heir) if &*heir.instance == "b"));
    let told = parts(&moved, &seen);
    let part = &told["c"];
    assert!(part.seat == 0 && part.standby.is_empty() && part.next_seat == 6, "nothing is acknowledged yet");
    assert!(told["a"].keeps && !told.contains_key("b"));
}
