//! Metadata: blocks of at most 8 KiB, compressed one by one, that are read as one stream from any place in them.

use std::sync::Arc;

use super::compress::Decoder;
use super::input::Input;
use super::superblock::{u16_at, u32_at, u64_at};
use super::{corrupt, invalid};
use crate::error::Result;

/// What a block holds at most, in bytes.
pub(super) const BLOCK: usize = 8 << 10;
/// In a block's header: it is stored as it is.
const STORED: u16 = 1 << 15;
/// How many blocks are kept: those of the tables that a walk goes back and forth between.
const CACHED: usize = 64;

/// A place in metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Where its block begins in the image, in bytes.
    pub(super) block: u64,
    /// The place in what the block decodes to.
    pub(super) at: usize,
}

impl Position {
    /// The place that `reference` names in the table that begins at `table`: its block's offset there, and in the low 16 bits its place in it.
    pub(super) fn new(table: u64, reference: u64) -> Self {
        Position { block: table.saturating_add(reference >> 16), at: (reference & 0xffff) as usize }
    }
}

/// The metadata of an image.
#[derive(Debug)]
pub(super) struct Metadata {
    input: Input,
    decoder: Decoder,
    /// The blocks used last, the very last one first.
    cache: Vec<(u64, Arc<Block>)>,
    stored: Vec<u8>,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    /// Where the next one begins.
    next: u64,
}

impl Metadata {
    pub(super) fn new(input: Input, decoder: Decoder) -> Self {
        Metadata { input, decoder, cache: Vec::with_capacity(CACHED), stored: Vec::new() }
    }

    /// Reads from `position` on.
    pub(super) fn at(&mut self, position: Position) -> Result<Cursor<'_>> {
        let block = self.block(position.block)?;
        if position.at > block.bytes.len() {
            return Err(invalid("a reference leads beyond its metadata block").with_context("offset", position.block));
        }
        Ok(Cursor { metadata: self, block, position })
    }

    /// Reads entry `number` of a table of entries of `size` bytes, whose blocks are found by a list of their offsets that begins at `list`.
    pub(super) fn in_table(&mut self, list: u64, number: u32, size: usize) -> Result<Cursor<'_>> {
        let per_block = (BLOCK / size) as u32;
        let place = list.saturating_add(8 * u64::from(number / per_block));
        let block = u64::from_le_bytes(self.input.array(place)?);
        self.at(Position { block, at: (number % per_block) as usize * size })
    }

    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    fn block(&mut self, offset: u64) -> Result<Arc<Block>> {
        let found = self.cache.iter().position(|(cached, _)| *cached == offset);
        let entry = match found {
            Some(0) => return self.cache.first().map(|(_, block)| block.clone()).ok_or_else(corrupt),
            Some(index) => self.cache.remove(index),
            None => {
                let block = self.read(offset).map_err(|error| error.with_context("offset", offset))?;
                self.cache.truncate(CACHED - 1);
                (offset, Arc::new(block))
            }
        };
        let block = entry.1.clone();
        self.cache.insert(0, entry);
        Ok(block)
    }

    fn read(&mut self, offset: u64) -> Result<Block> {
        let header = u16::from_le_bytes(self.input.array(offset)?);
        let size = usize::from(header & !STORED);
        if size == 0 || size > BLOCK {
            return Err(invalid("the size of a metadata block is out of range"));
        }
        self.stored.resize(size, 0);
        self.input.read(offset + 2, &mut self.stored)?;
        let mut bytes = Vec::new();
        if header & STORED != 0 {
            bytes.extend_from_slice(&self.stored);
        } else {
            self.decoder.decode(&self.stored, &mut bytes, BLOCK)?;
        }
        if bytes.is_empty() {
            return Err(invalid("a metadata block is empty"));
        }
        Ok(Block { bytes, next: offset + 2 + size as u64 })
    }
}

/// Reads metadata on and on, over the ends of blocks.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    metadata: &'a mut Metadata,
    block: Arc<Block>,
    position: Position,
}

impl Cursor<'_> {
    /// Where it reads next.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Takes up to `length` bytes, as many as lie in one piece, and at least one.
    fn take(&mut self, length: usize) -> Result<&[u8]> {
        if self.position.at >= self.block.bytes.len() {
            let next = self.block.next;
            self.block = self.metadata.block(next)?;
            self.position = Position { block: next, at: 0 };
        }
        let rest = self.block.bytes.get(self.position.at..).unwrap_or_default();
        let taken = rest.get(..length.min(rest.len())).unwrap_or_default();
        self.position.at += taken.len();
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let part = self.take(rest.len())?;
            let (filled, left) = rest.split_at_mut(part.len());
            filled.copy_from_slice(part);
            rest = left;
        }
        Ok(bytes)
    }

    /// The next `length` bytes. Memory is taken for what there is, not for what is claimed.
    pub(super) fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(BLOCK));
        while bytes.len() < length {
            let part = self.take(length - bytes.len())?;
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16_at(&self.array::<2>()?, 0))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32_at(&self.array::<4>()?, 0))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64_at(&self.array::<8>()?, 0))
    }
}
