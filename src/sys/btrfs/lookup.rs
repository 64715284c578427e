//! Which subvolumes lie in a subvolume, and where. Nothing here needs a privilege but [`path_in`].

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;

use super::{Ioctl, MAGIC, Refused, until_nul, zeroed};

const TOP: u64 = 256;

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
pub(super) struct RootRefArgs {
    min_id: u64,
    refs: [RootRef; 255],
    count: u8,
    align: [u8; 7],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RootRef {
    id: u64,
    dir: u64,
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
pub(super) struct LookupArgs {
    tree: u64,
    inode: u64,
    path: [u8; 4080],
}

/// `struct btrfs_ioctl_ino_lookup_user_args`.
#[repr(C)]
pub(super) struct LookupUserArgs {
    dir: u64,
    tree: u64,
    name: [u8; 256],
    path: [u8; 3824],
}

pub(super) const ROOT_REFS: Ioctl = Ioctl {
    request: nix::request_code_readwrite!(MAGIC, 61, size_of::<RootRefArgs>()),
    name: "BTRFS_IOC_GET_SUBVOL_ROOTREF",
    since: "4.18",
};
pub(super) const LOOKUP: Ioctl = Ioctl {
    request: nix::request_code_readwrite!(MAGIC, 18, size_of::<LookupArgs>()),
    name: "BTRFS_IOC_INO_LOOKUP",
    since: "2.6.30",
};
pub(super) const LOOKUP_USER: Ioctl = Ioctl {
    request: nix::request_code_readwrite!(MAGIC, 62, size_of::<LookupUserArgs>()),
    name: "BTRFS_IOC_INO_LOOKUP_USER",
    since: "4.18",
};

/// A subvolume in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) id: u64,
    /// The folder it lies in, from the top of the outer one; empty for that itself.
    pub(crate) folder: PathBuf,
    pub(crate) name: OsString,
}

/// The id of the subvolume that an open file or directory belongs to.
pub(crate) fn id(fd: BorrowedFd<'_>) -> Result<u64, Refused> {
    let mut args = zeroed!(LookupArgs);
    args.inode = TOP;
    // SAFETY: the request wants a `LookupArgs`.
    unsafe { LOOKUP.call(fd, &raw mut args)? };
    Ok(args.tree)
}

/// The path of a directory by its inode number in the subvolume `tree`, from the top of that; empty for the top itself. Privileged.
pub(crate) fn path_in(fd: BorrowedFd<'_>, tree: u64, inode: u64) -> Result<PathBuf, Refused> {
    let mut args = zeroed!(LookupArgs);
    (args.tree, args.inode) = (tree, inode);
    // SAFETY: the request wants a `LookupArgs`.
    unsafe { LOOKUP.call(fd, &raw mut args)? };
    Ok(to_path(&args.path))
}

/// The subvolumes directly in the subvolume whose top directory is open, however their names are spelled.
///
/// `EACCES` if one lies in a folder that the caller may not read.
pub(crate) fn children(top: BorrowedFd<'_>) -> Result<Vec<Child>, Refused> {
    let mut found = Vec::new();
    let mut args = zeroed!(RootRefArgs);
    loop {
        // SAFETY: the request wants a `RootRefArgs`.
        let more = match unsafe { ROOT_REFS.call(top, &raw mut args) } {
            Ok(_) => false,
            // Some fitted. The call has set where to go on.
            Err(refused) if refused.errno == Errno::EOVERFLOW => true,
            Err(refused) => return Err(refused),
        };
        for entry in args.refs.iter().take(args.count.into()) {
            match child(top, *entry) {
                Ok(child) => found.push(child),
                // It went since it was listed.
                Err(refused) if refused.errno == Errno::ENOENT => {}
                Err(refused) => return Err(refused),
            }
        }
        if !more {
            return Ok(found);
        }
    }
}

fn child(top: BorrowedFd<'_>, entry: RootRef) -> Result<Child, Refused> {
    let mut args = zeroed!(LookupUserArgs);
    (args.dir, args.tree) = (entry.dir, entry.id);
    // SAFETY: the request wants a `LookupUserArgs`.
    unsafe { LOOKUP_USER.call(top, &raw mut args)? };
    let name = OsStr::from_bytes(until_nul(&args.name)).to_owned();
    Ok(Child { id: entry.id, folder: to_path(&args.path), name })
}

/// A path as the kernel writes it, with a slash at its end.
fn to_path(bytes: &[u8]) -> PathBuf {
    let path = until_nul(bytes);
    PathBuf::from(OsStr::from_bytes(path.strip_suffix(b"/").unwrap_or(path)))
}
