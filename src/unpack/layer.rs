//! Layers of an OCI image, one over the other: whiteouts remove what lower layers made, and only that
//! ([image-layer](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts)).
//!
//! A whiteout may come before or after entries of its own layer, which it must leave alone. To tell these from what is below, the paths that a
//! layer makes are remembered as keyed hashes of 64 bits, of the current layer only; the lowest one has nothing below it and needs none.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::archive::{Archive, Piece};
use super::disk::Disk;
use super::entry::{Entry, EntryPath, Kind};
use super::options::{Limits, UnpackOptions};
use super::select::Selection;
use super::tar::Tar;
use super::threads::{with_chunks, with_crew};
use super::write::Writer;
use super::{Hooks, Tally, Unpacked, each, scan_entry};
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;

/// How many paths one layer above the lowest may make: what memory is spent on remembering them.
const MADE_MAX: usize = 2_000_000;

const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The layers of an image, the lowest first.
pub(crate) trait Layers: Send {
    /// Opens the next layer's tar stream, lets `read` read it to its end, and checks it. `false`: there is none.
    ///
    /// # Errors
    /// Those of `read`, and whatever is wrong with the layer.
    fn next(&mut self, read: &mut dyn FnMut(&mut (dyn Read + Send)) -> Result<()>) -> Result<bool>;
}

/// Unpacks layers into the directory `root`, as [`unpack`](super::unpack) does one tar stream. Limits are for all of them together.
///
/// # Errors
/// As `unpack`, and those of `layers`.
pub(crate) fn unpack_layers(
    layers: &mut dyn Layers,
    root: BorrowedFd<'_>,
    options: &UnpackOptions,
    hooks: &mut dyn Hooks,
) -> Result<Unpacked> {
    with_crew(options.threads, |crew, maker| {
        let mut writer = Writer::new(Disk::new(root, options, hooks, crew, maker), options)?;
        walk(layers, options, |entry, archive, below| match (mark(&entry.path)?, below) {
            (Mark::Entry, below) => {
                if let Some(layer) = below {
                    layer.add(&entry.path)?;
                }
                writer.entry(entry, archive)
            }
            (Mark::Nothing, _) => Ok(()),
            (Mark::Whiteout(_) | Mark::Opaque(_), None) => writer.disk.count_entry(),
            (Mark::Whiteout(path), Some(layer)) => {
                writer.disk.count_entry()?;
                writer.hide(&path, layer)
            }
            (Mark::Opaque(path), Some(layer)) => {
                writer.disk.count_entry()?;
                writer.hide_content(path, layer)
            }
        })?;
        writer.finish()
    })
}

/// Reads layers and writes nothing, as [`scan`](super::scan) does with one tar stream.
///
/// # Errors
/// As `scan`, and those of `layers`.
pub(crate) fn scan_layers(layers: &mut dyn Layers, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Tally> {
    let mut tally = Tally::default();
    walk(layers, options, |entry, archive, below| match mark(&entry.path)? {
        Mark::Entry => {
            if let Some(layer) = below {
                layer.add(&entry.path)?;
            }
            scan_entry(entry, archive, options, &mut tally, hooks)
        }
        _ => {
            tally.entries += 1;
            hooks.entry(&tally)
        }
    })?;
    Ok(tally)
}

/// Calls `act` with every entry of every layer, and with what its layer has made so far unless it is the lowest.
fn walk(
    layers: &mut dyn Layers,
    options: &UnpackOptions,
    mut act: impl FnMut(&mut Entry, &mut dyn Archive, Option<&mut Layer>) -> Result<()>,
) -> Result<()> {
    let mut selection = Selection::new(options);
    let mut layer = None;
    let mut used = Used::default();
    while layers.next(&mut |stream| {
        // A layer lies in a file: no read of it has to be stopped.
        with_chunks(options.threads, stream, &|| {}, |chunks| {
            let mut tar = Tar::new(chunks, used.left(options.limits));
            let mut metered = Metered { archive: &mut tar, used: &mut used };
            each(&mut metered, options, &mut selection, |entry, archive| act(entry, archive, layer.as_mut()))?;
            chunks.finish()
        })
    })? {
        layer = Some(Layer::default());
    }
    selection.finish()
}

/// What an entry of a layer means.
#[derive(Debug, PartialEq, Eq)]
enum Mark<'a> {
    /// Itself.
    Entry,
    /// That nothing below this layer is to be seen at this path.
    Whiteout(Vec<u8>),
    /// That nothing below this layer is to be seen in this directory.
    Opaque(&'a [u8]),
    /// Nothing: it is what AUFS keeps for itself.
    Nothing,
}

/// # Errors
/// [`ErrorKind::InvalidImage`] for a whiteout of nothing, of a directory itself or of its parent, and for what lies in a whiteout.
fn mark(path: &EntryPath) -> Result<Mark<'_>> {
    let invalid = |message| Err(Error::new(ErrorKind::InvalidImage, "unpack", message).with_remedy("do not trust this image"));
    let Some((parent, name)) = path.split() else { return Ok(Mark::Entry) };
    let above = parent.split(|&byte| byte == b'/').find(|part| part.starts_with(PREFIX));
    match above {
        Some(part) if part.len() > META_PREFIX.len() && part.starts_with(META_PREFIX) => return Ok(Mark::Nothing),
        Some(_) => return invalid("it lies in a whiteout"),
        None => {}
    }
    let name = name.as_bytes();
    if name == OPAQUE {
        return Ok(Mark::Opaque(parent));
    }
    let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(Mark::Entry) };
    match hidden {
        b"" | b"." | b".." | b".wh." => invalid("it is a whiteout that names nothing"),
        _ if name.starts_with(META_PREFIX) => Ok(Mark::Nothing),
        _ if parent.is_empty() => Ok(Mark::Whiteout(hidden.to_vec())),
        _ => Ok(Mark::Whiteout([parent, b"/", hidden].concat())),
    }
}

/// What the current layer has made, and which directories show nothing of what is below it.
#[derive(Default)]
struct Layer {
    keys: RandomState,
    made: Hashes,
    opaque: Hashes,
}

/// A set of hashes. In shards, so that when it grows it is never there twice as a whole.
#[derive(Default)]
struct Hashes {
    shards: [HashSet<u64, BuildHasherDefault<Itself>>; 16],
    length: usize,
}

impl Hashes {
    fn shard(hash: u64) -> usize {
        // Neither the lowest nor the highest bits, by which a shard finds its places.
        (hash >> 32) as usize % 16
    }

    fn contains(&self, hash: u64) -> bool {
        self.shards.get(Hashes::shard(hash)).is_some_and(|shard| shard.contains(&hash))
    }

    /// Adds a hash; `false` if it was there.
    fn insert(&mut self, hash: u64) -> bool {
        let new = self.shards.get_mut(Hashes::shard(hash)).is_some_and(|shard| shard.insert(hash));
        self.length += usize::from(new);
        new
    }
}

/// The hash of a hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
}

impl Layer {
    fn hash(&self, path: &[u8]) -> u64 {
        self.keys.hash_one(path)
    }

    /// Remembers an entry's path and those of the directories it lies in.
    fn add(&mut self, path: &EntryPath) -> Result<()> {
        let mut path = path.as_bytes();
        while !path.is_empty() && self.made.insert(self.hash(path)) {
            if self.made.length > MADE_MAX {
                return Err(Error::new(ErrorKind::LimitExceeded, "unpack", "a layer above the lowest makes too many paths")
                    .with_context("limit", MADE_MAX)
                    .with_remedy("squash the image's layers into one"));
            }
            path = parent(path);
        }
        Ok(())
    }

    fn has_made(&self, path: &[u8]) -> bool {
        self.made.contains(self.hash(path))
    }

    /// Marks a directory; `false` if it, or one that it lies in, was marked before, and nothing from below is left in it.
    fn mark_opaque(&mut self, path: &[u8]) -> Result<bool> {
        let mut above = path;
        loop {
            if self.opaque.contains(self.hash(above)) {
                return Ok(false);
            }
            if above.is_empty() {
                break;
            }
            above = parent(above);
        }
        if self.opaque.length >= MADE_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, "unpack", "a layer has too many opaque directories")
                .with_context("limit", MADE_MAX));
        }
        self.opaque.insert(self.hash(path));
        Ok(true)
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').and_then(|slash| path.get(..slash)).unwrap_or_default()
}

impl Writer<'_> {
    /// Removes what lower layers made at `path`; what `layer` made there stays.
    fn hide(&mut self, path: &[u8], layer: &mut Layer) -> Result<()> {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        self.disk.settle()?;
        // Nothing is made on the way to what is to go.
        if self.tree.find(&self.disk, parent(path))?.is_none() {
            return Ok(());
        }
        let dir = self.tree.enter(&mut self.disk, parent(path))?;
        let name = OsStr::from_bytes(name);
        if !layer.has_made(path) {
            return self.disk.replace(dir.as_fd(), name);
        }
        if is_directory(dir.as_fd(), name)? { self.hide_content(path, layer) } else { Ok(()) }
    }

    /// Removes what lower layers made in the directory `path`; what `layer` made there stays.
    fn hide_content(&mut self, path: &[u8], layer: &mut Layer) -> Result<()> {
        if !layer.mark_opaque(path)? {
            return Ok(());
        }
        self.disk.settle()?;
        let mut directories = vec![path.to_vec()];
        while let Some(path) = directories.pop() {
            if self.tree.find(&self.disk, &path)?.is_none() {
                continue;
            }
            let dir = self.tree.enter(&mut self.disk, &path)?;
            let listed = Dir::openat(dir.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
            for entry in listed.map_err(cannot_list)?.iter() {
                let entry = entry.map_err(cannot_list)?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let child = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], name].concat() };
                let name = OsStr::from_bytes(name);
                if !layer.has_made(&child) {
                    self.disk.replace(dir.as_fd(), name)?;
                } else if is_directory(dir.as_fd(), name)? && layer.opaque.insert(layer.hash(&child)) {
                    directories.push(child);
                }
            }
        }
        Ok(())
    }
}

fn is_directory(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(Error::io("unpack", "cannot look at what a whiteout names", error)),
    }
}

fn cannot_list(error: Errno) -> Error {
    Error::io("unpack", "cannot list a directory of a lower layer", error)
}

/// How much of the limits the layers so far have used.
#[derive(Debug, Default)]
struct Used {
    entries: u64,
    bytes: u64,
}

impl Used {
    fn left(&self, limits: Limits) -> Limits {
        let bytes = ByteSize::from_bytes(limits.bytes.bytes().saturating_sub(self.bytes));
        limits.with_entries(limits.entries.saturating_sub(self.entries)).with_bytes(bytes)
    }
}

/// Counts what comes out of an archive, whether or not it is unpacked.
struct Metered<'a> {
    archive: &'a mut dyn Archive,
    used: &'a mut Used,
}

impl Archive for Metered<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        let entry = self.archive.next()?;
        if let Some(entry) = &entry {
            self.used.entries += 1;
            if let Kind::File(content) = &entry.kind {
                let stored = match &content.data {
                    None => content.size,
                    Some(segments) => segments.iter().map(|segment| segment.length).fold(0, u64::saturating_add),
                };
                self.used.bytes = self.used.bytes.saturating_add(stored);
            }
        }
        Ok(entry)
    }

    fn piece(&mut self) -> Result<Option<Piece>> {
        self.archive.piece()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(path: &str) -> Result<String> {
        let path = EntryPath::new_unchecked(path.as_bytes().to_vec());
        mark(&path).map(|mark| match mark {
            Mark::Entry => "entry".into(),
            Mark::Nothing => "nothing".into(),
            Mark::Whiteout(path) => format!("whiteout of {}", String::from_utf8_lossy(&path)),
            Mark::Opaque(path) => format!("opaque {}", String::from_utf8_lossy(path)),
        })
    }

    #[test]
    fn whiteouts_by_their_names() {
        assert_eq!(marked("a/b").unwrap(), "entry");
        assert_eq!(marked(".whiskers/.wh").unwrap(), "entry");
        assert_eq!(marked(".wh.a").unwrap(), "whiteout of a");
        assert_eq!(marked("a/b/.wh.c").unwrap(), "whiteout of a/b/c");
        assert_eq!(marked(".wh....").unwrap(), "whiteout of ...");
        assert_eq!(marked(".wh..wh..opq").unwrap(), "opaque ");
        assert_eq!(marked("a/b/.wh..wh..opq").unwrap(), "opaque a/b");
        assert_eq!(marked(".wh..wh.plnk").unwrap(), "nothing");
        assert_eq!(marked(".wh..wh.plnk/17.42").unwrap(), "nothing");
        for bad in [".wh.", ".wh..", ".wh...", ".wh..wh.", "a/.wh.", "a/.wh..wh./b", "a/.wh.b/c"] {
            assert_eq!(marked(bad).unwrap_err().kind(), ErrorKind::InvalidImage, "{bad}");
        }
    }

    #[test]
    fn a_layer_knows_its_own_paths_and_their_parents() {
        let mut layer = Layer::default();
        layer.add(&EntryPath::new_unchecked(b"a/b/c".to_vec())).unwrap();
        assert!(layer.has_made(b"a") && layer.has_made(b"a/b") && layer.has_made(b"a/b/c"));
        assert!(!layer.has_made(b"b") && !layer.has_made(b"a/b/c/d"));
        assert!(layer.mark_opaque(b"a/b").unwrap());
        assert!(!layer.mark_opaque(b"a/b").unwrap() && !layer.mark_opaque(b"a/b/x").unwrap());
        assert!(layer.mark_opaque(b"").unwrap());
        assert!(!layer.mark_opaque(b"z").unwrap());
    }

    #[test]
    fn what_layers_use_is_no_longer_left() {
        let used = Used { entries: 3, bytes: 100 };
        let left = used.left(Limits::default().with_entries(5).with_bytes(ByteSize::from_bytes(90)));
        assert_eq!((left.entries, left.bytes), (2, ByteSize::ZERO));
    }
}
