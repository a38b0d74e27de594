//! Values as sums: `base + constant + sum of factor * value`, so that what is added and taken away again
//! cancels (`72 * (i / 18) + 4 * (i - 18 * (i / 18))` is `4 * i`).
//!
//! Sums are modulo `2^width`, as the instructions compute them; only operations of one width are looked
//! through.

use super::evaluate::{Context, Evaluator};
use super::ir::{Arg, Id, Kind};
use super::value::{NUMBER, Value};

/// Most terms of a sum.
const TERMS: usize = 12;
/// Most expressions looked through.
const STEPS: u32 = 48;

struct Sum {
    width: u32,
    base: u64,
    constant: i64,
    terms: Vec<(Id, i64)>,
    steps: u32,
}

impl Sum {
    /// Adds `factor * arg`. `None` when the sum gets out of hand.
    fn add(&mut self, evaluator: &Evaluator<'_>, arg: Arg, factor: i64) -> Option<()> {
        match arg {
            Arg::Int(value) => {
                self.constant = self.constant.wrapping_add(value.wrapping_mul(factor));
                Some(())
            }
            Arg::Address(object, offset) => {
                if factor != 1 || self.base != NUMBER {
                    return None;
                }
                self.base = 1 << (2 * object);
                self.constant = self.constant.wrapping_add(offset);
                Some(())
            }
            Arg::Value(id) => self.value(evaluator, id, factor),
            Arg::Special(_) | Arg::Unknown => None,
        }
    }

    fn value(&mut self, evaluator: &Evaluator<'_>, id: Id, factor: i64) -> Option<()> {
        self.steps = self.steps.checked_sub(1)?;
        let e = &evaluator.ssa.expressions[id as usize];
        if e.width == self.width {
            let int = |arg: Arg| match arg {
                Arg::Int(value) => Some(value),
                other => evaluator.general(other)?.fit(self.width).constant(),
            };
            let [a, b, c] = e.args;
            match e.kind {
                Kind::Copy if !matches!(a, Arg::Special(_) | Arg::Unknown) => {
                    return self.add(evaluator, a, factor);
                }
                Kind::Add => {
                    self.add(evaluator, a, factor)?;
                    return self.add(evaluator, b, factor);
                }
                Kind::Sub => {
                    self.add(evaluator, a, factor)?;
                    return self.add(evaluator, b, factor.wrapping_neg());
                }
                Kind::Neg => return self.add(evaluator, a, factor.wrapping_neg()),
                Kind::Shl => {
                    if let Some(count @ 0..=31) = int(b) {
                        return self.add(evaluator, a, factor.checked_mul(1 << count)?);
                    }
                }
                Kind::Mul => {
                    if let Some(by) = int(b) {
                        return self.add(evaluator, a, factor.checked_mul(by)?);
                    }
                    if let Some(by) = int(a) {
                        return self.add(evaluator, b, factor.checked_mul(by)?);
                    }
                }
                Kind::Mad => {
                    if let Some(by) = int(b) {
                        self.add(evaluator, a, factor.checked_mul(by)?)?;
                        return self.add(evaluator, c, factor);
                    }
                    if let Some(by) = int(a) {
                        self.add(evaluator, b, factor.checked_mul(by)?)?;
                        return self.add(evaluator, c, factor);
                    }
                }
                _ => {}
            }
        }
        if let Some((_, sum)) = self.terms.iter_mut().find(|(known, _)| *known == id) {
            *sum = sum.checked_add(factor)?;
        } else if self.terms.len() < TERMS {
            self.terms.push((id, factor));
        } else {
            return None;
        }
        Some(())
    }
}

/// The value of an operand as a sum, each term evaluated at the place; `None` when that says nothing.
pub(super) fn value(
    evaluator: &Evaluator<'_>,
    arg: Arg,
    width: u32,
    context: &mut Context,
) -> Option<Value> {
    let mut sum = Sum { width, base: NUMBER, constant: 0, terms: Vec::new(), steps: STEPS };
    sum.add(evaluator, arg, 1)?;
    let mut total = Value { bases: sum.base, ..Value::int(sum.constant) };
    for (id, factor) in sum.terms {
        if factor == 0 {
            continue;
        }
        let term = evaluator.at(Arg::Value(id), context)?;
        // A term that is itself an address counts once, and only once in all.
        let product = match (term.is_number(), factor) {
            (true, _) => term.mul(Value::int(factor), width),
            (false, 1) => term,
            (false, _) => return None,
        };
        total = total.add(product, width);
    }
    Some(total)
}
