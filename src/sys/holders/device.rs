//! The file system that something lies on, by its number: where a path tells nothing.

use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};

use crate::sys::call::retry;
use crate::sys::mounts::Device;

pub(super) fn from_dev(dev: libc::dev_t) -> Device {
    [libc::major(dev), libc::minor(dev)]
}

/// The file system that `name` of `dir` leads to.
///
/// Of a file on a network or in user space its server is not asked: it may not answer.
pub(super) fn behind(dir: BorrowedFd<'_>, name: &CStr) -> Result<Device, Errno> {
    match statx(dir, name) {
        // A filter of system calls may not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(from_dev(fstatat(dir, name, AtFlags::AT_NO_AUTOMOUNT)?.st_dev)),
        result => result,
    }
}

fn statx(dir: BorrowedFd<'_>, name: &CStr) -> Result<Device, Errno> {
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    retry(|| {
        // SAFETY: the name ends in a NUL, and there is room for what the kernel writes; both live through the call.
        let result =
            unsafe { libc::syscall(libc::SYS_statx, dir.as_raw_fd(), name.as_ptr(), flags, libc::STATX_TYPE, stat.as_mut_ptr()) };
        Errno::result(result)
    })?;
    // SAFETY: zeroed numbers are valid, and so are those that the kernel wrote over them.
    let stat = unsafe { stat.assume_init() };
    Ok([stat.stx_dev_major, stat.stx_dev_minor])
}

/// `struct loop_info64` of linux/loop.h; the rest is of no interest.
#[repr(C)]
struct LoopInfo {
    device: u64,
    rest: [u64; 28],
}

const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;

/// The file system that the file behind a loop device lies on; `None` where the device cannot be asked.
pub(super) fn behind_loop(name: &OsStr) -> Option<Device> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let device = open(&Path::new("/dev").join(name), flags, Mode::empty()).ok()?;
    let mut info = LoopInfo { device: 0, rest: [0; 28] };
    retry(|| {
        // SAFETY: the request fills a `LoopInfo`, which lives through the call.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
        Errno::result(result)
    })
    .ok()?;
    Some(from_dev(info.device as libc::dev_t))
}
