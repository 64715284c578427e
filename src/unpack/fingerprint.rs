//! The digest of a tree on disk, by which a base is verified.
//!
//! It covers all that an image can set, of everything below the root: paths, kinds, owners, modes, times of change, attributes, targets and content.
//! It is the same on every file system, however the tree's directories list their entries and wherever its holes are: zeros in whole blocks
//! are holes.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use super::archive::Archive;
use super::entry::{Entry, Kind};
use super::existing::Existing;
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
/// What the hooks and the system return; [`Busy`](crate::ErrorKind::Busy) if something is mounted in it.
pub(crate) fn fingerprint(root: BorrowedFd<'_>, hooks: &mut dyn Hooks) -> Result<Contents> {
    const OPERATION: &str = "digest the tree";
    let mut tree = Existing::open(root, OPERATION)?;
    let mut tally = Tally::default();
    // In whatever order they come: sorted, they are the same for the same tree.
    let mut digests = Vec::new();
    let mut files: HashMap<Vec<u8>, Sha256> = HashMap::new();
    while let Some(entry) = tree.next()? {
        if entry.path.is_root() {
            continue;
        }
        tally.entries += 1;
        hooks.entry(&tally)?;
        // Names of one file are equal among themselves, and which of them comes first is chance.
        let body = match &entry.kind {
            Kind::Hardlink(first) => files.get(first.as_bytes()).copied(),
            _ => None,
        };
        let body = match body {
            Some(body) => body,
            None => {
                let body = digest_body(&entry, &mut tree, &mut tally, hooks)?;
                if tree.names() > 1 {
                    files.insert(entry.path.as_bytes().to_vec(), body);
                }
                body
            }
        };
        let mut hasher = Hasher::new();
        field(&mut hasher, entry.path.as_bytes());
        hasher.update(body.as_bytes());
        digests.push(hasher.finish());
    }
    digests.sort_unstable();
    let mut whole = Hasher::new();
    digests.iter().for_each(|digest| whole.update(digest.as_bytes()));
    Ok(Contents { digest: whole.finish(), entries: tally.entries, bytes: tally.bytes })
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
