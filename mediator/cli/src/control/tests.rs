//! The API over a real daemon without tenants' processes: an emulated GPU, devices attached directly.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use crossbeam_channel::unbounded;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use turnstile_driver::DeviceManager;
use turnstile_policy::Policy;

use super::*;
use crate::audit::AuditHandle;
use crate::daemon::Operator;
use crate::runtime::{Attached, Runtime, Settings, Wake};
use crate::tenants::local::LocalTransport;

/// A policy whose tenants nobody starts: their sockets wait for VMMs that never come.
fn document(place: &std::path::Path, names: &[&str]) -> Value {
    let tenant = |name: &&str| {
        let socket = place.join(format!("{name}.sock"));
        json!({ "name": name, "attach": { "kind": "vfio-user", "socket": socket },
            "aperture": "4MiB",
            "grants": { "sessions": 4, "copy": true,
                "buffer": { "max_bytes": "1MiB", "max_count": 8, "usage": ["device"] },
                "queue": { "max_count": 4, "max_depth": 64, "max_in_flight": 64 } } })
    };
    let tenants: Vec<Value> = names.iter().map(tenant).collect();
    json!({ "version": 1, "device": { "backend": "emulated", "memory": "1GiB" },
        "tenants": tenants })
}

struct World {
    // Dropped in this order.
    daemon: Arc<Daemon>,
    runtime: Runtime,
    place: tempfile::TempDir,
}

impl World {
    fn new(names: &[&str]) -> World {
        let place = tempfile::tempdir().unwrap();
        let text = document(place.path(), names).to_string();
        let policy = Policy::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let settings = turnstile_emulated::device::Settings {
            memory_bytes: 64 << 20,
            threads: 1,
            script: Default::default(),
        };
        let gpu = turnstile_emulated::device::EmulatedGpu::start(settings).unwrap();
        let (wake, audit) = (Wake::new().unwrap(), AuditHandle::none());
        let settings = Settings::default();
        let runtime = Runtime::start(Box::new(gpu), audit.clone(), wake, None, settings).unwrap();
        let (news, _) = unbounded();
        let daemon = Daemon::start(policy, runtime.handle(), audit, news, None).unwrap();
        World { daemon: Arc::new(daemon), runtime, place }
    }

    fn attach(&self, name: &str) -> (Attached, DeviceManager<LocalTransport>) {
        let policy = self.daemon.policy().tenant(name).unwrap().clone();
        let attached = self.runtime.handle().attach(policy, false).unwrap();
        let device = DeviceManager::start(LocalTransport::new(attached.device.clone())).unwrap();
        (attached, device)
    }

    /// Asks the API, without a socket in between.
    fn ask(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let (status, bytes) = self.ask_bytes(method, path, body);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    fn ask_bytes(&self, method: &str, path: &str, body: &str) -> (StatusCode, Vec<u8>) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .extension(Operator { uid: 0, pid: 1 })
            .body(Body::from(body.to_owned()))
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let response = router(self.daemon.clone()).oneshot(request).await.unwrap();
            let status = response.status();
            (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
        })
    }

    fn put(&self, policy: &Value) -> (StatusCode, Value) {
        self.ask("PUT", "/v1/policy", &policy.to_string())
    }
}

#[test]
fn the_committed_openapi_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    if std::env::var_os("TURNSTILE_BLESS").is_some() {
        std::fs::write(path, openapi()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    let current = committed == openapi();
    assert!(current, "make it anew: TURNSTILE_BLESS=1 cargo test -p turnstile openapi");
}

#[test]
fn tenants_are_listed_attached_or_not() {
    let world = World::new(&["alice", "bob"]);
    let (_attached, device) = world.attach("alice");
    let session = device.open_session().unwrap();
    let _buffer = session.create_buffer(4096, turnstile_abi::request::Usage::Device).unwrap();
    let (status, list) = world.ask("GET", "/v1/tenants", "");
    assert_eq!(status, StatusCode::OK);
    let tenants: Vec<Tenant> = serde_json::from_value(list).unwrap();
    let [alice, bob] = &tenants[..] else { panic!("{tenants:?}") };
    assert_eq!((&*alice.state, &*bob.state), ("enabled", "absent"));
    assert_eq!(alice.resources["buffer_bytes"], Held { used: 4096, limit: 1 << 20 });
    assert_eq!(alice.operations["buffer_create"].completed, 1);
    let (_, held) = world.ask("GET", "/v1/tenants/alice/sessions", "");
    let held: Sessions = serde_json::from_value(held).unwrap();
    assert_eq!((held.sessions.len(), &*held.objects[0].kind), (1, "Buffer"));
    let (status, problem) = world.ask("GET", "/v1/tenants/carol", "");
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::NOT_FOUND, &json!("urn:turnstile:no-tenant"))
    );
}

#[test]
fn a_revoked_tenant_stays_out_until_it_is_resumed() {
    let world = World::new(&["alice"]);
    let (attached, device) = world.attach("alice");
    let _session = device.open_session().unwrap();
    let (status, _) = world.ask("POST", "/v1/tenants/alice/revoke", "");
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(device.open_session().is_err());
    let handle = world.runtime.handle();
    handle.detach(attached.tenant).unwrap();
    let policy = world.daemon.policy().tenants[0].clone();
    let refused = handle.attach(policy.clone(), false).unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
    let (_, alice) = world.ask("GET", "/v1/tenants/alice", "");
    assert_eq!((&alice["state"], &alice["revoked"]), (&json!("absent"), &json!(true)));
    assert_eq!(alice["sessions_opened"], 1, "what it did stays counted: {alice}");
    world.ask("POST", "/v1/tenants/alice/resume", "");
    let again = handle.attach(policy.clone(), false).unwrap();
    assert!(handle.attach(policy, false).is_err(), "one device a tenant");
    handle.detach(again.tenant).unwrap();
}

#[test]
fn one_session_can_be_revoked_alone() {
    use turnstile_abi::request::Usage;
    let world = World::new(&["alice"]);
    let (_attached, device) = world.attach("alice");
    let (first, second) = (device.open_session().unwrap(), device.open_session().unwrap());
    let (_, held) = world.ask("GET", "/v1/tenants/alice/sessions", "");
    let held: Sessions = serde_json::from_value(held).unwrap();
    let path = format!("/v1/tenants/alice/sessions/{}", held.sessions[0].number);
    assert_eq!(world.ask("DELETE", &path, "").0, StatusCode::NO_CONTENT);
    assert!(first.create_buffer(4096, Usage::Device).is_err());
    assert!(second.create_buffer(4096, Usage::Device).is_ok());
    assert_eq!(world.ask("DELETE", &path, "").0, StatusCode::NOT_FOUND);
    assert_eq!(world.ask("DELETE", "/v1/tenants/alice/sessions/x", "").0, StatusCode::BAD_REQUEST);
}

#[test]
fn a_paused_tenant_waits() {
    let world = World::new(&["alice"]);
    let (_attached, device) = world.attach("alice");
    world.ask("POST", "/v1/tenants/alice/pause", "");
    let (_, alice) = world.ask("GET", "/v1/tenants/alice", "");
    assert_eq!(alice["paused"], true);
    let opened = std::thread::spawn(move || device.open_session().is_ok());
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!opened.is_finished());
    world.ask("POST", "/v1/tenants/alice/resume", "");
    assert!(opened.join().unwrap());
}

#[test]
fn a_reload_tightens_live_sessions_at_once() {
    use turnstile_abi::request::Usage;
    let world = World::new(&["alice"]);
    let (_attached, device) = world.attach("alice");
    let session = device.open_session().unwrap();
    let first = session.create_buffer(8192, Usage::Device).unwrap();
    let second = session.create_buffer(8192, Usage::Device).unwrap();
    let mut slots = [turnstile_driver::Slot::NEW; 64];
    let mut queue = session.create_queue(&mut slots).unwrap();
    let mut next = document(world.place.path(), &["alice"]);
    // Quota below use: nothing is taken away, and no more given.
    next["tenants"][0]["grants"]["buffer"]["max_bytes"] = json!("8KiB");
    let (status, answer) = world.put(&next);
    assert_eq!((status, &answer["applied"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert!(session.create_buffer(4096, Usage::Device).is_err());
    let token = queue.copy(second.at(0), first.at(0), 64).unwrap();
    queue.wait(token, 5_000_000_000).unwrap();
    // A right removed: denied from the next command.
    next["tenants"][0]["grants"].as_object_mut().unwrap().remove("copy");
    assert_eq!(world.put(&next).0, StatusCode::OK);
    let token = queue.copy(second.at(0), first.at(0), 64).unwrap();
    assert!(queue.wait(token, 5_000_000_000).is_err());
    let token = queue.nop().unwrap();
    queue.wait(token, 5_000_000_000).unwrap();
    // The grant of queues removed: commands on a queue there is are denied, not held.
    next["tenants"][0]["grants"].as_object_mut().unwrap().remove("queue");
    assert_eq!(world.put(&next).0, StatusCode::OK);
    let token = queue.nop().unwrap();
    assert!(queue.wait(token, 5_000_000_000).is_err());
    // The tenant removed: revoked, and its socket closed.
    let gone = document(world.place.path(), &[]);
    let (status, answer) = world.put(&gone);
    assert_eq!((status, &answer["removed"]), (StatusCode::OK, &json!(["alice"])));
    assert!(device.open_session().is_err());
    assert_eq!(world.ask("GET", "/v1/tenants/alice", "").0, StatusCode::NOT_FOUND);
}

#[test]
fn a_reload_is_all_or_nothing() {
    let world = World::new(&["alice"]);
    let before = world.daemon.policy();
    let unchanged = || assert!(Arc::ptr_eq(&before, &world.daemon.policy()));
    // A mistake beside a good change.
    let mut next = document(world.place.path(), &["alice", "bob"]);
    next["tenants"][1]["grants"]["fly"] = json!(true);
    let (status, problem) = world.put(&next);
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["mistakes"][0]["line"].as_u64() > Some(0), "{problem}");
    unchanged();
    // What cannot change live beside what can.
    let mut next = document(world.place.path(), &["alice"]);
    next["device"]["memory"] = json!("2GiB");
    next["tenants"][0]["grants"]["copy"] = json!(false);
    let (status, problem) = world.put(&next);
    assert_eq!(
        (status, &problem["restart"][0]["path"]),
        (StatusCode::CONFLICT, &json!("device.memory"))
    );
    unchanged();
    // A new tenant whose socket cannot be: the one before it is taken back as well.
    let mut next = document(world.place.path(), &["alice", "bob", "carol"]);
    next["tenants"][2]["attach"]["socket"] = json!("/nowhere/at/all.sock");
    let (status, problem) = world.put(&next);
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("urn:turnstile:cannot-serve"))
    );
    assert!(!world.place.path().join("bob.sock").exists());
    unchanged();
    // Only asked.
    let next = document(world.place.path(), &["alice", "bob"]);
    let (status, answer) = world.ask("PUT", "/v1/policy?dry_run=true", &next.to_string());
    assert_eq!((status, &answer["added"]), (StatusCode::OK, &json!(["bob"])));
    unchanged();
    // And done.
    assert_eq!(world.put(&next).0, StatusCode::OK);
    assert!(world.place.path().join("bob.sock").exists());
    let (_attached, _device) = world.attach("bob");
}

#[test]
fn metrics_are_prometheus_text_with_bounded_labels() {
    let world = World::new(&["alice", "bob"]);
    let (_attached, device) = world.attach("alice");
    let _session = device.open_session().unwrap();
    let (status, bytes) = world.ask_bytes("GET", "/metrics", "");
    assert_eq!(status, StatusCode::OK);
    let text = String::from_utf8(bytes).unwrap();
    let line = |want: &str| assert!(text.lines().any(|l| l == want), "no {want} in\n{text}");
    line(r#"turnstile_commands_total{tenant="alice",operation="session_open"} 1"#);
    line(r#"turnstile_tenant_attached{tenant="bob"} 0"#);
    line("# TYPE turnstile_tenant_latency_seconds histogram");
    line(r#"turnstile_resource_used{tenant="alice",resource="sessions"} 1"#);
    let bob = text.lines().filter(|l| l.contains("bob") && l.contains("operation="));
    assert_eq!(bob.count(), 0, "what did not occur is not shown");
}

#[test]
fn errors_are_problem_documents() {
    let world = World::new(&[]);
    let (status, problem) = world.ask("GET", "/v2", "");
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::NOT_FOUND, &json!("urn:turnstile:no-path"))
    );
    let (status, problem) = world.ask("DELETE", "/v1/tenants", "");
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("urn:turnstile:no-method"))
    );
    let (status, problem) = world.ask("GET", "/v1/audit/stream", "");
    assert_eq!((status, &problem["type"]), (StatusCode::NOT_FOUND, &json!("urn:turnstile:no-log")));
    let huge = " ".repeat(MAX_BODY + 1);
    let (status, problem) = world.ask("POST", "/v1/policy/check", &huge);
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("urn:turnstile:too-large"))
    );
    let (_, check) = world.ask("POST", "/v1/policy/check", "{}");
    assert_eq!(check["ok"], false);
}

mod socket {
    //! The same through the real socket, with clients that mean no good.
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn slow_and_many_clients_keep_nobody_out() {
        let world = World::new(&["alice"]);
        let path = world.place.path().join("control.sock");
        let socket = Socket { path: path.clone(), mode: 0o620, group: None };
        let server = ControlServer::start(world.daemon.clone(), &socket).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        assert!(ControlServer::start(world.daemon.clone(), &socket).is_err(), "in use");
        let mut idle: Vec<UnixStream> =
            (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
        for stream in &mut idle {
            // Half a request; those that were ended to make room cannot take it any more.
            let _ = stream.write_all(b"GET /v1/tenants HTTP/1.1\r\nhost:");
        }
        let client = client::Client::new(&path).unwrap();
        let tenants: Vec<Tenant> = client.get("/v1/tenants").unwrap();
        assert_eq!(tenants.len(), 1);
        idle[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(matches!(idle[0].read(&mut [0; 64]), Ok(0) | Err(_)), "the oldest made room");
        assert_eq!(client.text("/healthz").unwrap(), "ok\n");
        assert_eq!(client.text("/readyz").unwrap(), "ready\n");
        let refused = client.get::<Tenant>("/v1/tenants/carol").unwrap_err();
        assert!(matches!(refused, client::ClientError::Refused(p) if p.status == 404));
        drop(server);
        assert!(!path.exists());
    }
}
