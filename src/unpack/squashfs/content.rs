//! The content of files: blocks of one size that lie one after the other, holes among them, and a tail in a block that files share.

use super::inode::{FileBody, Tail};
use super::metadata::{Metadata, Position};
use super::superblock::Superblock;
use super::{invalid, limit};
use crate::error::Result;
use crate::unpack::entry::{Content, Segment};
use crate::unpack::options::Limits;

/// In the size of a block: it is stored as it is.
const STORED: u32 = 1 << 24;

/// A block as it lies in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) offset: u64,
    size: u32,
}

impl Packed {
    /// The block at `offset` whose size, with the mark of its form, is `size`.
    pub(super) fn new(offset: u64, size: u32, superblock: &Superblock) -> Result<Self> {
        let packed = Packed { offset, size };
        if packed.size() > superblock.block_size || size & !(STORED | (STORED - 1)) != 0 {
            return Err(invalid("the size of a data block is out of range").with_context("offset", offset));
        }
        if offset.checked_add(packed.size().into()).is_none_or(|end| end > superblock.bytes_used) {
            return Err(invalid("a data block lies outside of the image").with_context("offset", offset));
        }
        Ok(packed)
    }

    /// In bytes.
    pub(super) fn size(&self) -> u32 {
        self.size & !STORED
    }

    pub(super) fn is_stored(&self) -> bool {
        self.size & STORED != 0
    }
}

/// What comes next of a file's data.
#[derive(Debug)]
pub(super) enum Part {
    /// A block that decodes to `length` bytes.
    Block { packed: Packed, length: usize },
    /// `length` bytes of a shared block.
    Tail { tail: Tail, length: usize },
}

/// The blocks of a file that are still to come.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    /// Where the list of their sizes goes on.
    list: Position,
    count: u64,
    /// Where the next one begins in the image.
    offset: u64,
    /// Bytes of the file that are still to come.
    left: u64,
    tail: Option<Tail>,
}

impl Blocks {
    pub(super) fn new(body: &FileBody, superblock: &Superblock) -> Self {
        let size = u64::from(superblock.block_size);
        let count = if body.tail.is_some() { body.size / size } else { body.size.div_ceil(size) };
        Blocks { list: body.list, count, offset: body.start, left: body.size, tail: body.tail }
    }

    /// How many blocks there are, holes among them.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Where data and holes lie, and how much data there is.
    pub(super) fn content(mut self, metadata: &mut Metadata, superblock: &Superblock, limits: &Limits) -> Result<(Content, u64)> {
        let size = self.left;
        let mut segments: Vec<Segment> = Vec::new();
        let most = limits.header.bytes() / size_of::<Segment>() as u64;
        let mut add = |offset, length| {
            match segments.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += length,
                _ => segments.push(Segment { offset, length }),
            }
            if segments.len() as u64 > most { Err(limit("the map of a sparse file exceeds", limits.header)) } else { Ok(()) }
        };
        if self.count > 0 {
            let mut cursor = metadata.at(self.list)?;
            while self.count > 0 {
                let offset = size - self.left;
                if let Some((_, length)) = self.step(cursor.u32()?, superblock)? {
                    add(offset, length as u64)?;
                }
            }
        }
        if self.tail.is_some() && self.left > 0 {
            add(size - self.left, self.left)?;
        }
        let stored = segments.iter().map(|segment| segment.length).sum();
        let data = if stored == size { None } else { Some(segments) };
        Ok((Content { size, data }, stored))
    }

    /// The next part of the data; `None` at its end.
    pub(super) fn next(&mut self, metadata: &mut Metadata, superblock: &Superblock) -> Result<Option<Part>> {
        if self.count > 0 {
            let mut cursor = metadata.at(self.list)?;
            while self.count > 0 {
                let step = self.step(cursor.u32()?, superblock)?;
                if let Some((packed, length)) = step {
                    self.list = cursor.position();
                    return Ok(Some(Part::Block { packed, length }));
                }
            }
        }
        let length = usize::try_from(std::mem::take(&mut self.left)).unwrap_or(usize::MAX);
        Ok(self.tail.take().filter(|_| length > 0).map(|tail| Part::Tail { tail, length }))
    }

    /// Goes over the next block, which has this size in the list; `None` if it is a hole.
    fn step(&mut self, size: u32, superblock: &Superblock) -> Result<Option<(Packed, usize)>> {
        let length = self.left.min(superblock.block_size.into());
        self.left -= length;
        self.count -= 1;
        if size & !STORED == 0 {
            return Ok(None);
        }
        let packed = Packed::new(self.offset, size, superblock)?;
        self.offset += u64::from(packed.size());
        Ok(Some((packed, length as usize)))
    }
}
