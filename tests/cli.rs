//! What scripts rely on: the examples' exit statuses, their JSON, and what a signal leaves behind.

#![cfg(all(feature = "dir", feature = "tar", feature = "gzip", feature = "zstd"))]

#[path = "common/examples.rs"]
mod examples;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use examples::{SAMPLE, assert_status, example};

struct Pool(tempfile::TempDir);

impl Pool {
    fn new() -> Self {
        Pool(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("containers/c1")
    }

    fn volume(&self) -> String {
        fs::create_dir_all(self.0.path().join("containers")).unwrap();
        format!("dir:{}", self.root().display())
    }

    fn rebuild(&self, arguments: &[&str]) -> Output {
        example("rebuild").args(arguments).arg(self.volume()).output().unwrap()
    }

    /// The old root that a failure must leave.
    fn with_old_root() -> Self {
        let pool = Pool::new();
        pool.volume();
        fs::create_dir(pool.root()).unwrap();
        fs::write(pool.root().join("old"), "old").unwrap();
        pool
    }

    #[track_caller]
    fn assert_old(&self) {
        assert_eq!(fs::read_to_string(self.root().join("old")).unwrap(), "old");
        self.assert_nothing_else();
    }

    #[track_caller]
    fn assert_nothing_else(&self) {
        let names: Vec<_> =
            fs::read_dir(self.0.path().join("containers")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["c1"]);
    }
}

#[test]
fn a_rebuild_and_its_original_image() {
    let pool = Pool::with_old_root();
    let report = assert_status(&pool.rebuild(&["--json", SAMPLE]), 0);
    assert_eq!(report["old_root"], "removed");
    assert!(report["entries"].as_u64().unwrap() > 100);
    let digest = report["image"]["sha256"].as_str().unwrap().to_owned();
    assert!(pool.root().join("etc/os-release").exists());
    assert!(!pool.root().join("old").exists());
    pool.assert_nothing_else();

    fs::remove_dir_all(pool.root().join("etc")).unwrap();
    let report = assert_status(&pool.rebuild(&["--json"]), 0);
    assert_eq!(report["image"]["sha256"], digest);
    assert!(pool.root().join("etc/os-release").exists());

    let shown = example("inspect").args(["--json", &pool.volume()]).output().unwrap();
    let inspection = assert_status(&shown, 0);
    assert_eq!(inspection["image"]["sha256"], digest);
    assert_eq!(inspection["names"]["live"], true);

    assert_status(&pool.rebuild(&["--empty", "--quiet"]), 0);
    assert_eq!(fs::read_dir(pool.root()).unwrap().count(), 0);
    assert_status(&pool.rebuild(&["--quiet"]), 0);
    assert_eq!(fs::read_dir(pool.root()).unwrap().count(), 0, "empty again, as it was recorded");
}

#[test]
fn standard_input_with_its_digest() {
    let send = |pool: &Pool, digest: &str| {
        let mut command = example("rebuild");
        command.args(["--json", "-", &pool.volume(), "--sha256", digest]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&fs::read(SAMPLE).unwrap()).unwrap();
        child.wait_with_output().unwrap()
    };
    let pool = Pool::with_old_root();
    let error = assert_status(&send(&pool, &"0".repeat(64)), 1);
    assert_eq!((&error["kind"], &error["outcome"]), (&"digest-mismatch".into(), &"rolled-back".into()));
    pool.assert_old();
    let digest = error["context"]["found"].as_str().unwrap();
    assert_status(&send(&pool, digest), 0);
    pool.assert_nothing_else();
    // What came through a pipe cannot be read again.
    assert_status(&pool.rebuild(&[]), 3);
}

#[test]
fn failures_leave_the_old_root_and_say_so() {
    let pool = Pool::with_old_root();
    let image = pool.0.path().join("image");
    let sample = fs::read(SAMPLE).unwrap();
    for (bytes, status) in [(&b""[..], 1), (b"no image at all", 1), (&sample[..sample.len() / 2], 1), (b"QFI\xfb", 3)] {
        fs::write(&image, bytes).unwrap();
        let error = assert_status(&pool.rebuild(&["--json", image.to_str().unwrap()]), status);
        assert!(error["message"].is_string() && error["operation"].is_string(), "{error}");
        pool.assert_old();
    }
    fs::write(&image, &sample[..sample.len() / 2]).unwrap();
    let error = assert_status(&pool.rebuild(&["--json", "--strategy", "in-place", image.to_str().unwrap()]), 1);
    assert_eq!(error["outcome"], "untouched", "in place, a bad image is found out before anything is touched");
    pool.assert_old();
    assert_status(&pool.rebuild(&[SAMPLE, "--strip", "no/such/folder"]), 1);
    pool.assert_old();
    assert_status(&pool.rebuild(&["/no/such/image"]), 1);
    pool.assert_old();
}

#[test]
fn unpack_says_what_is_left_in_the_directory() {
    let pool = Pool::with_old_root();
    let image = pool.0.path().join("image");
    let sample = fs::read(SAMPLE).unwrap();
    let unpack = |bytes: &[u8], status: i32| {
        fs::write(&image, bytes).unwrap();
        let output = example("unpack").arg(&image).arg(pool.root()).output().unwrap();
        assert_status(&output, status);
        String::from_utf8(output.stderr).unwrap()
    };
    for (bytes, status) in [(&b"no image at all"[..], 1), (b"QFI\xfb", 3)] {
        assert!(unpack(bytes, status).contains("state:  nothing was changed"));
        assert_eq!(fs::read_dir(pool.root()).unwrap().count(), 1);
    }
    let shown = unpack(&sample[..sample.len() / 2], 1);
    assert!(shown.contains("state:  the directory holds what was unpacked until then"), "{shown}");
    // An ordinary user is warned of owners, and no more.
    let shown = unpack(&sample, 0);
    assert!(shown.is_empty() || shown.starts_with("warning: owner of "), "{shown}");
    let help = example("unpack").arg("--help").output().unwrap();
    assert!(String::from_utf8(help.stdout).unwrap().contains("3 refused"));
}

#[test]
fn refusals_and_mistakes_have_statuses_of_their_own() {
    let pool = Pool::with_old_root();
    let snapshot = pool.0.path().join("containers-snapshots/c1/monday");
    fs::create_dir_all(&snapshot).unwrap();
    let error = assert_status(&pool.rebuild(&["--json", SAMPLE]), 3);
    assert_eq!(error["kind"], "has-snapshots");
    assert!(error["message"].as_str().unwrap().contains("monday"));
    pool.assert_old();
    let plan = assert_status(&pool.rebuild(&["--json", "--dry-run", "--snapshots", "purge", SAMPLE]), 0);
    assert_eq!(plan["snapshots"][0]["name"], "monday");
    assert!(snapshot.exists());
    pool.assert_old();
    assert_status(&pool.rebuild(&["--snapshots", "keep", SAMPLE]), 0);
    assert!(snapshot.exists());
    assert_status(&pool.rebuild(&["--snapshots", "purge", SAMPLE]), 0);
    assert!(!snapshot.exists());

    assert_status(&pool.rebuild(&["--size", "10GiB", SAMPLE]), 3);
    for mistake in
        [&["--size", "much"][..], &["--sha256", "12"], &["--snapshots", "perhaps"], &["--empty", SAMPLE], &["--nonsense"]]
    {
        assert_status(&pool.rebuild(mistake), 2);
    }
    assert_status(&example("rebuild").args([SAMPLE, "nfs:host/c1"]).output().unwrap(), 2);
    assert_status(&example("rebuild").args([SAMPLE, "/no/scheme"]).output().unwrap(), 2);
    assert_status(&example("rebuild").output().unwrap(), 2);
}

#[test]
fn a_process_in_the_volume_is_named() {
    let pool = Pool::with_old_root();
    let mut sleeper = Command::new("sleep").arg("60").current_dir(pool.root()).spawn().unwrap();
    let error = assert_status(&pool.rebuild(&["--json", SAMPLE]), 3);
    let pid = sleeper.id().to_string();
    kill(Pid::from_raw(sleeper.id() as i32), Signal::SIGKILL).unwrap();
    sleeper.wait().unwrap();
    assert_eq!(error["kind"], "busy");
    assert!(error["message"].as_str().unwrap().contains(&pid), "{error}");
    pool.assert_old();
}

#[test]
fn recover_says_what_it_did() {
    let pool = Pool::with_old_root();
    let recover = |arguments: &[&str]| example("recover").args(arguments).arg(pool.volume()).output().unwrap();
    let recovery = assert_status(&recover(&["--json"]), 0);
    assert_eq!(recovery["actions"].as_array().unwrap().len(), 0);
    fs::create_dir(sibling(&pool.root(), ".reroot-staged")).unwrap();
    assert_eq!(assert_status(&recover(&["--json"]), 0)["actions"][0], "discard-staged");
    pool.assert_old();
    fs::rename(pool.root(), sibling(&pool.root(), ".reroot-staged")).unwrap();
    assert_eq!(assert_status(&recover(&["--json"]), 4)["actions"][0], "no-root");
    assert_status(&pool.rebuild(&[SAMPLE]), 0);
    pool.assert_nothing_else();
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Sends half of the sample, waits until the new root is being filled, and then a signal: no byte will ever follow.
fn interrupted_by(signal: Signal) {
    let pool = Pool::with_old_root();
    let mut command = example("rebuild");
    command.args(["--json", "-", &pool.volume()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sample = fs::read(SAMPLE).unwrap();
    stdin.write_all(&sample[..sample.len() / 2]).unwrap();
    let staged = sibling(&pool.root(), ".reroot-staged");
    let begun = Instant::now();
    while !staged.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing was staged");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let error = assert_status(&output, 1);
    assert_eq!((&error["kind"], &error["outcome"]), (&"cancelled".into(), &"rolled-back".into()));
    pool.assert_old();
}

#[test]
fn ctrl_c_leaves_the_old_root_and_nothing_else() {
    interrupted_by(Signal::SIGINT);
}

#[test]
fn sigterm_leaves_the_old_root_and_nothing_else() {
    interrupted_by(Signal::SIGTERM);
}

#[test]
fn the_manager_keeps_everything_but_the_root() {
    let pool = tempfile::tempdir().unwrap();
    let manager = |arguments: &[&str]| {
        let output = example("manager").arg("--pool").arg(pool.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    manager(&["create", "web", SAMPLE]);
    manager(&["set", "web", "limits.memory", "1GiB"]);
    manager(&["snapshot", "web", "before"]);
    fs::write(pool.path().join("containers/web/junk"), "x").unwrap();
    manager(&["rebuild", "web"]);
    assert!(!pool.path().join("containers/web/junk").exists());
    assert!(pool.path().join("containers-snapshots/web/before/etc/os-release").exists());
    assert!(fs::read_to_string(pool.path().join("instances/web.json")).unwrap().contains("1GiB"));
    assert!(manager(&["list"]).starts_with("web\t"));
    manager(&["delete", "web"]);
    assert_eq!(fs::read_dir(pool.path().join("containers")).unwrap().count(), 0);
}

#[test]
fn mistakes_on_the_command_line_are_json_too() {
    let pool = Pool::with_old_root();
    for arguments in [&["--json", "--no-such-option"][..], &["--json", "--empty", "--sha256", "0"], &["--json", "--size", "much"]] {
        let error = assert_status(&pool.rebuild(arguments), 2);
        assert_eq!(error["kind"], "invalid-input", "{arguments:?}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let output = example("inspect").args(["--json", "--nonsense"]).output().unwrap();
    assert_eq!(assert_status(&output, 2)["kind"], "invalid-input");
    pool.assert_old();
}

#[test]
fn whoever_looks_during_a_rebuild_is_told_so() {
    use reroot::RebuildableVolume;
    let pool = Pool::with_old_root();
    let volume = reroot::dir::DirVolume::open(pool.root()).unwrap();
    let inspect = || example("inspect").args(["--json", &pool.volume()]).output().unwrap();
    let lock = volume.lock(&reroot::Wait::new(Duration::ZERO, reroot::CancelToken::new())).unwrap();
    let inspection = assert_status(&inspect(), 0);
    assert!(inspection["at_work"].as_str().unwrap().contains(&std::process::id().to_string()), "{inspection}");
    drop(lock);
    assert!(assert_status(&inspect(), 0)["at_work"].is_null());
    pool.assert_old();
}
