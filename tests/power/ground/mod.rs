//! What lies on a disk: a file system with folders or subvolumes, a volume group, a pool of ZFS; each with one volume, `c1`.

mod folders;
mod group;
mod zpool;

use std::path::Path;

use super::common::pools::Backend;
use super::place::Place;
use super::space::Shortage;

pub(crate) use self::folders::Mount;
pub(crate) use self::group::Group;
pub(crate) use self::zpool::Zpool;

/// Something that is made on a device, taken down, and taken up again on the same or on a copy of it, as a machine does when it starts.
pub(crate) trait Ground {
    fn backend(&self) -> Backend;

    /// How large its disk is, in MiB.
    fn mib(&self) -> u64;

    /// Makes it on an empty device, and leaves it up.
    fn make(&self, device: &Path) -> Result<(), String>;

    /// As a machine does that has started, whatever was before.
    fn up(&self, device: &Path) -> Result<(), String>;

    /// As a machine does that shuts down.
    fn down(&self) -> Result<(), String>;

    /// What can run out, each in its way.
    fn shortages(&self) -> Vec<Shortage>;

    /// The disk works again.
    fn heal(&self) {}

    /// Whether it holds when a disk writes what is in its cache in another order than it came. LVM flushes nothing between its metadata and the header
    /// that points to it: without the first, the group is gone until `vgck --updatemetadata`, whoever changed something.
    fn stands_disorder(&self) -> bool {
        true
    }

    /// Where its volume is, and the images beside it.
    fn place(&self) -> Result<Box<dyn Place>, String>;

    /// What a failed trial left up is taken down, or the next could not be.
    fn abandon(&self);
}
