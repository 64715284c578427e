//! Growing a mounted filesystem, by its ioctl on a directory in it.
//!
//! Each wants `CAP_SYS_ADMIN` or `CAP_SYS_RESOURCE`, and a mount that can be written to.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::ioctl::ioctl_num_type;
use nix::sys::statfs::fstatfs;

use super::call::retry;
use crate::size::ByteSize;

const EXT4_RESIZE: ioctl_num_type = nix::request_code_write!(b'f', 16, size_of::<u64>());
const XFS_GEOMETRY: ioctl_num_type = nix::request_code_read!(b'X', 100, size_of::<XfsGeometry>());
const XFS_GROW: ioctl_num_type = nix::request_code_write!(b'X', 110, size_of::<XfsGrow>());
const BTRFS_RESIZE: ioctl_num_type = nix::request_code_write!(0x94, 3, size_of::<BtrfsArgs>());
const BTRFS_DEVICE: ioctl_num_type = nix::request_code_readwrite!(0x94, 30, size_of::<BtrfsDevice>());
const BTRFS_INFO: ioctl_num_type = nix::request_code_read!(0x94, 31, size_of::<BtrfsInfo>());

/// `struct xfs_fsop_geom_v1`; the number of the call holds its size.
#[repr(C)]
#[derive(Default)]
struct XfsGeometry {
    block_size: u32,
    rt_extent_size: u32,
    group_blocks: u32,
    groups: u32,
    log_blocks: u32,
    sector_size: u32,
    inode_size: u32,
    inodes_percent: u32,
    data_blocks: u64,
    rt_blocks: u64,
    rt_extents: u64,
    log_start: u64,
    uuid: [u8; 16],
    stripe_unit: u32,
    stripe_width: u32,
    version: i32,
    flags: u32,
    log_sector_size: u32,
    rt_sector_size: u32,
    directory_block_size: u32,
    // What the compiler of the kernel adds, for the numbers of 64 bits.
    padding: u32,
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    inodes_percent: u32,
    padding: u32,
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct BtrfsArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_fs_info_args`, of which only this is of use here.
#[repr(C)]
struct BtrfsInfo {
    last_device: u64,
    devices: u64,
    rest: [u64; 126],
}

/// `struct btrfs_ioctl_dev_info_args`, of which only this is of use here.
#[repr(C)]
struct BtrfsDevice {
    id: u64,
    uuid: [u8; 16],
    used: u64,
    size: u64,
    rest: [u64; 507],
}

/// Makes a call; what it returns besides an error.
///
/// # Safety
/// `arg` is what the request wants: readable, writable, or both, for as long as its number says, or longer.
unsafe fn call<T>(fd: BorrowedFd<'_>, request: ioctl_num_type, arg: *mut T) -> Result<libc::c_int, Errno> {
    // SAFETY: the caller vouches for the argument; the descriptor is borrowed.
    retry(|| Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg) }))
}

/// Grows an ext4 to a device of this size.
pub(crate) fn ext4(root: BorrowedFd<'_>, device: ByteSize) -> Result<(), Errno> {
    let block = u64::try_from(retry(|| fstatfs(root))?.block_size()).unwrap_or_default();
    let mut blocks = device.bytes().checked_div(block).ok_or(Errno::EINVAL)?;
    // SAFETY: the request wants a number of 64 bits.
    unsafe { call(root, EXT4_RESIZE, &raw mut blocks) }.map(drop)
}

/// Grows an XFS to a device of this size. Its inodes may take the same part of it.
pub(crate) fn xfs(root: BorrowedFd<'_>, device: ByteSize) -> Result<(), Errno> {
    let mut geometry = XfsGeometry::default();
    // SAFETY: the request wants a `XfsGeometry`.
    unsafe { call(root, XFS_GEOMETRY, &raw mut geometry)? };
    let blocks = device.bytes().checked_div(geometry.block_size.into()).ok_or(Errno::EINVAL)?;
    if blocks <= geometry.data_blocks {
        return Ok(());
    }
    let mut grow = XfsGrow { blocks, inodes_percent: geometry.inodes_percent, padding: 0 };
    // SAFETY: the request wants a `XfsGrow`.
    unsafe { call(root, XFS_GROW, &raw mut grow) }.map(drop)
}

/// Grows a btrfs to its device, of this size, which has to be the only one. The kernel grows none to less than 256 MiB: `EINVAL`.
pub(crate) fn btrfs(root: BorrowedFd<'_>, device: ByteSize) -> Result<(), Errno> {
    /// What it counts in, at most.
    const SECTOR: u64 = 64 << 10;

    let mut info = BtrfsInfo { last_device: 0, devices: 0, rest: [0; 126] };
    // SAFETY: the request wants a `BtrfsInfo`.
    unsafe { call(root, BTRFS_INFO, &raw mut info)? };
    if info.devices != 1 {
        return Err(Errno::EOPNOTSUPP);
    }
    // The only one is the first, unless another was replaced by it.
    let mut only = BtrfsDevice { id: info.last_device, uuid: [0; 16], used: 0, size: 0, rest: [0; 507] };
    // SAFETY: the request wants a `BtrfsDevice`.
    unsafe { call(root, BTRFS_DEVICE, &raw mut only)? };
    if device.bytes() < only.size.saturating_add(SECTOR) {
        return Ok(());
    }
    let mut args = BtrfsArgs { fd: 0, name: [0; 4088] };
    let size = format!("{}:max", info.last_device);
    args.name.iter_mut().zip(size.bytes()).for_each(|(to, byte)| *to = byte);
    // SAFETY: the request wants a `BtrfsArgs` with a text in it that ends with a zero.
    match unsafe { call(root, BTRFS_RESIZE, &raw mut args)? } {
        0 => Ok(()),
        // It has a number of its own for what goes on already: a balance, another change of its size.
        _ => Err(Errno::EBUSY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    #[test]
    #[allow(clippy::unnecessary_cast, reason = "the type of the numbers is the C library's")]
    fn numbers_are_those_of_the_headers() {
        // As the headers of Linux and of xfsprogs have them.
        assert_eq!(EXT4_RESIZE as u64, 0x4008_6610);
        assert_eq!(XFS_GEOMETRY as u64, 0x8070_5864);
        assert_eq!(XFS_GROW as u64, 0x4010_586e);
        assert_eq!(BTRFS_RESIZE as u64, 0x5000_9403);
        assert_eq!(BTRFS_DEVICE as u64, 0xd000_941e);
        assert_eq!(BTRFS_INFO as u64, 0x8400_941f);
    }

    #[test]
    fn what_is_no_such_filesystem_is_refused() {
        let proc = std::fs::File::open("/proc").unwrap();
        let fd = std::os::fd::AsFd::as_fd(&proc);
        let refused = [ext4(fd, ByteSize::gib(1)), xfs(fd, ByteSize::gib(1)), btrfs(fd, ByteSize::gib(1))];
        assert_eq!(refused, [Err(Errno::ENOTTY); 3]);
    }
}
