//! Abstract values: what the verifier knows of the bits in a register.
//!
//! A value is a set of at most [`MOST`] alternatives. Each is a region and an integer `n` in `lo..=hi`
//! whose known bits agree; the register holds `address of the region + n`, modulo two to the width
//! of the register. Because `n` is an integer and not a bit pattern, sums and products need no care;
//! whatever reads a pattern as signed or unsigned asks for that reading first (`unsigned`, `signed`).

/// Most alternatives kept apart; with more, the value is [`Value::Any`].
const MOST: usize = 48;
/// `slack` when nothing is known.
const NO_SLACK: i64 = i64::MIN;

/// What an address is relative to. The number is the object's index in its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Region {
    /// Nothing: a plain number.
    Number,
    /// A shared, local or parameter object, by its address inside its own state space.
    Object(u32),
    /// A shared or local object, by its generic address.
    Generic(u32),
}

/// One alternative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alt {
    pub(super) region: Region,
    pub(super) lo: i64,
    pub(super) hi: i64,
    /// Bits of `n` (as 64-bit two's complement) known to be zero and to be one.
    pub(super) zeros: u64,
    pub(super) ones: u64,
    /// `n <= %dynamic_smem_size - slack`, if known.
    pub(super) slack: i64,
}

/// What a register may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// No execution gets here.
    Never,
    /// Any bit pattern.
    Any,
    /// One of these; never empty.
    Known(Vec<Alt>),
}

pub(super) const fn mask(width: u32) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

impl Alt {
    pub(super) fn range(lo: i64, hi: i64) -> Self {
        Self { region: Region::Number, lo, hi, zeros: 0, ones: 0, slack: NO_SLACK }.tight()
    }

    pub(super) fn constant(value: i64) -> Self {
        Self::range(value, value)
    }

    pub(super) fn with_slack(self, slack: i64) -> Self {
        Self { slack, ..self }
    }

    pub(super) fn has_slack(&self) -> bool {
        self.slack != NO_SLACK
    }

    fn with_bits(self, zeros: u64, ones: u64) -> Self {
        Self { zeros, ones, ..self }.tight()
    }

    /// Lets bits and bounds sharpen each other. A contradiction leaves both as they are: the place
    /// is then unreachable, and anything said of it is true.
    fn tight(mut self) -> Self {
        if self.zeros >> 63 == 1 {
            let (least, most) = (self.ones as i64, !self.zeros as i64);
            if least <= most && self.lo.max(least) <= self.hi.min(most) {
                self.lo = self.lo.max(least);
                self.hi = self.hi.min(most);
            }
        }
        // The leading bits in which both bounds agree belong to every number between them.
        let common = (self.lo ^ self.hi).leading_zeros();
        let known = if common == 0 { 0 } else { u64::MAX << (64 - common) };
        let (zeros, ones) = (!self.lo as u64 & known, self.lo as u64 & known);
        if (self.zeros | zeros) & (self.ones | ones) == 0 {
            self.zeros |= zeros;
            self.ones |= ones;
        }
        // A bound that the known low zeros rule out moves to the next number they allow.
        let low = self.low_zeros().min(62);
        let step = 1i64 << low;
        if let Some(lo) = self.lo.checked_add(step - 1).map(|lo| lo & -step)
            && lo <= self.hi & -step
        {
            self.lo = lo;
            self.hi &= -step;
        }
        self
    }

    /// The value, when there is only one.
    pub(super) fn exact(&self) -> Option<i64> {
        (self.region == Region::Number && self.lo == self.hi).then_some(self.lo)
    }

    /// How many low bits of `n` are known to be zero: `n` is a multiple of two to this.
    pub(super) fn low_zeros(&self) -> u32 {
        self.zeros.trailing_ones()
    }

    /// `n` as the unsigned number that `width` bits of it are.
    pub(super) fn unsigned(self, width: u32) -> Self {
        if self.region != Region::Number {
            return Self::unsigned_range(width);
        }
        if width >= 64 {
            // Numbers of 2^63 and more have no place here; they get the whole range.
            return if self.lo >= 0 { self } else { Self::any64(self.zeros, self.ones) };
        }
        let (low, high) = (self.lo >> width, self.hi >> width);
        if low == 0 && high == 0 {
            return self;
        }
        let (zeros, ones) = ((self.zeros & mask(width)) | !mask(width), self.ones & mask(width));
        if low == high {
            let (lo, hi) = (self.lo & mask(width) as i64, self.hi & mask(width) as i64);
            return Self::range(lo, hi).with_bits(zeros, ones);
        }
        Self::range(0, mask(width) as i64).with_bits(zeros, ones)
    }

    /// Everything that fits the known bits, read as signed when the top bit is not known.
    fn any64(zeros: u64, ones: u64) -> Self {
        Self::range(i64::MIN, i64::MAX).with_bits(zeros, ones)
    }

    fn unsigned_range(width: u32) -> Self {
        if width >= 64 { Self::any64(0, 0) } else { Self::range(0, mask(width) as i64) }
    }

    /// `n` as the signed number that `width` bits of it are.
    pub(super) fn signed(self, width: u32) -> Self {
        if self.region != Region::Number {
            return Self::signed_range(width);
        }
        if width >= 64 {
            return self;
        }
        let half = 1i64 << (width - 1);
        if self.lo >= -half && self.hi < half {
            return self;
        }
        let window = |n: i64| n.checked_add(half).map(|n| n >> width);
        let (mut zeros, mut ones) = (self.zeros & mask(width), self.ones & mask(width));
        if zeros >> (width - 1) == 1 {
            zeros |= !mask(width);
        }
        if ones >> (width - 1) == 1 {
            ones |= !mask(width);
        }
        match (window(self.lo), window(self.hi)) {
            (Some(low), Some(high)) if low == high => {
                let extend = |n: i64| (n << (64 - width)) >> (64 - width);
                Self::range(extend(self.lo), extend(self.hi)).with_bits(zeros, ones)
            }
            _ => Self::signed_range(width).with_bits(zeros, ones),
        }
    }

    fn signed_range(width: u32) -> Self {
        if width >= 64 {
            return Self::range(i64::MIN, i64::MAX);
        }
        let half = 1i64 << (width - 1);
        Self::range(-half, half - 1)
    }

    pub(super) fn add(self, other: Self) -> Option<Self> {
        let region = match (self.region, other.region) {
            (region, Region::Number) | (Region::Number, region) => region,
            _ => return None,
        };
        let bounds = self.lo.checked_add(other.lo).zip(self.hi.checked_add(other.hi));
        let (ma, mb) = (!(self.zeros | self.ones), !(other.zeros | other.ones));
        let sum = self.ones.wrapping_add(other.ones);
        let most = sum.wrapping_add(ma.wrapping_add(mb));
        let unknown = (most ^ sum) | ma | mb;
        let (zeros, ones) = (!unknown & !sum, !unknown & sum);
        let Some((lo, hi)) = bounds else {
            // It may wrap at 64 bits: for a number only the bits remain.
            return (region == Region::Number).then(|| Self::any64(zeros, ones));
        };
        // `n <= D - slack` carries over to n plus a constant, whichever side the constant is on.
        let slack = match (self.exact_offset(), other.exact_offset()) {
            (_, Some(value)) if self.has_slack() => self.slack.checked_sub(value)?,
            (Some(value), _) if other.has_slack() => other.slack.checked_sub(value)?,
            _ => NO_SLACK,
        };
        let alt = Self { region, lo, hi, zeros: 0, ones: 0, slack };
        Some(alt.with_bits(zeros, ones))
    }

    fn exact_offset(&self) -> Option<i64> {
        (self.lo == self.hi).then_some(self.lo)
    }

    pub(super) fn neg(self) -> Option<Self> {
        if self.region != Region::Number {
            return None;
        }
        let low = self.low_zeros().min(63);
        let alt = Self::range(self.hi.checked_neg()?, self.lo.checked_neg()?);
        Some(alt.with_bits(alt.zeros | ((1u64 << low) - 1), alt.ones))
    }

    pub(super) fn sub(self, other: Self) -> Option<Self> {
        if self.region == other.region && other.region != Region::Number {
            let lo = self.lo.checked_sub(other.hi)?;
            let hi = self.hi.checked_sub(other.lo)?;
            let low = self.low_zeros().min(other.low_zeros()).min(63);
            return Some(Self::range(lo, hi).with_bits((1u64 << low) - 1, 0));
        }
        self.add(other.neg()?)
    }

    pub(super) fn mul(self, other: Self) -> Option<Self> {
        if self.region != Region::Number || other.region != Region::Number {
            return None;
        }
        let low = (self.low_zeros() + other.low_zeros()).min(63);
        let zeros = (1u64 << low) - 1;
        let corners = [
            self.lo.checked_mul(other.lo),
            self.lo.checked_mul(other.hi),
            self.hi.checked_mul(other.lo),
            self.hi.checked_mul(other.hi),
        ];
        let (mut lo, mut hi) = (i64::MAX, i64::MIN);
        for corner in corners {
            let Some(corner) = corner else { return Some(Self::any64(zeros, 0)) };
            (lo, hi) = (lo.min(corner), hi.max(corner));
        }
        Some(Self::range(lo, hi).with_bits(zeros, 0))
    }

    /// `n << by`, for `by` below 63.
    pub(super) fn shl(self, by: u32) -> Option<Self> {
        self.mul(Self::constant(1i64.checked_shl(by).filter(|factor| *factor > 0)?))
    }

    /// `n >> by` of the signed or unsigned reading already taken.
    pub(super) fn shr(self, by: u32) -> Self {
        let by = by.min(63);
        let spread = if by == 0 { 0 } else { u64::MAX << (64 - by) };
        let alt = Self::range(self.lo >> by, self.hi >> by);
        // The sign bit is copied; only when it is known are the new high bits.
        let zeros = (self.zeros >> by) | if self.zeros >> 63 == 1 { spread } else { 0 };
        let ones = (self.ones >> by) | if self.ones >> 63 == 1 { spread } else { 0 };
        let known_high = (self.zeros | self.ones) >> 63 == 1;
        let keep = if known_high { u64::MAX } else { !spread & (u64::MAX >> 1) };
        alt.with_bits(alt.zeros | (zeros & keep), alt.ones | (ones & keep))
    }

    /// Any bitwise function of three values of `width` bits, given by its table as in `lop3`: bit
    /// `4a + 2b + c` of `table` is the result for bits a, b, c.
    pub(super) fn bitwise(width: u32, table: u8, a: Self, b: Self, c: Self) -> Self {
        let (a, b, c) = (a.unsigned(width), b.unsigned(width), c.unsigned(width));
        let can = |alt: &Self, bit: bool| if bit { !alt.zeros } else { !alt.ones };
        let (mut zero, mut one) = (0u64, 0u64);
        for row in 0..8u8 {
            let here = can(&a, row & 4 != 0) & can(&b, row & 2 != 0) & can(&c, row & 1 != 0);
            if table >> row & 1 == 1 {
                one |= here;
            } else {
                zero |= here;
            }
        }
        let (zeros, ones) = (!one & mask(width), !zero & mask(width));
        if width >= 64 {
            return Self::any64(zeros, ones);
        }
        Self::range(0, mask(width) as i64).with_bits(zeros | !mask(width), ones)
    }

    /// Bitwise and: besides the bits, the result is no larger than either operand.
    pub(super) fn and(self, other: Self, width: u32) -> Self {
        let bits = Self::bitwise(width, 0xC0, self, other, Self::constant(0));
        let (a, b) = (self.unsigned(width), other.unsigned(width));
        let mut result = bits;
        for side in [a, b] {
            if side.lo >= 0 && bits.lo.max(0) <= side.hi.min(bits.hi) {
                result.lo = result.lo.max(0);
                result.hi = result.hi.min(side.hi);
                result.slack = result.slack.max(side.slack);
            }
        }
        result.tight()
    }

    /// The smaller (or larger) of two readings already taken.
    pub(super) fn min(self, other: Self) -> Self {
        let low = self.low_zeros().min(other.low_zeros()).min(63);
        Self::range(self.lo.min(other.lo), self.hi.min(other.hi))
            .with_bits((1u64 << low) - 1, 0)
            .with_slack(self.slack.max(other.slack))
    }

    pub(super) fn max(self, other: Self) -> Self {
        let low = self.low_zeros().min(other.low_zeros()).min(63);
        Self::range(self.lo.max(other.lo), self.hi.max(other.hi)).with_bits((1u64 << low) - 1, 0)
    }

    /// Least upper bound within one region.
    fn join(self, other: Self) -> Self {
        let alt = Self {
            region: self.region,
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
            zeros: self.zeros & other.zeros,
            ones: self.ones & other.ones,
            slack: if self.has_slack() { self.slack.min(other.slack) } else { NO_SLACK },
        };
        alt.tight()
    }

    /// What both say; `None` when they contradict each other.
    pub(super) fn meet(self, other: Self) -> Option<Self> {
        let (lo, hi) = (self.lo.max(other.lo), self.hi.min(other.hi));
        let (zeros, ones) = (self.zeros | other.zeros, self.ones | other.ones);
        if lo > hi || zeros & ones != 0 {
            return None;
        }
        let slack = self.slack.max(other.slack);
        Some(Self { region: self.region, lo, hi, zeros, ones, slack }.tight())
    }

    /// Gives up the bounds of `self` that `next` has moved.
    fn widen(self, next: Self) -> Self {
        let joined = self.join(next);
        let lo = if joined.lo < self.lo { widened_low(joined.lo) } else { joined.lo };
        let hi = if joined.hi > self.hi { widened_high(joined.hi) } else { joined.hi };
        let slack = if joined.slack == self.slack { self.slack } else { NO_SLACK };
        // Bits are a finite ladder, but bounds made them: keep only the low ones.
        let low = joined.low_zeros().min(63);
        Self { region: self.region, lo, hi, zeros: (1u64 << low) - 1, ones: 0, slack }.tight()
    }
}

/// Where a growing bound stops: the limits of the common widths, then everything.
fn widened_high(hi: i64) -> i64 {
    [0, i64::from(i16::MAX), i64::from(i32::MAX), i64::from(u32::MAX)]
        .into_iter()
        .find(|limit| hi <= *limit)
        .unwrap_or(i64::MAX)
}

fn widened_low(lo: i64) -> i64 {
    [0, i64::from(i16::MIN), i64::from(i32::MIN)]
        .into_iter()
        .find(|limit| lo >= *limit)
        .unwrap_or(i64::MIN)
}

impl Value {
    pub(super) fn range(lo: i64, hi: i64) -> Self {
        Self::Known(vec![Alt::range(lo, hi)])
    }

    pub(super) fn one(alt: Alt) -> Self {
        Self::Known(vec![alt])
    }

    pub(super) fn object(region: Region, offset: i64) -> Self {
        Self::one(Alt { region, ..Alt::constant(offset) })
    }

    fn normal(alts: impl IntoIterator<Item = Alt>) -> Self {
        let mut merged: Vec<Alt> = Vec::new();
        for alt in alts {
            match merged.iter().position(|m| m.region == alt.region) {
                Some(index) => merged[index] = merged[index].join(alt),
                None if merged.len() >= MOST => return Self::Any,
                None => merged.push(alt),
            }
        }
        if merged.is_empty() { Self::Never } else { Self::Known(merged) }
    }

    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, value) | (value, Self::Never) => value,
            (Self::Any, _) | (_, Self::Any) => Self::Any,
            (Self::Known(a), Self::Known(b)) => Self::normal(a.into_iter().chain(b)),
        }
    }

    pub(super) fn widen(self, next: Self) -> Self {
        match (self, next) {
            (Self::Known(old), Self::Known(new)) => {
                Self::normal(new.into_iter().chain(old.iter().copied()).map(|alt| {
                    match old.iter().find(|o| o.region == alt.region) {
                        Some(before) => before.widen(alt),
                        None => alt,
                    }
                }))
            }
            (old, new) => old.join(new),
        }
    }

    /// The alternatives, a single unknown number standing for [`Value::Any`].
    pub(super) fn alts(&self) -> Vec<Alt> {
        match self {
            Self::Never => Vec::new(),
            Self::Any => vec![Alt::range(i64::MIN, i64::MAX)],
            Self::Known(alts) => alts.clone(),
        }
    }

    /// Applies a partial function to each alternative; where it is undefined, the result is unknown.
    pub(super) fn map(&self, f: impl Fn(Alt) -> Option<Alt>) -> Self {
        if *self == Self::Never {
            return Self::Never;
        }
        match self.alts().into_iter().map(f).collect::<Option<Vec<_>>>() {
            Some(alts) => Self::normal(alts),
            None => Self::Any,
        }
    }

    /// Applies a partial function to each pair of alternatives.
    pub(super) fn zip(&self, other: &Self, f: impl Fn(Alt, Alt) -> Option<Alt>) -> Self {
        let mut out = Vec::new();
        for a in self.alts() {
            for b in other.alts() {
                match f(a, b) {
                    Some(alt) => out.push(alt),
                    None => return Self::Any,
                }
            }
        }
        Self::normal(out)
    }

    /// The single number it is, if it is one.
    pub(super) fn exact(&self) -> Option<i64> {
        match self {
            Self::Known(alts) if alts.len() == 1 => alts[0].exact(),
            _ => None,
        }
    }

    /// Everything as one unsigned number of `width` bits.
    pub(super) fn unsigned(&self, width: u32) -> Option<Alt> {
        self.alts().into_iter().map(|alt| alt.unsigned(width)).reduce(Alt::join)
    }

    /// Everything as one signed number of `width` bits.
    pub(super) fn signed(&self, width: u32) -> Option<Alt> {
        self.alts().into_iter().map(|alt| alt.signed(width)).reduce(Alt::join)
    }
}
