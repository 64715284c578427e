//! Quotas: qgroups, their limits and relations, full ones and simple ones. To read the tree and to change anything is privileged.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::tree::{Key, search};
use super::{Ioctl, MAGIC, Refused, le_u64, zeroed};

const QUOTA_TREE: u64 = 8;
const STATUS_ITEM: u8 = 240;
const INFO_ITEM: u8 = 242;
const LIMIT_ITEM: u8 = 244;
const RELATION_ITEM: u8 = 246;

const STATUS_ON: u64 = 1;
const STATUS_RESCAN: u64 = 1 << 1;
const STATUS_INCONSISTENT: u64 = 1 << 2;
const STATUS_SIMPLE: u64 = 1 << 3;

const MAX_REFERENCED: u64 = 1;
const MAX_EXCLUSIVE: u64 = 1 << 1;
/// The value that takes a limit away.
const NO_LIMIT: u64 = u64::MAX;

const ENABLE: u64 = 1;
const DISABLE: u64 = 2;
const ENABLE_SIMPLE: u64 = 4;

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
pub(super) struct ControlArgs {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
pub(super) struct CreateArgs {
    create: u64,
    id: u64,
}

/// `struct btrfs_ioctl_qgroup_assign_args`.
#[repr(C)]
pub(super) struct AssignArgs {
    assign: u64,
    member: u64,
    group: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
pub(super) struct LimitArgs {
    id: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved: [u64; 2],
}

/// `struct btrfs_ioctl_quota_rescan_args`.
#[repr(C)]
pub(super) struct RescanArgs {
    flags: u64,
    progress: u64,
    reserved: [u64; 6],
}

pub(super) const CONTROL: Ioctl =
    Ioctl { request: nix::request_code_readwrite!(MAGIC, 40, size_of::<ControlArgs>()), name: "BTRFS_IOC_QUOTA_CTL", since: "3.6" };
pub(super) const ASSIGN: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 41, size_of::<AssignArgs>()), name: "BTRFS_IOC_QGROUP_ASSIGN", since: "3.6" };
pub(super) const CREATE: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 42, size_of::<CreateArgs>()), name: "BTRFS_IOC_QGROUP_CREATE", since: "3.6" };
pub(super) const LIMIT: Ioctl =
    Ioctl { request: nix::request_code_read!(MAGIC, 43, size_of::<LimitArgs>()), name: "BTRFS_IOC_QGROUP_LIMIT", since: "3.6" };
pub(super) const RESCAN: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 44, size_of::<RescanArgs>()), name: "BTRFS_IOC_QUOTA_RESCAN", since: "3.10" };
pub(super) const RESCAN_STATUS: Ioctl = Ioctl {
    request: nix::request_code_read!(MAGIC, 45, size_of::<RescanArgs>()),
    name: "BTRFS_IOC_QUOTA_RESCAN_STATUS",
    since: "3.10",
};

/// How a file system counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Qgroups: who shares an extent with whom is known.
    Full,
    /// Simple quotas: an extent counts for the subvolume that it was written to first.
    Simple,
}

/// The state of a file system's quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) mode: Mode,
    /// What is counted is right.
    pub(crate) consistent: bool,
}

/// Limits in bytes, those that are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    pub(crate) referenced: Option<u64>,
    pub(crate) exclusive: Option<u64>,
}

/// A qgroup as the last transaction left it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Qgroup {
    pub(crate) referenced: u64,
    pub(crate) exclusive: u64,
    pub(crate) limits: Limits,
    /// The groups of a higher level that it is a member of.
    pub(crate) parents: Vec<u64>,
}

/// The level of a qgroup: 0 for those of subvolumes, whose ids are the same.
pub(crate) fn level(id: u64) -> u64 {
    id >> 48
}

/// The state of the quotas; `None` if they are off. Privileged.
pub(crate) fn status(fd: BorrowedFd<'_>) -> Result<Option<Status>, Refused> {
    const FLAGS: usize = 16;
    let mut status = None;
    let key = Key::new(0, STATUS_ITEM, 0);
    let searched = search(fd, QUOTA_TREE, key, key, &mut |_, item| {
        status = le_u64(item, FLAGS).filter(|flags| flags & STATUS_ON != 0).map(|flags| Status {
            mode: if flags & STATUS_SIMPLE != 0 { Mode::Simple } else { Mode::Full },
            consistent: flags & (STATUS_RESCAN | STATUS_INCONSISTENT) == 0,
        });
        ControlFlow::Break(())
    });
    match searched {
        Err(refused) if refused.errno == Errno::ENOENT => Ok(None),
        result => result.map(|()| status),
    }
}

/// A qgroup; `None` if there is none of that id, or quotas are off. Privileged.
pub(crate) fn qgroup(fd: BorrowedFd<'_>, id: u64) -> Result<Option<Qgroup>, Refused> {
    let mut found: Option<Qgroup> = None;
    let mut visit = |key: Key, item: &[u8]| {
        match (key.kind, &mut found) {
            (INFO_ITEM, found) => {
                let number = |at| le_u64(item, at).unwrap_or_default();
                *found = Some(Qgroup { referenced: number(8), exclusive: number(24), ..Qgroup::default() });
            }
            (LIMIT_ITEM, Some(found)) => found.limits = limits(item).unwrap_or_default(),
            (RELATION_ITEM, Some(found)) if level(key.offset) > level(id) => found.parents.push(key.offset),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let all = [
        (Key::new(0, INFO_ITEM, id), Key::new(0, INFO_ITEM, id)),
        (Key::new(0, LIMIT_ITEM, id), Key::new(0, LIMIT_ITEM, id)),
        (Key::new(id, RELATION_ITEM, 0), Key::new(id, RELATION_ITEM, u64::MAX)),
    ];
    for (from, to) in all {
        match search(fd, QUOTA_TREE, from, to, &mut visit) {
            Err(refused) if refused.errno == Errno::ENOENT => return Ok(None),
            result => result?,
        }
    }
    Ok(found)
}

/// Reads a `struct btrfs_qgroup_limit_item`.
fn limits(item: &[u8]) -> Option<Limits> {
    let flags = le_u64(item, 0)?;
    let limit = |flag, at| le_u64(item, at).filter(|_| flags & flag != 0);
    Some(Limits { referenced: limit(MAX_REFERENCED, 8), exclusive: limit(MAX_EXCLUSIVE, 16) })
}

/// The limits of an open root that anyone may see in `/sys`; `None` where that shows none.
pub(crate) fn visible_limits(root: BorrowedFd<'_>) -> Option<Limits> {
    let id = super::lookup::id(root).ok()?;
    let folder = format!("/sys/fs/btrfs/{:?}/qgroups/0_{id}", super::file_system(root).ok()?);
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok()?.trim().parse::<u64>().ok();
    let flags = read("limit_flags")?;
    let limit = |flag, name: &str| read(name).filter(|_| flags & flag != 0);
    Some(Limits { referenced: limit(MAX_REFERENCED, "max_referenced"), exclusive: limit(MAX_EXCLUSIVE, "max_exclusive") })
}

/// Gives a qgroup these limits, and no others. Privileged.
pub(crate) fn set_limits(fd: BorrowedFd<'_>, id: u64, limits: Limits) -> Result<(), Refused> {
    let mut args = LimitArgs {
        id,
        flags: MAX_REFERENCED | MAX_EXCLUSIVE,
        max_referenced: limits.referenced.unwrap_or(NO_LIMIT),
        max_exclusive: limits.exclusive.unwrap_or(NO_LIMIT),
        reserved: [0; 2],
    };
    // SAFETY: the request wants a `LimitArgs`, which it only reads, whatever its number says.
    unsafe { LIMIT.call(fd, &raw mut args) }.map(drop)
}

/// Makes a qgroup. Privileged.
#[cfg_attr(not(test), allow(dead_code, reason = "subvolumes come with theirs"))]
pub(crate) fn create(fd: BorrowedFd<'_>, id: u64) -> Result<(), Refused> {
    let mut args = CreateArgs { create: 1, id };
    // SAFETY: the request wants a `CreateArgs`.
    unsafe { CREATE.call(fd, &raw mut args) }.map(drop)
}

/// Removes a qgroup that has no members. `EBUSY` if it has, or if it is that of a subvolume that exists. Privileged.
pub(crate) fn destroy(fd: BorrowedFd<'_>, id: u64) -> Result<(), Refused> {
    let mut args = CreateArgs { create: 0, id };
    // SAFETY: the request wants a `CreateArgs`.
    unsafe { CREATE.call(fd, &raw mut args) }.map(drop)
}

/// Makes a qgroup a member of one of a higher level. Privileged.
#[cfg_attr(not(test), allow(dead_code, reason = "a root is made a member when it is made"))]
pub(crate) fn assign(fd: BorrowedFd<'_>, member: u64, group: u64) -> Result<(), Refused> {
    let mut args = AssignArgs { assign: 1, member, group };
    // SAFETY: the request wants an `AssignArgs`.
    unsafe { ASSIGN.call(fd, &raw mut args) }.map(drop)
}

/// Turns quotas on. Full ones are counted afresh, in the background. Privileged.
///
/// `EINVAL` for simple ones before Linux 6.7.
pub(crate) fn enable(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), Refused> {
    control(fd, if mode == Mode::Simple { ENABLE_SIMPLE } else { ENABLE })
}

/// Turns quotas off, and forgets all groups and limits. Privileged.
#[cfg_attr(not(test), allow(dead_code, reason = "no rebuild turns off what others need"))]
pub(crate) fn disable(fd: BorrowedFd<'_>) -> Result<(), Refused> {
    control(fd, DISABLE)
}

fn control(fd: BorrowedFd<'_>, command: u64) -> Result<(), Refused> {
    let mut args = ControlArgs { command, status: 0 };
    // SAFETY: the request wants a `ControlArgs`.
    unsafe { CONTROL.call(fd, &raw mut args) }.map(drop)
}

/// Begins to count everything afresh. Privileged; `EINPROGRESS` while that is going on already.
pub(crate) fn rescan(fd: BorrowedFd<'_>) -> Result<(), Refused> {
    let mut args = zeroed!(RescanArgs);
    // SAFETY: the request wants a `RescanArgs`.
    unsafe { RESCAN.call(fd, &raw mut args) }.map(drop)
}

/// Whether everything is being counted afresh. Privileged.
pub(crate) fn is_rescanning(fd: BorrowedFd<'_>) -> Result<bool, Refused> {
    let mut args = zeroed!(RescanArgs);
    // SAFETY: the request wants a `RescanArgs`.
    unsafe { RESCAN_STATUS.call(fd, &raw mut args)? };
    Ok(args.flags != 0)
}
