//! The superblock: where everything lies, and how it is compressed.

use super::compress::Compressor;
use super::input::Input;
use super::{invalid, limit, truncated};
use crate::error::{Error, ErrorKind, Result};
use crate::unpack::options::Limits;

const SIZE: usize = 96;
const MAGIC: [u8; 4] = *b"hsqs";
/// The magic of an image in the order of bytes of a big-endian machine, which version 4 did away with.
const SWAPPED: [u8; 4] = *b"sqsh";
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4 << 10..=1 << 20;
/// What an offset is when there is no such table.
const NONE: u64 = u64::MAX;

#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) compressor: Compressor,
    /// Of a block of file data, in bytes.
    pub(super) block_size: u32,
    pub(super) inode_count: u32,
    pub(super) fragment_count: u32,
    pub(super) id_count: u16,
    /// The root directory: its block's offset in the inode table, and in the low 16 bits its place in that block.
    pub(super) root: u64,
    /// The end of the image, in bytes.
    pub(super) bytes_used: u64,
    pub(super) ids: u64,
    pub(super) xattrs: Option<u64>,
    pub(super) inodes: u64,
    pub(super) directories: u64,
    pub(super) fragments: Option<u64>,
}

impl Superblock {
    pub(super) fn read(input: &Input, limits: &Limits) -> Result<Self> {
        Self::parse(&input.array(0)?, limits)
    }

    /// The one that an image begins with.
    pub(super) fn of_start(start: &[u8], limits: &Limits) -> Result<Self> {
        let bytes = start.first_chunk().ok_or_else(|| truncated().with_context("size", start.len()))?;
        Self::parse(bytes, limits)
    }

    fn parse(bytes: &[u8; SIZE], limits: &Limits) -> Result<Self> {
        let unsupported = |message: String| Error::new(ErrorKind::Unsupported, "unpack", message);
        match bytes.first_chunk() {
            Some(&MAGIC) => {}
            Some(&SWAPPED) => return Err(unsupported("this is a squashfs image of a version before 4.0".to_owned())),
            _ => return Err(invalid("this is not a squashfs image")),
        }
        let version = (u16_at(bytes, 28), u16_at(bytes, 30));
        if version != (4, 0) {
            let message = format!("this is a squashfs image of version {}.{}, not 4.0", version.0, version.1);
            return Err(unsupported(message).with_remedy("make the image again with mksquashfs 4.0 or later"));
        }
        let table = |at| Some(u64_at(bytes, at)).filter(|&offset| offset != NONE);
        let superblock = Superblock {
            compressor: Compressor::new(u16_at(bytes, 20))?,
            block_size: u32_at(bytes, 12),
            inode_count: u32_at(bytes, 4),
            fragment_count: u32_at(bytes, 16),
            id_count: u16_at(bytes, 26),
            root: u64_at(bytes, 32),
            bytes_used: u64_at(bytes, 40),
            ids: u64_at(bytes, 48),
            xattrs: table(56),
            inodes: u64_at(bytes, 64),
            directories: u64_at(bytes, 72),
            fragments: table(80),
        };
        superblock.check(u16_at(bytes, 22), limits)?;
        Ok(superblock)
    }

    fn check(&self, block_log: u16, limits: &Limits) -> Result<()> {
        if !BLOCK_SIZES.contains(&self.block_size) || 1u32.checked_shl(block_log.into()) != Some(self.block_size) {
            return Err(invalid("its block size is out of range"));
        }
        let tables = [Some(self.ids), self.xattrs, Some(self.inodes), Some(self.directories), self.fragments];
        if tables.iter().flatten().any(|&table| table >= self.bytes_used) || self.inodes > self.directories {
            return Err(invalid("its tables lie outside of it"));
        }
        if u64::from(self.inode_count) > limits.entries {
            return Err(limit("there are more entries than", limits.entries));
        }
        Ok(())
    }
}

/// The number at `at` in `bytes`, and 0 beyond their end.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
