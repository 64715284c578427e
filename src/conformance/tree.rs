//! [`Tree`]: a tree that exists only as a description, from which come both an image and the manifest that a root filled from it must have.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use tar::{EntryType, Header};

use super::manifest::{Facts, Kind, Manifest};
use crate::digest::Hasher;

/// A description of a tree. Whatever is not said otherwise belongs to the caller, so that an unprivileged one loses nothing.
#[derive(Debug, Clone)]
pub struct Tree {
    /// By the components of the path: this order is that of a manifest.
    nodes: BTreeMap<Vec<Vec<u8>>, Node>,
}

/// An entry of a [`Tree`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Node {
    /// What it is.
    pub content: Content,
    /// Its permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds since 1970 and nanoseconds of its modification time.
    pub mtime: (u64, u32),
    /// Extended attributes, any names.
    pub xattrs: Vec<(CString, Vec<u8>)>,
}

/// What an entry of a [`Tree`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// A directory.
    Directory,
    /// A regular file with these bytes.
    File(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(OsString),
    /// Another name of the file with this path.
    HardLink(OsString),
    /// A named pipe.
    Fifo,
    /// A character device with this major and minor number.
    CharacterDevice(u32, u32),
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty root directory, mode 0755.
    pub fn new() -> Self {
        Tree { nodes: BTreeMap::from([(Vec::new(), Node::new(Content::Directory, 0o755))]) }
    }

    /// The root directory.
    pub fn root(&mut self) -> &mut Node {
        self.insert(Vec::new(), None)
    }

    /// Adds a directory, mode 0755. Missing parents are added too, here and below.
    pub fn directory(&mut self, path: impl AsRef<OsStr>) -> &mut Node {
        self.add(path.as_ref(), Node::new(Content::Directory, 0o755))
    }

    /// Adds a regular file, mode 0644.
    pub fn file(&mut self, path: impl AsRef<OsStr>, content: impl Into<Vec<u8>>) -> &mut Node {
        self.add(path.as_ref(), Node::new(Content::File(content.into()), 0o644))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: impl AsRef<OsStr>, target: impl Into<OsString>) -> &mut Node {
        self.add(path.as_ref(), Node::new(Content::Symlink(target.into()), 0))
    }

    /// Adds another name of the file `target`, which has to be in the tree when its image is made.
    pub fn hard_link(&mut self, path: impl AsRef<OsStr>, target: impl Into<OsString>) {
        self.add(path.as_ref(), Node::new(Content::HardLink(target.into()), 0));
    }

    /// Adds a named pipe, mode 0600.
    pub fn fifo(&mut self, path: impl AsRef<OsStr>) -> &mut Node {
        self.add(path.as_ref(), Node::new(Content::Fifo, 0o600))
    }

    /// Adds a character device, mode 0600. Only root can unpack it.
    pub fn character_device(&mut self, path: impl AsRef<OsStr>, major: u32, minor: u32) -> &mut Node {
        self.add(path.as_ref(), Node::new(Content::CharacterDevice(major, minor), 0o600))
    }

    /// All entries, to change something of each.
    pub fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.values_mut()
    }

    fn add(&mut self, path: &OsStr, node: Node) -> &mut Node {
        let path = components(path);
        for length in 1..path.len() {
            self.nodes.entry(path[..length].to_vec()).or_insert_with(|| Node::new(Content::Directory, 0o755));
        }
        self.insert(path, Some(node))
    }

    fn insert(&mut self, path: Vec<Vec<u8>>, node: Option<Node>) -> &mut Node {
        let entry = self.nodes.entry(path).or_insert_with(|| Node::new(Content::Directory, 0o755));
        if let Some(node) = node {
            *entry = node;
        }
        entry
    }

    /// The tree as a tar stream: PAX, with times to the nanosecond and extended attributes, the root as `./`.
    ///
    /// # Errors
    /// A hard link to what is not a file of the tree.
    pub fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut stream = Vec::new();
        // A hard link can only be unpacked once its file is there.
        let is_link = |node: &Node| matches!(node.content, Content::HardLink(_));
        let first = self.nodes.iter().filter(|(_, node)| !is_link(node));
        for (path, node) in first.chain(self.nodes.iter().filter(|(_, node)| is_link(node))) {
            let node = self.file_of(node).ok_or(io::ErrorKind::InvalidInput).map(|file| (node, file))?;
            append(&mut stream, &path.join(&b'/'), node.0, node.1)?;
        }
        stream.resize(stream.len() + 1024, 0);
        Ok(stream)
    }

    /// The manifest of a root filled from this tree, read with
    /// [`DirectoryTimes::IgnoredOfRoot`](super::manifest::DirectoryTimes::IgnoredOfRoot), if the root directory is the tree's too.
    pub fn manifest(&self) -> Manifest {
        let mut positions: BTreeMap<&[Vec<u8>], usize> = BTreeMap::new();
        let mut firsts: BTreeMap<Vec<Vec<u8>>, usize> = BTreeMap::new();
        let mut manifest = Manifest::new(Facts { mtime: None, ..self.nodes[&Vec::new()].facts() });
        for (path, node) in &self.nodes {
            let Some((name, parent)) = path.split_last() else {
                positions.insert(path, 0);
                continue;
            };
            let mut facts = self.file_of(node).unwrap_or(node).facts();
            let file = match &node.content {
                Content::HardLink(target) => components(target),
                _ => path.clone(),
            };
            facts.linked_to = firsts.get(&file).copied();
            let position = manifest.push(positions[parent], OsStr::from_bytes(name), facts);
            firsts.entry(file).or_insert(position);
            positions.insert(path, position);
        }
        manifest
    }

    /// The node that holds the file: the target of a hard link, else the node itself.
    fn file_of<'a>(&'a self, node: &'a Node) -> Option<&'a Node> {
        match &node.content {
            Content::HardLink(target) => {
                self.nodes.get(&components(target)).filter(|file| matches!(file.content, Content::File(_)))
            }
            _ => Some(node),
        }
    }
}

impl Node {
    fn new(content: Content, mode: u32) -> Self {
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Node { content, mode, owner, mtime: (1_700_000_000, 123_456_789), xattrs: Vec::new() }
    }

    fn facts(&self) -> Facts {
        let kind = match &self.content {
            Content::Directory => Kind::Directory,
            Content::File(bytes) => {
                let mut hasher = Hasher::new();
                hasher.update(bytes);
                Kind::File { size: bytes.len() as u64, digest: hasher.finish() }
            }
            Content::Symlink(target) | Content::HardLink(target) => Kind::Symlink(target.clone()),
            Content::Fifo => Kind::Fifo,
            Content::CharacterDevice(major, minor) => Kind::CharacterDevice((*major).into(), (*minor).into()),
        };
        let mut xattrs = self.xattrs.clone();
        xattrs.sort();
        let (seconds, nanoseconds) = self.mtime;
        Facts {
            kind,
            mode: self.mode,
            owner: Some(self.owner),
            mtime: Some((seconds as i64, nanoseconds)),
            xattrs,
            linked_to: None,
        }
    }
}

fn components(path: &OsStr) -> Vec<Vec<u8>> {
    path.as_bytes().split(|&byte| byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}

/// What the plain header has room for in a name or a target.
const FIELD: usize = 100;

/// Appends an entry: an extended header with what the plain one cannot hold, the plain one, the content.
fn append(stream: &mut Vec<u8>, path: &[u8], node: &Node, file: &Node) -> io::Result<()> {
    let mut name = [b"./", path].concat();
    let mut content: &[u8] = &[];
    let mut link: &[u8] = &[];
    let mut header = Header::new_ustar();
    let kind = match &node.content {
        Content::Directory => {
            if !path.is_empty() {
                name.push(b'/');
            }
            EntryType::Directory
        }
        Content::File(bytes) => {
            content = bytes;
            EntryType::Regular
        }
        Content::Symlink(target) => {
            link = target.as_bytes();
            EntryType::Symlink
        }
        Content::HardLink(target) => {
            link = target.as_bytes();
            EntryType::Link
        }
        Content::Fifo => EntryType::Fifo,
        Content::CharacterDevice(major, minor) => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            EntryType::Char
        }
    };
    header.set_entry_type(kind);
    let mut records = Vec::new();
    if file.mtime.1 != 0 {
        record(&mut records, b"mtime", format!("{}.{:09}", file.mtime.0, file.mtime.1).as_bytes());
    }
    for (key, value) in [(b"path".as_slice(), name.as_slice()), (b"linkpath", link)] {
        if value.len() > FIELD {
            record(&mut records, key, value);
        }
    }
    for (name, value) in &file.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", name.to_bytes()].concat(), value);
    }
    if !records.is_empty() {
        let mut extension = Header::new_ustar();
        extension.set_entry_type(EntryType::XHeader);
        write(stream, extension, b"pax", b"", &records);
    }
    header.set_mode(file.mode);
    header.set_uid(file.owner.0.into());
    header.set_gid(file.owner.1.into());
    header.set_mtime(file.mtime.0);
    write(stream, header, &name, link, content);
    Ok(())
}

fn write(stream: &mut Vec<u8>, mut header: Header, name: &[u8], link: &[u8], content: &[u8]) {
    let fields = header.as_old_mut();
    let fill = |field: &mut [u8], value: &[u8]| field.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
    fill(&mut fields.name, name);
    fill(&mut fields.linkname, link);
    header.set_size(content.len() as u64);
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
    stream.extend_from_slice(content);
    stream.resize(stream.len().next_multiple_of(512), 0);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::manifest::{DirectoryTimes, ManifestOptions};

    /// GNU tar is the judge: what it unpacks has the manifest that the tree says.
    #[test]
    fn gnu_tar_unpacks_the_tree_that_was_described() {
        let mut tree = Tree::new();
        tree.root().mode = 0o750;
        tree.directory("etc").mode = 0o700;
        tree.file("etc/passwd", "root").mtime = (7, 1);
        tree.hard_link("aaa", "etc/passwd");
        tree.hard_link("zzz", "etc/passwd");
        tree.symlink("link", "/nowhere/\n");
        tree.fifo("fifo");
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        tree.file(&long, vec![9; 1000]).xattrs = vec![(c"user.x".into(), b"a=b\n\0".to_vec())];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tar"), tree.to_tar().unwrap()).unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let status = std::process::Command::new("tar")
            .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", "root", "-xpf", "tar"])
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        let options = ManifestOptions::new().with_directory_times(DirectoryTimes::IgnoredOfRoot);
        let actual = options.read(&dir.path().join("root")).unwrap();
        assert!(tree.manifest() == actual, "{}", tree.manifest().diff(&actual));
    }

    #[test]
    fn a_hard_link_to_nothing_is_refused() {
        let mut tree = Tree::new();
        tree.hard_link("a", "b");
        assert!(tree.to_tar().is_err());
    }
}
