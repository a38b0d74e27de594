//! Consecutive elements of memory as vectors, a lane each, and back.

use cranelift_codegen::ir::types::{I8X16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::group_memory::anywhere;
use super::shape::GROUP;
use super::translate::Translator;
use crate::ir::Value as As;
use crate::ops::Class;

impl Translator<'_, '_> {
    /// A word of local memory, of all lanes.
    pub(super) fn lanes_of_word(&mut self, base: Value, at: i32) -> Vec<Value> {
        (0..GROUP / 4)
            .map(|j| self.b.ins().load(I32X4, anywhere(), base, at + 16 * j as i32))
            .collect()
    }

    /// Consecutive elements, a lane each, extended as a slot wants it.
    pub(super) fn row(&mut self, base: Value, width: u8, value: As) -> Vec<Value> {
        let signed = matches!(value, As::Sign32 | As::Sign64 | As::Sign16);
        if width == 8 {
            return (0..GROUP / 2)
                .map(|j| self.b.ins().load(I64X2, anywhere(), base, 16 * j as i32))
                .collect();
        }
        let mut words: Vec<Value> = Vec::new();
        for j in 0..GROUP as i32 / 4 {
            let v = match width {
                4 => self.b.ins().load(I32X4, anywhere(), base, 16 * j),
                2 => {
                    let v = self.b.ins().load(I64, anywhere(), base, 8 * j);
                    let v = self.b.ins().scalar_to_vector(I64X2, v);
                    let v = self.cast(I16X8, v);
                    if signed { self.b.ins().swiden_low(v) } else { self.b.ins().uwiden_low(v) }
                }
                _ => {
                    let v = self.b.ins().load(I32, anywhere(), base, 4 * j);
                    let v = self.b.ins().scalar_to_vector(I32X4, v);
                    let v = self.cast(I8X16, v);
                    if signed {
                        let v = self.b.ins().swiden_low(v);
                        self.b.ins().swiden_low(v)
                    } else {
                        let v = self.b.ins().uwiden_low(v);
                        self.b.ins().uwiden_low(v)
                    }
                }
            };
            words.push(v);
        }
        match value {
            As::Zero64 | As::Sign64 => self.widen(words, signed),
            As::Sign16 => {
                let mask = self.all(Class::W32, 0xffff);
                words.into_iter().map(|v| self.b.ins().band(v, mask)).collect()
            }
            As::Zero32 | As::Sign32 => words,
        }
    }

    /// Rows of two or four words, a lane each: the vectors of each column.
    pub(super) fn columns(&mut self, base: Value, count: usize) -> Vec<Vec<Value>> {
        let mut out = vec![Vec::new(); count];
        for j in 0..GROUP / 4 {
            let rows: Vec<Value> = (0..count)
                .map(|i| {
                    let at = 16 * (count * j + i) as i32;
                    self.b.ins().load(I32X4, anywhere(), base, at)
                })
                .collect();
            for (column, v) in out.iter_mut().zip(self.turned(&rows)) {
                column.push(v);
            }
        }
        out
    }

    /// Turns rows of four lanes' words into columns; for four it is its own inverse.
    pub(super) fn turned(&mut self, rows: &[Value]) -> Vec<Value> {
        match *rows {
            [a, b] => {
                vec![self.pick(I32X4, a, b, [0, 2, 4, 6]), self.pick(I32X4, a, b, [1, 3, 5, 7])]
            }
            [a, b, c, d] => {
                let (ab0, ab1) =
                    (self.pick(I32X4, a, b, [0, 4, 1, 5]), self.pick(I32X4, a, b, [2, 6, 3, 7]));
                let (cd0, cd1) =
                    (self.pick(I32X4, c, d, [0, 4, 1, 5]), self.pick(I32X4, c, d, [2, 6, 3, 7]));
                vec![
                    self.pick(I32X4, ab0, cd0, [0, 1, 4, 5]),
                    self.pick(I32X4, ab0, cd0, [2, 3, 6, 7]),
                    self.pick(I32X4, ab1, cd1, [0, 1, 4, 5]),
                    self.pick(I32X4, ab1, cd1, [2, 3, 6, 7]),
                ]
            }
            _ => rows.to_vec(),
        }
    }

    pub(super) fn store_words(&mut self, base: Value, at: i32, vectors: Vec<Value>) {
        for (j, v) in vectors.into_iter().enumerate() {
            self.b.ins().store(anywhere(), v, base, at + 16 * j as i32);
        }
    }

    /// Stores the low bytes of every lane's value one after the other.
    pub(super) fn store_row(&mut self, base: Value, width: u8, class: Class, vectors: Vec<Value>) {
        let vectors = match (class, width) {
            (Class::W64, 1..=4) => self.words_of(&vectors, false),
            _ => vectors,
        };
        for (j, v) in vectors.into_iter().enumerate() {
            let j = j as i32;
            match width {
                4 | 8 => {
                    self.b.ins().store(anywhere(), v, base, 16 * j);
                }
                2 => {
                    let mask = self.all(Class::W32, 0xffff);
                    let v = self.b.ins().band(v, mask);
                    let v = self.b.ins().unarrow(v, v);
                    let v = self.cast(I64X2, v);
                    let v = self.b.ins().extractlane(v, 0);
                    self.b.ins().store(anywhere(), v, base, 8 * j);
                }
                _ => {
                    let mask = self.all(Class::W32, 0xff);
                    let v = self.b.ins().band(v, mask);
                    let v = self.b.ins().unarrow(v, v);
                    let v = self.b.ins().unarrow(v, v);
                    let v = self.cast(I32X4, v);
                    let v = self.b.ins().extractlane(v, 0);
                    self.b.ins().store(anywhere(), v, base, 4 * j);
                }
            }
        }
    }
}
