//! Volumes and snapshots with names that somebody else would stumble over: each volume is interrupted in the middle, recovered and rebuilt; those beside
//! it are others.

use std::path::{Path, PathBuf};

use reroot::volume::{Commit, Names, Slot};
use reroot::{
    CancelToken, Dispose, ErrorKind, Image, Outcome, Rebuild, RebuildableVolume, RecoverAction, SnapshotPolicy, Wait, recover,
};

use super::bench::{Bench, NAMES, Trials, spread};
use super::child::Job;
use super::common::ledger::Ledger;
use super::common::pools::Backend;
use super::others;
use super::stand::{Found, Which, report};

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    let mut trials: Vec<(&'static str, Trials)> = vec![("names::hostile", Box::new(move || hostile(backend)))];
    if backend.is_slow() {
        trials.push(("names::snapshots", Box::new(move || snapshots(backend))));
    }
    trials
}

/// What a volume can be called, and what it cannot.
struct Spellings {
    taken: Vec<String>,
    refused: Vec<String>,
}

impl Spellings {
    /// `longest` is how long a name can be that a suffix has to fit behind, in the bytes of `filler`; the longest names come first.
    fn new(filler: &str, longest: usize, taken: &[&str], refused: &[&str]) -> Spellings {
        let long = |length: usize| filler.repeat(length);
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let reserved = ["a.reroot-staged", "a.reroot-retired", ".", ".."];
        Spellings {
            taken: [vec![long(longest)], all(taken)].concat(),
            refused: [vec![long(longest + 1), long(255), long(256)], all(refused), all(&reserved)].concat(),
        }
    }

    fn of(backend: Backend, pool: &str) -> Spellings {
        match backend.name() {
            // The whole name counts.
            "zfs" => Spellings::new("n", 200 - pool.len() - 1, &OF_DATASETS, &NOT_OF_DATASETS),
            // Every hyphen is doubled, in the name of the group too.
            "lvm" => {
                let of_device = pool.replace('-', "--").len() + "-.reroot--retired".len();
                let longest = 127 - of_device;
                let hyphens = (longest - 1) / 2;
                let with = |hyphens: usize| format!("n{}", "-".repeat(hyphens));
                let mut spellings = Spellings::new("n", longest, &OF_LOGICAL_VOLUMES, &NOT_OF_LOGICAL_VOLUMES);
                spellings.taken.push(with(hyphens));
                spellings.refused.push(with(hyphens + 1));
                spellings
            }
            "ceph" => Spellings::new("n", 96 - SUFFIX, &OF_IMAGES, &NOT_OF_IMAGES),
            // The longest name of a file is 255 bytes.
            _ => Spellings::new("n", 255 - SUFFIX, &OF_FOLDERS, &[]),
        }
    }
}

/// The length of the longest suffix.
const SUFFIX: usize = ".reroot-retired".len();

const OF_FOLDERS: [&str; 37] = [
    "a b",
    " ",
    "a\nb",
    "\n",
    "a\tb",
    "a'b",
    "a\"b",
    "`id`",
    "$(id)",
    "$HOME",
    "-rf",
    "--",
    "-",
    "a;b",
    "a|b",
    "a&b",
    "a*b",
    "?",
    "[a]",
    "a\\b",
    "\\",
    "\u{fc}\u{20ac}\u{1f600}",
    "\u{202e}abc",
    "a\u{301}",
    "..a",
    "...",
    "a..",
    "%s",
    "%00",
    "a@b",
    "a:b",
    "a,b=c",
    "#",
    "~",
    "!",
    ".hidden",
    "\u{1b}[31m",
];

const OF_DATASETS: [&str; 14] = ["a b", "-rf", " ", "a ", " a", "--", "-", "a:b", ":", "_", "...", "..a", "A", "0"];
const NOT_OF_DATASETS: [&str; 20] = [
    "",
    "a@b",
    "a#b",
    "%recv",
    "a/%recv",
    "../a",
    "a//b",
    "a/",
    "a\nb",
    "a\tb",
    "a'b",
    "a\"b",
    "$(id)",
    "a;b",
    "a*b",
    "a\\b",
    "\u{fc}",
    "a,b=c",
    "~",
    "\u{1b}[31m",
];

const OF_LOGICAL_VOLUMES: [&str; 15] =
    ["a+_.-b", "a-", "+", "_", "...", "..a", ".a", "a--b", "a-b", "A", "0", "a_snapshot", "a_pvmove", "tdata", "a.reroot-staged.b"];
const NOT_OF_LOGICAL_VOLUMES: [&str; 31] = [
    "",
    "-rf",
    "--config=x",
    "-",
    "@tag",
    "a b",
    " ",
    "a\nb",
    "a\tb",
    "a'b",
    "$(id)",
    "a;b",
    "a*b",
    "a\\b",
    "a@b",
    "a:b",
    "a/b",
    "\u{fc}",
    "\u{1b}[31m",
    "snapshot",
    "snapshot1",
    "pvmove",
    "pvmove0",
    "a_tdata",
    "a_tmeta",
    "a_mlog",
    "a_mimage_0",
    "a_rimage_0",
    "a_cdata",
    "a_vorigin",
    "a_pmspare",
];

const OF_IMAGES: [&str; 24] = [
    "\u{fc}\u{20ac}\u{1f600}",
    "a'b\"c",
    "$(id)`id`",
    "\u{202e}abc",
    "a\u{301}",
    "a;b|c&d",
    "a*b?",
    "[a]",
    "a\\b",
    "\\",
    "a:b",
    "a=b",
    "a#b",
    "#",
    "~",
    "!",
    "%s%00",
    "..a",
    "...",
    "a..",
    ".hidden",
    "a-",
    "A",
    "0",
];
const NOT_OF_IMAGES: [&str; 20] = [
    "",
    "-rf",
    "--pool=x",
    "-",
    "a b",
    " ",
    "a\nb",
    "\n",
    "a\tb",
    "a\rb",
    "a\u{a0}b",
    "a\u{2028}b",
    "a@b",
    "a@",
    "a,ro",
    "a//b",
    "a/b/c/d",
    "a\0b",
    "\u{1b}[31m",
    "\u{85}",
];

/// Either a name is refused before anything is done, or all works with it.
fn hostile(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("hostile names", backend, 12)?;
    let volume = bench.stand.volume_path();
    let pool = volume.parent().ok_or("no pool")?.display().to_string();
    let Spellings { taken, refused } = Spellings::of(backend, &pool);
    let taken = spread(taken, NAMES.on(backend), |name| name.starts_with("nnn"));
    let cases = taken.iter().map(|name| (name, true)).chain(refused.iter().map(|name| (name, false)));
    for (name, is_name) in cases {
        // `join` would make another path of some; they arrive as they are written.
        let path = PathBuf::from(format!("{pool}/{name}"));
        let before = all_there_is(&bench)?;
        let result = try_name(&bench, backend, &path);
        let told = match result.map_err(|why| format!("{name:?}: {why}"))? {
            Some(error) if !is_name && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::AlreadyExists) => {
                Ledger::told(&error)
            }
            None if !is_name => return Err(format!("{name:?} is no name, and was taken")),
            Some(error) => return Err(format!("{name:?}: {}", report(error))),
            None => "done".to_owned(),
        };
        let after = all_there_is(&bench)?;
        if after != before {
            return Err(format!("{name:?}: left are {after:?}, and there were {before:?}"));
        }
        if bench.stand.live()? != Some(bench.live) {
            return Err(format!("{name:?}: the volume beside it has changed"));
        }
        let found = if is_name { Found::New } else { Found::Old };
        bench.ledger.enter(told, found.word());
    }
    Ok(())
}

/// In the pool and beside it.
fn all_there_is(bench: &Bench) -> Result<Vec<String>, String> {
    Ok([bench.stand.place.names()?, bench.stand.place.left_of_bases()?].concat())
}

/// Rebuilds twice, finishes a third time by a recovery, rebuilds again, and takes it away. Returns the refusal of a name that cannot be.
fn try_name(bench: &Bench, backend: Backend, path: &Path) -> Result<Option<reroot::Error>, String> {
    let open = || backend.open(path, Commit::TwoRenames);
    let rebuild = |volume: &mut dyn RebuildableVolume, which: Which| {
        Rebuild::new(Image::open(bench.stand.image(which))?).busy_wait(std::time::Duration::from_secs(10)).run(volume)
    };
    let mut volume = match open() {
        Ok(volume) => volume,
        Err(error) => return Ok(Some(error)),
    };
    if let Err(error) = rebuild(&mut *volume, Which::A) {
        return Ok(Some(error));
    }
    rebuild(&mut *volume, Which::B).map_err(report)?;
    // As a kill between the two renames leaves it.
    let image = Image::open(bench.stand.image(Which::A)).map_err(report)?;
    let detaching = Rebuild::new(image).dispose(Dispose::Detach).busy_wait(std::time::Duration::from_secs(10));
    detaching.run(&mut *volume).map_err(report)?;
    volume.rename(Slot::Live, Slot::Staged).map_err(report)?;
    let recovery = recover(&mut *volume, &Wait::new(std::time::Duration::ZERO, CancelToken::new())).map_err(report)?;
    if recovery.actions != [RecoverAction::RollForward, RecoverAction::DisposeRetired] {
        return Err(format!("it was recovered by {:?}", recovery.actions));
    }
    let names = volume.names().map_err(report)?;
    if names != (Names { live: true, staged: false, retired: false }) {
        return Err(format!("there is {names}"));
    }
    let is_whole = |which| Ok::<_, String>(bench.stand.place.root_of(path)?.as_ref() == Some(bench.stand.manifest(which)));
    if !is_whole(Which::A)? {
        return Err("the recovered root is not whole".into());
    }
    rebuild(&mut *volume, Which::B).map_err(report)?;
    if !is_whole(Which::B)? {
        return Err("the new root is not whole".into());
    }
    volume.rename(Slot::Live, Slot::Retired).and_then(|()| volume.discard(Slot::Retired)).map_err(report)?;
    Ok(None)
}

/// Names of snapshots that are all told, and all go when they are purged.
fn names_of_snapshots(backend: Backend) -> Vec<String> {
    let names: &[&str] = match backend.name() {
        "zfs" => &["a b", " ", "-rf", "--", "a:b", ":", "...", "..a", "snapshot-a b", "reroot-retired", "A"],
        // Behind a hyphen they are the volume's.
        "lvm" => &["+", "_", "...", "a.b", "a_b", "a+b", "A", "0"],
        _ => &[
            "a b",
            " ",
            "-rf",
            "--",
            "a'b\"c",
            "$(id)`id`",
            "\u{fc}\u{1f600}",
            "\u{202e}abc",
            "a\\b",
            "a,b=c",
            "a:b",
            "a#b",
            "%s",
            "...",
            "\u{1b}[31m",
        ],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Snapshots are refused, each by its name, and purged, all of them.
fn snapshots(backend: Backend) -> Result<(), String> {
    let mut bench = Bench::new("hostile names of snapshots", backend, 12)?;
    let volume = bench.stand.volume_path();
    let names = names_of_snapshots(backend);
    for name in &names {
        others::snapshot(backend, &volume, name).map_err(|why| format!("{name:?}: {why}"))?;
    }
    let rebuild = |bench: &Bench, policy| -> Result<_, String> {
        let image = Image::open(bench.stand.image(bench.live.other())).map_err(report)?;
        let mut volume = bench.stand.volume(Job::SWAP)?;
        Ok(Rebuild::new(image).snapshots(policy).busy_wait(std::time::Duration::from_secs(10)).run(&mut *volume))
    };
    let listed = bench.stand.volume(Job::SWAP)?.snapshots().map_err(report)?;
    for name in &names {
        let wanted = if backend.name() == "lvm" { format!("c1-{name}") } else { name.clone() };
        if !listed.iter().any(|snapshot| snapshot.name.to_str() == Some(&wanted)) {
            return Err(format!("{wanted:?} is not among {listed:?}"));
        }
        if !others::has_snapshot(backend, &volume, name)? {
            return Err(format!("there is no {name:?}"));
        }
    }
    match rebuild(&bench, SnapshotPolicy::Refuse)? {
        Err(error) if (error.kind(), error.outcome()) == (ErrorKind::HasSnapshots, Outcome::Untouched) => {
            let said = error.report().to_string();
            if said.contains('\u{1b}') {
                return Err(format!("it says {said:?}"));
            }
            if bench.stand.live()? != Some(bench.live) {
                return Err("the old root is not live".into());
            }
            bench.ledger.enter(Ledger::told(&error), Found::Old.word());
        }
        // They have names of their own, and stay.
        Ok(_) if backend.name() == "lvm" => {
            bench.live = bench.live.other();
            bench.ledger.enter("done", Found::New.word());
        }
        other => return Err(format!("snapshots were not refused: {other:?}")),
    }
    let report = rebuild(&bench, SnapshotPolicy::Purge)?.map_err(report)?;
    if report.purged.len() != names.len() || !report.warnings.is_empty() {
        return Err(format!("not all were purged: {report}"));
    }
    bench.check(Job::SWAP, "done".into(), Some(Found::New))?;
    if backend.name() != "zfs" {
        return Ok(());
    }
    // One that would have too long a name on a retired root.
    let longest = "n".repeat(255 - volume.as_os_str().len() - 1);
    others::snapshot(backend, &volume, &longest)?;
    let refusal = match rebuild(&bench, SnapshotPolicy::Purge)? {
        Err(error) if error.outcome() == Outcome::RolledBack && error.remedy().is_some_and(|it| it.contains("shorter")) => error,
        other => return Err(format!("a snapshot with the longest name: {other:?}")),
    };
    if !others::has_snapshot(backend, &volume, &longest)? {
        return Err("the snapshot with the longest name is gone".into());
    }
    others::delete(backend, &PathBuf::from(format!("{}@{longest}", volume.display())))?;
    bench.check(Job::SWAP, Ledger::told(&refusal), Some(Found::Old)).map(drop)
}
