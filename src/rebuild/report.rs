//! What a rebuild did.

use std::fmt;
use std::time::{Duration, Instant};

use super::recover::Recovery;
use crate::progress::{Event, Phase, Progress};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::volume::{Reclaiming, Snapshot, VolumeId, Warning};

/// What a successful rebuild did. `Display` is for a person, a few lines long.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// The volume.
    pub volume: VolumeId,
    /// What its root was filled from.
    pub image: ImageRecord,
    /// What an earlier, interrupted run had left, and what became of it.
    pub recovered: Recovery,
    /// How the new root was made.
    pub made: Made,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of file content in it, holes not counted.
    pub bytes: ByteSize,
    /// How much of it was not written, but is shared with a base.
    pub shared: ByteSize,
    /// The size the volume was grown to on the way.
    pub grown: Option<ByteSize>,
    /// What the image holds and the new root does not.
    #[cfg(feature = "tar")]
    pub losses: crate::unpack::Losses,
    /// What became of the old root.
    pub old_root: Disposal,
    /// Snapshots that were destroyed.
    pub purged: Vec<Snapshot>,
    /// Snapshots that stay.
    pub kept: Vec<Snapshot>,
    /// What was removed from the pool, now or before, and still takes space that comes back by and by.
    pub reclaiming: Option<Reclaiming>,
    /// What did not stop the rebuild but should be known.
    pub warnings: Vec<Warning>,
    /// How long it took in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub elapsed: Duration,
    /// How long each phase took.
    pub phases: Vec<PhaseTime>,
}

/// How long a phase took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// Its wall time.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub elapsed: Duration,
}

/// How a new root was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Made {
    /// From the image itself.
    Unpacked,
    /// From its base, in one step.
    Cloned,
    /// From its base, entry by entry; files share data where [`Report::shared`] says so.
    Copied,
}

/// What became of the old root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Disposal {
    /// There was none.
    #[default]
    None,
    /// It is gone.
    Removed,
    /// It is still there, beside the new root, for [`recover`](crate::recover) or the next rebuild to remove: it was to be so
    /// ([`Dispose::Detach`](crate::Dispose::Detach)), or a warning says why.
    Left,
}

#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rebuilt {} from {} in {:.2} s", self.volume, self.image.origin, self.elapsed.as_secs_f64())?;
        if let Some(digest) = self.image.digest {
            writeln!(f, "  image:     sha256 {digest}")?;
        }
        write!(f, "  new root:  {} entries, {}", self.entries, self.bytes)?;
        match self.made {
            Made::Unpacked => {}
            Made::Cloned => write!(f, ", cloned from the base of the image")?,
            Made::Copied if self.shared == ByteSize::ZERO => write!(f, ", copied from the base of the image")?,
            Made::Copied => write!(f, ", {} of it shared with the base of the image", self.shared)?,
        }
        if let Some(grown) = self.grown {
            write!(f, ", grown to {grown}")?;
        }
        let old = match self.old_root {
            Disposal::None => "there was none",
            Disposal::Removed => "removed",
            Disposal::Left => "still there; recover removes it",
        };
        write!(f, "\n  old root:  {old}")?;
        if !self.purged.is_empty() || !self.kept.is_empty() {
            write!(f, "\n  snapshots: {} destroyed, {} kept", self.purged.len(), self.kept.len())?;
        }
        if let Some(reclaiming) = self.reclaiming {
            write!(f, "\n  space:     still to come back from {reclaiming}")?;
        }
        for action in &self.recovered.actions {
            write!(f, "\n  recovered: {action}")?;
        }
        #[cfg(feature = "tar")]
        if !self.losses.is_empty() {
            write!(f, "\n  not kept:  {}", self.losses)?;
        }
        for warning in &self.warnings {
            write!(f, "\n  warning:   {warning}")?;
        }
        Ok(())
    }
}

/// Knows which phase a rebuild is in, tells its caller, and takes the times.
#[derive(Debug)]
pub(super) struct Clock<'a> {
    progress: &'a dyn Progress,
    begun: Instant,
    current: Option<(Phase, Instant)>,
    phases: Vec<PhaseTime>,
}

impl<'a> Clock<'a> {
    pub(super) fn new(progress: &'a dyn Progress) -> Self {
        Clock { progress, begun: Instant::now(), current: None, phases: Vec::new() }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        crate::trace::debug!(%phase, "phase");
        self.leave();
        self.current = Some((phase, Instant::now()));
        self.event(&Event::Phase(phase));
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        self.progress.event(event);
    }

    fn leave(&mut self) {
        if let Some((phase, begun)) = self.current.take() {
            self.phases.push(PhaseTime { phase, elapsed: begun.elapsed() });
        }
    }

    /// The whole time and that of each phase.
    pub(super) fn stop(&mut self) -> (Duration, Vec<PhaseTime>) {
        self.leave();
        (self.begun.elapsed(), std::mem::take(&mut self.phases))
    }
}

/// Tells nobody.
#[derive(Debug)]
pub(crate) struct Silent;

impl Progress for Silent {
    fn event(&self, _: &Event<'_>) {}
}
