//! What a tenant may learn about its device: the answer of the `Identify` operation.

/// Limits and identity, 128 bytes in the aperture, sixteen 64-bit little-endian words in the order
/// of the fields. Limits are the tenant's own, out of its policy; 0 means "not granted".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    /// ABI version of the device.
    pub version: u64,
    /// Feature bits in force.
    pub features: u64,
    /// Device memory the tenant may hold, in bytes.
    pub memory_bytes: u64,
    /// Buffers the tenant may hold.
    pub buffers: u64,
    /// Guest memory the tenant may register, in bytes.
    pub dma_bytes: u64,
    /// Work queues the tenant may create.
    pub queues: u64,
    /// Deepest ring of a work queue.
    pub queue_depth: u64,
    /// Commands that may be in flight at once.
    pub in_flight: u64,
    /// Threads a block of a launch may have.
    pub threads_per_block: u64,
    /// Blocks a launch may have.
    pub blocks: u64,
    /// Longest run time of a launch, in nanoseconds.
    pub launch_timeout_ns: u64,
    /// Largest program image, in bytes.
    pub program_bytes: u64,
    /// Base of the tenant's device address space; 0 until a session is open.
    pub arena_base: u64,
    /// Size of the tenant's device address space.
    pub arena_bytes: u64,
    /// Multiprocessors of the device.
    pub multiprocessors: u64,
    /// Clock of `Timestamp`, ticks per second.
    pub timestamp_hz: u64,
}

impl Identity {
    /// Size in the aperture, in bytes.
    pub const BYTES: u64 = 128;

    /// The bytes as they go into the aperture.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 128] {
        let words = [
            self.version,
            self.features,
            self.memory_bytes,
            self.buffers,
            self.dma_bytes,
            self.queues,
            self.queue_depth,
            self.in_flight,
            self.threads_per_block,
            self.blocks,
            self.launch_timeout_ns,
            self.program_bytes,
            self.arena_base,
            self.arena_bytes,
            self.multiprocessors,
            self.timestamp_hz,
        ];
        let mut bytes = [0; 128];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads the record.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 128]) -> Identity {
        let word = |i: usize| {
            let mut w = [0; 8];
            w.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            u64::from_le_bytes(w)
        };
        Identity {
            version: word(0),
            features: word(1),
            memory_bytes: word(2),
            buffers: word(3),
            dma_bytes: word(4),
            queues: word(5),
            queue_depth: word(6),
            in_flight: word(7),
            threads_per_block: word(8),
            blocks: word(9),
            launch_timeout_ns: word(10),
            program_bytes: word(11),
            arena_base: word(12),
            arena_bytes: word(13),
            multiprocessors: word(14),
            timestamp_hz: word(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_comes_back_in_its_place() {
        let mut bytes = [0; 128];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = i as u8;
        }
        let id = Identity::from_bytes(&bytes);
        assert_eq!(id.version, 0x0706_0504_0302_0100);
        assert_eq!(id.to_bytes(), bytes);
    }
}
