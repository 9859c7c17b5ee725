//! LinkPolicies.

use super::kind::Refers;
use super::reference::{self, Target};
use super::{Drafts, Report};
use crate::document::At;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::link::{Congestion as CongestionSpec, LinkPolicySpec, WireUse as WireUseSpec};
use crate::snapshot::{Congestion, LinkPolicy, WireUse};

impl Refers for LinkPolicySpec {
    type Said = Vec<Target>;

    fn about(policy: &Loaded<Self>) -> Vec<ServiceName> {
        reference::named_or_mesh(&policy.resource.spec.target_refs, policy.namespace())
    }

    fn follow(policy: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Vec<Target> {
        let (spec, at) = (&policy.resource.spec, policy.spec());
        check(spec, &at, report);
        let at = at.field("targetRefs");
        let targets = reference::targets(&spec.target_refs, &at, policy.namespace(), drafts, report);
        for target in targets.iter().filter(|target| target.port.is_some()) {
            let error = at.index(target.index).error("a link carries all ports of a workload");
            report.error(error.hint("leave the port out"));
        }
        targets
    }
}

/// LinkPolicies about the same, in order.
pub(super) type Policies<'m> = Vec<(&'m Loaded<LinkPolicySpec>, &'m Vec<Target>)>;

/// What holds for all links, by the policies about the whole mesh.
pub(super) fn of_mesh(policies: &Policies<'_>, report: &mut Report) -> LinkPolicy {
    let places = policies.iter().map(|(policy, _)| (*policy, policy.spec()));
    said(places, "the mesh", LinkPolicy::default(), report)
}

/// What holds for links to workloads of a Service; `mesh` holds where nothing is said.
pub(super) fn of(
    policies: &Policies<'_>,
    service: &ServiceName,
    mesh: &LinkPolicy,
    report: &mut Report,
) -> LinkPolicy {
    let places = policies.iter().flat_map(|(policy, targets)| {
        let at = policy.spec().field("targetRefs");
        let about = targets.iter().filter(|target| target.service == *service);
        about.map(move |target| (*policy, at.index(target.index)))
    });
    said(places, &service.to_string(), mesh.clone(), report)
}

/// What the first of some policies about the same says; one can. `otherwise` holds where it says nothing.
fn said<'m>(
    policies: impl Iterator<Item = (&'m Loaded<LinkPolicySpec>, At<'m>)>,
    about: &str,
    otherwise: LinkPolicy,
    report: &mut Report,
) -> LinkPolicy {
    let mut said = otherwise;
    let mut first: Option<At<'_>> = None;
    for (policy, at) in policies {
        match &first {
            Some(first) => {
                let error = at.error(format!("{about} has a LinkPolicy already"));
                report.error(error.hint(format!("the first is at {}", first.place())));
            }
            None => {
                fill_in(&policy.resource.spec, &mut said);
                first = Some(at);
            }
        }
    }
    said
}

/// Whether a ring can be so large.
pub(crate) fn is_ring(bytes: u32) -> bool {
    bytes.is_power_of_two() && (MIN_RING..=MAX_RING).contains(&bytes)
}

fn check(spec: &LinkPolicySpec, at: &At<'_>, report: &mut Report) {
    if spec.hot_bytes_per_second == Some(0) {
        let error = at.field("hotBytesPerSecond").error("a link that carries nothing is not hot");
        report.error(error.hint("to use a wire from the beginning, write `should`"));
    }
    if spec.back_off.is_some_and(|back_off| back_off.0.is_zero()) {
        report.error(at.field("backOff").error("what failed is left alone for some time"));
    }
    if spec.quic_calm.is_some_and(|calm| calm.0.is_zero()) {
        let error = at.field("quicCalm").error("after no time nobody knows whether anything is lost");
        report.error(error.hint("to keep links off QUIC, write `wires: {quic: mustNot}`"));
    }
    let devices = spec.devices.iter().flatten().enumerate();
    for (index, device) in devices.filter(|(_, device)| !is_device(device)) {
        let error = format!("`{}` is no name of a device", device.escape_debug());
        report.error(at.field("devices").index(index).error(error).hint("`rdma link` shows their names"));
    }
    if let Some(devices) =
        spec.devices.as_ref().filter(|devices| devices.is_empty() || devices.len() > MAX_DEVICES)
    {
        let error = at.field("devices").error(format!("{} devices are named", devices.len()));
        report.error(error.hint(format!(
            "1 to {MAX_DEVICES}; to use none, write `wires: {{rdma: mustNot}}`; all: leave it out"
        )));
    }
    if let Some(bytes) = spec.ring_bytes.filter(|bytes| !is_ring(*bytes)) {
        let error = at.field("ringBytes").error(format!("{bytes} is no size of a ring"));
        report.error(error.hint(format!("a power of two from {MIN_RING} to {MAX_RING}")));
    }
}

fn fill_in(spec: &LinkPolicySpec, policy: &mut LinkPolicy) {
    policy.shm = spec.wires.shm.map_or(policy.shm, wire_use);
    policy.rdma = spec.wires.rdma.map_or(policy.rdma, wire_use);
    policy.quic = spec.wires.quic.map_or(policy.quic, wire_use);
    policy.congestion = spec.congestion.map_or(policy.congestion, congestion);
    policy.quic_calm = spec.quic_calm.map_or(policy.quic_calm, |calm| calm.0);
    if let Some(devices) = &spec.devices {
        policy.devices = devices.iter().map(|device| device.as_str().into()).collect();
    }
    policy.hot_bytes_per_second = spec.hot_bytes_per_second.unwrap_or(policy.hot_bytes_per_second);
    policy.ring_bytes = spec.ring_bytes.unwrap_or(policy.ring_bytes);
    policy.back_off = spec.back_off.map_or(policy.back_off, |back_off| back_off.0);
    if let Some(idle) = spec.idle_timeout {
        policy.idle_timeout = idle.limit();
    }
}

fn wire_use(said: WireUseSpec) -> WireUse {
    match said {
        WireUseSpec::May => WireUse::May,
        WireUseSpec::Should => WireUse::Should,
        WireUseSpec::MustNot => WireUse::MustNot,
    }
}

fn congestion(said: CongestionSpec) -> Congestion {
    match said {
        CongestionSpec::Cubic => Congestion::Cubic,
        CongestionSpec::Bbr => Congestion::Bbr,
        CongestionSpec::NewReno => Congestion::NewReno,
    }
}

/// Whether a device can be called so: the kernel's names are shorter, and have no such characters.
pub(crate) fn is_device(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    (1..=MAX_DEVICE).contains(&name.len()) && name.bytes().all(is_plain)
}

/// One record of TLS lies in any ring several times.
const MIN_RING: u32 = 1 << 16;

const MAX_RING: u32 = 1 << 24;

/// Bytes of a device's name, and how many are named at most.
const MAX_DEVICE: usize = 63;
pub(crate) const MAX_DEVICES: usize = 32;
