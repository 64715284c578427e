//! How a base is made.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::{Hasher, Sha256};
use crate::image::Layout;
use crate::progress::{CancelToken, Progress};
use crate::record::ImageRecord;
use crate::unpack::{DevicePolicy, IdShift, Limits, LossPolicy};

/// How long to wait for another process that makes the same base, unless told otherwise.
const WAIT: Duration = Duration::from_secs(600);

/// How a base is made, and how long to wait for one that another process makes.
///
/// What becomes of devices and whose ids the owners are shifted into shape what is in the base: two bases that differ in these are two bases.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BaseOptions {
    /// Limits on what an image may hold.
    pub limits: Limits,
    /// What to do with device nodes.
    pub devices: DevicePolicy,
    /// What to do when something in the image cannot be kept.
    pub losses: LossPolicy,
    /// Into whose ids the owners in the image are shifted.
    pub shift: Option<IdShift>,
    /// How long to wait for another process that makes or removes the same base. Default: ten minutes.
    pub wait: Duration,
    /// Who is told how it goes.
    pub progress: Option<Arc<dyn Progress>>,
    /// What stops it.
    pub cancel: CancelToken,
}

impl Default for BaseOptions {
    fn default() -> Self {
        BaseOptions {
            limits: Limits::default(),
            devices: DevicePolicy::default(),
            losses: LossPolicy::default(),
            shift: None,
            wait: WAIT,
            progress: None,
            cancel: CancelToken::new(),
        }
    }
}

impl BaseOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`BaseOptions::limits`].
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets [`BaseOptions::devices`].
    #[must_use]
    pub fn with_devices(mut self, devices: DevicePolicy) -> Self {
        self.devices = devices;
        self
    }

    /// Sets [`BaseOptions::losses`].
    #[must_use]
    pub fn with_losses(mut self, losses: LossPolicy) -> Self {
        self.losses = losses;
        self
    }

    /// Sets [`BaseOptions::shift`].
    #[must_use]
    pub fn with_shift(mut self, shift: IdShift) -> Self {
        self.shift = Some(shift);
        self
    }

    /// Sets [`BaseOptions::wait`].
    #[must_use]
    pub fn with_wait(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// Sets [`BaseOptions::progress`].
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Sets [`BaseOptions::cancel`].
    #[must_use]
    pub fn with_cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// A digest of what shapes the content besides the image; `None` if all of it is as usual. `image` is what would be recorded.
    pub(super) fn variant(&self, image: &ImageRecord) -> Option<Sha256> {
        let mut said = String::new();
        let mut say = |what: std::fmt::Arguments<'_>| _ = writeln!(said, "{what}");
        match self.devices {
            DevicePolicy::Create => {}
            DevicePolicy::Skip => say(format_args!("without devices")),
            // Whoever refuses them must not get a base that someone else has made with them.
            DevicePolicy::Refuse => say(format_args!("devices refused")),
        }
        if let Some(shift) = &self.shift {
            for (whose, map) in [("uid", &shift.uids), ("gid", &shift.gids)] {
                map.ranges()
                    .iter()
                    .for_each(|range| say(format_args!("{whose} {} {} {}", range.container, range.host, range.count)));
            }
            say(format_args!("outside {:?}", shift.outside));
        }
        if image.layout != Layout::Detect {
            say(format_args!("layout {}", image.layout));
        }
        if let Some(strip) = &image.strip {
            say(format_args!("strip {strip:?}"));
        }
        if said.is_empty() {
            return None;
        }
        let mut hasher = Hasher::new();
        hasher.update(said.as_bytes());
        Some(hasher.finish())
    }
}
