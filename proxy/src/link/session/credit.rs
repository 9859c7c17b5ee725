//! Credit that this side grants: how much the peer may send before something is read.

/// What a stream may send before anything is granted, bytes.
pub const STREAM_CREDIT: u32 = 64 * 1024;

/// What all streams may send together before anything is granted, bytes.
pub const SESSION_CREDIT: u32 = 1024 * 1024;

/// A window of one stream, or of all.
///
/// `size` is what was granted and not yet consumed, by whichever side holds it: `left` is the peer's, `owed` was consumed
/// and is not granted anew yet, and the rest is held here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    size: u32,
    left: u32,
    owed: u32,
    /// Consumed since the window last grew.
    used: u32,
}

impl Window {
    pub(crate) fn new(size: u32) -> Self {
        Window { size, left: size, owed: 0, used: 0 }
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// What was received and not released.
    pub(crate) fn held(&self) -> u64 {
        u64::from(self.size) - u64::from(self.left) - u64::from(self.owed)
    }

    /// What the peer may send.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// The peer sent `bytes`. Whether it may.
    pub(crate) fn charge(&mut self, bytes: u32) -> bool {
        let Some(left) = self.left.checked_sub(bytes) else { return false };
        self.left = left;
        true
    }

    /// `bytes` were consumed.
    pub(crate) fn release(&mut self, bytes: u32) {
        debug_assert!(self.left + self.owed + bytes <= self.size);
        self.owed += bytes;
        self.used = self.used.saturating_add(bytes);
    }

    /// Whether a grant is due: as much is owed as the peer has left. So it is granted in halves of a window that is
    /// consumed, and in ever smaller parts of one of which others hold the most; the peer is never left without any
    /// while something is owed.
    pub(crate) fn is_due(&self) -> bool {
        self.owed > 0 && self.owed >= self.left
    }

    /// Whether a whole window was consumed since it last grew.
    pub(crate) fn is_used(&self) -> bool {
        self.used >= self.size
    }

    /// Makes it twice as large, at most `most`. Returns by how much it grew.
    pub(crate) fn grow(&mut self, most: u32) -> u32 {
        let more = self.size.min(most.saturating_sub(self.size));
        self.size += more;
        self.owed += more;
        self.used = 0;
        more
    }

    /// What is to be granted now.
    pub(crate) fn grant(&mut self) -> u32 {
        let granted = std::mem::take(&mut self.owed);
        self.left += granted;
        granted
    }
}
