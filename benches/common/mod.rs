//! What the benchmarks of single backends share: the parts of a rebuild one by one, its phases, and medians.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reroot::volume::UsageDetail;
use reroot::{RebuildableVolume, Report};

/// How often everything is done. Its median counts.
pub(crate) const TURNS: usize = 15;

/// The image of a root filesystem, in the folder that `REROOT_ROOTFS` names.
pub(crate) fn image() -> PathBuf {
    let folder =
        std::env::var_os("REROOT_ROOTFS").expect("REROOT_ROOTFS names a folder that tests/rootfs made; benches/run sets it");
    PathBuf::from(folder).join("rootfs.tar")
}

/// Takes the time of something.
pub(crate) fn timed(what: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    what();
    begun.elapsed()
}

/// What a rebuild asks, one by one.
pub(crate) fn parts(volume: &mut impl RebuildableVolume) {
    part("names", || _ = volume.names().unwrap());
    part("holders", || drop(volume.holders().unwrap()));
    part("snapshots", || drop(volume.snapshots().unwrap()));
    part("usage", || _ = volume.usage(UsageDetail::Free).unwrap());
    part("record", || drop(volume.record().unwrap()));
    part("capture", || volume.capture().unwrap());
}

/// Shows how long one of them takes.
pub(crate) fn part(what: &str, mut ask: impl FnMut()) {
    let times = (0..TURNS).map(|_| timed(&mut ask)).collect();
    println!("    {what:<10} {:>6.1} ms", median(times));
}

pub(crate) fn show_phases(report: &Report) {
    for phase in &report.phases {
        println!("    {:<8} {:>7.1} ms", phase.phase.to_string(), phase.elapsed.as_secs_f64() * 1e3);
    }
}

/// Shows both medians, and which part of the other's time ours takes.
pub(crate) fn compare(what: &str, ours: Vec<Duration>, theirs: Vec<Duration>) {
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{what}: {ours:.1} ms, with the commands {theirs:.1} ms: {:.2} of the time", ours / theirs);
}

/// In ms.
pub(crate) fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Runs a command whose words hold no spaces.
pub(crate) fn run(line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    let status = Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{line}");
}
