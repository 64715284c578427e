//! Roots that a test looks at: mounted as a manager mounts them, for as long as it takes.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mount on a folder of its own, which goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    /// Has something mounted on a folder in this one.
    pub(crate) fn new(folder: &Path, mount: impl FnOnce(&Path) -> nix::Result<()>) -> std::io::Result<Self> {
        let mounted = Mounted(tempfile::Builder::new().prefix("visited-").tempdir_in(folder)?);
        mount(mounted.path())?;
        Ok(mounted)
    }

    /// Whichever file system is on this device; one that cannot be written to, only to be read.
    pub(crate) fn device(device: &Path, folder: &Path) -> std::io::Result<Self> {
        Mounted::new(folder, |at| mount_device(device, at))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

fn mount_device(device: &Path, at: &Path) -> nix::Result<()> {
    let mut last = Errno::EINVAL;
    for flags in [MsFlags::empty(), MsFlags::MS_RDONLY] {
        for kind in ["ext4", "xfs", "btrfs"] {
            match mount(Some(device), at, Some(kind), flags, None::<&Path>) {
                Ok(()) => return Ok(()),
                Err(Errno::EINVAL) => {}
                Err(errno) => last = errno,
            }
        }
        if !matches!(last, Errno::EROFS | Errno::EACCES) {
            break;
        }
    }
    Err(last)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A new process holds what the case has just read, until it has begun its program.
        for _ in 0..200 {
            match umount2(self.path(), MntFlags::empty()) {
                Err(Errno::EBUSY) => sleep(Duration::from_millis(10)),
                // What was never mounted.
                Ok(()) | Err(Errno::EINVAL) => return,
                Err(errno) => return eprintln!("cannot unmount {}: {errno}", self.path().display()),
            }
        }
        eprintln!("cannot unmount {}: it is busy", self.path().display());
    }
}
