//! The conformance suite on the LVM backend, in the lab's group: on thin volumes with each file system, and on thick ones.

mod common;

use common::pools::{Layout, LvmFactory};
use reroot::filesystem::FilesystemKind::{Btrfs, Ext4, Xfs};

fn main() {
    common::suite::run(vec![
        ("ext4", LvmFactory::new(Layout::Thin(Ext4))),
        ("xfs", LvmFactory::new(Layout::Thin(Xfs))),
        ("btrfs", LvmFactory::new(Layout::Thin(Btrfs))),
        ("thick", LvmFactory::new(Layout::Thick(Ext4))),
    ]);
}
