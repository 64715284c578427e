//! What the lab gives to tests, or a machine that has the same: a ZFS pool.

#![allow(dead_code, unused_macros, unused_imports, reason = "each program uses a part of it")]

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a test needs, or the end of it: with a reason, and as a failure in the lab, where everything is there.
macro_rules! need {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => {
                assert!(std::env::var_os("REROOT_LAB").is_none(), "cannot run in the lab: {why}");
                eprintln!("not tested: {why}");
                return;
            }
        }
    };
}
pub(crate) use need;

/// Why nothing is tested where there is neither the lab nor a pool.
pub(crate) const NO_POOL: &str = "there is no ZFS pool: run tests/lab/run zfs, or name one in REROOT_TEST_ZPOOL";

/// The lab's pool, which stays until its guest ends.
const POOL: &str = "reroot-lab";

/// A dataset in which tests may do as they like: one of the lab's disk, or the pool or dataset that `REROOT_TEST_ZPOOL` names.
pub(crate) fn zpool() -> Result<&'static str, String> {
    static MADE: OnceLock<Result<String, String>> = OnceLock::new();
    MADE.get_or_init(make).as_deref().map_err(Clone::clone)
}

fn make() -> Result<String, String> {
    if let Ok(named) = std::env::var("REROOT_TEST_ZPOOL") {
        return Ok(named);
    }
    let disk = std::env::var("REROOT_TEST_DISK").map_err(|_| NO_POOL)?;
    // Of an earlier program in the same guest.
    if run(Command::new("zpool").args(["list", POOL])).is_err() {
        run(Command::new("zpool").args(["create", "-f", "-m", "none", POOL, &disk]))?;
    }
    Ok(POOL.to_owned())
}

/// A dataset of one test's own, gone with all that is in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Dataset(pub(crate) String);

impl Dataset {
    pub(crate) fn new() -> Result<Dataset, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dataset = Dataset(format!("{}/test-{}-{number}", zpool()?, std::process::id()));
        zfs(&["create", "-o", "mountpoint=none", &dataset.0])?;
        Ok(dataset)
    }
}

impl Drop for Dataset {
    fn drop(&mut self) {
        for _ in 0..20 {
            match zfs(&["destroy", "-R", &self.0]) {
                Err(why) if why.contains("busy") => std::thread::sleep(std::time::Duration::from_millis(100)),
                _ => return,
            }
        }
    }
}

/// Runs the command `zfs`; returns what it said.
pub(crate) fn zfs(words: &[&str]) -> Result<String, String> {
    run(Command::new("zfs").args(words))
}

/// Runs a command, which may take minutes on a machine that has much else to do. One that hangs is a failure that names it, also where it cannot be
/// ended; and what it has started may live on with what it writes to.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    const PATIENCE: Duration = Duration::from_secs(300);
    const DYING: Duration = Duration::from_secs(5);
    let failed = |error: std::io::Error| error.to_string();
    let mut said = [tempfile::tempfile().map_err(failed)?, tempfile::tempfile().map_err(failed)?];
    let [out, err] = [said[0].try_clone().map_err(failed)?, said[1].try_clone().map_err(failed)?];
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let (begun, mut pause, mut killed) = (Instant::now(), Duration::from_millis(1), false);
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break Some(status),
            None if begun.elapsed() > PATIENCE + DYING => break None,
            None if begun.elapsed() > PATIENCE && !killed => {
                killed = true;
                let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
            }
            None => {}
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let mut read = |file: usize| {
        let mut bytes = Vec::new();
        said[file].rewind().and_then(|()| said[file].read_to_end(&mut bytes)).map_err(failed)?;
        Ok::<_, String>(String::from_utf8_lossy(&bytes).into_owned())
    };
    match status {
        Some(status) if status.success() => read(0),
        Some(status) if !killed => Err(format!("{name}: {status}: {}", read(1)?.trim())),
        _ => Err(format!("{name}: not done after {PATIENCE:?}: {}", read(1)?.trim())),
    }
}
