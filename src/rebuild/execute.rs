//! Executing a plan, and leaving the volume in a state that can be told when a step fails.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

#[cfg(feature = "tar")]
use super::ContentsPolicy;
use super::Options;
use super::growth;
use super::plan::{CommitKind, Plan, Purpose, Step, refuse_new_snapshots, stage_spec, wait_for_holders};
use super::policy::{SnapshotPolicy, Strategy};
use super::recover::Recovery;
use super::report::{Clock, Disposal, Made, Report};
use crate::error::{Error, ErrorKind, Outcome, Result, Space};
use crate::image::{Image, Need};
use crate::progress::{Event, Phase, Wait};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::volume::{Placement, RebuildableVolume, Removal, RootMetadata, Slot, Warning};

/// How far a rebuild has come: what a failure at this point means for the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// Nothing has been changed.
    Nothing,
    /// There may be a staged root. The live root is untouched.
    Staging,
    /// In place: the old root has its retired name, whole.
    Retired,
    /// In place: the old root is going or gone, and there may be a staged root.
    WithoutRoot,
    /// In place: the new root is complete and only lacks its name.
    Sealed,
    /// Which root bears which name is not known, or none is live: nothing may be removed.
    Unclear,
    /// The new root is live.
    Committed,
}

/// For how long it holds that no one holds a volume.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a rename or an exchange that may have failed has really done.
enum Done {
    Yes,
    No(Error),
    Unclear(Error),
}

/// Whether a staged root is gone.
enum Discarded {
    Yes,
    No,
}

pub(super) struct Execution<'a> {
    volume: &'a mut dyn RebuildableVolume,
    #[cfg_attr(not(feature = "tar"), allow(dead_code, reason = "without streams there is nothing to read"))]
    image: &'a mut Image,
    options: &'a Options,
    plan: &'a Plan,
    clock: &'a mut Clock<'a>,
    reached: Reached,
    /// Whether the volume has a live root that the new one replaces.
    exists: bool,
    /// When the plan was made, and so the holders were asked for.
    looked: Instant,
    root: Option<OwnedFd>,
    /// What is known of what the image needs by now, and the size that the new root gets for it.
    need: Need,
    size: Option<ByteSize>,
    placement: Placement,
    old_root: Option<Slot>,
    report: Report,
}

impl<'a> Execution<'a> {
    pub(super) fn new(
        volume: &'a mut dyn RebuildableVolume,
        image: &'a mut Image,
        options: &'a Options,
        plan: &'a Plan,
        recovered: Recovery,
        clock: &'a mut Clock<'a>,
    ) -> Self {
        let report = Report {
            volume: plan.volume.clone(),
            image: image.record(None),
            recovered,
            made: Made::Unpacked,
            entries: 0,
            bytes: Default::default(),
            shared: Default::default(),
            grown: None,
            #[cfg(feature = "tar")]
            losses: Default::default(),
            old_root: Disposal::None,
            purged: Vec::new(),
            kept: if plan.snapshot_policy == SnapshotPolicy::Keep { plan.snapshots.clone() } else { Vec::new() },
            reclaiming: None,
            warnings: Vec::new(),
            elapsed: Duration::ZERO,
            phases: Vec::new(),
        };
        let exists = plan.names.live;
        let reached = Reached::Nothing;
        Execution {
            volume,
            image,
            options,
            plan,
            clock,
            reached,
            exists,
            looked: Instant::now(),
            root: None,
            need: plan.need,
            size: None,
            placement: Placement::Beside,
            old_root: None,
            report,
        }
    }

    pub(super) fn run(mut self) -> Result<Report> {
        if let Err(error) = self.volume.capture() {
            return Err(self.unwind(error));
        }
        for step in &self.plan.steps {
            if let Err(error) = self.step(*step) {
                return Err(self.unwind(error));
            }
        }
        if self.report.old_root == Disposal::Removed || !self.report.purged.is_empty() {
            // Only told: that it cannot be found out is no failure of the rebuild.
            self.report.reclaiming = self.volume.reclaiming().ok().flatten().filter(|reclaiming| reclaiming.objects > 0);
        }
        (self.report.elapsed, self.report.phases) = self.clock.stop();
        Ok(self.report)
    }

    fn step(&mut self, step: Step) -> Result<()> {
        if !matches!((self.reached, step), (Reached::Committed, _) | (_, Step::Commit(_))) {
            self.options.cancel.check("rebuild")?;
        }
        match step {
            // Done under the lock before the plan was made: a plan that is run never holds this step.
            Step::Recover(_) => Ok(()),
            Step::CheckImage => self.check_image(),
            Step::Retire => self.retire(),
            Step::RemoveRetired => self.remove(Slot::Retired),
            Step::RemoveStaged => self.remove(Slot::Staged),
            Step::Stage(size) => self.stage(size, Placement::Beside),
            Step::StageWithin(size) => self.stage(size, Placement::Within),
            Step::Clone(size) => self.clone_base(size),
            Step::Fill => self.fill(),
            Step::Seal => self.seal(),
            Step::Commit(kind) => self.commit(kind),
            Step::Purge => self.purge(),
            Step::Dispose => self.dispose(),
        }
    }

    fn check_image(&mut self) -> Result<()> {
        self.clock.enter(Phase::Check);
        #[cfg(feature = "tar")]
        {
            let tally = super::fill::check(self.image, self.options, self.clock)?;
            self.need.entries = Some(tally.entries);
            self.need.expected = Some(tally.bytes);
            let sizing = self.volume.capabilities().sizing;
            if sizing.can_grow() {
                let at_least = if sizing.is_of_device() { tally.bytes } else { self.need.at_least };
                let need = Need { at_least, ..self.need };
                let (max, current) = (self.options.max_size, self.plan.usage.size);
                self.size = growth::to_begin_with(self.options.size, current, max, &need)?;
            }
        }
        Ok(())
    }

    fn retire(&mut self) -> Result<()> {
        self.clock.enter(Phase::Remove);
        wait_for_holders(self.volume, &self.busy_wait(), Purpose::Rebuild)?;
        // The image has been read to its end meanwhile. What was taken since then would go with the old root.
        refuse_new_snapshots(self.volume, &self.plan.snapshots)?;
        match self.rename(Slot::Live, Slot::Retired) {
            Done::Yes => self.reached = Reached::Retired,
            Done::No(error) => return Err(error),
            Done::Unclear(error) => {
                self.reached = Reached::Unclear;
                return Err(error);
            }
        }
        Ok(())
    }

    fn remove(&mut self, slot: Slot) -> Result<()> {
        if self.reached == Reached::Nothing {
            self.clock.enter(Phase::Remove);
        }
        // A root that goes in one step is there or not; one that goes file by file is lost with the first.
        if self.reached != Reached::Retired || self.volume.capabilities().removal == Removal::Gradual {
            self.reached = Reached::WithoutRoot;
        }
        self.discard(slot)?;
        self.reached = Reached::WithoutRoot;
        Ok(())
    }

    fn begin_staging(&mut self) {
        self.clock.enter(Phase::Stage);
        if self.reached == Reached::Nothing {
            self.reached = Reached::Staging;
        }
    }

    fn stage(&mut self, size: Option<ByteSize>, placement: Placement) -> Result<()> {
        self.begin_staging();
        self.placement = placement;
        let mut spec = stage_spec(self.size.or(size), None, placement);
        spec.entries = self.entries();
        self.root = Some(self.volume.stage(&spec)?);
        self.size = spec.size;
        Ok(())
    }

    /// Stages a clone. A volume whose limits are too low for it and that may grow gets higher ones.
    fn clone_base(&mut self, mut size: Option<ByteSize>) -> Result<()> {
        self.begin_staging();
        loop {
            let spec = stage_spec(size, self.plan.base.clone(), Placement::Beside);
            let error = match self.volume.stage(&spec) {
                Ok(_) => break,
                Err(error) => error,
            };
            let now = size.or(self.plan.usage.size);
            let (Some(now), Some(max), ErrorKind::NoSpace(_)) = (now, self.options.max_size, error.kind()) else {
                return Err(error);
            };
            let Some(larger) = growth::larger(now, max) else { return Err(growth::is_largest(error, now)) };
            (size, self.report.grown) = (Some(larger), Some(larger));
            self.clock.event(&Event::Grown(larger));
        }
        self.report.made = Made::Cloned;
        if let Some(contents) = self.contents_of_base() {
            (self.report.entries, self.report.bytes, self.report.shared) = (contents.entries, contents.bytes, contents.bytes);
        }
        Ok(())
    }

    #[cfg(feature = "tar")]
    fn contents_of_base(&self) -> Option<crate::record::Contents> {
        self.image.base().and_then(|base| base.record.contents)
    }

    #[cfg(not(feature = "tar"))]
    fn contents_of_base(&self) -> Option<crate::record::Contents> {
        None
    }

    /// How many entries the new root is to have room for, so far as an image that says so may have as many.
    fn entries(&self) -> Option<u64> {
        #[cfg(feature = "tar")]
        return self.need.entries.map(|entries| entries.min(self.options.limits.entries));
        #[cfg(not(feature = "tar"))]
        self.need.entries
    }

    fn metadata(&self) -> RootMetadata {
        if self.exists || self.plan.names.retired { RootMetadata::Keep } else { RootMetadata::FromImage }
    }

    #[cfg(not(feature = "tar"))]
    fn fill(&mut self) -> Result<()> {
        Ok(())
    }

    #[cfg(feature = "tar")]
    fn fill(&mut self) -> Result<()> {
        self.clock.enter(Phase::Fill);
        let Some(root) = self.root.take() else { return Ok(()) };
        let size = self.size.or(self.plan.usage.size);
        let metadata = self.metadata();
        let filled = super::fill::fill(self.volume, &root, self.image, metadata, self.options, size, self.clock);
        let filled = filled.map_err(|error| turned_read_only(self.volume.explain(error)))?;
        self.report.image = self.image.record(filled.digest);
        self.report.entries = filled.unpacked.tally.entries;
        self.report.bytes = filled.unpacked.tally.bytes;
        self.report.shared = filled.unpacked.tally.shared;
        if self.plan.base.is_some() {
            self.report.made = Made::Copied;
            // The base's own top is none of its entries, as it is none of a clone's.
            self.report.entries = self.report.entries.saturating_sub(1);
        }
        if self.options.contents == ContentsPolicy::Recorded {
            self.report.image.losses = filled.unpacked.losses.count();
            self.report.image.contents = Some(super::fill::contents(&root, self.image, self.options, self.clock)?);
        }
        self.report.losses = filled.unpacked.losses;
        self.report.grown = filled.grown;
        Ok(())
    }

    fn seal(&mut self) -> Result<()> {
        self.clock.enter(Phase::Seal);
        self.root = None;
        #[cfg(feature = "tar")]
        if let Some(lost) = self.image.base().and_then(|base| super::base::what_is_lost(base)) {
            self.warn(Warning::new(lost));
        }
        let record: &ImageRecord = &self.report.image;
        let warnings = self.volume.seal(record, self.metadata());
        let warnings = warnings.map_err(|error| turned_read_only(self.volume.explain(error)))?;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        Ok(())
    }

    fn commit(&mut self, kind: CommitKind) -> Result<()> {
        // The last moment: whoever came to hold the volume while it was filled is asked to go first.
        if self.exists && self.plan.strategy == Strategy::Swap {
            if !self.has_just_looked() {
                wait_for_holders(self.volume, &self.busy_wait(), Purpose::Rebuild)?;
            }
            // After a clone too: a snapshot would go with the old root.
            if self.placement == Placement::Beside {
                refuse_new_snapshots(self.volume, &self.plan.snapshots)?;
            }
        }
        if self.reached == Reached::WithoutRoot {
            // To stop here would be to throw away the only root there is.
            self.reached = Reached::Sealed;
        } else {
            self.options.cancel.check("rebuild")?;
        }
        self.clock.enter(Phase::Commit);
        let done = match kind {
            CommitKind::Exchange => self.exchange(),
            CommitKind::TwoRenames => self.rename_twice(),
            CommitKind::Rename => self.rename(Slot::Staged, Slot::Live),
            CommitKind::Within => self.exchange_within(),
        };
        match done {
            Done::Yes => {
                self.reached = Reached::Committed;
                if self.old_root.is_some() {
                    self.report.old_root = Disposal::Left;
                } else if self.exists {
                    self.report.old_root = Disposal::Removed;
                }
                Ok(())
            }
            Done::No(error) => Err(error),
            Done::Unclear(error) => {
                self.reached = Reached::Unclear;
                Err(error)
            }
        }
    }

    /// A clone takes so little time that to ask again would take most of it; nothing keeps a holder from coming right after the answer anyway.
    fn has_just_looked(&self) -> bool {
        self.report.made == Made::Cloned && self.looked.elapsed() < LOOK_AGAIN
    }

    fn exchange(&mut self) -> Done {
        match self.try_exchange() {
            Ok(Done::Yes) => {
                self.old_root = Some(Slot::Staged);
                Done::Yes
            }
            Ok(other) => other,
            Err(_) => self.rename_twice(),
        }
    }

    /// The old root goes with the snapshot that kept it.
    fn exchange_within(&mut self) -> Done {
        self.try_exchange().unwrap_or_else(Done::No)
    }

    /// Exchanges, and finds out by the identities what an error was worth. `Err`: it cannot be done here.
    fn try_exchange(&mut self) -> Result<Done> {
        let staged = match self.volume.identity(Slot::Staged) {
            Ok(staged) => staged,
            Err(error) => return Ok(Done::No(error)),
        };
        let error = match self.volume.exchange() {
            Ok(()) => return Ok(Done::Yes),
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            Err(error) if is_unclear(&error) => return Ok(Done::Unclear(error)),
            Err(error) => error,
        };
        Ok(match self.volume.identity(Slot::Live) {
            Ok(live) if live == staged => {
                self.warn(Warning::new("the exchange took place although it returned an error").with_error(error));
                Done::Yes
            }
            Ok(_) => Done::No(error),
            Err(_) => Done::Unclear(error),
        })
    }

    fn rename_twice(&mut self) -> Done {
        match self.rename(Slot::Live, Slot::Retired) {
            Done::Yes => {}
            other => return other,
        }
        let error = match self.rename(Slot::Staged, Slot::Live) {
            Done::Yes => {
                self.old_root = Some(Slot::Retired);
                return Done::Yes;
            }
            Done::No(error) => error,
            unclear @ Done::Unclear(_) => return unclear,
        };
        match self.rename(Slot::Retired, Slot::Live) {
            Done::Yes => Done::No(error),
            Done::No(undo) | Done::Unclear(undo) => Done::Unclear(error.with_context("undoing", undo)),
        }
    }

    /// Renames, and finds out by the names what an error was worth.
    fn rename(&mut self, from: Slot, to: Slot) -> Done {
        let error = match self.volume.rename(from, to) {
            Ok(()) => return Done::Yes,
            Err(error) if is_unclear(&error) => return Done::Unclear(error),
            Err(error) => error,
        };
        let has = |names: &crate::volume::Names, slot| match slot {
            Slot::Live => names.live,
            Slot::Staged => names.staged,
            Slot::Retired => names.retired,
        };
        match self.volume.names() {
            Ok(names) if has(&names, from) => Done::No(error),
            // A rename happens whole or not at all, so somebody else has taken the live root away, and it is theirs to bring back.
            Ok(names) if from == Slot::Live && !has(&names, to) => {
                Done::No(error.with_remedy(
                    "the live root was renamed or removed by somebody else meanwhile: bring it back, or rebuild again",
                ))
            }
            Ok(names) if has(&names, to) => {
                self.warn(Warning::new(format!("the {from} was renamed although that returned an error")).with_error(error));
                Done::Yes
            }
            _ => Done::Unclear(error),
        }
    }

    fn purge(&mut self) -> Result<()> {
        if self.reached == Reached::Committed {
            self.clock.enter(Phase::Dispose);
        }
        match self.volume.purge(&self.plan.snapshots) {
            Ok(()) => self.report.purged.clone_from(&self.plan.snapshots),
            Err(error) if self.reached == Reached::Committed => {
                self.report.kept = self.volume.snapshots().unwrap_or_default();
                self.warn(Warning::new("not all snapshots could be destroyed").with_error(error));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn dispose(&mut self) -> Result<()> {
        self.clock.enter(Phase::Dispose);
        let Some(slot) = self.old_root else { return Ok(()) };
        match self.discard(slot) {
            Ok(()) => self.report.old_root = Disposal::Removed,
            Err(error) => self.warn(Warning::new("the old root could not be removed; recover tries again").with_error(error)),
        }
        Ok(())
    }

    /// Removes a root, and finds out by the names what an error was worth.
    fn discard(&mut self, slot: Slot) -> Result<()> {
        let Err(error) = self.volume.discard(slot) else { return Ok(()) };
        match self.volume.names() {
            Ok(names) if !(slot == Slot::Staged && names.staged || slot == Slot::Retired && names.retired) => {
                self.warn(Warning::new(format!("the {slot} is gone although its removal returned an error")).with_error(error));
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn warn(&mut self, warning: Warning) {
        crate::trace::warning!(volume = %self.plan.volume, %warning);
        self.clock.event(&Event::Warning(&warning.to_string()));
        self.report.warnings.push(warning);
    }

    fn busy_wait(&self) -> Wait {
        Wait::new(self.options.busy_wait, self.options.cancel.clone())
    }

    /// Undoes what can be undone and says what could not.
    fn unwind(&mut self, error: Error) -> Error {
        self.root = None;
        let nothing_before = if self.report.recovered.is_without_root() { Some(Outcome::NoRoot) } else { None };
        let (outcome, remedy) = match self.reached {
            Reached::Nothing => (nothing_before.unwrap_or(Outcome::Untouched), None),
            Reached::Staging => match self.discard_staged() {
                // What bears the volume's name is the unfinished root.
                Discarded::No if self.placement == Placement::Within => {
                    (Outcome::Interrupted, Some("remove the cause and run recover, which brings the old root back"))
                }
                Discarded::Yes | Discarded::No => (nothing_before.unwrap_or(Outcome::RolledBack), None),
            },
            Reached::Retired => match self.rename(Slot::Retired, Slot::Live) {
                Done::Yes => (Outcome::RolledBack, None),
                // Recover would roll it back only where removal is atomic; elsewhere it cannot know that the root is whole.
                Done::No(_) | Done::Unclear(_) if self.volume.capabilities().removal == Removal::Atomic => {
                    (Outcome::Interrupted, Some("remove the cause and run recover"))
                }
                Done::No(_) | Done::Unclear(_) => {
                    (Outcome::NoRoot, Some("the old root is whole under its retired name: rename it back, or rebuild again"))
                }
            },
            Reached::WithoutRoot => {
                let _ = self.discard_staged();
                (Outcome::NoRoot, None)
            }
            Reached::Sealed => {
                (Outcome::NoRoot, Some("the new root is whole under its staged name: rename it by hand, or rebuild again"))
            }
            // Recover cannot know there that a root under the retired name is whole.
            Reached::Unclear
                if self.plan.strategy == Strategy::InPlace && self.volume.capabilities().removal == Removal::Gradual =>
            {
                let remedy = "remove the cause; where the old root has its retired name, rename it back before anything else, then run recover";
                (Outcome::Interrupted, Some(remedy))
            }
            Reached::Unclear => (Outcome::Interrupted, Some("remove the cause and run recover")),
            Reached::Committed => (Outcome::Untouched, None),
        };
        let error = match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        };
        self.explain(error).with_outcome(outcome)
    }

    fn discard_staged(&mut self) -> Discarded {
        let Ok(names) = self.volume.names() else { return Discarded::No };
        if names.staged && self.discard(Slot::Staged).is_err() {
            crate::trace::warning!(volume = %self.plan.volume, "the staged root could not be removed; recover tries again");
            return Discarded::No;
        }
        Discarded::Yes
    }

    fn explain(&self, error: Error) -> Error {
        let swap = self.plan.strategy == Strategy::Swap && self.exists;
        if self.placement == Placement::Within {
            let remedy = match error.kind() {
                ErrorKind::NoSpace(Space::Pool) => "make room in the pool: the snapshots that are kept take some of it",
                ErrorKind::NoSpace(Space::Quota) => "raise the quota, which may count the snapshots that are kept",
                _ => return error,
            };
            return error.with_remedy(remedy);
        }
        let remedy = match (error.kind(), swap) {
            (ErrorKind::NoSpace(Space::Pool), true) => {
                "make room in the pool, or rebuild in place, which needs no room for two roots"
            }
            (ErrorKind::NoSpace(Space::Pool), false) => "make room in the pool",
            (ErrorKind::NoSpace(Space::Quota), true) => "raise the quota, which counts both roots, or rebuild in place",
            (ErrorKind::NoSpace(Space::Quota), false) => "raise the quota",
            (ErrorKind::NoSpace(Space::ThinData), true) => {
                "extend the thin pool (lvextend), or rebuild in place, which needs no room for two roots"
            }
            (ErrorKind::NoSpace(Space::ThinData), false) => "extend the thin pool (lvextend)",
            (ErrorKind::NoSpace(Space::ThinMetadata), _) => "extend the thin pool's metadata (lvextend --poolmetadatasize)",
            (ErrorKind::NoSpace(Space::Inodes), true) => "free inodes in the pool, or rebuild in place",
            (ErrorKind::NoSpace(Space::Inodes), false) => "free inodes in the pool",
            _ => return error,
        };
        error.with_remedy(remedy)
    }
}

/// Whether the names that are seen may not be those on the disk: to go on by them could be to remove the root that is there after a loss of power.
fn is_unclear(error: &Error) -> bool {
    error.outcome() == Outcome::Interrupted
}

/// What could be written to when the root was begun, and cannot any more, has lost its disk as a rule: nobody lacks a permission.
fn turned_read_only(error: Error) -> Error {
    if error.raw_os_error() == Some(libc::EROFS) {
        let remedy = "the file system became read-only, as after an error of its disk: see the kernel's log";
        return error.with_kind(ErrorKind::Io).with_remedy(remedy);
    }
    error
}
