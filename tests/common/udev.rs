//! A machine without udev, for as long as a test takes.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::lab::run;

/// Stops udev until it is dropped. There is one for all: no other test runs meanwhile where there are several threads.
pub(crate) struct Stopped;

/// Whether a process of it is there: its socket stays when it ends.
fn runs() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let name = |process: fs::DirEntry| fs::read_to_string(process.path().join("comm")).unwrap_or_default();
    processes.map(name).any(|name| matches!(name.trim_end(), "systemd-udevd" | "(udev-worker)"))
}

impl Stopped {
    pub(crate) fn new() -> Stopped {
        run(Command::new("udevadm").args(["control", "--exit"])).unwrap();
        for _ in 0..1200 {
            if !runs() {
                return Stopped;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // It would take the place of the next one, and end.
        panic!("udev still runs a minute after it was told to end");
    }
}

/// Demands that udev runs: a tool that waits for it would wait for ever.
pub(crate) fn answers() {
    run(Command::new("udevadm").args(["control", "--ping", "--timeout=60"])).unwrap();
}

impl Drop for Stopped {
    fn drop(&mut self) {
        run(Command::new("/usr/lib/systemd/systemd-udevd").arg("--daemon")).unwrap();
        answers();
        run(Command::new("udevadm").args(["trigger", "--subsystem-match=block", "--action=add"])).unwrap();
        run(Command::new("udevadm").args(["settle", "--timeout=60"])).unwrap();
    }
}
