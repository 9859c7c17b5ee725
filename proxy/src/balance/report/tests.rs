use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn rules(metrics: &[&str]) -> LoadReports {
    LoadReports { metrics: metrics.iter().map(|name| (*name).into()).collect(), ..LoadReports::default() }
}

fn said(value: &str) -> Result<f64, Reported> {
    weight(FIELD, value.as_bytes(), &rules(&[]))
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9 * other
}

#[test]
fn a_report_says_the_same_in_every_form() {
    let report = OrcaLoadReport {
        cpu_utilization: 0.5,
        rps_fractional: 100.0,
        eps: 10.0,
        named_metrics: [("queue".to_string(), 0.8)].into(),
        ..OrcaLoadReport::default()
    };
    let padded = base64::prelude::BASE64_STANDARD.encode(report.encode_to_vec());
    let bare = padded.trim_end_matches('=');
    let text = "cpu_utilization=0.5, rps_fractional=100,eps=10.0 ,named_metrics.queue=0.8";
    let json =
        r#"{"cpuUtilization": 0.5, "rps_fractional": 100, "eps": 10, "named_metrics": {"queue": 0.8}}"#;
    let forms = [
        (FIELD, format!("TEXT {text}")),
        (FIELD, format!("JSON {json}")),
        (FIELD, format!("BIN {padded}")),
        (b"Endpoint-Load-Metrics-Bin", bare.to_string()),
        (FIELD_BIN, padded.clone()),
    ];
    for (name, value) in &forms {
        assert!(is_report(name));
        // A tenth of the requests were errors.
        assert!(near(weight(name, value.as_bytes(), &rules(&[])).unwrap(), 100.0 / 0.6), "{value}");
        let by_queue = weight(name, value.as_bytes(), &rules(&["named_metrics.queue", "mem_utilization"]));
        assert!(near(by_queue.unwrap(), 100.0 / 0.9), "{value}");
    }
    assert!(!is_report(b"endpoint-load") && !is_report(b"endpoint-load-metrics-text"));
}

#[test]
fn what_the_application_says_of_itself_goes_before_all_else() {
    let all = "TEXT application_utilization=2, cpu_utilization=0.5, rps_fractional=100";
    assert!(near(said(all).unwrap(), 50.0));
    let rules = LoadReports { error_penalty_percent: 400, ..rules(&["cpu_utilization"]) };
    let value = format!("{all}, eps=50");
    assert!(near(weight(FIELD, value.as_bytes(), &rules).unwrap(), 25.0));
}

#[test]
fn what_makes_no_sense_is_no_report() {
    for value in
        ["TEXT cpu_utilization=0.5", "TEXT rps_fractional=9", "TEXT cpu_utilization=0,rps_fractional=9"]
    {
        assert_eq!(said(value), Err(Reported::Empty), "{value}");
    }
    for value in ["TEXT cpu_utilization=NaN,rps_fractional=9", "TEXT cpu_utilization=-1,rps_fractional=inf"] {
        assert_eq!(said(value), Err(Reported::Empty), "{value}");
    }
    for value in [
        "",
        "TEXT",
        "TEXT cpu",
        "TEXT cpu_utilization=x",
        "JSON [1]",
        "JSON {\"eps\": \"1\"}",
        "BIN @@",
        "0.5",
    ] {
        assert_eq!(said(value), Err(Reported::Malformed), "{value}");
    }
}

#[test]
fn a_report_counts_after_a_while_and_not_for_ever() {
    let rules = LoadReports {
        blackout: Duration::from_secs(10),
        expiration: Duration::from_secs(60),
        ..LoadReports::default()
    };
    let at = |seconds: u64| 1 + seconds * 1_000_000_000;
    let standing = Standing::default();
    assert_eq!(standing.weight(&rules, at(0)), None);
    standing.report(5.0, at(0));
    assert_eq!(standing.weight(&rules, at(9)), None);
    standing.report(7.0, at(9));
    assert_eq!(standing.weight(&rules, at(10)), Some(7.0));
    assert_eq!(standing.weight(&rules, at(68)), Some(7.0));
    assert_eq!(standing.weight(&rules, at(69)), None);
    // It begins anew.
    standing.report(9.0, at(70));
    assert_eq!([standing.weight(&rules, at(79)), standing.weight(&rules, at(80))], [None, Some(9.0)]);
    standing.forget();
    assert_eq!(standing.weight(&rules, at(81)), None);
    standing.report(9.0, at(81));
    assert_eq!(standing.weight(&LoadReports { blackout: Duration::ZERO, ..rules }, at(81)), Some(9.0));
}

#[test]
fn shares_are_as_reports_say_and_follow_them() {
    let rules = LoadReports::default();
    let shares = |reported: &[Option<f64>], turns: &Turns, now: u64| {
        let mut counts = vec![0; reported.len()];
        for _ in 0..4000 {
            counts[turns.next(now, |place| reported[place], |_| true).unwrap()] += 1;
        }
        counts
    };
    let turns = Turns::new([1, 3].into_iter(), &rules);
    // Until two report, by their weights.
    assert_eq!(shares(&[Some(9.0), None], &turns, 1), [1000, 3000]);
    // Not before it is time.
    assert_eq!(shares(&[Some(3.0), Some(1.0)], &turns, 2), [1000, 3000]);
    let second = 1_000_000_000;
    let found = shares(&[Some(3.0), Some(1.0)], &turns, second + 1);
    assert!((990..=1010).contains(&found[1]), "{found:?}");
    let found = shares(&[Some(1.0), Some(1e-9)], &turns, 2 * second + 1);
    assert!(found[1] <= 5, "{found:?}");
    // Who says nothing has as much as the others on average.
    let turns = Turns::new([1, 1, 1].into_iter(), &rules);
    let found = shares(&[Some(1.0), Some(3.0), None], &turns, 1);
    assert!((1320..=1350).contains(&found[2]), "{found:?}");
}

#[test]
fn a_device_says_what_is_to_come_and_what_an_answer_took() {
    let said = |value: &str| {
        let OfDevice { queue_seconds, processor_seconds } = of_device(FIELD, value.as_bytes())?;
        Ok((queue_seconds, processor_seconds))
    };
    let both = "TEXT named_metrics.queue_seconds=0.5, named_metrics.processor_seconds=0.002";
    assert_eq!(said(both), Ok((Some(0.5), Some(0.002))));
    assert_eq!(said("JSON {\"namedMetrics\": {\"processor_seconds\": 3}}"), Ok((None, Some(3.0))));
    assert_eq!(said("TEXT cpu_utilization=0.5"), Ok((None, None)));
    for amount in ["-1", "NaN", "inf", "86401"] {
        assert_eq!(
            said(&format!("TEXT named_metrics.processor_seconds={amount}")),
            Ok((None, None)),
            "{amount}"
        );
    }
    assert_eq!(said("TEXT named_metrics.processor_seconds"), Err(Reported::Malformed));
}

proptest! {
    #[test]
    fn no_field_is_a_reason_to_panic(value in prop::collection::vec(any::<u8>(), 0..60), form in 0usize..4) {
        let value = [["TEXT ", "JSON ", "BIN ", ""][form].as_bytes(), &value].concat();
        for name in [FIELD, FIELD_BIN] {
            if let Ok(weight) = weight(name, &value, &rules(&["named_metrics.a"])) {
                prop_assert!(weight.is_finite() && weight > 0.0);
            }
            if let Ok(OfDevice { queue_seconds, processor_seconds }) = of_device(name, &value) {
                prop_assert!(queue_seconds.into_iter().chain(processor_seconds).all(|said| said.is_finite() && said >= 0.0));
            }
        }
    }

    #[test]
    fn everybody_has_a_turn(reported in prop::collection::vec(prop::option::of(1e-300f64..f64::MAX), 2..20)) {
        let turns = turns(&reported);
        prop_assert_eq!(turns.is_some(), reported.iter().flatten().count() >= 2);
        prop_assert!(turns.iter().flatten().all(|turns| (1..=1000).contains(turns)));
    }
}

#[test]
fn turns_go_on_where_weights_are_as_before() {
    let rules = rules(&[]);
    let turns = Turns::new([1, 1, 1].into_iter(), &rules);
    let at = |step: u64| step * nanos(rules.interval);
    let first = turns.next(0, |_| None, |_| true).unwrap();
    for step in 1..30 {
        assert_eq!(turns.next(at(step), |_| None, |_| true), Some((first + step as usize) % 3));
    }
    // Two report what is as good, and the third has as much as they have.
    let reported = |place: usize| (place < 2).then_some(7.0);
    let first = turns.next(at(30), reported, |_| true).unwrap();
    for step in 1..30 {
        assert_eq!(turns.next(at(30 + step), reported, |_| true), Some((first + step as usize) % 3));
    }
}
