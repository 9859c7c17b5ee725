use super::*;

fn faults(text: &str) -> Vec<String> {
    let errors = Scenario::parse("s.yaml", text).err().map_or_else(Vec::new, |errors| errors.errors);
    errors
        .iter()
        .map(|error| format!("{}:{} {}: {}", error.line, error.column, error.path, error.message))
        .collect()
}

#[test]
fn a_scenario_that_says_nothing_is_the_usual_one() {
    assert_eq!(Scenario::parse("s.yaml", "").unwrap(), Scenario::default());
    assert_eq!(Scenario::parse("s.yaml", "{}").unwrap(), Scenario::default());
    assert_eq!(Scenario::default().conflict(), None);
}

#[test]
fn what_a_scenario_says_stands_beside_what_is_usual() {
    let text = "\
devices: 10
deviceClasses: [{name: slow, share: 1, computeFactor: 9}]
workload: {replicas: 2}
events: [{at: 5s, what: slow, percent: 10, for: 1s}]
";
    let scenario = Scenario::parse("s.yaml", text).unwrap();
    assert_eq!((scenario.devices, scenario.requests), (10, 200_000));
    assert_eq!((scenario.device_classes[0].compute_factor, scenario.device_classes[0].slots), (9.0, 2));
    assert_eq!(scenario.workload.routes, 40);
    assert_eq!((scenario.events[0].what, scenario.events[0].factor), (What::Slow, None));
}

#[test]
fn every_fault_has_its_place() {
    let text = "\
device: 10
slo: 100
";
    let found = faults(text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("1:1 device: unknown field"), "{found:?}");
    assert!(found[1].starts_with("2:6 slo: "), "{found:?}");
    let found = faults("deviceClasses: [{name: a, share: 1}, {share: 0}]\n");
    assert_eq!(found, ["1:38 deviceClasses[1]: missing field `name`"]);
    let text = "\
devices: 0
guardWindow: 0s
deviceClasses: [{name: a, share: 1}, {name: a, share: 1}]
workload: {stalePercent: 101, scanKibibytes: {median: 0, sigma: 1}}
events:
- {at: 1s, what: die}
- {at: 1s, what: stall, percent: 1, devices: [0], factor: 3}
";
    let found = faults(text);
    let places: Vec<_> = found.iter().filter_map(|fault| fault.split(": ").next()).collect();
    assert_eq!(
        places,
        [
            "1:10 devices",
            "2:14 guardWindow",
            "3:45 deviceClasses[1].name",
            "4:1 workload.replicas",
            "4:26 workload.stalePercent",
            "4:55 workload.scanKibibytes.median",
            "6:3 events[0]",
            "7:34 events[1].percent",
            "7:59 events[1].factor"
        ]
        .map(str::to_owned)
    );
}

#[test]
fn what_functions_take_is_read_and_checked() {
    let text = "functions: {megabytes: {median: 30, sigma: 0}, idle: 10s, directPercent: 5}\n\
                deviceClasses: [{name: a, share: 1, memoryMegabytes: 64, allowedSlots: 0}]\n\
                workload: {popularityShift: 20s}\n";
    let scenario = Scenario::parse("s.yaml", text).unwrap();
    let functions = scenario.functions.unwrap();
    assert_eq!((functions.megabytes.median, functions.idle.0.as_secs()), (30.0, 10));
    assert_eq!(
        (functions.direct_percent, functions.settle.0.as_secs()),
        (5.0, 10),
        "what is not said is usual"
    );
    let class = &scenario.device_classes[0];
    assert_eq!((class.memory_megabytes, class.allowed_slots), (64.0, Some(0)));
    assert_eq!(Scenario::parse("s.yaml", "functions: {}\n").unwrap().functions, Some(Functions::default()));
    let text = "\
functions: {megabytes: {median: 0, sigma: 0}, idle: 0s, directPercent: 101}
deviceClasses: [{name: a, share: 1, memoryMegabytes: 0, allowedSlots: 3}]
workload: {popularityShift: 0s}
";
    let found = faults(text);
    let places: Vec<_> = found.iter().filter_map(|fault| fault.split(": ").next()).collect();
    let expected = [
        "1:33 functions.megabytes.median",
        "1:53 functions.idle",
        "1:72 functions.directPercent",
        "2:54 deviceClasses[0].memoryMegabytes",
        "2:71 deviceClasses[0].allowedSlots",
        "3:29 workload.popularityShift",
    ];
    assert_eq!(places, expected, "{found:?}");
    assert_eq!(faults("functions: {memory: 3}\n"), ["1:13 functions.memory: unknown field `memory`"]);
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let text = "devices: 5\nevents: [{at: 1s, what: die, devices: [4, 5]}]\n";
    assert_eq!(faults(text), ["2:30 events[0].devices: there is no device 5"]);
    let mut scenario = Scenario::parse("s.yaml", &text.replace("4, 5", "4")).unwrap();
    assert_eq!(scenario.conflict(), None);
    scenario.devices = 4;
    assert_eq!(scenario.conflict().unwrap(), "events[0].devices: there is no device 4, but 0 to 3");
}
