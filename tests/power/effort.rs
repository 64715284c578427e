//! How much is tried: a part that fits in CI, or all of it with `REROOT_FAULT_TRIALS=long`.

use super::common::is_long;

/// What a short run tries: of each kind of fault where it is likeliest to tell something.
const SHORT: [&str; 31] = [
    "dir::ext4::power_loss::swap_by_exchange",
    "dir::ext4::power_loss::swap_by_two_renames",
    "dir::ext4::power_loss::in_place",
    "dir::ext4::power_loss_amid_syncs::swap_by_two_renames",
    "dir::ext4::disk::writes_fail::swap_by_exchange",
    "dir::ext4::disk::vanishes::in_place",
    "dir::ext4::space::no_inodes::swap_by_exchange",
    "dir::xfs::power_loss::swap_by_exchange",
    "dir::xfs::disk::all_fails::swap_by_exchange",
    "dir::xfs::space::project_quota::swap_by_exchange",
    "dir::xfs::space::project_inodes::in_place",
    "dir::btrfs::space::no_space::swap_by_exchange",
    "dir::btrfs::power_loss::from_base",
    "btrfs::power_loss::swap_by_exchange",
    "btrfs::power_loss::from_base",
    "btrfs::power_loss_amid_syncs::in_place",
    "btrfs::disk::writes_fail_for_a_moment::swap_by_exchange",
    "btrfs::disk::vanishes::swap_by_exchange",
    "btrfs::space::qgroup::swap_by_exchange",
    "lvm::ext4::power_loss::swap",
    "lvm::ext4::disk::writes_fail::swap",
    "lvm::ext4::disk::vanishes::swap",
    "lvm::ext4::space::thin_data::swap",
    "lvm::ext4::space::too_small::in_place",
    "lvm::thick::space::group_full::swap",
    "zfs::power_loss::swap",
    "zfs::power_loss::within",
    "zfs::power_loss::from_base",
    "zfs::power_loss_amid_syncs::swap",
    "zfs::space::quota::swap",
    "zfs::space::refquota::within",
];

/// Whether a trial of this name is made.
pub(crate) fn is_tried(name: &str) -> bool {
    is_long() || SHORT.contains(&name)
}

/// How many cuts of the power are tried of each rebuild, after flushes and between them. On some backends one takes seconds.
pub(crate) fn cuts(slow: bool) -> (usize, usize) {
    match (is_long(), slow) {
        (true, false) => (usize::MAX, 200),
        (true, true) => (usize::MAX, 40),
        (false, false) => (4, 2),
        (false, true) => (2, 1),
    }
}

/// At how many steps of a rebuild a disk fails.
pub(crate) fn failures(slow: bool) -> usize {
    match (is_long(), slow) {
        (true, _) => usize::MAX,
        (false, false) => 4,
        (false, true) => 2,
    }
}

/// With how many amounts left a rebuild is begun.
pub(crate) fn amounts() -> usize {
    if is_long() { 14 } else { 2 }
}

/// How many sizes an image has that does not fit, or just does.
pub(crate) fn sizes() -> usize {
    if is_long() { 8 } else { 1 }
}

/// How many of the ways are tried in which what is on its way can get lost between two flushes.
pub(crate) fn torn() -> usize {
    if is_long() { 4 } else { 1 }
}

/// As many of them as are wanted, from the first to the last, evenly spread, and those that must be among them.
pub(crate) fn spread<T>(all: Vec<T>, most: usize, must: impl Fn(&T) -> bool) -> Vec<T> {
    let (count, most) = (all.len(), most.max(1));
    if count <= most {
        return all;
    }
    // The first of each of so many equal parts, and the last of all.
    let chosen = |index: usize| index + 1 == count || index * most % count < most;
    all.into_iter().enumerate().filter(|(index, item)| chosen(*index) || must(item)).map(|(_, item)| item).collect()
}
