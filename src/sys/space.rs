//! What ran out, where the kernel says only that there is no space.

use std::ffi::c_void;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::{Statvfs, fstatvfs};

use super::attr;
use crate::error::{Error, ErrorKind, Space};

/// `Q_XGETQUOTA` of a project.
const GET_PROJECT_QUOTA: u32 = 0x5803 << 8 | 2;
/// For so many seconds an error of a file system is taken for the cause of others.
const RECENT: u64 = 3600;
/// How often its count of errors is looked at.
const COUNTED: usize = 30;
/// Not every C library knows its number, which is the same on all processors but those of MIPS.
const QUOTACTL_FD: libc::c_long = if cfg!(any(target_arch = "mips", target_arch = "mips32r6")) {
    4443
} else if cfg!(any(target_arch = "mips64", target_arch = "mips64r6")) {
    5443
} else {
    443
};
/// In which quotas are counted.
const BLOCK: u64 = 512;

/// The kernel's `struct fs_disk_quota`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Quota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    inodes_timer: i32,
    blocks_timer: i32,
    warnings: [u16; 2],
    inodes_timer_high: i8,
    blocks_timer_high: i8,
    pad: [u8; 2],
    realtime: [u64; 4],
    end: [u8; 8],
}

const _: () = assert!(size_of::<Quota>() == 112);

impl Quota {
    /// That of the project whose id a directory passes on; `None` if it has none, or nothing can be known of it.
    fn of(dir: BorrowedFd<'_>) -> Option<Quota> {
        let attributes = attr::attributes(dir).ok()??;
        // Nothing limits the project 0.
        if !attributes.inherits_project() || attributes.project == 0 {
            return None;
        }
        let mut quota = Quota::default();
        // SAFETY: the descriptor is open, and the kernel writes one `struct fs_disk_quota` through the pointer.
        let result = unsafe {
            let quota = (&raw mut quota).cast::<c_void>();
            libc::syscall(QUOTACTL_FD, dir.as_raw_fd(), GET_PROJECT_QUOTA, attributes.project, quota)
        };
        (result == 0).then_some(quota)
    }

    fn inodes_left(&self) -> u64 {
        left(self.inodes, self.inodes_hard, self.inodes_soft, time(self.inodes_timer, self.inodes_timer_high))
    }

    fn bytes_left(&self) -> u64 {
        let blocks = left(self.blocks, self.blocks_hard, self.blocks_soft, time(self.blocks_timer, self.blocks_timer_high));
        blocks.saturating_mul(BLOCK)
    }
}

fn time(low: i32, high: i8) -> i64 {
    i64::from(high) << 32 | i64::from(low as u32)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// How much a limit leaves; 0 is no limit. A soft one holds when its time is over.
fn left(used: u64, hard: u64, soft: u64, over: i64) -> u64 {
    let soft_holds = soft > 0 && used > soft && over > 0 && over < now() as i64;
    match hard {
        _ if soft_holds => 0,
        0 => u64::MAX,
        hard => hard.saturating_sub(used),
    }
}

/// The kernel's `struct xfs_fsop_counts`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    data: u64,
    realtime: u64,
    inodes_free: u64,
    inodes: u64,
}

/// What XFS has left besides its projects: of these statvfs(2) speaks in their directories.
fn blocks_of_xfs(dir: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut counts = Counts::default();
    let request = nix::request_code_read!(b'X', 113, size_of::<Counts>());
    // SAFETY: the request's number carries the size of `Counts`, and the kernel writes that much.
    let result = unsafe { libc::ioctl(dir.as_raw_fd(), request as _, &raw mut counts) };
    Errno::result(result).map(|_| counts.data)
}

/// XFS returns `ENOSPC` for the quota of a project too, which every other file system calls `EDQUOT`.
fn is_full_project(dir: BorrowedFd<'_>, stat: &Statvfs) -> bool {
    if !fstatfs(dir).is_ok_and(|fs| fs.filesystem_type() == XFS_SUPER_MAGIC) {
        return false;
    }
    let (Some(quota), Ok(free)) = (Quota::of(dir), blocks_of_xfs(dir)) else { return false };
    // Without a limit of the project on inodes, those that the file system has are told in its directories too.
    let has_inodes = stat.files() == 0 || stat.files_available() > 0;
    quota.inodes_left() == 0 || has_inodes && quota.bytes_left() < free.saturating_mul(stat.fragment_size())
}

/// Whether there is plenty of room: a call that says otherwise hit a limit of another kind.
#[cfg(feature = "tar")]
pub(crate) fn has_room(dir: BorrowedFd<'_>) -> bool {
    fstatvfs(dir).is_ok_and(|stat| is_roomy(&stat))
}

fn is_roomy(stat: &Statvfs) -> bool {
    stat.blocks_available() > stat.blocks() / 256 && (stat.files() == 0 || stat.files_available() > 0)
}

/// ext4 passes by what it cannot read of its maps of what is free, and then says that nothing is; it counts its errors.
fn is_failing_ext4(dir: BorrowedFd<'_>, stat: &Statvfs) -> bool {
    if !fstatfs(dir).is_ok_and(|fs| fs.filesystem_type() == EXT4_SUPER_MAGIC) {
        return false;
    }
    let Ok(number) = fstat(dir).map(|stat| stat.st_dev) else { return false };
    let link = fs::read_link(format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number)));
    let Some(device) = link.as_ref().ok().and_then(|link| link.file_name()?.to_str()) else { return false };
    let number = |name: &str| {
        let text = fs::read_to_string(format!("/sys/fs/ext4/{device}/{name}")).ok();
        text.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    // A worker of the kernel counts them, by and by.
    for _ in 0..COUNTED {
        if number("errors_count") > 0 {
            break;
        }
        sleep(Duration::from_millis(10));
    }
    // What it could not read counts as full from then on.
    let is_recent = || now().saturating_sub(number("last_error_time")) < RECENT;
    number("errors_count") > 0 && (is_roomy(stat) || is_recent())
}

/// Says of an error in a directory which space it was that ran out, if it was one.
pub(crate) fn explain(dir: BorrowedFd<'_>, error: Error) -> Error {
    let ran_out = error.kind() == ErrorKind::NoSpace(Space::Pool);
    let Some(stat) = ran_out.then(|| fstatvfs(dir).ok()).flatten() else { return error };
    if is_full_project(dir, &stat) {
        error.with_kind(ErrorKind::NoSpace(Space::Quota))
    } else if is_failing_ext4(dir, &stat) {
        let remedy = "the file system had errors, and may not find the room it has: see the kernel's log, and check it (e2fsck)";
        error.with_kind(ErrorKind::Io).with_remedy(remedy)
    } else if stat.files() > 0 && stat.files_available() == 0 && stat.blocks_available() > 0 {
        error.with_kind(ErrorKind::NoSpace(Space::Inodes))
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_what_is_not_used() {
        let (past, future) = (now() as i64 - 10, now() as i64 + 1000);
        assert_eq!(left(5, 0, 0, 0), u64::MAX);
        assert_eq!(left(5, 8, 0, 0), 3);
        assert_eq!(left(9, 8, 0, 0), 0);
        // A soft one from when its time is over, and then whatever the hard one leaves.
        assert_eq!(left(5, 8, 4, future), 3);
        assert_eq!(left(5, 8, 4, past), 0);
        assert_eq!(left(5, 0, 4, past), 0);
        assert_eq!(left(3, 0, 4, past), u64::MAX);
    }

    #[test]
    fn what_is_no_lack_of_space_stays_what_it_is() {
        let dir = fs::File::open("/").unwrap();
        for errno in [libc::EIO, libc::EDQUOT, libc::EACCES] {
            let error = || Error::io("test", "it failed", Errno::from_raw(errno));
            assert_eq!(explain(std::os::fd::AsFd::as_fd(&dir), error()).kind(), error().kind());
        }
    }
}
