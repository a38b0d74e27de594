//! A launch on worker threads: blocks in order, several at a time, each worker with a bounded set of resident blocks so
//! that blocks which wait for each other all get their turn.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::block::{Block, Progress};
use super::launch::{Failure, Launch};
use super::levels::Level;
use super::warp::Warp;
use crate::fault::Fault;
use crate::jit::tempo::Tempo;

/// Blocks a worker keeps in flight when they wait for each other and the launch is not cooperative.
const RESIDENT: usize = 32;

impl Launch {
    /// Bytes of memory for one resident block.
    pub(crate) fn block_footprint(&self) -> u64 {
        let kernel = &self.linked.program.functions[self.kernel as usize];
        u64::from(self.warps()) * Warp::footprint(kernel) + u64::from(self.shared_bytes)
    }

    /// The kernel's choice between machine code and interpreter, if there is machine code.
    fn tempo(&self) -> Option<&Tempo> {
        self.compiled.as_deref()?.tempos.get(self.kernel as usize)
    }

    /// What one worker thread does: takes blocks and runs them until none is left or the launch fails.
    /// `worker` counts from 0.
    pub(crate) fn work(&self, worker: u32, level: Level) {
        let blocks = self.blocks();
        let mut resident: Vec<Block> = Vec::new();
        let mut spare: Option<Block> = None;
        let mut turn = 0;
        // A cooperative grid is resident as a whole, on however few threads.
        let most = if self.cooperative { usize::MAX } else { RESIDENT };
        while !self.is_over() {
            // A new block when there is none, or when all that are here wait.
            let want = resident.is_empty() || (turn >= resident.len() && resident.len() < most);
            if want {
                let n = self.next.fetch_add(1, Relaxed);
                if n < blocks {
                    let Some(mut block) = spare.take().or_else(|| Block::new(self, worker)) else {
                        return self.fail(Failure::HostMemory);
                    };
                    let compiled = self.tempo().is_some_and(|t| t.next(self.choose));
                    block.start(self, n, compiled);
                    turn = resident.len();
                    resident.push(block);
                } else if resident.is_empty() {
                    return;
                }
            }
            if turn >= resident.len() {
                turn = 0;
            }
            let measured = self.tempo().filter(|t| self.choose && !t.is_decided());
            let begun = measured.map(|_| Instant::now());
            let progress = resident[turn].run(self, level);
            let (warp_work, thread_work) = resident[turn].take_work();
            if let (Some(tempo), Some(begun)) = (measured, begun) {
                tempo.add(resident[turn].common.compiled, begun.elapsed(), thread_work);
            }
            self.thread_instructions.fetch_add(thread_work, Relaxed);
            let issued = self.warp_instructions.fetch_add(warp_work, Relaxed) + warp_work;
            match progress {
                Ok(Progress::Done) => spare = Some(resident.swap_remove(turn)),
                Ok(Progress::Yielded) => {
                    turn += 1;
                    if issued > self.instruction_limit || Instant::now() >= self.deadline {
                        return self.fail(Failure::Timeout);
                    }
                }
                Err((warp, lane_fault)) => {
                    let block = &resident[turn];
                    let program = &self.linked.program;
                    let fault = Fault {
                        kernel: program.functions[self.kernel as usize].name.clone(),
                        line: program.lines.get(lane_fault.pc as usize).copied().unwrap_or(0),
                        block: block.common.index,
                        thread: block.thread(warp, lane_fault.lane),
                        kind: lane_fault.kind,
                    };
                    return self.fail(Failure::Fault(Box::new(fault)));
                }
            }
        }
    }
}
