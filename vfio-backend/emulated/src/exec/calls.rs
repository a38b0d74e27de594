//! Calls and returns: frames opened and given back, parameters and results copied.

use super::launch::Launch;
use super::warp::{Group, Outcome, Wait, Warp, fault};
use crate::fault::FaultKind;

/// Opens a frame for the lanes of `mask` and puts them at the function's entry.
pub(super) fn call(
    warp: &mut Warp,
    launch: &Launch,
    (caller, pc): (u32, u32),
    site: u32,
    function: u32,
    mask: u32,
) -> Outcome<()> {
    let program = &*launch.linked.program;
    let details = &program.calls[site as usize];
    let from = &program.functions[warp.frames[caller as usize].function as usize];
    let to = &program.functions[function as usize];
    let Some(index) =
        warp.enter(caller, (function, site, pc + 1), (from, to), mask, launch.stack_bytes)
    else {
        let kind = FaultKind::StackOverflow { limit: launch.stack_bytes };
        return fault(mask, kind).map_err(|mut f: Box<super::warp::LaneFault>| {
            f.pc = pc;
            f
        });
    };
    let (outer, inner) = (warp.frames[caller as usize].local, warp.frames[index as usize].local);
    for copy in &details.args {
        warp.copy_local(outer + copy.caller, inner + copy.callee, copy.words, mask);
    }
    warp.clock += 1;
    let stamp = warp.clock;
    warp.groups.push(Group { pc: to.entry, frame: index, mask, wait: Wait::Ready, stamp });
    Ok(())
}

/// Returns the lanes of `mask` from a frame to its caller.
pub(super) fn give_back(warp: &mut Warp, launch: &Launch, frame: u32, mask: u32) {
    let inner = warp.frames[frame as usize];
    let outer = warp.frames[inner.parent as usize].local;
    for copy in &launch.linked.program.calls[inner.site as usize].results {
        warp.copy_local(inner.local + copy.callee, outer + copy.caller, copy.words, mask);
    }
    let left = &mut warp.frames[frame as usize].members;
    *left &= !mask;
    if *left == 0 {
        warp.no_free_frame_below = warp.no_free_frame_below.min(frame as usize);
    }
    warp.clock += 1;
    let stamp = warp.clock;
    warp.groups.push(Group {
        pc: inner.return_pc,
        frame: inner.parent,
        mask,
        wait: Wait::Ready,
        stamp,
    });
}
