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

/// What something is by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// The file system that it lies on.
    pub(super) on: Device,
    /// The block device that it is the node of.
    pub(super) block: Option<Device>,
}

/// The file system that `name` of `dir` leads to.
pub(super) fn behind(dir: BorrowedFd<'_>, name: &CStr) -> Result<Device, Errno> {
    numbers(dir, name).map(|numbers| numbers.on)
}

/// The numbers of what `name` of `dir` leads to.
///
/// Of a file on a network or in user space its server is not asked: it may not answer.
pub(super) fn numbers(dir: BorrowedFd<'_>, name: &CStr) -> Result<Numbers, Errno> {
    let is_block = |mode: libc::mode_t| mode & libc::S_IFMT == libc::S_IFBLK;
    match statx(dir, name) {
        // A filter of system calls may not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let stat = fstatat(dir, name, AtFlags::AT_NO_AUTOMOUNT)?;
            Ok(Numbers { on: from_dev(stat.st_dev), block: is_block(stat.st_mode).then(|| from_dev(stat.st_rdev)) })
        }
        result => {
            let stat = result?;
            let block = [stat.stx_rdev_major, stat.stx_rdev_minor];
            let mode = libc::mode_t::from(stat.stx_mode);
            Ok(Numbers { on: [stat.stx_dev_major, stat.stx_dev_minor], block: is_block(mode).then_some(block) })
        }
    }
}

fn statx(dir: BorrowedFd<'_>, name: &CStr) -> Result<libc::statx, Errno> {
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    retry(|| {
        // SAFETY: the name ends in a NUL, and there is room for what the kernel writes; both live through the call.
        let result =
            unsafe { libc::syscall(libc::SYS_statx, dir.as_raw_fd(), name.as_ptr(), flags, libc::STATX_TYPE, stat.as_mut_ptr()) };
        Errno::result(result)
    })?;
    // SAFETY: zeroed numbers are valid, and so are those that the kernel wrote over them.
    Ok(unsafe { stat.assume_init() })
}

/// `struct loop_info64` of linux/loop.h; the rest is of no interest.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    block: u64,
    rest: [u64; 26],
}

const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;

/// The file system that the file behind a loop device lies on, and the block device that this file is; `None` where the device cannot be asked.
pub(super) fn behind_loop(name: &OsStr) -> Option<Numbers> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let device = open(&Path::new("/dev").join(name), flags, Mode::empty()).ok()?;
    let mut info = LoopInfo { device: 0, inode: 0, block: 0, rest: [0; 26] };
    retry(|| {
        // SAFETY: the request fills a `LoopInfo`, which lives through the call.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
        Errno::result(result)
    })
    .ok()?;
    let block = if info.block == 0 { None } else { Some(from_dev(info.block as libc::dev_t)) };
    Some(Numbers { on: from_dev(info.device as libc::dev_t), block })
}

/// The devices that are made of a block device: logical volumes, encrypted ones, RAIDs.
#[cfg(any(feature = "ceph", feature = "lvm"))]
pub(crate) fn of_block_device(number: libc::dev_t) -> Vec<crate::volume::Holder> {
    let folder = format!("/sys/dev/block/{}:{}/holders", libc::major(number), libc::minor(number));
    let mut names: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    let holder = |name: &std::ffi::OsString| {
        let device = crate::text::Escaped::from(name.as_os_str()).to_string();
        let mapped = std::fs::read_to_string(Path::new("/sys/block").join(name).join("dm/name")).unwrap_or_default();
        match mapped.trim() {
            "" => crate::volume::Holder::Other(format!("/dev/{device} is made of it")),
            mapped => {
                crate::volume::Holder::Other(format!("/dev/mapper/{} is made of it", crate::text::Escaped(mapped.as_bytes())))
            }
        }
    };
    names.iter().map(holder).collect()
}
