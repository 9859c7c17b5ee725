//! What connections carry, as far as a drain tells of it.

/// What a connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// That was not found out yet.
    #[default]
    Unknown,
    /// HTTP/1.
    Http1,
    /// HTTP/2, gRPC among it.
    Http2,
    /// What HTTP/1 was upgraded to: WebSocket or another.
    Upgraded,
    /// Bytes that nobody looks into, tunnels among them.
    Tcp,
    /// A link.
    Link,
}

/// Connections by what they carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds([usize; Kind::ALL.len()]);

impl Kind {
    const ALL: [Kind; 6] = [Kind::Unknown, Kind::Http1, Kind::Http2, Kind::Upgraded, Kind::Tcp, Kind::Link];

    const fn label(self) -> &'static str {
        match self {
            Kind::Unknown => "unknown",
            Kind::Http1 => "http1",
            Kind::Http2 => "http2",
            Kind::Upgraded => "upgraded",
            Kind::Tcp => "tcp",
            Kind::Link => "link",
        }
    }
}

impl Kinds {
    /// One more.
    pub fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    /// Those of `other` as well.
    pub fn extend(&mut self, other: &Kinds) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }

    /// Those that there are, with their labels.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, usize)> {
        Kind::ALL
            .into_iter()
            .zip(self.0)
            .map(|(kind, count)| (kind.label(), count))
            .filter(|(_, count)| *count > 0)
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        let mut counted = Kinds::default();
        kinds.into_iter().for_each(|kind| counted.add(kind));
        counted
    }
}

/// As in `2 http1, 1 link`.
impl std::fmt::Display for Kinds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (label, count)) in self.each().enumerate() {
            write!(f, "{}{count} {label}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_named() {
        let mut kinds: Kinds = [Kind::Link, Kind::Http1, Kind::Http1].into_iter().collect();
        assert_eq!((kinds.total(), kinds.to_string().as_str()), (3, "2 http1, 1 link"));
        kinds.extend(&[Kind::Tcp].into_iter().collect());
        assert_eq!(kinds.to_string(), "2 http1, 1 tcp, 1 link");
    }
}
