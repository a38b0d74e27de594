//! What a kernel says: `vprintf`, formatted here into the launch's bounded text, and `__assertfail`.
//! Source: CUDA C++ programming guide, "Formatted output" and "Assertion".

use super::launch::Launch;
use super::memory_ops::View;
use super::warp::{Outcome, fault};
use crate::fault::FaultKind;
use crate::ir::{Op, window};
use crate::raw::LANES;

/// Most bytes a launch may print; the rest is dropped.
pub(crate) const PRINT_LIMIT: usize = 64 << 10;
/// Longest string read from a kernel.
const STRING_LIMIT: u64 = 1024;
/// Widest field that a format may ask for.
const FIELD_LIMIT: usize = 256;

impl View<'_> {
    /// One byte at a generic address, as a lane sees it.
    fn byte(&self, address: u64, lane: usize) -> Option<u8> {
        let local = address.wrapping_sub(window::LOCAL);
        if local < window::SIZE {
            let word = self.local.get(usize::try_from(local / 4).ok()?)?.0[lane];
            return Some((word >> (8 * (local & 3))) as u8);
        }
        let shared = address.wrapping_sub(window::SHARED);
        if shared < window::SIZE {
            return self.shared.load(shared);
        }
        if self.launch.arena.is_some_and(|a| !a.contains(address, 1)) {
            return None;
        }
        let (region, offset) = self.launch.map.locate(address, 1)?;
        if region.access.read { region.segment.load(offset) } else { None }
    }

    /// A little-endian number at a generic address.
    fn number(&self, address: u64, bytes: u64, lane: usize) -> Option<u64> {
        (0..bytes).try_fold(0, |v, i| {
            Some(v | u64::from(self.byte(address.wrapping_add(i), lane)?) << (8 * i))
        })
    }

    /// A C string at a generic address, cut to what is readable and [`STRING_LIMIT`].
    fn string(&self, address: u64, lane: usize) -> Vec<u8> {
        let bytes = (0..STRING_LIMIT).map_while(|i| self.byte(address.wrapping_add(i), lane));
        bytes.take_while(|&b| b != 0).collect()
    }

    /// A word of the running frame.
    fn frame_word(&self, offset: u32, lane: usize) -> u32 {
        self.local.get((self.frame + offset) as usize / 4).map_or(0, |w| w.0[lane])
    }

    /// A pointer in the running frame.
    fn frame_pointer(&self, offset: u32, lane: usize) -> u64 {
        u64::from(self.frame_word(offset, lane))
            | u64::from(self.frame_word(offset + 4, lane)) << 32
    }
}

/// `__assertfail`: the first lane's words become the fault.
pub(crate) fn assert_failed(view: &mut View<'_>, op: &Op, mask: u32) -> Outcome<()> {
    let Op::AssertFail { message, file, line, function } = *op else { return Ok(()) };
    let lane = mask.trailing_zeros() as usize & 31;
    let text = |offset| {
        let bytes = view.string(view.frame_pointer(offset, lane), lane);
        String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
    };
    let line = view.frame_word(line, lane);
    let message = format!("{} ({}:{line}, {})", text(message), text(file), text(function));
    fault(mask, FaultKind::Assert { message })
}

/// `vprintf` for every lane of `mask` in order.
pub(crate) fn print(view: &mut View<'_>, op: &Op, mask: u32) -> Outcome<()> {
    let Op::Print { format, args, result } = *op else { return Ok(()) };
    for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
        let template = view.string(view.frame_pointer(format, lane), lane);
        let text = render(view, &template, view.frame_pointer(args, lane), lane);
        append(view.launch, &text);
        let written = text.len() as u32;
        if let Some(word) = view.local.get_mut((view.frame + result) as usize / 4) {
            word.0[lane] = written;
        }
    }
    Ok(())
}

fn append(launch: &Launch, text: &[u8]) {
    let mut printed = launch.printed.lock().unwrap_or_else(|e| e.into_inner());
    let room = PRINT_LIMIT.saturating_sub(printed.len());
    printed.extend_from_slice(&text[..text.len().min(room)]);
}

/// Fills a format in. Arguments lie one after the other, each at its natural alignment; `char` and `short` take four
/// bytes, `float` eight.
fn render(view: &View<'_>, template: &[u8], args: u64, lane: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = args;
    let mut take = |bytes: u64| {
        at = at.next_multiple_of(bytes);
        let value = view.number(at, bytes, lane).unwrap_or(0);
        at = at.wrapping_add(bytes);
        value
    };
    let mut rest = template.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut field = Field::default();
        while let Some(&flag) = rest.peek() {
            match flag {
                b'-' => field.left = true,
                b'0' => field.zero = true,
                b'+' => field.plus = true,
                b' ' => field.blank = true,
                b'#' => field.alternate = true,
                _ => break,
            }
            rest.next();
        }
        let mut digits = |take: &mut dyn FnMut(u64) -> u64| -> usize {
            let mut n = 0usize;
            while let Some(&d) = rest.peek() {
                match d {
                    b'0'..=b'9' => n = (n * 10 + usize::from(d - b'0')).min(FIELD_LIMIT),
                    b'*' => n = (take(4) as usize).min(FIELD_LIMIT),
                    _ => break,
                }
                rest.next();
            }
            n
        };
        #[allow(clippy::redundant_closure_call)] // The same reading happens twice.
        {
            field.width = digits(&mut take);
        }
        if rest.peek() == Some(&b'.') {
            rest.next();
            let mut digits = |take: &mut dyn FnMut(u64) -> u64| -> usize {
                let mut n = 0usize;
                while let Some(&d) = rest.peek() {
                    match d {
                        b'0'..=b'9' => n = (n * 10 + usize::from(d - b'0')).min(FIELD_LIMIT),
                        b'*' => n = (take(4) as usize).min(FIELD_LIMIT),
                        _ => break,
                    }
                    rest.next();
                }
                n
            };
            field.precision = Some(digits(&mut take));
        }
        let mut long = false;
        while let Some(&size) = rest.peek() {
            match size {
                b'l' | b'z' | b'j' | b't' => long = true,
                b'h' => {}
                _ => break,
            }
            rest.next();
        }
        let word = if long { 8 } else { 4 };
        match rest.next() {
            Some(b'%') => out.push(b'%'),
            Some(b'd' | b'i') => {
                let raw = take(word);
                let value = if long { raw as i64 } else { i64::from(raw as i32) };
                field.number(&mut out, value < 0, &value.unsigned_abs().to_string());
            }
            Some(b'u') => field.number(&mut out, false, &take(word).to_string()),
            Some(b'x') => field.number(&mut out, false, &format!("{:x}", take(word))),
            Some(b'X') => field.number(&mut out, false, &format!("{:X}", take(word))),
            Some(b'o') => field.number(&mut out, false, &format!("{:o}", take(word))),
            Some(b'p') => field.pad(&mut out, format!("{:#x}", take(8)).as_bytes()),
            Some(b'c') => field.pad(&mut out, &[take(4) as u8]),
            Some(b's') => {
                let text = view.string(take(8), lane);
                let shown = field.precision.map_or(text.len(), |p| p.min(text.len()));
                field.pad(&mut out, &text[..shown]);
            }
            Some(kind @ (b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A')) => {
                let value = f64::from_bits(take(8));
                field.number(
                    &mut out,
                    value.is_sign_negative(),
                    &float(value.abs(), kind, field.precision),
                );
            }
            Some(other) => out.extend_from_slice(&[b'%', other]),
            None => out.push(b'%'),
        }
    }
    out
}

/// A conversion's flags.
#[derive(Default)]
struct Field {
    left: bool,
    zero: bool,
    plus: bool,
    blank: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

impl Field {
    fn pad(&self, out: &mut Vec<u8>, text: &[u8]) {
        let fill = vec![b' '; self.width.saturating_sub(text.len())];
        if self.left {
            out.extend_from_slice(text);
            out.extend_from_slice(&fill);
        } else {
            out.extend_from_slice(&fill);
            out.extend_from_slice(text);
        }
    }

    fn number(&self, out: &mut Vec<u8>, negative: bool, digits: &str) {
        let sign = if negative {
            "-"
        } else if self.plus {
            "+"
        } else if self.blank {
            " "
        } else {
            ""
        };
        let zeros = if self.zero && !self.left {
            self.width.saturating_sub(sign.len() + digits.len())
        } else {
            0
        };
        self.pad(out, format!("{sign}{}{digits}", "0".repeat(zeros)).as_bytes());
    }
}

/// A non-negative float as C prints it.
fn float(value: f64, kind: u8, precision: Option<usize>) -> String {
    let precision = precision.unwrap_or(6);
    if !value.is_finite() {
        return if value.is_nan() { "nan" } else { "inf" }.to_owned();
    }
    let exponential = |digits: usize| {
        let text = format!("{value:.digits$e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        (format!("{mantissa}e{sign}{:02}", exponent.abs()), exponent)
    };
    match kind {
        b'f' | b'F' => format!("{value:.precision$}"),
        b'e' | b'E' => exponential(precision).0,
        _ => {
            let significant = precision.max(1);
            let (text, exponent) = exponential(significant - 1);
            let trim = |t: &str| {
                if t.contains('.') {
                    t.trim_end_matches('0').trim_end_matches('.').to_owned()
                } else {
                    t.to_owned()
                }
            };
            if exponent < -4 || exponent >= significant as i32 {
                let (mantissa, tail) = text.split_once('e').unwrap_or((&text, "+00"));
                format!("{}e{tail}", trim(mantissa))
            } else {
                trim(&format!("{value:.*}", (significant as i32 - 1 - exponent).max(0) as usize))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_look_as_c_prints_them() {
        assert_eq!(float(1.5, b'f', None), "1.500000");
        assert_eq!(float(12345.678, b'e', Some(3)), "1.235e+04");
        assert_eq!(float(0.0001, b'g', None), "0.0001");
        assert_eq!(float(1e10, b'g', None), "1e+10");
        assert_eq!(float(100.0, b'g', None), "100");
        assert_eq!(float(f64::INFINITY, b'f', None), "inf");
    }

    #[test]
    fn fields_are_padded() {
        let mut out = Vec::new();
        Field { width: 5, zero: true, ..Field::default() }.number(&mut out, true, "42");
        Field { width: 4, left: true, ..Field::default() }.number(&mut out, false, "7");
        assert_eq!(out, b"-00427   ");
    }
}
