//! The state of 32 threads: register files, call frames, and the groups of lanes that run together.
//!
//! # Divergence
//! Lanes with the same frame and program counter form a [`Group`]. The group in the deepest frame with the lowest
//! program counter runs first, so that lanes which branched apart meet again where their paths join. When a group spins
//! while others wait (a lock), [`Warp::pick`] is told to rotate and every group gets its turn.

use super::block::Barriers;
use super::registers::{BITS, Registers, V32, V64};
use crate::fault::FaultKind;
use crate::ir::{Function, Inst, NONE, Op, Program, Slot};
use crate::raw::LANES;

/// What a group waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing.
    Ready,
    /// The lanes of this mask, at a warp-wide instruction.
    Members(u32),
    /// A block-wide barrier to complete the phase it was in.
    Barrier { id: u8, phase: u32 },
}

/// Lanes that run together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    /// Index into [`Warp::frames`].
    pub(crate) frame: u32,
    pub(crate) mask: u32,
    pub(crate) wait: Wait,
    /// When it last stopped running, in the warp's own count.
    pub(crate) stamp: u32,
}

/// One activation of a function, shared by the lanes that called together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The caller's frame; meaningless for the first.
    pub(crate) parent: u32,
    /// 0 for the kernel.
    pub(crate) depth: u32,
    /// Where the caller goes on.
    pub(crate) return_pc: u32,
    /// Index into [`Program::calls`].
    pub(crate) site: u32,
    /// Index into [`Program::functions`].
    pub(crate) function: u32,
    /// First slots.
    pub(crate) base32: u32,
    pub(crate) base64: u32,
    pub(crate) base_pred: u32,
    /// First byte of its local memory.
    pub(crate) local: u32,
    /// Lanes in it or in a frame called from it; 0 when the entry is free.
    pub(crate) members: u32,
}

/// A fault of one lane, before it is given names.
#[derive(Clone, Debug)]
pub(crate) struct LaneFault {
    pub(crate) lane: u32,
    pub(crate) pc: u32,
    pub(crate) kind: FaultKind,
}

/// Result of something a kernel may do wrong.
pub(crate) type Outcome<T> = Result<T, Box<LaneFault>>;

/// A fault of the first lane of `mask`; the interpreter fills in the program counter.
#[cold]
pub(crate) fn fault<T>(mask: u32, kind: FaultKind) -> Outcome<T> {
    Err(Box::new(LaneFault { lane: mask.trailing_zeros().min(31), pc: 0, kind }))
}

/// Work done, for limits and speed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// Instructions issued for a warp.
    pub(crate) warp_instructions: u64,
    /// The same times the lanes they were issued for.
    pub(crate) thread_instructions: u64,
}

/// 32 threads.
#[derive(Debug)]
pub(crate) struct Warp {
    pub(crate) r32: Vec<V32>,
    pub(crate) r64: Vec<V64>,
    pub(crate) preds: Vec<u32>,
    /// Local memory: word w of lane l is `local[w].0[l]`.
    pub(crate) local: Vec<V32>,
    pub(crate) frames: Vec<Frame>,
    /// Frames before this one, but the first, are in use.
    pub(crate) no_free_frame_below: usize,
    /// Every group but the one that runs.
    pub(crate) groups: Vec<Group>,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Number in the block.
    pub(crate) index: u32,
    /// Thread indices.
    pub(crate) tid: [V32; 3],
    /// The block shape they were computed for.
    shape: [u32; 3],
    /// The region of the map that the last access hit.
    pub(crate) region: usize,
    pub(crate) work: Work,
    pub(crate) clock: u32,
}

impl Warp {
    /// A warp without threads; [`Self::start`] gives it some.
    pub(crate) fn new(index: u32) -> Self {
        Self {
            r32: Vec::new(),
            r64: Vec::new(),
            preds: Vec::new(),
            local: Vec::new(),
            frames: Vec::new(),
            no_free_frame_below: 1,
            groups: Vec::new(),
            live: 0,
            index,
            tid: [V32([0; LANES]); 3],
            shape: [0; 3],
            region: 0,
            work: Work::default(),
            clock: 0,
        }
    }

    /// Puts the threads of a new block at the kernel's entry. Registers keep what the same launch's last block left.
    pub(crate) fn start(&mut self, function: u32, kernel: &Function, block: [u32; 3]) {
        let threads = block.iter().product::<u32>();
        let first = self.index * LANES as u32;
        self.live = match threads.saturating_sub(first) {
            0 => 0,
            n if n >= LANES as u32 => u32::MAX,
            n => (1 << n) - 1,
        };
        // Every block of a launch has the same shape.
        if self.shape != block {
            self.shape = block;
            for lane in 0..LANES as u32 {
                let linear = first + lane;
                self.tid[0].0[lane as usize] = linear % block[0];
                self.tid[1].0[lane as usize] = linear / block[0] % block[1];
                self.tid[2].0[lane as usize] = linear / block[0] / block[1];
            }
        }
        self.r32.resize(kernel.slots32 as usize, V32([0; LANES]));
        self.r64.resize(kernel.slots64 as usize, V64([0; LANES]));
        self.preds.resize(kernel.preds as usize, 0);
        self.local.resize(kernel.frame_bytes as usize / 4, V32([0; LANES]));
        self.frames.clear();
        self.no_free_frame_below = 1;
        self.frames.push(Frame {
            parent: 0,
            depth: 0,
            return_pc: 0,
            site: 0,
            function,
            base32: 0,
            base64: 0,
            base_pred: 0,
            local: 0,
            members: self.live,
        });
        self.groups.clear();
        if self.live != 0 {
            let (pc, mask) = (kernel.entry, self.live);
            self.groups.push(Group { pc, frame: 0, mask, wait: Wait::Ready, stamp: 0 });
        }
    }

    /// Bytes of memory it holds.
    pub(crate) fn footprint(kernel: &Function) -> u64 {
        let lanes = LANES as u64;
        u64::from(kernel.slots32) * 4 * lanes
            + u64::from(kernel.slots64) * 8 * lanes
            + u64::from(kernel.frame_bytes) * lanes
            + 1024
    }

    /// Takes the group that runs next out of the list, merged with every group at the same place. `rotate` prefers the
    /// one that has waited longest.
    pub(crate) fn pick(
        &mut self,
        program: &Program,
        barriers: &Barriers,
        rotate: bool,
    ) -> Option<Group> {
        self.wake(program, barriers);
        let ready = self.groups.iter().enumerate().filter(|(_, g)| g.wait == Wait::Ready);
        let chosen = if rotate {
            ready.min_by_key(|(_, g)| g.stamp)
        } else {
            ready.min_by_key(|(_, g)| (u32::MAX - self.frames[g.frame as usize].depth, g.pc))
        };
        let index = chosen.map(|(i, _)| i)?;
        let mut group = self.groups.swap_remove(index);
        self.absorb(&mut group);
        Some(group)
    }

    /// Merges into `group` every other at the same place that waits for nothing or for lanes.
    pub(crate) fn absorb(&mut self, group: &mut Group) {
        let mut mask = group.mask;
        self.groups.retain(|g| {
            let same = g.frame == group.frame
                && g.pc == group.pc
                && !matches!(g.wait, Wait::Barrier { .. });
            if same {
                mask |= g.mask;
            }
            !same
        });
        group.mask = mask;
    }

    /// The lowest place at or after `pc` where another group of the frame stands: where a merge may be due.
    pub(crate) fn limit(&self, frame: u32, pc: u32) -> u32 {
        let others = self
            .groups
            .iter()
            .filter(|g| g.frame == frame && g.pc >= pc && !matches!(g.wait, Wait::Barrier { .. }));
        others.map(|g| g.pc).min().unwrap_or(u32::MAX)
    }

    /// Readies the groups whose wait is over.
    fn wake(&mut self, program: &Program, barriers: &Barriers) {
        for i in 0..self.groups.len() {
            let group = self.groups[i];
            match group.wait {
                Wait::Ready => {}
                Wait::Members(needed) => {
                    if needed & self.live & !group.mask == 0 {
                        self.groups[i].wait = Wait::Ready;
                    }
                }
                Wait::Barrier { id, phase } => {
                    if barriers.phase(id) != phase {
                        let Inst { op, .. } = program.code[group.pc as usize];
                        self.finish_barrier(&op, &group, barriers.result(id));
                        self.groups[i].pc += 1;
                        self.groups[i].wait = Wait::Ready;
                    }
                }
            }
        }
    }

    /// Writes what a reducing barrier found to the lanes of a group.
    pub(crate) fn finish_barrier(&mut self, op: &Op, group: &Group, result: [u32; 3]) {
        let Op::Barrier { kind, d, .. } = *op else { return };
        if d == NONE {
            return;
        }
        let constants = (&[][..], &[][..]);
        let mut registers = self.registers(group.frame, constants);
        use super::registers::Lane;
        use crate::ir::Barrier as B;
        match kind {
            B::Sync | B::Arrive => {}
            B::Popc => u32::write(&mut registers, d, group.mask, [result[0]; LANES]),
            B::And => registers.set_pred(d, group.mask, if result[1] != 0 { u32::MAX } else { 0 }),
            B::Or => registers.set_pred(d, group.mask, if result[2] != 0 { u32::MAX } else { 0 }),
        }
    }

    /// When no group is ready: releases groups that wait for each other at different warp barriers.
    pub(crate) fn meet(&mut self, program: &Program) -> bool {
        let mut arrived = 0;
        let mut needed = 0;
        let at_warp_sync =
            |g: &Group| matches!(program.code[g.pc as usize].op, Op::WarpSync { .. });
        for g in self.groups.iter().filter(|g| at_warp_sync(g)) {
            if let Wait::Members(n) = g.wait {
                arrived |= g.mask;
                needed |= n;
            }
        }
        if arrived == 0 || needed & self.live & !arrived != 0 {
            return false;
        }
        for g in self.groups.iter_mut().filter(|g| at_warp_sync(g)) {
            if matches!(g.wait, Wait::Members(_)) {
                g.wait = Wait::Ready;
                g.pc += 1;
            }
        }
        true
    }

    /// Whether any group waits at a block-wide barrier.
    pub(crate) fn at_barrier(&self) -> bool {
        self.groups.iter().any(|g| matches!(g.wait, Wait::Barrier { .. }))
    }

    /// The registers of a frame.
    #[inline(always)]
    pub(crate) fn registers<'a>(
        &'a mut self,
        frame: u32,
        constants: (&'a [V32], &'a [V64]),
    ) -> Registers<'a> {
        let frame = &self.frames[frame as usize];
        Registers {
            r32: &mut self.r32[frame.base32 as usize..],
            r64: &mut self.r64[frame.base64 as usize..],
            preds: &mut self.preds[frame.base_pred as usize..],
            c32: constants.0,
            c64: constants.1,
        }
    }

    /// Opens a frame for `mask`'s call from `caller`; `None` when the stack is full.
    pub(crate) fn enter(
        &mut self,
        caller: u32,
        (function, site, return_pc): (u32, u32, u32),
        (from, to): (&Function, &Function),
        mask: u32,
        stack_bytes: u32,
    ) -> Option<u32> {
        let parent = self.frames[caller as usize];
        let frame = Frame {
            parent: caller,
            depth: parent.depth + 1,
            return_pc,
            site,
            function,
            base32: parent.base32 + from.slots32,
            base64: parent.base64 + from.slots64,
            base_pred: parent.base_pred + from.preds,
            local: parent.local + from.frame_bytes,
            members: mask,
        };
        let local_end = u64::from(frame.local) + u64::from(to.frame_bytes);
        // Registers count against the stack as on a GPU, where a call spills them.
        let spilled = u64::from(frame.base32) * 4 + u64::from(frame.base64) * 8;
        if local_end + spilled > u64::from(stack_bytes) || frame.depth > MAX_DEPTH {
            return None;
        }
        grow(&mut self.r32, frame.base32 + to.slots32, V32([0; LANES]));
        grow(&mut self.r64, frame.base64 + to.slots64, V64([0; LANES]));
        grow(&mut self.preds, frame.base_pred + to.preds, 0);
        grow(&mut self.local, local_end as u32 / 4, V32([0; LANES]));
        let first = self.no_free_frame_below.max(1);
        let free = self.frames.iter().skip(first).position(|f| f.members == 0).map(|i| i + first);
        let index = free.unwrap_or(self.frames.len());
        self.no_free_frame_below = index + 1;
        if index == self.frames.len() {
            self.frames.push(frame);
        } else {
            self.frames[index] = frame;
        }
        Some(index as u32)
    }

    /// Copies words between two frames' local memory for the lanes of `mask`.
    pub(crate) fn copy_local(&mut self, from: u32, to: u32, words: u32, mask: u32) {
        for w in 0..words {
            let source = self.local[(from / 4 + w) as usize];
            let dest = &mut self.local[(to / 4 + w) as usize];
            for lane in 0..LANES {
                let taken = mask & BITS[lane] != 0;
                dest.0[lane] = if taken { source.0[lane] } else { dest.0[lane] };
            }
        }
    }

    /// Ends the lanes of `mask`, which run in `frame`.
    pub(crate) fn exit(&mut self, frame: u32, mask: u32) {
        self.live &= !mask;
        let mut at = frame;
        loop {
            let f = &mut self.frames[at as usize];
            f.members &= !mask;
            if f.members == 0 {
                self.no_free_frame_below = self.no_free_frame_below.min(at as usize);
            }
            if f.depth == 0 {
                return;
            }
            at = f.parent;
        }
    }

    /// The predicate operand of a vote or barrier: true without one.
    pub(crate) fn condition(registers: &Registers<'_>, p: Slot, negate: bool) -> u32 {
        let value = if p == NONE { u32::MAX } else { registers.pred(p) };
        if negate { !value } else { value }
    }
}

/// Makes room for slots up to `end`.
fn grow<T: Clone>(file: &mut Vec<T>, end: u32, empty: T) {
    if file.len() < end as usize {
        file.resize(end as usize, empty);
    }
}

/// Deepest nesting of calls.
pub(crate) const MAX_DEPTH: u32 = 4096;
