//! The entries of a directory: runs of names whose inodes lie in one metadata block.

use super::inode::Listing;
use super::invalid;
use super::metadata::{Metadata, Position};
use super::superblock::{Superblock, u16_at, u32_at};
use crate::error::{Error, ErrorKind, Result};

/// The longest name that Linux file systems take, in bytes.
const NAME_MAX: usize = 255;
/// How many names a run has at most.
const RUN_MAX: u32 = 256;

/// A directory that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    rest: Listing,
    /// How many names are left of the current run, and the block of their inodes.
    run: u32,
    block: u32,
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    pub(super) inode: Position,
    /// The type of its inode, as a basic one.
    pub(super) kind: u16,
}

impl Directory {
    pub(super) fn new(listing: Listing) -> Self {
        Directory { rest: listing, run: 0, block: 0 }
    }

    /// The next name, which is one component and neither `.` nor `..`; `None` after the last.
    pub(super) fn next(&mut self, metadata: &mut Metadata, superblock: &Superblock) -> Result<Option<Name>> {
        if self.rest.size == 0 {
            return Ok(None);
        }
        let mut cursor = metadata.at(self.rest.position)?;
        if self.run == 0 {
            let header: [u8; 12] = cursor.array()?;
            self.take(12)?;
            self.run = u32_at(&header, 0).saturating_add(1);
            self.block = u32_at(&header, 4);
            if self.run > RUN_MAX {
                return Err(invalid("a directory is corrupt"));
            }
        }
        let header: [u8; 8] = cursor.array()?;
        let length = usize::from(u16_at(&header, 6)) + 1;
        if length > NAME_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, "unpack", format!("a name is {length} bytes long"))
                .with_context("limit", NAME_MAX));
        }
        self.take(8 + length as u32)?;
        let name = cursor.bytes(length)?;
        if name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Error::new(ErrorKind::UnsafePath, "unpack", "a directory holds a name that is a path")
                .with_remedy("do not trust this image"));
        }
        self.run -= 1;
        self.rest.position = cursor.position();
        let inode = Position { block: superblock.inodes.saturating_add(self.block.into()), at: u16_at(&header, 0).into() };
        Ok(Some(Name { name, inode, kind: u16_at(&header, 4) }))
    }

    fn take(&mut self, bytes: u32) -> Result<()> {
        self.rest.size = self.rest.size.checked_sub(bytes).ok_or_else(|| invalid("a directory is corrupt"))?;
        Ok(())
    }
}
