//! What is killed and examined: a volume, two images, and the question that is asked after every kill.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reroot::conformance::fault::Faulty;
use reroot::conformance::manifest::Manifest;
use reroot::conformance::tree::Tree;
use reroot::volume::{BasePool, Names, Removal, RootId, Slot};
use reroot::{Bases, CancelToken, Event, Progress, RebuildableVolume, RecoverAction, Wait, recover};

use super::child::Job;
use super::common::pools::Backend;
use super::place::{self, Place};

/// What the snapshot of the volume is called, if it has one.
pub(crate) const SNAPSHOT: &str = "snapshot-0";

/// Which of the two images a root was filled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    A,
    B,
}

impl Which {
    pub(crate) fn other(self) -> Self {
        match self {
            Which::A => Which::B,
            Which::B => Which::A,
        }
    }
}

/// What a recovery found after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Old,
    New,
    NoRoot,
}

impl Found {
    /// As the table of faults names it.
    #[allow(dead_code, reason = "the crash tests have columns of their own")]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Found::Old => "old",
            Found::New => "new",
            Found::NoRoot => "none",
        }
    }
}

/// Listens to nothing.
pub(crate) struct Silent;

impl Progress for Silent {
    fn event(&self, _: &Event<'_>) {}
}

/// A pool with one volume, and two images of some thousand entries in all.
pub(crate) struct Stand {
    pub(crate) backend: Backend,
    pub(crate) place: Box<dyn Place>,
    images: [(PathBuf, Manifest); 2],
}

impl Stand {
    pub(crate) fn new(backend: Backend, entries: usize) -> Result<Self, String> {
        Self::on(backend, place::new(backend)?, entries)
    }

    /// One in this place.
    pub(crate) fn on(backend: Backend, place: Box<dyn Place>, entries: usize) -> Result<Self, String> {
        let image = |which: Which| -> Result<_, String> {
            let tree = tree(which, entries);
            let path = place.folder().join(format!("{which:?}.tar"));
            let bytes = tree.to_tar().map_err(|error| error.to_string())?;
            fs::write(&path, bytes).map_err(|error| error.to_string())?;
            Ok((path, tree.manifest()))
        };
        let images = [image(Which::A)?, image(Which::B)?];
        Ok(Stand { backend, place, images })
    }

    pub(crate) fn volume_path(&self) -> PathBuf {
        self.place.volume()
    }

    pub(crate) fn volume(&self, job: Job) -> Result<Box<dyn RebuildableVolume>, String> {
        self.place.open(self.backend, job.commit()).map_err(report)
    }

    pub(crate) fn pool_of_bases(&self) -> Result<Box<dyn BasePool>, String> {
        self.place.bases(self.backend).map_err(report)
    }

    pub(crate) fn bases(&self) -> Result<Bases, String> {
        self.pool_of_bases().map(Bases::new)
    }

    pub(crate) fn image(&self, which: Which) -> &Path {
        &self.images[which as usize].0
    }

    pub(crate) fn manifest(&self, which: Which) -> &Manifest {
        &self.images[which as usize].1
    }

    /// Rebuilds the volume, in this process, and demands that it worked.
    pub(crate) fn rebuild(&self, job: Job, which: Which) -> Result<Faulty<Box<dyn RebuildableVolume>>, String> {
        self.prepare(job)?;
        self.run(job, which)
    }

    /// Brings the volume to this root by the safest way, whatever it holds.
    pub(crate) fn reset(&self, which: Which) -> Result<(), String> {
        self.run(Job::Purging, which).map(drop)
    }

    /// Gives the volume the snapshot that the job is about.
    pub(crate) fn prepare(&self, job: Job) -> Result<(), String> {
        if job.snapshots_left(Found::Old) > 0 && self.volume(job)?.snapshots().map_err(report)?.is_empty() {
            self.place.snapshot()?;
        }
        Ok(())
    }

    fn run(&self, job: Job, which: Which) -> Result<Faulty<Box<dyn RebuildableVolume>>, String> {
        let mut volume = Faulty::new(self.volume(job)?);
        job.run(&mut volume, &self.bases()?, self.image(which), Arc::new(Silent)).map_err(report)?;
        match self.live()? {
            Some(found) if found == which => self.expect_alone(job.snapshots_left(Found::New))?,
            other => return Err(format!("a rebuild from {which:?} left {other:?}")),
        }
        Ok(volume)
    }

    pub(crate) fn names(&self, job: Job) -> Result<Names, String> {
        self.volume(job)?.names().map_err(report)
    }

    /// Which root is live; an error if it is neither of the two, whole.
    pub(crate) fn live(&self) -> Result<Option<Which>, String> {
        let Some(live) = self.place.live()? else { return Ok(None) };
        for which in [Which::A, Which::B] {
            if *self.manifest(which) == live {
                return Ok(Some(which));
            }
        }
        let [(_, a), (_, b)] = &self.images;
        Err(format!("the live root is neither A:\n{}\nnor B:\n{}", a.diff(&live), b.diff(&live)))
    }

    /// Demands that the pool holds the volume, with so many snapshots, and nothing else.
    fn expect_alone(&self, snapshots: usize) -> Result<(), String> {
        let snapshot = format!("c1@{SNAPSHOT}");
        let (names, expected) = (self.place.names()?, &["c1", &snapshot][..=snapshots.min(1)]);
        if names == expected { Ok(()) } else { Err(format!("in the pool are {names:?}, not {expected:?}")) }
    }

    /// Recovers after a kill on the way from `old` to the other root, and demands the one or the other, whole and alone, twice.
    pub(crate) fn examine(&self, job: Job, old: Which) -> Result<Found, String> {
        let before = self.names(job)?;
        let examine = || -> Result<Found, String> {
            let actions = self.recovered(job)?;
            let says = actions.contains(&RecoverAction::NoRoot);
            let names = self.names(job)?;
            if !names.live && says != (names.staged || names.retired) {
                return Err(format!("without a root, recover did {actions:?}, and left: {names}"));
            }
            let root = self.root_id(job)?;
            let again = self.recovered(job)?;
            if again.iter().any(|action| *action != RecoverAction::NoRoot) {
                return Err(format!("a second recover did {again:?}"));
            }
            if self.root_id(job)? != root || self.names(job)? != names {
                return Err("a second recover changed the names".into());
            }
            let Some(which) = self.live()? else { return Ok(Found::NoRoot) };
            let found = if which == old { Found::Old } else { Found::New };
            let expected = job.snapshots_left(found);
            let alone = self.expect_alone(expected);
            match alone {
                // Whoever purges knows of the policy, and recover does not: one that does not go with the old root is still there for the next rebuild.
                Err(_) if found == Found::New && self.place.snapshots_outlive() => self.expect_alone(expected + 1)?,
                alone => alone?,
            }
            Ok(found)
        };
        let found = examine().map_err(|why| format!("{why}\n  (there was: {before})"))?;
        // Only while the old root goes and the new one comes, in place.
        let atomic = self.volume(job)?.capabilities().removal == Removal::Atomic;
        let without = !(before.live || before.retired && (before.staged || atomic));
        if (found == Found::NoRoot) != without || (without && !job.is_in_place()) {
            return Err(format!("recover left {found:?}, and there was: {before}"));
        }
        Ok(found)
    }

    pub(crate) fn recovered(&self, job: Job) -> Result<Vec<RecoverAction>, String> {
        let wait = Wait::new(Duration::from_secs(20), CancelToken::new());
        Ok(recover(&mut *self.volume(job)?, &wait).map_err(report)?.actions)
    }

    fn root_id(&self, job: Job) -> Result<Option<RootId>, String> {
        self.volume(job)?.identity(Slot::Live).map_err(report)
    }
}

pub(crate) fn report(error: reroot::Error) -> String {
    error.report().to_string()
}

/// Directories of files of a few sizes, links of both kinds, and names that both trees have with different content.
fn tree(which: Which, entries: usize) -> Tree {
    let mut tree = Tree::new();
    let per_directory = 24;
    for number in 0..entries {
        let directory = format!("usr/share/{:03}", number / per_directory);
        let path = format!("{directory}/{number:05}");
        match (number % per_directory, which) {
            (0, _) => {
                tree.directory(&directory).mode = 0o750;
            }
            (1, _) => {
                tree.symlink(&path, format!("/target/of/{which:?}"));
            }
            (2, _) => tree.hard_link(&path, format!("{directory}/{:05}", number + 1)),
            // A directory in the one tree, a file in the other.
            (4, Which::A) => {
                tree.file(format!("{path}/deeper/still"), "A");
            }
            (kind, _) => {
                tree.file(&path, format!("{which:?} {number} ").repeat(kind * 4));
            }
        }
    }
    tree.file(format!("etc/{which:?}"), "only here");
    // Whole seconds need no extended headers, which would be half of the image.
    tree.nodes_mut().for_each(|node| node.mtime.1 = 0);
    tree
}

/// Counts what was found after the kills at each point.
#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    rows: BTreeMap<String, [usize; 3]>,
    order: Vec<String>,
    not_killed: usize,
}

impl Table {
    pub(crate) fn new(name: String) -> Self {
        Table { name, rows: BTreeMap::new(), order: Vec::new(), not_killed: 0 }
    }

    pub(crate) fn count(&mut self, point: String, found: Found) {
        if !self.rows.contains_key(&point) {
            self.order.push(point.clone());
        }
        self.rows.entry(point).or_default()[found as usize] += 1;
    }

    /// Counts a child that was faster than its killer.
    pub(crate) fn count_not_killed(&mut self) {
        self.not_killed += 1;
    }

    pub(crate) fn kills(&self) -> usize {
        self.rows.values().flatten().sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} kills, {} ended before theirs", self.name, self.kills(), self.not_killed)?;
        writeln!(f, "  {:<40} {:>6} {:>6} {:>6} {:>8}", "killed", "kills", "old", "new", "no root")?;
        for point in &self.order {
            let counts = self.rows.get(point).copied().unwrap_or_default();
            let [old, new, none] = counts;
            writeln!(f, "  {point:<40} {:>6} {old:>6} {new:>6} {none:>8}", old + new + none)?;
        }
        Ok(())
    }
}
