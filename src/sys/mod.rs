//! All unsafe code and all child processes of the library live below here, behind safe functions.

#![allow(unsafe_code)]

#[cfg(feature = "ceph")]
pub(crate) mod apart;
#[cfg_attr(
    not(any(feature = "btrfs", feature = "dir")),
    allow(dead_code, reason = "the unpacker removes trees, and a full project has an id: they need no more of it")
)]
pub(crate) mod attr;
#[cfg(feature = "btrfs")]
pub(crate) mod btrfs;
pub(crate) mod call;
#[cfg(feature = "ceph")]
pub(crate) mod ceph;
#[cfg(feature = "tar")]
pub(crate) mod clone;
#[cfg(any(test, feature = "ceph", feature = "lvm", feature = "zfs"))]
pub(crate) mod command;
#[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
pub(crate) mod detached;
#[cfg(feature = "lvm")]
pub(crate) mod dm;
#[cfg(any(feature = "ceph", feature = "lvm"))]
pub(crate) mod grow;
#[cfg(any(feature = "btrfs", feature = "ceph", feature = "dir", feature = "lvm", feature = "zfs"))]
pub(crate) mod holders;
#[cfg(any(feature = "ceph", feature = "lvm"))]
pub(crate) mod identity;
#[cfg(feature = "ceph")]
pub(crate) mod kernel_key;
#[cfg(feature = "ceph")]
pub(crate) mod krbd;
#[cfg(any(feature = "ceph", feature = "zfs"))]
mod library;
pub(crate) mod lock;
#[cfg(any(feature = "btrfs", feature = "ceph", feature = "dir", feature = "lvm", feature = "zfs"))]
mod maps;
#[cfg_attr(
    not(any(feature = "btrfs", feature = "dir")),
    allow(dead_code, reason = "locks and the unpacker need no more of it than where something is mounted")
)]
pub(crate) mod mounts;
#[cfg(any(feature = "btrfs", feature = "ceph", feature = "dir", feature = "tar", feature = "lvm", feature = "zfs"))]
#[cfg_attr(
    not(any(feature = "btrfs", feature = "dir", feature = "tar")),
    allow(dead_code, reason = "datasets go whole: only what is in one is removed entry by entry")
)]
pub(crate) mod remove;
#[cfg(any(feature = "btrfs", feature = "dir"))]
pub(crate) mod rename;
#[cfg(feature = "ceph")]
pub(crate) mod shutdown;
pub(crate) mod space;
#[cfg(feature = "tar")]
pub(crate) mod sync;
#[cfg(feature = "lvm")]
pub(crate) mod udev;
#[cfg(feature = "tar")]
pub(crate) mod umask;
#[cfg(any(feature = "btrfs", feature = "ceph", feature = "dir", feature = "tar", feature = "lvm", feature = "zfs"))]
#[cfg_attr(
    not(any(feature = "btrfs", feature = "dir")),
    allow(dead_code, reason = "the unpacker removes trees, and needs no more of it")
)]
pub(crate) mod walk;
#[cfg(any(
    feature = "btrfs",
    feature = "ceph",
    feature = "dir",
    feature = "tar",
    feature = "lvm",
    feature = "zfs",
    feature = "conformance"
))]
pub(crate) mod xattr;
#[cfg(feature = "lvm")]
pub(crate) mod zero;
#[cfg(feature = "zfs")]
pub(crate) mod zfs;
