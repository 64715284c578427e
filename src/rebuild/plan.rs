//! What a rebuild is going to do, decided before anything is changed.

use std::fmt;

use super::Options;
use super::growth;
use super::policy::{Dispose, SnapshotPolicy, Strategy, Survey};
use super::recover::{RecoverAction, decide};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, Need};
use crate::progress::Wait;
use crate::record::Origin;
use crate::size::ByteSize;
use crate::volume::{
    Cloning, Commit, Holder, Names, Placement, RebuildableVolume, Sizing, Snapshot, SnapshotSupport, StageSpec, Usage, UsageDetail,
    VolumeId,
};

/// What a rebuild is going to do: the result of all checks, and the steps that [`Rebuild::run`](crate::Rebuild::run) then executes.
///
/// `Display` is for a person, several lines long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Plan {
    /// The volume.
    pub volume: VolumeId,
    /// The names that existed when the plan was made.
    pub names: Names,
    /// Where the image comes from.
    pub image: Origin,
    /// The base of the image, if the root comes from that.
    pub base: Option<VolumeId>,
    /// In which order the roots go and come.
    pub strategy: Strategy,
    /// What becomes of the snapshots.
    pub snapshot_policy: SnapshotPolicy,
    /// The snapshots there are.
    pub snapshots: Vec<Snapshot>,
    /// Space, as it was observed.
    pub usage: Usage,
    /// What is known of the space the image needs.
    pub need: Need,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
}

/// One step of a [`Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Step {
    /// Tidy up after an interrupted run.
    Recover(RecoverAction),
    /// Read the whole image and write nothing, so that an unusable one costs nothing.
    CheckImage,
    /// Rename the live root to its retired name.
    Retire,
    /// Remove what stands under the retired name: the old root of an in-place rebuild, or what is left of one.
    RemoveRetired,
    /// Remove what an in-place rebuild left of a staged root.
    RemoveStaged,
    /// Make an empty staged root, with this size if one was asked for.
    Stage(Option<ByteSize>),
    /// Make a staged root that is a clone of the base, with this size if one was asked for.
    Clone(Option<ByteSize>),
    /// Take a snapshot that brings the old root back, and empty the live one, with this size if one was asked for.
    StageWithin(Option<ByteSize>),
    /// Unpack the image into it, or copy the base.
    Fill,
    /// Apply the kept properties, record the image, wait for the disk.
    Seal,
    /// Make it live.
    Commit(CommitKind),
    /// Destroy the snapshots that the plan names.
    Purge,
    /// Remove the old root.
    Dispose,
}

/// What a commit has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum CommitKind {
    /// Exchange the live and the staged root in one step.
    Exchange,
    /// Rename the live root away, and the staged one to its name.
    TwoRenames,
    /// Rename the staged root: no live one is in the way.
    Rename,
    /// Let go of the snapshot that would bring the old root back.
    Within,
}

/// Whether an image fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Fit {
    /// By what the image says of itself, yes.
    Fits,
    /// No.
    TooLarge,
    /// The image does not say how large it is.
    Unknown,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fit::Fits => "fits",
            Fit::TooLarge => "does not fit",
            Fit::Unknown => "may fit",
        })
    }
}

impl Plan {
    /// The size of the new root, where it has one that is known.
    fn staged_size(&self) -> Option<ByteSize> {
        let asked = self.steps.iter().find_map(|step| match step {
            Step::Stage(size) | Step::Clone(size) | Step::StageWithin(size) => *size,
            _ => None,
        });
        asked.or(self.usage.size)
    }

    /// Whether the image fits the pool with this strategy: beside the old root, or in its place.
    ///
    /// An estimate: file systems compress, share and pad. Only an image that cannot possibly fit is refused.
    pub fn fit(&self, strategy: Strategy) -> Fit {
        let room = match strategy {
            Strategy::Swap => Some(self.usage.free),
            Strategy::InPlace => self.usage.used.map(|used| used.saturating_add(self.usage.free)),
        };
        match (room, self.need.expected) {
            (Some(room), _) if self.need.at_least > room => Fit::TooLarge,
            (Some(room), Some(expected)) if expected > room => Fit::TooLarge,
            (Some(_), Some(_)) => Fit::Fits,
            _ => Fit::Unknown,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strategy = match self.strategy {
            _ if self.steps.iter().any(|step| matches!(step, Step::StageWithin(_))) => "within the old root's own place",
            Strategy::Swap => "beside the old root",
            Strategy::InPlace => "in place of the old root",
        };
        writeln!(f, "rebuild {} from {}, {strategy}", self.volume, self.image)?;
        if let Some(base) = &self.base {
            writeln!(f, "  base: {base}")?;
        }
        write!(f, "  space: {} free", self.usage.free)?;
        if let Some(used) = self.usage.used {
            write!(f, ", {used} used by the old root")?;
        }
        if let Some(expected) = self.need.expected {
            write!(f, ", about {expected} needed")?;
        }
        if let Some(entries) = self.need.entries {
            write!(f, " for {entries} entries")?;
        }
        if self.image != Origin::Empty && !self.steps.iter().any(|step| matches!(step, Step::Clone(_))) {
            write!(f, "; by swap it {}, in place it {}", self.fit(Strategy::Swap), self.fit(Strategy::InPlace))?;
        }
        writeln!(f)?;
        if let Some(free) = self.usage.free_metadata {
            write!(f, "  thin pool's metadata: {free} free")?;
            if let Some(needed) = self.usage.metadata_for(self.need.expected.unwrap_or(self.need.at_least)) {
                write!(f, ", {needed} needed at most")?;
            }
            writeln!(f)?;
        }
        if !self.snapshots.is_empty() {
            let fate = match self.snapshot_policy {
                SnapshotPolicy::Purge => "to be destroyed",
                _ => "kept",
            };
            writeln!(f, "  snapshots, {fate}: {}", list(&self.snapshots))?;
        }
        for (number, step) in self.steps.iter().enumerate() {
            let end = if number + 1 == self.steps.len() { "" } else { "\n" };
            write!(f, "  {:>2}. {step}{end}", number + 1)?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Recover(action) => write!(f, "recover: {action}"),
            Step::CheckImage => f.write_str("read and check the whole image"),
            Step::Retire => f.write_str("rename the live root to its retired name"),
            Step::RemoveRetired => f.write_str("remove the retired root"),
            Step::RemoveStaged => f.write_str("remove the unfinished staged root"),
            Step::Stage(None) => f.write_str("make an empty staged root"),
            Step::Stage(Some(size)) => write!(f, "make an empty staged root of {size}"),
            Step::Clone(None) => f.write_str("clone the base as the staged root"),
            Step::Clone(Some(size)) => write!(f, "clone the base as a staged root of {size}"),
            Step::StageWithin(None) => f.write_str("take a snapshot that brings the old root back, and empty the live one"),
            Step::StageWithin(Some(size)) => {
                write!(f, "take a snapshot that brings the old root back, and empty the live one, with a size of {size}")
            }
            Step::Fill => f.write_str("fill it from the image"),
            Step::Seal => f.write_str("apply what is kept, record the image, and wait for the disk"),
            Step::Commit(CommitKind::Exchange) => f.write_str("exchange the live and the staged root"),
            Step::Commit(CommitKind::TwoRenames) => f.write_str("rename the live root away and the staged root to its name"),
            Step::Commit(CommitKind::Rename) => f.write_str("rename the staged root to the volume's name"),
            Step::Commit(CommitKind::Within) => f.write_str("let go of the snapshot that would bring the old root back"),
            Step::Purge => f.write_str("destroy the snapshots"),
            Step::Dispose => f.write_str("remove the old root"),
        }
    }
}

/// What holders are in the way of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Rebuild,
    #[cfg_attr(not(feature = "tar"), allow(dead_code, reason = "only images make bases"))]
    RemoveBase,
}

impl Purpose {
    fn operation(self) -> &'static str {
        match self {
            Purpose::Rebuild => "rebuild",
            Purpose::RemoveBase => "remove the base",
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Purpose::Rebuild => "the volume",
            Purpose::RemoveBase => "it",
        }
    }

    /// What to do about a holder.
    fn remedy(self, holder: Option<&Holder>) -> &'static str {
        match (self, holder) {
            (Purpose::Rebuild, Some(Holder::Process { .. })) => "stop the instance, or end the process",
            (Purpose::Rebuild, Some(Holder::Mount { .. })) => "stop the instance, or unmount it",
            (Purpose::Rebuild, _) => "stop the instance, or release what holds it",
            // No instance runs in a base.
            (Purpose::RemoveBase, Some(Holder::Process { .. })) => "end the process and try again",
            (Purpose::RemoveBase, Some(Holder::Mount { .. })) => "unmount it and try again",
            (Purpose::RemoveBase, _) => "release what holds it and try again",
        }
    }
}

/// Checks everything that can be checked without writing, and decides.
pub(super) fn make(
    volume: &dyn RebuildableVolume,
    image: &Image,
    options: &Options,
    detail: UsageDetail,
    busy: &Wait,
) -> Result<Plan> {
    let capabilities = volume.capabilities();
    let found = volume.names()?;
    let recovery = decide(found, capabilities.removal);
    let without_root = recovery.contains(&RecoverAction::NoRoot);
    let live = found.live || recovery.iter().any(|action| matches!(action, RecoverAction::RollForward | RecoverAction::RollBack));

    image.resolve(&options.cancel)?;
    #[cfg(feature = "tar")]
    super::base::check_options(image, options)?;
    let base = base_of(image);
    let placement = placement(options, capabilities.snapshots, live)?;
    let within = placement == Placement::Within;
    let cloned = base.clone().filter(|_| capabilities.cloning == Cloning::Instant && !within);
    let survey = options.survey == Survey::Count;
    if (options.strategy == Strategy::InPlace || survey) && !image.is_rereadable() {
        let (why, remedy) = match image.origin() {
            Origin::Stream(_) => ("it is a stream", "save the image to a file, or rebuild by swap"),
            _ => ("its layers are in a compressed tarball", "decompress the image, or rebuild by swap"),
        };
        let message = format!("the image cannot be read twice: {why}");
        let (operation, remedy) = match options.strategy {
            Strategy::InPlace => ("rebuild in place", remedy),
            Strategy::Swap => ("survey the image", "save the image to a file, or rebuild without a survey"),
        };
        return Err(Error::new(ErrorKind::Unsupported, operation, message).with_remedy(remedy));
    }
    check_size(options, capabilities.sizing)?;
    wait_for_holders(volume, busy, Purpose::Rebuild)?;
    let snapshots = check_snapshots(volume, options.snapshots, capabilities.snapshots)?;
    let detail = if options.strategy == Strategy::InPlace { UsageDetail::Full } else { detail };
    let usage = volume.usage(detail)?;
    check_shrink(options.size, &usage)?;
    let need = if cloned.is_some() { Need::default() } else { image.need() };
    let size = match capabilities.sizing {
        Sizing::Unsized => None,
        _ => growth::to_begin_with(options.size, usage.size, options.max_size, &need)?,
    };
    check_spec(volume, options, placement, &cloned, (size, usage.size))?;

    let mut steps: Vec<_> = recovery.into_iter().filter(|action| *action != RecoverAction::NoRoot).map(Step::Recover).collect();
    let in_place = options.strategy == Strategy::InPlace && live;
    let purge = options.snapshots == SnapshotPolicy::Purge && !snapshots.is_empty();
    let bound = snapshots.iter().any(|snapshot| snapshot.support.unwrap_or(capabilities.snapshots).is_bound());
    // What is left without a live root may still be a whole one: it does not go for an image that turns out to be unusable.
    let checkable = !image.is_empty() && cloned.is_none();
    if (options.strategy == Strategy::InPlace || survey || without_root && image.is_rereadable()) && checkable {
        steps.push(Step::CheckImage);
    }
    if without_root {
        steps.extend(found.retired.then_some(Step::RemoveRetired));
        steps.extend(found.staged.then_some(Step::RemoveStaged));
    }
    if in_place {
        steps.push(Step::Retire);
        steps.extend((purge && bound).then_some(Step::Purge));
        steps.push(Step::RemoveRetired);
    }
    steps.push(match placement {
        _ if cloned.is_some() => Step::Clone(size),
        Placement::Beside => Step::Stage(size),
        Placement::Within => Step::StageWithin(size),
    });
    steps.extend((cloned.is_none() && !image.is_empty()).then_some(Step::Fill));
    steps.push(Step::Seal);
    steps.push(Step::Commit(match capabilities.commit {
        _ if in_place || !live => CommitKind::Rename,
        _ if within => CommitKind::Within,
        Commit::Exchange => CommitKind::Exchange,
        Commit::TwoRenames => CommitKind::TwoRenames,
    }));
    steps.extend((purge && !(in_place && bound)).then_some(Step::Purge));
    steps.extend((live && !in_place && !within && options.dispose == Dispose::Wait).then_some(Step::Dispose));

    let plan = Plan {
        volume: volume.id(),
        names: found,
        image: image.origin().clone(),
        base,
        strategy: options.strategy,
        snapshot_policy: options.snapshots,
        snapshots,
        usage,
        need,
        steps,
    };
    check_fit(&plan, capabilities.sizing)?;
    Ok(plan)
}

/// Where the new root is made.
fn placement(options: &Options, support: SnapshotSupport, live: bool) -> Result<Placement> {
    if options.snapshots != SnapshotPolicy::Keep || support != SnapshotSupport::Within || !live {
        return Ok(Placement::Beside);
    }
    match options.strategy {
        Strategy::Swap => Ok(Placement::Within),
        Strategy::InPlace => Err(Error::new(
            ErrorKind::Unsupported,
            "keep the snapshots",
            "they go with the root, which an in-place rebuild removes first",
        )
        .with_remedy("rebuild by swap, or choose to purge the snapshots")),
    }
}

/// What a staged root of this size has to be, a clone of this base or empty.
pub(super) fn stage_spec(size: Option<ByteSize>, base: Option<VolumeId>, placement: Placement) -> StageSpec {
    let mut spec = StageSpec::new().with_placement(placement);
    spec.size = size;
    spec.base = base;
    spec
}

/// Refuses what the backend is known to refuse, also by the largest size that the volume may be grown to.
fn check_spec(
    volume: &dyn RebuildableVolume,
    options: &Options,
    placement: Placement,
    base: &Option<VolumeId>,
    (size, current): (Option<ByteSize>, Option<ByteSize>),
) -> Result<()> {
    let spec = |size| stage_spec(size, base.clone(), placement);
    let error = match volume.check_spec(&spec(size)) {
        Err(error) if matches!(error.kind(), ErrorKind::NoSpace(_)) => error,
        checked => return checked,
    };
    match (size.or(current), options.max_size) {
        (Some(now), Some(max)) if now < max => volume.check_spec(&spec(Some(max))),
        _ => Err(error),
    }
}

/// The base that an image is.
fn base_of(image: &Image) -> Option<VolumeId> {
    #[cfg(feature = "tar")]
    return image.base().map(|base| base.id.clone());
    #[cfg(not(feature = "tar"))]
    {
        let _ = image;
        None
    }
}

fn check_size(options: &Options, sizing: Sizing) -> Result<()> {
    if sizing == Sizing::Unsized && (options.size.is_some() || options.max_size.is_some()) {
        return Err(Error::new(ErrorKind::Unsupported, "size the volume", "volumes of this backend have no size of their own")
            .with_remedy("leave the size out"));
    }
    match (options.size, options.max_size) {
        (Some(size), Some(max)) if size > max => Err(Error::new(
            ErrorKind::InvalidInput,
            "size the volume",
            format!("the size ({size}) is above the largest allowed ({max})"),
        )),
        _ => Ok(()),
    }
}

fn check_shrink(asked: Option<ByteSize>, usage: &Usage) -> Result<()> {
    match (asked, usage.size) {
        (Some(asked), Some(current)) if asked.round_up(usage.unit.unwrap_or_default()) < current => {
            Err(Error::new(ErrorKind::Unsupported, "size the volume", format!("it has {current}, and {asked} would shrink it"))
                .with_remedy("ask for its present size or more"))
        }
        _ => Ok(()),
    }
}

fn check_fit(plan: &Plan, sizing: Sizing) -> Result<()> {
    let refuse = |why: String, remedy: &str| Err(Error::new(ErrorKind::TooSmall, "rebuild", why).with_remedy(remedy));
    if let (Some(needed), Some(free)) = (plan.usage.metadata_for(plan.need.at_least), plan.usage.free_metadata)
        && needed > free
    {
        let why = format!("the image needs {needed} of the thin pool's metadata or more, and {free} are free");
        return refuse(why, "extend it: lvextend --poolmetadatasize");
    }
    let size = plan.staged_size().filter(|_| sizing == Sizing::Reserved);
    if plan.strategy == Strategy::InPlace {
        let room = plan.usage.free.saturating_add(plan.usage.size.unwrap_or_default());
        if let Some(size) = size.filter(|size| *size > room) {
            let why = format!("the new root takes {size}, and {room} are there without the old one");
            return refuse(why, "make room in the pool");
        }
        return Ok(());
    }
    if let (Some(needed), Some(free)) = (plan.need.entries, plan.usage.free_inodes)
        && needed > free
    {
        let why = format!("the image has {needed} entries, and {free} inodes are free");
        return refuse(why, "free inodes in the pool, or rebuild in place");
    }
    if let Some(size) = size.filter(|size| *size > plan.usage.free) {
        let why = format!("a second root takes {size}, and {} are free", plan.usage.free);
        return refuse(why, "make room in the pool, or rebuild in place, which needs no room for two roots");
    }
    if plan.need.at_least <= plan.usage.free {
        return Ok(());
    }
    let remedy = match plan.fit(Strategy::InPlace) {
        Fit::TooLarge => "make room in the pool",
        _ => "make room in the pool, or rebuild in place, which needs no room for two roots",
    };
    let (need, free) = (plan.need.at_least, plan.usage.free);
    refuse(format!("the image needs {need} or more, and {free} are free"), remedy)
}

fn check_snapshots(volume: &dyn RebuildableVolume, policy: SnapshotPolicy, support: SnapshotSupport) -> Result<Vec<Snapshot>> {
    let snapshots = volume.snapshots()?;
    if snapshots.is_empty() {
        return Ok(snapshots);
    }
    let has = |what: &str| format!("the volume has {what}: {}", list(&snapshots));
    match policy {
        SnapshotPolicy::Refuse => Err(has_snapshots(has("snapshots"), support)),
        SnapshotPolicy::Keep if support == SnapshotSupport::Dependent => {
            Err(Error::new(ErrorKind::Unsupported, "keep the snapshots", has("snapshots that go with its root"))
                .with_remedy("delete them, or choose to purge the snapshots"))
        }
        SnapshotPolicy::Purge => match snapshots.iter().find(|snapshot| !snapshot.dependents.is_empty()) {
            Some(snapshot) => {
                let dependents = snapshot.dependents.join(", ");
                Err(Error::new(ErrorKind::HasDependents, "purge the snapshots", format!("{dependents} depends on {snapshot}"))
                    .with_remedy("remove what depends on it, or make it independent"))
            }
            None => Ok(snapshots),
        },
        SnapshotPolicy::Keep => match snapshots.iter().find(|snapshot| snapshot.support == Some(SnapshotSupport::Dependent)) {
            Some(snapshot) => {
                Err(Error::new(ErrorKind::Unsupported, "keep the snapshots", format!("{snapshot} goes with the root it lies in"))
                    .with_remedy("move it out of the root, delete it, or choose to purge the snapshots"))
            }
            None => Ok(snapshots),
        },
    }
}

fn has_snapshots(message: String, support: SnapshotSupport) -> Error {
    let remedy = match support {
        SnapshotSupport::Dependent => "delete them, or choose to purge the snapshots",
        _ => "delete them, or choose to purge or to keep the snapshots",
    };
    Error::new(ErrorKind::HasSnapshots, "rebuild", message).with_remedy(remedy)
}

/// Refuses to commit where snapshots that go with the old root were taken since the plan was made: nobody decided that they may go.
pub(super) fn refuse_new_snapshots(volume: &dyn RebuildableVolume, planned: &[Snapshot]) -> Result<()> {
    let support = volume.capabilities().snapshots;
    if !support.is_bound() {
        return Ok(());
    }
    let new: Vec<_> =
        volume.snapshots()?.into_iter().filter(|snapshot| !planned.iter().any(|known| known.name == snapshot.name)).collect();
    if new.is_empty() {
        return Ok(());
    }
    Err(has_snapshots(format!("snapshots were taken while the new root was made: {}", list(&new)), support))
}

/// Waits until nobody holds the volume.
///
/// # Errors
/// [`ErrorKind::Busy`], naming the holders, when `wait` has ended; [`ErrorKind::Cancelled`].
pub(super) fn wait_for_holders(volume: &dyn RebuildableVolume, wait: &Wait, purpose: Purpose) -> Result<()> {
    loop {
        let holders = volume.holders()?;
        if holders.is_empty() {
            return Ok(());
        }
        if !wait.pause(purpose.operation(), std::time::Duration::from_millis(200))? {
            return Err(busy(&holders, purpose));
        }
    }
}

fn busy(holders: &[Holder], purpose: Purpose) -> Error {
    let message = format!("{} is in use: {}", purpose.subject(), list(holders));
    Error::new(ErrorKind::Busy, purpose.operation(), message).with_remedy(purpose.remedy(holders.first()))
}

/// The first few items, and how many more there are.
fn list<T: fmt::Display>(items: &[T]) -> String {
    const SHOWN: usize = 8;
    let mut out = items.iter().take(SHOWN).map(T::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        out += &format!(" and {} more", items.len() - SHOWN);
    }
    out
}
