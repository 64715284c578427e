//! Kills while an old root goes that has subvolumes in it, which takes more than one step: what bears the name of a root is whole all the same.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::child::{End, Job, Running};
use super::common::loopfs::run;
use super::common::pools::{Backend, Quotas};
use super::random::Random;
use super::stand::{Found, Stand, Table, Which};

/// Enough for a kill to fall between two of them.
const SUBVOLUMES: usize = 60;

/// Makes subvolumes in the root, one in another now and then.
fn fill(root: &Path) -> Result<(), String> {
    let folder = root.join("subvolumes");
    fs::create_dir(&folder).map_err(|error| error.to_string())?;
    let mut paths = Vec::new();
    for number in 0..SUBVOLUMES / 2 {
        let outer = folder.join(format!("{number:02} outer"));
        paths.extend([outer.clone(), outer.join("inner")]);
    }
    let script: String = paths.iter().map(|path| format!("btrfs subvolume create '{}'\n", path.display())).collect();
    run(Command::new("sh").args(["-e", "-c", &script])).map(drop)
}

fn count(root: &Path) -> usize {
    let outer = fs::read_dir(root.join("subvolumes")).into_iter().flatten().flatten();
    outer.map(|entry| 1 + usize::from(entry.path().join("inner").exists())).sum()
}

pub(crate) fn kill_with_subvolumes(job: Job, kills: usize, seed: u64, table: &mut Table) -> Result<(), String> {
    let mut random = Random::new(seed);
    let stand = Stand::new(Backend::Btrfs(Quotas::Full), 20)?;
    let root = stand.volume_path();
    stand.reset(Which::A)?;
    let mut number = 0;
    while table.kills() < kills {
        number += 1;
        let attempt = |random: &mut Random| -> Result<Option<(String, Found)>, String> {
            stand.reset(Which::A)?;
            fill(&root)?;
            let mut running = Running::start(stand.backend, job, &root, stand.image(Which::B), None)?;
            // Where the old root goes: in place before the new one is made, else after the commit.
            let phase = if job.is_in_place() { reroot::Phase::Remove } else { reroot::Phase::Dispose };
            while running.next_phase().is_some_and(|begun| begun != phase) {}
            if number % 3 == 0 {
                sleep(random.part_of(Duration::from_millis(20)));
            } else {
                // In the midst of it.
                let begun = Instant::now();
                while !root.with_file_name("c1.reroot-doomed").exists() && begun.elapsed() < Duration::from_secs(2) {
                    std::hint::spin_loop();
                }
                sleep(random.part_of(Duration::from_millis(4)));
            }
            let (end, phase) = running.kill()?;
            if end == End::Done {
                return Ok(None);
            }
            let names = stand.names(job)?;
            // Before a recovery has touched it: under its own name or the retired one a root is whole.
            for (exists, path) in [(names.live, root.clone()), (names.retired, root.with_file_name("c1.reroot-retired"))] {
                let found = count(&path);
                if exists && found != SUBVOLUMES && (found != 0 || path.join("subvolumes").exists()) {
                    return Err(format!("{} has {found} of {SUBVOLUMES} subvolumes; the names are {names}", path.display()));
                }
            }
            stand.recovered(job)?;
            let found = match (stand.names(job)?.live, root.join("subvolumes").exists()) {
                (false, _) => Found::NoRoot,
                (true, true) if count(&root) == SUBVOLUMES => Found::Old,
                (true, true) => return Err(format!("the old root came back with {} of {SUBVOLUMES} subvolumes", count(&root))),
                (true, false) => Found::New,
            };
            if found == Found::NoRoot && !job.is_in_place() {
                return Err("no root remains".into());
            }
            Ok(Some((phase.map_or_else(String::new, |phase| format!("in {phase}")), found)))
        };
        match attempt(&mut random).map_err(|why| format!("attempt {number} with seed {seed}: {why}"))? {
            Some((point, found)) => table.count(point, found),
            None => table.count_not_killed(),
        }
        if number > kills * 20 {
            return Err(format!("only {} of {number} were killed", table.kills()));
        }
    }
    stand.reset(Which::B)
}
