//! A rebuild killed with SIGKILL at every step and at random moments: the old root or the new one, whole, every time.
//!
//! This program runs itself as the process to kill (`child.rs`). `REROOT_SEED` repeats the random choices of a run.

#[path = "../common/mod.rs"]
mod common;

mod bases;
mod child;
#[cfg(feature = "zfs")]
mod datasets;
#[cfg(feature = "ceph")]
mod images;
#[cfg(feature = "btrfs")]
mod nested;
mod place;
mod random;
mod stand;
mod steps;
#[cfg(feature = "lvm")]
mod volumes;

use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use reroot::Strategy;
#[cfg(feature = "ceph")]
use reroot::filesystem::FilesystemKind;
use reroot::volume::Commit;

use child::Job;
use common::pools::Backend;
use stand::Table;

/// Kills at random moments, by what is killed. More than 200 in all.
const KILLS: [(&str, Job, usize); 3] = [
    ("swap_by_exchange", Job::Rebuild(Strategy::Swap, Commit::Exchange), 105),
    ("swap_by_two_renames", Job::Rebuild(Strategy::Swap, Commit::TwoRenames), 70),
    ("in_place", Job::Rebuild(Strategy::InPlace, Commit::Exchange), 45),
];

/// Rebuilds from a base, killed at every step: where, and what.
const FROM_BASE: [(&str, Job); 3] = [
    ("swap_by_exchange", Job::FromBase(Strategy::Swap, Commit::Exchange)),
    ("in_place", Job::FromBase(Strategy::InPlace, Commit::Exchange)),
    ("swap_by_two_renames", Job::FromBase(Strategy::Swap, Commit::TwoRenames)),
];

/// Kills children, and enters in the table what they left.
type Kills = Box<dyn FnOnce(&mut Table) -> Result<(), String> + Send>;

/// The same on ZFS, where a rebuild takes two renames or happens within the root, and a kill costs a second.
#[cfg(feature = "zfs")]
const KILLS_ON_ZFS: [(&str, Job, usize); 4] = [
    ("swap", Job::Rebuild(Strategy::Swap, Commit::TwoRenames), 10),
    ("in_place", Job::Rebuild(Strategy::InPlace, Commit::Exchange), 8),
    ("within", Job::Within, 10),
    ("purging", Job::Purging, 3),
];

/// The same on LVM, where the snapshots that are kept are no concern of the root's, and a rebuild takes some seconds.
#[cfg(feature = "lvm")]
const KILLS_ON_LVM: [(&str, Job, usize); 3] = [
    ("swap", Job::Rebuild(Strategy::Swap, Commit::TwoRenames), 10),
    ("in_place", Job::Rebuild(Strategy::InPlace, Commit::Exchange), 6),
    ("purging", Job::Purging, 3),
];

/// The same on Ceph, with each filesystem.
#[cfg(feature = "ceph")]
const KILLS_ON_CEPH: [(&str, Job, usize); 3] = [
    ("swap", Job::Rebuild(Strategy::Swap, Commit::TwoRenames), 10),
    ("in_place", Job::Rebuild(Strategy::InPlace, Commit::Exchange), 6),
    ("purging", Job::Purging, 3),
];

/// What is killed on a backend.
struct Plan {
    /// How the names of its tests begin.
    prefix: &'static str,
    backend: Backend,
    /// At random moments, so often, and at every step.
    kills: Vec<(&'static str, Job, usize)>,
    from_base: &'static [(&'static str, Job)],
    /// Kills at random moments of what makes or removes a base.
    base_kills: usize,
}

fn plans() -> Vec<Plan> {
    #[allow(unused_mut, reason = "without the others there is one")]
    let mut plans = vec![Plan { prefix: "", backend: Backend::Dir, kills: KILLS.to_vec(), from_base: &FROM_BASE, base_kills: 12 }];
    #[cfg(feature = "btrfs")]
    {
        let kills = KILLS.map(|(name, job, kills)| (name, job, kills / 2)).to_vec();
        let backend = Backend::Btrfs(common::pools::Quotas::Full);
        plans.push(Plan { prefix: "btrfs_qgroups::", backend, kills: kills.clone(), from_base: &FROM_BASE, base_kills: 6 });
        // The steps are the same, and there is less to leave.
        let backend = Backend::Btrfs(common::pools::Quotas::Off);
        plans.push(Plan { prefix: "btrfs_no_quotas::", backend, kills, from_base: &FROM_BASE[..1], base_kills: 0 });
    }
    #[cfg(feature = "ceph")]
    for (prefix, kind) in [("ceph::ext4::", FilesystemKind::Ext4), ("ceph::xfs::", FilesystemKind::Xfs)] {
        plans.push(Plan {
            prefix,
            backend: Backend::Ceph(kind),
            kills: KILLS_ON_CEPH.to_vec(),
            from_base: &FROM_BASE[..1],
            // What is cloned depends on its base.
            base_kills: 0,
        });
    }
    #[cfg(feature = "lvm")]
    plans.push(Plan {
        prefix: "lvm::",
        backend: Backend::Lvm,
        kills: KILLS_ON_LVM.to_vec(),
        from_base: &FROM_BASE[..1],
        base_kills: 0,
    });
    #[cfg(feature = "zfs")]
    plans.push(Plan {
        prefix: "zfs::",
        backend: Backend::Zfs,
        kills: KILLS_ON_ZFS.to_vec(),
        from_base: &FROM_BASE[..1],
        base_kills: 0,
    });
    plans
}

fn main() {
    if let Some(status) = child::run_if_asked() {
        std::process::exit(status);
    }
    let arguments = Arguments::from_args();
    let tables: Arc<Mutex<Vec<Table>>> = Arc::default();
    let trial = |name: String, run: Kills| {
        let tables = Arc::clone(&tables);
        Trial::ignorable_test(name.clone(), move || {
            let mut table = Table::new(name);
            let result = run(&mut table);
            let kills = table.kills();
            tables.lock().unwrap_or_else(PoisonError::into_inner).push(table);
            match result {
                Err(why) if kills == 0 && common::may_be_left_out(&why) => Ok(Completion::ignored_with(why)),
                result => result.map(|()| Completion::Completed).map_err(Failed::from),
            }
        })
    };
    let seed = random::seed();
    let mut trials = Vec::new();
    for Plan { prefix, backend, kills, from_base, base_kills } in plans() {
        for (number, (name, job, kills)) in kills.iter().copied().enumerate() {
            let seed = seed.wrapping_add(number as u64);
            let run = Box::new(move |table: &mut Table| random::kill_at_random(backend, job, kills, seed, table));
            trials.push(trial(format!("{prefix}random::{name}"), run));
        }
        for (name, job, _) in kills {
            let run = Box::new(move |table: &mut Table| steps::kill_at_every_step(backend, job, table));
            trials.push(trial(format!("{prefix}every_step::{name}"), run));
        }
        let run = Box::new(move |table: &mut Table| steps::kill_recover_at_every_step(backend, table));
        trials.push(trial(format!("{prefix}every_step::recover"), run));
        for (name, job) in from_base.iter().copied() {
            let run = Box::new(move |table: &mut Table| steps::kill_at_every_step(backend, job, table));
            trials.push(trial(format!("{prefix}from_base::{name}"), run));
        }
        for (name, job) in [("make", Job::MakeBase), ("collect", Job::CollectBases)] {
            let run = Box::new(move |table: &mut Table| bases::kill_at_every_step(backend, job, table));
            trials.push(trial(format!("{prefix}bases::every_step::{name}"), run));
            if base_kills > 0 {
                let run = Box::new(move |table: &mut Table| bases::kill_at_random(backend, job, base_kills, seed, table));
                trials.push(trial(format!("{prefix}bases::random::{name}"), run));
            }
        }
    }
    #[cfg(feature = "btrfs")]
    for (name, job, kills) in KILLS {
        let run = Box::new(move |table: &mut Table| nested::kill_with_subvolumes(job, kills / 5, seed, table));
        trials.push(trial(format!("btrfs::nested::{name}"), run));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("seed {seed} (REROOT_SEED repeats it)");
    for table in tables.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{table}");
    }
    conclusion.exit();
}
