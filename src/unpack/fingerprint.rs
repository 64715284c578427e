//! The digest of a tree on disk, by which a base is verified.
//!
//! It covers all that an image can set, of everything below the root: paths, kinds, owners, modes, times of change, attributes, targets and content.
//! It is the same on every file system, however the tree's directories list their entries and wherever its holes are: zeros in whole blocks
//! are holes.

use std::os::fd::BorrowedFd;

use super::archive::Archive;
use super::entry::{Entry, Kind};
use super::existing::{Existing, Names};
use super::links::Links;
use super::{Hooks, Tally};
use crate::digest::{Hasher, Sha256};
use crate::error::Result;
use crate::record::Contents;
use crate::size::ByteSize;

/// What is told as a hole where it holds nothing but zeros.
const BLOCK: usize = 4096;

/// Reads the tree below the open directory `root` and digests it.
///
/// # Errors
/// What the hooks and the system return; [`Busy`](crate::ErrorKind::Busy) if something is mounted in it;
/// [`LimitExceeded`](crate::ErrorKind::LimitExceeded) if too many files have names that are far apart.
pub(crate) fn fingerprint(root: BorrowedFd<'_>, hooks: &mut dyn Hooks) -> Result<Contents> {
    const OPERATION: &str = "digest the tree";
    let mut tree = Existing::open(root, OPERATION, Names::Apart)?;
    let mut tally = Tally::default();
    let mut sum = Sum::default();
    let mut files: Links<Sha256> = Links::new();
    while let Some(entry) = tree.next()? {
        if entry.path.is_root() {
            continue;
        }
        tally.entries += 1;
        hooks.entry(&tally)?;
        // Names of one file are equal among themselves, and which of them comes first is chance.
        let known = tree.file().and_then(|file| files.seen(file, |body| *body));
        let body = match known {
            Some(body) => body,
            None => {
                let body = digest_body(&entry, &mut tree, &mut tally, hooks)?;
                if let Some(file) = tree.file() {
                    files.note(OPERATION, file, tree.names(), body)?;
                }
                body
            }
        };
        let mut hasher = Hasher::new();
        field(&mut hasher, entry.path.as_bytes());
        hasher.update(body.as_bytes());
        sum.add(&hasher.finish());
    }
    let mut whole = Hasher::new();
    whole.update(&tally.entries.to_le_bytes());
    whole.update(&sum.0);
    Ok(Contents { digest: whole.finish(), entries: tally.entries, bytes: tally.bytes })
}

/// The digests of the entries, added up modulo 2^256: entries come in whatever order, and there may be more than memory is for.
///
/// No accident finds another tree of the same sum. Whoever could choose all entries of two trees might find two with less work than SHA-256
/// takes; but what a base is made of is known by the digest of its image, and whoever can write to a base can write its record too.
#[derive(Debug, Default)]
struct Sum([u8; 32]);

impl Sum {
    fn add(&mut self, digest: &Sha256) {
        let mut carry = 0;
        for (byte, other) in self.0.iter_mut().zip(digest.as_bytes()) {
            let sum = u16::from(*byte) + u16::from(*other) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
    }
}

/// All of an entry but its name.
fn digest_body(entry: &Entry, tree: &mut Existing, tally: &mut Tally, hooks: &mut dyn Hooks) -> Result<Sha256> {
    let mut hasher = Hasher::new();
    let kind: (u8, [u64; 2]) = match &entry.kind {
        Kind::File(content) => (b'f', [content.size, 0]),
        Kind::Directory => (b'd', [0; 2]),
        Kind::Symlink(_) => (b'l', [0; 2]),
        Kind::Hardlink(_) => (b'h', [0; 2]),
        Kind::Fifo => (b'p', [0; 2]),
        Kind::CharDevice { major, minor } => (b'c', [u64::from(*major), u64::from(*minor)]),
        Kind::BlockDevice { major, minor } => (b'b', [u64::from(*major), u64::from(*minor)]),
    };
    hasher.update(&[kind.0]);
    let time = entry.mtime;
    let numbers = [kind.1[0], kind.1[1], entry.mode.into(), entry.uid.into(), entry.gid.into(), tree.names()];
    numbers.iter().for_each(|number| hasher.update(&number.to_le_bytes()));
    hasher.update(&time.seconds.to_le_bytes());
    hasher.update(&time.nanoseconds.to_le_bytes());
    for (name, value) in &entry.xattrs {
        field(&mut hasher, name.to_bytes());
        field(&mut hasher, value);
    }
    match &entry.kind {
        Kind::Symlink(target) => field(&mut hasher, target.to_bytes()),
        Kind::File(_) => digest_data(&mut hasher, tree, tally, hooks)?,
        _ => {}
    }
    Ok(hasher.finish())
}

/// Every block that is not all zeros, with its place.
fn digest_data(hasher: &mut Hasher, tree: &mut Existing, tally: &mut Tally, hooks: &mut dyn Hooks) -> Result<()> {
    let mut block = [0; BLOCK];
    let mut current = 0;
    let mut flush = |number: u64, block: &mut [u8; BLOCK]| {
        if block.iter().any(|&byte| byte != 0) {
            hasher.update(&number.to_le_bytes());
            hasher.update(&block[..]);
            block.fill(0);
        }
    };
    while let Some((offset, piece)) = tree.piece_at()? {
        tally.bytes = tally.bytes.saturating_add(ByteSize::from_bytes(piece.len() as u64));
        hooks.entry(tally)?;
        let mut at = offset;
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            if number != current {
                flush(current, &mut block);
                current = number;
            }
            let length = rest.len().min(BLOCK - within);
            let (part, after) = rest.split_at(length);
            if let Some(room) = block.get_mut(within..within + length) {
                room.copy_from_slice(part);
            }
            at += length as u64;
            rest = after;
        }
    }
    flush(current, &mut block);
    Ok(())
}

/// Bytes that cannot be taken for those beside them.
fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
