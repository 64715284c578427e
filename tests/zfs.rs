//! The conformance suite on the ZFS backend, in a pool of the lab.

mod common;

use common::pools::ZfsFactory;

fn main() {
    common::suite::run(vec![("datasets", ZfsFactory::new())]);
}
