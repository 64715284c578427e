//! One run of one command, in a process of its own: what its children used is then what the command used, and the peak of a child does not
//! begin with the memory of the one that starts it.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

/// What a run took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Seconds, with the syncing where there was one.
    pub(crate) wall: f64,
    /// Seconds of processor time in user mode, of all processes.
    pub(crate) user: f64,
    /// The same in the kernel, on their behalf.
    pub(crate) system: f64,
    /// KiB of memory of the largest process at its peak.
    pub(crate) peak: u64,
}

impl Figures {
    /// Seconds of processor time.
    pub(crate) fn processor(&self) -> f64 {
        self.user + self.system
    }
}

/// A command as it is measured.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) words: Vec<OsString>,
    /// Becomes its standard input.
    pub(crate) input: Option<PathBuf>,
    /// The exit status by which it only warns, if it has one.
    pub(crate) warning: i32,
}

/// Runs `line` in a process that measures it, and then syncs the file system of `sync`, measured too.
pub(crate) fn measure(line: &Line, sync: Option<&Path>) -> Result<Figures, String> {
    let mut command = again("measure")?;
    command
        .arg(line.warning.to_string())
        .arg(line.input.as_deref().unwrap_or(Path::new("/dev/null")))
        .arg(sync.unwrap_or(Path::new("")))
        .args(&line.words);
    from_json(&mut command)
}

/// This program, to do only one thing.
pub(crate) fn again(mode: &str) -> Result<Command, String> {
    let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut command = Command::new(this);
    command.arg(mode);
    Ok(command)
}

/// Runs a mode of this program that prints figures.
pub(crate) fn from_json(command: &mut Command) -> Result<Figures, String> {
    let output = command.env("LC_ALL", "C").output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{command:?} printed no figures: {error}"))
}

/// The mode `measure WARNING INPUT SYNC COMMAND...`: prints the figures.
pub(crate) fn main(words: &[OsString]) -> Result<(), String> {
    let [warning, input, sync, program, rest @ ..] = words else { return Err("measure WARNING INPUT SYNC COMMAND...".into()) };
    let warning: Option<i32> = warning.to_str().and_then(|warning| warning.parse().ok());
    let input = File::open(input).map_err(|error| format!("{}: {error}", input.display()))?;
    let mut command = Command::new(program);
    command.args(rest).stdin(input).stdout(Stdio::null());
    let sync = (!sync.is_empty()).then(|| File::open(sync)).transpose().map_err(|error| format!("{}: {error}", sync.display()))?;
    let start = Instant::now();
    let status = command.status().map_err(|error| format!("{}: {error}", program.display()))?;
    if let Some(sync) = sync {
        nix::unistd::syncfs(sync).map_err(|errno| format!("syncfs: {errno}"))?;
    }
    let wall = start.elapsed().as_secs_f64();
    if !status.success() && (status.code().is_none() || status.code() != warning) {
        return Err(format!("{} ended with {status}", program.display()));
    }
    print(wall, UsageWho::RUSAGE_CHILDREN, (0.0, 0.0))
}

/// Prints what `who` used, less what it had used before.
pub(crate) fn print(wall: f64, who: UsageWho, before: (f64, f64)) -> Result<(), String> {
    let usage = getrusage(who).map_err(|errno| format!("getrusage: {errno}"))?;
    let figures = Figures {
        wall,
        user: seconds(usage.user_time()) - before.0,
        system: seconds(usage.system_time()) - before.1,
        peak: u64::try_from(usage.max_rss()).unwrap_or(0),
    };
    println!("{}", serde_json::to_string(&figures).map_err(|error| error.to_string())?);
    Ok(())
}

/// Seconds of user and system time that this process used so far.
pub(crate) fn used() -> Result<(f64, f64), String> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|errno| format!("getrusage: {errno}"))?;
    Ok((seconds(usage.user_time()), seconds(usage.system_time())))
}

fn seconds(time: TimeVal) -> f64 {
    time.num_microseconds() as f64 / 1e6
}
