//! Sparse matrices, graphs, hash tables, pointers.
use crate::case::Pointer;
use crate::element::Tolerance;
use crate::random::Random;
use crate::setup::{POISON, Setup, cover};
use crate::table::{Size, entries};
use std::collections::BTreeMap;

entries! {
    spmv_scalar in spmv "CSR matrix times vector, one thread a row" [] |size| spmv(size, false);
    spmv_vector in spmv
        "CSR matrix times vector, one warp a row, read-only loads" [] |size| spmv(size, true);
    bfs_step in bfs
        "one frontier step of a breadth-first search, compare-and-swap claims" [] bfs_step;
    hash_insert in hashtable
        "counts keys in an open-addressing table by 64-bit compare-and-swap" [] hash_insert;
    chase in chase
        "follows device pointers stored in memory (loads through generic addresses)" [] chase;
}

/// CSR of `n` rows with 0 to 2 * mean entries each, columns below `n`.
fn random_rows(r: &mut Random, n: usize, mean: u32) -> (Vec<u32>, Vec<u32>) {
    let (mut rows, mut cols) = (vec![0u32], Vec::new());
    for _ in 0..n {
        let count = r.below(2 * mean + 1);
        cols.extend((0..count).map(|_| r.below(n as u32)));
        rows.push(cols.len() as u32);
    }
    (rows, cols)
}

fn spmv(size: Size, vector: bool) -> Setup {
    let n = size.pick(150, 1 << 16);
    let mut r = Random::new("spmv");
    let (rows, cols) = random_rows(&mut r, n, if vector { 40 } else { 12 });
    let (values, x) = (r.whole(cols.len(), 9), r.whole(n, 9));
    let y: Vec<f32> = rows
        .windows(2)
        .map(|w| {
            let row = w[0] as usize..w[1] as usize;
            // From +0: an empty row is +0, where a sum of floats would start from -0.
            row.fold(0.0f32, |sum, j| sum + values[j] * x[cols[j] as usize])
        })
        .collect();
    let threads = if vector { n * 32 } else { n };
    Setup::line(cover(threads, 128), 128)
        .input(&rows)
        .input(&cols)
        .input(&values)
        .input(&x)
        .exact(&y)
        .arg(n as u32)
}

fn bfs_step(size: Size) -> Setup {
    let n = size.pick(300, 1 << 17);
    let mut r = Random::new("bfs_step");
    let (rows, cols) = random_rows(&mut r, n, 6);
    let order = r.permutation(n);
    let (frontier, rest) = order.split_at(n / 8);
    let mut distance = vec![u32::MAX; n];
    frontier.iter().for_each(|&v| distance[v as usize] = 4);
    rest[..n / 8].iter().for_each(|&v| distance[v as usize] = 3);
    let mut after = distance.clone();
    let mut next = Vec::new();
    for &v in frontier {
        for &u in &cols[rows[v as usize] as usize..rows[v as usize + 1] as usize] {
            if after[u as usize] == u32::MAX {
                after[u as usize] = 5;
                next.push(u);
            }
        }
    }
    let count = next.len() as u32;
    next.resize(n, u32::from_le_bytes([POISON; 4]));
    Setup::line(cover(frontier.len(), 64), 64)
        .input(&rows)
        .input(&cols)
        .input(frontier)
        .arg(frontier.len() as u32)
        .inout(&distance, &after, Tolerance::Exact)
        .output(&next, Tolerance::Unordered)
        .inout(&[0u32], &[count], Tolerance::Exact)
        .arg(5u32)
}

fn hash_insert(size: Size) -> Setup {
    let (n, slots) = size.pick((700, 1024), (1 << 19, 1 << 20));
    let mut r = Random::new("hash_insert");
    let distinct = r.below_each(n / 2, u32::MAX - 1);
    let keys: Vec<u32> = (0..n).map(|_| distinct[r.below(n as u32 / 2) as usize] + 1).collect();
    let mut counts = BTreeMap::new();
    keys.iter().for_each(|&k| *counts.entry(k).or_insert(0u64) += 1);
    // Which slot an entry lands in depends on who came first; the set of entries does not.
    let mut table: Vec<u64> = counts.iter().map(|(&k, &c)| u64::from(k) << 32 | c).collect();
    table.resize(slots, 0);
    Setup::line(cover(n, 128), 128)
        .input(&keys)
        .inout(&vec![0u64; slots], &table, Tolerance::Unordered)
        .arg(slots as u32 - 1)
        .arg(n as u32)
}

fn chase(size: Size) -> Setup {
    let (nodes, walkers, hops) = size.pick((64, 100, 20), (1 << 16, 1 << 14, 200));
    let mut r = Random::new("chase");
    let values = r.u64s(nodes);
    // Most nodes lead to another one; every fiftieth ends its chain.
    let next: Vec<Option<u32>> = (0..nodes)
        .map(|_| if r.below(50) == 0 { None } else { Some(r.below(nodes as u32)) })
        .collect();
    let heads = r.below_each(walkers, nodes as u32);
    let sums: Vec<u64> = heads
        .iter()
        .map(|&head| {
            let (mut at, mut sum) = (Some(head), 0u64);
            for _ in 0..hops {
                let Some(node) = at else { break };
                sum = sum.wrapping_mul(31).wrapping_add(values[node as usize]);
                at = next[node as usize];
            }
            sum
        })
        .collect();
    let node_bytes = values.iter().flat_map(|v| [[0; 8], v.to_le_bytes()].concat()).collect();
    let links = next.iter().enumerate().filter_map(|(i, n)| {
        n.map(|n| Pointer { offset: i * 16, buffer: 1, addend: u64::from(n) * 16 })
    });
    let starts = heads.iter().enumerate().map(|(i, &h)| Pointer {
        offset: i * 8,
        buffer: 1,
        addend: u64::from(h) * 16,
    });
    let mut setup = Setup::line(cover(walkers, 64), 64)
        .pointers(vec![0; walkers * 8], starts.collect())
        .pointers(node_bytes, links.collect())
        .exact(&sums)
        .arg(hops as u32)
        .arg(walkers as u32);
    // The kernel reaches the nodes through the heads alone.
    setup.args.remove(1);
    setup
}
