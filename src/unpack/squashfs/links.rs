//! Which inodes have been met, and by which name first.

use std::collections::HashMap;

use super::inode::Inode;
use super::{invalid, limit};
use crate::error::Result;
use crate::size::ByteSize;
use crate::unpack::entry::EntryPath;

/// Bytes spent on the first names of inodes that have more of them.
const NAMES_MAX: usize = 24 << 20;

/// The inodes met so far.
#[derive(Debug)]
pub(super) struct Links {
    /// How many inodes there are; their numbers begin at 1.
    count: u32,
    /// A bit for each inode number.
    met: Vec<u64>,
    names: HashMap<u32, First>,
    bytes: usize,
}

#[derive(Debug)]
struct First {
    path: EntryPath,
    /// How many names are still to come.
    left: u32,
}

/// What a name of an inode is.
#[derive(Debug)]
pub(super) enum Met {
    First,
    Again(EntryPath),
}

impl Links {
    pub(super) fn new(count: u32) -> Self {
        Links { count, met: Vec::new(), names: HashMap::new(), bytes: 0 }
    }

    /// Takes note that `inode`, which is no directory, has the name `path`.
    ///
    /// # Errors
    /// [`InvalidImage`](crate::ErrorKind::InvalidImage) if it has more names than it says; [`LimitExceeded`](crate::ErrorKind::LimitExceeded) if
    /// too many names would have to be remembered.
    pub(super) fn meet(&mut self, inode: &Inode, path: &EntryPath) -> Result<Met> {
        if self.first(inode)? {
            if inode.links > 1 {
                self.bytes = self.bytes.saturating_add(cost(path));
                if self.bytes > NAMES_MAX {
                    return Err(limit("the names of files with hard links exceed", ByteSize::from_bytes(NAMES_MAX as u64)));
                }
                self.names.insert(inode.number, First { path: path.clone(), left: inode.links - 1 });
            }
            return Ok(Met::First);
        }
        let Some(first) = self.names.get_mut(&inode.number) else {
            return Err(invalid("its inode has more names than it says"));
        };
        first.left -= 1;
        if first.left > 0 {
            return Ok(Met::Again(first.path.clone()));
        }
        let path = self.names.remove(&inode.number).map(|first| first.path).unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(cost(&path));
        Ok(Met::Again(path))
    }

    /// The same for a directory, which has one name. So no walk goes in circles, or down the same way twice.
    pub(super) fn meet_directory(&mut self, inode: &Inode) -> Result<()> {
        if self.first(inode)? { Ok(()) } else { Err(invalid("a directory is in two places, or within itself")) }
    }

    fn first(&mut self, inode: &Inode) -> Result<bool> {
        if inode.number == 0 || inode.number > self.count {
            return Err(invalid("its inode number is out of range"));
        }
        let (word, bit) = ((inode.number / 64) as usize, 1 << (inode.number % 64));
        if word >= self.met.len() {
            self.met.resize(word + 1, 0);
        }
        let word = self.met.get_mut(word).ok_or_else(|| invalid("its inode number is out of range"))?;
        let first = *word & bit == 0;
        *word |= bit;
        Ok(first)
    }
}

/// What a map spends on a name, roughly.
fn cost(path: &EntryPath) -> usize {
    path.as_bytes().len() + 64
}

#[cfg(test)]
mod tests {
    use super::super::inode::Body;
    use super::*;
    use crate::ErrorKind;

    fn inode(number: u32, links: u32) -> Inode {
        Inode { number, mode: 0, uid: 0, gid: 0, mtime: 0, links, xattrs: None, body: Body::Fifo }
    }

    fn path(name: &str) -> EntryPath {
        EntryPath::new_unchecked(name.as_bytes().to_vec())
    }

    #[test]
    fn as_many_names_as_an_inode_says_and_no_memory_after_them() {
        let mut links = Links::new(3);
        assert!(matches!(links.meet(&inode(2, 3), &path("a")), Ok(Met::First)));
        assert!(matches!(links.meet(&inode(3, 1), &path("b")), Ok(Met::First)));
        for name in ["c", "d"] {
            assert!(matches!(links.meet(&inode(2, 3), &path(name)), Ok(Met::Again(first)) if first == path("a")));
        }
        assert_eq!((links.names.len(), links.bytes), (0, 0));
        for inode in [inode(2, 3), inode(3, 1), inode(0, 1), inode(4, 1)] {
            assert_eq!(links.meet(&inode, &path("e")).unwrap_err().kind(), ErrorKind::InvalidImage);
        }
        links.meet_directory(&inode(1, 2)).unwrap();
        assert!(links.meet_directory(&inode(1, 2)).is_err());
    }

    #[test]
    fn names_to_remember_are_bounded() {
        let mut links = Links::new(u32::MAX);
        let long = path(&"x".repeat(4096));
        let error = (1..10_000).find_map(|number| links.meet(&inode(number, 2), &long).err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(links.names.len() * 4096 < NAMES_MAX);
    }
}
