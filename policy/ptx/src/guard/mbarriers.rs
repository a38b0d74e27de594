//! mbarrier operations become ordinary shared-memory instructions.
//!
//! On sm_90 an operation on an mbarrier whose 64 bits are not what the hardware put there is a fault
//! (719, measured), and any store of the program can bring that about. So the guard keeps the object's
//! meaning and not its hardware: its 64 bits are counted by compare-and-swap, which no contents can make
//! fault, and which the later passes confine like any other access. Layout, from the lowest bit: 20 bits
//! of arrivals still pending, 20 bits of arrivals that a phase expects, the phase's parity, 23 bits of
//! bytes still expected (at the top, where they cannot carry into anything).
//!
//! What completes on an mbarrier is done before it is signalled: `cp.async.mbarrier.arrive` waits for
//! the thread's copies, and a bulk copy that signals one becomes a loop of 16-byte copies by the thread
//! that issues it. So does a bulk copy out of shared memory whose size is no constant, since no
//! instruction could be shown to stay in its object otherwise.

use crate::tree::{
    Address, Base, Block, Flag, Guard, Instruction, Item, Mod, Module, Name, Op, Operand,
    ScalarType, Space, Span, Statement,
};

use super::Refusal;
use super::access::BULK_BYTES;
use super::forms::{Fresh, reg};
use super::registers::Registers;
use super::report::{Change, Report};
use crate::hash::HashMap;

/// Most operations of a module that are replaced, each by some fifteen instructions.
const MOST: u32 = 1024;
/// Bits of a count.
const COUNT: i64 = (1 << 20) - 1;
/// Position of the expected arrivals.
const EXPECTED: i64 = 20;
/// The phase's parity.
const PHASE: i64 = 1 << 40;
/// Position of the expected bytes.
const BYTES: i64 = 41;
/// What must be zero for a phase to be over: pending arrivals and bytes.
const OPEN: i64 = COUNT | -1 << BYTES;

/// Rewrites all mbarrier operations of a module, and the copies that complete on one.
///
/// # Errors
/// [`Refusal::Instruction`] for copies between shared memories.
pub(super) fn replace(
    module: &mut Module,
    fresh: &mut HashMap<Name, Fresh>,
    report: &mut Report,
) -> Result<(), Refusal> {
    let mut total = 0;
    for item in &mut module.items {
        let Item::Function(f) = item else { continue };
        let Some(body) = &mut f.body else { continue };
        let mut any = false;
        super::recursion::each_instruction(body, &mut |i| any |= is_replaced(i));
        if !any {
            continue;
        }
        let widths = Widths::of(body);
        let mut pass = Pass {
            before: total,
            widths,
            fresh: fresh.entry(f.name.clone()).or_default(),
            out: Vec::new(),
            replaced: 0,
        };
        pass.block(body)?;
        total += pass.replaced;
        for _ in 0..pass.replaced {
            report.function(&f.name).count(Change::Mbarrier);
        }
    }
    Ok(())
}

fn is_replaced(i: &Instruction) -> bool {
    match i.op() {
        Some(Op::Mbarrier) => true,
        Some(Op::Cp) if i.has(Flag::Mbarrier) || i.has(Flag::MbarrierCompleteTx) => true,
        Some(Op::Cp) if i.has(Flag::BulkGroup) => {
            let size = i.operands.get(2).and_then(Operand::as_int);
            !size.is_some_and(|size| size % 16 == 0 && (0..=BULK_BYTES as i64).contains(&size))
        }
        _ => false,
    }
}

/// The declared widths of a body's registers, apart from the body.
struct Widths(HashMap<Name, u32>);

impl Widths {
    fn of(body: &Block) -> Self {
        let registers = Registers::new(body);
        let mut widths = HashMap::default();
        super::recursion::each_instruction(body, &mut |i| {
            for operand in &i.operands {
                operand.for_each_reg(&mut |name| {
                    if is_replaced(i) && !widths.contains_key(name) {
                        widths.insert(name.clone(), registers.bits(name));
                    }
                });
            }
        });
        Self(widths)
    }

    fn is_wide(&self, name: &Name) -> bool {
        self.0.get(name) == Some(&64)
    }
}

struct Pass<'f> {
    /// Operations replaced in functions before this one.
    before: u32,
    widths: Widths,
    fresh: &'f mut Fresh,
    out: Vec<Statement>,
    replaced: u32,
}

impl Pass<'_> {
    fn block(&mut self, block: &mut Block) -> Result<(), Refusal> {
        let outer = std::mem::take(&mut self.out);
        for mut statement in std::mem::take(&mut block.statements) {
            match &mut statement {
                Statement::Block(inner) => self.block(inner)?,
                Statement::Instruction(i) if is_replaced(i) => {
                    self.replaced += 1;
                    if self.before + self.replaced > MOST {
                        let why =
                            "more than 1024 mbarrier operations and bulk copies in one module";
                        return Err(Refusal::Instruction { at: i.span, why });
                    }
                    self.instruction(i)?;
                    continue;
                }
                _ => {}
            }
            self.out.push(statement);
        }
        block.statements = std::mem::replace(&mut self.out, outer);
        Ok(())
    }

    fn push(
        &mut self,
        at: Span,
        op: Op,
        mods: impl IntoIterator<Item = Mod>,
        operands: Vec<Operand>,
    ) {
        self.out.push(Statement::Instruction(Instruction::new(op, mods, operands).at(at)));
    }

    /// A 64-bit operation into a new register.
    fn wide(&mut self, at: Span, op: Op, ty: ScalarType, a: &Name, b: Operand) -> Name {
        let to = self.fresh.wide_value();
        self.push(at, op, [ty.into()], vec![reg(&to), reg(a), b]);
        to
    }

    fn label(&mut self, label: &Name, at: Span) {
        self.out.push(Statement::Label(label.clone(), at));
    }

    fn branch(&mut self, at: Span, label: &Name, predicate: &Name, negated: bool) {
        let branch = Instruction::new(Op::Bra, [], vec![Operand::Symbol(label.clone(), 0)]).at(at);
        let guard = Guard { negated, reg: predicate.clone() };
        self.out.push(Statement::Instruction(branch.guarded(Some(guard))));
    }

    fn instruction(&mut self, i: &Instruction) -> Result<(), Refusal> {
        let at = i.span;
        // Around all of it when its predicate does not hold.
        let skip = i.guard.as_ref().map(|guard| {
            let label = self.fresh.label();
            self.branch(at, &label, &guard.reg, !guard.negated);
            label
        });
        if i.op() == Some(Op::Mbarrier) {
            self.mbarrier(i);
        } else if i.has(Flag::Mbarrier) {
            self.push(at, Op::Cp, [Flag::Async.into(), Flag::WaitAll.into()], vec![]);
            if i.has(Flag::Noinc)
                && let Some(barrier) = Barrier::of(i, 0)
            {
                let one = self.constant(at, -1);
                self.update(at, &barrier, &one);
            }
        } else {
            self.bulk(i)?;
        }
        if let Some(label) = skip {
            self.label(&label, at);
        }
        Ok(())
    }

    fn constant(&mut self, at: Span, value: i64) -> Name {
        let to = self.fresh.wide_value();
        let operands = vec![reg(&to), Operand::Int(value)];
        self.push(at, Op::Mov, [ScalarType::B64.into()], operands);
        to
    }

    /// A 32-bit operand in 64 bits.
    fn widen(&mut self, at: Span, value: &Operand) -> Name {
        match value {
            Operand::Int(value) => self.constant(at, i64::from(*value as u32)),
            other => {
                let to = self.fresh.wide_value();
                let types = [ScalarType::U64.into(), ScalarType::U32.into()];
                // `cvt` takes no special registers.
                let from = self.fresh.value();
                let operands = vec![reg(&from), other.clone()];
                self.push(at, Op::Mov, [ScalarType::B32.into()], operands);
                self.push(at, Op::Cvt, types, vec![reg(&to), reg(&from)]);
                to
            }
        }
    }

    fn count(&mut self, at: Span, value: Option<&Operand>) -> Name {
        match value {
            None => self.constant(at, 1),
            Some(value) => {
                let wide = self.widen(at, value);
                self.wide(at, Op::And, ScalarType::B64, &wide, Operand::Int(COUNT))
            }
        }
    }

    fn bytes(&mut self, at: Span, value: &Operand) -> Name {
        let wide = self.widen(at, value);
        self.wide(at, Op::Shl, ScalarType::B64, &wide, Operand::Int(BYTES))
    }

    fn negate(&mut self, at: Span, value: &Name) -> Name {
        let to = self.fresh.wide_value();
        self.push(at, Op::Neg, [ScalarType::S64.into()], vec![reg(&to), reg(value)]);
        to
    }

    fn mbarrier(&mut self, i: &Instruction) {
        let at = i.span;
        let last = i.operands.last();
        if i.has(Flag::PendingCount) {
            let (Some(to), Some(Operand::Reg(state))) = (i.operands.first(), last) else { return };
            let narrow = self.fresh.value();
            let types = [ScalarType::U32.into(), ScalarType::U64.into()];
            self.push(at, Op::Cvt, types, vec![reg(&narrow), reg(state)]);
            if let Operand::Reg(to) = to {
                let operands = vec![reg(to), reg(&narrow), Operand::Int(COUNT)];
                self.push(at, Op::And, [ScalarType::B32.into()], operands);
            }
            return;
        }
        let Some(barrier) = Barrier::of(i, 0) else { return };
        let after = i.operands.get(barrier.operand + 1);
        if i.has(Flag::Init) || i.has(Flag::Inval) {
            let state = match after {
                Some(count) if i.has(Flag::Init) => {
                    let count = self.count(at, Some(count));
                    let shift = Operand::Int(EXPECTED);
                    let expected = self.wide(at, Op::Shl, ScalarType::B64, &count, shift);
                    self.wide(at, Op::Or, ScalarType::B64, &count, reg(&expected))
                }
                _ => self.constant(at, 0),
            };
            let operands = vec![barrier.address(), reg(&state)];
            self.push(at, Op::St, barrier.mods(&[Flag::Volatile]), operands);
        } else if i.has(Flag::TestWait) || i.has(Flag::TryWait) {
            self.test(i, &barrier, after);
        } else {
            let delta = self.delta(i, after);
            let state = self.update(at, &barrier, &delta);
            if let Some(Operand::Reg(to)) = i.operands.first()
                && barrier.operand == 1
            {
                self.push(at, Op::Mov, [ScalarType::B64.into()], vec![reg(to), reg(&state)]);
            }
        }
    }

    /// What an arrival or an announcement of bytes adds to the state.
    fn delta(&mut self, i: &Instruction, value: Option<&Operand>) -> Name {
        let at = i.span;
        let arrives = i.has(Flag::Arrive) || i.has(Flag::ArriveDrop);
        let announces = i.has(Flag::ExpectTx);
        let mut delta = match value {
            Some(value) if announces => self.bytes(at, value),
            Some(value) if i.has(Flag::CompleteTx) => {
                let bytes = self.bytes(at, value);
                self.negate(at, &bytes)
            }
            _ => self.constant(at, 0),
        };
        if arrives {
            let count = self.count(at, if announces { None } else { value });
            delta = self.wide(at, Op::Sub, ScalarType::S64, &delta, reg(&count));
            if i.has(Flag::ArriveDrop) {
                let shift = Operand::Int(EXPECTED);
                let gone = self.wide(at, Op::Shl, ScalarType::B64, &count, shift);
                delta = self.wide(at, Op::Sub, ScalarType::S64, &delta, reg(&gone));
            }
        }
        delta
    }

    /// Adds to the state, and ends the phase when nothing is open any more. The state before.
    fn update(&mut self, at: Span, barrier: &Barrier, delta: &Name) -> Name {
        use ScalarType::{B64, S64};
        let again = self.fresh.label();
        self.label(&again, at);
        let before = self.fresh.wide_value();
        let operands = vec![reg(&before), barrier.address()];
        self.push(at, Op::Ld, barrier.mods(&[Flag::Volatile]), operands);
        let moved = self.wide(at, Op::Add, S64, &before, reg(delta));
        let open = self.wide(at, Op::And, B64, &moved, Operand::Int(OPEN));
        let over = self.fresh.predicate();
        let mods = [Flag::Eq.into(), Mod::Type(S64)];
        self.push(at, Op::Setp, mods, vec![reg(&over), reg(&open), Operand::Int(0)]);
        let expected = self.wide(at, Op::Shr, ScalarType::U64, &moved, Operand::Int(EXPECTED));
        let pending = self.wide(at, Op::And, B64, &expected, Operand::Int(COUNT));
        let turned = self.wide(at, Op::Xor, B64, &moved, Operand::Int(PHASE));
        let next = self.wide(at, Op::Or, B64, &turned, reg(&pending));
        let after = self.fresh.wide_value();
        self.push(
            at,
            Op::Selp,
            [B64.into()],
            vec![reg(&after), reg(&next), reg(&moved), reg(&over)],
        );
        let seen = self.fresh.wide_value();
        let operands = vec![reg(&seen), barrier.address(), reg(&before), reg(&after)];
        self.push(at, Op::Atom, barrier.mods(&[Flag::AcqRel, Flag::Cta, Flag::Cas]), operands);
        let lost = self.fresh.predicate();
        let mods = [Flag::Ne.into(), Mod::Type(S64)];
        self.push(at, Op::Setp, mods, vec![reg(&lost), reg(&seen), reg(&before)]);
        self.branch(at, &again, &lost, false);
        before
    }

    /// Whether a phase is over: its parity is not the object's.
    fn test(&mut self, i: &Instruction, barrier: &Barrier, phase: Option<&Operand>) {
        use ScalarType::B64;
        let at = i.span;
        let (Some(Operand::Reg(to)), Some(phase)) = (i.operands.first(), phase) else { return };
        let now = self.fresh.wide_value();
        let operands = vec![reg(&now), barrier.address()];
        self.push(at, Op::Ld, barrier.mods(&[Flag::Acquire, Flag::Cta]), operands);
        let asked = match phase {
            Operand::Reg(state) if !i.has(Flag::Parity) => state.clone(),
            other => {
                let parity = self.widen(at, other);
                self.wide(at, Op::Shl, B64, &parity, Operand::Int(40))
            }
        };
        let differs = self.wide(at, Op::Xor, B64, &now, reg(&asked));
        let bit = self.wide(at, Op::And, B64, &differs, Operand::Int(PHASE));
        let mods = [Flag::Ne.into(), Mod::Type(ScalarType::S64)];
        self.push(at, Op::Setp, mods, vec![reg(to), reg(&bit), Operand::Int(0)]);
    }

    /// A bulk copy by hand, then its signal.
    fn bulk(&mut self, i: &Instruction) -> Result<(), Refusal> {
        let at = i.span;
        let refuse = |why| Err(Refusal::Instruction { at, why });
        let spaces: Vec<Space> = i.spaces().collect();
        let [to, from] = spaces.as_slice() else {
            return refuse("a bulk copy without its two state spaces");
        };
        if to.is_shared() == from.is_shared() {
            return refuse("a bulk copy between the shared memories of a cluster");
        }
        let (Some(size), [Some(target), Some(source)]) =
            (i.operands.get(2), [0, 1].map(|n| i.operands.get(n).and_then(Operand::as_address)))
        else {
            return refuse("a bulk copy without size and addresses");
        };
        let copied = self.fresh.value();
        let limit = self.fresh.value();
        self.push(at, Op::Mov, [ScalarType::B32.into()], vec![reg(&limit), size.clone()]);
        self.push(at, Op::Mov, [ScalarType::B32.into()], vec![reg(&copied), Operand::Int(0)]);
        let (again, done) = (self.fresh.label(), self.fresh.label());
        self.label(&again, at);
        let over = self.fresh.predicate();
        let mods = [Flag::Ge.into(), Mod::Type(ScalarType::U32)];
        self.push(at, Op::Setp, mods, vec![reg(&over), reg(&copied), reg(&limit)]);
        self.branch(at, &done, &over, false);
        let [from_at, to_at] = [source, target].map(|address| self.along(at, address, &copied));
        let step = if i.has(Flag::Reduce) {
            self.reduce(i, to_at, from_at)?
        } else {
            let values: Vec<Operand> = (0..4).map(|_| reg(&self.fresh.value())).collect();
            let access = |space: &Space| {
                let space = if space.is_shared() { Space::Shared } else { Space::Global };
                [Mod::Space(space), Flag::V4.into(), ScalarType::B32.into()]
            };
            let vector = Operand::Vector(values);
            self.push(at, Op::Ld, access(from), vec![vector.clone(), from_at]);
            self.push(at, Op::St, access(to), vec![to_at, vector]);
            16
        };
        let operands = vec![reg(&copied), reg(&copied), Operand::Int(step)];
        self.push(at, Op::Add, [ScalarType::U32.into()], operands);
        let back = Instruction::new(Op::Bra, [], vec![Operand::Symbol(again, 0)]).at(at);
        self.out.push(Statement::Instruction(back));
        self.label(&done, at);
        if let Some(barrier) = Barrier::of(i, 2) {
            let bytes = self.bytes(at, &reg(&limit));
            let delta = self.negate(at, &bytes);
            self.update(at, &barrier, &delta);
        }
        Ok(())
    }

    /// One element of a bulk reduction. How many bytes that was.
    fn reduce(&mut self, i: &Instruction, to: Operand, from: Operand) -> Result<i64, Refusal> {
        let at = i.span;
        let refuse = |why| Err(Refusal::Instruction { at, why });
        let plain = [Flag::Reduce, Flag::Async, Flag::Bulk, Flag::BulkGroup];
        let mut mods: Vec<Mod> = vec![Space::Global.into()];
        mods.extend(i.flags().filter(|flag| !plain.contains(flag)).map(Mod::Flag));
        let ty = match i.ty() {
            Some(ScalarType::F16) if i.has(Flag::Add) => ScalarType::F16x2,
            Some(ScalarType::Bf16) if i.has(Flag::Add) => ScalarType::Bf16x2,
            Some(ty) if matches!(ty.bits(), 32 | 64) => ty,
            _ => return refuse("a bulk reduction of that type whose size is no constant"),
        };
        mods.push(ty.into());
        let wide = ty.bits() == 64;
        let value = if wide { self.fresh.wide_value() } else { self.fresh.value() };
        let plain = if wide { ScalarType::B64 } else { ScalarType::B32 };
        self.push(at, Op::Ld, [Space::Shared.into(), plain.into()], vec![reg(&value), from]);
        self.push(at, Op::Red, mods, vec![to, reg(&value)]);
        Ok(i64::from(ty.bytes()))
    }

    /// The operand `[address + distance]`.
    fn along(&mut self, at: Span, address: &Address, distance: &Name) -> Operand {
        let wide = match &address.base {
            Base::Reg(name) => self.widths.is_wide(name),
            _ => false,
        };
        let start = match &address.base {
            Base::Reg(name) => reg(name),
            Base::Symbol(name) => Operand::Symbol(name.clone(), 0),
            Base::Absolute => Operand::Int(0),
        };
        // A symbol's address is in 32 bits here: it is a shared one.
        let sum = if wide {
            let distance = self.widen(at, &reg(distance));
            let sum = self.fresh.wide_value();
            let operands = vec![reg(&sum), start, reg(&distance)];
            self.push(at, Op::Add, [ScalarType::S64.into()], operands);
            sum
        } else {
            let first = self.fresh.value();
            self.push(at, Op::Mov, [ScalarType::B32.into()], vec![reg(&first), start]);
            let sum = self.fresh.value();
            let operands = vec![reg(&sum), reg(&first), reg(distance)];
            self.push(at, Op::Add, [ScalarType::S32.into()], operands);
            sum
        };
        Operand::Address(Address::reg(sum, address.offset))
    }
}

/// An mbarrier operand.
struct Barrier {
    operand: usize,
    address: Address,
    space: Option<Space>,
}

impl Barrier {
    /// The address operand after `skipped` others.
    fn of(i: &Instruction, skipped: usize) -> Option<Self> {
        let mut addresses =
            i.operands.iter().enumerate().filter_map(|(n, o)| Some((n, o.as_address()?)));
        let (operand, address) = addresses.nth(skipped)?;
        // Whatever the copy's spaces, the barrier of a bulk copy is a shared one.
        let shared = skipped > 0 || i.space().is_some();
        let space = shared.then_some(Space::Shared);
        Some(Self { operand, address: address.clone(), space })
    }

    fn address(&self) -> Operand {
        Operand::Address(self.address.clone())
    }

    /// `flags`, the space, then `.b64`, in the order in which `ld`, `st` and `atom` have them.
    fn mods(&self, flags: &[Flag]) -> Vec<Mod> {
        let (before, after): (Vec<Flag>, Vec<Flag>) = flags.iter().partition(|f| **f != Flag::Cas);
        let flags = |list: Vec<Flag>| list.into_iter().map(Mod::Flag);
        let space = self.space.map(Mod::Space);
        flags(before).chain(space).chain(flags(after)).chain([ScalarType::B64.into()]).collect()
    }
}
