//! The conformance suite on the Ceph backend, on images that the kernel maps, with each filesystem that managers use.

mod common;

use common::pools::CephFactory;
use reroot::filesystem::FilesystemKind::{Ext4, Xfs};

fn main() {
    common::suite::run(vec![("ext4", CephFactory::new(Ext4)), ("xfs", CephFactory::new(Xfs))]);
}
