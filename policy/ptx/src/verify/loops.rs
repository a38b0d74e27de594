//! Counted loops: a register that grows by a constant each time round is bounded by how often the
//! loop can go round, whichever register the loop's condition is about.
//!
//! At the head of a loop, in its k-th round (counted from 0 since the loop was entered), such a
//! register holds `start + k * step`. Every way back to the head is taken under conditions; one that
//! bounds another such register bounds k. This holds for addresses as well as for numbers.

use super::eval::{Eval, Place, Src};
use super::facts::{Compare, Fact};
use super::number::{Alt, Region, Value};

/// Longest chain of additions that makes up one step.
const ADDITIONS: u32 = 32;

/// `register + step` for a register that meets at the head of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stepped {
    meet: Src,
    step: i64,
}

impl Eval<'_, '_> {
    /// What a meeting holds, if it is the counter or the running address of a counted loop.
    pub(super) fn counted(&self, meet: Src) -> Option<Value> {
        let Src::Meet(head, register) = meet else { return None };
        let (start, step) = self.induction(head, register)?;
        let rounds = self.rounds(head)?;
        let far = step.checked_mul(rounds)?;
        let travel = if step == 0 {
            Alt::constant(0)
        } else {
            // Every multiple of the step up to the last.
            let count = Alt::range(0, rounds);
            if far < 0 {
                count.mul(Alt::constant(step))?
            } else {
                Alt::constant(step).mul(count)?
            }
        };
        let travelled = start.zip(&Value::one(travel), Alt::add);
        if travelled == Value::Any { None } else { Some(travelled) }
    }

    /// What a register holds on entering the loop, and by how much every round changes it.
    fn induction(&self, head: u32, register: u32) -> Option<(Value, i64)> {
        let meet = Src::Meet(head, register);
        let mut start = Value::Never;
        let mut step = None;
        for edge in &self.code.blocks[head as usize].into {
            let from = self.code.edges[*edge as usize].from;
            if !self.code.reachable(from) {
                continue;
            }
            let operand = self.at_end(register, from, 0);
            if self.code.dominates(head, from) {
                let stepped = self.stepped(operand)?;
                if stepped.meet != meet || step.is_some_and(|step| step != stepped.step) {
                    return None;
                }
                step = Some(stepped.step);
            } else {
                let place = Place::new(self.edge_facts(*edge));
                start = start.join(self.value(operand, &place, 0));
            }
        }
        if matches!(start, Value::Any) {
            return None;
        }
        Some((start, step?))
    }

    /// Takes a source apart into a meeting and a constant.
    fn stepped(&self, src: Src) -> Option<Stepped> {
        let mut src = src;
        let mut step = 0i64;
        for _ in 0..ADDITIONS {
            let Src::Write(_, register) = src else { break };
            let width = self.code.widths[register as usize];
            let (from, by) = self.sum(src, width)?;
            step = step.checked_add(by)?;
            src = from;
        }
        matches!(src, Src::Meet(..)).then_some(Stepped { meet: src, step })
    }

    /// The most rounds that the loop at this head makes after the first.
    fn rounds(&self, head: u32) -> Option<i64> {
        if let Some(rounds) = self.rounds.borrow().get(&head) {
            return *rounds;
        }
        // Should the question come up again while it is being answered, there is no answer.
        self.rounds.borrow_mut().insert(head, None);
        let rounds = self.count_rounds(head);
        // What was found from values still being solved must not be kept.
        if rounds.is_some() && self.is_solving() {
            self.rounds.borrow_mut().remove(&head);
        } else {
            self.rounds.borrow_mut().insert(head, rounds);
        }
        rounds
    }

    fn count_rounds(&self, head: u32) -> Option<i64> {
        let mut most = None;
        for edge in &self.code.blocks[head as usize].into {
            let from = self.code.edges[*edge as usize].from;
            if !self.code.reachable(from) || !self.code.dominates(head, from) {
                continue;
            }
            let place = Place::new(self.edge_facts(*edge));
            let facts = &place.facts.list;
            let bound = facts.iter().filter_map(|fact| self.rounds_by(fact, head, &place)).min()?;
            most = Some(most.map_or(bound, |most: i64| most.max(bound)));
        }
        most
    }

    /// How many times the way back to the head can be taken under this fact.
    fn rounds_by(&self, fact: &Fact, head: u32, place: &Place) -> Option<i64> {
        if !self.spend() {
            return None;
        }
        // Facts about sums are there in the other form too.
        if fact.shift != 0 {
            return None;
        }
        let stepped = self.stepped(fact.side)?;
        let Src::Meet(block, register) = stepped.meet else { return None };
        if block != head || self.code.widths[register as usize] != fact.width {
            return None;
        }
        let (start, step) = self.induction(head, register)?;
        let read = |value: &Value| {
            let all = value.alts().iter().all(|alt| alt.region == Region::Number);
            let alt =
                if fact.signed { value.signed(fact.width) } else { value.unsigned(fact.width) };
            alt.filter(|alt| all && (fact.signed || alt.lo >= 0))
        };
        let start = read(&start)?;
        let bound = read(&self.value(fact.other, place, 1))?;
        // In round k, the side of the comparison is `first + k * step`, as long as it does not wrap.
        let lo = start.lo.checked_add(stepped.step)?;
        let hi = start.hi.checked_add(stepped.step)?;
        let (least, greatest) = limits(fact.signed, fact.width)?;
        if lo < least || hi > greatest {
            return None;
        }
        let taken = match (fact.compare(), step.signum()) {
            // Growing and still below: `first + k * step <= last`, and one step more does not wrap.
            (Compare::Lt | Compare::Le, 1) => {
                let last = bound.hi.checked_sub(i64::from(fact.compare() == Compare::Lt))?;
                if last.checked_add(step)? > greatest {
                    return None;
                }
                last.checked_sub(lo)?.checked_div_euclid(step)?
            }
            (Compare::Gt | Compare::Ge, -1) => {
                let last = bound.lo.checked_add(i64::from(fact.compare() == Compare::Gt))?;
                if last.checked_add(step)? < least {
                    return None;
                }
                hi.checked_sub(last)?.checked_div_euclid(step.checked_neg()?)?
            }
            // Running into exactly one number and not past it.
            (Compare::Ne, sign @ (1 | -1)) => {
                let end = bound.exact()?;
                let size = step.checked_abs()?;
                let grid = size.trailing_zeros();
                let near = if sign == 1 { end.checked_sub(hi)? } else { lo.checked_sub(end)? };
                let far = if sign == 1 { end.checked_sub(lo)? } else { hi.checked_sub(end)? };
                let meets = if start.exact().is_some() {
                    far % size == 0
                } else {
                    let offset = end.checked_sub(stepped.step)?;
                    size.count_ones() == 1
                        && start.low_zeros() >= grid
                        && offset.trailing_zeros() >= grid
                };
                if near < 0 || !meets {
                    return None;
                }
                far / size - 1
            }
            _ => return None,
        };
        // Taken in rounds 0 to `taken`, so there are `taken + 1` rounds after the first; if the
        // condition never holds, none.
        Some(taken.checked_add(1)?.max(0))
    }
}

/// Least and greatest number of a width, as far as [`Alt`] has them.
fn limits(signed: bool, width: u32) -> Option<(i64, i64)> {
    Some(match (signed, width) {
        (_, 65..) | (_, 0) => return None,
        (true, 64) => (i64::MIN, i64::MAX),
        (true, width) => (-(1 << (width - 1)), (1 << (width - 1)) - 1),
        (false, 63 | 64) => (0, i64::MAX),
        (false, width) => (0, (1 << width) - 1),
    })
}
