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

/// How much a mount allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    /// Others may have mounted the same file system so that it can be written to.
    ReadOnly,
    /// The file system itself takes no other mount.
    Snapshot,
}

/// Mounts the file system `source` of the kind `fs_type`; returns its top directory, open for reading. Neither programs nor devices work in it.
pub(crate) fn mount(fs_type: &CStr, source: &CStr, access: Access) -> Result<OwnedFd, Errno> {
    const MOUNT_ATTR_RDONLY: libc::c_uint = 0x1;
    const MOUNT_ATTR_NOSUID: libc::c_uint = 0x2;
    const MOUNT_ATTR_NODEV: libc::c_uint = 0x4;
    const MOUNT_ATTR_NOEXEC: libc::c_uint = 0x8;
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;

    // SAFETY: the name is NUL-terminated and lives through the call.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    configure(context.as_fd(), Setting::Text(c"source", source))?;
    if access == Access::Snapshot {
        configure(context.as_fd(), Setting::Flag(c"ro"))?;
    }
    configure(context.as_fd(), Setting::Create)?;
    let mut attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    if access != Access::ReadWrite {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    // SAFETY: the descriptor is open, and the call touches no memory of ours.
    let mount = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
    let mount = owned(mount)?;
    // The descriptor of a mount is only a place. What is opened there keeps it alive.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    retry(|| openat(&mount, c".", flags, Mode::empty()))
}

enum Setting<'a> {
    Flag(&'a CStr),
    Text(&'a CStr, &'a CStr),
    Create,
}

fn configure(context: BorrowedFd<'_>, setting: Setting<'_>) -> Result<(), Errno> {
    const FSCONFIG_SET_FLAG: libc::c_uint = 0;
    const FSCONFIG_SET_STRING: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let (command, key, value) = match setting {
        Setting::Flag(key) => (FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null()),
        Setting::Text(key, value) => (FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
        Setting::Create => (FSCONFIG_CMD_CREATE, ptr::null(), ptr::null()),
    };
    retry(|| {
        // SAFETY: the texts are NUL-terminated and live through the call; a null pointer is what these commands want where there is none.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
        Errno::result(result).map(drop)
    })
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
    }
}
