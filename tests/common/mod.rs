//! What several test programs share.

#![allow(dead_code, reason = "each program uses a part of it")]

#[cfg(feature = "ceph")]
pub(crate) mod cluster;
#[cfg(feature = "lvm")]
pub(crate) mod group;
#[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
pub(crate) mod lab;
pub(crate) mod ledger;
pub(crate) mod loopfs;
pub(crate) mod pools;
pub(crate) mod suite;
pub(crate) mod visit;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whether a test that cannot run has failed: so in CI, where everything it needs is to be there.
pub(crate) fn required() -> bool {
    std::env::var_os("REROOT_REQUIRE").is_some_and(|value| value == "1")
}

/// Whether all is to be tried that can go wrong, which takes hours, and not a part of it.
pub(crate) fn is_long() -> bool {
    std::env::var_os("REROOT_FAULT_TRIALS").is_some_and(|value| value == "long")
}

/// Whether a test may be left out for this reason: it takes the lab, or root.
pub(crate) fn may_be_left_out(why: &str) -> bool {
    let takes_the_lab: &[&str] = &[
        #[cfg(feature = "ceph")]
        cluster::NO_CLUSTER,
        #[cfg(feature = "lvm")]
        group::NO_DISK,
        #[cfg(feature = "zfs")]
        lab::NO_POOL,
    ];
    if takes_the_lab.contains(&why) {
        return std::env::var_os("REROOT_LAB").is_none();
    }
    why.starts_with("not root") && !required()
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
