//! Bytes, text, checksums, random numbers.
use crate::element::Tolerance;
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    philox in philox "Philox4x32-10 random words and uniform floats" [] philox;
    crc32 in crc32 "CRC-32 of records by a table in constant memory" [] crc32;
    sha256 in sha256 "SHA-256 of 32-byte messages, rotations by shf" [] sha256;
    count_words in bytes "starts of words in a text, barrier with a count" [] count_words;
    find_bytes in bytes "matches of a needle in a text, early exits" [] find_bytes;
    upper in bytes "uppercase in place, four bytes a thread" [] upper;
}

/// Philox4x32-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
fn philox4x32(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

fn philox(size: Size) -> Setup {
    let n = size.pick(500, 1 << 20);
    let words: Vec<[u32; 4]> =
        (0..n).map(|i| philox4x32([i as u32, 0, 0, 0], [0xdead_beef, 42])).collect();
    let uniform: Vec<f32> = words.iter().map(|w| (w[0] >> 8) as f32 / 16_777_216.0).collect();
    Setup::line(cover(n, 256), 256)
        .exact(&words.concat())
        .exact(&uniform)
        .arg(0xdead_beefu32)
        .arg(42u32)
        .arg(n as u32)
}

/// CRC-32, bit by bit.
fn crc(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

fn crc32(size: Size) -> Setup {
    let (n, length) = size.pick((130, 37), (1 << 15, 128));
    let data: Vec<u8> = Random::new("crc32").u32s(n * length).iter().map(|&w| w as u8).collect();
    let want: Vec<u32> = data.chunks(length).map(crc).collect();
    Setup::line(cover(n, 128), 128).input(&data).exact(&want).arg(length as u32).arg(n as u32)
}

/// SHA-256 (FIPS 180-4) of a message shorter than 56 bytes: one padded block. Its constants are
/// computed, as the standard defines them, from the fractional parts of roots of the first primes.
fn sha(message: &[u8]) -> [u32; 8] {
    let primes: Vec<u128> = (2..).filter(|n| (2..*n).all(|d| n % d != 0)).take(64).collect();
    // Fractional bits: floor(2^32 * p^(1/e)) mod 2^32, by bisection in integers.
    let root = |p: u128, e: u32| -> u32 {
        let (mut low, mut high) = (0u128, 1 << 37);
        while high - low > 1 {
            let mid = (low + high) / 2;
            if mid.pow(e) <= p << (32 * e) { low = mid } else { high = mid }
        }
        low as u32
    };
    let k: Vec<u32> = primes.iter().map(|&p| root(p, 3)).collect();
    let initial: [u32; 8] = std::array::from_fn(|i| root(primes[i], 2));
    let mut block = message.to_vec();
    block.push(0x80);
    block.resize(56, 0);
    block.extend((message.len() as u64 * 8).to_be_bytes());
    let mut w: Vec<u32> =
        block.chunks(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
    for t in 16..64 {
        let s0 = w[t - 15].rotate_right(7) ^ w[t - 15].rotate_right(18) ^ w[t - 15] >> 3;
        let s1 = w[t - 2].rotate_right(17) ^ w[t - 2].rotate_right(19) ^ w[t - 2] >> 10;
        w.push(w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1));
    }
    let mut s = initial;
    for t in 0..64 {
        let [a, b, c, d, e, f, g, h] = s;
        let ch = e & f ^ !e & g;
        let big = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let t1 = h.wrapping_add(big).wrapping_add(ch).wrapping_add(k[t]).wrapping_add(w[t]);
        let major = a & b ^ a & c ^ b & c;
        let t2 = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22)).wrapping_add(major);
        s = [t1.wrapping_add(t2), a, b, c, d.wrapping_add(t1), e, f, g];
    }
    std::array::from_fn(|i| initial[i].wrapping_add(s[i]))
}

fn sha256(size: Size) -> Setup {
    let n = size.pick(200, 1 << 14);
    let seed = 0x1234_5678u32;
    let want: Vec<u32> = (0..n as u32)
        .flat_map(|i| {
            let mut message = [0; 32];
            message[..4].copy_from_slice(&i.to_le_bytes());
            message[4..8].copy_from_slice(&seed.to_le_bytes());
            let digest = sha(&message);
            [digest[0], digest[1]]
        })
        .collect();
    Setup::line(cover(n, 64), 64).exact(&want).arg(seed).arg(n as u32)
}

fn text(name: &str, n: usize) -> Vec<u8> {
    let mut r = Random::new(name);
    (0..n).map(|_| b"abcdeABCDEzZ  ..\n0{[`@"[r.below(22) as usize]).collect()
}

fn count_words(size: Size) -> Setup {
    let n = size.pick(1000, 4 << 20);
    let t = text("count_words", n);
    let words = t.split(|c| !c.is_ascii_alphabetic()).filter(|w| !w.is_empty()).count();
    Setup::line(cover(n, 128), 128)
        .input(&t)
        .inout(&[0u32], &[words as u32], Tolerance::Exact)
        .arg(n as u32)
}

fn find_bytes(size: Size) -> Setup {
    let n = size.pick(1000, 4 << 20);
    let (mut t, needle) = (text("find_bytes", n), b"cab.cab");
    for at in [3usize, 500, n - 7] {
        t[at..at + 7].copy_from_slice(needle);
    }
    let hits: Vec<usize> = (0..=n - 7).filter(|&i| &t[i..i + 7] == needle).collect();
    Setup::line(cover(n, 256), 256)
        .input(&t)
        .arg(n as u32)
        .input(needle)
        .arg(7u32)
        .inout(&[0u32], &[hits.len() as u32], Tolerance::Exact)
        .inout(&[u32::MAX], &[hits[0] as u32], Tolerance::Exact)
}

fn upper(size: Size) -> Setup {
    let n = size.pick(1000, 4 << 20);
    let t = text("upper", n);
    Setup::line(cover(n / 4, 128), 128)
        .inout(&t, &t.to_ascii_uppercase(), Tolerance::Exact)
        .arg((n / 4) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_agrees_with_the_published_vectors() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        let ones = philox4x32([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn crc_of_the_usual_string() {
        assert_eq!(crc(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn sha_of_abc() {
        // FIPS 180-4, the one-block example.
        assert_eq!(sha(b"abc")[..4], [0xba78_16bf, 0x8f01_cfea, 0x4141_40de, 0x5dae_2223]);
    }
}
