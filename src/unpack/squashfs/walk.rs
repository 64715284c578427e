//! The tree of an image, depth first and in the order of its directories.

use super::directory::{Directory, Name};
use super::inode::{Body, Inode};
use super::invalid;
use super::links::{Links, Met};
use super::metadata::{Metadata, Position};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::text::Escaped;
use crate::unpack::entry::EntryPath;
use crate::unpack::options::Limits;
use crate::unpack::path;

/// A walk over all names of an image. The root comes first, and each directory before what it holds.
#[derive(Debug)]
pub(super) struct Walk {
    begun: Begun,
    /// The directories on the way, each with the length of its path.
    stack: Vec<(Directory, usize)>,
    path: Vec<u8>,
    links: Links,
    limits: Limits,
}

#[derive(Debug, PartialEq)]
enum Begun {
    Not,
    Already,
}

/// A name, and what it stands for.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: EntryPath,
    pub(super) inode: Inode,
    /// The first name of the same inode.
    pub(super) link: Option<EntryPath>,
    /// Where the inode's metadata block begins in the image.
    pub(super) offset: u64,
}

impl Walk {
    pub(super) fn new(superblock: &Superblock, limits: Limits) -> Self {
        let links = Links::new(superblock.inode_count);
        Walk { begun: Begun::Not, stack: Vec::new(), path: Vec::new(), links, limits }
    }

    /// The next name; `None` after the last.
    pub(super) fn next(&mut self, metadata: &mut Metadata, superblock: &Superblock) -> Result<Option<Found>> {
        if self.begun == Begun::Not {
            self.begun = Begun::Already;
            return self.root(metadata, superblock).map(Some);
        }
        loop {
            let Some((directory, length)) = self.stack.last_mut() else { return Ok(None) };
            self.path.truncate(*length);
            match directory.next(metadata, superblock) {
                Ok(Some(name)) => {
                    if !self.path.is_empty() {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(&name.name);
                    let found = self.enter(metadata, superblock, &name);
                    return found.map(Some).map_err(|error| error.with_context("entry", Escaped(&self.path)));
                }
                Ok(None) => self.stack.pop(),
                Err(error) => return Err(at(error, &self.path)),
            };
        }
    }

    fn root(&mut self, metadata: &mut Metadata, superblock: &Superblock) -> Result<Found> {
        let position = Position::new(superblock.inodes, superblock.root);
        let mut read = || -> Result<Inode> {
            let inode = Inode::read(metadata, superblock, position, &self.limits)?;
            let Body::Directory(listing) = inode.body else { return Err(invalid("its root is no directory")) };
            self.links.meet_directory(&inode)?;
            self.stack.push((Directory::new(listing), 0));
            Ok(inode)
        };
        let inode = read().map_err(|error| at(error, b""))?;
        Ok(Found { path: EntryPath::default(), inode, link: None, offset: position.block })
    }

    fn enter(&mut self, metadata: &mut Metadata, superblock: &Superblock, name: &Name) -> Result<Found> {
        let path = path::below_root(&self.path, &self.limits)?;
        let inode = Inode::read(metadata, superblock, name.inode, &self.limits)?;
        if inode.kind() != name.kind {
            return Err(invalid("its type is not the one that its directory says"));
        }
        let link = match inode.body {
            Body::Directory(listing) => {
                self.links.meet_directory(&inode)?;
                self.stack.push((Directory::new(listing), self.path.len()));
                None
            }
            _ => match self.links.meet(&inode, &path)? {
                Met::First => None,
                Met::Again(first) => Some(first),
            },
        };
        Ok(Found { path, inode, link, offset: name.inode.block })
    }
}

fn at(error: Error, path: &[u8]) -> Error {
    error.with_context("entry", EntryPath::new_unchecked(path.to_vec()))
}
