//! One launch of one kernel: what to allocate, what to pass, what must come out.
use crate::element::{Element, Tolerance};
use crate::table::{Kernel, Size};
use std::fmt;

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
    /// Every block has to be resident at once, and the launch to be a cooperative one.
    pub cooperative: bool,
}

impl Launch {
    /// Threads of the whole launch.
    #[must_use]
    pub fn threads(&self) -> u64 {
        self.grid.iter().chain(&self.block).map(|&n| u64::from(n)).product()
    }
}

/// A kernel parameter, in order of declaration.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Device address of `buffers[index]`, an 8-byte parameter.
    Buffer(usize),
    /// A scalar or a structure by value: its bytes. The parameter's declared alignment is a divisor
    /// of the length's natural one or stands in the PTX; executors place parameters by the
    /// declaration, not by this.
    Value(Vec<u8>),
}

/// What a kernel may do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Only read: its bytes must be the same afterwards.
    Input,
    /// Written; [`Expect`] says what is checked.
    Output,
}

/// An address inside a buffer's initial contents: at `offset` (bytes) stand 8 bytes that the
/// executor replaces by the device address of `buffers[buffer]` plus `addend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Where in this buffer, in bytes.
    pub offset: usize,
    /// Index of the buffer pointed at.
    pub buffer: usize,
    /// Bytes into that buffer.
    pub addend: u64,
}

/// A buffer in device memory. Executors align each to at least 256 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Contents before the launch; outputs that the kernel must fill hold 0xA5.
    pub initial: Vec<u8>,
    /// What the kernel does with it.
    pub role: Role,
    /// Addresses to be filled in before the launch.
    pub pointers: Vec<Pointer>,
}

/// A run of elements in a buffer after the launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Expect {
    /// Index into `buffers`.
    pub buffer: usize,
    /// Index of the first element.
    pub first: usize,
    /// Element type.
    pub element: Element,
    /// The expected elements' bytes.
    pub values: Vec<u8>,
    /// How close they must be.
    pub tolerance: Tolerance,
}

/// One launch with everything an executor needs. The module is loaded afresh for every case, so
/// that module variables hold their initial values.
#[derive(Clone, Debug)]
pub struct Case {
    /// The kernel launched.
    pub kernel: &'static Kernel,
    /// Small (for correctness) or large (for speed).
    pub size: Size,
    /// Grid, block, dynamic shared memory.
    pub launch: Launch,
    /// Kernel parameters in order.
    pub args: Vec<Arg>,
    /// Device buffers.
    pub buffers: Vec<Buffer>,
    /// What is checked afterwards.
    pub expects: Vec<Expect>,
}

/// Why a result is wrong. Everything is about the executor; the corpus itself is fixed.
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    /// Not as many buffers were handed back as the case has.
    Buffers {
        /// Buffers of the case.
        want: usize,
        /// Buffers handed back.
        got: usize,
    },
    /// A buffer came back with another length.
    Length {
        /// Which buffer.
        buffer: usize,
        /// Its length in bytes.
        want: usize,
        /// What came back.
        got: usize,
    },
    /// A buffer the kernel only reads has changed.
    InputChanged {
        /// Which buffer.
        buffer: usize,
        /// First changed byte.
        byte: usize,
    },
    /// An element differs by more than the tolerance.
    Value {
        /// Which buffer.
        buffer: usize,
        /// Element index of the first difference (position in sorted order if unordered).
        index: usize,
        /// What came out.
        got: String,
        /// What the host computed.
        want: String,
        /// How many elements of this run differ.
        wrong: usize,
        /// Elements of the run.
        of: usize,
        /// The tolerance applied.
        tolerance: Tolerance,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffers { want, got } => {
                write!(f, "{got} buffers handed back, the case has {want}")
            }
            Self::Length { buffer, want, got } => {
                write!(f, "buffer {buffer} is {got} bytes long, not {want}")
            }
            Self::InputChanged { buffer, byte } => {
                write!(f, "input buffer {buffer} was written, first at byte {byte}")
            }
            Self::Value { buffer, index, got, want, wrong, of, tolerance } => write!(
                f,
                "buffer {buffer} element {index}: {got}, expected {want} ({tolerance:?}); \
                 {wrong} of {of} differ"
            ),
        }
    }
}

impl std::error::Error for Mismatch {}

impl Case {
    /// `kernel.small` or `kernel.large`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.kernel.name, self.size)
    }

    /// Compares the final bytes of every buffer, in the order of `buffers`, with what the host
    /// computed.
    ///
    /// # Errors
    /// The first [`Mismatch`] found.
    pub fn check<B: AsRef<[u8]>>(&self, outputs: &[B]) -> Result<(), Mismatch> {
        if outputs.len() != self.buffers.len() {
            return Err(Mismatch::Buffers { want: self.buffers.len(), got: outputs.len() });
        }
        for (index, (buffer, output)) in self.buffers.iter().zip(outputs).enumerate() {
            let output = output.as_ref();
            if output.len() != buffer.initial.len() {
                return Err(Mismatch::Length {
                    buffer: index,
                    want: buffer.initial.len(),
                    got: output.len(),
                });
            }
            // Buffers with addresses in them hold what the executor filled in, which is not known
            // here.
            if buffer.role == Role::Input && buffer.pointers.is_empty() && output != buffer.initial
            {
                let byte =
                    output.iter().zip(&buffer.initial).position(|(a, b)| a != b).unwrap_or(0);
                return Err(Mismatch::InputChanged { buffer: index, byte });
            }
        }
        self.expects.iter().try_for_each(|expect| expect.check(outputs[expect.buffer].as_ref()))
    }
}

impl Expect {
    fn check(&self, output: &[u8]) -> Result<(), Mismatch> {
        let size = self.element.size();
        let start = self.first * size;
        let run = &output[start..start + self.values.len()];
        let (mut got, mut want): (Vec<&[u8]>, Vec<&[u8]>) =
            (run.chunks_exact(size).collect(), self.values.chunks_exact(size).collect());
        if self.tolerance == Tolerance::Unordered {
            got.sort_unstable();
            want.sort_unstable();
        }
        let mut first = None;
        let mut wrong = 0;
        for (index, (g, w)) in got.iter().zip(&want).enumerate() {
            if !self.element.agrees(g, w, self.tolerance) {
                first.get_or_insert(index);
                wrong += 1;
            }
        }
        match first {
            None => Ok(()),
            Some(index) => Err(Mismatch::Value {
                buffer: self.buffer,
                index: self.first + index,
                got: self.element.show(got[index]),
                want: self.element.show(want[index]),
                wrong,
                of: want.len(),
                tolerance: self.tolerance,
            }),
        }
    }
}
