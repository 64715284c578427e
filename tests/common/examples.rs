//! The examples, as processes.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub(crate) const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sample/sample.tar.zst");

/// Cargo builds the examples beside the tests.
pub(crate) fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path = std::env::var_os("REROOT_EXAMPLES")
        .map(PathBuf::from)
        .unwrap_or_else(|| tests.parent().unwrap().parent().unwrap().join("examples"))
        .join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

#[track_caller]
/// Returns what it printed, if that is JSON.
pub(crate) fn assert_status(output: &Output, status: i32) -> serde_json::Value {
    let shown = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{shown}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}
