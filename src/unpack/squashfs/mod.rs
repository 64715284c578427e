//! From a squashfs image, version 4.0, to its entries.
//!
//! The image is read in the order of its directories, and never mounted. Its data is decoded ahead by a few threads, within a fixed window of memory.

mod ahead;
mod compress;
mod content;
mod directory;
mod inode;
mod input;
mod links;
mod lzo;
mod metadata;
mod superblock;
mod walk;
mod workers;
mod xattr;

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use self::ahead::{Ahead, Tables};
use self::content::Blocks;
use self::inode::{Body, Inode};
use self::input::Input;
use self::metadata::{BLOCK, Metadata};
use self::superblock::{Superblock, u32_at};
use self::walk::{Found, Walk};
use self::workers::Workers;
use self::xattr::Xattrs;
use super::archive::{Archive, Piece};
use super::entry::{Entry, Kind, Timestamp};
use super::loss::{LossKind, Losses};
use super::options::{Limits, UnpackOptions};
use super::path;
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;

/// How many entries are read ahead, so that their data can be decoded, and how much memory they may take, in bytes.
const ENTRIES_AHEAD: usize = 512;
const ENTRIES_BYTES: usize = 2 << 20;
/// How many blocks all files may have together, holes among them. They cost time but, as holes, nothing else.
const BLOCKS_MAX: u64 = 1 << 28;

/// Checks the first bytes of an image, and returns how many it has in all, and how many inodes.
///
/// # Errors
/// Those of [`Squashfs::open`] that do not depend on the rest.
pub(super) fn extent(start: &[u8], limits: &Limits) -> Result<(ByteSize, u64)> {
    let superblock = Superblock::of_start(start, limits)?;
    Ok((ByteSize::from_bytes(superblock.bytes_used), u64::from(superblock.inode_count)))
}

/// A squashfs image, read within limits.
#[derive(Debug)]
pub(super) struct Squashfs {
    superblock: Superblock,
    metadata: Metadata,
    ids: Vec<u32>,
    xattrs: Option<Xattrs>,
    walk: Walk,
    options: UnpackOptions,
    losses: Losses,
    entries: u64,
    blocks: u64,
    stored: u64,
    ahead: Ahead,
    /// Entries that were read ahead, with what they take of memory; an error ends them.
    queue: VecDeque<(usize, Result<Entry>)>,
    queue_bytes: usize,
    /// The number of the entry that was read last.
    last: u64,
    /// The number of the current entry, the first being 1.
    current: u64,
    more: More,
}

/// Whether the walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

impl Squashfs {
    /// Opens the image in `file`, whose position is neither used nor moved. `consumed` is kept at the number of bytes of it that have been read
    /// as file data, which may be a little ahead of what was handed out.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] if it is none, or cut off; [`ErrorKind::Unsupported`] for another version, or a compressor that is not built in.
    pub(super) fn open(file: &File, options: &UnpackOptions, consumed: &Arc<AtomicU64>) -> Result<Self> {
        let limits = options.limits;
        let input = Input::new(file)?;
        let superblock = Superblock::read(&input, &limits)?;
        let input = input.up_to(superblock.bytes_used)?;
        let mut metadata = Metadata::new(input.clone(), superblock.compressor.decoder()?);
        let ids = ids(&mut metadata, &superblock)?;
        let xattrs = Xattrs::find(&metadata, &superblock)?;
        let workers =
            Workers::new(input, superblock.compressor, superblock.block_size as usize, options.threads, consumed.clone())?;
        Ok(Squashfs {
            walk: Walk::new(&superblock, limits),
            superblock,
            metadata,
            ids,
            xattrs,
            options: options.clone(),
            losses: Losses::default(),
            entries: 0,
            blocks: 0,
            stored: 0,
            ahead: Ahead::new(workers),
            queue: VecDeque::new(),
            queue_bytes: 0,
            last: 0,
            current: 0,
            more: More::Yes,
        })
    }

    /// What of the image cannot be an entry: sockets.
    pub(super) fn into_losses(self) -> Losses {
        self.losses
    }

    /// Reads entries ahead and has their data decoded, as far as memory goes.
    fn read_ahead(&mut self) {
        loop {
            let mut tables = Tables { metadata: &mut self.metadata, superblock: &self.superblock };
            let is_full = self.queue.len() >= ENTRIES_AHEAD || self.queue_bytes >= ENTRIES_BYTES;
            if !self.ahead.fill(&mut tables) || is_full || self.more == More::No {
                return;
            }
            self.read_entry();
        }
    }

    /// Reads the next entry of the walk into the queue.
    fn read_entry(&mut self) {
        let entry = loop {
            match self.walk.next(&mut self.metadata, &self.superblock) {
                Ok(None) => break None,
                Ok(Some(found)) => {
                    let (path, offset) = (found.path.clone(), found.offset);
                    match self.entry(found) {
                        Ok(None) => {}
                        Ok(Some(entry)) => break Some(Ok(entry)),
                        Err(error) => break Some(Err(error.with_context("entry", path).with_context("offset", offset))),
                    }
                }
                Err(error) => break Some(Err(error)),
            }
        };
        match entry {
            Some(entry) => {
                if entry.is_err() {
                    self.more = More::No;
                }
                let bytes = entry.as_ref().map_or(0, cost);
                self.queue_bytes += bytes;
                self.queue.push_back((bytes, entry));
            }
            None => self.more = More::No,
        }
    }

    /// The entry of what was found, its data to be decoded; `None` if it cannot be one.
    fn entry(&mut self, found: Found) -> Result<Option<Entry>> {
        let Found { path, inode, link, offset } = found;
        self.entries += 1;
        if self.entries > self.options.limits.entries {
            return Err(limit("there are more entries than", self.options.limits.entries));
        }
        let (uid, gid) = (self.id(inode.uid)?, self.id(inode.gid)?);
        let entry = Entry {
            path,
            kind: Kind::Fifo,
            mode: inode.mode,
            uid,
            gid,
            mtime: Timestamp { seconds: inode.mtime.into(), nanoseconds: 0 },
            xattrs: Vec::new(),
            lost_acls: Vec::new(),
            offset,
        };
        if matches!(inode.body, Body::Socket) {
            return self.lose_socket(entry).map(|()| None);
        }
        let file = self.last + 1;
        let (kind, xattrs) = match link {
            // What the inode says has been kept with its first name.
            Some(first) => (Kind::Hardlink(first), Vec::new()),
            None => (self.kind(&inode, file)?, self.attributes(&inode)?),
        };
        self.last = file;
        Ok(Some(Entry { kind, xattrs, ..entry }))
    }

    fn kind(&mut self, inode: &Inode, file: u64) -> Result<Kind> {
        Ok(match &inode.body {
            Body::Directory(_) => Kind::Directory,
            Body::File(body) => {
                let limits = &self.options.limits;
                if body.size > limits.file_size.bytes() {
                    return Err(limit("a file is larger than", limits.file_size));
                }
                let blocks = Blocks::new(body, &self.superblock);
                self.blocks = self.blocks.saturating_add(blocks.count());
                if self.blocks > BLOCKS_MAX {
                    return Err(limit("the files have together more blocks than", BLOCKS_MAX));
                }
                let (content, stored) = blocks.clone().content(&mut self.metadata, &self.superblock, limits)?;
                self.stored = self.stored.saturating_add(stored);
                if self.stored > limits.bytes.bytes() {
                    return Err(limit("the files are together larger than", limits.bytes));
                }
                self.ahead.add(file, blocks);
                Kind::File(content)
            }
            Body::Symlink(target) => {
                let target = CString::new(target.as_slice());
                Kind::Symlink(target.map_err(|_| invalid("a symbolic link's target holds a NUL byte"))?)
            }
            Body::CharDevice { major, minor } => Kind::CharDevice { major: *major, minor: *minor },
            Body::BlockDevice { major, minor } => Kind::BlockDevice { major: *major, minor: *minor },
            Body::Fifo => Kind::Fifo,
            Body::Socket => return Err(invalid("it is a socket")),
        })
    }

    fn attributes(&mut self, inode: &Inode) -> Result<Vec<(CString, Vec<u8>)>> {
        match (inode.xattrs, &self.xattrs) {
            (None, _) => Ok(Vec::new()),
            (Some(set), Some(xattrs)) => xattrs.set(&mut self.metadata, set, &self.options.limits),
            (Some(_), None) => Err(invalid("its attributes are not in the image")),
        }
    }

    /// Counts a socket, unless it lies outside what is to be unpacked.
    fn lose_socket(&mut self, socket: Entry) -> Result<()> {
        if let Some(socket) = path::select(socket, self.options.strip.as_ref())? {
            self.losses.add(self.options.losses, LossKind::Socket, &socket.path)?;
        }
        Ok(())
    }

    fn id(&self, index: u16) -> Result<u32> {
        let id = self.ids.get(usize::from(index)).copied();
        // All ones means "leave it" to chown, and is nobody's number.
        id.filter(|&id| id != u32::MAX).ok_or_else(|| invalid("its owner is out of range"))
    }
}

impl Archive for Squashfs {
    fn next(&mut self) -> Result<Option<Entry>> {
        self.ahead.skip_to(self.current + 1);
        if self.queue.is_empty() && self.more == More::Yes {
            self.read_entry();
        }
        self.read_ahead();
        let Some((bytes, entry)) = self.queue.pop_front() else { return Ok(None) };
        self.queue_bytes -= bytes;
        self.current += 1;
        entry.map(Some)
    }

    fn piece(&mut self) -> Result<Option<Piece>> {
        let mut tables = Tables { metadata: &mut self.metadata, superblock: &self.superblock };
        let piece = self.ahead.piece(self.current, &mut tables);
        if let Ok(Some(_)) = piece {
            self.read_ahead();
        }
        piece
    }
}

/// The numbers of owners, which inodes name by their places.
fn ids(metadata: &mut Metadata, superblock: &Superblock) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for first in (0..superblock.id_count).step_by(BLOCK / 4) {
        let count = (superblock.id_count - first).min((BLOCK / 4) as u16);
        let bytes = metadata.in_table(superblock.ids, first.into(), 4)?.bytes(usize::from(count) * 4)?;
        ids.extend(bytes.chunks_exact(4).map(|id| u32_at(id, 0)));
    }
    Ok(ids)
}

/// What an entry takes of memory, roughly, in bytes.
fn cost(entry: &Entry) -> usize {
    let xattrs: usize = entry.xattrs.iter().map(|(name, value)| name.count_bytes() + value.len()).sum();
    let kind = match &entry.kind {
        Kind::File(content) => content.data.as_ref().map_or(0, |segments| segments.len() * 16),
        Kind::Symlink(target) => target.count_bytes(),
        Kind::Hardlink(path) => path.as_bytes().len(),
        _ => 0,
    };
    size_of::<Entry>() + entry.path.as_bytes().len() + xattrs + kind
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidImage, "unpack", message)
}

fn corrupt() -> Error {
    invalid("a block is corrupt").with_remedy("fetch the image again")
}

fn truncated() -> Error {
    invalid("the image is truncated").with_remedy("fetch the image again")
}

fn limit(message: &str, limit: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::LimitExceeded, "unpack", format!("{message} the limit of {limit}"))
        .with_remedy("raise the limit, if this image is to be trusted")
}
