//! Locks of volumes whose store lies in no folder: in `/run/reroot`, on the one machine that the store is attached to.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::unistd::geteuid;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::sys::lock::FileLock;
use crate::volume::VolumeId;
#[cfg(any(feature = "lvm", feature = "zfs"))]
use crate::volume::VolumeLock;

const FOLDER: &str = "/run/reroot";

/// Takes the lock of a volume for one holder.
pub(crate) fn exclusive(volume: &VolumeId, wait: &Wait) -> Result<FileLock> {
    let lock = FileLock::acquire(folder()?.as_fd(), &name(volume), wait);
    lock.map_err(|error| error.with_context("volume", volume))
}

/// Takes the lock of a volume for one of many holders.
#[cfg(any(feature = "lvm", feature = "zfs"))]
pub(crate) fn shared(volume: &VolumeId, wait: &Wait) -> Result<VolumeLock> {
    let lock = FileLock::acquire_shared(folder()?.as_fd(), &name(volume), wait);
    lock.map(VolumeLock::new).map_err(|error| error.with_context("volume", volume))
}

/// Takes the lock if whoever held it last was killed; `None` if nobody holds it, or someone does.
#[cfg(feature = "ceph")]
pub(crate) fn left_behind(volume: &VolumeId) -> Result<Option<FileLock>> {
    let mut file = name(volume);
    file.push(crate::sys::lock::SUFFIX);
    if !Path::new(FOLDER).join(file).exists() {
        return Ok(None);
    }
    match exclusive(volume, &Wait::new(std::time::Duration::ZERO, crate::progress::CancelToken::new())) {
        Err(error) if error.kind() == ErrorKind::Locked => Ok(None),
        taken => taken.map(Some),
    }
}

/// The folder of the locks, open.
fn folder() -> Result<File> {
    const OPERATION: &str = "take the lock";
    let path = Path::new(FOLDER);
    let failed =
        |what: &str, error| Error::io(OPERATION, what, error).with_context("folder", FOLDER).with_remedy("run this as root");
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed("cannot make the folder of the locks", error));
        }
        _ => {}
    }
    let folder = File::open(path).map_err(|error| failed("cannot open the folder of the locks", error))?;
    let metadata = folder.metadata().map_err(|error| failed("cannot look at the folder of the locks", error))?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(Error::new(ErrorKind::PermissionDenied, OPERATION, "others may write to the folder of the locks")
            .with_context("folder", FOLDER)
            .with_remedy("see who made it; then chown it to root and chmod it to 0700"));
    }
    Ok(folder)
}

/// The name of a volume's lock: `%` is in no dataset's name, and in no logical volume's.
fn name(volume: &VolumeId) -> OsString {
    let mut name = OsString::from(format!("{}%", volume.scheme()));
    name.push(volume.name().to_string_lossy().replace('/', "%"));
    name
}
