//! What bases need of a rebuild: volumes that are cloned from one, and bases that are made and removed as volumes are.

use std::sync::Arc;
use std::time::Duration;

use super::plan::{Purpose, wait_for_holders};
use super::recover::recover_locked;
use super::{ContentsPolicy, Existing, Rebuild, Report, run};
use crate::base::{Base, BaseOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{BaseRoot, Image};
use crate::progress::Wait;
use crate::unpack::LossPolicy;
use crate::volume::{RebuildableVolume, Removal, Slot};

impl Rebuild {
    /// A rebuild from a base: the root becomes a clone of it where the backend can, and a copy that shares data where the file system can.
    ///
    /// The base is held until the rebuild has run. Volume and base belong to the same pool.
    ///
    /// What shapes the content was settled when the base was made: [`shift`](Self::shift) is refused, and of limits and devices there is
    /// nothing left to decide.
    pub fn from_base(base: &Base) -> Self {
        Rebuild::new(base.image())
    }

    /// What makes a base of `image`; it waits for so long for whoever makes or holds it.
    pub(crate) fn for_base(image: Image, options: &BaseOptions, wait: Duration) -> Self {
        let mut rebuild = Rebuild::new(image)
            .limits(options.limits)
            .devices(options.devices)
            .losses(options.losses)
            .lock_wait(wait)
            .cancel(options.cancel.clone());
        if let Some(progress) = &options.progress {
            rebuild = rebuild.progress(Arc::clone(progress));
        }
        rebuild.options.shift.clone_from(&options.shift);
        rebuild.options.contents = ContentsPolicy::Recorded;
        rebuild
    }

    /// Makes the root of a volume that has none. `None` if it has one: another process was faster.
    ///
    /// # Errors
    /// After [`ErrorKind::Locked`] it can be tried again.
    pub(crate) fn create(&mut self, volume: &mut dyn RebuildableVolume) -> Result<Option<Report>> {
        run(volume, &mut self.image, &self.options, Existing::Keep)
    }
}

/// Removes a volume with all its names, so that after a kill it is whole or none. Whoever calls holds its lock.
pub(crate) fn remove(volume: &mut dyn RebuildableVolume, wait: &Wait) -> Result<()> {
    recover_locked(volume)?;
    if volume.names()?.live {
        wait_for_holders(volume, wait, Purpose::RemoveBase)?;
        volume.rename(Slot::Live, Slot::Retired)?;
    }
    let removed = volume.discard(Slot::Staged).and_then(|()| volume.discard(Slot::Retired));
    if let Err(error) = removed {
        // What is still whole is a base again; the rest the next attempt removes.
        if volume.capabilities().removal == Removal::Atomic && volume.names().is_ok_and(|names| names.retired && !names.live) {
            let _ = volume.rename(Slot::Retired, Slot::Live);
        }
        return Err(error);
    }
    volume.tidy().map(drop)
}

/// # Errors
/// [`ErrorKind::InvalidInput`] for an option that can no longer have its effect; [`ErrorKind::Lossy`] for a base that is not all that its image was.
pub(super) fn check_options(image: &Image, options: &super::Options) -> Result<()> {
    let Some(base) = image.base() else { return Ok(()) };
    if let Some(lost) = what_is_lost(base).filter(|_| options.losses == LossPolicy::Refuse) {
        return Err(Error::new(ErrorKind::Lossy, "rebuild from a base", lost)
            .with_remedy("remove the base and make it as root where the file system keeps all of it, or let losses be reported"));
    }
    if options.shift.is_some() {
        return Err(Error::new(ErrorKind::InvalidInput, "rebuild from a base", "its files have their owners already")
            .with_remedy("shift the owners when the base is made"));
    }
    Ok(())
}

/// What a base lacks of its image, in words.
pub(super) fn what_is_lost(base: &BaseRoot) -> Option<String> {
    match base.record.losses {
        0 => None,
        losses => Some(format!("the base lacks what could not be kept of its image, at {losses} of its entries")),
    }
}
