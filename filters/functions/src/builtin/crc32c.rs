//! CRC-32C (RFC 3720, appendix B.4), by a table.

/// The polynomial of Castagnoli, its bits in the order in which they are used.
const POLYNOMIAL: u32 = 0x82f6_3b78;

static TABLE: [u32; 256] = table();

/// A sum that grows.
pub(super) struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(!0)
    }
}

impl Crc32c {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = TABLE[usize::from(self.0 as u8 ^ byte)] ^ (self.0 >> 8);
        }
    }

    pub(super) fn sum(self) -> u32 {
        !self.0
    }
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { POLYNOMIAL ^ (sum >> 1) } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::Crc32c;

    #[test]
    fn the_sums_of_the_rfc_come_out() {
        let increasing: Vec<u8> = (0..32).collect();
        for (bytes, sum) in [
            (&[0_u8; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&increasing, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            let mut crc = Crc32c::default();
            let (one, other) = bytes.split_at(bytes.len() / 3);
            crc.update(one);
            crc.update(other);
            assert_eq!(crc.sum(), sum, "{bytes:?}");
        }
    }
}
