//! Attacks with launches: their shapes, their parameters, and what kernels do.

use core::sync::atomic::{AtomicBool, Ordering};

use turnstile_abi::launch::{
    Block, Extras, Grid, LaunchFlags, MAX_RELOCATIONS, Relocation, relocations_offset,
};
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::request::{Access, Format};
use turnstile_abi::{Handle, Rights, Status, op};
use turnstile_driver::{Buffer, DeviceManager, Error, Function, Program, Queue, Slot, Transport};

use super::Outcome;
use super::lab::{BYTES, Lab, SLOTS, finish, work};
use super::ranges::boundaries;
use crate::env::{Env, lists};
use crate::failure::{During, Failure, among, same};

/// Kernels of this module's own; each takes two 64-bit words.
const KERNELS: &str = "
.version 8.0
.target sm_80
.address_size 64

.visible .entry good(.param .u64 p, .param .u64 q)
{
	.reg .b64 %rd<3>;
	ld.param.u64 %rd1, [p];
	ld.param.u64 %rd2, [q];
	st.global.u64 [%rd1], %rd2;
	ret;
}

.visible .entry peek(.param .u64 p, .param .u64 q)
{
	.reg .b64 %rd<4>;
	ld.param.u64 %rd1, [p];
	ld.param.u64 %rd2, [q];
	ld.global.u64 %rd3, [%rd2];
	st.global.u64 [%rd1], %rd3;
	ret;
}

.visible .entry trap(.param .u64 p, .param .u64 q)
{
	trap;
	ret;
}

.visible .entry endless(.param .u64 p, .param .u64 q)
{
	.reg .b64 %rd<2>;
	ld.param.u64 %rd1, [p];
$again:
	st.volatile.global.u64 [%rd1], %rd1;
	bra.uni $again;
	ret;
}
";

/// Launching needs a program, a queue, and a buffer to see what became of it.
fn no_launches<T: Transport, E: Env>(lab: &Lab<'_, T, E>) -> Option<Outcome> {
    let able = lab.granted.ptx && lab.granted.launch && lab.granted.queue;
    (!able || lab.limits.buffers == 0).then_some(Outcome::Skipped("launches are not granted"))
}

/// What an attack with launches plays with.
struct Range<'q, T: Transport> {
    queue: Queue<'q, T>,
    program: Program<'q, T>,
    sink: Buffer<'q, T>,
}

/// Runs `attack` with a program loaded, a queue and a buffer.
fn on_the_range<T: Transport, E: Env>(
    lab: &Lab<'_, T, E>,
    attack: impl FnOnce(&DeviceManager<&T>, &mut Range<'_, &T>) -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    if let Some(outcome) = no_launches(lab) {
        return Ok(outcome);
    }
    let device = lab.start()?;
    let session = device.open_session().during("open a session")?;
    let mut slots = [Slot::NEW; SLOTS];
    let queue = session.create_queue(&mut slots).during("create a queue")?;
    let program = session.load_program(KERNELS.as_bytes(), Format::Ptx).during("load")?;
    let sink = session.create_buffer(BYTES, lab.usage()).during("create a buffer")?;
    attack(&device, &mut Range { queue, program, sink })
}

impl<T: Transport> Range<'_, T> {
    /// Runs one of the kernels with the sink's address and a word.
    fn run(&mut self, kernel: &str, word: u64) -> Result<Status, Failure> {
        let function = self.program.function(kernel).during("get a kernel")?;
        let status = self.run_function(&function, word);
        function.release().during("release a kernel")?;
        status
    }
    fn run_function(&mut self, function: &Function<'_, T>, word: u64) -> Result<Status, Failure> {
        let mut launch = function.launch([1; 3], [1; 3]).during("launch")?;
        launch
            .buffer(&self.sink, 0, Access::ReadWrite)
            .and_then(|l| l.value(word))
            .during("arguments")?;
        let token = self.queue.launch(launch).during("submit a launch")?;
        finish(&mut self.queue, token)
    }
    /// The session is not the worse for what its kernels did.
    fn fine(&mut self) -> Result<(), Failure> {
        among("a good kernel after it", 0, self.run("good", 7)?, &[Status::Ok])
    }
    /// The operands of a good launch, with its parameters written to the aperture by hand.
    fn by_hand(
        &self,
        device: &DeviceManager<T>,
        function: &Function<'_, T>,
        at: u64,
        relocation: &Relocation,
    ) -> Result<op::launch::Args, Failure> {
        let aperture = device.transport().aperture();
        let list = at + relocations_offset(16);
        let put = |at, bytes: &[u8]| {
            aperture.write(at, bytes).map_err(Error::from).during("write parameters")
        };
        put(at, &[0; 16])?;
        put(list, &relocation.to_bytes())?;
        Ok(op::launch::Args {
            function: function.handle(),
            grid: Grid { blocks: [1; 3], shared_bytes: 0 },
            block: Block { threads: [1; 3], params_bytes: 16 },
            params: at,
            extras: Extras { relocations: 1, flags: 0 },
        })
    }
    fn relocation(&self) -> Relocation {
        Relocation { at: 0, access: 3, buffer: self.sink.handle(), offset: 0 }
    }
}

pub(super) fn shapes<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let limits = lab.limits;
    on_the_range(lab, |device, range| {
        let function = range.program.function("good").during("get a kernel")?;
        let block = device.block(256).during("reserve parameters")?;
        let relocation = range.relocation();
        let good = range.by_hand(device, &function, block.offset(), &relocation)?;
        among("a good launch", 0, work(&mut range.queue, good)?, &[Status::Ok])?;
        let most = u32::try_from(limits.blocks).unwrap_or(u32::MAX);
        let threads = u16::try_from(limits.threads_per_block).unwrap_or(u16::MAX);
        let mut tries = [(good, Status::Ok); 12];
        for (i, (args, want)) in tries.iter_mut().enumerate() {
            *want = Status::Denied;
            match i {
                0 => args.grid.blocks = [most.saturating_add(1), 1, 1],
                1 => args.grid.blocks = [most, 2, 1],
                2 => args.grid.blocks = [u32::MAX; 3],
                3 => args.grid.blocks = [1 << 31, 2, 1],
                4 => args.block.threads = [threads.saturating_add(1), 1, 1],
                5 => args.block.threads = [threads, 2, 1],
                6 => args.block.threads = [u16::MAX; 3],
                7 => args.block.threads = [2, 2, threads],
                8 => args.grid.shared_bytes = u32::MAX,
                9 => (args.grid.blocks, *want) = ([1, 0, 1], Status::Malformed),
                10 => (args.block.threads, *want) = ([0, 1, 1], Status::Malformed),
                _ => (args.extras.flags, *want) = (1 << 31, Status::Malformed),
            }
        }
        for (i, (args, want)) in tries.into_iter().enumerate() {
            // A limit that is the largest number there is cannot be passed.
            let unlimited = i == 0 && most == u32::MAX;
            if !unlimited {
                among("a shape", i as u64, work(&mut range.queue, args)?, &[want])?;
            }
        }
        let mut cooperative = good;
        cooperative.extras.flags = LaunchFlags::COOPERATIVE.bits();
        let status = work(&mut range.queue, cooperative)?;
        let may = &[Status::Denied, Status::Ok, Status::Unsupported];
        among("a cooperative launch", 0, status, may)?;
        range.fine()?;
        Ok(Outcome::Refused("denied, malformed"))
    })
}

pub(super) fn parameters<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    on_the_range(lab, |device, range| {
        let function = range.program.function("good").during("get a kernel")?;
        let block = device.block(256).during("reserve parameters")?;
        let relocation = range.relocation();
        let good = range.by_hand(device, &function, block.offset(), &relocation)?;
        let end = device.aperture_bytes();
        for at in boundaries() {
            let inside = turnstile_abi::memory::contains(end, at, 16 + Relocation::BYTES);
            if !inside || !at.is_multiple_of(8) {
                let args = op::launch::Args { params: at, ..good };
                let status = work(&mut range.queue, args)?;
                among("a parameter block's place", at, status, &[Status::BadAddress])?;
            }
        }
        for bytes in [0, 8, 15, 17, 24, 4096, 4097, u16::MAX] {
            let mut args = good;
            args.block.params_bytes = bytes;
            let may = &[Status::OutOfRange, Status::Malformed];
            among("a parameter block's length", bytes.into(), work(&mut range.queue, args)?, may)?;
        }
        for count in [MAX_RELOCATIONS + 1, 1 << 16, u32::MAX] {
            let mut args = good;
            args.extras.relocations = count;
            let status = work(&mut range.queue, args)?;
            among("a relocation count", count.into(), status, &[Status::Malformed])?;
        }
        range.fine()?;
        Ok(Outcome::Refused("bad_address, out_of_range, malformed"))
    })
}

pub(super) fn relocations<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    let derive = lab.granted.derive;
    on_the_range(lab, |device, range| {
        let function = range.program.function("good").during("get a kernel")?;
        let block = device.block(256).during("reserve parameters")?;
        let good = range.relocation();
        let read_only = match derive {
            true => Some(range.sink.derive(Rights::READ).during("derive")?),
            false => None,
        };
        let forged = Handle::from_raw(good.buffer.raw() ^ 1 << 30);
        let mut tries = [(good, Status::Malformed); 14];
        for (i, (relocation, want)) in tries.iter_mut().enumerate() {
            match i {
                0 => relocation.at = 4,
                1 => relocation.at = 1,
                2 => relocation.at = 16,
                3 => relocation.at = 4096,
                4 => relocation.at = u32::MAX,
                5 => relocation.at = u32::MAX - 7,
                6 => relocation.access = 0,
                7 => relocation.access = 4,
                8 => relocation.access = u32::MAX,
                9 => (relocation.offset, *want) = (BYTES + 1, Status::OutOfRange),
                10 => (relocation.offset, *want) = (u64::MAX, Status::OutOfRange),
                11 => (relocation.buffer, *want) = (Handle::NULL, Status::BadHandle),
                12 => (relocation.buffer, *want) = (forged, Status::BadHandle),
                _ => (relocation.buffer, *want) = (function.handle(), Status::BadHandle),
            }
        }
        for (i, (relocation, want)) in tries.into_iter().enumerate() {
            let args = range.by_hand(device, &function, block.offset(), &relocation)?;
            among("a relocation", i as u64, work(&mut range.queue, args)?, &[want])?;
        }
        if let Some(read_only) = &read_only {
            let relocation = Relocation { buffer: read_only.handle(), ..good };
            let args = range.by_hand(device, &function, block.offset(), &relocation)?;
            let status = work(&mut range.queue, args)?;
            among("a relocation without the right", 0, status, &[Status::NoRight])?;
        }
        range.fine()?;
        Ok(Outcome::Refused("malformed, out_of_range, bad_handle, no_right"))
    })
}

/// A second vCPU rewrites parameters and relocations while launches read them.
pub(super) fn raced<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure>
where
    T::Aperture: Sync,
{
    on_the_range(lab, |device, range| {
        let function = range.program.function("good").during("get a kernel")?;
        let block = device.block(256).during("reserve parameters")?;
        let relocation = range.relocation();
        let good = range.by_hand(device, &function, block.offset(), &relocation)?;
        let (stop, aperture) = (AtomicBool::new(false), lab.transport.aperture());
        let (at, list) = (block.offset(), block.offset() + relocations_offset(16));
        let rewrite = || {
            let mut i = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                i = i.wrapping_add(1);
                let wild = 1_u64 << (i % 64);
                let _ = aperture.store64(at, wild);
                let _ = aperture.store64(list, if i.is_multiple_of(3) { wild } else { 3 << 32 });
                let _ = aperture.store64(list + 8, relocation.buffer.raw() ^ (wild & 1 << 40));
                let _ = aperture.store64(list + 16, if i.is_multiple_of(5) { wild } else { 0 });
            }
        };
        let mut result = Ok(());
        let mut body = || {
            result = (|| {
                for i in 0..300 {
                    let may = &[
                        Status::Ok,
                        Status::Malformed,
                        Status::OutOfRange,
                        Status::BadHandle,
                        Status::Denied,
                        // The address was relocated to the buffer's very end, or not at all.
                        Status::KernelFault,
                    ];
                    among("a raced launch", i, work(&mut range.queue, good)?, may)?;
                }
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
        };
        if !lab.env.alongside(&rewrite, &mut body) {
            return Ok(Outcome::Skipped("no second vCPU"));
        }
        result?;
        range.fine()?;
        Ok(Outcome::Refused("each by what was read once"))
    })
}

/// A device address where only a relocation may put one.
pub(super) fn raw_addresses<T: Transport, E: Env>(
    lab: &mut Lab<'_, T, E>,
) -> Result<Outcome, Failure> {
    let raw_granted = lists(lab.env, "allow", "raw-addresses");
    on_the_range(lab, |_, range| {
        let address = range.sink.address();
        let status = range.run("good", address)?;
        let want = if raw_granted { Status::Ok } else { Status::Denied };
        among("a device address in the parameters", 0, status, &[want])?;
        range.fine()?;
        match raw_granted {
            true => Ok(Outcome::Harmless("the policy grants raw addresses")),
            false => Ok(Outcome::Refused("denied")),
        }
    })
}

/// Addresses that are no one's, or not this tenant's.
fn strays(base: u64, bytes: u64) -> impl Iterator<Item = u64> {
    let beyond = base.wrapping_add(bytes);
    let near = [base.wrapping_sub(8), beyond, beyond.wrapping_add(1 << 30)];
    // 0x7000... is where other tenants' arenas would be, one after the other.
    near.into_iter().chain([
        0,
        8,
        1 << 12,
        1 << 32,
        1 << 40,
        1 << 46,
        1 << 47,
        1 << 63,
        u64::MAX - 7,
    ])
}

/// How a stray access may end: with a fault, or confined to the tenant's own arena by the program
/// guard. Which of the two is the policy's choice, which a tenant cannot see; `guard=none` says.
fn may_stray<T: Transport, E: Env>(lab: &Lab<'_, T, E>) -> &'static [Status] {
    if lists(lab.env, "guard", "none") {
        &[Status::KernelFault]
    } else {
        &[Status::KernelFault, Status::Ok]
    }
}

pub(super) fn peek<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let may = may_stray(lab);
    on_the_range(lab, |device, range| {
        let arena = device.identify().during("identify")?;
        for stray in strays(arena.arena_base, arena.arena_bytes) {
            among("a stray read", stray, range.run("peek", stray)?, may)?;
            range.fine()?;
        }
        Ok(Outcome::Refused("kernel_fault or confined, for itself only"))
    })
}

pub(super) fn poke<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let may = may_stray(lab);
    on_the_range(lab, |device, range| {
        let arena = device.identify().during("identify")?;
        // The kernel that writes takes its address from the first word, so no relocation here.
        let function = range.program.function("good").during("get a kernel")?;
        for stray in strays(arena.arena_base, arena.arena_bytes) {
            let mut launch = function.launch([1; 3], [1; 3]).during("launch")?;
            launch.value(stray).and_then(|l| l.value(1_u64)).during("arguments")?;
            let token = range.queue.launch(launch).during("submit a launch")?;
            among("a stray write", stray, finish(&mut range.queue, token)?, may)?;
            range.fine()?;
        }
        Ok(Outcome::Refused("kernel_fault or confined, for itself only"))
    })
}

pub(super) fn trap<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    on_the_range(lab, |_, range| {
        for i in 0..5 {
            // Under the guard's fence a trap is an exit, and no fault at all.
            among("a trap", i, range.run("trap", 0)?, &[Status::KernelFault, Status::Ok])?;
            range.fine()?;
        }
        Ok(Outcome::Refused("kernel_fault for itself only, or made an exit"))
    })
}

pub(super) fn endless<T: Transport, E: Env>(lab: &mut Lab<'_, T, E>) -> Result<Outcome, Failure> {
    let limit = lab.limits.launch_timeout_ns;
    let clock = lab.transport;
    let outcome = on_the_range(lab, |_, range| {
        let function = range.program.function("endless").during("get a kernel")?;
        let start = clock.now_ns();
        among("an endless loop", 0, range.run_function(&function, 0)?, &[Status::Timeout])?;
        let took = clock.now_ns().saturating_sub(start);
        // Ended by the limit, and not long after it: within the limit again, and ten seconds.
        let late = took > limit.saturating_mul(2).saturating_add(10_000_000_000);
        same("ended late", took, late.into(), 0)?;
        match function.release() {
            // A GPU that cannot end a kernel alone ends the session with it.
            Err(Error::Status { status: Status::DeviceLost, .. } | Error::Lost) => {}
            released => {
                released.during("release a kernel")?;
                range.fine()?;
            }
        }
        Ok(Outcome::Refused("timeout"))
    })?;
    if matches!(outcome, Outcome::Refused(_)) {
        on_the_range(lab, |_, range| range.fine().map(|()| Outcome::Refused("timeout")))?;
    }
    Ok(outcome)
}
