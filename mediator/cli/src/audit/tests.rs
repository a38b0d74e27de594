use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use turnstile_policy::{Fsync, OnFull, Rate};

use super::chain::Chain;
use super::event::TenantEvent;
use super::file::{LogFile, Rotation, Sink};
use super::verify::{Report, verify};
use super::*;

const OPTIONS: Options = Options {
    on_full: OnFull::Stop,
    fsync: Fsync::Never,
    channel: 4096,
    rotate_bytes: None,
    rotate_after: None,
    keep: 0,
};
const ROTATION: Rotation = Rotation { bytes: u64::MAX, after: None, keep: 0 };

fn event(n: u64) -> Event {
    TenantEvent::Ended { how: format!("reason {n}"), passed: false }.into()
}

/// A log of `n` tenant records between `opened` and `closed`, as bytes.
fn log(n: u64) -> Vec<u8> {
    let mut chain = Chain::default();
    let mut bytes = Vec::new();
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
    let opened = LogEvent::Opened { version: "1".into(), continues: None };
    chain = chain.seal(time, None, &opened.into(), &mut bytes);
    for i in 0..n {
        chain = chain.seal(time, Some("ten\"ant\n"), &event(i), &mut bytes);
    }
    chain.seal(time, None, &LogEvent::Closed { records: n + 2 }.into(), &mut bytes);
    bytes
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|&b| b == b'\n').collect()
}

fn check(bytes: &[u8]) -> Report {
    verify(bytes).unwrap()
}

#[test]
fn a_line_is_as_documented() {
    let bytes = log(1);
    let second = lines(&bytes)[1];
    let value: serde_json::Value = serde_json::from_slice(second).unwrap();
    assert_eq!(value["seq"], 2);
    assert_eq!(value["time"], "2023-11-14T22:13:20.000001Z");
    assert_eq!(value["tenant"], "ten\"ant\n");
    assert_eq!(value["event"], "ended");
    assert_eq!(value["how"], "reason 0");
    // The hash again, by the recipe of the documentation alone.
    let text = std::str::from_utf8(second).unwrap().trim_end();
    let (body, seal) = text.rsplit_once(",\"hash\":\"").unwrap();
    let hash = Hash::of(format!("{body}}}").as_bytes());
    assert_eq!(seal, format!("{hash}\"}}"));
    assert!(check(&bytes).ok);
    assert_eq!(check(&bytes).notes, []);
}

#[test]
fn a_change_of_any_bit_of_any_byte_is_found() {
    let bytes = log(3);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let report = check(&bad);
            assert!(!report.ok, "byte {at} bit {bit}");
            let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() as u64 + 1;
            assert!(report.problems[0].line <= line + 1, "{:?} for line {line}", report.problems);
        }
    }
}

#[test]
fn deleting_repeating_and_moving_lines_is_found_and_named() {
    let bytes = log(6);
    let all = lines(&bytes);
    let n = all.len();
    for i in 0..n {
        let mut less = all.clone();
        less.remove(i);
        let report = check(&less.concat());
        if i + 1 < n {
            assert_eq!(report.problem_count, 1, "{:?}", report.problems);
            assert_eq!(report.problems[0].line, i as u64 + 1);
        } else {
            // The chain cannot show a cut end; the missing `closed` record is noted instead.
            assert!(report.ok && report.notes.len() == 1);
        }
        let mut twice = all.clone();
        twice.insert(i, all[i]);
        assert!(!check(&twice.concat()).ok, "line {i} repeated");
        for j in 0..i {
            let mut moved = all.clone();
            moved.swap(i, j);
            assert!(!check(&moved.concat()).ok, "lines {i} and {j} swapped");
        }
    }
    let report = check(&[all[0], all[3], all[4]].concat());
    assert_eq!(report.problems[0].what, "is record 4, expected 2: 2 missing before it");
    assert_eq!(report.problem_count, 1, "one problem for one gap");
}

#[test]
fn a_line_of_another_chain_does_not_fit() {
    let ours = log(2);
    let time = SystemTime::UNIX_EPOCH;
    let mut forged = Vec::new();
    let chain = Chain { seq: 1, head: Hash([7; 32]) };
    chain.seal(time, Some("x"), &event(0), &mut forged);
    let all = lines(&ours);
    let report = check(&[all[0], &forged, all[2]].concat());
    assert_eq!(report.problems[0].line, 2);
    assert!(report.problems[0].what.contains("does not continue"), "{:?}", report.problems);
}

fn open(path: &std::path::Path, options: Options) -> AuditLog {
    AuditLog::open(path, options, Box::new(|_| {})).unwrap()
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    (dir, path)
}

#[test]
fn every_cut_of_the_end_is_mended_and_accounted_for() {
    let bytes = log(2);
    let last = bytes.len() - lines(&bytes).last().unwrap().len();
    let (_dir, path) = scratch();
    for cut in last + 1..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let summary = open(&path, OPTIONS).close();
        let report = check(&fs::read(&path).unwrap());
        assert!(report.ok, "cut at {cut}: {:?}", report.problems);
        assert_eq!(report.head, summary.head);
        // All but the newline there: nothing was lost. Otherwise a record says what was.
        let mended = cut + 1 < bytes.len();
        assert_eq!(report.notes.len(), usize::from(mended), "cut at {cut}: {:?}", report.notes);
        assert_eq!(summary.records, 2 + u64::from(mended));
    }
    // Before it is opened again, the verifier calls a torn end by its name.
    let report = check(&bytes[..bytes.len() - 5]);
    assert!(!report.ok && report.problems[0].what.contains("not finished"));
}

#[test]
fn a_damaged_log_is_not_continued() {
    let (_dir, path) = scratch();
    let mut bytes = log(2);
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = AuditLog::open(&path, OPTIONS, Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, AuditError::Damaged { line: 4, .. }), "{error}");
    // Nor when a torn line after it would hide it.
    bytes.extend_from_slice(b"{\"seq\":5");
    fs::write(&path, &bytes).unwrap();
    let error = AuditLog::open(&path, OPTIONS, Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, AuditError::Damaged { line: 4, .. }), "{error}");
}

#[test]
fn two_writers_and_things_that_are_no_files_are_refused() {
    let (dir, path) = scratch();
    let first = open(&path, OPTIONS);
    let error = AuditLog::open(&path, OPTIONS, Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, AuditError::InUse { .. }), "{error}");
    let _ = first.close();
    let error = AuditLog::open(dir.path(), OPTIONS, Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, AuditError::Open { .. }), "{error}");
    let null = std::path::Path::new("/dev/null");
    let error = AuditLog::open(null, OPTIONS, Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, AuditError::NotAFile { .. }), "{error}");
}

#[test]
fn rotated_files_form_one_chain_and_the_oldest_go() {
    let (dir, path) = scratch();
    let options = Options { rotate_bytes: Some(2000), keep: 3, ..OPTIONS };
    let log = open(&path, options);
    let handle = log.handle();
    for i in 0..100 {
        handle.record(None, event(i));
    }
    let summary = log.close();
    assert_eq!((summary.lost, &summary.disk_error), (0, &None));
    let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 4, "{files:?}");
    files.rotate_left(1); // FILE itself sorts first and is the newest.
    let mut head = None;
    for file in files {
        let report = verify::verify_file(&file).unwrap();
        assert!(report.ok, "{file:?}: {:?}", report.problems);
        assert!(head.is_none_or(|head| head == report.first_prev), "{file:?}");
        head = Some(report.head);
    }
    assert_eq!(head, Some(summary.head));
    // A new run continues the chain where the old one ended.
    let again = open(&path, options).close();
    let report = verify::verify_file(&path).unwrap();
    assert!(report.ok && report.head == again.head && report.last_seq > 100);
}

#[test]
fn a_flood_is_counted_not_written() {
    let (_dir, path) = scratch();
    let log = open(&path, OPTIONS);
    let mut flooder = log.handle().tenant("hostile".into(), Rate { per_second: 10, burst: 20 });
    let mut quiet = log.handle().tenant("quiet".into(), Rate { per_second: 1, burst: 1 });
    let mut made = 0;
    for i in 0..1_000_000_u64 {
        // One second of flood, then a record that passes again.
        flooder.record(i * 1000, || {
            made += 1;
            event(i)
        });
    }
    quiet.record(0, || event(0));
    assert_eq!(made, 20 + 9, "burst, and one more every 100 ms");
    flooder.record(2_000_000_000, || event(0));
    flooder.flush();
    let summary = log.close();
    assert_eq!(summary.lost, 0);
    let text = fs::read_to_string(&path).unwrap();
    let values: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let dropped: u64 = values
        .iter()
        .filter(|v| v["event"] == "dropped")
        .map(|v| v["count"].as_u64().unwrap())
        .sum();
    assert_eq!(dropped, 1_000_000 - 29);
    assert!(values.iter().any(|v| v["tenant"] == "quiet"));
    assert!(values.len() < 70, "{}", values.len());
    assert!(check(text.as_bytes()).ok);
}

/// A disk with room for so many bytes, given back by the test.
#[derive(Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Arc<AtomicUsize>,
}

impl Sink for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::SeqCst);
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let n = room.min(bytes.len());
        self.room.fetch_sub(n, Ordering::SeqCst);
        self.bytes.lock().unwrap().extend_from_slice(&bytes[..n]);
        Ok(n)
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_stops_the_daemon_until_there_is_room_or_counts() {
    for on_full in [OnFull::Stop, OnFull::Count] {
        let disk = Disk::default();
        disk.room.store(1000, Ordering::SeqCst);
        let mut file =
            LogFile::over("x".as_ref(), Box::new(disk.clone()), ROTATION, Chain::default());
        let opened = LogEvent::Opened { version: "1".into(), continues: None };
        file.append(SystemTime::now(), None, &opened.into()).unwrap();
        let (stopped, was_stopped) = crossbeam_channel::unbounded();
        let options = Options { on_full, ..OPTIONS };
        let on_stop = Box::new(move |on| stopped.send(on).unwrap());
        let log = AuditLog::start(file, options, on_stop).unwrap();
        let handle = log.handle();
        for i in 0..20 {
            handle.record(None, event(i));
        }
        let wait = Duration::from_secs(10);
        let enough = Instant::now() + wait;
        while disk.room.load(Ordering::SeqCst) > 0 && Instant::now() < enough {
            std::thread::yield_now();
        }
        if on_full == OnFull::Stop {
            assert_eq!(was_stopped.recv_timeout(wait), Ok(true));
            assert!(handle.stopped());
        }
        disk.room.store(usize::MAX / 2, Ordering::SeqCst);
        if on_full == OnFull::Stop {
            // With nothing more sent: the writer tries the disk again by itself.
            assert_eq!(was_stopped.recv_timeout(wait), Ok(false));
        }
        assert!(!handle.stopped());
        handle.record(None, event(99));
        let summary = log.close();
        assert_eq!(was_stopped.try_iter().count(), 0);
        assert!(summary.lost > 0 && summary.disk_error.is_some());
        let bytes = disk.bytes.lock().unwrap().clone();
        let report = check(&bytes);
        assert!(report.ok, "{:?}", report.problems);
        let text = String::from_utf8(bytes).unwrap();
        let lost: u64 = text
            .lines()
            .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
            .filter(|v| v["event"] == "lost")
            .map(|v| v["count"].as_u64().unwrap())
            .sum();
        assert_eq!(lost, summary.lost, "{text}");
        assert!(text.contains("reason 99"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However little the disk takes at a time and whenever it fails, what is on it verifies.
    #[test]
    fn whatever_the_disk_takes_verifies(rooms in prop::collection::vec(0_usize..400, 1..40)) {
        let disk = Disk::default();
        let mut file = LogFile::over("x".as_ref(), Box::new(disk.clone()), ROTATION, Chain::default());
        disk.room.store(10_000, Ordering::SeqCst);
        let opened = LogEvent::Opened { version: "1".into(), continues: None };
        file.append(SystemTime::now(), None, &opened.into()).unwrap();
        for (i, room) in rooms.into_iter().enumerate() {
            disk.room.store(room, Ordering::SeqCst);
            let _ = file.append(SystemTime::now(), Some("t"), &event(i as u64));
        }
        disk.room.store(usize::MAX / 2, Ordering::SeqCst);
        file.append(SystemTime::now(), None, &event(0)).unwrap();
        file.append(SystemTime::now(), None, &LogEvent::Closed { records: 0 }.into()).unwrap();
        let report = check(&disk.bytes.lock().unwrap());
        prop_assert!(report.ok, "{:?}", report.problems);
        prop_assert_eq!(report.head, file.chain().head);
    }

    /// The verifier says something about any bytes, and never that a random log is good.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 1..2000)) {
        prop_assert!(!check(&bytes).ok);
    }
}

#[test]
fn an_endless_line_takes_bounded_memory() {
    let mut bytes = vec![b'x'; 3 * MAX_LINE];
    bytes.push(b'\n');
    bytes.extend(log(1));
    let report = check(&bytes);
    assert_eq!(report.problems[0].line, 1);
    assert!(report.problems[0].what.contains("longer"));
    assert!(check(b"").ok, "an empty file is an empty log");
}

#[test]
fn a_subscriber_sees_the_lines_and_is_told_of_those_it_missed() {
    let (_dir, path) = scratch();
    let log = open(&path, OPTIONS);
    let mut all = log.handle().subscribe(1000).unwrap();
    let mut slow = log.handle().subscribe(10).unwrap();
    for i in 0..100 {
        log.handle().record(None, event(i));
    }
    let summary = log.close();
    let text = fs::read_to_string(&path).unwrap();
    let mut seen = Vec::new();
    while let Some(line) = all.blocking_next() {
        seen.push(line.to_string());
    }
    // `opened` was written before anyone could listen.
    assert_eq!(seen, text.lines().skip(1).collect::<Vec<_>>());
    assert_eq!((seen.len() as u64, all.take_dropped()), (summary.records - 1, 0));
    for line in text.lines().skip(1).take(10) {
        assert_eq!(slow.try_next().unwrap().as_deref(), Some(line));
    }
    assert_eq!(slow.try_next(), Err(Closed));
    assert_eq!((slow.take_dropped(), slow.take_dropped()), (summary.records - 11, 0));
}

#[test]
fn subscribers_are_bounded_and_go_when_they_are_dropped() {
    let (_dir, path) = scratch();
    let log = open(&path, OPTIONS);
    let subscribe = || log.handle().subscribe(1);
    let many: Vec<_> = (0..MAX_SUBSCRIBERS).map(|_| subscribe().unwrap()).collect();
    assert_eq!(subscribe().unwrap_err(), SubscribeError::TooMany);
    drop(many);
    assert_eq!(subscribe().unwrap().try_next(), Ok(None));
    assert_eq!(AuditHandle::none().subscribe(1).unwrap_err(), SubscribeError::NoLog);
    let handle = log.handle();
    assert_eq!(log.close().lost, 0);
    assert_eq!(handle.subscribe(1).unwrap_err(), SubscribeError::NoLog);
}

/// The files of a log, oldest first.
fn files(path: &std::path::Path) -> Vec<PathBuf> {
    let mut files = verify::files_before(path);
    files.push(path.into());
    files
}

/// Every file holds, and each continues the one before. Returns the head and the records in all.
fn check_all(path: &std::path::Path) -> (Hash, u64) {
    let (mut head, mut records) = (None, 0);
    for file in files(path) {
        let report = verify::verify_file(&file).unwrap();
        assert!(report.ok, "{file:?}: {:?}", report.problems);
        assert!(head.is_none_or(|head| head == report.first_prev), "{file:?}");
        head = Some(report.head);
        records += report.records;
    }
    (head.unwrap(), records)
}

#[test]
fn a_file_is_rotated_when_it_is_old() {
    let (_dir, path) = scratch();
    let rotation = Rotation { after: Some(Duration::from_secs(60)), ..ROTATION };
    let mut file = LogFile::open(&path, rotation).unwrap();
    let now = SystemTime::now();
    file.rotate_if_due(now + Duration::from_secs(59)).unwrap();
    assert_eq!(files(&path).len(), 1);
    file.rotate_if_due(now + Duration::from_secs(61)).unwrap();
    file.rotate_if_due(now + Duration::from_secs(62)).unwrap();
    assert_eq!(files(&path).len(), 2);
    drop(file);
    // A restart does not make the file young again: its first record is from two minutes ahead.
    let mut file = LogFile::open(&path, rotation).unwrap();
    file.rotate_if_due(now + Duration::from_secs(122)).unwrap();
    assert_eq!(files(&path).len(), 3);
    check_all(&path);
}

#[test]
fn the_chain_goes_on_whenever_the_machine_dies_in_a_rotation() {
    let options = Options { rotate_bytes: Some(2000), ..OPTIONS };
    let fill = |path: &std::path::Path| {
        let log = open(path, options);
        (0..20).for_each(|i| log.handle().record(None, event(i)));
        log.close()
    };
    // Before the new file took the name: the old one has both names, the new one lies beside it.
    let (_dir, path) = scratch();
    fill(&path);
    let last = fs::read(&path).unwrap();
    let both = path.with_file_name("audit.jsonl.000000009999");
    fs::hard_link(&path, &both).unwrap();
    fs::write(path.with_file_name("audit.jsonl.next"), b"{\"half").unwrap();
    fill(&path);
    assert!(!both.exists() && !last.is_empty());
    check_all(&path);
    // The log's own file is gone or empty, as no crash leaves it: it goes on, and says so.
    for remove in [true, false] {
        let before = check_all(&path).1;
        let lost = verify::verify_file(&path).unwrap().records;
        if remove {
            fs::remove_file(&path).unwrap();
        } else {
            fs::write(&path, b"").unwrap();
        }
        let log = open(&path, OPTIONS);
        let summary = log.close();
        assert_eq!(check_all(&path), (summary.head, before - lost + 3));
        let report = verify::verify_file(&path).unwrap();
        assert!(report.notes.iter().any(|note| note.what.contains("missing or empty")));
    }
}

/// Not a test of its own: what the next one kills.
#[test]
#[ignore = "the child of the test below"]
fn child_that_writes_until_it_is_killed() {
    let path = PathBuf::from(std::env::var_os("TURNSTILE_TEST_LOG").unwrap());
    let options = Options { rotate_bytes: Some(20_000), keep: 1000, ..OPTIONS };
    let log = open(&path, options);
    for i in 0.. {
        log.handle().record(None, event(i));
    }
}

#[test]
fn a_killed_daemon_leaves_a_chain_that_goes_on() {
    let (_dir, path) = scratch();
    let mut total = 0;
    for _ in 0..10 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::tests::child_that_writes_until_it_is_killed", "--ignored"])
            .env("TURNSTILE_TEST_LOG", &path)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Some rotations later, wherever it stands then.
        let enough = Instant::now() + Duration::from_secs(30);
        let before = files(&path).len();
        while files(&path).len() < before + 2 && Instant::now() < enough {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let summary = open(&path, OPTIONS).close();
        let (head, records) = check_all(&path);
        assert_eq!(head, summary.head);
        assert!(records as usize > total, "nothing was written");
        total = records as usize;
    }
}

/// A real disk that is full: a tmpfs of 64 KiB.
#[test]
fn a_full_tmpfs_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        std::process::Command::new(args[0])
            .args(&args[1..])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "none"]) {
        eprintln!("skipped: a tmpfs cannot be mounted here; it takes root");
        return;
    }
    let path = dir.path().join("audit.jsonl");
    let log = open(&path, Options { on_full: OnFull::Count, ..OPTIONS });
    for i in 0..2000 {
        log.handle().record(None, event(i));
    }
    let summary = log.close();
    assert!(summary.lost > 0 && summary.disk_error.is_some(), "{summary:?}");
    // There is room again: what is torn is accounted for, and the chain goes on.
    assert!(mount(&["mount", "-o", "remount,size=1m", "none"]));
    let again = open(&path, OPTIONS).close();
    let report = verify::verify_file(&path).unwrap();
    let unmounted = mount(&["umount"]);
    assert!(report.ok && report.head == again.head, "{:?}", report.problems);
    assert!(unmounted);
}
