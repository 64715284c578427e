//! All of this again on file systems of other kinds: what is open, replaced and renamed is each one's own affair.

use std::process::Command;

use crate::loopfs::{Kind, LoopFs};

/// Runs the tests of this program in a process of its own whose temporary folder is on such a file system.
fn on(kind: Kind) {
    let place = match LoopFs::new(kind, 512) {
        Ok(place) => place,
        Err(why) => {
            let required = std::env::var_os("REROOT_REQUIRE").is_some_and(|value| value == "1");
            assert!(!required, "cannot test on {}: {why}", kind.name());
            eprintln!("not tested, hostile archives on {}: {why}", kind.name());
            return;
        }
    };
    let mut command = Command::new("timeout");
    command.arg("500").arg(std::env::current_exe().unwrap()).args(["--skip", "again::", "--skip", "costs::", "--test-threads=2"]);
    let output = command.env("TMPDIR", place.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok()).unwrap_or(0);
    assert!(output.status.success() && passed > 40, "on {}: {text}{}", kind.name(), String::from_utf8_lossy(&output.stderr));
    println!("{}: {passed} tests", kind.name());
}

#[test]
fn on_ext4() {
    on(Kind::Ext4);
}

#[test]
fn on_xfs() {
    on(Kind::Xfs);
}

#[test]
fn on_btrfs() {
    on(Kind::Btrfs);
}

#[test]
fn on_tmpfs() {
    on(Kind::Tmpfs);
}
