//! The conformance suite on the btrfs backend: with qgroups on, with simple quotas on, and with neither; by an exchange, and by two renames.

mod common;

use reroot::volume::Commit;

use common::pools::{DirFactory, Quotas};

fn main() {
    common::suite::run(vec![
        ("qgroups", DirFactory::btrfs(Quotas::Full, Commit::Exchange)),
        ("simple_quotas", DirFactory::btrfs(Quotas::Simple, Commit::Exchange)),
        ("no_quotas", DirFactory::btrfs(Quotas::Off, Commit::Exchange)),
        ("two_renames", DirFactory::btrfs(Quotas::Full, Commit::TwoRenames)),
    ]);
}
