//! The daemon's half against workers that are not what they should be. They stand in for a worker's side of
//! the protocol only: nothing here says anything about CUDA.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use turnstile_abi::Status;
use turnstile_abi::descriptor::Completion;
use turnstile_abi::ring::{DeviceRing, Layout};
use turnstile_backend_api::{
    Backend, BackendEvent, BackendOp, BufferId, Home, Isolation, Outcome, QueueId, SharedRegion,
    SpaceId, Ticket,
};

use super::gpu::{CudaGpu, Mps, Settings};
use crate::socket::{self, Received};
use crate::wire::{self, Command, DEPTH, Hello, Note, SHARED_BYTES};
use crate::worker::ARENA_BASE;

const SPACE: SpaceId = SpaceId(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// What a worker does wrong, told by the limit of its space.
const HONEST: u64 = 1;
const FALSE_ARENA: u64 = 2;
const FALSE_ADDRESS: u64 = 3;
const UNASKED: u64 = 4;
const DIES: u64 = 5;
const SILENT: u64 = 6;
const CHATTERS: u64 = 7;

/// Not a test by itself: what this program is when a backend of these tests starts it as a worker.
#[test]
fn fake_worker() {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut bytes = [0; Note::BYTES];
    let Received::Datagram(_, Some(fd)) = socket::receive(&socket, &mut bytes) else { return };
    let shared = SharedRegion::map(fd, 0, SHARED_BYTES).unwrap();
    let hello = Hello::Ready {
        memory_bytes: 1 << 40,
        multiprocessors: 1,
        compute: 90,
        driver: 13_000,
        name: "none".into(),
    };
    socket::send(&socket, &hello.encode(), None).unwrap();
    let mut ring = DeviceRing::new(Layout::new(0, DEPTH.into(), wire::SLOTS).unwrap());
    let mut what = HONEST;
    loop {
        if what == CHATTERS {
            let _ = socket::send(&socket, &Note::Wake.encode(), None);
        }
        let Some((descriptor, permit)) = ring.fetch(&shared).unwrap() else {
            if matches!(socket::receive(&socket, &mut bytes), Received::Closed) {
                std::process::exit(0);
            }
            std::thread::sleep(Duration::from_micros(50));
            continue;
        };
        let (mut cookie, mut value, mut detail) = (descriptor.cookie, 0, 0);
        match Command::decode(&descriptor).unwrap() {
            Command::Open { limit, .. } => {
                what = limit;
                (value, detail) = (ARENA_BASE, if what == FALSE_ARENA { 3 << 30 } else { 4 << 30 });
            }
            Command::Buffer { .. } if what == DIES => std::process::exit(7),
            Command::Buffer { .. } if what == SILENT => continue,
            Command::Buffer { .. } => {
                value = if what == FALSE_ADDRESS { ARENA_BASE - 1 } else { ARENA_BASE + (2 << 30) };
                cookie = if what == UNASKED { 999 } else { cookie };
            }
            Command::Close => std::process::exit(0),
            _ => {}
        }
        let completion = Completion { cookie, value, detail, status: Status::Ok };
        ring.complete(&shared, permit, &completion).unwrap();
        let _ = socket::send(&socket, &Note::Wake.encode(), None);
    }
}

struct Bench {
    gpu: CudaGpu,
    next: u64,
    answers: HashMap<Ticket, Outcome>,
    lost: Vec<String>,
}

impl Bench {
    fn new(what: u64) -> Bench {
        let program = std::env::current_exe().unwrap();
        let args =
            ["--exact", "daemon::tests::fake_worker", "--nocapture"].map(Into::into).to_vec();
        let settings = Settings {
            device: 0,
            memory_bytes: 1 << 30,
            mps: Mps::Off,
            warm_workers: 1,
            cache: None,
            overcommit: false,
            worker: (program, args),
        };
        let gpu = CudaGpu::start_unchecked(settings).unwrap();
        let mut bench = Bench { gpu, next: 0, answers: HashMap::new(), lost: Vec::new() };
        let isolation = Isolation::Exclusive;
        let open = BackendOp::SpaceOpen { space: SPACE, memory_bytes: what, weight: 1, isolation };
        let outcome = bench.run(open);
        if what == FALSE_ARENA {
            assert_eq!(outcome.status, Status::DeviceLost);
        } else {
            assert_eq!((outcome.status, outcome.value), (Status::Ok, ARENA_BASE));
        }
        bench
    }

    fn submit(&mut self, op: BackendOp) -> Ticket {
        self.next += 1;
        self.gpu.submit(Ticket(self.next), op);
        Ticket(self.next)
    }

    fn drain(&mut self) {
        let (answers, lost) = (&mut self.answers, &mut self.lost);
        self.gpu.drain(&mut |event| match event {
            BackendEvent::Done(done) => {
                let twice = answers.insert(done.ticket, done.outcome);
                assert!(twice.is_none(), "{:?} is answered twice", done.ticket);
            }
            BackendEvent::SpaceLost { why, .. } => lost.push(why),
        });
    }

    fn wait(&mut self, ticket: Ticket) -> Outcome {
        let begun = Instant::now();
        loop {
            self.drain();
            if let Some(outcome) = self.answers.get(&ticket) {
                return outcome.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "{ticket:?} is not answered");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn run(&mut self, op: BackendOp) -> Outcome {
        let ticket = self.submit(op);
        self.wait(ticket)
    }

    fn buffer(&mut self) -> Outcome {
        let (buffer, bytes) = (BufferId(1), 4096);
        self.run(BackendOp::BufferCreate { space: SPACE, buffer, bytes, home: Home::Device })
    }

    /// Closing is answered whatever became of the worker, and frees the space.
    fn close(&mut self) {
        assert_eq!(self.run(BackendOp::SpaceClose { space: SPACE }).status, Status::Ok);
        assert_eq!(self.buffer().status, Status::DeviceLost);
    }
}

#[test]
fn an_honest_worker_serves_and_leaves() {
    let mut bench = Bench::new(HONEST);
    assert_eq!(bench.buffer().value, ARENA_BASE + (2 << 30));
    let queue = BackendOp::QueueOpen { space: SPACE, queue: QueueId(1) };
    assert_eq!(bench.run(queue).status, Status::Ok);
    bench.close();
    assert!(bench.lost.is_empty());
}

#[test]
fn a_worker_that_lies_loses_its_space_and_nothing_else() {
    for (what, says) in [
        (FALSE_ARENA, "an arena that is none"),
        (FALSE_ADDRESS, "an address outside its arena"),
        (UNASKED, "what was not asked"),
    ] {
        let mut bench = Bench::new(what);
        if what != FALSE_ARENA {
            assert_eq!(bench.buffer().status, Status::DeviceLost);
        }
        assert!(bench.lost.iter().any(|why| why.contains(says)), "{:?}", bench.lost);
        bench.close();
        assert_eq!(bench.lost.len(), 1);
    }
}

#[test]
fn a_worker_that_dies_is_noticed_and_every_command_answered() {
    let mut bench = Bench::new(DIES);
    assert_eq!(bench.buffer().status, Status::DeviceLost);
    assert!(bench.lost[0].contains("exit status: 7"), "{:?}", bench.lost);
    bench.close();
}

#[test]
fn a_silent_worker_is_given_up_when_asked() {
    let mut bench = Bench::new(SILENT);
    let (buffer, bytes) = (BufferId(1), 4096);
    let create = BackendOp::BufferCreate { space: SPACE, buffer, bytes, home: Home::Device };
    let ticket = bench.submit(create);
    bench.drain();
    assert!(bench.answers.get(&ticket).is_none());
    bench.gpu.abort(SPACE);
    assert_eq!(bench.wait(ticket).status, Status::DeviceLost);
    bench.close();
}

#[test]
fn a_worker_that_chatters_holds_nobody_up() {
    let mut bench = Bench::new(CHATTERS);
    for _ in 0..50 {
        bench.gpu.sleeping(true);
        bench.gpu.sleeping(false);
        let begun = Instant::now();
        bench.drain();
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(bench.buffer().status, Status::Ok);
    bench.close();
}
