//! Owner, mode, attributes and time, in the order in which none undoes another.
//!
//! A change of owner clears setuid and `security.capability`, so it comes first; attributes of users follow, which take permission to write,
//! then the mode, all other attributes and ACLs, then the time.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::acl;
use super::disk::Disk;
use super::entry::{Entry, EntryPath, LostAcl, Timestamp};
use super::loss::LossKind;
use super::make::Plain;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::space;
use crate::sys::xattr::{self, Target};

/// The setuid and setgid bits.
const SET_ID: u32 = 0o6000;

/// What an entry has besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    /// `None`: the caller's.
    pub(super) owner: Option<(u32, u32)>,
    /// `None`: now.
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    pub(super) lost_acls: Vec<LostAcl>,
}

impl From<&mut Entry> for Metadata {
    fn from(entry: &mut Entry) -> Self {
        Metadata {
            mode: entry.mode,
            owner: Some((entry.uid, entry.gid)),
            mtime: Some(entry.mtime),
            xattrs: std::mem::take(&mut entry.xattrs),
            lost_acls: std::mem::take(&mut entry.lost_acls),
        }
    }
}

impl From<&Plain> for Metadata {
    fn from(plain: &Plain) -> Self {
        let (owner, mtime) = (Some((plain.uid, plain.gid)), Some(plain.mtime));
        Metadata { mode: plain.mode, owner, mtime, ..Metadata::default() }
    }
}

/// Which attributes: those that take permission to write, or those that privileges or ownership decide over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    User,
    Other,
}

impl Namespace {
    fn of(name: &CStr) -> Self {
        if name.to_bytes().starts_with(b"user.") { Namespace::User } else { Namespace::Other }
    }
}

/// What metadata is applied to.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A node that is not opened: a device, a fifo.
    Node(BorrowedFd<'a>, &'a OsStr),
    /// A symbolic link, which has no mode of its own.
    Link(BorrowedFd<'a>, &'a OsStr),
}

impl Object<'_> {
    fn stat(self) -> nix::Result<FileStat> {
        match self {
            Object::Open(fd) => fstat(fd),
            Object::Node(dir, name) | Object::Link(dir, name) => fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW),
        }
    }

    fn chown(self, uid: Uid, gid: Gid) -> nix::Result<()> {
        match self {
            Object::Open(fd) => fchown(fd, Some(uid), Some(gid)),
            Object::Node(dir, name) | Object::Link(dir, name) => {
                fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            }
        }
    }

    fn chmod(self, mode: Mode) -> nix::Result<()> {
        match self {
            Object::Open(fd) => fchmod(fd, mode),
            // Made a moment ago in a directory that no one else can enter: it is no symbolic link.
            Object::Node(dir, name) => fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink),
            Object::Link(..) => Ok(()),
        }
    }

    fn set_mtime(self, mtime: Timestamp) -> nix::Result<()> {
        let (atime, mtime) = (TimeSpec::UTIME_OMIT, TimeSpec::new(mtime.seconds, i64::from(mtime.nanoseconds)));
        match self {
            Object::Open(fd) => futimens(fd, &atime, &mtime),
            Object::Node(dir, name) | Object::Link(dir, name) => {
                utimensat(dir, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)
            }
        }
    }

    fn target(&self) -> Target<'_> {
        match *self {
            Object::Open(fd) => Target::Fd(fd),
            Object::Node(dir, name) | Object::Link(dir, name) => Target::At(dir, name),
        }
    }
}

/// Whether the kernel took something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
}

/// The mode of what has lost its ACL, of which the group's bits were the mask.
fn without_acl(mode: u32, group: u32) -> u32 {
    mode & !0o070 | mode & group << 3
}

impl Disk<'_> {
    /// Gives `object` its metadata; what the kernel refuses to keep is a loss at `path`.
    pub(super) fn apply(&mut self, object: Object<'_>, path: &EntryPath, metadata: &Metadata) -> Result<()> {
        let owned = self.apply_owner(object, path, metadata)?;
        let mut mode = metadata.mode;
        if !owned && mode & SET_ID != 0 && !matches!(object, Object::Link(..)) {
            mode &= !SET_ID;
            self.lose(LossKind::SetId, path)?;
        }
        for lost in &metadata.lost_acls {
            self.lose(LossKind::Acl, path)?;
            if let LostAcl::Access { group } = lost {
                mode = without_acl(mode, *group);
            }
        }
        // An ordinary user may not set attributes of their own on what they made read-only.
        self.apply_xattrs(object, path, metadata, Namespace::User)?;
        self.must("cannot set its mode", || object.chmod(Mode::from_bits_truncate(mode)))?;
        if let Some(group) = self.apply_xattrs(object, path, metadata, Namespace::Other)? {
            mode = without_acl(mode, group);
            self.must("cannot set its mode", || object.chmod(Mode::from_bits_truncate(mode)))?;
        }
        if let Some(mtime) = metadata.mtime {
            self.must("cannot set its time", || object.set_mtime(mtime))?;
        }
        Ok(())
    }

    /// Whether the owner is the one asked for.
    fn apply_owner(&mut self, object: Object<'_>, path: &EntryPath, metadata: &Metadata) -> Result<bool> {
        let Some((uid, gid)) = metadata.owner else { return Ok(true) };
        match self.call(|| object.chown(Uid::from_raw(uid), Gid::from_raw(gid)))? {
            Ok(()) => return Ok(true),
            // EINVAL: the user namespace does not map this owner.
            Err(Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(Error::io("unpack", "cannot set its owner", error)),
        }
        let stat = self.must("cannot look at it", || object.stat())?;
        if (stat.st_uid, stat.st_gid) == (uid, gid) {
            return Ok(true);
        }
        self.lose(LossKind::Owner, path)?;
        Ok(false)
    }

    /// Sets the attributes of a kind. If the ACL was not kept, returns what it grants the group.
    fn apply_xattrs(&mut self, object: Object<'_>, path: &EntryPath, metadata: &Metadata, which: Namespace) -> Result<Option<u32>> {
        let mut group = None;
        for (name, value) in &metadata.xattrs {
            // Records of our own describe the root that they were made for.
            let ours = name.to_bytes().starts_with(b"trusted.reroot.") || name.to_bytes().starts_with(b"user.reroot.");
            if Namespace::of(name) != which || ours && path.is_root() {
                continue;
            }
            let kept = self.apply_xattr(object, path, name, value)?;
            if kept == Kept::No && name.as_c_str() == c"system.posix_acl_access" {
                group = Some(acl::group_permissions(value));
            }
        }
        Ok(group)
    }

    fn apply_xattr(&mut self, object: Object<'_>, path: &EntryPath, name: &CString, value: &[u8]) -> Result<Kept> {
        loop {
            let Err(error) = xattr::set(object.target(), name, value) else { return Ok(Kept::Yes) };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // ext4 says "no space" of an attribute that is larger than it can ever store.
                Some(libc::ENOSPC | libc::EDQUOT) if !space::has_room(self.root) => {
                    self.full(Errno::from_raw(error.raw_os_error().unwrap_or(libc::ENOSPC)))?;
                }
                Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOSPC | libc::E2BIG | libc::ERANGE) => {
                    return self.lose(LossKind::of_xattr(name), path).map(|()| Kept::No);
                }
                // A user namespace cannot store ids that it does not map; an ACL of unknown form is the image's fault.
                Some(libc::EINVAL) if !self.knows_all_ids() => return self.lose(LossKind::of_xattr(name), path).map(|()| Kept::No),
                _ => {
                    let shown = crate::text::Escaped(name.to_bytes()).to_string();
                    let malformed = error.raw_os_error() == Some(libc::EINVAL);
                    let error = Error::io("unpack", "cannot set an extended attribute", error).with_context("attribute", shown);
                    return Err(if malformed { error.with_kind(ErrorKind::InvalidImage) } else { error });
                }
            }
        }
    }
}
