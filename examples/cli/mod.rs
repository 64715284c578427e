//! What the examples share: volumes by their names, exit statuses, signals, a progress bar. Printing is theirs, not the library's.

// Each example uses its part of this.
#![allow(dead_code)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
#[cfg(feature = "tar")]
use reroot::Bases;
#[cfg(feature = "tar")]
use reroot::dir::DirBases;
use reroot::dir::DirVolume;
use reroot::{CancelToken, Error, ErrorKind, Event, Outcome, Phase, Progress, RebuildableVolume, Result, SnapshotPolicy, Space};

/// Done.
pub(crate) const DONE: u8 = 0;
/// Failed; the old root is intact.
pub(crate) const FAILED: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// A policy or a check refused; nothing was changed.
pub(crate) const REFUSED: u8 = 3;
/// No root remains.
pub(crate) const NO_ROOT: u8 = 4;

/// Opens `dir:/srv/pool/containers/c1`, `btrfs:/srv/pool/containers/c1`, `zfs:tank/containers/c1`, `lvm:vg0/c1`, `ceph:rbd/c1`.
pub(crate) fn open_volume(spec: &str) -> Result<Box<dyn RebuildableVolume>> {
    match spec.split_once(':') {
        Some(("dir", path)) => Ok(Box::new(DirVolume::open(Path::new(path))?)),
        #[cfg(feature = "btrfs")]
        Some(("btrfs", path)) => Ok(Box::new(reroot::btrfs::BtrfsVolume::open(Path::new(path))?)),
        #[cfg(feature = "zfs")]
        Some(("zfs", dataset)) => Ok(Box::new(reroot::zfs::ZfsVolume::open(dataset)?)),
        #[cfg(feature = "lvm")]
        Some(("lvm", name)) => Ok(Box::new(reroot::lvm::LvmVolume::open(name)?)),
        #[cfg(feature = "ceph")]
        Some(("ceph", name)) => Ok(Box::new(reroot::ceph::CephVolume::open(name)?)),
        Some((scheme, _)) => Err(no_backend(scheme, "open the volume", "write it like dir:/srv/pool/containers/c1")),
        None => Err(Error::new(ErrorKind::InvalidInput, "open the volume", format!("{spec:?} names no backend"))
            .with_remedy(format!("write dir:{spec}"))),
    }
}

/// Says that there is none, or none in this program.
fn no_backend(scheme: &str, operation: &'static str, remedy: &str) -> Error {
    if matches!(scheme, "btrfs" | "ceph" | "lvm" | "zfs") {
        return Error::new(ErrorKind::Unsupported, operation, format!("this program was built without {scheme}"))
            .with_remedy(format!("build it with --features {scheme}"));
    }
    Error::new(ErrorKind::InvalidInput, operation, format!("there is no backend {scheme:?}")).with_remedy(remedy)
}

/// Opens the bases of the pool that is named, or of that of the volume.
#[cfg(feature = "tar")]
pub(crate) fn open_pool_of(pool: Option<&str>, volume: &str) -> Result<Bases> {
    match pool {
        Some(pool) => open_pool(pool),
        // There a base has the volume's filesystem, too.
        #[cfg(feature = "lvm")]
        None if volume.starts_with("lvm:") => {
            let volume = reroot::lvm::LvmVolume::open(volume.trim_start_matches("lvm:"))?;
            Ok(Bases::new(reroot::lvm::LvmBases::for_volume(&volume)?))
        }
        #[cfg(feature = "ceph")]
        None if volume.starts_with("ceph:") => {
            let volume = reroot::ceph::CephVolume::open(volume.trim_start_matches("ceph:"))?;
            Ok(Bases::new(reroot::ceph::CephBases::for_volume(&volume)?))
        }
        None => {
            let pool = pool_of(volume)?;
            open_pool(&pool).map_err(|error| match error.kind() {
                // What it proposes is for a pool that someone named.
                ErrorKind::InvalidInput if pool.starts_with("btrfs:") => {
                    Error::new(ErrorKind::InvalidInput, "find the volume's pool", error.message())
                        .with_context("pool", pool)
                        .with_remedy("name one on the volume's file system with --pool")
                }
                _ => error,
            })
        }
    }
}

/// Opens the bases of `dir:/srv/pool`, `btrfs:/srv/pool`, `zfs:tank`, `lvm:vg0/thin`, `ceph:rbd`.
#[cfg(feature = "tar")]
pub(crate) fn open_pool(spec: &str) -> Result<Bases> {
    const REMEDY: &str = "write it like dir:/srv/pool";
    match spec.split_once(':') {
        Some(("dir", path)) => Ok(Bases::new(DirBases::open(Path::new(path))?)),
        #[cfg(feature = "btrfs")]
        Some(("btrfs", path)) => Ok(Bases::new(reroot::btrfs::BtrfsBases::open(Path::new(path))?)),
        #[cfg(feature = "zfs")]
        Some(("zfs", dataset)) => Ok(Bases::new(reroot::zfs::ZfsBases::open(dataset)?)),
        #[cfg(feature = "lvm")]
        Some(("lvm", pool)) => Ok(Bases::new(reroot::lvm::LvmBases::open(pool)?)),
        #[cfg(feature = "ceph")]
        Some(("ceph", pool)) => Ok(Bases::new(reroot::ceph::CephBases::open(pool)?)),
        Some((scheme, _)) => Err(no_backend(scheme, "open the pool", REMEDY)),
        None => Err(Error::new(ErrorKind::InvalidInput, "open the pool", format!("{spec:?} names no backend")).with_remedy(REMEDY)),
    }
}

/// The pool of a volume: the folder of the folder it lies in; that folder itself where that would be the root directory, or
/// where a file system is mounted on it: what lies above is another one. On ZFS alike, with datasets: at the top is the pool's own.
#[cfg(feature = "tar")]
pub(crate) fn pool_of(volume: &str) -> Result<String> {
    let Some((scheme, path)) = volume.split_once(':') else {
        return Err(Error::new(ErrorKind::InvalidInput, "find the pool", format!("{volume:?} names no backend"))
            .with_remedy(format!("write dir:{volume}")));
    };
    if scheme == "zfs" {
        let names: Vec<_> = path.split('/').collect();
        let above = names.len().saturating_sub(2).max(1);
        return Ok(format!("zfs:{}", names[..above].join("/")));
    }
    let path = std::path::absolute(path).map_err(|error| Error::io("find the pool", "there is no current directory", error))?;
    let folder = path.parent().unwrap_or(&path);
    let pool = match folder.parent() {
        Some(above) if above != Path::new("/") && !is_mounted_on(folder) => above,
        _ => folder,
    };
    Ok(format!("{scheme}:{}", pool.display()))
}

/// Whether a mount is on this folder. Not by its device: that of a subvolume is another too.
#[cfg(feature = "tar")]
fn is_mounted_on(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    // As the kernel writes it.
    let point = folder.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&point))
}

/// The exit status that tells a script what happened to the volume.
pub(crate) fn status(error: &Error) -> u8 {
    match (error.outcome(), error.kind()) {
        (Outcome::NoRoot, _) => NO_ROOT,
        (Outcome::Untouched, ErrorKind::InvalidInput) => USAGE,
        // A limit that is too low for the base is found before anything is done.
        (Outcome::Untouched, ErrorKind::NoSpace(Space::Quota)) => REFUSED,
        (Outcome::Untouched, kind) if kind.is_refusal() => REFUSED,
        _ => FAILED,
    }
}

/// What becomes of a volume's snapshots, as it is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Snapshots {
    /// If there are any, do nothing and name them.
    Refuse,
    /// Destroy them.
    Purge,
    /// Let them be.
    Keep,
}

impl Snapshots {
    pub(crate) fn policy(self) -> SnapshotPolicy {
        match self {
            Snapshots::Refuse => SnapshotPolicy::Refuse,
            Snapshots::Purge => SnapshotPolicy::Purge,
            Snapshots::Keep => SnapshotPolicy::Keep,
        }
    }
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Json,
    Quiet,
}

impl Output {
    /// From the flags `--json` and `--quiet`.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (true, _) => Output::Json,
            (false, true) => Output::Quiet,
            (false, false) => Output::Text,
        }
    }

    /// Shows what a command has to say.
    pub(crate) fn show<T: std::fmt::Display + serde::Serialize>(self, value: &T) {
        match self {
            Output::Text => say(&mut std::io::stdout(), value),
            Output::Json => say(&mut std::io::stdout(), &json(value)),
            Output::Quiet => {}
        }
    }

    /// Shows an error and turns it into an exit status.
    pub(crate) fn fail(self, error: &Error) -> ExitCode {
        match self {
            Output::Json => say(&mut std::io::stdout(), &json(error)),
            Output::Text | Output::Quiet => say(&mut std::io::stderr(), &format_args!("error: {}", error.report())),
        }
        ExitCode::from(status(error))
    }
}

/// Reads the command line. What is wrong with it is one JSON object too, for whoever asked for that.
pub(crate) fn arguments<A: clap::Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|mistake| mistaken(&mistake))
}

/// Tells a mistake on the command line, or the help that was asked for.
pub(crate) fn mistaken(mistake: &clap::Error) -> ExitCode {
    if !mistake.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        let _ = mistake.print();
    } else {
        let text = mistake.to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let error = Error::new(ErrorKind::InvalidInput, "read the command line", what).with_remedy("see --help");
        say(&mut std::io::stdout(), &json(&error));
    }
    ExitCode::from(u8::try_from(mistake.exit_code()).unwrap_or(USAGE))
}

/// Prints a line. That nobody reads it, or that the disk it goes to is full, does not change what happened to the volume.
pub(crate) fn say(out: &mut dyn std::io::Write, line: &dyn std::fmt::Display) {
    let _ = writeln!(out, "{line}");
}

/// A token that SIGINT and SIGTERM set.
pub(crate) fn cancel_on_signals() -> std::io::Result<CancelToken> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(CancelToken::from_flag(flag))
}

/// A bar on standard error while an image is unpacked; silent where that is no terminal.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Bar(bar)
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Phase(phase) => {
                let template = match phase {
                    Phase::Fill | Phase::Check => {
                        "{spinner} {msg:8} {bar:30} {percent:>3}% {bytes}/{total_bytes} {prefix} {bytes_per_sec}"
                    }
                    _ => "{spinner} {msg}",
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    self.0.set_style(style);
                }
                self.0.set_message(phase.to_string());
            }
            Event::Filled { read, total, entries, .. } => {
                if let Some(total) = total {
                    self.0.set_length(total.bytes());
                }
                self.0.set_position(read.bytes());
                self.0.set_prefix(format!("{entries} entries"));
            }
            Event::Grown(size) => self.0.println(format!("the volume ran full and was grown to {size}")),
            Event::Warning(warning) => self.0.println(format!("warning: {warning}")),
            _ => {}
        }
    }
}

/// One line of JSON.
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"kind\":\"io\",\"message\":\"{error}\"}}"))
}
