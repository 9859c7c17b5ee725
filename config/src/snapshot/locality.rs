//! Where endpoints and sidecars are, and what that says of who takes a request.

use std::fmt;
use std::sync::Arc;

/// Where something is. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    /// The largest part: a region of a cloud, a site.
    pub region: Arc<str>,
    /// A part of it that fails by itself.
    pub zone: Arc<str>,
    /// A part of that: a rack, a host.
    pub sub_zone: Arc<str>,
}

impl Locality {
    /// How much of it is the same as of another, from the largest part on: from 0 to 3. What is not known is not the same.
    pub fn common(&self, other: &Locality) -> u8 {
        let pairs = self.parts().into_iter().zip(other.parts());
        pairs.take_while(|(one, other)| !one.is_empty() && one == other).count() as u8
    }

    fn parts(&self) -> [&str; 3] {
        [&self.region, &self.zone, &self.sub_zone]
    }
}

impl fmt::Display for Locality {
    /// `region/zone/subZone`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.zone, self.sub_zone)
    }
}

/// That near endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearness {
    /// How much has to be common so that nothing is nearer: 1 a region, 2 a zone, 3 a part of one.
    pub within: u8,
    /// How much more than its share a group of endpoints is trusted with when some of it are away, in percent: of 140, five
    /// sevenths that are there take everything.
    pub overprovisioning: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_is_counted_from_the_largest_part() {
        let of = |region: &str, zone: &str, sub_zone: &str| Locality {
            region: region.into(),
            zone: zone.into(),
            sub_zone: sub_zone.into(),
        };
        let here = of("eu", "a", "1");
        assert_eq!(here.common(&of("eu", "a", "1")), 3);
        assert_eq!(here.common(&of("eu", "a", "2")), 2);
        assert_eq!(here.common(&of("eu", "b", "1")), 1);
        assert_eq!(here.common(&of("us", "a", "1")), 0);
        assert_eq!(here.common(&of("eu", "", "")), 1);
        assert_eq!(Locality::default().common(&Locality::default()), 0);
    }
}
