//! What daemon and worker say to each other: commands in 64-byte descriptors of a ring
//! ([`turnstile_abi::ring`], the same code that tenants use), answers in its 32-byte completions, and a
//! few datagrams with file descriptors beside it.
//!
//! The worker believes the daemon. The daemon believes the worker nothing: answers are matched with what
//! is open, and every number in them is bounded before it is used (`daemon::space`).

use turnstile_abi::descriptor::Descriptor;
use turnstile_backend_api::Place;

/// Commands a ring holds. What does not fit waits in the daemon.
pub(crate) const DEPTH: u32 = 1024;
/// Where the slots for parameters and names begin in the shared memory.
pub(crate) const SLOTS: u64 = 128 << 10;
/// Bytes of a slot: the longest parameter block.
pub(crate) const SLOT_BYTES: u64 = turnstile_abi::launch::MAX_PARAMS as u64;
/// Bytes of memory that daemon and worker share.
pub(crate) const SHARED_BYTES: u64 = SLOTS + DEPTH as u64 * SLOT_BYTES;

const _: () = assert!(turnstile_abi::ring::bytes(DEPTH) <= SLOTS);

/// Where a slot lies in the shared memory.
pub(crate) const fn slot_offset(slot: u32) -> u64 {
    SLOTS + slot as u64 * SLOT_BYTES
}

/// A command. Numbers name objects as the mediator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Makes the address space ready. `commit` bytes of memory are made ready at once, more when asked
    /// for. Answer: base of the arena, its size.
    Open { limit: u64, commit: u64 },
    /// Ends everything; the worker's process goes.
    Close,
    /// A zeroed buffer in device memory. Answer: its address.
    Buffer { id: u64, bytes: u64 },
    /// A buffer in shared host memory, which is zeroed. Answer: the address kernels reach it at.
    SharedBuffer { id: u64, memory: u32, offset: u64, bytes: u64 },
    /// Frees a buffer.
    BufferEnd { id: u64 },
    /// Registers host memory; the pieces are in a payload.
    Map { id: u64, pieces: u32 },
    /// Ends a registration.
    Unmap { id: u64 },
    /// Loads the program in a payload. Answer: bytes of device memory its code takes, bytes of the image that was put
    /// into the payload if it was to be compiled.
    Program { id: u64, kind: ProgramKind, bytes: u64, variables: u32 },
    /// Unloads it.
    ProgramEnd { id: u64 },
    /// Finds a kernel, whose name is in a slot. Answer: bytes of parameters.
    Function { id: u64, program: u64, slot: u32, name_bytes: u32 },
    /// Opens a stream.
    Stream { id: u64 },
    /// Ends it when nothing of it runs.
    StreamEnd { id: u64 },
    /// Copies. Answer: GPU time.
    Copy { stream: u64, to: Place, from: Place, bytes: u64 },
    /// Fills. Answer: GPU time.
    Fill { stream: u64, to: Place, bytes: u64, pattern: u64, width: u8 },
    /// Launches; the parameters are in a slot. Answer: GPU time.
    Launch(Launch),
    /// Reads the clock. Answer: nanoseconds.
    Timestamp { stream: u64 },
}

/// What a program's payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramKind {
    /// PTX to be compiled.
    Ptx,
    /// An image for this device.
    Image,
}

/// A kernel launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) stream: u64,
    pub(crate) function: u64,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u16; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) cooperative: bool,
    /// Run time after which it is a runaway, in microseconds.
    pub(crate) timeout_us: u32,
    pub(crate) slot: u16,
    pub(crate) params_bytes: u16,
    /// Whether to look for a violation that the guard recorded.
    pub(crate) checked: bool,
}

fn place(place: Place) -> (u64, u64, u64) {
    use turnstile_backend_api::{BufferId, RegionId};
    match place {
        Place::Buffer(BufferId(id), offset) => (0, id, offset),
        Place::Region(RegionId(id), offset) => (1, id, offset),
    }
}

fn placed(kind: u64, id: u64, offset: u64) -> Place {
    use turnstile_backend_api::{BufferId, RegionId};
    if kind & 1 == 0 {
        Place::Buffer(BufferId(id), offset)
    } else {
        Place::Region(RegionId(id), offset)
    }
}

const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32) // CAST: halves of a word.
}

impl Command {
    /// The descriptor: operation in the low 16 bits of the head, small fields above.
    pub(crate) fn encode(&self, cookie: u64) -> Descriptor {
        let (op, extra, words) = match *self {
            Command::Open { limit, commit } => (1, 0, [limit, commit, 0, 0, 0, 0]),
            Command::Close => (2, 0, [0; 6]),
            Command::Buffer { id, bytes } => (3, 0, [id, bytes, 0, 0, 0, 0]),
            Command::SharedBuffer { id, memory, offset, bytes } => {
                (4, 0, [id, memory.into(), offset, bytes, 0, 0])
            }
            Command::BufferEnd { id } => (5, 0, [id, 0, 0, 0, 0, 0]),
            Command::Map { id, pieces } => (6, 0, [id, pieces.into(), 0, 0, 0, 0]),
            Command::Unmap { id } => (7, 0, [id, 0, 0, 0, 0, 0]),
            Command::Program { id, kind, bytes, variables } => {
                let kind = u64::from(kind == ProgramKind::Image);
                (8, kind, [id, bytes, variables.into(), 0, 0, 0])
            }
            Command::ProgramEnd { id } => (9, 0, [id, 0, 0, 0, 0, 0]),
            Command::Function { id, program, slot, name_bytes } => {
                (10, 0, [id, program, slot.into(), name_bytes.into(), 0, 0])
            }
            Command::Stream { id } => (11, 0, [id, 0, 0, 0, 0, 0]),
            Command::StreamEnd { id } => (12, 0, [id, 0, 0, 0, 0, 0]),
            Command::Copy { stream, to, from, bytes } => {
                let ((tk, ti, to), (fk, fi, fo)) = (place(to), place(from));
                (13, tk | fk << 1, [stream, ti, to, fi, fo, bytes])
            }
            Command::Fill { stream, to, bytes, pattern, width } => {
                let (kind, id, offset) = place(to);
                (14, kind | u64::from(width) << 8, [stream, id, offset, bytes, pattern, 0])
            }
            Command::Launch(launch) => {
                let Launch { stream, function, grid, block, shared_bytes, .. } = launch;
                let [bx, by, bz] = block.map(u64::from);
                let Launch { cooperative, timeout_us, slot, params_bytes, checked, .. } = launch;
                // Blocks have at most 1,024 threads along an axis: eleven bits.
                let block = bx
                    | by << 11
                    | bz << 22
                    | u64::from(cooperative) << 33
                    | u64::from(checked) << 34;
                let params = pack(timeout_us, u32::from(slot) << 16 | u32::from(params_bytes));
                let words = [
                    stream,
                    function,
                    pack(grid[0], grid[1]),
                    pack(grid[2], shared_bytes),
                    block,
                    params,
                ];
                (15, 0, words)
            }
            Command::Timestamp { stream } => (16, 0, [stream, 0, 0, 0, 0, 0]),
        };
        Descriptor { head: op | extra << 16, cookie, words }
    }

    /// Reads a descriptor. `None`: it is none of these.
    pub(crate) fn decode(descriptor: &Descriptor) -> Option<Command> {
        let Descriptor { head, words: [a, b, c, d, e, f], .. } = *descriptor;
        let extra = head >> 16;
        Some(match head & 0xffff {
            1 => Command::Open { limit: a, commit: b },
            2 => Command::Close,
            3 => Command::Buffer { id: a, bytes: b },
            4 => Command::SharedBuffer { id: a, memory: b as u32, offset: c, bytes: d },
            5 => Command::BufferEnd { id: a },
            6 => Command::Map { id: a, pieces: b as u32 },
            7 => Command::Unmap { id: a },
            8 => {
                let kind = if extra & 1 == 0 { ProgramKind::Ptx } else { ProgramKind::Image };
                Command::Program { id: a, kind, bytes: b, variables: c as u32 }
            }
            9 => Command::ProgramEnd { id: a },
            10 => Command::Function { id: a, program: b, slot: c as u32, name_bytes: d as u32 },
            11 => Command::Stream { id: a },
            12 => Command::StreamEnd { id: a },
            13 => Command::Copy {
                stream: a,
                to: placed(extra, b, c),
                from: placed(extra >> 1, d, e),
                bytes: f,
            },
            14 => Command::Fill {
                stream: a,
                to: placed(extra, b, c),
                bytes: d,
                pattern: e,
                width: (extra >> 8) as u8,
            },
            15 => {
                let ((gx, gy), (gz, shared_bytes)) = (unpack(c), unpack(d));
                let (timeout_us, params) = unpack(f);
                let axis = |shift: u32| (e >> shift & 0x7ff) as u16;
                Command::Launch(Launch {
                    stream: a,
                    function: b,
                    grid: [gx, gy, gz],
                    block: [axis(0), axis(11), axis(22)],
                    shared_bytes,
                    cooperative: e >> 33 & 1 == 1,
                    timeout_us,
                    slot: (params >> 16) as u16,
                    params_bytes: params as u16,
                    checked: e >> 34 & 1 == 1,
                })
            }
            16 => Command::Timestamp { stream: a },
            _ => return None,
        })
    }
}

/// A datagram. Those that carry a file descriptor say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Look at the ring.
    Wake,
    /// The memory that ring and slots lie in (with its descriptor). The first one from the daemon.
    Shared,
    /// A region of host memory (with its descriptor); pieces of it are mapped later.
    Memory { id: u32 },
    /// What a command with this cookie needs (with its descriptor).
    Payload { cookie: u64 },
    /// A region is not needed any more.
    Forget { id: u32 },
}

impl Note {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn encode(self) -> [u8; Note::BYTES] {
        let (kind, value) = match self {
            Note::Wake => (1_u64, 0),
            Note::Shared => (2, 0),
            Note::Memory { id } => (3, id.into()),
            Note::Payload { cookie } => (4, cookie),
            Note::Forget { id } => (5, id.into()),
        };
        let mut bytes = [0; Note::BYTES];
        bytes[..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Note> {
        let (kind, value) = bytes.split_first_chunk::<8>()?;
        let value = u64::from_le_bytes(*value.first_chunk::<8>()?);
        Some(match u64::from_le_bytes(*kind) {
            1 => Note::Wake,
            2 => Note::Shared,
            3 => Note::Memory { id: value as u32 },
            4 => Note::Payload { cookie: value },
            5 => Note::Forget { id: value as u32 },
            _ => return None,
        })
    }
}

/// What a worker says when it is ready, or why it is not. One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// Context and address space are there.
    Ready { memory_bytes: u64, multiprocessors: u32, compute: u32, driver: u32, name: String },
    /// It will exit.
    Failed { why: String },
}

impl Hello {
    /// Longest, in bytes.
    pub(crate) const MOST: usize = 512;
    const TEXT: usize = 32;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (words, text) = match self {
            Hello::Ready { memory_bytes, multiprocessors, compute, driver, name } => {
                ([1, *memory_bytes, pack(*multiprocessors, *compute), (*driver).into()], name)
            }
            Hello::Failed { why } => ([2, 0, 0, 0], why),
        };
        let mut bytes: Vec<u8> = words.iter().flat_map(|w: &u64| w.to_le_bytes()).collect();
        bytes.extend(text.bytes().take(Hello::MOST - Hello::TEXT));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Hello> {
        let (head, text) = bytes.split_first_chunk::<{ Hello::TEXT }>()?;
        let word = |i: usize| head[i * 8..].first_chunk::<8>().map(|w| u64::from_le_bytes(*w));
        let text = String::from_utf8_lossy(&text[..text.len().min(Hello::MOST)]).into_owned();
        // Names and reasons go to people: nothing that moves their cursor.
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let (multiprocessors, compute) = unpack(word(2)?);
        Some(match word(0)? {
            1 => Hello::Ready {
                memory_bytes: word(1)?,
                multiprocessors,
                compute,
                driver: word(3)? as u32,
                name: text,
            },
            2 => Hello::Failed { why: text },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnstile_backend_api::{BufferId, RegionId};

    #[test]
    fn every_command_survives_the_ring() {
        let launch = Launch {
            stream: u64::MAX >> 1,
            function: 7,
            grid: [u32::MAX, 65_535, 3],
            block: [1024, 1, 64],
            shared_bytes: 232_448,
            cooperative: true,
            timeout_us: u32::MAX,
            slot: 1023,
            params_bytes: 4096,
            checked: true,
        };
        let (buffer, region) = (Place::Buffer(BufferId(9), 5), Place::Region(RegionId(8), 1 << 40));
        let all = [
            Command::Open { limit: 1 << 40, commit: 3 },
            Command::Close,
            Command::Buffer { id: 1, bytes: 2 },
            Command::SharedBuffer { id: 1, memory: 2, offset: 3, bytes: 4 },
            Command::BufferEnd { id: 1 },
            Command::Map { id: 1, pieces: 4096 },
            Command::Unmap { id: 1 },
            Command::Program { id: 1, kind: ProgramKind::Image, bytes: 7, variables: 3 },
            Command::Program { id: 1, kind: ProgramKind::Ptx, bytes: 7, variables: 0 },
            Command::ProgramEnd { id: 1 },
            Command::Function { id: 1, program: 2, slot: 3, name_bytes: 4 },
            Command::Stream { id: 1 },
            Command::StreamEnd { id: 1 },
            Command::Copy { stream: 1, to: region, from: buffer, bytes: 6 },
            Command::Copy { stream: 1, to: buffer, from: buffer, bytes: 6 },
            Command::Fill { stream: 1, to: buffer, bytes: 8, pattern: u64::MAX, width: 8 },
            Command::Launch(launch),
            Command::Timestamp { stream: 1 },
        ];
        for command in all {
            let descriptor = command.encode(77);
            assert_eq!(descriptor.cookie, 77);
            assert_eq!(Command::decode(&descriptor), Some(command));
        }
        assert_eq!(Command::decode(&Descriptor::default()), None);
    }

    #[test]
    fn notes_and_hellos_survive_and_garbage_is_refused() {
        for note in [
            Note::Wake,
            Note::Shared,
            Note::Memory { id: 7 },
            Note::Payload { cookie: u64::MAX },
            Note::Forget { id: 1 },
        ] {
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
        let ready = Hello::Ready {
            memory_bytes: 141 << 30,
            multiprocessors: 132,
            compute: 90,
            driver: 13_000,
            name: "NVIDIA H200".into(),
        };
        for hello in [ready, Hello::Failed { why: "no device".into() }] {
            assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        }
        for garbage in [&b""[..], b"short", &[0xff; 16], &[0xff; 600]] {
            assert_eq!(Note::decode(garbage), None);
            assert_eq!(Hello::decode(garbage), None);
        }
        let long = Hello::Failed { why: "x\u{1b}[2J".repeat(1000) };
        let Some(Hello::Failed { why }) = Hello::decode(&long.encode()) else { panic!() };
        assert!(why.len() <= Hello::MOST && !why.contains('\u{1b}'));
    }
}
