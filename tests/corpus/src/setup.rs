//! Builds the variable part of a case, parameter by parameter in declaration order.
use crate::case::{Arg, Buffer, Expect, Launch, Pointer, Role};
use crate::element::{Elem, Tolerance, to_bytes};

/// What outputs hold before the launch, so that an element that was never written shows.
pub(crate) const POISON: u8 = 0xA5;

/// A launch and its data, before it is joined to a kernel.
pub(crate) struct Setup {
    pub(crate) launch: Launch,
    pub(crate) args: Vec<Arg>,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) expects: Vec<Expect>,
}

/// Blocks of `block` threads that cover `n`.
pub(crate) fn cover(n: usize, block: u32) -> u32 {
    (n as u32).div_ceil(block)
}

impl Setup {
    /// A one-dimensional launch.
    pub(crate) fn line(grid: u32, block: u32) -> Self {
        Self::new([grid, 1, 1], [block, 1, 1])
    }

    pub(crate) fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        let launch = Launch { grid, block, shared: 0, cooperative: false };
        Self { launch, args: Vec::new(), buffers: Vec::new(), expects: Vec::new() }
    }

    /// Dynamic shared memory in bytes.
    pub(crate) fn shared(mut self, bytes: u32) -> Self {
        self.launch.shared = bytes;
        self
    }

    pub(crate) fn cooperative(mut self) -> Self {
        self.launch.cooperative = true;
        self
    }

    fn buffer(mut self, initial: Vec<u8>, role: Role) -> Self {
        self.args.push(Arg::Buffer(self.buffers.len()));
        self.buffers.push(Buffer { initial, role, pointers: Vec::new() });
        self
    }

    /// A pointer to data that is only read.
    pub(crate) fn input<E: Elem>(self, values: &[E]) -> Self {
        self.buffer(to_bytes(values), Role::Input)
    }

    /// Read-only data with device addresses in it.
    pub(crate) fn pointers(mut self, initial: Vec<u8>, pointers: Vec<Pointer>) -> Self {
        self = self.buffer(initial, Role::Input);
        if let Some(last) = self.buffers.last_mut() {
            last.pointers = pointers;
        }
        self
    }

    /// Poison that the kernel has to turn into `want`.
    pub(crate) fn output<E: Elem>(self, want: &[E], tolerance: Tolerance) -> Self {
        let bytes = vec![POISON; want.len() * E::KIND.size()];
        self.buffer(bytes, Role::Output).expect_last(0, want, tolerance)
    }

    /// Like `output`, exactly.
    pub(crate) fn exact<E: Elem>(self, want: &[E]) -> Self {
        self.output(want, Tolerance::Exact)
    }

    /// Consecutive planes in one buffer, each with its own tolerance.
    pub(crate) fn planes<E: Elem>(mut self, planes: &[(Vec<E>, Tolerance)]) -> Self {
        let total: usize = planes.iter().map(|(p, _)| p.len()).sum();
        self = self.buffer(vec![POISON; total * E::KIND.size()], Role::Output);
        let mut first = 0;
        for (plane, tolerance) in planes {
            self = self.expect_last(first, plane, *tolerance);
            first += plane.len();
        }
        self
    }

    /// Data that the kernel turns into `want`.
    pub(crate) fn inout<E: Elem>(self, initial: &[E], want: &[E], tolerance: Tolerance) -> Self {
        assert_eq!(initial.len(), want.len());
        self.buffer(to_bytes(initial), Role::Output).expect_last(0, want, tolerance)
    }

    fn expect_last<E: Elem>(mut self, first: usize, want: &[E], tolerance: Tolerance) -> Self {
        self.expects.push(Expect {
            buffer: self.buffers.len() - 1,
            first,
            element: E::KIND,
            values: to_bytes(want),
            tolerance,
        });
        self
    }

    /// A scalar by value.
    pub(crate) fn arg<E: Elem>(mut self, value: E) -> Self {
        self.args.push(Arg::Value(to_bytes(&[value])));
        self
    }

    /// A structure by value.
    pub(crate) fn bytes(mut self, value: Vec<u8>) -> Self {
        self.args.push(Arg::Value(value));
        self
    }
}
