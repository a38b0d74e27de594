//! Adds two vectors on the GPU of a running `turnstile serve`, over capability RPC.
//!
//!     cargo run --release -- serve policy/examples/rpc.json &
//!     cargo run -p turnstile-capnp --example vecadd -- /tmp/turnstile-rpc-alice.sock

use std::path::PathBuf;

use anyhow::{Context, ensure};
use turnstile_capnp::client::{Mapped, connect};
use turnstile_capnp::turnstile_capnp::{BufferUsage, ProgramFormat, gpu_buffer, gpu_session};

const N: u32 = 5000;
const BYTES: u64 = N as u64 * 4;
const PTX: &[u8] = include_bytes!("../../../../tests/kernels/ptx/vecadd.ptx");

fn main() -> anyhow::Result<()> {
    let socket = std::env::args_os().nth(1).map(PathBuf::from);
    let socket = socket.context("say which socket: attach.socket of the policy")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(socket))
}

async fn run(socket: PathBuf) -> anyhow::Result<()> {
    let manager = connect(&socket).await?;
    // Everything up to the first await is one round trip: promises are used before they are kept.
    let session = manager.open_device_request().send().pipeline.get_session();
    let (a, left) = vector(&session, |i| i as f32).await?;
    let (b, right) = vector(&session, |i| 3.0 * i as f32).await?;
    let (c, result) = vector(&session, |_| 0.0).await?;

    let mut load = session.load_program_request();
    load.get().set_image(PTX);
    load.get().set_format(ProgramFormat::Ptx);
    let program = load.send().pipeline.get_program();
    let mut find = program.kernel_request();
    find.get().set_entry("vecadd");
    let kernel = find.send().pipeline.get_kernel();
    let fence = session.create_fence_request().send().pipeline.get_fence();

    let mut launch = session.launch_kernel_request();
    let mut call = launch.get();
    call.set_kernel(kernel);
    call.reborrow().init_grid().set_x(N.div_ceil(256));
    call.reborrow().init_block().set_x(256);
    call.set_fence(fence.clone());
    let mut arguments = call.init_arguments(4);
    for (i, buffer) in [a, b, c].into_iter().enumerate() {
        arguments.reborrow().get(i as u32).init_buffer().set_buffer(buffer);
    }
    arguments.get(3).set_u32(N);
    launch.send().promise.await?;

    let mut wait = fence.wait_request();
    wait.get().set_timeout_nanos(10_000_000_000);
    ensure!(wait.send().promise.await?.get()?.get_ok(), "the kernel takes more than 10 s");
    for i in 0..N {
        let mut word = [0; 4];
        result.read(u64::from(i) * 4, &mut word)?;
        let sum = f32::from_le_bytes(word);
        ensure!(sum == 4.0 * i as f32, "element {i} is {sum}");
    }
    drop((left, right));
    println!("vecadd: {N} elements right");
    Ok(())
}

/// A host-visible buffer and its memory, filled.
async fn vector(
    session: &gpu_session::Client,
    value: impl Fn(u32) -> f32,
) -> anyhow::Result<(gpu_buffer::Client, Mapped)> {
    let mut create = session.create_buffer_request();
    create.get().set_bytes(BYTES);
    create.get().set_usage(BufferUsage::Host);
    let buffer = create.send().pipeline.get_buffer();
    let answer = buffer.map_request().send().promise.await?;
    let memory = Mapped::fetch(answer.get()?.get_region()?)?;
    let bytes: Vec<u8> = (0..N).flat_map(|i| value(i).to_le_bytes()).collect();
    memory.write(0, &bytes)?;
    Ok((buffer, memory))
}
