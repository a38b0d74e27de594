//! A thread block: its warps, shared memory and barriers, run in turns by one worker thread.

use super::launch::Launch;
use super::levels::Level;
use super::registers::Registers;
use super::warp::{Group, LaneFault, Outcome, Wait, Warp, fault};
use crate::fault::FaultKind;
use crate::ir::Barrier;
use crate::jit::code::{Caller, Site, State};
use crate::raw::Segment;

/// Barriers a block has (PTX ISA 9.0, section 9.7.13.1), and one for a cluster that is the block itself.
const BARRIERS: usize = 17;
/// The cluster's.
pub(crate) const CLUSTER_BARRIER: u32 = 16;

/// One barrier's phase under way.
#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    /// Completed phases.
    number: u32,
    /// Threads arrived.
    arrived: u32,
    /// Threads expected; 0 means every live thread of the block.
    expected: u32,
    /// Of those arrived: predicate true, and all counted with a predicate.
    yes: u32,
    voted: u32,
    /// The last completed phase's count, whether all and whether any.
    result: [u32; 3],
}

/// A block's barriers.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    phases: [Phase; BARRIERS],
    /// Threads of the block that have not exited.
    live: u32,
}

impl Barriers {
    /// Completed phases of a barrier.
    pub(crate) fn phase(&self, id: u8) -> u32 {
        self.phases[usize::from(id) % BARRIERS].number
    }

    /// What the last completed phase of a reducing barrier found: count, all, any.
    pub(crate) fn result(&self, id: u8) -> [u32; 3] {
        self.phases[usize::from(id) % BARRIERS].result
    }

    /// Counts `threads` in, `yes` of them with a true predicate. The phase to wait for, or `None` when it is complete.
    pub(crate) fn arrive(
        &mut self,
        id: u32,
        expected: Option<u32>,
        (threads, yes): (u32, u32),
        kind: Barrier,
    ) -> Outcome<Option<u32>> {
        let Some(phase) = self.phases.get_mut(id as usize) else {
            return fault(1, FaultKind::BadSync { what: "barrier number above 15" });
        };
        let expected = match expected {
            None => 0,
            Some(n) if n != 0 && n % 32 == 0 => n,
            Some(_) => {
                return fault(
                    1,
                    FaultKind::BadSync { what: "barrier count is no multiple of the warp size" },
                );
            }
        };
        if kind == Barrier::Arrive && expected == 0 {
            return fault(1, FaultKind::BadSync { what: "bar.arrive without a thread count" });
        }
        if phase.arrived != 0 && phase.expected != expected {
            return fault(
                1,
                FaultKind::BadSync { what: "threads expect different counts at one barrier" },
            );
        }
        phase.expected = expected;
        phase.arrived += threads;
        phase.yes += yes;
        phase.voted += threads;
        let waited = phase.number;
        Ok(if phase.complete(self.live) { None } else { Some(waited) })
    }

    /// Takes `threads` out of the block: whoever waits for them goes on.
    pub(crate) fn exit(&mut self, threads: u32) {
        self.live -= threads.min(self.live);
        for phase in &mut self.phases {
            if phase.arrived != 0 {
                phase.complete(self.live);
            }
        }
    }
}

impl Phase {
    /// Ends the phase if everybody has arrived.
    fn complete(&mut self, live: u32) -> bool {
        let needed = if self.expected == 0 { live } else { self.expected };
        if self.arrived < needed {
            return false;
        }
        self.result = [self.yes, u32::from(self.yes == self.voted), u32::from(self.yes != 0)];
        self.number = self.number.wrapping_add(1);
        (self.arrived, self.expected, self.yes, self.voted) = (0, 0, 0, 0);
        true
    }
}

/// How a warp's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Every thread has exited.
    Done,
    /// All wait for others.
    Blocked,
    /// It could go on.
    Yielded,
}

/// Most times that a block's turn goes round its warps: a barrier ends each round.
const ROUNDS: u32 = 1024;

/// How a block's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Over.
    Done,
    /// It spins, waits for other blocks, or has had its time.
    Yielded,
}

/// What the warps of a block share.
pub(crate) struct Common {
    pub(crate) index: [u32; 3],
    /// Number of the worker thread, as `%smid`.
    pub(crate) worker: u32,
    pub(crate) shared: Segment,
    pub(crate) barriers: Barriers,
    /// Whether it uses the launch's machine code.
    pub(crate) compiled: bool,
    /// What compiled code's memory instructions have learnt during this launch.
    pub(crate) sites: Vec<Site>,
}

/// A block in execution. Reused for the next one.
pub(crate) struct Block {
    pub(crate) common: Common,
    warps: Vec<Warp>,
    /// No thread has executed anything.
    is_fresh: bool,
}

impl Block {
    /// Memory for one block; `None` when the host has none.
    pub(crate) fn new(launch: &Launch, worker: u32) -> Option<Self> {
        let shared = Segment::zeroed(u64::from(launch.shared_bytes).max(16))?;
        let shared = shared.part(0, u64::from(launch.shared_bytes))?;
        let common = Common {
            index: [0; 3],
            worker,
            shared,
            barriers: Barriers::default(),
            compiled: false,
            sites: Vec::new(),
        };
        let warps = (0..launch.warps()).map(Warp::new).collect();
        Some(Self { common, warps, is_fresh: true })
    }

    /// Makes it the block number `n` of the grid, before its first instruction; `compiled`: with machine code.
    pub(crate) fn start(&mut self, launch: &Launch, n: u64, compiled: bool) {
        (self.common.compiled, self.is_fresh) = (compiled, true);
        self.common.index = launch.block_index(n);
        self.common.barriers = Barriers::default();
        self.common.barriers.live = launch.block.iter().product();
        let len = self.common.shared.len();
        let _ = self.common.shared.fill(0, len, 0, 1);
        let kernel = &launch.linked.program.functions[launch.kernel as usize];
        for warp in &mut self.warps {
            warp.start(launch.kernel, kernel, launch.block);
        }
    }

    /// Runs until the block is over, or has spun for a while without end.
    pub(crate) fn run(
        &mut self,
        launch: &Launch,
        level: Level,
    ) -> Result<Progress, (u32, Box<LaneFault>)> {
        if std::mem::take(&mut self.is_fresh) && self.common.compiled {
            self.sprint(launch);
        }
        let (mut spins, mut rounds) = (0, 0);
        loop {
            let (mut ran, mut blocked, mut done) = (false, false, true);
            for warp in &mut self.warps {
                if warp.live == 0 {
                    continue;
                }
                let before = warp.work.warp_instructions;
                let index = warp.index;
                let turn = level.run(warp, &mut self.common, launch).map_err(|f| (index, f))?;
                ran |= warp.work.warp_instructions != before;
                match turn {
                    Turn::Done => {}
                    Turn::Blocked => (done, blocked) = (false, true),
                    Turn::Yielded => {
                        done = false;
                        spins += 1;
                    }
                }
            }
            if done {
                return Ok(Progress::Done);
            }
            if !ran && blocked {
                return Err(self.deadlock());
            }
            rounds += 1;
            // A loop around a barrier has no warp that spins, and may be endless all the same.
            if spins >= self.warps.len() as u32 || rounds >= ROUNDS {
                return Ok(Progress::Yielded);
            }
        }
    }

    /// Runs every warp from the kernel's entry through machine code, if there is any for it, without the interpreter's
    /// scheduler. Kernels without barriers and the like are over then.
    fn sprint(&mut self, launch: &Launch) {
        let kernel = &launch.linked.program.functions[launch.kernel as usize];
        let Some(region) = launch.compiled.as_deref().and_then(|c| c.region_at(kernel.entry))
        else {
            return;
        };
        let mut finished = 0;
        let mut caller = Caller::new(&mut self.common, launch);
        for warp in &mut self.warps {
            if launch.is_over() {
                break;
            }
            let mask = warp.live;
            let index = warp.index;
            let Warp { r32, r64, preds, local, tid, groups, work, .. } = warp;
            let mut registers = Registers { r32, r64, preds, c32: &[], c64: &[] };
            let state =
                State { registers: &mut registers, local, frame: 0, tid: &*tid, warp: index };
            let ended = caller.call(region, state, mask);
            work.warp_instructions +=
                ended.instructions.div_ceil(u64::from(mask.count_ones().max(1)));
            work.thread_instructions += ended.instructions;
            groups.clear();
            ended.each_place(|pc, lanes| {
                groups.push(Group { pc, frame: 0, mask: lanes, wait: Wait::Ready, stamp: 0 });
            });
            let gone = mask & !ended.unfinished;
            warp.exit(0, gone);
            finished += gone.count_ones();
        }
        self.common.barriers.exit(finished);
    }

    /// Work done since the last call.
    pub(crate) fn take_work(&mut self) -> (u64, u64) {
        self.warps.iter_mut().fold((0, 0), |(w, t), warp| {
            let work = std::mem::take(&mut warp.work);
            (w + work.warp_instructions, t + work.thread_instructions)
        })
    }

    /// The threads of a warp.
    pub(crate) fn thread(&self, warp: u32, lane: u32) -> [u32; 3] {
        let tid = &self.warps[warp as usize].tid;
        [0, 1, 2].map(|d| tid[d].0[lane as usize & 31])
    }

    /// Names a thread that waits for ever.
    fn deadlock(&self) -> (u32, Box<LaneFault>) {
        let stuck = self.warps.iter().find(|w| w.live != 0 && !w.groups.is_empty());
        let Some(warp) = stuck else {
            let kind = FaultKind::Deadlock { waits: "no warp can go on" };
            return (0, Box::new(LaneFault { lane: 0, pc: 0, kind }));
        };
        let group = warp.groups[0];
        let waits = if warp.at_barrier() {
            "threads wait at a barrier that others never reach"
        } else {
            "threads wait for lanes of their warp that never arrive"
        };
        let lane = group.mask.trailing_zeros().min(31);
        (
            warp.index,
            Box::new(LaneFault { lane, pc: group.pc, kind: FaultKind::Deadlock { waits } }),
        )
    }
}
