//! How a stream was cut off, in the 62 bits in which QUIC says that (RFC 9000 §19.4).

use quinn::VarInt;

use crate::error::Cause;
use crate::link::frame::{Code, Cut, Fault};

/// As RESET_STREAM and STOP_SENDING carry it: eight bits of code, and 48 that stand for the cause's label. So a cause
/// that a later version adds is none here, and never another one.
pub(super) fn of_cut(cut: Cut) -> VarInt {
    let label = cut.cause.map_or(0, digest);
    VarInt::from_u64(label << 8 | cut.code as u64).unwrap_or(VarInt::MAX)
}

/// What it says. A code from a later version means what `Internal` means; so does none, which a peer that just stops
/// leaves.
pub(super) fn to_cut(said: VarInt) -> Cut {
    let said = said.into_inner();
    let code = match said as u8 {
        1 => Code::Cancelled,
        2 => Code::Refused,
        3 => Code::TooSlow,
        4 => Code::Protocol,
        _ => Code::Internal,
    };
    let label = said >> 8;
    let cause = Cause::ALL.into_iter().find(|cause| label != 0 && digest(*cause) == label);
    Cut { code, cause }
}

/// Why a link was closed. Zero: it ended well.
pub(super) fn of_fault(fault: Fault) -> VarInt {
    match fault {
        Fault::Closed => VarInt::from_u32(0),
        fault => VarInt::from_u32(1 + fault as u32),
    }
}

/// FNV-1a of a cause's label, 48 bits of it.
fn digest(cause: Cause) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = cause.label().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ hash >> 48) & 0xffff_ffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_come_back_as_what_they_are() {
        for code in Code::ALL.into_iter().skip(1) {
            for cause in Cause::ALL {
                let cut = Cut::new(code, cause);
                assert_eq!(to_cut(of_cut(cut)), cut);
            }
            let cut = Cut { code, cause: None };
            assert_eq!(to_cut(of_cut(cut)), cut);
        }
    }

    #[test]
    fn what_a_later_version_says_is_nothing_else() {
        let internal = Cut { code: Code::Internal, cause: None };
        for said in [0, 99, 0xffff_ffff_ffff << 8 | 99] {
            assert_eq!(to_cut(VarInt::from_u64(said).unwrap()), internal);
        }
    }
}
