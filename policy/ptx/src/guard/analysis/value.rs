//! The abstract value of one register: which object's address it may be relative to, an interval and
//! known bits.
//!
//! It stands for a set of bit patterns: `base + n` for any `base` of [`Value::bases`] and any integer `n`
//! in `lo..=hi` whose known bits agree, everything modulo `2^W`, where the width `W` is that of the
//! instruction that reads it. So additions need no care about overflow; operations that read a number as
//! signed or unsigned first ask for that reading, and get the full range when it would wrap.

/// The address of no object: a plain number.
pub const NUMBER: u64 = 1 << 63;

/// Bases that a value can tell apart; objects beyond are plain numbers of unknown value.
pub(super) const MAX_OBJECTS: usize = 31;

/// A set of bit patterns; see the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Bit `2 * i`: the address of object `i` inside its own space; bit `2 * i + 1`: its generic address;
    /// [`NUMBER`]: none.
    pub bases: u64,
    /// Least offset from the base.
    pub lo: i64,
    /// Greatest offset from the base.
    pub hi: i64,
    /// Bits of the offset known to be zero (modulo the width).
    pub zeros: u64,
    /// Bits of the offset known to be one.
    pub ones: u64,
}

/// All bits below `width`.
pub(super) const fn mask(width: u32) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

const fn signed_min(width: u32) -> i64 {
    if width >= 64 { i64::MIN } else { -(1 << (width - 1)) }
}

const fn signed_max(width: u32) -> i64 {
    if width >= 64 { i64::MAX } else { (1 << (width - 1)) - 1 }
}

impl Value {
    /// Any bit pattern.
    pub const TOP: Self = Self { bases: NUMBER, lo: i64::MIN, hi: i64::MAX, zeros: 0, ones: 0 };

    /// One number.
    pub const fn int(value: i64) -> Self {
        Self { bases: NUMBER, lo: value, hi: value, zeros: !(value as u64), ones: value as u64 }
    }

    /// A number from `lo` to `hi`.
    pub fn range(lo: i64, hi: i64) -> Self {
        Self { bases: NUMBER, lo, hi, zeros: 0, ones: 0 }.with_bits_of_range(64)
    }

    /// The address of an object (bit of [`Value::bases`]) plus a constant.
    pub const fn address(base: u64, offset: i64) -> Self {
        Self { bases: base, ..Self::int(offset) }
    }

    /// True when it is relative to no object.
    pub const fn is_number(&self) -> bool {
        self.bases == NUMBER
    }

    /// True when nothing is known.
    pub const fn is_top(&self) -> bool {
        self.bases & NUMBER != 0
            && self.lo == i64::MIN
            && self.hi == i64::MAX
            && self.zeros == 0
            && self.ones == 0
    }

    /// The number it must be, if there is only one.
    pub fn constant(&self) -> Option<i64> {
        (self.is_number() && self.lo == self.hi).then_some(self.lo)
    }

    /// Low bits known to be zero, at most 63.
    pub fn trailing_zeros(&self) -> u32 {
        (!self.zeros).trailing_zeros().min(63)
    }

    /// The numbers it may be when `width` bits are read as signed; full range when that wraps.
    pub fn signed(&self, width: u32) -> (i64, i64) {
        let (min, max) = (signed_min(width), signed_max(width));
        if width >= 64 {
            return (self.lo, self.hi);
        }
        let shift = (self.lo.wrapping_sub(min)) >> width << width;
        let Some(span) = self.hi.checked_sub(self.lo) else { return (min, max) };
        let lo = self.lo.wrapping_sub(shift);
        match lo.checked_add(span) {
            Some(hi) if lo >= min && hi <= max => (lo, hi),
            _ => (min, max),
        }
    }

    /// The numbers it may be when `width` bits are read as unsigned; full range when that wraps.
    pub fn unsigned(&self, width: u32) -> (u64, u64) {
        let full = mask(width);
        let (mut lo, mut hi) = (0, full);
        if width >= 64 {
            if self.lo >= 0 || self.hi < 0 {
                (lo, hi) = (self.lo as u64, self.hi as u64);
            }
        } else if let Some(span) = self.hi.checked_sub(self.lo) {
            let low = self.lo.rem_euclid(1 << width) as u64;
            if (span as u64) <= full - low {
                (lo, hi) = (low, low + span as u64);
            }
        }
        // The bits say something about the pattern as well.
        let (low, high) = (lo.max(self.ones & full), hi.min(!self.zeros & full));
        // Empty means that the code does not run; callers rely on order only.
        if low <= high { (low, high) } else { (0, full) }
    }

    fn from_unsigned(lo: u64, hi: u64, width: u32) -> Self {
        let range = if width >= 64 && hi > i64::MAX as u64 {
            if lo > i64::MAX as u64 { (lo as i64, hi as i64) } else { (i64::MIN, i64::MAX) }
        } else {
            (lo as i64, hi as i64)
        };
        Self { bases: NUMBER, lo: range.0, hi: range.1, zeros: 0, ones: 0 }.fit(width)
    }

    /// Puts the value into its usual form for `width` bits: the interval shifted by multiples of `2^W`
    /// so that it starts in the signed range, full when it spans everything, and bits and interval
    /// sharpened by each other.
    #[must_use]
    pub fn fit(mut self, width: u32) -> Self {
        let full = mask(width);
        if self.zeros & self.ones & full != 0 {
            // No pattern at all: the code does not run. Anything may be said of it.
            (self.zeros, self.ones) = (0, 0);
        }
        if width < 64 {
            self.zeros &= full;
            self.ones &= full;
            let wide = self.hi.checked_sub(self.lo).is_none_or(|span| span as u64 >= full);
            if wide {
                (self.lo, self.hi) = (signed_min(width), signed_max(width));
            } else {
                let shift = (self.lo.wrapping_sub(signed_min(width))) >> width << width;
                match (self.lo.checked_sub(shift), self.hi.checked_sub(shift)) {
                    (Some(lo), Some(hi)) => (self.lo, self.hi) = (lo, hi),
                    _ => (self.lo, self.hi) = (signed_min(width), signed_max(width)),
                }
            }
        }
        self.sharpen(width);
        self.with_bits_of_range(width)
    }

    /// Narrows the interval with the known bits.
    fn sharpen(&mut self, width: u32) {
        let full = mask(width);
        // Unsigned bounds from the bits, when the interval does not cross zero, or is full.
        let most = !self.zeros & full;
        let is_full = self.lo == signed_min(width) && self.hi == signed_max(width);
        let plain = self.lo >= 0 && self.hi as u64 <= full;
        if most <= signed_max(width) as u64 && (plain || is_full) {
            let lo = self.lo.max(0).max((self.ones & full) as i64);
            let hi = self.hi.min(most as i64);
            if lo <= hi {
                (self.lo, self.hi) = (lo, hi);
            }
        }
        // Low bits known: only every 2^t-th number is possible.
        let known = (!(self.zeros | self.ones)).trailing_zeros().min(62);
        if known > 0 {
            let step = 1i64 << known;
            let residue = (self.ones & mask(known)) as i64;
            let up = (residue - self.lo.rem_euclid(step)).rem_euclid(step);
            let down = (self.hi.rem_euclid(step) - residue).rem_euclid(step);
            if let (Some(lo), Some(hi)) = (self.lo.checked_add(up), self.hi.checked_sub(down))
                && lo <= hi
            {
                (self.lo, self.hi) = (lo, hi);
            }
        }
    }

    /// Adds the bits that all numbers of the interval share.
    fn with_bits_of_range(mut self, width: u32) -> Self {
        let full = mask(width);
        if (self.lo < 0) == (self.hi < 0) || self.lo >= 0 {
            let differing = (self.lo ^ self.hi) as u64;
            let shared = if differing == 0 { 64 } else { differing.leading_zeros() };
            let known = full & if shared == 64 { u64::MAX } else { !(u64::MAX >> shared) };
            let (zeros, ones) = (!(self.lo as u64) & known, self.lo as u64 & known);
            // A contradiction means that the code does not run; keep what there was.
            if (self.zeros | zeros) & (self.ones | ones) == 0 {
                self.zeros |= zeros;
                self.ones |= ones;
            }
        }
        self
    }

    /// Either of two values.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            bases: self.bases | other.bases,
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
            zeros: self.zeros & other.zeros,
            ones: self.ones & other.ones,
        }
    }

    /// True when every pattern of `self` is one of `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.bases & !other.bases == 0
            && self.lo >= other.lo
            && self.hi <= other.hi
            && other.zeros & !self.zeros == 0
            && other.ones & !self.ones == 0
    }

    /// Whether the value, read with `width` bits, may be met with `lo..=hi` modulo `2^width`; the part
    /// of the value inside. Only for plain numbers (others come back unchanged).
    #[must_use]
    pub fn meet(self, lo: i64, hi: i64, width: u32) -> Self {
        if !self.is_number() {
            return self;
        }
        let fitted = self.fit(width);
        let mut found: Option<(i64, i64)> = None;
        for turn in -1i128..=1 {
            let shift = turn << width;
            let low = (i128::from(lo) + shift).max(i128::from(fitted.lo));
            let high = (i128::from(hi) + shift).min(i128::from(fitted.hi));
            if low <= high {
                let (low, high) = (low as i64, high as i64);
                found = Some(found.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
            }
        }
        match found {
            Some((lo, hi)) => Self { lo, hi, ..fitted }.fit(width),
            None => fitted,
        }
    }

    /// `self + other`.
    #[must_use]
    pub fn add(self, other: Self, width: u32) -> Self {
        let bases = match (self.is_number(), other.is_number()) {
            (_, true) => self.bases,
            (true, false) => other.bases,
            (false, false) => return Self::TOP,
        };
        let (lo, hi) = match (self.lo.checked_add(other.lo), self.hi.checked_add(other.hi)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        let (zeros, ones) = add_bits((self.zeros, self.ones), (other.zeros, other.ones), 0);
        Self { bases, lo, hi, zeros, ones }.fit(width)
    }

    /// `self - other`; the difference of two addresses in one object is a number.
    #[must_use]
    pub fn sub(self, other: Self, width: u32) -> Self {
        let bases = if other.is_number() {
            self.bases
        } else if self.bases == other.bases && self.bases.count_ones() == 1 {
            NUMBER
        } else {
            return Self::TOP;
        };
        let (lo, hi) = match (self.lo.checked_sub(other.hi), self.hi.checked_sub(other.lo)) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        let (zeros, ones) = add_bits((self.zeros, self.ones), (other.ones, other.zeros), 1);
        Self { bases, lo, hi, zeros, ones }.fit(width)
    }

    /// The low `width` bits of a product.
    #[must_use]
    pub fn mul(self, other: Self, width: u32) -> Self {
        if !self.is_number() || !other.is_number() {
            return Self::TOP;
        }
        let (a, b) = (self.fit(width), other.fit(width));
        let corners = [
            i128::from(a.lo) * i128::from(b.lo),
            i128::from(a.lo) * i128::from(b.hi),
            i128::from(a.hi) * i128::from(b.lo),
            i128::from(a.hi) * i128::from(b.hi),
        ];
        let lo = corners.iter().copied().min().unwrap_or(0);
        let hi = corners.iter().copied().max().unwrap_or(0);
        let (lo, hi) = match (i64::try_from(lo), i64::try_from(hi)) {
            (Ok(lo), Ok(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        let zeros = mask((a.trailing_zeros() + b.trailing_zeros()).min(63));
        Self { bases: NUMBER, lo, hi, zeros, ones: 0 }.fit(width)
    }

    /// Shifted left by a constant.
    #[must_use]
    pub fn shl(self, count: u64, width: u32) -> Self {
        if count >= u64::from(width) {
            return Self::int(0);
        }
        if !self.is_number() {
            return Self::TOP;
        }
        let value = self.fit(width);
        let (lo, hi) = (i128::from(value.lo) << count, i128::from(value.hi) << count);
        let (lo, hi) = match (i64::try_from(lo), i64::try_from(hi)) {
            (Ok(lo), Ok(hi)) => (lo, hi),
            _ => (i64::MIN, i64::MAX),
        };
        let zeros = value.zeros << count | mask(count as u32);
        Self { bases: NUMBER, lo, hi, zeros, ones: value.ones << count }.fit(width)
    }

    /// Shifted right by a constant.
    #[must_use]
    pub fn shr(self, count: u64, width: u32, signed: bool) -> Self {
        if !self.is_number() {
            return Self::TOP.fit(width);
        }
        let count = count.min(u64::from(width));
        if signed {
            let (lo, hi) = self.signed(width);
            let count = count.min(63);
            return Self { bases: NUMBER, lo: lo >> count, hi: hi >> count, zeros: 0, ones: 0 }
                .fit(width);
        }
        if count >= u64::from(width) {
            return Self::int(0);
        }
        let (lo, hi) = self.unsigned(width);
        let mut value = Self::from_unsigned(lo >> count, hi >> count, width);
        let full = mask(width);
        let (zeros, ones) = ((self.zeros & full) >> count, (self.ones & full) >> count);
        value.zeros |= zeros & !value.ones;
        value.ones |= ones & !value.zeros;
        value.fit(width)
    }

    /// Bitwise and. On an address, clearing low bits keeps the base when the object is aligned enough
    /// (`alignment`, in bytes, of every base).
    #[must_use]
    pub fn and(self, other: Self, width: u32, alignment: u64) -> Self {
        if !self.is_number() {
            return self.clear_low(other, width, alignment);
        }
        if !other.is_number() {
            return other.clear_low(self, width, alignment);
        }
        let (a, b) = (self.fit(width), other.fit(width));
        let zeros = a.zeros | b.zeros;
        let most = a.unsigned(width).1.min(b.unsigned(width).1);
        let mut value = Self::from_unsigned(0, most.min(!zeros & mask(width)), width);
        value.zeros |= zeros & mask(width);
        value.ones |= a.ones & b.ones & !value.zeros;
        value.fit(width)
    }

    fn clear_low(self, mask_value: Self, width: u32, alignment: u64) -> Self {
        let full = mask(width);
        let Some(bits) = mask_value.constant().map(|c| c as u64 & full) else { return Self::TOP };
        let cleared = !bits & full;
        if !(cleared + 1).is_power_of_two() || cleared >= alignment {
            return Self::TOP;
        }
        let keep = !(cleared as i64);
        Self {
            bases: self.bases,
            lo: self.lo & keep,
            hi: self.hi & keep,
            zeros: self.zeros | cleared,
            ones: self.ones & !cleared,
        }
        .fit(width)
    }

    /// Bitwise or. On an address with disjoint low bits below the object's alignment it is an addition.
    #[must_use]
    pub fn or(self, other: Self, width: u32, alignment: u64) -> Self {
        if !self.is_number() || !other.is_number() {
            return self.merge_low(other, width, alignment);
        }
        let (a, b) = (self.fit(width), other.fit(width));
        let (ones, zeros) = (a.ones | b.ones, a.zeros & b.zeros);
        let floor = a.unsigned(width).0.max(b.unsigned(width).0);
        let mut value = Self::from_unsigned(floor, smear(a, b, width), width);
        value.zeros |= zeros & !value.ones;
        value.ones |= ones & !value.zeros;
        value.fit(width)
    }

    fn merge_low(self, other: Self, width: u32, alignment: u64) -> Self {
        let (address, number) = if self.is_number() { (other, self) } else { (self, other) };
        let most = number.unsigned(width).1;
        let below = alignment.min(1 << 62) - 1;
        if number.is_number()
            && most <= below
            && most & !address.zeros == 0
            && (!number.zeros & mask(width)) & !address.zeros & below == 0
        {
            return address.add(number, width);
        }
        Self::TOP
    }

    /// Bitwise exclusive or.
    #[must_use]
    pub fn xor(self, other: Self, width: u32, alignment: u64) -> Self {
        if !self.is_number() || !other.is_number() {
            return self.merge_low(other, width, alignment);
        }
        let (a, b) = (self.fit(width), other.fit(width));
        let zeros = (a.zeros & b.zeros) | (a.ones & b.ones);
        let ones = (a.zeros & b.ones) | (a.ones & b.zeros);
        let mut value = Self::from_unsigned(0, smear(a, b, width), width);
        value.zeros |= zeros & mask(width) & !value.ones;
        value.ones |= ones & mask(width) & !value.zeros;
        value.fit(width)
    }

    /// Bitwise not.
    #[must_use]
    pub fn not(self, width: u32) -> Self {
        Self::int(-1).sub(self, width)
    }

    /// The lesser or greater of two numbers.
    #[must_use]
    pub fn min_max(self, other: Self, width: u32, signed: bool, greater: bool) -> Self {
        let pick = |a: i128, b: i128| if greater { a.max(b) } else { a.min(b) };
        let value = if signed {
            let (a, b) = (self.signed(width), other.signed(width));
            let lo = pick(a.0.into(), b.0.into()) as i64;
            Self::range(lo, pick(a.1.into(), b.1.into()) as i64)
        } else {
            let (a, b) = (self.unsigned(width), other.unsigned(width));
            let lo = pick(a.0.into(), b.0.into()) as u64;
            Self::from_unsigned(lo, pick(a.1.into(), b.1.into()) as u64, width)
        };
        if !self.is_number() || !other.is_number() {
            return Self::TOP.fit(width);
        }
        let zeros = self.zeros & other.zeros & mask(width) & !value.ones;
        let ones = self.ones & other.ones & mask(width) & !value.zeros;
        Self { zeros: value.zeros | zeros, ones: value.ones | ones, ..value }.fit(width)
    }

    /// Quotient.
    #[must_use]
    pub fn div(self, other: Self, width: u32, signed: bool) -> Self {
        if !self.is_number() || !other.is_number() {
            return Self::TOP.fit(width);
        }
        if signed && self.signed(width).0 < 0 {
            return Self::TOP.fit(width);
        }
        let (lo, hi) = self.unsigned(width);
        let divisor = other.unsigned(width);
        if signed && other.signed(width).0 < 0 || divisor.0 == 0 {
            return Self::TOP.fit(width);
        }
        Self::from_unsigned(lo / divisor.1, hi / divisor.0, width)
    }

    /// Remainder.
    #[must_use]
    pub fn rem(self, other: Self, width: u32, signed: bool) -> Self {
        if !self.is_number() || !other.is_number() {
            return Self::TOP.fit(width);
        }
        let divisor = other.unsigned(width);
        if divisor.0 == 0 || (signed && other.signed(width).0 < 0) {
            return Self::TOP.fit(width);
        }
        if signed && self.signed(width).0 < 0 {
            let most = (divisor.1 - 1).min(i64::MAX as u64) as i64;
            return Self::range(-most, most).fit(width);
        }
        let (lo, hi) = self.unsigned(width);
        if hi < divisor.0 {
            return Self::from_unsigned(lo, hi, width);
        }
        let mut value = Self::from_unsigned(0, hi.min(divisor.1 - 1), width);
        if let Some(c) = other.constant()
            && c > 0
            && (c as u64).is_power_of_two()
        {
            let low = c as u64 - 1;
            value.zeros |= self.zeros & low & !value.ones;
            value.ones |= self.ones & low & !value.zeros;
        }
        value.fit(width)
    }

    /// Widened from `from` bits to 64, zero- or sign-extended. An address inside its own space (`extent`
    /// bounds every base's object size) stays one when it points into its object or one past it.
    #[must_use]
    pub fn extend(self, from: u32, signed: bool, extent: u64) -> Self {
        if !self.is_number() {
            let inside = self.lo >= 0 && self.hi as u64 <= extent && !signed;
            return if inside { self } else { Self::TOP };
        }
        if from >= 64 {
            return self;
        }
        let full = mask(from);
        if signed {
            let (lo, hi) = self.signed(from);
            let sign = 1u64 << (from - 1);
            let value = Self::range(lo, hi);
            let zeros = self.zeros & (full >> 1);
            let high = if self.zeros & sign != 0 { !(full >> 1) } else { 0 };
            let ones = self.ones & (full >> 1);
            return Self {
                zeros: value.zeros | ((zeros | high) & !value.ones),
                ones: value.ones | (ones & !value.zeros),
                ..value
            }
            .fit(64);
        }
        let (lo, hi) = self.unsigned(from);
        let value = Self::from_unsigned(lo, hi, 64);
        Self {
            zeros: value.zeros | ((self.zeros & full | !full) & !value.ones),
            ones: value.ones | (self.ones & full & !value.zeros),
            ..value
        }
        .fit(64)
    }

    /// A bit field of constant place, as `bfe` extracts it.
    #[must_use]
    pub fn field(self, position: u64, length: u64, width: u32, signed: bool) -> Self {
        if length == 0 {
            return Self::int(0);
        }
        let length = length.min(u64::from(width)) as u32;
        if position >= u64::from(width) || (signed && position + u64::from(length) > width.into()) {
            return Self::range(signed_min(length.min(width)), signed_max(length.min(width)));
        }
        let value = self.shr(position, width, false);
        if signed {
            let (lo, hi) = value.signed(length);
            return Self::range(lo, hi).fit(width);
        }
        value.and(Self::int(mask(length) as i64), width, 0)
    }
}

/// An upper bound of `a | b` and `a ^ b`: the carry-free union of their bits.
fn smear(a: Value, b: Value, width: u32) -> u64 {
    let most = a.unsigned(width).1 | b.unsigned(width).1;
    let all = if most == 0 { 0 } else { u64::MAX >> most.leading_zeros() };
    all & mask(width) & !(a.zeros & b.zeros)
}

/// Known bits of a sum with a known carry in; each operand is (zeros, ones).
fn add_bits(a: (u64, u64), b: (u64, u64), carry: u64) -> (u64, u64) {
    // The sum with every unknown bit zero, and with every unknown bit one: where both agree on the
    // carry into a bit whose operands are known, the bit is known.
    let least = a.1.wrapping_add(b.1).wrapping_add(carry);
    let most = (!a.0).wrapping_add(!b.0).wrapping_add(carry);
    let carry_least = least ^ a.1 ^ b.1;
    let carry_most = most ^ !a.0 ^ !b.0;
    let known = (a.0 | a.1) & (b.0 | b.1) & !(carry_least ^ carry_most);
    (!least & known, least & known)
}
