//! Element types of buffers and how two values of one are compared.
use half::{bf16, f16};

/// What the elements of a buffer are. All are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Unsigned integer of 1 byte.
    U8,
    /// Unsigned integer of 2 bytes.
    U16,
    /// Unsigned integer of 4 bytes.
    U32,
    /// Unsigned integer of 8 bytes.
    U64,
    /// Signed integer of 4 bytes.
    I32,
    /// Signed integer of 8 bytes.
    I64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

impl Element {
    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn bits(self, raw: &[u8]) -> u64 {
        let mut word = [0; 8];
        word[..raw.len()].copy_from_slice(raw);
        u64::from_le_bytes(word)
    }

    /// The value of a floating type, `None` for integers.
    fn value(self, raw: &[u8]) -> Option<f64> {
        let bits = self.bits(raw);
        // CAST: `bits` holds exactly the element's bytes.
        match self {
            Self::F16 => Some(f16::from_bits(bits as u16).to_f64()),
            Self::Bf16 => Some(bf16::from_bits(bits as u16).to_f64()),
            Self::F32 => Some(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// Steps between two floating values counted along the number line of the type (0 for equal,
    /// also for -0 and +0).
    fn steps(self, a: &[u8], b: &[u8]) -> u64 {
        let width = self.size() as u32 * 8;
        let line = |raw: &[u8]| {
            let bits = self.bits(raw);
            let magnitude = (bits & !(1u64 << (width - 1))) as i64;
            if bits >> (width - 1) == 0 { magnitude } else { -magnitude }
        };
        line(a).abs_diff(line(b))
    }

    /// Whether `got` passes for `want`. Both hold one element. Two NaNs always agree: PTX does not
    /// fix their payload.
    pub(crate) fn agrees(self, got: &[u8], want: &[u8], tolerance: Tolerance) -> bool {
        if got == want {
            return true;
        }
        let (Some(g), Some(w)) = (self.value(got), self.value(want)) else {
            return false;
        };
        if g.is_nan() || w.is_nan() {
            return g.is_nan() && w.is_nan();
        }
        match tolerance {
            Tolerance::Exact | Tolerance::Unordered => false,
            Tolerance::Ulp(n) => self.steps(got, want) <= u64::from(n),
            Tolerance::Near { relative, absolute } => {
                (g - w).abs() <= relative * w.abs() + absolute
            }
        }
    }

    /// The element as text: value and bits.
    pub(crate) fn show(self, raw: &[u8]) -> String {
        let bits = self.bits(raw);
        match self.value(raw) {
            Some(v) => format!("{v:e} ({bits:#x})"),
            None => match self {
                Self::I32 => format!("{} ({bits:#x})", bits as u32 as i32),
                Self::I64 => format!("{} ({bits:#x})", bits as i64),
                _ => format!("{bits} ({bits:#x})"),
            },
        }
    }
}

/// How far a result may be from the host's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Bit for bit (any NaN passes for a NaN).
    Exact,
    /// Exact values in any order: the two sequences are compared sorted.
    Unordered,
    /// At most this many representable values apart.
    Ulp(u32),
    /// `|got - want| <= relative * |want| + absolute`.
    Near {
        /// Factor on the expected magnitude.
        relative: f64,
        /// Added to it.
        absolute: f64,
    },
}

/// A Rust type that is an [`Element`].
pub(crate) trait Elem: Copy {
    const KIND: Element;
    fn put(self, out: &mut Vec<u8>);
}

macro_rules! elem {
    ($($type:ty => $kind:ident),*) => {$(
        impl Elem for $type {
            const KIND: Element = Element::$kind;
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
elem!(
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, i32 => I32, i64 => I64,
    f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64
);

/// The bytes of a slice of elements.
pub(crate) fn to_bytes<E: Elem>(values: &[E]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * E::KIND.size());
    for &v in values {
        v.put(&mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree<E: Elem>(a: E, b: E, t: Tolerance) -> bool {
        E::KIND.agrees(&to_bytes(&[a]), &to_bytes(&[b]), t)
    }

    #[test]
    fn ulps_count_along_the_number_line() {
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        assert!(agree(next, 1.0, Tolerance::Ulp(1)));
        assert!(!agree(next, 1.0, Tolerance::Exact));
        assert!(!agree(f32::from_bits(1.0f32.to_bits() + 2), 1.0, Tolerance::Ulp(1)));
        assert!(agree(f32::from_bits(1), -f32::from_bits(1), Tolerance::Ulp(2)));
        assert!(!agree(f32::from_bits(1), -f32::from_bits(1), Tolerance::Ulp(1)));
        assert!(agree(0.0f64, -0.0, Tolerance::Ulp(0)));
        assert!(!agree(0.0f64, -0.0, Tolerance::Exact));
    }

    #[test]
    fn a_nan_only_passes_for_a_nan() {
        let near = Tolerance::Near { relative: 1.0, absolute: f64::INFINITY };
        assert!(agree(f32::from_bits(0x7fff_ffff), f32::NAN, Tolerance::Exact));
        assert!(!agree(f32::NAN, 1.0, near));
        assert!(!agree(1.0, f32::NAN, near));
    }

    #[test]
    fn integers_have_no_slack() {
        assert!(!agree(5u32, 6, Tolerance::Ulp(9)));
        assert!(agree(5u32, 5, Tolerance::Exact));
    }
}
