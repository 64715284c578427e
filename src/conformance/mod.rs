//! The suite that every backend passes, and what it is made of.
//!
//! Who writes a backend implements [`Factory`] and [`Pool`] for it, in some hundred lines, and calls [`run_all`], or makes a test of each
//! of [`cases()`]. The suite is exact: it compares whole trees by [`Manifest`], makes every primitive fail, and those that change something
//! before and after they were carried out ([`Faulty`]), and demands that the volume holds the old root or the new one, whole, every time.
//!
//! What it cannot do from within one process, a kill at any moment, the crash tests of this crate do with the same pieces.
//!
//! # What the pools need
//! Nothing out of the ordinary: extended attributes, POSIX ACLs, devices and foreign owners are tested where the pool and the caller's
//! privileges have them. The suite writes to the pools it is given and to a folder of its own in the temporary directory.
//!
//! # Stability
//! Cases are added, and made stricter, in any release: a backend that passed may have to be mended. The items themselves follow the
//! version of the crate.

mod bench;
mod cases;
pub mod fault;
pub mod manifest;
pub mod tree;

pub use fault::Faulty;
pub use manifest::{Manifest, ManifestOptions};
pub use tree::Tree;

use std::fmt;
use std::path::Path;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::volume::{BasePool, RebuildableVolume, Slot};

/// Makes pools on one backend, in one configuration.
pub trait Factory: Send + Sync {
    /// The backend's name, as in [`VolumeId::scheme`](crate::volume::VolumeId::scheme).
    fn scheme(&self) -> &str;

    /// A fresh, empty pool for one case; dropping it removes it and all that is in it.
    ///
    /// # Errors
    /// Whatever prevents it; the case has then failed.
    fn pool(&self) -> Result<Box<dyn Pool>>;

    /// A pool that shares its space with no other, so that [`Pool::limit_space`] works and disturbs no one.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), with the reason, where that cannot be had; cases that need it then do not apply.
    fn confined_pool(&self) -> Result<Box<dyn Pool>>;
}

/// Where the volumes of one case live.
pub trait Pool: Send + Sync {
    /// The volume `name`, which need not exist. Two calls with one name give two handles to one volume.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the backend has no such names.
    fn volume(&self, name: &str) -> Result<Box<dyn RebuildableVolume>>;

    /// Shows `look` the directory of a root that exists, mounted if need be for as long as it takes.
    ///
    /// # Errors
    /// Those of `look`, and whatever prevents it.
    fn visit(&self, name: &str, slot: Slot, look: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()>;

    /// Takes a real snapshot of the live root, as a container manager does. Returns the name under which the volume lists it, which may be
    /// longer than `snapshot`, and sorts as that does.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), with the reason, where there are none.
    fn snapshot(&self, name: &str, snapshot: &str) -> Result<String>;

    /// Makes something real hold the live root until the value is dropped: a process in it, a mount, a mapping.
    ///
    /// Where cases run in several threads, start processes before them: between its fork and its exec a new process holds copies of all
    /// descriptors of this one, and a case in another thread may see it in its root.
    ///
    /// # Errors
    /// Whatever prevents it.
    fn hold(&self, name: &str) -> Result<Held>;

    /// Takes space away until about `free` are left; dropping the value gives it back.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), with the reason, unless this is a [confined pool](Factory::confined_pool).
    fn limit_space(&self, free: ByteSize) -> Result<Held>;

    /// The bases of the pool. Two calls give two handles to the same ones.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), with the reason, unless the backend keeps bases; cases about them then do not apply.
    fn bases(&self) -> Result<Box<dyn BasePool>> {
        Err(Error::new(ErrorKind::Unsupported, "open the bases", "the backend keeps no bases"))
    }

    /// The names of all that is in the pool besides the live roots of volumes, their snapshots, complete bases and what is kept to know their
    /// use; sorted.
    ///
    /// # Errors
    /// Whatever prevents it.
    fn leftovers(&self) -> Result<Vec<String>>;
}

/// Something that lasts until it is dropped.
#[derive(Debug)]
pub struct Held {
    _guard: Box<dyn Guard>,
}

trait Guard: fmt::Debug {}
impl<T: fmt::Debug> Guard for T {}

impl Held {
    /// Ends when `guard` is dropped.
    pub fn new(guard: impl fmt::Debug + 'static) -> Self {
        Held { _guard: Box::new(guard) }
    }
}

/// One case of the suite.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// Its name, in words joined by underscores.
    pub name: &'static str,
    /// Runs it on pools of its own.
    pub run: fn(&dyn Factory) -> Result<CaseOutcome, Failure>,
}

/// How a case ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseOutcome {
    /// The backend does what it must.
    Passed,
    /// The backend, the pool or the caller's privileges lack what the case is about: this.
    NotApplicable(String),
}

/// What a backend did not do as it must.
#[derive(Debug, Clone)]
pub struct Failure(String);

impl Failure {
    /// A failure, in words.
    pub fn new(what: impl Into<String>) -> Self {
        Failure(what.into())
    }

    /// Says in what situation it was.
    #[must_use]
    pub fn during(self, situation: impl fmt::Display) -> Self {
        Failure(format!("{situation}: {}", self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(error.report().to_string())
    }
}

/// All cases, in the order in which they make most sense of a backend that is being written.
pub fn cases() -> Vec<Case> {
    cases::all()
}

/// How many cases ended how.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Summary {
    /// So many passed.
    pub passed: usize,
    /// So many did not apply.
    pub not_applicable: usize,
    /// These failed, with the reason.
    pub failed: Vec<(&'static str, Failure)>,
}

impl Summary {
    /// Whether no case failed.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} not applicable", self.passed, self.failed.len(), self.not_applicable)
    }
}

/// Runs all cases, one after the other; `report` gets a line for each when it has ended.
pub fn run_all(factory: &dyn Factory, report: &mut dyn FnMut(&str)) -> Summary {
    let mut summary = Summary::default();
    for case in cases() {
        let start = Instant::now();
        let result = (case.run)(factory);
        let line = match &result {
            Ok(CaseOutcome::Passed) => "ok".to_owned(),
            Ok(CaseOutcome::NotApplicable(why)) => format!("not applicable: {why}"),
            Err(failure) => format!("FAILED: {failure}"),
        };
        report(&format!("{} {} ({} ms): {line}", factory.scheme(), case.name, start.elapsed().as_millis()));
        match result {
            Ok(CaseOutcome::Passed) => summary.passed += 1,
            Ok(CaseOutcome::NotApplicable(_)) => summary.not_applicable += 1,
            Err(failure) => summary.failed.push((case.name, failure)),
        }
    }
    summary
}
