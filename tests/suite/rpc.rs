//! Capability RPC: capOS's acceptance list, clients that attack, the Python example.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use turnstile_capnp::turnstile_capnp::{
    BufferUsage, FenceStatus, ProgramFormat, gpu_device_manager, gpu_session,
};
use turnstile_tests::daemon::Daemon;
use turnstile_tests::policy::Document;
use turnstile_tests::python;
use turnstile_tests::rpc::{self, client};
use turnstile_tests::{Outcome, pass, skip, test, workspace};

/// What a hostile client does to a socket.
type Attack = fn(&Path) -> anyhow::Result<()>;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("rpc::capos_acceptance_list", acceptance),
        test("rpc::hostile_clients_cost_only_themselves", hostile),
        test("rpc::quotas_are_enforced_and_given_back", quotas),
        test("rpc::an_operators_revoke_reaches_every_object", revoked),
        test("rpc::the_python_example_works", python),
    ]
}

fn daemon() -> anyhow::Result<Daemon> {
    Daemon::start(|directory| {
        let socket = |name: &str| json!(directory.join(name));
        Document::example("rpc.json")?
            .set("/tenants/0/attach/socket", socket("alice"))?
            .set("/tenants/1/attach/socket", socket("bob"))
    })
}

/// The exception of a call that must fail: its reason, which begins with this word.
fn refused<T>(result: Result<T, capnp::Error>, word: &str) -> anyhow::Result<capnp::Error> {
    let error = result.err().with_context(|| format!("it worked; expected {word}"))?;
    ensure!(error.extra.contains(&format!("{word}: ")), "expected {word}, got {error:?}");
    Ok(error)
}

fn acceptance() -> Outcome {
    let daemon = daemon()?;
    daemon.expect("serving", 1)?;
    eprintln!("accepted: the service starts and says so");
    client(&daemon.socket("alice"), async |manager| accept(&daemon, manager).await)?;
    daemon.expect("alice|gone:", 1)?;
    eprintln!("accepted: a client that goes leaves nothing; the service runs on");
    client(&daemon.socket("alice"), async |manager| rpc::add_vectors(&manager, 1000).await)?;
    eprintln!("accepted: the next client works");
    daemon.stop()?;
    pass()
}

async fn accept(daemon: &Daemon, manager: gpu_device_manager::Client) -> anyhow::Result<()> {
    let answer = manager.list_devices_request().send().promise.await?;
    let devices = answer.get()?.get_devices()?;
    ensure!(devices.len() == 1 && devices.get(0).get_memory_bytes() == 64 << 20);
    eprintln!("accepted: the client is granted its own device and nothing else");

    let session = rpc::open(&manager).await?;
    daemon.expect("alice|session opened", 1)?;
    eprintln!("accepted: it creates a session");

    let n = 5000_u32;
    let mut buffers = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..3 {
        let buffer = rpc::buffer(&session, u64::from(n) * 4, BufferUsage::Host).await?;
        let size = buffer.size_request().send().promise.await?.get()?.get_bytes();
        ensure!(size == u64::from(n) * 4);
        memory.push(rpc::map(&buffer).await?);
        buffers.push(buffer);
    }
    let ones: Vec<u8> = (0..n).flat_map(|_| 1_f32.to_le_bytes()).collect();
    memory[0].write(0, &ones)?;
    memory[1].write(0, &ones)?;
    eprintln!("accepted: it allocates and maps GPU buffers");

    let fence = rpc::fence(&session).await?;
    let status = fence.poll_request().send().promise.await?.get()?.get_status()?;
    ensure!(status == FenceStatus::Idle);
    let kernel = rpc::vecadd(&session).await?;
    let buffers = buffers.try_into().map_err(|_| anyhow::anyhow!("three"))?;
    rpc::launch(&session, &kernel, &buffers, n, &fence).await?;
    eprintln!("accepted: it submits a job");

    ensure!(rpc::wait(&fence, 30_000_000_000).await?);
    let status = fence.poll_request().send().promise.await?.get()?.get_status()?;
    ensure!(status == FenceStatus::Complete);
    let mut sums = vec![0; ones.len()];
    memory[2].read(0, &mut sums)?;
    ensure!(sums == (0..n).flat_map(|_| 2_f32.to_le_bytes()).collect::<Vec<_>>());
    eprintln!("accepted: it waits on a fence, receives completion, and the result is right");

    malformed(&manager, &session).await?;
    eprintln!("accepted: unsupported and malformed operations return explicit errors");

    session.close_request().send().promise.await?;
    let [a, b, c] = buffers;
    refused(a.size_request().send().promise.await, "closed")?;
    refused(b.map_request().send().promise.await, "closed")?;
    refused(c.close_request().send().promise.await, "closed")?;
    refused(fence.poll_request().send().promise.await, "closed")?;
    refused(fence.wait_request().send().promise.await, "closed")?;
    refused(kernel.close_request().send().promise.await, "closed")?;
    refused(session.create_fence_request().send().promise.await, "closed")?;
    eprintln!("accepted: closing a session invalidates its descendants");

    let session = rpc::open(&manager).await?;
    let orphan = rpc::buffer(&session, 4096, BufferUsage::Device).await?;
    drop(session);
    // The release travels before the call, on the same connection.
    refused(orphan.size_request().send().promise.await, "closed")?;
    eprintln!("accepted: dropping the last reference to a session does too");
    rpc::add_vectors(&manager, 100).await?;
    eprintln!("accepted: all without a restart");
    Ok(())
}

async fn malformed(
    manager: &gpu_device_manager::Client,
    session: &gpu_session::Client,
) -> anyhow::Result<()> {
    use capnp::ErrorKind;
    use gpu_session::{close_params, close_results};
    let id = <gpu_session::Client as capnp::traits::HasTypeId>::TYPE_ID;
    let none = session.client.new_call::<close_params::Owned, close_results::Owned>(id, 99, None);
    let error = none.send().promise.await.err().context("method 99 works")?;
    ensure!(error.kind == ErrorKind::Unimplemented, "{error:?}");

    let mut request = manager.open_device_request();
    request.get().set_index(7);
    refused(request.send().promise.await, "malformed")?;

    let mut request = session.load_program_request();
    request.get().set_image(b"this is no PTX");
    request.get().set_format(ProgramFormat::Ptx);
    refused(request.send().promise.await, "bad_program")?;

    let mut request = session.create_buffer_request();
    request.get().set_bytes(1 << 50);
    let error = refused(request.send().promise.await, "quota")?;
    ensure!(error.kind == ErrorKind::Overloaded, "{error:?}");

    // A copy past the end is only found when it is checked: the fence says so.
    let (a, b) = (
        rpc::buffer(session, 4096, BufferUsage::Device).await?,
        rpc::buffer(session, 4096, BufferUsage::Device).await?,
    );
    let fence = rpc::fence(session).await?;
    let mut copy = session.submit_memcpy_request();
    copy.get().set_dst(a.clone());
    copy.get().set_src(b);
    copy.get().set_bytes(4097);
    copy.get().set_fence(fence.clone());
    copy.send().promise.await?;
    let mut wait = fence.wait_request();
    wait.get().set_timeout_nanos(10_000_000_000);
    refused(wait.send().promise.await, "out_of_range")?;
    // Device memory cannot be mapped.
    ensure!(a.map_request().send().promise.await.is_err(), "device memory was mapped");
    // A fence that is no object of this connection.
    let mut launch = session.submit_fence_wait_request();
    launch.get().set_fence(capnp_rpc::new_client(Foreign));
    refused(launch.send().promise.await, "bad_handle")?;
    Ok(())
}

/// A client's own object, where the daemon's is expected.
struct Foreign;
impl turnstile_capnp::turnstile_capnp::gpu_fence::Server for Foreign {}

fn quotas() -> Outcome {
    let daemon = daemon()?;
    client(&daemon.socket("alice"), async |manager| {
        let session = rpc::open(&manager).await?;
        let all = rpc::buffer(&session, 64 << 20, BufferUsage::Device).await?;
        let mut more = session.create_buffer_request();
        more.get().set_bytes(1);
        refused(more.send().promise.await, "quota")?;
        // Dropping the reference is closing the buffer.
        drop(all);
        rpc::buffer(&session, 64 << 20, BufferUsage::Device).await?;
        let mut second = manager.open_device_request();
        second.get().set_index(0);
        refused(second.send().promise.await, "quota")?;
        // A mapping's token works once.
        let host = rpc::buffer(&session, 4096, BufferUsage::Host).await?;
        let answer = host.map_request().send().promise.await?;
        let region = answer.get()?.get_region()?;
        let memory = turnstile_capnp::client::Mapped::fetch(region)?;
        memory.write(0, &[7; 4096])?;
        ensure!(turnstile_capnp::client::Mapped::fetch(region).is_err(), "a token worked twice");
        // A second client of the same tenant is told why not.
        let second = client_refused(&daemon.socket("alice"))?;
        ensure!(second.contains("busy: another client"), "{second}");
        // Mapped: only unmapping lets go.
        refused(host.close_request().send().promise.await, "busy")?;
        host.unmap_request().send().promise.await?;
        host.close_request().send().promise.await?;
        Ok(())
    })?;
    daemon.stop()?;
    pass()
}

fn revoked() -> Outcome {
    let daemon = daemon()?;
    client(&daemon.socket("alice"), async |manager| {
        let session = rpc::open(&manager).await?;
        let buffer = rpc::buffer(&session, 4096, BufferUsage::Host).await?;
        let fence = rpc::fence(&session).await?;
        let kernel = rpc::vecadd(&session).await?;
        daemon.operate(&["revoke", "alice"])?.expect_code(0)?;
        refused(buffer.map_request().send().promise.await, "revoked")?;
        refused(session.create_fence_request().send().promise.await, "revoked")?;
        refused(kernel.close_request().send().promise.await, "revoked")?;
        let mut copy = session.submit_memcpy_request();
        copy.get().set_dst(buffer.clone());
        copy.get().set_src(buffer.clone());
        copy.get().set_fence(fence.clone());
        // It may be accepted; it never succeeds.
        if copy.send().promise.await.is_ok() {
            ensure!(rpc::wait(&fence, 10_000_000_000).await.is_err(), "a copy after the revoke");
        }
        refused(manager.open_device_request().send().promise.await, "revoked")?;
        Ok(())
    })?;
    // Nobody else noticed.
    client(&daemon.socket("bob"), async |manager| rpc::add_vectors(&manager, 100).await)?;
    daemon.stop()?;
    pass()
}

/// What a connection is told that is turned away, as text.
fn client_refused(socket: &Path) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn hostile() -> Outcome {
    let daemon = daemon()?;
    let over = AtomicBool::new(false);
    let rounds = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let (daemon, over, rounds) = (&daemon, &over, &rounds);
        let neighbour = scope.spawn(move || {
            client(&daemon.socket("bob"), async |manager| {
                while !over.load(Ordering::Acquire) {
                    rpc::add_vectors(&manager, 1000).await?;
                    rounds.fetch_add(1, Ordering::Release);
                }
                Ok(())
            })
        });
        let attacks: [(&str, Attack); 6] = [
            ("a message of 32 GiB", huge_message),
            ("noise", noise),
            ("a flood that reads no answer", deaf_flood),
            ("a connection dropped in the middle of a call", dropped),
            ("10,000 outstanding promises", promises),
            ("deep pipelining", pipelining),
        ];
        let attacked = attacks.into_iter().try_for_each(|(name, attack)| {
            let (started, before) = (Instant::now(), rounds.load(Ordering::Acquire));
            attack(&daemon.socket("alice")).with_context(|| name.to_owned())?;
            let during = rounds.load(Ordering::Acquire) - before;
            eprintln!("hostile: {name}: {:.1?}, {during} rounds beside it", started.elapsed());
            anyhow::Ok(())
        });
        over.store(true, Ordering::Release);
        neighbour.join().map_err(|_| anyhow::anyhow!("the neighbour panicked"))??;
        attacked
    })?;
    ensure!(rounds.load(Ordering::Acquire) > 0, "the neighbour did nothing");
    // The attacker's tenant is whole again.
    eventually(&daemon.socket("alice"))?;
    let peak = daemon.peak_rss_bytes()?;
    eprintln!("hostile: the daemon's peak is {} MiB", peak >> 20);
    ensure!(peak < 1 << 30, "the daemon grew to {peak} bytes");
    daemon.stop()?;
    pass()
}

/// Works as a client once the one before is gone.
fn eventually(socket: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match client(socket, async |manager| rpc::add_vectors(&manager, 100).await) {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(200)),
            other => return other,
        }
    }
}

/// Connects once the client before is gone.
fn stream(socket: &Path) -> anyhow::Result<UnixStream> {
    std::thread::sleep(Duration::from_millis(300));
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// The daemon must end the connection.
fn ended(mut stream: UnixStream) -> anyhow::Result<()> {
    let mut sink = Vec::new();
    match stream.read_to_end(&mut sink) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(e) => Err(e).context("the connection stays"),
    }
}

fn huge_message(socket: &Path) -> anyhow::Result<()> {
    let mut stream = stream(socket)?;
    stream.write_all(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])?;
    ended(stream)
}

fn noise(socket: &Path) -> anyhow::Result<()> {
    for seed in 1..=8_u64 {
        let mut stream = stream(socket)?;
        let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut bytes = Vec::new();
        for _ in 0..2000 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // A message of one segment, four words, of noise.
            bytes.extend([0, 0, 0, 0, 4, 0, 0, 0]);
            (0..4).for_each(|i| bytes.extend(word.rotate_left(i * 7).to_le_bytes()));
        }
        let _ = stream.write_all(&bytes);
        stream.shutdown(std::net::Shutdown::Write)?;
        ended(stream)?;
    }
    Ok(())
}

/// Asks for the bootstrap object again and again, and never reads.
fn deaf_flood(socket: &Path) -> anyhow::Result<()> {
    let mut message = capnp::message::Builder::new_default();
    let mut stream = stream(socket)?;
    let mut sent = 0_u32;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until && sent < 2_000_000 {
        let root = message.init_root::<capnp_rpc::rpc_capnp::message::Builder<'_>>();
        root.init_bootstrap().set_question_id(sent);
        if stream.write_all(&capnp::serialize::write_message_to_words(&message)).is_err() {
            break;
        }
        sent += 1;
    }
    ensure!(sent > 100 && sent < 2_000_000, "{sent} messages were taken");
    Ok(())
}

fn dropped(socket: &Path) -> anyhow::Result<()> {
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        client(socket, async |manager| {
            let session = manager.open_device_request().send().pipeline.get_session();
            let fence = session.create_fence_request().send().pipeline.get_fence();
            let mut wait = fence.wait_request();
            wait.get().set_timeout_nanos(u64::MAX);
            let waiting = wait.send().promise;
            let image = std::fs::read(workspace::root().join("tests/kernels/ptx/nbody.ptx"))?;
            let mut load = session.load_program_request();
            load.get().set_image(&image);
            load.get().set_format(ProgramFormat::Ptx);
            let loading = load.send().promise;
            // On their way, not more.
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop((waiting, loading));
            Ok(())
        })?;
    }
    Ok(())
}

fn promises(socket: &Path) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_millis(300));
    client(socket, async |manager| {
        let session = rpc::open(&manager).await?;
        let kept: Vec<_> =
            (0..10_000).map(|_| session.create_fence_request().send().promise).collect();
        let (mut made, mut refused, mut cut) = (0, 0, 0);
        for promise in kept {
            match promise.await {
                Ok(_) => made += 1,
                Err(e) if e.extra.contains("quota: ") || e.extra.contains("no_room: ") => {
                    refused += 1
                }
                Err(_) => cut += 1,
            }
        }
        eprintln!("hostile: {made} made, {refused} refused, {cut} cut off");
        ensure!(made <= 16 && made + refused + cut == 10_000);
        Ok(())
    })
}

fn pipelining(socket: &Path) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_millis(300));
    client(socket, async |manager| {
        // Every call on a promise of a promise, sent before any is answered.
        let mut last = Vec::new();
        for _ in 0..2000 {
            let session = manager.open_device_request().send().pipeline.get_session();
            let buffer = session.create_buffer_request().send().pipeline.get_buffer();
            last.push(buffer.size_request().send().promise);
        }
        let mut failed = 0;
        for promise in last {
            failed += u32::from(promise.await.is_err());
        }
        ensure!(failed > 0, "a buffer of no bytes was created");
        Ok(())
    })
}

fn python() -> Outcome {
    let python = match python::with_pycapnp(&workspace::target()) {
        Ok(python) => python,
        Err(why) => return skip(why),
    };
    let daemon = daemon()?;
    let example = workspace::root().join("mediator/frontends/capnp/examples/vecadd.py");
    let output = Command::new(&python).arg(example).arg(daemon.socket("alice")).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}\n{errors}");
    ensure!(said.contains("vecadd: 5000 elements right"), "{said}");
    ensure!(said.contains("quota: "), "{said}");
    daemon.stop()?;
    pass()
}
