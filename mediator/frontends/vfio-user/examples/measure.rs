//! Measures a vfio-user server from outside, with the `vfio_user` crate's client.
//!
//!     measure read N SOCKET...       trapped 4-byte reads of BAR0, the sockets in turn
//!     measure attach N SOCKET        connect, negotiate, map 4 GiB of sealed memory
//!     measure hold SECONDS SOCKET... connect to all and stay idle

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use vfio_user::Client;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [verb, n, sockets @ ..] = &words[..] else {
        return Err("usage: measure read|attach|hold N SOCKET...".into());
    };
    let n: u64 = n.parse()?;
    let connect = |path: &String| Client::new(Path::new(path)).map_err(|e| format!("{path}: {e}"));
    match verb.as_str() {
        "read" => {
            let mut clients = sockets.iter().map(connect).collect::<Result<Vec<_>, _>>()?;
            let mut times = vec![Vec::new(); clients.len()];
            // In turn, so that whatever else the machine does hits all alike.
            for _ in 0..n {
                for (client, times) in clients.iter_mut().zip(&mut times) {
                    let start = Instant::now();
                    client.region_read(0, 0, &mut [0; 4])?;
                    times.push(start.elapsed());
                }
            }
            sockets.iter().zip(times).for_each(|(socket, times)| say(socket, times));
        }
        "attach" => {
            let ram = rustix::fs::memfd_create("ram", MemfdFlags::ALLOW_SEALING)?;
            rustix::fs::ftruncate(&ram, 4 << 30)?;
            rustix::fs::fcntl_add_seals(&ram, SealFlags::SHRINK | SealFlags::GROW)?;
            let socket = sockets.first().ok_or("no socket")?;
            let mut times = Vec::new();
            for _ in 0..n {
                let start = Instant::now();
                let mut client = connect(socket)?;
                // As QEMU does for 4 GiB: below and above the hole for devices.
                client.dma_map(0, 0, 2 << 30, ram.as_raw_fd())?;
                client.dma_map(2 << 30, 4 << 30, 2 << 30, ram.as_raw_fd())?;
                times.push(start.elapsed());
                client.shutdown()?;
            }
            say(socket, times);
        }
        "hold" => {
            let clients = sockets.iter().map(connect).collect::<Result<Vec<_>, _>>()?;
            println!("{} clients are idle", clients.len());
            std::thread::sleep(Duration::from_secs(n));
        }
        other => return Err(format!("no such measurement: {other}").into()),
    }
    Ok(())
}

fn say(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or_default();
    let mean = times.iter().sum::<Duration>() / times.len().max(1) as u32;
    println!("{what}: p50 {:?}, p99 {:?}, mean {mean:?}, n {}", at(500), at(990), times.len());
}
