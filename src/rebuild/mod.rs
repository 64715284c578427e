//! The order of a rebuild: policy, plan, execution, and recovery after an interruption.
//!
//! A [`Rebuild`] owns the order; a [`RebuildableVolume`] owns the primitives. Up to the commit the live root is not touched (unless the
//! strategy is [`Strategy::InPlace`]); the commit is one exchange or two renames; after it nothing can fail the rebuild any more.

#[cfg(feature = "tar")]
mod base;
mod execute;
#[cfg(feature = "tar")]
mod fill;
mod growth;
mod plan;
mod policy;
mod recover;
mod report;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::plan::{CommitKind, Fit, Plan, Step};
pub use self::policy::{Dispose, SnapshotPolicy, Strategy, Survey};
pub use self::recover::{RecoverAction, Recovery, recover};
pub use self::report::{Disposal, Made, PhaseTime, Report};

#[cfg(feature = "tar")]
pub(crate) use self::base::remove;
use self::execute::Execution;
use self::recover::recover_locked;
pub(crate) use self::report::Silent;

use self::report::Clock;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::image::Image;
use crate::progress::{CancelToken, Phase, Progress, Wait};
use crate::size::ByteSize;
#[cfg(feature = "tar")]
use crate::unpack::{DevicePolicy, IdShift, Limits, LossPolicy};
use crate::volume::{RebuildableVolume, Slot, UsageDetail};

/// How long a source may stay silent unless [`Rebuild::stall_limit`] says otherwise.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// A rebuild of a volume from an image: set its policies, look at its plan if you like, run it.
///
/// ```no_run
/// # #[cfg(all(feature = "dir", feature = "tar"))]
/// # fn main() -> reroot::Result<()> {
/// use reroot::{Image, Rebuild, SnapshotPolicy, dir::DirVolume};
///
/// let mut volume = DirVolume::open("/srv/pool/containers/c1")?;
/// let image = Image::open("rootfs.tar.zst")?;
/// let report = Rebuild::new(image).snapshots(SnapshotPolicy::Keep).run(&mut volume)?;
/// assert!(report.warnings.is_empty());
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "dir", feature = "tar")))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct Rebuild {
    image: Image,
    options: Options,
}

/// Everything that is set on a [`Rebuild`] besides its image.
struct Options {
    snapshots: SnapshotPolicy,
    strategy: Strategy,
    dispose: Dispose,
    size: Option<ByteSize>,
    max_size: Option<ByteSize>,
    survey: Survey,
    lock_wait: Duration,
    busy_wait: Duration,
    #[cfg_attr(not(feature = "tar"), allow(dead_code, reason = "only streams stall"))]
    stall_limit: Duration,
    #[cfg(feature = "tar")]
    limits: Limits,
    #[cfg(feature = "tar")]
    devices: DevicePolicy,
    #[cfg(feature = "tar")]
    losses: LossPolicy,
    #[cfg(feature = "tar")]
    shift: Option<IdShift>,
    #[cfg(feature = "tar")]
    contents: ContentsPolicy,
    progress: Arc<dyn Progress>,
    cancel: CancelToken,
}

/// Whether what a root holds is recorded with it.
#[cfg(feature = "tar")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContentsPolicy {
    /// It is going to change.
    Unrecorded,
    /// It is to be verified by it.
    Recorded,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("snapshots", &self.snapshots)
            .field("strategy", &self.strategy)
            .field("dispose", &self.dispose)
            .field("size", &self.size)
            .field("max_size", &self.max_size)
            .field("survey", &self.survey)
            .field("lock_wait", &self.lock_wait)
            .field("busy_wait", &self.busy_wait)
            .finish_non_exhaustive()
    }
}

impl Rebuild {
    /// A rebuild from `image` with the safest of every policy: swap, refuse if there are snapshots, never wait.
    pub fn new(image: Image) -> Self {
        let options = Options {
            snapshots: SnapshotPolicy::default(),
            strategy: Strategy::default(),
            dispose: Dispose::default(),
            size: None,
            max_size: None,
            survey: Survey::default(),
            lock_wait: Duration::ZERO,
            busy_wait: Duration::ZERO,
            stall_limit: STALL_LIMIT,
            #[cfg(feature = "tar")]
            limits: Limits::default(),
            #[cfg(feature = "tar")]
            devices: DevicePolicy::default(),
            #[cfg(feature = "tar")]
            losses: LossPolicy::default(),
            #[cfg(feature = "tar")]
            shift: None,
            #[cfg(feature = "tar")]
            contents: ContentsPolicy::Unrecorded,
            progress: Arc::new(Silent),
            cancel: CancelToken::new(),
        };
        Rebuild { image, options }
    }

    /// What becomes of the old root's snapshots. Default: [`SnapshotPolicy::Refuse`].
    #[must_use]
    pub fn snapshots(mut self, policy: SnapshotPolicy) -> Self {
        self.options.snapshots = policy;
        self
    }

    /// In which order the roots go and come. Default: [`Strategy::Swap`].
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.options.strategy = strategy;
        self
    }

    /// Who removes the old root. Default: [`Dispose::Wait`].
    #[must_use]
    pub fn dispose(mut self, dispose: Dispose) -> Self {
        self.options.dispose = dispose;
        self
    }

    /// The new root's size or limit. Default: the old root's. Refused if it would shrink the volume, or if the backend's volumes have no
    /// size.
    #[must_use]
    pub fn size(mut self, size: ByteSize) -> Self {
        self.options.size = Some(size);
        self
    }

    /// How large the volume may be grown if it runs full while it is filled. Default: not at all.
    #[must_use]
    pub fn max_size(mut self, size: ByteSize) -> Self {
        self.options.max_size = Some(size);
        self
    }

    /// Whether the image is read once more before, to know what it needs. Default: [`Survey::Skip`].
    #[must_use]
    pub fn survey(mut self, survey: Survey) -> Self {
        self.options.survey = survey;
        self
    }

    /// How long to wait for another rebuild or recovery of the same volume. Default: not at all.
    #[must_use]
    pub fn lock_wait(mut self, limit: Duration) -> Self {
        self.options.lock_wait = limit;
        self
    }

    /// How long to wait for the volume's holders to let it go. Default: not at all.
    #[must_use]
    pub fn busy_wait(mut self, limit: Duration) -> Self {
        self.options.busy_wait = limit;
        self
    }

    /// How long the image's source may stay silent before it is given up. Default: five minutes.
    #[must_use]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.options.stall_limit = limit;
        self
    }

    /// Limits on what an image may hold. Default: what stops a bomb and no real image.
    #[cfg(feature = "tar")]
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// What to do with device nodes. Default: create them.
    #[cfg(feature = "tar")]
    #[must_use]
    pub fn devices(mut self, policy: DevicePolicy) -> Self {
        self.options.devices = policy;
        self
    }

    /// What to do when something in the image cannot be kept. Default: report it.
    #[cfg(feature = "tar")]
    #[must_use]
    pub fn losses(mut self, policy: LossPolicy) -> Self {
        self.options.losses = policy;
        self
    }

    /// Into whose ids the owners in the image are shifted. Default: they are taken as they are. The root directory itself keeps the
    /// owner that it has on the volume.
    #[cfg(feature = "tar")]
    #[must_use]
    pub fn shift(mut self, shift: IdShift) -> Self {
        self.options.shift = Some(shift);
        self
    }

    /// Who is told how it goes. Default: nobody.
    #[must_use]
    pub fn progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.options.progress = progress;
        self
    }

    /// What stops the rebuild, up to its commit. Default: nothing does.
    #[must_use]
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.options.cancel = token;
        self
    }

    /// Makes all checks and says what [`run`](Self::run) would do. Changes nothing, waits for nothing, takes no lock.
    ///
    /// If the volume was interrupted, the plan begins with the recovery and goes on from what that will leave.
    ///
    /// # Errors
    /// Those with which `run` would refuse: busy, snapshots, size, space. The outcome is always [`Outcome::Untouched`].
    pub fn plan(&self, volume: &dyn RebuildableVolume) -> Result<Plan> {
        let no_wait = Wait::new(Duration::ZERO, self.options.cancel.clone());
        plan::make(volume, &self.image, &self.options, UsageDetail::Full, &no_wait)
            .map_err(|error| error.with_context("volume", volume.id()))
    }

    /// Rebuilds the volume.
    ///
    /// Takes the volume's lock, recovers what an earlier run left, makes the plan and executes it. A volume that does not exist is created.
    ///
    /// # Errors
    /// Every error says by [`Error::outcome`] what happened to the volume; with [`Strategy::Swap`] the old root is live and whole after
    /// each of them, unless the outcome is [`Outcome::Interrupted`]: then both roots are whole, and [`recover()`] settles which is live.
    pub fn run(self, volume: &mut dyn RebuildableVolume) -> Result<Report> {
        let id = volume.id();
        let Rebuild { mut image, options } = self;
        match run(volume, &mut image, &options, Existing::Replace) {
            Ok(Some(report)) => Ok(report),
            Ok(None) => Err(Error::new(ErrorKind::AlreadyExists, "rebuild", "it exists").with_context("volume", id)),
            Err(error) => Err(error.with_context("volume", id)),
        }
    }
}

/// What becomes of a live root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replace,
    /// Then there is nothing to do.
    #[cfg_attr(not(feature = "tar"), allow(dead_code, reason = "only bases are made once"))]
    Keep,
}

fn run(volume: &mut dyn RebuildableVolume, image: &mut Image, options: &Options, existing: Existing) -> Result<Option<Report>> {
    let mut clock = Clock::new(&*options.progress);
    clock.enter(Phase::Recover);
    let _lock = volume.lock(&Wait::new(options.lock_wait, options.cancel.clone()))?;
    let mut recovered = recover_locked(volume)?;
    if existing == Existing::Keep {
        if volume.names()?.live {
            return Ok(None);
        }
        if recovered.is_without_root() {
            // What is left of a base is nobody's only root: it has no properties to keep, and no one misses it.
            volume.discard(Slot::Staged)?;
            volume.discard(Slot::Retired)?;
            recovered = Recovery::default();
        }
    }
    clock.enter(Phase::Plan);
    let busy = Wait::new(options.busy_wait, options.cancel.clone());
    let without_root = |error: Error| if recovered.is_without_root() { error.with_outcome(Outcome::NoRoot) } else { error };
    let plan = plan::make(volume, image, options, UsageDetail::Free, &busy).map_err(without_root)?;
    Execution::new(volume, image, options, &plan, recovered, &mut clock).run().map(Some)
}
