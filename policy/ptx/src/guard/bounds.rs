//! Shared, local and parameter addresses: proved to lie inside their object, or clamped to it.

use crate::contract::GuardMode;
use crate::tree::{Base, Instruction, Name, Op, Operand, ScalarType, Space};

use super::Refusal;
use super::access::{BULK_BYTES, Target};
use super::analysis::{Arg, NUMBER, Object, ObjectSpace, Value};
use super::forms::{Emit, reg};
use super::report::Change;
use super::rewrite::{Available, CALLERS_LOCALS, Job, LOCAL_STAND_IN, Pass, STAND_IN};

/// Most dynamic shared memory that is asked of launches on the strength of a proof, when the launch's
/// own amount is not known: what every kernel may have without asking (48 KiB).
const OPEN_BYTES: u64 = 48 << 10;

/// Most candidates that an access of unknown object is tried against.
const MAX_CANDIDATES: usize = 20;

fn object_space(target: Target) -> ObjectSpace {
    match target {
        Target::Local => ObjectSpace::Local,
        Target::Param => ObjectSpace::Param,
        _ => ObjectSpace::Shared,
    }
}

impl Pass<'_, '_> {
    /// Dynamic shared memory that a proof may rely on.
    fn open_bytes(&self) -> u64 {
        self.options.dynamic_shared.unwrap_or(OPEN_BYTES)
    }

    /// Notes that launches need dynamic shared memory up to here.
    fn need_dynamic(&mut self, bytes: u64) {
        self.dynamic_needed = self.dynamic_needed.max(bytes.next_multiple_of(16));
    }

    /// True when the analysis proves the access, and then notes what launches must promise for it.
    fn is_proved(&mut self, value: &Value, offset: i64, job: &Job, space: ObjectSpace) -> bool {
        let (bytes, align) = (job.access.bytes, job.access.align);
        if !self.trusts(job)
            || !self.analysis.is_proved(value, offset, space, bytes, align, self.open_bytes())
        {
            return false;
        }
        let open = self.analysis.bases(value).any(|(index, _)| {
            self.analysis.objects.get(index as usize).is_some_and(|o| o.bytes.is_none())
        });
        if open {
            let end = value.hi.saturating_add(offset).saturating_add(bytes as i64);
            self.need_dynamic(end.max(0) as u64);
        }
        true
    }

    /// The same for a generic address all of whose bases are generic addresses of objects.
    pub(super) fn is_generic_proved(&mut self, job: &Job) -> bool {
        let value = job.place.value;
        let own = 0x5555_5555_5555_5555u64;
        if value.bases & NUMBER != 0 || value.bases & own != 0 {
            return false;
        }
        let inner = Value { bases: value.bases >> 1, ..value };
        self.is_proved(&inner, job.offset, job, ObjectSpace::Shared)
            || self.is_proved(&inner, job.offset, job, ObjectSpace::Local)
    }

    /// The objects of a space that an unknown address may mean and that have `bytes`; not more than
    /// [`MAX_CANDIDATES`], an address in any other is clamped to one of these.
    pub(super) fn visible(&mut self, space: ObjectSpace, bytes: u64) -> Vec<Object> {
        let holds = |object: &&Object| object.bytes.is_none_or(|size| size >= bytes);
        let mut list: Vec<Object> = match space {
            ObjectSpace::Shared => {
                self.shared.iter().filter(holds).take(MAX_CANDIDATES).cloned().collect()
            }
            _ => Vec::new(),
        };
        for v in &self.analysis.graph.variables {
            if list.len() >= MAX_CANDIDATES {
                break;
            }
            let fits = match space {
                ObjectSpace::Shared => v.space.is_shared(),
                ObjectSpace::Local => v.space == Space::Local,
                ObjectSpace::Param | ObjectSpace::Const => false,
            };
            if fits {
                let object =
                    Object { name: v.name.clone(), space, bytes: v.bytes(), align: v.alignment() };
                if holds(&&object) {
                    list.push(object);
                }
            }
        }
        list
    }

    pub(super) fn bounded(
        &mut self,
        emit: &mut Emit<'_>,
        job: &Job,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        let at = instruction.span;
        let refuse = |why| Err(Refusal::Instruction { at, why });
        let space = object_space(job.access.target);
        let address = instruction.operands[job.access.operand as usize].as_address();
        if let Some(Base::Symbol(name)) = address.map(|a| &a.base) {
            let name = name.clone();
            return self.symbol(job, &name, instruction);
        }
        let value = job.place.value;
        if instruction.space().is_none() && job.access.target == Target::Shared {
            return self.generic_shared(emit, job, instruction);
        }
        if self.is_proved(&value, job.offset, job, space) {
            self.count(Change::Proved);
            return Ok(());
        }
        let base = self.base(job, instruction)?;
        let unknown = value.bases & NUMBER != 0;
        if space == ObjectSpace::Local && unknown && self.callers_locals {
            return refuse(CALLERS_LOCALS);
        }
        let objects = self.candidates(&value, space, job.access.bytes);
        if objects.is_empty() {
            return refuse("a parameter access by an address that is no parameter's");
        }
        let change = match space {
            ObjectSpace::Shared => Change::SharedClamp,
            ObjectSpace::Local => Change::LocalClamp,
            ObjectSpace::Param | ObjectSpace::Const => Change::ParamClamp,
        };
        let group = self.group(job);
        let key = (job.access.target, group.value, group.first);
        let room = (job.offset - group.first) as u64 + job.access.bytes;
        if let Some(known) = self.find(&key, job.access.align, room) {
            let offset = job.offset - group.first;
            Self::replace(instruction, job.access.operand, known.register, offset);
            self.count(Change::ClampShared);
            return Ok(());
        }
        let word = match self.registers.bits(&base) {
            64 => emit.narrow(&base),
            _ => base,
        };
        let asked = if group.first == 0 {
            word
        } else {
            emit.word(Op::Add, ScalarType::S32, &word, Operand::Int(group.first))
        };
        let bytes = (group.end - group.first) as u64;
        let rounding = match self.is_aligned(&value, &group, job) {
            true => 1,
            false => group.align,
        };
        let safe = self.chain(emit, &asked, &objects, bytes, group.align, rounding);
        self.check(emit, &safe, &asked, job, instruction);
        let certain = instruction.guard.is_none();
        let (register, align) = (safe.clone(), group.align);
        self.offer(key, Available { register, align, room: bytes, certain });
        Self::replace(instruction, job.access.operand, safe, job.offset - group.first);
        self.count(change);
        Ok(())
    }

    /// An operand that PTX wants in shared memory, given by a generic address (`mbarrier`, `ldmatrix`
    /// without a space): made a shared one.
    fn generic_shared(
        &mut self,
        emit: &mut Emit<'_>,
        job: &Job,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        let base = self.base(job, instruction)?;
        if self.registers.bits(&base) != 64 {
            let why = "a generic address in less than 64 bits";
            return Err(Refusal::Instruction { at: instruction.span, why });
        }
        let whole = if job.offset == 0 { base } else { emit.add64(&base, job.offset) };
        let asked = emit.specific(&whole, Space::Shared);
        let value = job.place.value;
        let own = 0x5555_5555_5555_5555u64;
        let inner = match value.bases & (NUMBER | own) {
            0 => Value { bases: value.bases >> 1, ..value },
            _ => Value::TOP,
        };
        let objects = self.candidates(&inner, ObjectSpace::Shared, job.access.bytes);
        let safe = self.chain(
            emit,
            &asked,
            &objects,
            job.access.bytes,
            job.access.align,
            job.access.align,
        );
        self.check(emit, &safe, &asked, job, instruction);
        Self::replace(instruction, job.access.operand, safe, 0);
        let position = instruction.mods.len().saturating_sub(1);
        instruction.mods.insert(position, crate::tree::Mod::Space(Space::Shared));
        self.count(Change::SharedClamp);
        Ok(())
    }

    /// The objects that an address may be in and that are large enough for the access; a stand-in when
    /// there is none. Empty only for parameters.
    fn candidates(&mut self, value: &Value, space: ObjectSpace, bytes: u64) -> Vec<Object> {
        let mut list: Vec<Object> = Vec::new();
        let mut known = value.bases & NUMBER == 0 && value.bases != 0;
        for (index, generic) in self.analysis.bases(value) {
            match self.analysis.objects.get(index as usize) {
                Some(object) if !generic && object.space == space => list.push(object.clone()),
                _ => known = false,
            }
        }
        if !known && space != ObjectSpace::Param {
            list = self.visible(space, bytes);
        } else if !known {
            return Vec::new();
        }
        list.retain(|object| object.bytes.is_none_or(|size| size >= bytes));
        list.truncate(MAX_CANDIDATES);
        if list.is_empty() && space != ObjectSpace::Param && bytes <= 32 {
            let name = match space {
                ObjectSpace::Local => {
                    self.needs_local = true;
                    LOCAL_STAND_IN
                }
                _ => {
                    self.needs_stand_in = true;
                    STAND_IN
                }
            };
            list.push(Object { name: Name::from(name), space, bytes: Some(32), align: 32 });
        }
        list
    }

    /// True when the group's first address is known to be a multiple of its alignment wherever its
    /// objects start: what is at most an aligned limit stays so and needs no rounding.
    fn is_aligned(&self, value: &Value, group: &Group, job: &Job) -> bool {
        let known = value.add(Value::int(group.first), 64).trailing_zeros();
        let sized = self.analysis.bases(value).all(|(index, _)| {
            self.analysis.objects.get(index as usize).is_some_and(|o| o.bytes.is_some())
        });
        self.trusts(job)
            && value.bases != 0
            && value.bases & NUMBER == 0
            && sized
            && known >= group.align.trailing_zeros()
    }

    /// Clamps an address (32 bits) to the object it is in, or to the last one, and to a multiple of
    /// `rounding`. `objects` is not empty.
    pub(super) fn chain(
        &mut self,
        emit: &mut Emit<'_>,
        asked: &Name,
        objects: &[Object],
        bytes: u64,
        align: u64,
        rounding: u64,
    ) -> Name {
        let mut safe: Option<Name> = None;
        for object in objects {
            self.raise(object, align);
            let limit = match (object.bytes, self.options.dynamic_shared) {
                (Some(size), _) => {
                    let last = size.saturating_sub(bytes);
                    Operand::Int((last - last % align.max(1)) as i64)
                }
                (None, Some(size)) if size >= bytes => {
                    self.need_dynamic(size);
                    Operand::Int((size - bytes) as i64)
                }
                (None, _) => {
                    self.need_dynamic(bytes);
                    reg(&emit.dynamic_limit(bytes))
                }
            };
            let (clamped, distance) = emit.clamp(asked, &object.name, limit.clone(), rounding);
            safe = Some(match safe {
                None => clamped,
                Some(other) => {
                    let inside = emit.is_at_most(&distance, limit);
                    emit.select(ScalarType::B32, &clamped, &other, &inside)
                }
            });
        }
        safe.unwrap_or_else(|| asked.clone())
    }

    /// Asks for an object's alignment.
    fn raise(&mut self, object: &Object, align: u64) {
        if object.space == ObjectSpace::Param || object.align >= align {
            return;
        }
        let own = self.named.contains_key(&object.name);
        let function = own.then(|| self.function.name.clone());
        self.growth.align(function.as_ref(), &object.name, align);
    }

    /// `[symbol+offset]`: inside the object and aligned, or refused.
    fn symbol(
        &mut self,
        job: &Job,
        name: &Name,
        instruction: &mut Instruction,
    ) -> Result<(), Refusal> {
        let at = instruction.span;
        let refuse = |why| Err(Refusal::Instruction { at, why });
        let (bytes, align) = (job.access.bytes, job.access.align);
        let Some((size, declared)) = self.declared(name, job.access.target) else {
            return refuse("a variable used in another state space than its own");
        };
        let limit = match size {
            Some(size) => size,
            None => self.options.dynamic_shared.unwrap_or(BULK_BYTES),
        };
        let end = job.offset.checked_add(bytes as i64);
        if job.offset < 0 || end.is_none_or(|end| end as u64 > limit) {
            return refuse("an access outside the variable that it names");
        }
        if !(job.offset as u64).is_multiple_of(align) {
            return refuse("an access that is not aligned to its size");
        }
        if declared < align {
            if job.access.target == Target::Param {
                return refuse("a parameter access wider than the parameter's alignment");
            }
            let space = object_space(job.access.target);
            let object = Object { name: name.clone(), space, bytes: size, align: declared };
            self.raise(&object, align);
        }
        if size.is_none() {
            self.need_dynamic(end.unwrap_or(0) as u64);
        }
        Ok(())
    }

    /// Size and alignment of a variable of the right space.
    fn declared(&self, name: &Name, target: Target) -> Option<(Option<u64>, u64)> {
        let found = self.named.get(name).copied();
        if let Some(v) = found {
            let fits = match target {
                Target::Param => v.space.is_param(),
                Target::Local => v.space == Space::Local,
                _ => v.space.is_shared(),
            };
            return fits.then(|| (v.bytes(), v.alignment()));
        }
        if target != Target::Shared {
            return None;
        }
        let object = self.module.get(name).filter(|o| o.space == ObjectSpace::Shared)?;
        Some((object.bytes, object.align))
    }

    /// The accesses of this block that can use one clamp: same address value, all certain to run.
    fn group(&mut self, job: &Job) -> Group {
        let single = Group {
            value: Arg::Unknown,
            first: job.offset,
            end: job.offset.saturating_add(job.access.bytes as i64),
            align: job.access.align,
        };
        let root = job.place.base;
        if self.options.mode == GuardMode::Check || !matches!(root, Arg::Value(_)) {
            return single;
        }
        if self.analysis.graph.instructions[job.number as usize].guard.is_some() {
            return Group { value: root, ..single };
        }
        let key = (job.access.target, root);
        let found = match self.groups.get(&key) {
            Some(found) => *found,
            None => {
                let found = self.common(key);
                self.groups.insert(key, found);
                found
            }
        };
        match found {
            Some((first, end, align)) => Group { value: root, first, end, align },
            None => Group { value: root, ..single },
        }
    }

    /// The least and greatest offsets and the alignment of all accesses of a group; `None` when no one
    /// clamp is good for all.
    fn common(&self, key: (Target, Arg)) -> Option<(i64, i64, u64)> {
        let members: Vec<&Job> = self
            .members
            .get(&key)?
            .iter()
            .filter_map(|&index| self.block_jobs.get(index as usize))
            .collect();
        let first = members.iter().map(|m| m.offset).min()?;
        let end = members.iter().map(|m| m.offset.saturating_add(m.access.bytes as i64)).max()?;
        let align = members.iter().map(|m| m.access.align).max()?;
        let even = members
            .iter()
            .all(|m| m.offset.checked_sub(first).is_some_and(|d| d % m.access.align as i64 == 0));
        let smallest = self
            .analysis
            .bases(&members.first()?.place.value)
            .filter_map(|(index, _)| self.analysis.objects.get(index as usize)?.bytes)
            .min()
            .unwrap_or(0);
        let span = end.checked_sub(first)?;
        let good = even && span as u64 <= smallest && i32::try_from(first).is_ok();
        good.then_some((first, end, align))
    }
}

/// Accesses that share a clamp.
struct Group {
    value: Arg,
    first: i64,
    end: i64,
    align: u64,
}
