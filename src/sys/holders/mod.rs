//! Who keeps a directory, or a whole file system, busy: mounts, processes, loop devices, swap files.

#[cfg(any(test, feature = "ceph", feature = "lvm", feature = "zfs"))]
mod device;
#[cfg(any(feature = "btrfs", feature = "dir"))]
mod directory;
#[cfg(any(test, feature = "ceph", feature = "lvm", feature = "zfs"))]
mod file_system;
mod in_kernel;
mod namespaces;
#[cfg(any(feature = "btrfs", feature = "dir"))]
mod place;
mod process;
#[cfg(any(test, feature = "ceph", feature = "lvm", feature = "zfs"))]
mod propagation;
#[cfg(feature = "btrfs")]
mod tables;

use std::collections::BTreeSet;
use std::io;

#[cfg(any(feature = "ceph", feature = "lvm"))]
pub(crate) use device::of_block_device;
#[cfg(any(feature = "btrfs", feature = "dir"))]
pub(crate) use directory::find;
#[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
pub(crate) use file_system::{FileSystem, of_file_system};
#[cfg(feature = "btrfs")]
pub(crate) use tables::Tables;

use crate::error::Error;
use crate::text::Escaped;
use crate::volume::Holder;

const OPERATION: &str = "find out who uses the volume";
/// More are counted, not named.
const MAX_NAMED: usize = 100;

fn failed(error: io::Error) -> Error {
    Error::io(OPERATION, "cannot read /proc", error).with_remedy("mount /proc")
}

/// The holders so far.
#[derive(Default)]
struct Found {
    named: Vec<Holder>,
    more: usize,
}

impl Found {
    fn add(&mut self, holder: Holder) {
        if self.named.len() < MAX_NAMED {
            self.named.push(holder);
        } else {
            self.more += 1;
        }
    }

    fn add_mounts(&mut self, points: BTreeSet<Vec<u8>>, namespace_of: Option<u32>) {
        for point in points {
            self.add(Holder::Mount { path: Escaped(&point).to_string(), namespace_of });
        }
    }

    fn finish(mut self) -> Vec<Holder> {
        if self.more > 0 {
            self.named.push(Holder::Other(format!("{} more", self.more)));
        }
        self.named
    }
}
