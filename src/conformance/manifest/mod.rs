//! A [`Manifest`]: everything that two trees must have in common to be the same.

mod diff;
mod walk;

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub use diff::{Change, Difference, Differences};

use crate::digest::Sha256;
use crate::error::Result;
use crate::text::Escaped;

/// What is left out of a manifest.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ManifestOptions {
    /// Which directories have their modification times in it.
    pub directory_times: DirectoryTimes,
    /// Whether owners are in it.
    pub owners: Owners,
    /// Attributes whose names begin with one of these are not in it. The record of the image, which this library keeps on the root
    /// directory (`trusted.reroot.*`, `user.reroot.*`), never is; nor are ACLs twice, as XFS shows them (`trusted.SGI_ACL_*`).
    pub ignored_xattrs: Vec<String>,
}

impl ManifestOptions {
    /// Nothing is left out but the record of the image.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`ManifestOptions::directory_times`].
    #[must_use]
    pub fn with_directory_times(mut self, times: DirectoryTimes) -> Self {
        self.directory_times = times;
        self
    }

    /// Sets [`ManifestOptions::owners`].
    #[must_use]
    pub fn with_owners(mut self, owners: Owners) -> Self {
        self.owners = owners;
        self
    }

    /// Adds to [`ManifestOptions::ignored_xattrs`].
    #[must_use]
    pub fn with_ignored_xattrs(mut self, prefix: impl Into<String>) -> Self {
        self.ignored_xattrs.push(prefix.into());
        self
    }

    /// The manifest of the directory `path` and all that is below it.
    ///
    /// Reads through directory descriptors only: follows no symbolic link, not even `path`, and enters no mount. Takes memory in
    /// proportion to the number of entries whatever their depth, and two file descriptors.
    ///
    /// # Errors
    /// Whatever cannot be read, named. A tree that changes meanwhile gives an error or a manifest of some state in between.
    pub fn read(&self, path: &Path) -> Result<Manifest> {
        walk::read_path(path, self)
    }

    /// [`read`](Self::read) of an open directory.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_fd(&self, dir: BorrowedFd<'_>) -> Result<Manifest> {
        walk::read_fd(dir, self)
    }
}

/// Which directories have their modification times in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DirectoryTimes {
    /// All of them.
    #[default]
    Kept,
    /// All but the root directory's, which no backend promises to keep.
    IgnoredOfRoot,
    /// None.
    Ignored,
}

/// Whether owners are in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Owners {
    /// They are.
    #[default]
    Kept,
    /// They are not.
    Ignored,
}

/// A complete description of a tree, sorted.
///
/// Two manifests are equal exactly if a user could not tell the trees apart: type, mode, owner, time, extended attributes (ACLs and
/// capabilities are among them), links, device numbers and content are the same, under the same paths. Access and change times, inode
/// numbers and the allocation of blocks are not compared.
///
/// A directory comes right before its content, and siblings are sorted by the bytes of their names. `Display` prints a line an entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    /// In preorder. A node's parent stands before it.
    nodes: Vec<Node>,
}

/// An entry without its path, which is spread over its ancestors: ten thousand levels of it would be a hundred megabytes.
#[derive(Clone, PartialEq, Eq)]
struct Node {
    name: Box<OsStr>,
    parent: usize,
    depth: usize,
    facts: Facts,
}

/// What is known of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// Its type, and what only its type has.
    pub kind: Kind,
    /// Permissions with set-user-id, set-group-id and sticky bits. A symbolic link has none.
    pub mode: u32,
    /// User and group, unless ignored.
    pub owner: Option<(u32, u32)>,
    /// Seconds since 1970 and nanoseconds of the modification time, unless ignored.
    pub mtime: Option<(i64, u32)>,
    /// Extended attributes by name, sorted.
    pub xattrs: Vec<(CString, Vec<u8>)>,
    /// The position in [`Manifest::entries`] of the first path of the same file, if it is not this one.
    pub linked_to: Option<usize>,
}

/// The type of an entry, and what only its type has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// The digest of its content.
        digest: Sha256,
    },
    /// A symbolic link, with its target.
    Symlink(OsString),
    /// A character device, with its major and minor number.
    CharacterDevice(u64, u64),
    /// A block device, with its major and minor number.
    BlockDevice(u64, u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Something is mounted here. It was not looked at.
    Mount,
}

impl Manifest {
    /// The whole manifest of the directory `path`; see [`ManifestOptions::read`].
    ///
    /// # Errors
    /// Whatever cannot be read, named.
    pub fn of(path: &Path) -> Result<Manifest> {
        ManifestOptions::new().read(path)
    }

    /// The whole manifest of an open directory; see [`ManifestOptions::read_fd`].
    ///
    /// # Errors
    /// Whatever cannot be read, named.
    pub fn of_fd(dir: BorrowedFd<'_>) -> Result<Manifest> {
        ManifestOptions::new().read_fd(dir)
    }

    /// The entries in their order; the first is the root.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        (0..self.nodes.len()).map(|index| Entry { manifest: self, index })
    }

    /// The number of entries, the root among them.
    #[expect(clippy::len_without_is_empty, reason = "a manifest has a root")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What is known of the root directory.
    pub fn root(&self) -> &Facts {
        &self.nodes[0].facts
    }

    /// The same tree with another root directory: one that was kept while its content was replaced, say.
    #[must_use]
    pub fn with_root(mut self, facts: Facts) -> Self {
        self.nodes[0].facts = facts;
        self
    }

    /// What differs between this tree, the expected one, and `actual`.
    pub fn diff<'a>(&'a self, actual: &'a Manifest) -> Differences<'a> {
        Differences::between(self, actual)
    }

    /// A root directory and nothing in it.
    pub(crate) fn new(facts: Facts) -> Self {
        Manifest { nodes: vec![Node { name: OsStr::new("").into(), parent: 0, depth: 0, facts }] }
    }

    /// Adds an entry in the directory at `parent`; entries come in preorder. Returns its position.
    pub(crate) fn push(&mut self, parent: usize, name: &OsStr, facts: Facts) -> usize {
        let depth = self.nodes[parent].depth + 1;
        self.nodes.push(Node { name: name.into(), parent, depth, facts });
        self.nodes.len() - 1
    }

    fn path(&self, index: usize) -> PathBuf {
        let mut names = Vec::new();
        let mut at = index;
        while self.nodes[at].depth > 0 {
            names.push(self.nodes[at].name.as_bytes());
            at = self.nodes[at].parent;
        }
        names.reverse();
        PathBuf::from(OsString::from_vec(names.join(&b'/')))
    }
}

/// An entry of a [`Manifest`].
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    manifest: &'a Manifest,
    index: usize,
}

impl<'a> Entry<'a> {
    /// Its path below the root; empty for the root.
    pub fn path(&self) -> PathBuf {
        self.manifest.path(self.index)
    }

    /// What is known of it.
    pub fn facts(&self) -> &'a Facts {
        &self.manifest.nodes[self.index].facts
    }
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.facts();
        let (letter, value) = facts.kind.show();
        write!(f, "{letter} {:04o}", facts.mode)?;
        if let Some((uid, gid)) = facts.owner {
            write!(f, " {uid}:{gid}")?;
        }
        if let Some((seconds, nanoseconds)) = facts.mtime {
            write!(f, " {seconds}.{nanoseconds:09}")?;
        }
        write!(f, " {}", shown(&self.path()))?;
        if let Some(value) = value {
            write!(f, " {value}")?;
        }
        if let Some(first) = facts.linked_to {
            write!(f, " linked to {}", shown(&self.manifest.path(first)))?;
        }
        for (name, value) in &facts.xattrs {
            write!(f, " {}={}", Escaped(name.to_bytes()), Hex(value))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({self})")
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

impl Kind {
    fn show(&self) -> (char, Option<String>) {
        match self {
            Kind::Directory => ('d', None),
            Kind::File { size, digest } => ('f', Some(format!("{size} {digest}"))),
            Kind::Symlink(target) => ('l', Some(format!("-> {}", Escaped::from(target.as_os_str())))),
            Kind::CharacterDevice(major, minor) => ('c', Some(format!("{major},{minor}"))),
            Kind::BlockDevice(major, minor) => ('b', Some(format!("{major},{minor}"))),
            Kind::Fifo => ('p', None),
            Kind::Socket => ('s', None),
            Kind::Mount => ('m', None),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (letter, value) = self.show();
        match value {
            Some(value) => write!(f, "{letter} {value}"),
            None => write!(f, "{letter}"),
        }
    }
}

/// A path of a tree as a line shows it: escaped, and the root by a dot.
fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".into() } else { Escaped::from(path).to_string() }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests;
