//! Machine code and its surroundings: the context that compiled code works on, the functions it calls back, and the call
//! into it. The one place of the compiler that is unsafe.
//!
//! Ownership: a [`Code`] owns its executable memory, which is written first, then made executable and never written
//! again; it is unmapped with the last reference to the program's compiled form.
#![allow(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use cranelift_jit::JITModule;

use super::special;
use crate::exec::block::Common;
use crate::exec::launch::Launch;
use crate::exec::registers::{Registers, V32, V64};
use crate::fault::Intent;
use crate::ir::window;
use crate::ops::compare::Compare;
use crate::ops::convert::Convert;
use crate::ops::float32::Float32;
use crate::ops::float64::Float64;
use crate::ops::half::Half;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;
use crate::raw::{LANES, Segment};

/// Thread instructions between two looks at the launch's limits.
const SLICE: i64 = 1 << 20;
/// Slices after which a call gives up, so that the interpreter's scheduler can let other threads go on.
const MOST_SLICES: u32 = 256;

/// What one memory instruction has learnt: the device addresses that it may use without asking again.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Site {
    /// First device address.
    pub(super) start: u64,
    /// Accesses of the instruction's size from there on; 0 for none.
    pub(super) count: u64,
    /// Host address of the first byte.
    pub(super) host: u64,
}

/// What compiled code works on. Its layout is known to the translator through `offset_of!`.
#[repr(C)]
pub(super) struct Context {
    pub(super) r32: *mut V32,
    pub(super) r64: *mut V64,
    pub(super) preds: *mut u32,
    pub(super) tid: *const V32,
    /// All local memory of the warp, and its bytes per thread.
    pub(super) local: *mut V32,
    pub(super) local_bytes: u64,
    /// First byte of the running frame.
    pub(super) frame: u64,
    pub(super) shared: *mut u8,
    pub(super) shared_bytes: u64,
    pub(super) params: *const u8,
    pub(super) params_bytes: u64,
    pub(super) sites: *mut Site,
    /// Thread instructions left before `refill` is asked.
    pub(super) fuel: i64,
    pub(super) specials: [u32; special::ENTRIES],
    /// What the executor answered last.
    pub(super) answer: u64,
    /// Where each unfinished lane goes on.
    pub(super) exits: [u32; LANES],
    /// Where each lane begins in the lane form: 0 at the entry.
    pub(super) resumes: [u32; LANES],
    /// Whether rows of threads begin at multiples of a group.
    pub(super) rows: u64,
    // For the functions called back:
    launch: *const Launch,
    /// Instructions handed out in all.
    granted: i64,
    slices: u32,
    site_count: u32,
}

/// A region's machine code: takes the context and the lanes, returns those that are not finished.
type Entry = unsafe extern "C" fn(*mut Context, u32) -> u32;

/// Executable memory.
pub(super) struct Code {
    /// `Some` until dropped. Behind a lock because the module is not `Sync`; nobody takes it.
    module: Mutex<Option<JITModule>>,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").finish_non_exhaustive()
    }
}

impl Code {
    /// Takes over a module whose functions are final.
    pub(super) fn new(module: JITModule) -> Self {
        Self { module: Mutex::new(Some(module)) }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.module.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            // SAFETY: regions hold a reference to their code, so none is left to be called, and none runs.
            unsafe { module.free_memory() };
        }
    }
}

/// A compiled region and what calling it needs.
#[derive(Debug)]
pub(crate) struct Callable {
    entry: Entry,
    /// Keeps the machine code.
    _code: std::sync::Arc<Code>,
    /// Slots that the frame must have.
    pub(super) slots: [u32; 3],
    /// Local memory that the frame must have, in bytes.
    pub(super) frame_bytes: u32,
    /// Memory instructions of the whole program.
    pub(super) sites: u32,
}

/// A region at an address in `code`: the start of a final function that the translator made for slots, frame and sites as
/// given. [`super::compile`] alone calls this, with what the module said.
pub(super) fn callable(
    address: *const u8,
    code: std::sync::Arc<Code>,
    slots: [u32; 3],
    frame_bytes: u32,
    sites: u32,
) -> Callable {
    // SAFETY: the module gave this address for a function of this signature, which `code` keeps.
    let entry = unsafe { std::mem::transmute::<*const u8, Entry>(address) };
    Callable { entry, _code: code, slots, frame_bytes, sites }
}

/// How a call of compiled code ended.
pub(crate) struct Ended<'c> {
    /// Lanes that have not exited.
    pub(crate) unfinished: u32,
    /// Where they go on.
    pub(crate) exits: &'c [u32; LANES],
    /// Instructions executed by threads.
    pub(crate) instructions: u64,
}

impl Ended<'_> {
    /// The place where every unfinished lane goes on, if it is one.
    pub(crate) fn together(&self) -> Option<u32> {
        let place = self.exits[self.unfinished.trailing_zeros() as usize & 31];
        let same = (0..LANES).all(|l| self.unfinished >> l & 1 == 0 || self.exits[l] == place);
        same.then_some(place)
    }

    /// Calls `f` with every place where lanes go on.
    pub(crate) fn each_place(&self, mut f: impl FnMut(u32, u32)) {
        let mut left = self.unfinished;
        while left != 0 {
            let place = self.exits[left.trailing_zeros() as usize];
            let lanes = (0..LANES)
                .filter(|&l| left >> l & 1 != 0 && self.exits[l] == place)
                .fold(0u32, |m, l| m | 1 << l);
            left &= !lanes;
            f(place, lanes);
        }
    }
}

/// The parts of a warp that compiled code changes.
pub(crate) struct State<'a, 'r> {
    pub(crate) registers: &'a mut Registers<'r>,
    pub(crate) local: &'a mut [V32],
    /// First byte of the frame.
    pub(crate) frame: u32,
    pub(crate) tid: &'a [V32; 3],
    /// The warp's number in its block.
    pub(crate) warp: u32,
}

/// Calls compiled code for the warps of one block.
pub(crate) struct Caller<'a> {
    context: Context,
    launch: &'a Launch,
    // What the context points to beyond the launch.
    _shared: &'a Segment,
    sites: &'a mut Vec<Site>,
}

impl<'a> Caller<'a> {
    /// For a block and its launch.
    pub(crate) fn new(common: &'a mut Common, launch: &'a Launch) -> Self {
        let specials = special::table(launch, common, 0);
        let Common { shared, sites, .. } = common;
        let context = Context {
            r32: std::ptr::null_mut(),
            r64: std::ptr::null_mut(),
            preds: std::ptr::null_mut(),
            tid: std::ptr::null(),
            local: std::ptr::null_mut(),
            local_bytes: 0,
            frame: 0,
            shared: shared.base(),
            shared_bytes: shared.len(),
            params: launch.params.base(),
            params_bytes: launch.params.len(),
            sites: std::ptr::null_mut(),
            fuel: 0,
            specials,
            answer: 0,
            exits: [0; LANES],
            resumes: [0; LANES],
            rows: u64::from(super::group::has_whole_rows(launch.block)),
            launch,
            granted: 0,
            slices: 0,
            site_count: 0,
        };
        Self { context, launch, _shared: shared, sites }
    }

    /// Runs the lanes of `mask` from the region's entry until each leaves the region.
    pub(crate) fn call(&mut self, region: &Callable, state: State<'_, '_>, mask: u32) -> Ended<'_> {
        let registers = state.registers;
        let local_bytes = state.local.len() as u64 * 4;
        let fits = registers.r32.len() >= region.slots[0] as usize
            && registers.r64.len() >= region.slots[1] as usize
            && registers.preds.len() >= region.slots[2] as usize
            && u64::from(state.frame) + u64::from(region.frame_bytes) <= local_bytes;
        assert!(fits, "a frame is smaller than its function");
        if self.sites.len() < region.sites as usize {
            self.sites.resize(region.sites as usize, Site::default());
        }
        let context = &mut self.context;
        context.r32 = registers.r32.as_mut_ptr();
        context.r64 = registers.r64.as_mut_ptr();
        context.preds = registers.preds.as_mut_ptr();
        context.tid = state.tid.as_ptr();
        context.local = state.local.as_mut_ptr();
        context.local_bytes = local_bytes;
        context.frame = u64::from(state.frame);
        context.sites = self.sites.as_mut_ptr();
        context.site_count = region.sites;
        context.specials[special::WARP] = state.warp;
        context.resumes = [0; LANES];
        (context.fuel, context.granted, context.slices) = (SLICE, SLICE, 0);
        context.launch = self.launch;
        // SAFETY: the code was made for frames of at least these sizes, checked above; it indexes registers by constant slots
        // below them, local, shared and parameter memory after comparing with the lengths in the context, and device memory
        // only at addresses that `translate` gave for this launch's map, which outlives the call. The context and everything
        // it points to outlive the call and are reached by nobody else meanwhile, except device memory, which every side
        // accesses with plain machine loads and stores.
        let unfinished = unsafe { (region.entry)(context, mask) };
        Ended {
            unfinished: unfinished & mask,
            exits: &self.context.exits,
            instructions: self.context.granted.wrapping_sub(self.context.fuel).max(0) as u64,
        }
    }
}

/// What an access of compiled code is, packed into one argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Bytes.
    pub(super) width: u32,
    pub(super) store: bool,
    pub(super) generic: bool,
}

impl Kind {
    pub(super) fn pack(self) -> i64 {
        i64::from(self.width) | i64::from(self.store) << 8 | i64::from(self.generic) << 9
    }

    fn unpack(bits: u64) -> Self {
        Self { width: bits as u32 & 0xff, store: bits >> 8 & 1 != 0, generic: bits >> 9 & 1 != 0 }
    }
}

/// The host address of `width` bytes at a device address, or null when the interpreter has to look at the access. Tells
/// the site what it may use from now on.
pub(super) unsafe extern "C" fn translate(
    context: *mut Context,
    site: u64,
    address: u64,
    kind: u64,
) -> *mut u8 {
    // SAFETY: only compiled code calls this, with the context it was called with; nothing else refers to it meanwhile.
    let context = unsafe { &mut *context };
    // SAFETY: `call` put a live launch there.
    let launch = unsafe { &*context.launch };
    let kind = Kind::unpack(kind);
    let width = u64::from(kind.width.max(1));
    if !address.is_multiple_of(width) || (kind.generic && address & window::SHARED != 0) {
        return std::ptr::null_mut();
    }
    if launch.arena.is_some_and(|a| !a.contains(address, width)) {
        return std::ptr::null_mut();
    }
    let Some((region, offset)) = launch.map.locate(address, width) else {
        return std::ptr::null_mut();
    };
    let intent = if kind.store { Intent::Write } else { Intent::Read };
    if !region.permits(intent) {
        return std::ptr::null_mut();
    }
    let host = region.segment.base();
    // With an arena every access is looked at.
    if launch.arena.is_none() && site < u64::from(context.site_count) {
        let count = region.segment.len() / width;
        // SAFETY: `sites` has `site_count` entries and nobody else refers to them.
        unsafe {
            *context.sites.add(site as usize) =
                Site { start: region.start, count, host: host as u64 };
        }
    }
    // SAFETY: `locate` found `offset + width` inside the segment.
    unsafe { host.add(offset as usize) }
}

/// More instructions to execute; negative when the launch is over, out of time, or it is another thread's turn.
pub(super) unsafe extern "C" fn refill(context: *mut Context, left: i64) -> i64 {
    // SAFETY: as in `translate`.
    let context = unsafe { &mut *context };
    // SAFETY: as in `translate`.
    let launch = unsafe { &*context.launch };
    context.slices += 1;
    let issued = launch.warp_instructions.load(Relaxed)
        + context.granted.saturating_sub(left).max(0) as u64 / LANES as u64;
    if context.slices > MOST_SLICES
        || launch.is_over()
        || issued > launch.instruction_limit
        || Instant::now() >= launch.deadline
    {
        return left.min(-1);
    }
    context.granted += SLICE;
    left + SLICE
}

macro_rules! families {
    ($($name:ident, $family:ident);*) => {$(
        /// One lane of an operation that has no short form in machine code: number in the family and `x`, operands.
        pub(super) extern "C" fn $name(op: u32, a: u64, b: u64, c: u64) -> u64 {
            match $family::ALL.get((op >> 8) as usize) {
                Some(operation) => operation.scalar([a, b, c], op as u8),
                None => 0,
            }
        }
    )*};
}
families!(int32, Int32; int64, Int64; float32, Float32; float64, Float64; half, Half; convert, Convert);

/// One lane of a comparison.
pub(super) extern "C" fn compare(op: u32, a: u64, b: u64, _: u64) -> u64 {
    Compare::ALL.get((op >> 8) as usize).is_some_and(|o| o.scalar(a, b, op as u8)).into()
}
