//! Mounts of a file system that no path leads to: they are seen through a descriptor, and go with it.
//!
//! See fsopen(2), fsconfig(2) and fsmount(2); Linux 5.2.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::call::retry;
use crate::text::Escaped;

/// How much a mount allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    /// Others may have mounted the same file system so that it can be written to.
    #[cfg_attr(not(any(test, feature = "zfs")), allow(dead_code, reason = "a device of one's own is mounted by no one else"))]
    ReadOnly,
    /// The file system itself takes no other mount.
    Snapshot,
}

/// An option of a file system.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Setting<'a> {
    Flag(&'a CStr),
    Text(&'a CStr, &'a CStr),
}

/// A mount that the kernel refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    /// What it said about it, on one line and safe to show; seldom anything before Linux 5.6, and not from every file system.
    #[cfg_attr(not(any(test, feature = "ceph", feature = "lvm")), allow(dead_code, reason = "ZFS says nothing there"))]
    pub(crate) words: String,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Refused { errno, words: String::new() }
    }
}

/// Mounts the file system `source` of the kind `fs_type`; returns its top directory, open for reading. Neither programs nor devices work in it.
#[cfg(any(test, feature = "zfs"))]
pub(crate) fn mount(fs_type: &CStr, source: &CStr, access: Access) -> Result<OwnedFd, Errno> {
    mount_with(fs_type, source, access, &[]).map_err(|refused| refused.errno)
}

/// The same, with options of the file system's own.
pub(crate) fn mount_with(fs_type: &CStr, source: &CStr, access: Access, settings: &[Setting<'_>]) -> Result<OwnedFd, Refused> {
    const MOUNT_ATTR_RDONLY: libc::c_uint = 0x1;
    const MOUNT_ATTR_NOSUID: libc::c_uint = 0x2;
    const MOUNT_ATTR_NODEV: libc::c_uint = 0x4;
    const MOUNT_ATTR_NOEXEC: libc::c_uint = 0x8;
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;

    // SAFETY: the name is NUL-terminated and lives through the call.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    let told = |result: Result<(), Errno>| result.map_err(|errno| Refused { errno, words: words(context.as_fd()) });
    told(set(context.as_fd(), Setting::Text(c"source", source)))?;
    if access == Access::Snapshot {
        told(set(context.as_fd(), Setting::Flag(c"ro")))?;
    }
    for &setting in settings {
        told(set(context.as_fd(), setting))?;
    }
    told(create(context.as_fd()))?;
    let mut attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    if access != Access::ReadWrite {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    // SAFETY: the descriptor is open, and the call touches no memory of ours.
    let mount = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
    let mount = owned(mount)?;
    // The descriptor of a mount is only a place. What is opened there keeps it alive.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(retry(|| openat(&mount, c".", flags, Mode::empty()))?)
}

fn set(context: BorrowedFd<'_>, setting: Setting<'_>) -> Result<(), Errno> {
    const FSCONFIG_SET_FLAG: libc::c_uint = 0;
    const FSCONFIG_SET_STRING: libc::c_uint = 1;
    match setting {
        Setting::Flag(key) => configure(context, FSCONFIG_SET_FLAG, Some(key), None),
        Setting::Text(key, value) => configure(context, FSCONFIG_SET_STRING, Some(key), Some(value)),
    }
}

fn create(context: BorrowedFd<'_>) -> Result<(), Errno> {
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    configure(context, FSCONFIG_CMD_CREATE, None, None)
}

fn configure(context: BorrowedFd<'_>, command: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    let (key, value) = (pointer(key), pointer(value));
    retry(|| {
        // SAFETY: the texts are NUL-terminated and live through the call; a null pointer is what these commands want where there is none.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
        Errno::result(result).map(drop)
    })
}

/// What the kernel has to say about a mount, a message a read: `e `, `w ` or `i ` and the text.
fn words(context: BorrowedFd<'_>) -> String {
    let mut words = Vec::new();
    let mut message = [0; 512];
    // A context keeps no more than eight.
    for _ in 0..8 {
        let Ok(length) = retry(|| nix::unistd::read(context, &mut message)) else { break };
        let text = message.get(..length).unwrap_or_default();
        words.push(Escaped(text.get(2..).unwrap_or_default().trim_ascii()).to_string());
    }
    words.join("; ")
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)?;
    let fd = libc::c_int::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just opened it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::openat;
    use nix::unistd::geteuid;

    #[test]
    fn what_is_mounted_shows_nowhere_and_goes_with_its_descriptor() {
        if !geteuid().is_root() {
            eprintln!("not tested: mounting takes root");
            return;
        }
        let create = |dir: &OwnedFd| openat(dir, c"x", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU);
        let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let before = mounts();
        let dir = mount(c"tmpfs", c"reroot-test", Access::ReadWrite).unwrap();
        create(&dir).unwrap();
        assert_eq!(before.contains("reroot-test"), mounts().contains("reroot-test"));
        let read_only = mount(c"tmpfs", c"reroot-test", Access::ReadOnly).unwrap();
        assert_eq!(create(&read_only).map(drop), Err(Errno::EROFS));
        assert_eq!(mount(c"no-such-kind", c"x", Access::ReadWrite).map(drop), Err(Errno::ENODEV));
        let settings = [Setting::Text(c"size", c"1m"), Setting::Flag(c"no-such-option")];
        let refused = mount_with(c"tmpfs", c"reroot-test", Access::ReadWrite, &settings).unwrap_err();
        assert_eq!((refused.errno, refused.words.as_str()), (Errno::EINVAL, "tmpfs: Unknown parameter 'no-such-option'"));
        let small = mount_with(c"tmpfs", c"reroot-test", Access::ReadWrite, &settings[..1]).unwrap();
        assert_eq!(nix::sys::statvfs::fstatvfs(&small).unwrap().blocks() * 4096, 1 << 20);
    }
}
