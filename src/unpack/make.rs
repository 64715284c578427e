//! The common case in the fewest system calls: a file or a directory that has no more than an owner, a mode and a time.
//!
//! What is made bears the caller's owner and the mode it was made with, so most of what an image holds needs neither `fchown` nor `fchmod`.
//! Whether that is so is not taken for granted: a file system may have its own mind of owners (a squashing NFS, a mount option), so the first
//! thing made is looked at.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, getegid, geteuid};

use super::entry::Timestamp;
use super::meta::Metadata;
use crate::sys::umask::Umask;

const NEW_FILE: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

const UNTRIED: u8 = 0;
const AS_EXPECTED: u8 = 1;
const OTHERWISE: u8 = 2;

/// An open directory, and the group that is sure to be that of what is made in it.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    group: Option<u32>,
}

impl Dir {
    /// `stat` is that of `fd`.
    pub(super) fn new(fd: OwnedFd, stat: &FileStat, maker: &Maker<'_>) -> Self {
        // It depends on the file system and on setgid whether the directory's group or the caller's counts: where both are the same, neither does.
        Dir { fd, group: Some(stat.st_gid).filter(|&group| group == maker.gid) }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Metadata without attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
}

impl Plain {
    /// If that is all there is.
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        let (uid, gid) = metadata.owner?;
        let plain = metadata.xattrs.is_empty() && metadata.lost_acls.is_empty();
        plain.then_some(Plain { mode: metadata.mode, uid, gid, mtime: metadata.mtime? })
    }
}

/// How something has just been made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    /// Its mode.
    pub(super) mode: u32,
    /// Its user and group, if they are sure.
    pub(super) owner: Option<(u32, u32)>,
}

/// Makes things on behalf of one thread.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    uid: u32,
    gid: u32,
    umask: Umask,
    shared: &'a Trust,
}

/// Whether what is made bears the owner and the mode it should, as all threads found out.
#[derive(Debug, Default)]
pub(super) struct Trust(AtomicU8);

impl<'a> Maker<'a> {
    /// Of a thread whose mask `umask` is.
    pub(super) fn new(umask: Umask, shared: &'a Trust) -> Self {
        Maker { uid: geteuid().as_raw(), gid: getegid().as_raw(), umask, shared }
    }

    /// The thread's mask.
    pub(super) fn umask(&self) -> Umask {
        self.umask
    }

    /// Makes a file, open for writing, that has its last permissions from the first moment; setuid and the like come with [`finish`](Self::finish).
    pub(super) fn file(&self, dir: &Dir, name: &OsStr, mode: u32) -> nix::Result<(OwnedFd, Made)> {
        let mode = mode & 0o777;
        let file = openat(dir, name, NEW_FILE, Mode::from_bits_truncate(mode))?;
        Ok((file, Made { mode, owner: dir.group.map(|group| (self.uid, group)) }))
    }

    /// Whether what is made in `dir` is sure to have this owner.
    pub(super) fn owns(&self, dir: &Dir, uid: u32, gid: u32) -> bool {
        self.shared.0.load(Ordering::Relaxed) == AS_EXPECTED && uid == self.uid && dir.group == Some(gid)
    }

    /// Gives an open file or directory, just made as `made` says, its metadata.
    pub(super) fn finish(&self, fd: BorrowedFd<'_>, made: Made, plain: &Plain) -> nix::Result<()> {
        let trust = self.shared.0.load(Ordering::Relaxed);
        let owned = trust != OTHERWISE && made.owner == Some((plain.uid, plain.gid));
        let has_mode = trust != OTHERWISE && matches!(self.umask, Umask::Clear(_)) && made.mode == plain.mode;
        if !owned {
            again(|| fchown(fd, Some(Uid::from_raw(plain.uid)), Some(Gid::from_raw(plain.gid))))?;
        }
        if !has_mode {
            again(|| fchmod(fd, Mode::from_bits_truncate(plain.mode)))?;
        }
        if trust == UNTRIED && (owned || has_mode) {
            let stat = again(|| fstat(fd))?;
            if (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) != (plain.uid, plain.gid, plain.mode) {
                self.shared.0.store(OTHERWISE, Ordering::Relaxed);
                return self.finish(fd, made, plain);
            }
            if owned && has_mode {
                self.shared.0.store(AS_EXPECTED, Ordering::Relaxed);
            }
        }
        let mtime = TimeSpec::new(plain.mtime.seconds, i64::from(plain.mtime.nanoseconds));
        again(|| futimens(fd, &TimeSpec::UTIME_OMIT, &mtime))
    }
}

impl From<&FileStat> for Made {
    fn from(stat: &FileStat) -> Self {
        Made { mode: stat.st_mode & 0o7777, owner: Some((stat.st_uid, stat.st_gid)) }
    }
}

/// Makes a call until it is not interrupted.
pub(super) fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
