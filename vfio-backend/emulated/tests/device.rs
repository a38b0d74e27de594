//! The emulated GPU as a backend: memory, quotas, programs, order, and what goes wrong on purpose.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use turnstile_abi::{SharedMemory, Status};
use turnstile_backend_api::op::Params;
use turnstile_backend_api::{
    Backend, BackendEvent, BackendOp, BufferId, Code, FunctionId, Home, Isolation, MemoryId,
    Outcome, Piece, Place, ProgramId, QueueId, RegionId, SharedRegion, SpaceId, Ticket,
};
use turnstile_emulated::device::{EmulatedGpu, Script, Scripted, Settings, Trouble};
use turnstile_ptx::{Admission, Limits, admit};

const SPACE: SpaceId = SpaceId(1);
const QUEUE: QueueId = QueueId(2);
const MIB: u64 = 1 << 20;
const HOST: MemoryId = MemoryId(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// A GPU with one space, one queue and a megabyte of host memory that is region 1.
struct Bench {
    gpu: EmulatedGpu,
    host: Arc<SharedRegion>,
    next: u64,
    answers: HashMap<Ticket, Outcome>,
    lost: Vec<SpaceId>,
}

impl Bench {
    fn new(script: &[(u64, Trouble)]) -> Bench {
        let script =
            script.iter().map(|&(operation, trouble)| Scripted { operation, trouble }).collect();
        let settings = Settings { memory_bytes: 64 * MIB, threads: 2, script: Script(script) };
        let gpu = EmulatedGpu::start(settings).unwrap();
        let host = Arc::new(SharedRegion::create("test", MIB).unwrap());
        let mut bench = Bench { gpu, host, next: 0, answers: HashMap::new(), lost: Vec::new() };
        bench.gpu.add_memory(HOST, bench.host.clone());
        bench.ok(BackendOp::SpaceOpen {
            space: SPACE,
            memory_bytes: 16 * MIB,
            weight: 1,
            isolation: Isolation::Exclusive,
        });
        bench.ok(BackendOp::QueueOpen { space: SPACE, queue: QUEUE });
        let piece = Piece { memory: HOST, offset: 0, bytes: MIB };
        let access = turnstile_abi::request::Access::ReadWrite;
        let pieces = Box::new([piece]);
        bench.ok(BackendOp::DmaMap { space: SPACE, region: RegionId(1), pieces, access });
        bench
    }

    fn submit(&mut self, op: BackendOp) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.gpu.submit(ticket, op);
        ticket
    }

    fn wait(&mut self, ticket: Ticket) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.answers.remove(&ticket) {
                return outcome;
            }
            assert!(begun.elapsed() < PATIENCE, "{ticket:?} is not answered");
            let (answers, lost) = (&mut self.answers, &mut self.lost);
            self.gpu.drain(&mut |event| match event {
                BackendEvent::Done(done) => {
                    let twice = answers.insert(done.ticket, done.outcome);
                    assert!(twice.is_none(), "{ticket:?} is answered twice");
                }
                BackendEvent::SpaceLost { space, .. } => lost.push(space),
            });
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn run(&mut self, op: BackendOp) -> Outcome {
        let ticket = self.submit(op);
        self.wait(ticket)
    }

    fn ok(&mut self, op: BackendOp) -> u64 {
        let outcome = self.run(op);
        assert_eq!(outcome.status, Status::Ok, "{outcome:?}");
        outcome.value
    }

    fn buffer(&mut self, id: u64, bytes: u64) -> Outcome {
        let buffer = BufferId(id);
        self.run(BackendOp::BufferCreate { space: SPACE, buffer, bytes, home: Home::Device })
    }

    fn copy(&mut self, dst: Place, src: Place, bytes: u64) -> Outcome {
        self.run(BackendOp::Copy { space: SPACE, queue: QUEUE, dst, src, bytes })
    }

    fn fill(&mut self, id: u64, bytes: u64, pattern: u64, width: u8) -> BackendOp {
        let dst = Place::Buffer(BufferId(id), 0);
        BackendOp::Fill { space: SPACE, queue: QUEUE, dst, bytes, pattern, width }
    }

    fn load(&mut self, id: u64, text: &str) -> Outcome {
        let module = admit(text.as_bytes(), &Admission::unguarded(Limits::default())).unwrap();
        let (program, code) = (ProgramId(id), Code::Ptx(Box::new(module)));
        self.run(BackendOp::ProgramLoad { space: SPACE, program, code })
    }
}

fn in_buffer(id: u64) -> Place {
    Place::Buffer(BufferId(id), 0)
}

const IN_HOST: Place = Place::Region(RegionId(1), 0);

/// Writes its parameter plus its thread's number to a buffer.
const KERNEL: &str = ".version 8.0\n.target sm_90\n.address_size 64\n\
    .visible .entry add(.param .u64 to, .param .u32 n) {\n\
    .reg .b32 %r<4>; .reg .b64 %rd<4>;\n\
    ld.param.u64 %rd1, [to]; ld.param.u32 %r1, [n]; mov.u32 %r2, %tid.x;\n\
    add.u32 %r3, %r1, %r2; mul.wide.u32 %rd2, %r2, 4; add.u64 %rd3, %rd1, %rd2;\n\
    st.global.u32 [%rd3], %r3; ret; }\n";

fn with_variable(bytes: u64) -> String {
    format!("{KERNEL}.global .align 8 .b8 large[{bytes}];\n")
}

#[test]
fn memory_is_zeroed_copied_and_filled() {
    let mut b = Bench::new(&[]);
    assert_eq!(b.buffer(1, 8192).status, Status::Ok);
    b.host.write(0, &[0xee; 8192]).unwrap();
    assert_eq!(b.copy(IN_HOST, in_buffer(1), 8192).value, 8192);
    let mut bytes = [1; 8192];
    b.host.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8192], "new memory holds nothing of anyone");
    let fill = b.fill(1, 4096, 0x0102_0304, 4);
    b.ok(fill);
    assert_eq!(b.copy(IN_HOST, in_buffer(1), 8192).status, Status::Ok);
    b.host.read(0, &mut bytes).unwrap();
    assert_eq!(bytes[..4], [4, 3, 2, 1]);
    assert_eq!(bytes[4092..4100], [4, 3, 2, 1, 0, 0, 0, 0]);
}

#[test]
fn ranges_and_names_that_are_not_there_are_refused() {
    let mut b = Bench::new(&[]);
    assert_eq!(b.buffer(1, 4096).status, Status::Ok);
    assert_eq!(b.copy(in_buffer(1), IN_HOST, 4097).status, Status::OutOfRange);
    assert_eq!(b.copy(in_buffer(9), IN_HOST, 1).status, Status::NotFound);
    let beyond = Place::Region(RegionId(1), MIB - 1);
    assert_eq!(b.copy(in_buffer(1), beyond, 2).status, Status::OutOfRange);
    assert_eq!(b.copy(in_buffer(1), Place::Region(RegionId(7), 0), 1).status, Status::NotFound);
}

#[test]
fn buffers_and_variables_share_one_quota() {
    let mut b = Bench::new(&[]);
    assert_eq!(b.buffer(1, 10 * MIB).status, Status::Ok);
    assert_eq!(b.buffer(2, 7 * MIB).status, Status::NoMemory);
    // The text is small whatever it declares.
    for bytes in [7 * MIB, 1 << 32] {
        assert_eq!(b.load(1, &with_variable(bytes)).status, Status::NoMemory, "{bytes} bytes");
    }
    assert_eq!(b.load(1, &with_variable(6 * MIB)).status, Status::Ok);
    assert_eq!(b.buffer(2, 1).status, Status::NoMemory);
    b.ok(BackendOp::ProgramUnload { space: SPACE, program: ProgramId(1) });
    assert_eq!(b.buffer(2, 6 * MIB).status, Status::Ok);
    // The device's own limit holds over all spaces: 64 MiB, of which 16 are in use.
    let other = SpaceId(2);
    b.ok(BackendOp::SpaceOpen {
        space: other,
        memory_bytes: 1 << 30,
        weight: 1,
        isolation: Isolation::Exclusive,
    });
    let create = |id, bytes| BackendOp::BufferCreate {
        space: other,
        buffer: BufferId(id),
        bytes,
        home: Home::Device,
    };
    assert_eq!(b.run(create(5, 49 * MIB)).status, Status::NoMemory);
    b.ok(create(5, 48 * MIB));
    b.ok(BackendOp::SpaceClose { space: SPACE });
    b.ok(create(6, 16 * MIB));
}

#[test]
fn a_kernel_runs_on_what_it_is_given() {
    let mut b = Bench::new(&[]);
    let address = b.buffer(1, 4096).value;
    assert_eq!(b.load(1, KERNEL).status, Status::Ok);
    let get = |name: &str| BackendOp::FunctionGet {
        space: SPACE,
        program: ProgramId(1),
        function: FunctionId(1),
        name: name.into(),
    };
    assert_eq!(b.run(get("subtract")).status, Status::NotFound);
    assert_eq!(b.ok(get("add")), 12, "bytes of parameters");
    let launch = |at: u64| {
        let mut params = Params::from_slice(&at.to_le_bytes());
        params.extend_from_slice(&40_u32.to_le_bytes());
        BackendOp::Launch {
            space: SPACE,
            queue: QUEUE,
            function: FunctionId(1),
            grid: [1, 1, 1],
            block: [64, 1, 1],
            shared_bytes: 0,
            cooperative: false,
            timeout_ns: 1_000_000_000,
            params,
        }
    };
    b.ok(launch(address));
    assert_eq!(b.copy(IN_HOST, in_buffer(1), 4096).status, Status::Ok);
    assert_eq!(b.host.load32(4 * 63), Ok(103));
    let outcome = b.run(launch(address + 4096));
    assert_eq!(outcome.status, Status::KernelFault);
    let fault = outcome.fault.expect("a fault is described");
    assert_eq!((&*fault.kernel, fault.block), ("add", [0; 3]));
    // The space goes on.
    b.ok(launch(address));
}

#[test]
fn what_hangs_is_aborted_and_the_rest_goes_on() {
    let mut b = Bench::new(&[(0, Trouble::Hang), (2, Trouble::Fail(Status::Backend))]);
    assert_eq!(b.buffer(1, 4096).status, Status::Ok);
    let fill = b.fill(1, 4096, 7, 8);
    let hung = b.submit(fill);
    let fill = b.fill(1, 4096, 8, 8);
    let behind = b.submit(fill);
    std::thread::sleep(Duration::from_millis(20));
    b.gpu.drain(&mut |event| panic!("answered: {event:?}"));
    b.gpu.abort(SPACE);
    assert!(!b.wait(hung).status.is_ok());
    // Whether an abort takes what waits behind is the backend's choice; it is answered.
    b.wait(behind);
    let fill = b.fill(1, 4096, 9, 8);
    b.run(fill);
    let fill = b.fill(1, 4096, 9, 8);
    b.ok(fill);
    b.ok(BackendOp::SpaceClose { space: SPACE });
}

#[test]
fn a_space_that_dies_answers_everything_and_says_so() {
    let mut b = Bench::new(&[(1, Trouble::Death)]);
    assert_eq!(b.buffer(1, 4096).status, Status::Ok);
    let tickets: Vec<Ticket> = (0..8)
        .map(|n| {
            let fill = b.fill(1, 4096, n, 8);
            b.submit(fill)
        })
        .collect();
    let statuses: Vec<Status> = tickets.into_iter().map(|t| b.wait(t).status).collect();
    assert_eq!(statuses[0], Status::Ok);
    assert!(statuses[1..].iter().all(|&s| s == Status::DeviceLost), "{statuses:?}");
    assert_eq!(b.buffer(2, 4096).status, Status::DeviceLost);
    b.ok(BackendOp::SpaceClose { space: SPACE });
    assert_eq!(b.lost, [SPACE]);
    b.ok(BackendOp::SpaceOpen {
        space: SpaceId(3),
        memory_bytes: 64 * MIB,
        weight: 1,
        isolation: Isolation::Exclusive,
    });
}
