//! Module variables, parameters of every shape, dynamic shared memory, special registers.
use crate::element::to_bytes;
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    constants in variables "tables in constant memory, uniform and divergent indices" [] constants;
    variables in variables
        "initialised device variables, one of them the address of another" [] variables;
    tally in variables "a zeroed device variable that atomics add to" [] tally;
    dynshared in variables "dynamic shared memory split into two arrays" [] dynshared;
    params in params "parameters of all widths and a padded structure" [] params;
    param_index in params "a parameter array indexed at run time" [ParamAddress] param_index;
    special in special "special registers over 3-D grids and blocks" [] special;
}

const PRIMES: [u32; 8] = [2, 3, 5, 7, 11, 13, 17, 19];

fn constants(size: Size) -> Setup {
    let n = size.pick(700, 1 << 20);
    let x = Random::new("constants").u32s(n);
    let name = b"turnstile??";
    let want: Vec<i32> = (0u32..)
        .zip(&x)
        .map(|(i, &x)| 3i32.pow(x & 7) + 3i32.pow((i / 64) & 7) + i32::from(name[x as usize % 11]))
        .collect();
    Setup::line(cover(n, 64), 64).input(&x).exact(&want).arg(n as u32)
}

fn variables(size: Size) -> Setup {
    let n = size.pick(200, 1 << 18);
    let out: Vec<u32> = (0..n)
        .map(|i| {
            let cell = (i % 3 * 5 + i % 5 + 1) as u32;
            PRIMES[i & 7] + PRIMES[2 + (i & 3)] * 100 + cell * 10000
        })
        .collect();
    let scaled: Vec<f64> = (0..n).map(|i| 1.5 * i as f64).collect();
    Setup::line(cover(n, 64), 64).exact(&out).exact(&scaled).arg(n as u32)
}

fn tally(_: Size) -> Setup {
    let n = 100;
    let sum: u32 = (0..n).map(|i| PRIMES[i & 7]).sum();
    Setup::line(1, 128).exact(&[sum]).arg(n as u32)
}

fn dynshared(size: Size) -> Setup {
    let (words, shorts) = size.pick((50, 333), (2000, 12000));
    let x: Vec<u16> = Random::new("dynshared").u32s(shorts).iter().map(|&v| v as u16).collect();
    let want: Vec<u16> = (0..shorts)
        .map(|i| {
            x[shorts - 1 - i] ^ (((i % words) as u32).wrapping_mul(2_654_435_761) >> 16) as u16
        })
        .collect();
    Setup::line(1, 96)
        .shared((words * 4 + shorts * 2) as u32)
        .input(&x)
        .exact(&want)
        .arg(words as u32)
        .arg(shorts as u32)
}

fn params(_: Size) -> Setup {
    // struct Big: char 0, short 2, int 4, long 8, float[3] 16, double 32, byte[5] 40; 16-byte
    // aligned, 48 bytes.
    let mut big = vec![0xEEu8; 48];
    big[0] = -5i8 as u8;
    big[2..4].copy_from_slice(&(-300i16).to_le_bytes());
    big[4..8].copy_from_slice(&70_000i32.to_le_bytes());
    big[8..16].copy_from_slice(&(-1i64 << 40).to_le_bytes());
    big[16..28].copy_from_slice(&to_bytes(&[1.0f32, 2.0, 3.0]));
    big[32..40].copy_from_slice(&123_456.75f64.to_le_bytes());
    big[40..45].copy_from_slice(&[10, 0, 0, 0, 20]);
    let want: Vec<i64> = vec![
        -100,
        60_000,
        -2_000_000_000,
        i64::MIN + 5,
        10,
        -20,
        -5,
        -300,
        70_000,
        -1 << 40,
        321,
        123_456,
        50,
        1,
    ];
    Setup::line(1, 32)
        .arg(-100i8 as u8)
        .arg(60_000u16)
        .arg(-2_000_000_000i32)
        .arg((i64::MIN + 5) as u64)
        .arg(2.5f32)
        .arg(-2.5f64)
        .bytes(big)
        .arg(1u8)
        .exact(&want)
}

fn param_index(size: Size) -> Setup {
    let n = size.pick(200, 1 << 19);
    let mut r = Random::new("param_index");
    let (table, x): (Vec<i32>, _) =
        (r.below_each(32, 1 << 20).iter().map(|&v| v as i32).collect(), r.u32s(n));
    let want: Vec<i32> = (0..n).map(|i| table[x[i] as usize & 31] - table[i & 31]).collect();
    Setup::line(cover(n, 64), 64).bytes(to_bytes(&table)).input(&x).exact(&want).arg(n as u32)
}

fn special(size: Size) -> Setup {
    let (grid, block) = size.pick(([3u32, 2, 2], [6u32, 5, 2]), ([16, 16, 8], [8, 4, 4]));
    let (per_block, blocks): (u32, u32) = (block.iter().product(), grid.iter().product());
    let n = (per_block * blocks) as usize;
    let pack = |v: [u32; 3]| v[0] | v[1] << 8 | v[2] << 16;
    let unfold = |i: u32, shape: [u32; 3]| {
        pack([i % shape[0], i / shape[0] % shape[1], i / shape[0] / shape[1]])
    };
    let planes = 18;
    let mut want = vec![0u32; planes * n];
    for i in 0..n {
        let (b, t) = (i as u32 / per_block, i as u32 % per_block);
        let lane = t % 32;
        let (eq, lt) = (1u32 << lane, (1u32 << lane) - 1);
        let plane = [
            unfold(t, block),
            unfold(b, grid),
            pack(block),
            pack(grid),
            lane,
            32,
            eq,
            lt,
            lt | eq,
            !(lt | eq),
            !lt,
            1,
            1,
            512,
            1,
            1,
            1,
            1,
        ];
        for (k, v) in plane.into_iter().enumerate() {
            want[k * n + i] = v;
        }
    }
    Setup::new(grid, block).shared(512).exact(&want)
}
