//! Everything that can go wrong around a process is tried, on every backend: the old root or the new one, whole; nothing of ours left after a
//! recovery; and the next rebuild simply works.
//!
//! Each trial ends in these three checks (`bench.rs`). What was tried is printed in lines that `tests/faults/run` makes a table of. By default a
//! part runs, of some minutes; `REROOT_FAULT_TRIALS=long` tries all. `REROOT_SEED` repeats the random choices of a run. Devices that fail are in
//! `tests/power`.

#[path = "../common/mod.rs"]
mod common;

#[path = "../crash/child.rs"]
#[allow(dead_code, reason = "that program kills its own children")]
mod child;
#[cfg(feature = "zfs")]
#[path = "../crash/datasets.rs"]
mod datasets;
#[cfg(feature = "ceph")]
#[path = "../crash/images.rs"]
mod images;
#[path = "../crash/place.rs"]
#[allow(dead_code, reason = "bases are looked at there")]
mod place;
#[path = "../crash/random.rs"]
#[allow(dead_code, reason = "that program kills its own children")]
mod random;
#[path = "../crash/stand.rs"]
#[allow(dead_code, reason = "that program has tables of its own")]
mod stand;
#[cfg(feature = "lvm")]
#[path = "../crash/volumes.rs"]
mod volumes;

mod bench;
mod busy;
mod calls;
mod hold;
mod meddle;
mod moments;
mod names;
mod others;
mod races;
mod resources;
mod source;
mod tools;
mod tracer;
mod worker;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
#[cfg(feature = "ceph")]
use reroot::filesystem::FilesystemKind;

use bench::Trials;
use common::pools::Backend;

fn backends() -> Vec<Backend> {
    vec![
        Backend::Dir,
        #[cfg(feature = "btrfs")]
        Backend::Btrfs(common::pools::Quotas::Off),
        #[cfg(feature = "ceph")]
        Backend::Ceph(FilesystemKind::Ext4),
        #[cfg(feature = "lvm")]
        Backend::Lvm,
        #[cfg(feature = "zfs")]
        Backend::Zfs,
    ]
}

/// Whether a trial may be left out for this reason. What a machine lacks, for good or bad, is no failure of a test.
fn may_be_left_out(why: &str) -> bool {
    why.starts_with(bench::NOT_HERE) || common::may_be_left_out(why)
}

fn main() {
    if let Some(status) = worker::run_if_asked().or_else(child::run_if_asked) {
        std::process::exit(status);
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for backend in backends() {
        let classes = [
            calls::trials,
            moments::trials,
            source::trials,
            resources::trials,
            races::trials,
            meddle::trials,
            busy::trials,
            tools::trials,
            names::trials,
        ];
        let classes = classes.into_iter().flat_map(|trials| trials(backend));
        trials.extend(classes.map(|(name, run)| trial(format!("{}::{name}", backend.name()), run)));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("seed {} (REROOT_SEED repeats it)", bench::seed());
    conclusion.exit();
}

fn trial(name: String, run: Trials) -> Trial {
    Trial::ignorable_test(name, move || match run() {
        Ok(()) => Ok(Completion::Completed),
        Err(why) if may_be_left_out(&why) => Ok(Completion::ignored_with(why)),
        Err(why) => Err(Failed::from(why)),
    })
}
