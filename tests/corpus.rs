//! Archives as other people's programs make them, of trees with odd content: each unpacks to what GNU tar makes of it, or fails with an error
//! whose kind is written down here. On tmpfs, ext4, xfs and btrfs.

mod common;
#[path = "corpus/judge.rs"]
mod judge;
#[path = "corpus/makers.rs"]
mod makers;
#[path = "corpus/odd.rs"]
mod odd;
#[path = "corpus/stand.rs"]
mod stand;

use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use common::loopfs::Kind;
use makers::{MAKERS, Maker, TREES};
use odd::{COMPRESSED, ODD};
use stand::{Obstacle, Stand};

/// Whose archive is compressed.
const ARCHIVER: &Maker = &MAKERS[0];

type Case = Box<dyn FnOnce(&Stand) -> Result<(), Obstacle> + Send>;

fn main() {
    let arguments = Arguments::from_args();
    let stand = Arc::new(Stand::default());
    let mut trials = Vec::new();
    for kind in [Kind::Tmpfs, Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let mut add = |maker: &str, what: &str, run: Case| {
            let stand = Arc::clone(&stand);
            trials.push(Trial::ignorable_test(format!("{}::{maker}::{what}", kind.name()), move || outcome(run(&stand))));
        };
        for maker in &MAKERS {
            for tree in TREES {
                let run = move |stand: &Stand| stand.compare(kind, &stand.of_tree(maker, tree)?, judge::of_tree(maker, tree));
                add(maker.name, tree, Box::new(run));
            }
        }
        for (maker, verdict) in &ODD {
            add("odd", maker.name, Box::new(move |stand| stand.compare(kind, &stand.of_nothing(maker)?, *verdict)));
        }
        for (maker, verdict) in COMPRESSED {
            let run = move |stand: &Stand| {
                let plain = stand.of_tree(ARCHIVER, "sizes")?;
                stand.rebuild(kind, &stand.of_archive(maker, &plain)?, &plain.archive, *verdict)
            };
            add("compressed", maker.name, Box::new(run));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // What is mounted goes before the process ends, which runs no destructors.
    drop(stand);
    conclusion.exit();
}

fn outcome(result: Result<(), Obstacle>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(Obstacle::Missing(why)) if !common::required() => Ok(Completion::ignored_with(why)),
        Err(Obstacle::Missing(why) | Obstacle::Failed(why)) => Err(Failed::from(why)),
    }
}
