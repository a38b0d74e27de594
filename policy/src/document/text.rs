//! Text in a document: names, paths, hashes and addresses, each with its own rule.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Reader, quoted};
use super::problem::Problem;
use super::tree::{NodeId, Value};

/// Declares a kind of text: its rule for the schema and a function that reads it or says what to
/// write instead.
macro_rules! text {
    (
        $(#[doc = $doc:literal])*
        $name:ident($inner:ty), $expected:literal, $example:literal, { $($rule:tt)* }, $read:expr
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) $inner);

        impl Decode for $name {
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = $example;
            fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
                let Value::String(text) = &reader.tree.node(at).value else {
                    reader.wrong_type::<Self>(at);
                    return None;
                };
                let read: fn(&str) -> Result<$inner, String> = $read;
                match read(text) {
                    Ok(inner) => Some($name(inner)),
                    Err(write) => {
                        let found = quoted(text);
                        let what = $expected.trim_start_matches("a ").trim_start_matches("an ");
                        reader.error(at, Problem::Unreadable { found, what, write });
                        None
                    }
                }
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", $($rule)* })
            }
        }
    };
}

text! {
    /// The name of a tenant or of a built-in guest.
    Name(Box<str>), "a name", "\"trainer\"", { "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" }, |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = text.bytes().all(|b| plain(b) || b == b'-');
        let ends = text.bytes().next().is_some_and(plain) && text.bytes().last().is_some_and(plain);
        if inner && ends && text.len() <= 63 {
            return Ok(text.into());
        }
        let mut better: String = text
            .to_ascii_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        better.truncate(63);
        let better = better.trim_matches('-');
        Err(if better.is_empty() {
            "1 to 63 lower-case letters, digits and inner hyphens".into()
        } else {
            format!("\"{better}\" (1 to 63 lower-case letters, digits and inner hyphens)")
        })
    }
}

text! {
    /// Free text that can be passed to a program: no NUL.
    Text(String), "a string", "\"--verbose\"", { "maxLength": 4096 }, |text| {
        if text.len() <= 4096 && !text.contains('\0') {
            Ok(text.into())
        } else {
            Err("at most 4096 bytes, without NUL".into())
        }
    }
}

text! {
    /// A path in the file system.
    FilePath(std::path::PathBuf), "a path", "\"/var/lib/turnstile/file\"", { "minLength": 1, "maxLength": 4095 },
    |text| {
        if text.is_empty() || text.contains('\0') {
            Err("a path, without NUL".into())
        } else if text.len() > 4095 {
            Err("a path of at most 4095 bytes".into())
        } else {
            Ok(text.into())
        }
    }
}

text! {
    /// The path of a Unix socket.
    SocketPath(std::path::PathBuf), "a socket path", "\"/run/turnstile/vm.sock\"",
    { "minLength": 1, "maxLength": 107 },
    |text| {
        if text.is_empty() || text.contains('\0') {
            Err("a path, without NUL".into())
        } else if text.len() > 107 {
            Err("at most 107 bytes, the limit of Unix sockets".into())
        } else {
            Ok(text.into())
        }
    }
}

text! {
    /// The SHA-256 of a file.
    Sha256([u8; 32]), "a SHA-256",
    "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"", { "pattern": "^[0-9a-fA-F]{64}$" },
    |text| {
        let mut hash = [0; 32];
        let digits = text.as_bytes();
        let digit = |b: u8| (b as char).to_digit(16);
        if digits.len() == 64 {
            let mut all = true;
            for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
                match (digit(pair[0]), digit(pair[1])) {
                    // CAST: two hexadecimal digits are a byte.
                    (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
                    _ => all = false,
                }
            }
            if all {
                return Ok(hash);
            }
        }
        Err("64 hexadecimal digits, as sha256sum prints them".into())
    }
}

text! {
    /// A PCI address, in full.
    PciAddress(Box<str>), "a PCI address", "\"0000:65:00.0\"",
    { "pattern": "^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[01][0-9a-fA-F]\\.[0-7]$" },
    |text| {
        let full = |text: &str| {
            let b = text.as_bytes();
            let hex = |at: &[usize]| at.iter().all(|&i| b[i].is_ascii_hexdigit());
            text.len() == 12
                && hex(&[0, 1, 2, 3, 5, 6, 9])
                && b[4] == b':'
                && b[7] == b':'
                && matches!(b[8], b'0' | b'1')
                && b[10] == b'.'
                && matches!(b[11], b'0'..=b'7')
        };
        let longer = format!("0000:{text}");
        if full(text) {
            Ok(text.to_ascii_lowercase().into())
        } else if full(&longer) {
            Err(format!("\"{longer}\""))
        } else {
            Err("domain:bus:device.function, such as \"0000:65:00.0\"".into())
        }
    }
}

text! {
    /// Permission bits, in octal.
    Mode(u32), "a file mode", "\"0660\"", { "pattern": "^0[0-7]{3}$" },
    |text| {
        let mode = |text: &str| match text.as_bytes() {
            [b'0', digits @ ..] if digits.len() == 3 => u32::from_str_radix(text, 8).ok(),
            _ => None,
        };
        match mode(text) {
            Some(mode) => Ok(mode),
            None => Err(match mode(&format!("0{text}")) {
                Some(_) => format!("\"0{text}\""),
                None => "four octal digits, such as \"0660\"".into(),
            }),
        }
    }
}

impl Mode {
    /// As it is written.
    pub(crate) fn word(&self) -> String {
        format!("{:04o}", self.0)
    }
}

impl serde::Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.word())
    }
}
