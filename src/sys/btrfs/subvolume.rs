//! Subvolumes: made, cloned, destroyed, looked at.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::{Ioctl, MAGIC, Refused, Uuid, zeroed};

/// The inode number of every subvolume's top directory.
const TOP: u64 = 256;
const RDONLY: u64 = 1 << 1;
const QGROUP_INHERIT: u64 = 1 << 2;
const SPEC_BY_ID: u64 = 1 << 4;
/// The flag of a root item that the ioctl's flag [`RDONLY`] stands for.
pub(super) const ROOT_RDONLY: u64 = 1;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
pub(super) struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
pub(super) struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    inherit_size: u64,
    /// A pointer, in the width of the kernel's.
    inherit: u64,
    unused: [u64; 2],
    /// A name that ends in a NUL, or an id.
    name: [u8; 4040],
}

/// `struct btrfs_qgroup_inherit` without its last member, the ids.
#[repr(C)]
pub(super) struct Inherit {
    flags: u64,
    count: u64,
    ref_copies: u64,
    excl_copies: u64,
    limit: [u64; 5],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Timespec {
    sec: u64,
    nsec: u32,
}

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
pub(super) struct InfoArgs {
    id: u64,
    name: [u8; 256],
    parent_id: u64,
    dir_id: u64,
    generation: u64,
    flags: u64,
    uuid: Uuid,
    parent_uuid: Uuid,
    received_uuid: Uuid,
    transids: [u64; 4],
    times: [Timespec; 4],
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_received_subvol_args`.
#[repr(C)]
pub(super) struct ReceivedArgs {
    uuid: Uuid,
    stransid: u64,
    rtransid: u64,
    stime: Timespec,
    rtime: Timespec,
    flags: u64,
    reserved: [u64; 16],
}

pub(super) const CREATE: Ioctl = Ioctl {
    request: nix::request_code_write!(MAGIC, 24, size_of::<VolArgsV2>()),
    name: "BTRFS_IOC_SUBVOL_CREATE_V2",
    since: "3.7",
};
pub(super) const SNAPSHOT: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 23, size_of::<VolArgsV2>()), name: "BTRFS_IOC_SNAP_CREATE_V2", since: "3.7" };
pub(super) const DESTROY: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 15, size_of::<VolArgs>()), name: "BTRFS_IOC_SNAP_DESTROY", since: "2.6.30" };
pub(super) const DESTROY_V2: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 63, size_of::<VolArgsV2>()), name: "BTRFS_IOC_SNAP_DESTROY_V2", since: "5.7" };
pub(super) const INFO: Ioctl =
    Ioctl { request: nix::request_code_read!(MAGIC, 60, size_of::<InfoArgs>()), name: "BTRFS_IOC_GET_SUBVOL_INFO", since: "4.18" };
pub(super) const GET_FLAGS: Ioctl =
    Ioctl { request: nix::request_code_read!(MAGIC, 25, size_of::<u64>()), name: "BTRFS_IOC_SUBVOL_GETFLAGS", since: "2.6.38" };
pub(super) const SET_FLAGS: Ioctl =
    Ioctl { request: nix::request_code_write!(MAGIC, 26, size_of::<u64>()), name: "BTRFS_IOC_SUBVOL_SETFLAGS", since: "2.6.38" };
pub(super) const SET_RECEIVED: Ioctl = Ioctl {
    request: nix::request_code_readwrite!(MAGIC, 37, size_of::<ReceivedArgs>()),
    name: "BTRFS_IOC_SET_RECEIVED_SUBVOL",
    since: "3.6",
};

/// Whether a subvolume can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// What a subvolume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) id: u64,
    pub(crate) uuid: Uuid,
    /// Of the subvolume it is a snapshot of.
    pub(crate) parent_uuid: Uuid,
    /// Of the subvolume it was received from.
    #[cfg_attr(not(test), allow(dead_code, reason = "no rebuild looks where a root was received from"))]
    pub(crate) received_uuid: Uuid,
    pub(crate) access: Access,
}

/// Whether an open directory is the top of a subvolume.
pub(crate) fn is_subvolume(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstat(dir)?.st_ino == TOP && super::is_btrfs(dir)?)
}

/// Makes the empty subvolume `name` in `dir`, a member of these qgroups; with `None` it is one of those that the kernel chooses.
///
/// `EEXIST` if there is something of that name.
pub(crate) fn create(dir: BorrowedFd<'_>, name: &OsStr, qgroups: Option<&[u64]>) -> Result<(), Refused> {
    let mut args = named(CREATE, name)?;
    make(CREATE, dir, &mut args, qgroups)
}

/// Makes the snapshot `name` in `dir` of the subvolume `source`, a member of these qgroups.
///
/// With qgroups on, a snapshot has the limits of its source until it is given others.
pub(crate) fn snapshot(
    source: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    access: Access,
    qgroups: Option<&[u64]>,
) -> Result<(), Refused> {
    let mut args = named(SNAPSHOT, name)?;
    args.fd = source.as_raw_fd().into();
    if access == Access::ReadOnly {
        args.flags |= RDONLY;
    }
    make(SNAPSHOT, dir, &mut args, qgroups)
}

fn make(call: Ioctl, dir: BorrowedFd<'_>, args: &mut VolArgsV2, qgroups: Option<&[u64]>) -> Result<(), Refused> {
    const HEAD: usize = size_of::<Inherit>() / size_of::<u64>();
    let mut inherit = vec![0u64; HEAD];
    if let Some(qgroups) = qgroups {
        // The second member is their number.
        inherit[1] = qgroups.len() as u64;
        inherit.extend_from_slice(qgroups);
        args.flags |= QGROUP_INHERIT;
        args.inherit_size = size_of_val(inherit.as_slice()) as u64;
        args.inherit = inherit.as_ptr() as usize as u64;
    }
    // SAFETY: the request wants a `VolArgsV2`; the qgroups it points to are as long as it says and live through the call.
    unsafe { call.call(dir, &raw mut *args) }.map(drop)
}

/// Destroys the subvolume `name` of `dir`. What it takes comes back later.
///
/// `ENOTEMPTY` while there is a subvolume in it. `EPERM` for a caller who is not root, unless the file system is mounted with
/// `user_subvol_rm_allowed`; and for one that is the default, is being sent, or holds an active swap file.
pub(crate) fn destroy(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Refused> {
    let mut args = zeroed!(VolArgs);
    let bytes = name.as_bytes();
    put(&mut args.name, bytes).ok_or(DESTROY.refuse(Errno::ENAMETOOLONG))?;
    // SAFETY: the request wants a `VolArgs`.
    unsafe { DESTROY.call(dir, &raw mut args) }.map(drop)
}

/// Destroys a subvolume by its id, wherever on the file system of `dir` it is, also where no mount shows it. Privileged.
pub(crate) fn destroy_id(dir: BorrowedFd<'_>, id: u64) -> Result<(), Refused> {
    let mut args = zeroed!(VolArgsV2);
    args.flags = SPEC_BY_ID;
    put(&mut args.name, &id.to_ne_bytes()).ok_or(DESTROY_V2.refuse(Errno::EINVAL))?;
    // SAFETY: the request wants a `VolArgsV2`.
    unsafe { DESTROY_V2.call(dir, &raw mut args) }.map(drop)
}

/// What the subvolume of an open directory is.
pub(crate) fn info(fd: BorrowedFd<'_>) -> Result<Info, Refused> {
    let mut args = zeroed!(InfoArgs);
    // SAFETY: the request wants an `InfoArgs`.
    unsafe { INFO.call(fd, &raw mut args)? };
    let access = if args.flags & ROOT_RDONLY != 0 { Access::ReadOnly } else { Access::ReadWrite };
    let InfoArgs { id, uuid, parent_uuid, received_uuid, .. } = args;
    Ok(Info { id, uuid, parent_uuid, received_uuid, access })
}

/// Makes the subvolume read-only or writable; does nothing if it is so already.
pub(crate) fn set_access(subvolume: BorrowedFd<'_>, access: Access) -> Result<(), Refused> {
    let flags = flags(subvolume)?;
    let mut wanted = match access {
        Access::ReadOnly => flags | RDONLY,
        Access::ReadWrite => flags & !RDONLY,
    };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: the request wants a `u64`.
    unsafe { SET_FLAGS.call(subvolume, &raw mut wanted) }.map(drop)
}

fn flags(subvolume: BorrowedFd<'_>) -> Result<u64, Refused> {
    let mut flags = 0u64;
    // SAFETY: the request wants a `u64`.
    unsafe { GET_FLAGS.call(subvolume, &raw mut flags)? };
    Ok(flags)
}

/// Says of a subvolume what it is a copy of.
#[cfg_attr(not(test), allow(dead_code, reason = "no rebuild says where a root was received from"))]
pub(crate) fn set_received(subvolume: BorrowedFd<'_>, uuid: Uuid) -> Result<(), Refused> {
    let mut args = zeroed!(ReceivedArgs);
    args.uuid = uuid;
    // SAFETY: the request wants a `ReceivedArgs`.
    unsafe { SET_RECEIVED.call(subvolume, &raw mut args) }.map(drop)
}

fn named(call: Ioctl, name: &OsStr) -> Result<VolArgsV2, Refused> {
    let mut args = zeroed!(VolArgsV2);
    put(&mut args.name, name.as_bytes()).ok_or(call.refuse(Errno::ENAMETOOLONG))?;
    Ok(args)
}

/// Copies bytes to the start of a buffer that has room for them and a NUL.
fn put(buffer: &mut [u8], bytes: &[u8]) -> Option<()> {
    let last = buffer.len().checked_sub(1)?;
    buffer.get_mut(..last)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(())
}
