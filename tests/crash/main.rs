//! A rebuild killed with SIGKILL at every step and at random moments: the old root or the new one, whole, every time.
//!
//! This program runs itself as the process to kill (`child.rs`). `REROOT_SEED` repeats the random choices of a run.

#[path = "../common/mod.rs"]
mod common;

mod bases;
mod child;
#[cfg(feature = "btrfs")]
mod nested;
mod random;
mod stand;
mod steps;

use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use reroot::Strategy;
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

/// Kills at random moments of what makes or removes a base.
const BASE_KILLS: usize = 12;

/// Rebuilds from a base, killed at every step: where, and what.
const FROM_BASE: [(&str, Job); 3] = [
    ("swap_by_exchange", Job::FromBase(Strategy::Swap, Commit::Exchange)),
    ("in_place", Job::FromBase(Strategy::InPlace, Commit::Exchange)),
    ("swap_by_two_renames", Job::FromBase(Strategy::Swap, Commit::TwoRenames)),
];

/// Kills children, and enters in the table what they left.
type Kills = Box<dyn FnOnce(&mut Table) -> Result<(), String> + Send>;

/// What is killed where: the names of its tests begin so, and it gets this share of the random kills.
fn backends() -> Vec<(&'static str, Backend, usize)> {
    let mut backends = vec![("", Backend::Dir, 1)];
    #[cfg(feature = "btrfs")]
    for (prefix, quotas) in [("btrfs_qgroups::", common::pools::Quotas::Full), ("btrfs_no_quotas::", common::pools::Quotas::Off)] {
        backends.push((prefix, Backend::Btrfs(quotas), 2));
    }
    backends
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
                // No file system of the kind can be made here.
                Err(why) if kills == 0 && why.starts_with("not root") && !common::required() => Ok(Completion::ignored_with(why)),
                result => result.map(|()| Completion::Completed).map_err(Failed::from),
            }
        })
    };
    let seed = random::seed();
    let mut trials = Vec::new();
    for (prefix, backend, share) in backends() {
        for (number, (name, job, kills)) in KILLS.into_iter().enumerate() {
            let seed = seed.wrapping_add(number as u64);
            let kills = (kills / share).max(1);
            let run = Box::new(move |table: &mut Table| random::kill_at_random(backend, job, kills, seed, table));
            trials.push(trial(format!("{prefix}random::{name}"), run));
        }
        for (name, job, _) in KILLS {
            let run = Box::new(move |table: &mut Table| steps::kill_at_every_step(backend, job, table));
            trials.push(trial(format!("{prefix}every_step::{name}"), run));
        }
        let run = Box::new(move |table: &mut Table| steps::kill_recover_at_every_step(backend, table));
        trials.push(trial(format!("{prefix}every_step::recover"), run));
        // Without qgroups the steps are the same, and there is less to leave.
        let most = share == 1 || prefix.contains("qgroups");
        for (name, job) in FROM_BASE.into_iter().take(if most { FROM_BASE.len() } else { 1 }) {
            let run = Box::new(move |table: &mut Table| steps::kill_at_every_step(backend, job, table));
            trials.push(trial(format!("{prefix}from_base::{name}"), run));
        }
        for (name, job) in [("make", Job::MakeBase), ("collect", Job::CollectBases)] {
            let run = Box::new(move |table: &mut Table| bases::kill_at_every_step(backend, job, table));
            trials.push(trial(format!("{prefix}bases::every_step::{name}"), run));
            if most {
                let run = Box::new(move |table: &mut Table| bases::kill_at_random(backend, job, BASE_KILLS / share, seed, table));
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
