//! Which wire carried what, as both ends of a pair count it: a row that is named after a wire is to be about that wire.

use crate::moving;
use crate::proxies::Proxy;

/// Bytes that the links of a pair carried so far, both ways, as each end counts them.
pub struct Carried {
    wire: &'static str,
    ends: [Bytes; 2],
}

#[derive(Clone, Copy)]
struct Bytes {
    /// Over the wire that the pair is named after,
    named: f64,
    /// and over any.
    all: f64,
}

/// What part of a sample went over the wire that its row is named after: at the end that says less. 0 where nothing went over links.
#[derive(Clone, Copy)]
pub struct Share {
    pub wire: &'static str,
    pub least: f64,
}

/// What a row is about goes over its wire, but for so little.
pub const ENOUGH: f64 = 0.99;

impl Carried {
    /// None: the pair is not named after a wire.
    pub fn until_now(proxy: &Proxy) -> Option<Self> {
        let (wire, ports) = (proxy.wire()?, proxy.ports);
        let ends = [ports.admin?, ports.far_admin?].map(|admin| Bytes::at(admin, wire));
        Some(Carried { wire, ends })
    }

    /// What of the bytes that `proxy` has carried since went over its wire.
    pub fn share_since(&self, proxy: &Proxy) -> Option<Share> {
        let now = Carried::until_now(proxy)?;
        let shares = self.ends.iter().zip(now.ends).map(|(before, now)| {
            let all = now.all - before.all;
            if all > 0.0 { (now.named - before.named) / all } else { 0.0 }
        });
        Some(Share { wire: self.wire, least: shares.fold(1.0, f64::min) })
    }
}

impl Bytes {
    fn at(admin: u16, wire: &str) -> Self {
        let metrics = moving::ask(admin, "GET", "/metrics");
        let label = format!("wire=\"{wire}\"");
        let mut bytes = Bytes { named: 0.0, all: 0.0 };
        for line in metrics.lines().filter_map(|line| line.strip_prefix("lighter_link_bytes_total{")) {
            let Some((labels, count)) = line.split_once("} ") else { continue };
            let count: f64 = count.parse().expect("a counter is a number");
            bytes.all += count;
            if labels.contains(&label) {
                bytes.named += count;
            }
        }
        bytes
    }
}

impl Share {
    /// The least of those of one row.
    pub fn least(shares: &[Share]) -> Option<Share> {
        shares.iter().copied().min_by(|one, other| one.least.total_cmp(&other.least))
    }
}
