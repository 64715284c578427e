//! What several test programs share.

#![allow(dead_code, reason = "each program uses a part of it")]

#[cfg(feature = "lvm")]
pub(crate) mod group;
#[cfg(any(feature = "lvm", feature = "zfs"))]
pub(crate) mod lab;
pub(crate) mod loopfs;
pub(crate) mod pools;
pub(crate) mod suite;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whether a test that cannot run has failed: so in CI, where everything it needs is to be there.
pub(crate) fn required() -> bool {
    std::env::var_os("REROOT_REQUIRE").is_some_and(|value| value == "1")
}

/// A folder that is removed when it is dropped, also by a user who may not write to all that was unpacked in it.
#[derive(Debug)]
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new(place: &Path) -> std::io::Result<Self> {
        tempfile::Builder::new().prefix("reroot-test-").tempdir_in(place).map(Folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !nix::unistd::geteuid().is_root() {
            make_removable(self.path());
        }
    }
}

/// Gives the user back the directories below that they may not write to.
fn make_removable(directory: &Path) {
    let _ = fs::set_permissions(directory, Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}
