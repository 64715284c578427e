//! Inodes, of all fourteen types.

use super::invalid;
use super::limit;
use super::metadata::{Cursor, Metadata, Position};
use super::superblock::{Superblock, u16_at, u32_at};
use crate::error::Result;
use crate::unpack::options::Limits;

/// What a fragment or an attribute set is called where there is none.
const NONE: u32 = u32::MAX;

/// The number of the owner is an index into a table.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) number: u32,
    /// The permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u16,
    pub(super) gid: u16,
    /// In seconds since 1970.
    pub(super) mtime: u32,
    /// How many names it has. Directories count otherwise.
    pub(super) links: u32,
    /// Its set of attributes.
    pub(super) xattrs: Option<u32>,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Directory(Listing),
    File(FileBody),
    Symlink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

/// Where a directory's entries lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listing {
    pub(super) position: Position,
    /// In bytes.
    pub(super) size: u32,
}

/// Where a file's data lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileBody {
    /// In bytes, holes counted.
    pub(super) size: u64,
    /// Where its first block begins in the image.
    pub(super) start: u64,
    /// Where the list of its blocks' sizes begins.
    pub(super) list: Position,
    pub(super) tail: Option<Tail>,
}

/// The end of a file, within a block that it shares with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// Of the block.
    pub(super) fragment: u32,
    /// In the decoded block.
    pub(super) offset: u32,
}

impl Inode {
    /// Reads the inode at `position`.
    pub(super) fn read(metadata: &mut Metadata, superblock: &Superblock, position: Position, limits: &Limits) -> Result<Self> {
        let mut cursor = metadata.at(position)?;
        let header: [u8; 16] = cursor.array()?;
        let mut inode = Inode {
            number: u32_at(&header, 12),
            mode: u32::from(u16_at(&header, 2)) & 0o7777,
            uid: u16_at(&header, 4),
            gid: u16_at(&header, 6),
            mtime: u32_at(&header, 8),
            links: 1,
            xattrs: None,
            body: Body::Fifo,
        };
        let kind = u16_at(&header, 0);
        // The extended types are the basic ones plus seven.
        let extended = kind > 7;
        inode.body = match kind {
            1 => {
                let block = cursor.u32()?;
                inode.links = cursor.u32()?;
                let size = cursor.u16()?;
                let at = cursor.u16()?;
                listing(superblock, block, at, size.into())
            }
            8 => {
                inode.links = cursor.u32()?;
                let size = cursor.u32()?;
                let block = cursor.u32()?;
                let _parent_and_index: [u8; 6] = cursor.array()?;
                let at = cursor.u16()?;
                inode.xattrs = attributes(&mut cursor)?;
                listing(superblock, block, at, size)
            }
            2 => {
                let start = cursor.u32()?.into();
                let tail = tail(&mut cursor)?;
                let size = cursor.u32()?.into();
                Body::File(FileBody { size, start, list: cursor.position(), tail })
            }
            9 => {
                let start = cursor.u64()?;
                let size = cursor.u64()?;
                let _bytes_of_holes = cursor.u64()?;
                inode.links = cursor.u32()?;
                let tail = tail(&mut cursor)?;
                inode.xattrs = attributes(&mut cursor)?;
                Body::File(FileBody { size, start, list: cursor.position(), tail })
            }
            3 | 10 => {
                inode.links = cursor.u32()?;
                let length = cursor.u32()? as usize;
                if length == 0 {
                    return Err(invalid("a symbolic link's target is empty"));
                }
                if length > limits.path {
                    return Err(limit("a symbolic link's target is longer than", limits.path));
                }
                Body::Symlink(cursor.bytes(length)?)
            }
            4 | 11 | 5 | 12 => {
                inode.links = cursor.u32()?;
                let number = cursor.u32()?;
                let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
                if kind % 7 == 4 { Body::BlockDevice { major, minor } } else { Body::CharDevice { major, minor } }
            }
            6 | 13 | 7 | 14 => {
                inode.links = cursor.u32()?;
                if kind % 7 == 6 { Body::Fifo } else { Body::Socket }
            }
            _ => return Err(invalid(&format!("its type {kind} is unknown"))),
        };
        if extended && !matches!(kind, 8 | 9) {
            inode.xattrs = attributes(&mut cursor)?;
        }
        Ok(inode)
    }

    /// What a directory entry calls its type.
    pub(super) fn kind(&self) -> u16 {
        match self.body {
            Body::Directory(_) => 1,
            Body::File(_) => 2,
            Body::Symlink(_) => 3,
            Body::BlockDevice { .. } => 4,
            Body::CharDevice { .. } => 5,
            Body::Fifo => 6,
            Body::Socket => 7,
        }
    }
}

fn listing(superblock: &Superblock, block: u32, at: u16, size: u32) -> Body {
    let position = Position { block: superblock.directories.saturating_add(block.into()), at: at.into() };
    // The size counts `.` and `..`, three bytes, which are not stored.
    Body::Directory(Listing { position, size: size.saturating_sub(3) })
}

fn tail(cursor: &mut Cursor<'_>) -> Result<Option<Tail>> {
    let (fragment, offset) = (cursor.u32()?, cursor.u32()?);
    Ok((fragment != NONE).then_some(Tail { fragment, offset }))
}

fn attributes(cursor: &mut Cursor<'_>) -> Result<Option<u32>> {
    Ok(Some(cursor.u32()?).filter(|&set| set != NONE))
}
