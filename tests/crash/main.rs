//! A rebuild killed with SIGKILL at every step and at random moments: the old root or the new one, whole, every time.
//!
//! This program runs itself as the process to kill (`child.rs`). `REROOT_SEED` repeats the random choices of a run.

#[path = "../common/mod.rs"]
mod common;

mod child;
mod random;
mod stand;
mod steps;

use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use reroot::Strategy;
use reroot::volume::Commit;

use child::Job;
use stand::Table;

/// Kills at random moments, by what is killed. More than 200 in all.
const KILLS: [(&str, Job, usize); 3] = [
    ("swap_by_exchange", Job::Rebuild(Strategy::Swap, Commit::Exchange), 105),
    ("swap_by_two_renames", Job::Rebuild(Strategy::Swap, Commit::TwoRenames), 70),
    ("in_place", Job::Rebuild(Strategy::InPlace, Commit::Exchange), 45),
];

/// Kills children, and enters in the table what they left.
type Kills = Box<dyn FnOnce(&mut Table) -> Result<(), String> + Send>;

fn main() {
    if let Some(status) = child::run_if_asked() {
        std::process::exit(status);
    }
    let arguments = Arguments::from_args();
    let tables: Arc<Mutex<Vec<Table>>> = Arc::default();
    let trial = |name: String, run: Kills| {
        let tables = Arc::clone(&tables);
        Trial::test(name.clone(), move || {
            let mut table = Table::new(name);
            let result = run(&mut table);
            tables.lock().unwrap_or_else(PoisonError::into_inner).push(table);
            result.map_err(Failed::from)
        })
    };
    let seed = random::seed();
    let mut trials = Vec::new();
    for (number, (name, job, kills)) in KILLS.into_iter().enumerate() {
        let seed = seed.wrapping_add(number as u64);
        trials.push(trial(format!("random::{name}"), Box::new(move |table| random::kill_at_random(job, kills, seed, table))));
    }
    for (name, job, _) in KILLS {
        trials.push(trial(format!("every_step::{name}"), Box::new(move |table| steps::kill_at_every_step(job, table))));
    }
    trials.push(trial("every_step::recover".into(), Box::new(steps::kill_recover_at_every_step)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("seed {seed} (REROOT_SEED repeats it)");
    for table in tables.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{table}");
    }
    conclusion.exit();
}
