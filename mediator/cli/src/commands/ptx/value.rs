//! Numbers on the command line: sizes, scalars, and what a buffer holds.

/// Reads a size: decimal or 0x, with KiB, MiB, GiB or TiB after it.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    let number =
        parse_u64(digits.trim()).ok_or(format!("{text} is no size; write 4GiB or 0x1000"))?;
    number.checked_shl(shift).filter(|n| n >> shift == number).ok_or(format!("{text} is too large"))
}

fn parse_u64(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Types an element can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Unsigned or signed integer of so many bytes.
    Integer {
        bytes: usize,
        signed: bool,
    },
    F32,
    F64,
}

impl Type {
    fn parse(text: &str) -> Result<Type, String> {
        let integer = |bytes, signed| Ok(Type::Integer { bytes, signed });
        match text {
            "u8" | "b8" => integer(1, false),
            "u16" | "b16" => integer(2, false),
            "u32" | "b32" => integer(4, false),
            "u64" | "b64" => integer(8, false),
            "s8" => integer(1, true),
            "s16" => integer(2, true),
            "s32" => integer(4, true),
            "s64" => integer(8, true),
            "f32" => Ok(Type::F32),
            "f64" => Ok(Type::F64),
            _ => Err(format!("{text} is no type; write u8 to u64, s8 to s64, f32 or f64")),
        }
    }
    /// Size in bytes, which is its alignment too.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Type::Integer { bytes, .. } => bytes,
            Type::F32 => 4,
            Type::F64 => 8,
        }
    }
    /// Reads one number as little-endian bytes.
    fn read(self, text: &str, into: &mut Vec<u8>) -> Result<(), String> {
        let text = text.trim();
        let bad = || format!("{text} is no {self:?}");
        match self {
            Type::Integer { bytes, signed } => {
                let value = match text.strip_prefix('-') {
                    Some(digits) if signed => parse_u64(digits).map(|v| -i128::from(v)),
                    _ => parse_u64(text).map(i128::from),
                };
                let value = value.ok_or_else(bad)?;
                let bits = bytes as u32 * 8;
                let fits = match signed {
                    true => value >= -(1_i128 << (bits - 1)) && value < 1 << bits,
                    false => value < 1 << bits,
                };
                if !fits {
                    return Err(format!("{text} does not fit into {bits} bits"));
                }
                into.extend_from_slice(&value.to_le_bytes()[..bytes]);
            }
            Type::F32 => into.extend(text.parse::<f32>().map_err(|_| bad())?.to_le_bytes()),
            Type::F64 => into.extend(text.parse::<f64>().map_err(|_| bad())?.to_le_bytes()),
        }
        Ok(())
    }
    /// The number `i`, counting.
    fn count(self, i: u64, into: &mut Vec<u8>) {
        match self {
            Type::Integer { bytes, .. } => into.extend_from_slice(&i.to_le_bytes()[..bytes]),
            Type::F32 => into.extend((i as f32).to_le_bytes()),
            Type::F64 => into.extend((i as f64).to_le_bytes()),
        }
    }
    /// An element as a float and as text.
    pub(super) fn show(self, bytes: &[u8]) -> (f64, String) {
        let mut word = [0; 8];
        word[..self.bytes()].copy_from_slice(&bytes[..self.bytes()]);
        let raw = u64::from_le_bytes(word);
        match self {
            Type::Integer { bytes, signed: true } => {
                let shift = 64 - bytes as u32 * 8;
                let value = (raw << shift).cast_signed() >> shift;
                (value as f64, value.to_string())
            }
            Type::Integer { .. } => (raw as f64, raw.to_string()),
            Type::F32 => {
                let value = f32::from_bits(raw as u32);
                (value.into(), value.to_string())
            }
            Type::F64 => (f64::from_bits(raw), f64::from_bits(raw).to_string()),
        }
    }
}

/// An argument of a kernel: `u32=5`, several numbers for a structure passed by value, or a buffer `f32[1024]`, `f32[1024]=CONTENTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Argument {
    pub(super) element: Type,
    /// Elements of a buffer; `None` for a scalar.
    pub(super) elements: Option<usize>,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

/// Most bytes of one buffer on the command line.
const MAX_BUFFER: usize = 1 << 30;

impl Argument {
    pub(super) fn parse(text: &str) -> Result<Argument, String> {
        let (what, value) = match text.split_once('=') {
            Some((what, value)) => (what, Some(value)),
            None => (text, None),
        };
        match what.split_once('[') {
            None => {
                let element = Type::parse(what)?;
                let value = value.ok_or("a scalar needs a value, such as u32=5")?;
                let mut bytes = Vec::new();
                value.split(',').try_for_each(|number| element.read(number, &mut bytes))?;
                Ok(Argument { element, elements: None, bytes })
            }
            Some((name, rest)) => {
                let element = Type::parse(name)?;
                let count = rest.strip_suffix(']').ok_or("write a buffer as f32[1024]")?;
                let count = usize::try_from(parse_size(count)?).map_err(|e| e.to_string())?;
                let total = count.checked_mul(element.bytes()).filter(|&n| n <= MAX_BUFFER);
                if total.is_none() || count == 0 {
                    return Err(format!("a buffer has 1 to {MAX_BUFFER} bytes"));
                }
                let bytes = contents(element, count, value.unwrap_or("zero"))?;
                Ok(Argument { element, elements: Some(count), bytes })
            }
        }
    }
}

/// The bytes of a buffer: `zero`, `iota`, `@FILE`, one number for all, or a list of them.
pub(super) fn contents(element: Type, count: usize, text: &str) -> Result<Vec<u8>, String> {
    let total = count * element.bytes();
    let mut bytes = Vec::with_capacity(total);
    match text {
        "zero" => bytes.resize(total, 0),
        "iota" => (0..count as u64).for_each(|i| element.count(i, &mut bytes)),
        _ => match text.strip_prefix('@') {
            Some(file) => bytes = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?,
            None if text.contains(',') => {
                text.split(',').try_for_each(|number| element.read(number, &mut bytes))?;
            }
            None => {
                let mut one = Vec::new();
                element.read(text, &mut one)?;
                (0..count).for_each(|_| bytes.extend_from_slice(&one));
            }
        },
    }
    if bytes.len() != total {
        let given = bytes.len() / element.bytes();
        return Err(format!("{given} elements given for a buffer of {count}"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_limits() {
        assert_eq!(parse_size("4GiB"), Ok(4 << 30));
        assert_eq!(parse_size("0x10"), Ok(16));
        assert!(parse_size("99999999TiB").is_err());
        assert!(parse_size("-1").is_err() && parse_size("").is_err() && parse_size("GiB").is_err());
    }

    #[test]
    fn arguments_are_scalars_or_buffers() {
        let scalar = Argument::parse("s16=-2").unwrap();
        assert_eq!((scalar.elements, scalar.bytes), (None, vec![0xfe, 0xff]));
        let by_value = Argument::parse("u16=1,2").unwrap();
        assert_eq!((by_value.elements, by_value.bytes), (None, vec![1, 0, 2, 0]));
        assert!(Argument::parse("u8=256").is_err());
        assert!(Argument::parse("u8=-1").is_err());
        assert!(Argument::parse("u32").is_err());
        let list = Argument::parse("f32[2]=1.5,-2").unwrap();
        assert_eq!(list.bytes, [1.5_f32.to_le_bytes(), (-2_f32).to_le_bytes()].concat());
        assert_eq!(Argument::parse("u16[3]=iota").unwrap().bytes, [0, 0, 1, 0, 2, 0]);
        assert_eq!(Argument::parse("u64[2]").unwrap().bytes, [0; 16]);
        assert_eq!(Argument::parse("u8[3]=7").unwrap().bytes, [7; 3]);
        for bad in ["f32[2]=1,2,3", "f32[0]", "f32[2", "x[2]", "f32[999TiB]", "u8[2]=x"] {
            assert!(Argument::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn elements_are_shown_as_they_are() {
        let s16 = Type::Integer { bytes: 2, signed: true };
        assert_eq!(s16.show(&[0xfe, 0xff]).1, "-2");
        assert_eq!(Type::F32.show(&1.5_f32.to_le_bytes()).1, "1.5");
        let u64t = Type::Integer { bytes: 8, signed: false };
        assert_eq!(u64t.show(&[0xff; 8]).1, u64::MAX.to_string());
    }
}
