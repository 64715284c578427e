//! Layers of an OCI image, one over the other: whiteouts remove what lower layers made, and only that
//! ([image-layer](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts)).
//!
//! A whiteout may come before or after entries of its own layer, which it must leave alone. To tell these from what is below, what a layer
//! makes is remembered, as keyed hashes of 64 bits, of the current layer only; the lowest one has nothing below it and needs none. One path may
//! lead where another does, by links, so what is remembered is where things really are: directories by device and inode, all else by the
//! directory it is in and its name. An inode that is freed and used again is no trouble: what uses it was made by the same layer.

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
use super::tree::{Age, DirId, identity};
use super::write::Writer;
use super::{Hooks, Tally, Unpacked, each, scan_entry};
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;

/// How many paths one layer above the lowest may make: what memory is spent on remembering them.
const MADE_MAX: usize = 2_000_000;
/// How many bytes of names are kept while directories are emptied of what is below.
const NAMES_MAX: usize = 1 << 20;

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
            (Mark::Entry, None) => writer.entry(entry, archive),
            (Mark::Entry, Some(layer)) => {
                writer.tree.set_layer(layer.number);
                writer.entry(entry, archive)?;
                writer.remember(entry, layer)
            }
            (Mark::Nothing, _) => Ok(()),
            (Mark::Whiteout(_) | Mark::Opaque(_), None) => writer.disk.count_entry(),
            (Mark::Whiteout(path), Some(layer)) => {
                writer.disk.count_entry()?;
                writer.hide(&path, layer)
            }
            (Mark::Opaque(path), Some(layer)) => {
                writer.disk.count_entry()?;
                writer.hide_in(path, layer)
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
                layer.add_path(&entry.path)?;
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
    let mut layer: Option<Layer> = None;
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
        layer = Some(Layer::above(layer.as_ref()));
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

/// What the current layer has made.
#[derive(Default)]
struct Layer {
    /// The lowest is 0, and is not remembered.
    number: u32,
    keys: RandomState,
    made: Hashes,
}

/// What is remembered of a layer.
#[derive(Hash)]
enum Key<'a> {
    /// A path; only for layers that are not unpacked.
    Path(&'a [u8]),
    /// That something is in the directory, or in one below it; the directory may hold things from below too.
    Touched(DirId),
    /// That the directory and all that is in it are the layer's.
    Own(DirId),
    /// What is no directory.
    Named(DirId, &'a OsStr),
}

/// Whose something is that a whiteout names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Lower,
    Layer,
    /// It is a directory that holds things of the layer, and may hold lower ones.
    Both,
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
    fn above(lower: Option<&Layer>) -> Self {
        Layer { number: lower.map_or(0, |lower| lower.number).saturating_add(1), ..Layer::default() }
    }

    fn has(&self, key: &Key<'_>) -> bool {
        self.made.contains(self.keys.hash_one(key))
    }

    /// Remembers it; `false` if it was.
    fn add(&mut self, key: &Key<'_>) -> Result<bool> {
        let new = self.made.insert(self.keys.hash_one(key));
        if self.made.length > MADE_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, "unpack", "a layer above the lowest makes too many paths")
                .with_context("limit", MADE_MAX)
                .with_remedy("squash the image's layers into one"));
        }
        Ok(new)
    }

    /// Remembers an entry's path and those of the directories it lies in.
    fn add_path(&mut self, path: &EntryPath) -> Result<()> {
        let mut path = path.as_bytes();
        while !path.is_empty() && self.add(&Key::Path(path))? {
            path = parent(path);
        }
        Ok(())
    }

    fn add_directory(&mut self, id: DirId, age: Age) -> Result<()> {
        if self.has(&Key::Own(id)) {
            return Ok(());
        }
        self.add(&if age == Age::New { Key::Own(id) } else { Key::Touched(id) }).map(drop)
    }

    /// Whose `name` is in the open directory `dir`, which is `id`; `None` if there is nothing.
    fn whose(&self, dir: BorrowedFd<'_>, id: DirId, name: &OsStr) -> Result<Option<Whose>> {
        let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(Error::io("unpack", "cannot look at what a whiteout names", error)),
        };
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() {
            return Ok(Some(if self.has(&Key::Named(id, name)) { Whose::Layer } else { Whose::Lower }));
        }
        let child = identity(&stat);
        Ok(Some(match (self.has(&Key::Own(child)), self.has(&Key::Touched(child))) {
            (true, _) => Whose::Layer,
            (false, true) => Whose::Both,
            (false, false) => Whose::Lower,
        }))
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').and_then(|slash| path.get(..slash)).unwrap_or_default()
}

/// The directories in one directory that are still to be emptied of what is below.
#[derive(Default)]
struct Pending {
    /// Their names, each followed by a slash.
    names: Vec<u8>,
    /// Whether there may be others, for which there was no room.
    more: bool,
}

impl Pending {
    fn pop(&mut self) -> Option<Vec<u8>> {
        self.names.pop()?;
        let start = self.names.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        Some(self.names.split_off(start))
    }

    /// Leaves the names to be found again.
    fn forget(&mut self) {
        self.more |= !self.names.is_empty();
        self.names = Vec::new();
    }
}

impl Writer<'_> {
    /// Remembers what has just been made, by where it really is.
    fn remember(&mut self, entry: &Entry, layer: &mut Layer) -> Result<()> {
        let Some((_, name)) = entry.path.split() else { return Ok(()) };
        let mut depth = entry.path.components().count();
        if entry.kind != Kind::Directory {
            depth -= 1;
            layer.add(&Key::Named(self.tree.id(depth), name))?;
        }
        self.tree.trace(&self.disk, depth, &mut |id, age| layer.add_directory(id, age))
    }

    /// Removes what lower layers made at `path`; what `layer` made there stays.
    fn hide(&mut self, path: &[u8], layer: &mut Layer) -> Result<()> {
        let name = OsStr::from_bytes(path.rsplit(|&byte| byte == b'/').next().unwrap_or_default());
        self.disk.settle()?;
        // Nothing is made on the way to what is to go.
        if self.tree.find(&self.disk, parent(path))?.is_none() {
            return Ok(());
        }
        let dir = self.tree.enter(&mut self.disk, parent(path))?;
        self.disk.settle()?;
        match layer.whose(dir.as_fd(), self.tree.id(self.tree.depth()), name)? {
            Some(Whose::Lower) => self.disk.replace(dir.as_fd(), name),
            Some(Whose::Both) => {
                self.tree.go_down(&mut self.disk, name)?;
                self.hide_content(layer)
            }
            Some(Whose::Layer) | None => Ok(()),
        }
    }

    /// Removes what lower layers made in the directory `path`; what `layer` made there stays.
    fn hide_in(&mut self, path: &[u8], layer: &mut Layer) -> Result<()> {
        self.disk.settle()?;
        if self.tree.find(&self.disk, path)?.is_none() {
            return Ok(());
        }
        self.tree.enter(&mut self.disk, path)?;
        self.disk.settle()?;
        self.hide_content(layer)
    }

    /// Removes what lower layers made in the current directory, which is then all the layer's. So each is listed once or twice, however many
    /// whiteouts there are in it and around it.
    fn hide_content(&mut self, layer: &mut Layer) -> Result<()> {
        if layer.has(&Key::Own(self.tree.id(self.tree.depth()))) {
            return Ok(());
        }
        let first = self.hide_here(layer)?;
        let mut bytes = first.names.capacity();
        let mut levels = vec![first];
        while let Some(last) = levels.last_mut() {
            if let Some(name) = last.pop() {
                self.tree.go_down(&mut self.disk, OsStr::from_bytes(&name))?;
                let next = self.hide_here(layer)?;
                bytes += next.names.capacity();
                if bytes > NAMES_MAX {
                    // What is nearest to the root is needed last, and can be found again.
                    levels.iter_mut().for_each(Pending::forget);
                    bytes = next.names.capacity();
                }
                levels.push(next);
                continue;
            }
            bytes -= last.names.capacity();
            if last.more {
                *last = self.hide_here(layer)?;
                bytes += last.names.capacity();
                continue;
            }
            layer.add(&Key::Own(self.tree.id(self.tree.depth())))?;
            levels.pop();
            if !levels.is_empty() {
                self.tree.go_up(&mut self.disk)?;
            }
        }
        Ok(())
    }

    /// Removes what is only of lower layers in the current directory; returns the directories in it that may hold more of it.
    fn hide_here(&mut self, layer: &Layer) -> Result<Pending> {
        let (dir, id) = (self.tree.current(&self.disk)?, self.tree.id(self.tree.depth()));
        let listed = Dir::openat(dir.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let mut pending = Pending::default();
        for entry in listed.map_err(cannot_list)?.iter() {
            let entry = entry.map_err(cannot_list)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match layer.whose(dir.as_fd(), id, OsStr::from_bytes(name))? {
                Some(Whose::Lower) => self.disk.replace(dir.as_fd(), OsStr::from_bytes(name))?,
                Some(Whose::Both) if pending.names.len() < NAMES_MAX / 2 => {
                    pending.names.extend_from_slice(name);
                    pending.names.push(b'/');
                }
                Some(Whose::Both) => pending.more = true,
                Some(Whose::Layer) | None => {}
            }
        }
        pending.names.shrink_to_fit();
        Ok(pending)
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
    fn names_that_wait_come_back_one_by_one() {
        let mut pending = Pending { names: b"a/bc/".to_vec(), more: false };
        assert_eq!((pending.pop().unwrap(), pending.pop().unwrap(), pending.pop()), (b"bc".to_vec(), b"a".to_vec(), None));
    }

    #[test]
    fn what_layers_use_is_no_longer_left() {
        let used = Used { entries: 3, bytes: 100 };
        let left = used.left(Limits::default().with_entries(5).with_bytes(ByteSize::from_bytes(90)));
        assert_eq!((left.entries, left.bytes), (2, ByteSize::ZERO));
    }
}
