//! Conversions (PTX ISA, cvt and cvt.pack).
use crate::integers::planes;
use crate::random::Random;
use crate::rounding::{Mode, flush, narrow, saturate, to_half};
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};
use half::{bf16, f16};

entries! {
    convert_int in op_convert "between integer widths, saturation, packing" [] convert_int;
    convert_float in op_convert
        "floats to integers in every rounding, out of range, NaN" [] convert_float;
    convert_back in op_convert
        "integers to floats, between float widths, tf32, fp8" [Fp8] convert_back;
}

fn int_row(a: u64) -> Vec<u64> {
    let (w, v, s) = (a as u32, (a >> 32) as u32, a as i64);
    let (sw, sv) = (w as i32, v as i32);
    let clamp16 = |x: i32| u64::from(x.clamp(-32768, 32767) as i16 as u16);
    let clamp8 = |x: i32| x.clamp(0, 255) as u64;
    vec![
        i64::from(sw) as u64,
        u64::from(w),
        u64::from(a as u32),
        u64::from(i32::from(a as i16) as u32),
        a & 0xffff,
        u64::from(i32::from(a as i8) as u32),
        a & 0xff,
        a & 0xffff,
        i64::from(a as i8) as u64,
        clamp8(sw),
        u64::from(sw.clamp(-128, 127) as u32),
        sw.clamp(0, 65535) as u64,
        u64::from(s.clamp(-32768, 32767) as i16 as u16),
        u64::from(s.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32),
        s.clamp(0, i64::from(u32::MAX)) as u64,
        u64::from(w.min(i32::MAX as u32)),
        s.max(0) as u64,
        clamp16(sw) << 16 | clamp16(sv),
        0x1234_0000 | clamp8(sw) << 8 | clamp8(sv),
    ]
}

fn convert_int(size: Size) -> Setup {
    let n = size.pick(500, 1 << 15);
    let mut r = Random::new("convert_int");
    let (lo, hi) = (r.edgy(n), r.edgy(n));
    let sign = |v: u32, w: u32| if w.is_multiple_of(3) { (v as i32 >> 31) as u32 } else { w };
    let a: Vec<u64> =
        lo.iter().zip(&hi).map(|(&l, &h)| u64::from(sign(l, h)) << 32 | u64::from(l)).collect();
    let rows: Vec<Vec<u64>> = a.iter().map(|&a| int_row(a)).collect();
    Setup::line(cover(n, 64), 64).input(&a).exact(&planes(&rows)).arg(n as u32)
}

fn whole(x: f64, mode: Mode) -> f64 {
    match mode {
        Mode::Nearest => x.round_ties_even(),
        Mode::Zero => x.trunc(),
        Mode::Down => x.floor(),
        Mode::Up => x.ceil(),
    }
}

/// PTX ISA, cvt: out of range clamps; NaN gives 0, or the sign bit alone where the source is f64 or
/// the result 64 bits.
fn to_int(x: f64, mode: Mode, low: i128, high: i128, wide: bool) -> i64 {
    if x.is_nan() {
        let bits = 128 - (high - low).leading_zeros();
        return if wide { (1u64 << (bits - 1)) as i64 } else { 0 };
    }
    (whole(x, mode) as i128).clamp(low, high) as i64
}

fn float_row(f: f32, d: f64) -> Vec<i64> {
    const S32: (i128, i128) = (i32::MIN as i128, i32::MAX as i128);
    const U32: (i128, i128) = (0, u32::MAX as i128);
    const S64: (i128, i128) = (i64::MIN as i128, i64::MAX as i128);
    const U64: (i128, i128) = (0, u64::MAX as i128);
    const S16: (i128, i128) = (i16::MIN as i128, i16::MAX as i128);
    const U16: (i128, i128) = (0, u16::MAX as i128);
    let from_f =
        |mode, (low, high): (i128, i128)| to_int(f64::from(f), mode, low, high, high > U32.1);
    let from_d = |mode, (low, high): (i128, i128)| to_int(d, mode, low, high, true);
    let h = f16::from_f32(f).to_f64();
    let s32 = |x: i64| i64::from(x as i32);
    vec![
        from_f(Mode::Nearest, S32),
        from_f(Mode::Zero, S32),
        from_f(Mode::Down, S32),
        from_f(Mode::Up, S32),
        from_f(Mode::Zero, U32),
        from_f(Mode::Zero, S64),
        from_f(Mode::Zero, U64),
        from_f(Mode::Zero, S16),
        from_f(Mode::Zero, U16),
        s32(from_d(Mode::Nearest, S32)),
        s32(from_d(Mode::Down, S32)),
        from_d(Mode::Zero, U32),
        from_d(Mode::Zero, S64),
        from_d(Mode::Up, S64),
        from_d(Mode::Zero, U64),
        to_int(h, Mode::Zero, S32.0, S32.1, false),
        to_int(h, Mode::Nearest, U16.0, U16.1, false),
    ]
}

fn convert_float(size: Size) -> Setup {
    let n = size.pick(600, 1 << 15);
    let mut r = Random::new("convert_float");
    let special = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        -0.999,
        65535.5,
        32767.5,
        -32768.5,
        2_147_483_647.5,
        -2_147_483_649.0,
        4_294_967_296.0,
        9.3e18,
        -9.3e18,
        1.9e19,
        1e30,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let mut value = |i: usize| {
        if i < 400 && i.is_multiple_of(2) {
            special[i / 2 % special.len()]
        } else {
            r.f64(-2.0, 2.0) * 2f64.powi(r.below(66) as i32)
        }
    };
    let d: Vec<f64> = (0..n).map(&mut value).collect();
    let f: Vec<f32> = (0..n).map(|i| value(i) as f32).collect();
    let rows: Vec<Vec<i64>> = (0..n).map(|i| float_row(f[i], d[i])).collect();
    Setup::line(cover(n, 64), 64).input(&f).input(&d).exact(&planes(&rows)).arg(n as u32)
}

/// An 8-bit float with `mantissa` bits (e4m3: no infinities; e5m2: IEEE-like), OCP "8-bit floating
/// point", 2023.
fn fp8(code: u8, mantissa: u32) -> f64 {
    let bias = if mantissa == 3 { 7 } else { 15 };
    let (e, m) = (i32::from(code & 0x7f) >> mantissa, f64::from(code & ((1 << mantissa) - 1)));
    let scale = f64::from(1 << mantissa);
    let value = if mantissa == 3 && code & 0x7f == 0x7f || mantissa == 2 && code & 0x7f > 0x7c {
        f64::NAN
    } else if mantissa == 2 && code & 0x7f == 0x7c {
        f64::INFINITY
    } else if e == 0 {
        m / scale * 2f64.powi(1 - bias)
    } else {
        (1.0 + m / scale) * 2f64.powi(e - bias)
    };
    value.copysign(if code & 0x80 == 0 { 1.0 } else { -1.0 })
}

/// `.rn.satfinite`: nearest finite code, ties to the even one, by trying them all.
fn to_fp8(x: f32, mantissa: u32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let x = f64::from(x.abs());
    let finite = (0u8..0x80).filter(|&c| fp8(c, mantissa).is_finite());
    let best = finite.min_by(|&a, &b| {
        let far = |c: u8| (fp8(c, mantissa) - x.min(1e9)).abs();
        far(a).total_cmp(&far(b)).then((a & 1).cmp(&(b & 1)))
    });
    sign | best.unwrap_or(0)
}

fn back_row(a: u64, f: f32, d: f64) -> Vec<u64> {
    let (w, s) = (a as u32, a as i64);
    let sw = w as i32;
    let from = |x: f64, mode| u64::from(narrow(x, 0.0, mode).to_bits());
    let bits = |x: f32| u64::from(x.to_bits());
    // Truncation toward zero drops bits of the magnitude.
    let f16_rz = {
        let near = f16::from_f32(f);
        let over = near.to_f64().abs() > f64::from(f.abs());
        if over { f16::from_bits(near.to_bits() - 1) } else { near }
    };
    let bf16_rz = bf16::from_bits((f.to_bits() >> 16) as u16);
    // Round to nearest, ties away from zero, keeping 10 bits of the mantissa.
    let tf32 = if f.is_finite() { f.to_bits().wrapping_add(0x1000) & !0x1fff } else { f.to_bits() };
    let u64_rz = {
        let near = a as f64;
        if near as u128 > u128::from(a) { near.next_down() } else { near }
    };
    let g = sw as f32 / 16_777_216.0;
    let relu = |x: f32| if x > 0.0 { bf16::from_f32(x) } else { bf16::ZERO };
    let pair = |hi: u16, lo: u16| u64::from(hi) << 16 | u64::from(lo);
    let fp8_pair = |m| u64::from(to_fp8(f, m)) << 8 | u64::from(to_fp8(g, m));
    let unpack = |m| {
        let half = |c: u8| to_half::<f16>(fp8(c, m)).to_bits();
        pair(half((a >> 8) as u8), half(a as u8))
    };
    vec![
        from(f64::from(sw), Mode::Nearest),
        from(f64::from(sw), Mode::Zero),
        from(f64::from(sw), Mode::Down),
        from(f64::from(w), Mode::Up),
        bits(s as f32),
        bits(a as f32),
        f64::from(sw).to_bits(),
        f64::from(w).to_bits(),
        (s as f64).to_bits(),
        u64_rz.to_bits(),
        f64::from(f).to_bits(),
        from(d, Mode::Nearest),
        from(d, Mode::Zero),
        from(d, Mode::Down),
        from(d, Mode::Up),
        bits(f.round_ties_even()),
        bits(f.trunc()),
        bits(f.floor()),
        bits(f.ceil()),
        bits(saturate(f)),
        bits(flush(f)),
        u64::from(f16::from_f32(f).to_bits()),
        u64::from(f16_rz.to_bits()),
        u64::from(bf16::from_f32(f).to_bits()),
        u64::from(bf16_rz.to_bits()),
        bits(f16::from_bits(a as u16).to_f32()),
        bits(bf16::from_bits(a as u16).to_f32()),
        u64::from(tf32),
        u64::from(to_half::<f16>(d).to_bits()),
        u64::from(to_half::<f16>(f64::from(sw)).to_bits()),
        pair(f16::from_f32(f).to_bits(), f16::from_f32(g).to_bits()),
        pair(relu(f).to_bits(), relu(g).to_bits()),
        fp8_pair(3),
        fp8_pair(2),
        unpack(3),
        unpack(2),
    ]
}

fn convert_back(size: Size) -> Setup {
    let n = size.pick(600, 1 << 12);
    let mut r = Random::new("convert_back");
    // No code in the low 16 bits is a NaN of any of the small formats: their payloads are not fixed
    // by PTX.
    let nan = |a: u64| {
        let (h, bytes) = (a as u16, [a as u8, (a >> 8) as u8]);
        f16::from_bits(h).is_nan()
            || bf16::from_bits(h).is_nan()
            || bytes.iter().any(|&b| fp8(b, 3).is_nan() || fp8(b, 2).is_nan())
    };
    let a: Vec<u64> = (0..n)
        .map(|_| {
            let word = u64::from(r.edgy(1)[0]) | r.u64() >> r.below(64) << 32;
            if nan(word) { word & !0xffff | 0x3b41 } else { word }
        })
        .collect();
    let special = [
        0.0, -0.0, 0.5, 1.5, -2.5, 448.0, 464.0, 465.0, 57344.0, 65504.0, 65520.0, 1e-7, 3e-8,
        1e-40, 1e30,
    ];
    let infinite = [f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300, 3.5e38];
    let mut value = |extra: bool| match r.below(4) {
        0 => special[r.below(15) as usize] * if r.below(2) == 0 { 1.0 } else { -1.0 },
        1 if extra => infinite[r.below(5) as usize],
        _ => r.f64(-2.0, 2.0) * 2f64.powi(r.below(40) as i32 - 24),
    };
    let d: Vec<f64> = (0..n).map(|_| value(true)).collect();
    let f: Vec<f32> = (0..n).map(|_| value(false) as f32).collect();
    let rows: Vec<Vec<u64>> = (0..n).map(|i| back_row(a[i], f[i], d[i])).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&f).input(&d).exact(&planes(&rows)).arg(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_codes_survive_the_round_trip() {
        for mantissa in [2, 3] {
            for code in 0..=255u8 {
                let value = fp8(code, mantissa);
                if value.is_finite() {
                    assert_eq!(to_fp8(value as f32, mantissa), code);
                }
            }
        }
        assert_eq!((fp8(0x7e, 3), fp8(0x7b, 2), fp8(0x38, 3)), (448.0, 57344.0, 1.0));
        assert_eq!((to_fp8(1e9, 3), to_fp8(-1e9, 2)), (0x7e, 0xfb));
    }

    #[test]
    fn integers_clamp() {
        assert_eq!(
            to_int(3e9, Mode::Zero, i32::MIN as i128, i32::MAX as i128, false),
            i64::from(i32::MAX)
        );
        assert_eq!(to_int(f64::NAN, Mode::Zero, i32::MIN as i128, i32::MAX as i128, true), 1 << 31);
        assert_eq!(to_int(f64::NAN, Mode::Zero, 0, u64::MAX as i128, true), i64::MIN);
        assert_eq!(to_int(-0.5, Mode::Nearest, 0, 255, false), 0);
    }
}
