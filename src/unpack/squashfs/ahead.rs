//! The data of files to come: blocks that are decoded while earlier ones are written.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::content::{Blocks, Packed, Part};
use super::inode::Tail;
use super::invalid;
use super::metadata::Metadata;
use super::superblock::Superblock;
use super::workers::{Length, Slot, Workers};
use crate::error::Result;
use crate::unpack::archive::Piece;

/// What is decoded ahead at most, in bytes. Shared blocks that are kept for files to come are counted.
const AHEAD: usize = 16 << 20;
/// What is kept of shared blocks, in bytes: files that come one after the other mostly share the same one.
const SHARED: usize = 2 << 20;
/// What is waited for until its memory is used again, in bytes.
const RETURNING: usize = 4 << 20;

/// The data of the current file and of those that follow it, in order.
#[derive(Debug)]
pub(super) struct Ahead {
    workers: Workers,
    tickets: VecDeque<Ticket>,
    /// The file whose blocks have not all been begun: the last one.
    growing: Option<(u64, Blocks)>,
    shared: VecDeque<(u32, Arc<Slot>)>,
    /// Blocks that were handed out, whose memory comes back when their pieces are gone.
    returning: VecDeque<Arc<Vec<u8>>>,
}

/// Data of a file, which is decoded meanwhile.
#[derive(Debug)]
struct Ticket {
    /// The number of the file.
    file: u64,
    data: Result<(Arc<Slot>, Range<usize>)>,
}

/// What is read to begin blocks.
pub(super) struct Tables<'a> {
    pub(super) metadata: &'a mut Metadata,
    pub(super) superblock: &'a Superblock,
}

impl Ahead {
    pub(super) fn new(workers: Workers) -> Self {
        let (tickets, shared, returning) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Ahead { workers, tickets, growing: None, shared, returning }
    }

    /// Adds the data of a file, behind that of all others, which have been begun.
    pub(super) fn add(&mut self, file: u64, blocks: Blocks) {
        self.growing = Some((file, blocks));
    }

    /// Begins blocks as far as memory goes. Whether all have been begun, so that another file may be added.
    pub(super) fn fill(&mut self, tables: &mut Tables<'_>) -> bool {
        self.take_back();
        while self.growing.is_some() {
            if self.workers.alive() >= AHEAD {
                return false;
            }
            self.begin(tables);
        }
        true
    }

    /// Drops what there is of all files before `file`.
    pub(super) fn skip_to(&mut self, file: u64) {
        while self.tickets.front().is_some_and(|ticket| ticket.file < file) {
            self.tickets.pop_front();
        }
        self.growing.take_if(|(growing, _)| *growing < file);
    }

    /// The next piece of `file`, which is the first one there is.
    pub(super) fn piece(&mut self, file: u64, tables: &mut Tables<'_>) -> Result<Option<Piece>> {
        // However little memory there is, one block has to be begun.
        while self.tickets.is_empty() && self.growing.as_ref().is_some_and(|(growing, _)| *growing == file) {
            self.begin(tables);
        }
        if self.tickets.front().is_none_or(|ticket| ticket.file != file) {
            return Ok(None);
        }
        let Some(ticket) = self.tickets.pop_front() else { return Ok(None) };
        let (slot, range) = ticket.data?;
        let block = self.workers.finish(&slot)?;
        if block.get(range.clone()).is_none_or(<[u8]>::is_empty) {
            return Err(invalid("a file's end lies beyond the block that it shares"));
        }
        if Arc::strong_count(&slot) == 1 {
            self.returning.push_back(block.clone());
        }
        Ok(Some(Piece::new(block, range)))
    }

    /// Begins the next block of the file that is not complete.
    fn begin(&mut self, tables: &mut Tables<'_>) {
        let Some((file, blocks)) = &mut self.growing else { return };
        let file = *file;
        let part = blocks.next(tables.metadata, tables.superblock);
        let data = part.and_then(|part| match part {
            None => Ok(None),
            Some(Part::Block { packed, length }) => Ok(Some((self.workers.begin(packed, Length::Exactly(length)), 0..length))),
            Some(Part::Tail { tail, length }) => {
                let range = range(tail, length)?;
                Ok(Some((self.shared(tail.fragment, tables)?, range)))
            }
        });
        if !matches!(data, Ok(Some(_))) {
            self.growing = None;
        }
        if let Some(data) = data.transpose() {
            self.tickets.push_back(Ticket { file, data });
        }
    }

    /// A block that files share.
    fn shared(&mut self, number: u32, tables: &mut Tables<'_>) -> Result<Arc<Slot>> {
        let Tables { metadata, superblock } = tables;
        let found = self.shared.iter().position(|(shared, _)| *shared == number);
        let entry = match found.and_then(|index| self.shared.remove(index)) {
            Some(entry) => entry,
            None => {
                let missing = || invalid("the block that it shares is not in the image");
                let list = superblock.fragments.filter(|_| number < superblock.fragment_count).ok_or_else(missing)?;
                let mut cursor = metadata.in_table(list, number, 16)?;
                let (offset, size) = (cursor.u64()?, cursor.u32()?);
                let packed = Packed::new(offset, size, superblock)?;
                (number, self.workers.begin(packed, Length::UpTo(superblock.block_size as usize)))
            }
        };
        let slot = entry.1.clone();
        self.shared.push_front(entry);
        self.shared.truncate((SHARED / superblock.block_size as usize).max(2));
        Ok(slot)
    }

    /// Takes back the memory of blocks that have been written.
    fn take_back(&mut self) {
        while let Some(block) = self.returning.pop_front() {
            match Arc::try_unwrap(block) {
                Ok(block) => self.workers.reuse(block),
                Err(block) => {
                    self.returning.push_front(block);
                    break;
                }
            }
        }
        let mut bytes: usize = self.returning.iter().map(|block| block.capacity()).sum();
        while bytes > RETURNING {
            bytes -= self.returning.pop_front().map_or(0, |block| block.capacity());
        }
    }
}

fn range(tail: Tail, length: usize) -> Result<Range<usize>> {
    let start = tail.offset as usize;
    let end = start.checked_add(length).ok_or_else(|| invalid("a file's end lies beyond the block that it shares"))?;
    Ok(start..end)
}
