//! Clients of the capability RPC, in the test's own process.

use std::path::Path;

use anyhow::{Context, ensure};
use turnstile_capnp::client::{Mapped, connect};
use turnstile_capnp::turnstile_capnp::{
    BufferUsage, ProgramFormat, gpu_buffer, gpu_device_manager, gpu_fence, gpu_kernel, gpu_session,
};

use crate::workspace;

/// Runs a client to its end on this thread, with a bound on time.
pub fn client<R>(
    socket: &Path,
    body: impl AsyncFnOnce(gpu_device_manager::Client) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let all = async { body(connect(socket).await?).await };
        tokio::time::timeout(std::time::Duration::from_secs(120), all)
            .await
            .context("the client takes more than two minutes")?
    })
}

/// A session.
pub async fn open(manager: &gpu_device_manager::Client) -> anyhow::Result<gpu_session::Client> {
    Ok(manager.open_device_request().send().promise.await?.get()?.get_session()?)
}

/// A buffer.
pub async fn buffer(
    session: &gpu_session::Client,
    bytes: u64,
    usage: BufferUsage,
) -> anyhow::Result<gpu_buffer::Client> {
    let mut create = session.create_buffer_request();
    create.get().set_bytes(bytes);
    create.get().set_usage(usage);
    Ok(create.send().promise.await?.get()?.get_buffer()?)
}

/// A buffer's memory.
pub async fn map(buffer: &gpu_buffer::Client) -> anyhow::Result<Mapped> {
    let answer = buffer.map_request().send().promise.await?;
    Ok(Mapped::fetch(answer.get()?.get_region()?)?)
}

/// A fence.
pub async fn fence(session: &gpu_session::Client) -> anyhow::Result<gpu_fence::Client> {
    Ok(session.create_fence_request().send().promise.await?.get()?.get_fence()?)
}

/// The kernel that adds two vectors.
pub async fn vecadd(session: &gpu_session::Client) -> anyhow::Result<gpu_kernel::Client> {
    let image = std::fs::read(workspace::root().join("tests/kernels/ptx/vecadd.ptx"))?;
    let mut load = session.load_program_request();
    load.get().set_image(&image);
    load.get().set_format(ProgramFormat::Ptx);
    let program = load.send().promise.await?.get()?.get_program()?;
    let mut find = program.kernel_request();
    find.get().set_entry("vecadd");
    Ok(find.send().promise.await?.get()?.get_kernel()?)
}

/// Submits the addition of `n` numbers.
pub async fn launch(
    session: &gpu_session::Client,
    kernel: &gpu_kernel::Client,
    buffers: &[gpu_buffer::Client; 3],
    n: u32,
    fence: &gpu_fence::Client,
) -> anyhow::Result<()> {
    let mut request = session.launch_kernel_request();
    let mut call = request.get();
    call.set_kernel(kernel.clone());
    call.reborrow().init_grid().set_x(n.div_ceil(256));
    call.reborrow().init_block().set_x(256);
    call.set_fence(fence.clone());
    let mut arguments = call.init_arguments(4);
    for (i, buffer) in buffers.iter().enumerate() {
        arguments.reborrow().get(i as u32).init_buffer().set_buffer(buffer.clone());
    }
    arguments.get(3).set_u32(n);
    request.send().promise.await?;
    Ok(())
}

/// Waits for a fence.
pub async fn wait(fence: &gpu_fence::Client, nanos: u64) -> anyhow::Result<bool> {
    let mut request = fence.wait_request();
    request.get().set_timeout_nanos(nanos);
    Ok(request.send().promise.await?.get()?.get_ok())
}

/// Everything a client does: a session, buffers, a kernel, a fence, and the right sums.
pub async fn add_vectors(manager: &gpu_device_manager::Client, n: u32) -> anyhow::Result<()> {
    let session = open(manager).await?;
    let mut buffers = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..3 {
        let buffer = buffer(&session, u64::from(n) * 4, BufferUsage::Host).await?;
        memory.push(map(&buffer).await?);
        buffers.push(buffer);
    }
    let numbers = |factor: f32| (0..n).flat_map(|i| (factor * i as f32).to_le_bytes()).collect();
    let (a, b): (Vec<u8>, Vec<u8>) = (numbers(1.0), numbers(3.0));
    memory[0].write(0, &a)?;
    memory[1].write(0, &b)?;
    let buffers: [gpu_buffer::Client; 3] = buffers.try_into().map_err(|_| anyhow::anyhow!("3"))?;
    let (kernel, fence) = (vecadd(&session).await?, fence(&session).await?);
    launch(&session, &kernel, &buffers, n, &fence).await?;
    ensure!(wait(&fence, 30_000_000_000).await?, "the kernel does not end");
    let mut sums = vec![0; a.len()];
    memory[2].read(0, &mut sums)?;
    let right: Vec<u8> = numbers(4.0);
    ensure!(sums == right, "wrong sums");
    session.close_request().send().promise.await?;
    Ok(())
}
