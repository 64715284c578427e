//! The conformance suite on the dir backend: on the temporary directory, with and without an exchange, and on every kind of file system
//! that the kernel and the caller's privileges allow to make.

mod common;

use reroot::volume::Commit;

use common::loopfs::Kind;
use common::pools::DirFactory;

fn main() {
    let mut places =
        vec![("exchange", DirFactory::new(None, Commit::Exchange)), ("two_renames", DirFactory::new(None, Commit::TwoRenames))];
    for kind in Kind::ALL {
        places.push((kind.name(), DirFactory::new(Some(kind), Commit::Exchange)));
    }
    common::suite::run(places);
}
