//! Lines on the serial console.

use core::fmt::{self, Write};

use crate::call;

/// Bytes sent with one system call.
const CHUNK: usize = 256;

struct Writer {
    chunk: [u8; CHUNK],
    used: usize,
}

impl Writer {
    fn flush(&mut self) {
        call::serial(&self.chunk[..self.used]);
        self.used = 0;
    }
    fn push(&mut self, byte: u8) {
        if self.used == CHUNK {
            self.flush();
        }
        self.chunk[self.used] = byte;
        self.used += 1;
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

/// Prints a line; the newline is added.
pub(crate) fn line(line: fmt::Arguments<'_>) {
    let mut writer = Writer { chunk: [0; CHUNK], used: 0 };
    // The writer never fails; a failing Display would only cut the line short.
    let _ = writer.write_fmt(line);
    writer.push(b'\n');
    writer.flush();
}
