use std::collections::BTreeSet;
use std::sync::Arc;

use turnstile_abi::launch::{Block, Extras, Grid};
use turnstile_abi::op::{self, TABLE};
use turnstile_abi::{Handle, Opcode, Rights, Status};

use super::*;
use crate::{Policy, TenantPolicy};

fn tenant(grants: &str) -> Arc<TenantPolicy> {
    let text = format!(
        r#"{{ "version": 1, "device": {{ "backend": "cuda", "memory": "1GiB" }}, "tenants": [
            {{ "name": "t", "attach": {{ "kind": "microvm", "guest": "g" }},
               "isolation": "exclusive", "grants": {grants} }} ] }}"#
    );
    Policy::parse(&text).unwrap_or_else(|e| panic!("{e}")).tenants[0].clone()
}

const HASH: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn everything() -> Arc<TenantPolicy> {
    tenant(&format!(
        r#"{{
        "buffer": {{ "max_bytes": "1MiB", "usage": ["device", "host"] }},
        "dma": {{ "max_bytes": "64KiB", "access": ["read", "write"] }},
        "program": {{ "formats": ["ptx", "image"], "max_bytes": "4KiB", "images": ["{HASH}"] }},
        "launch": {{ "max_threads_per_block": 256, "max_blocks": 1000, "max_shared": "1KiB",
                     "timeout": "1s", "cooperative": true }},
        "queue": {{ "max_depth": 64 }},
        "fence": {{}}, "copy": true, "fill": true, "derive": true }}"#
    ))
}

fn launch(blocks: [u32; 3], threads: [u16; 3], shared_bytes: u32, flags: u32) -> Request {
    Request::from(op::launch::Args {
        function: Handle::NULL,
        grid: Grid { blocks, shared_bytes },
        block: Block { threads, params_bytes: 0 },
        params: 0,
        extras: Extras { relocations: 0, flags },
    })
}

/// One modest request for each row of the table.
fn samples() -> Vec<Request> {
    let h = Handle::NULL;
    vec![
        op::identify::Args { offset: 0, bytes: 128 }.into(),
        op::session_open::Args {}.into(),
        op::session_close::Args { session: h }.into(),
        op::buffer_create::Args { session: h, bytes: 4096, usage: Usage::Device }.into(),
        op::buffer_destroy::Args { buffer: h }.into(),
        op::buffer_map::Args { buffer: h }.into(),
        op::buffer_unmap::Args { buffer: h }.into(),
        op::dma_register::Args { session: h, list: 0, extents: 1, access: Access::Read }.into(),
        op::dma_unregister::Args { region: h }.into(),
        op::program_load::Args { session: h, image: 0, bytes: 100, format: Format::Ptx }.into(),
        op::program_unload::Args { program: h }.into(),
        op::function_get::Args { program: h, name: 0, bytes: 4 }.into(),
        op::function_release::Args { function: h }.into(),
        op::queue_create::Args { session: h, ring: 0, depth: 16, vector: 1 }.into(),
        op::queue_destroy::Args { queue: h }.into(),
        op::fence_create::Args { session: h, initial: 0, mirror: u64::MAX }.into(),
        op::fence_destroy::Args { fence: h }.into(),
        op::derive::Args { source: h, rights: Rights::READ }.into(),
        op::nop::Args {}.into(),
        op::copy::Args { dst: h, dst_offset: 0, src: h, src_offset: 0, bytes: 1 }.into(),
        op::fill::Args { dst: h, offset: 0, bytes: 1, pattern: 0, width: 1 }.into(),
        launch([1; 3], [1; 3], 0, 0),
        op::fence_signal::Args { fence: h, value: 1 }.into(),
        op::fence_wait::Args { fence: h, value: 1, timeout_ns: 1 }.into(),
        op::timestamp::Args {}.into(),
    ]
}

#[test]
fn the_samples_cover_the_whole_table() {
    let sampled: BTreeSet<Opcode> = samples().iter().map(Request::opcode).collect();
    let table: BTreeSet<Opcode> = TABLE.iter().map(|row| row.opcode).collect();
    assert_eq!(sampled, table);
}

/// Invariant 10: what the policy does not grant is refused.
#[test]
fn without_grants_only_the_free_operations_pass() {
    let nobody = tenant("{}");
    let mut passed = Vec::new();
    for request in samples() {
        let row = request.opcode().info();
        match authorize(&nobody, request) {
            Ok(authorized) => {
                assert_eq!(authorized.into_inner(), request);
                passed.push(row.metric);
            }
            Err(denial) => {
                assert_eq!(denial.status, Status::Denied, "{}", row.metric);
                assert_eq!(denial.reason, "not_granted");
                assert_eq!(denial.path, path_of(row.grant));
                assert_eq!(denial.detail(), 0);
            }
        }
    }
    assert_eq!(passed, ["identify", "session_open", "session_close", "nop", "timestamp"]);
}

/// Each grant alone lets through exactly the operations of its rows.
#[test]
fn a_grant_opens_its_own_operations_and_no_others() {
    let all = everything();
    let grants = [
        Grant::Buffer,
        Grant::Dma,
        Grant::Program,
        Grant::Launch,
        Grant::Queue,
        Grant::Copy,
        Grant::Fill,
        Grant::Fence,
        Grant::Derive,
    ];
    for grant in grants {
        let mut one = TenantPolicy::clone(&all);
        let full = std::mem::take(&mut one.grants);
        match grant {
            Grant::Always => {}
            Grant::Buffer => one.grants.buffer = full.buffer,
            Grant::Dma => one.grants.dma = full.dma,
            Grant::Program => one.grants.program = full.program,
            Grant::Launch => one.grants.launch = full.launch,
            Grant::Queue => one.grants.queue = full.queue,
            Grant::Copy => one.grants.copy = true,
            Grant::Fill => one.grants.fill = true,
            Grant::Fence => one.grants.fence = full.fence,
            Grant::Derive => one.grants.derive = true,
        }
        for request in samples() {
            let row = request.opcode().info();
            let expected = row.grant == grant || row.grant == Grant::Always;
            assert_eq!(authorize(&one, request).is_ok(), expected, "{grant:?} {}", row.metric);
        }
    }
    assert!(samples().into_iter().all(|request| authorize(&all, request).is_ok()));
}

/// `explain` says what `authorize` does.
#[test]
fn the_explanation_agrees_with_the_decision() {
    for grants in ["{}", r#"{ "queue": {}, "copy": true }"#, r#"{ "fence": {}, "derive": true }"#] {
        let tenant = tenant(grants);
        let policy = Policy {
            device: crate::DevicePolicy {
                backend: crate::Backend::Emulated(crate::EmulatedOptions { workers: None }),
                memory_bytes: 1 << 30,
                overcommit: false,
                watchdog_ns: 1,
            },
            audit: Policy::parse(
                r#"{"version":1,"device":{"backend":"emulated","memory":"1MiB"},"tenants":[]}"#,
            )
            .unwrap()
            .audit,
            tenants: vec![tenant.clone()],
        };
        let explanation = crate::explain(&policy, "t").unwrap();
        assert_eq!(explanation.operations.len(), TABLE.len());
        for (request, verdict) in samples().into_iter().zip(&explanation.operations) {
            assert_eq!(request.opcode().info().metric, verdict.operation);
            let stuck = verdict.queue == "work" && tenant.grants.queue.is_none();
            let expected = authorize(&tenant, request).is_ok() && !stuck;
            assert_eq!(verdict.allowed, expected, "{grants} {}", verdict.operation);
        }
    }
    assert!(crate::explain(&crate::tests::policy(), "nobody").is_none());
}

fn refusal(tenant: &TenantPolicy, request: impl Into<Request>) -> (Status, &'static str, String) {
    let denial = authorize(tenant, request.into()).expect_err("it must be refused");
    (denial.status, denial.reason, denial.to_string())
}

#[test]
fn buffers_are_bounded_in_size_and_place() {
    let t = tenant(r#"{ "buffer": { "max_bytes": "1MiB", "usage": ["device"] } }"#);
    let create = |bytes, usage| op::buffer_create::Args { session: Handle::NULL, bytes, usage };
    assert!(authorize(&t, create(1 << 20, Usage::Device).into()).is_ok());
    assert_eq!(
        refusal(&t, create((1 << 20) + 1, Usage::Device)),
        (
            Status::Quota,
            "buffer_bytes",
            "1048577 more bytes of buffers asked for, but 0 of 1048576 are in use and 1048576 left: \
             free some, or raise grants.buffer.max_bytes"
                .into()
        )
    );
    assert_eq!(refusal(&t, create(u64::MAX, Usage::Device)).1, "buffer_bytes");
    assert_eq!(
        refusal(&t, create(1, Usage::Host)),
        (
            Status::Denied,
            "usage_not_granted",
            "a host-visible buffer is not allowed by grants.buffer.usage: do without it, or add it \
             there"
                .into()
        )
    );
}

#[test]
fn registration_is_bounded_in_access_and_length() {
    let t = tenant(r#"{ "dma": { "max_bytes": "64KiB", "access": ["read"] } }"#);
    let register = |extents, access| op::dma_register::Args {
        session: Handle::NULL,
        list: 0,
        extents,
        access,
    };
    assert!(authorize(&t, register(16, Access::Read).into()).is_ok());
    assert_eq!(refusal(&t, register(17, Access::Read)).1, "dma_bytes");
    assert_eq!(refusal(&t, register(u64::MAX, Access::Read)).1, "dma_bytes");
    assert_eq!(refusal(&t, register(1, Access::Write)).1, "access_not_granted");
    assert_eq!(refusal(&t, register(1, Access::ReadWrite)).1, "access_not_granted");
}

#[test]
fn programs_are_bounded_in_format_size_and_content() {
    let t = tenant(r#"{ "program": { "formats": ["ptx"], "max_bytes": 100 } }"#);
    let load =
        |bytes, format| op::program_load::Args { session: Handle::NULL, image: 0, bytes, format };
    assert!(authorize(&t, load(100, Format::Ptx).into()).is_ok());
    assert_eq!(refusal(&t, load(101, Format::Ptx)).1, "program_bytes");
    assert_eq!(refusal(&t, load(1, Format::Image)).1, "format_not_granted");
    let listed: [u8; 32] = std::array::from_fn(|i| i as u8);
    assert_eq!(authorize_image(&t, &listed).unwrap_err().reason, "image_not_listed");
    assert_eq!(authorize_image(&tenant("{}"), &listed).unwrap_err().reason, "not_granted");
    let t = everything();
    assert!(authorize(&t, load(100, Format::Image).into()).is_ok());
    assert!(authorize_image(&t, &listed).is_ok());
    assert!(authorize_image(&t, &[0; 32]).is_err());
}

#[test]
fn queues_are_bounded_in_depth() {
    let t = tenant(r#"{ "queue": { "max_depth": 64 } }"#);
    let create =
        |depth| op::queue_create::Args { session: Handle::NULL, ring: 0, depth, vector: 0 };
    assert!(authorize(&t, create(64).into()).is_ok());
    assert_eq!(refusal(&t, create(128)).1, "queue_depth");
    assert_eq!(refusal(&t, create(u64::MAX)).1, "queue_depth");
}

#[test]
fn launches_are_bounded_whatever_their_product() {
    let t = everything();
    assert!(authorize(&t, launch([10, 10, 10], [16, 16, 1], 1024, 1)).is_ok());
    assert_eq!(refusal(&t, launch([10, 10, 10], [257, 1, 1], 0, 0)).1, "threads_per_block");
    assert_eq!(refusal(&t, launch([1; 3], [16, 16, 2], 0, 0)).1, "threads_per_block");
    assert_eq!(refusal(&t, launch([1; 3], [u16::MAX; 3], 0, 0)).1, "threads_per_block");
    assert_eq!(refusal(&t, launch([1001, 1, 1], [1; 3], 0, 0)).1, "blocks");
    // Products that wrap around 2^32, 2^64 and 2^96.
    for blocks in [[1 << 16, 1 << 16, 1], [1 << 31, 1 << 31, 4], [u32::MAX; 3], [1 << 31; 3]] {
        let (status, reason, text) = refusal(&t, launch(blocks, [1; 3], 0, 0));
        assert_eq!((status, reason), (Status::Denied, "blocks"), "{blocks:?} {text}");
    }
    assert_eq!(
        refusal(&t, launch([1; 3], [1; 3], 1025, 0)),
        (
            Status::Denied,
            "shared_bytes",
            "1025 bytes of shared memory a block asked for, but grants.launch.max_shared allows \
             1024: ask for less, or raise it"
                .into()
        )
    );
    let mut strict = TenantPolicy::clone(&t);
    if let Some(launch) = &mut strict.grants.launch {
        launch.cooperative = false;
        launch.max_blocks = u64::MAX;
    }
    assert_eq!(refusal(&strict, launch([1; 3], [1; 3], 0, 1)).1, "cooperative_not_granted");
    // The one product that no 64-bit limit refuses is the saturated one.
    assert!(authorize(&strict, launch([u32::MAX; 3], [1; 3], 0, 0)).is_ok());
}

#[test]
fn waits_and_launches_get_the_time_that_is_granted() {
    let all = everything();
    assert_eq!(all.grants.launch_timeout_ns(), 1_000_000_000);
    assert_eq!(all.grants.wait_timeout_ns(u64::MAX), 10_000_000_000);
    assert_eq!(all.grants.wait_timeout_ns(5), 5);
    let nobody = tenant("{}");
    assert_eq!(nobody.grants.launch_timeout_ns(), 0);
    assert_eq!(nobody.grants.wait_timeout_ns(u64::MAX), 0);
}

#[test]
fn a_missing_grant_reads_as_a_sentence() {
    assert_eq!(
        refusal(
            &tenant("{}"),
            op::fill::Args { dst: Handle::NULL, offset: 0, bytes: 1, pattern: 0, width: 1 }
        )
        .2,
        "Fill is not granted: add grants.fill to the tenant's policy"
    );
}
