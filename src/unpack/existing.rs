//! A tree that is on disk already, read as an archive: how a base becomes a root where it cannot be cloned in one step.
//!
//! Nothing in it may change meanwhile, and nothing may be mounted in it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use nix::unistd::{Whence, lseek64};

use super::archive::{Archive, Piece};
use super::entry::{Content, Entry, EntryPath, Kind, Segment, Timestamp};
use super::links::{FirstName, Links, SharedPath};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{ATTRIBUTES, Top};
use crate::sys::call::{FileId, retry};
use crate::sys::walk::{EntryType, Order, Walk, open_beneath};
use crate::sys::xattr::{self, Target};
use crate::text::Escaped;

/// How much is read at once.
const CHUNK: u64 = 256 << 10;

/// What the further names of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Hard links to the first.
    Linked,
    /// Files like the first; who they are, [`Existing::file`] tells.
    Apart,
}

/// A tree on disk. Its directories come before what is in them, and of several names of a file the first one found is the file.
#[derive(Debug)]
pub(super) struct Existing {
    walk: Walk,
    /// The path of the directory the walk is in, and where each of its components begins.
    path: Vec<u8>,
    parents: Vec<usize>,
    /// The top, until it was told.
    top: Option<OwnedFd>,
    further: Names,
    /// The first names of files that have several.
    said: Option<Top>,
    linked: Links<FirstName>,
    /// The path, for them.
    shared: SharedPath,
    current: Option<Reading>,
    /// How many names the current entry has.
    names: u64,
    file: Option<FileId>,
    operation: &'static str,
}

/// A file that is being read.
#[derive(Debug)]
struct Reading {
    file: File,
    /// What is still to be read of it, the next last.
    left: Vec<Segment>,
    chunk: Arc<Vec<u8>>,
}

impl Existing {
    /// The tree below the open directory `top`; `operation` is for messages.
    pub(super) fn open(top: BorrowedFd<'_>, operation: &'static str, further: Names) -> Result<Self> {
        let failed = |error: io::Error| Error::io(operation, "cannot open the tree", error);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let again = || retry(|| openat(top, c".", flags, Mode::empty())).map_err(|error| failed(error.into()));
        Ok(Existing {
            walk: Walk::new(again()?, c"", Order::Listed).map_err(failed)?,
            path: Vec::new(),
            parents: Vec::new(),
            top: Some(again()?),
            said: None,
            further,
            linked: Links::new(),
            shared: SharedPath::default(),
            current: None,
            names: 1,
            file: None,
            operation,
        })
    }

    /// How many names the current entry has; of a directory, one.
    pub(super) fn names(&self) -> u64 {
        self.names
    }

    /// The current entry as a file, if it is one that has several names.
    pub(super) fn file(&self) -> Option<FileId> {
        self.file
    }

    /// The next piece of the current file, and where it belongs.
    pub(super) fn piece_at(&mut self) -> Result<Option<(u64, Piece)>> {
        let offset = self.current.as_ref().and_then(|reading| reading.left.last()).map(|segment| segment.offset);
        Ok(offset.zip(self.piece()?))
    }

    /// Says of the top what `top` does, if that says something, and not what it is.
    #[must_use]
    pub(super) fn with_top(mut self, top: Option<Top>) -> Self {
        self.said = top;
        self
    }

    fn path_of(&self, name: &CStr) -> Vec<u8> {
        join(&self.path, name.to_bytes())
    }

    fn failed(&self, name: &CStr, message: &str, error: impl Into<io::Error>) -> Error {
        let error = Error::io(self.operation, message, error).with_context("entry", Escaped(&self.path_of(name)));
        match error.kind() {
            // That of an image's file of passwords often says that not even its owner may read it.
            ErrorKind::PermissionDenied => {
                error.with_remedy("run as root, who can read what its owner may not, or rebuild from the image without a base")
            }
            _ => error,
        }
    }

    /// Opens and enters the directory that the walk is at; `None` if it is no directory, or one that is a mount point.
    fn enter(&mut self, name: &CStr) -> Result<Option<Entry>> {
        let dir = match self.walk.dir().and_then(|dir| Ok(open_beneath(dir, name, OFlag::O_RDONLY)?)) {
            Ok(dir) => dir,
            Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) || error.raw_os_error() == Some(libc::ELOOP) => {
                return Ok(None);
            }
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
                return Err(Error::new(ErrorKind::Busy, self.operation, "it is a mount point")
                    .with_context("entry", Escaped(&self.path_of(name)))
                    .with_remedy("unmount it"));
            }
            Err(error) => return Err(self.failed(name, "cannot open the directory", error)),
        };
        let stat = fstat(&dir).map_err(|error| self.failed(name, "fstat failed", error))?;
        self.names = 1;
        let path = self.path_of(name);
        let entry = self.entry(path.clone(), Kind::Directory, &stat, Target::Fd(dir.as_fd()))?;
        self.parents.push(self.path.len());
        self.path = path;
        self.walk.enter(dir, name.to_owned(), 0).map_err(|error| self.failed(name, "cannot enter the directory", error))?;
        Ok(Some(entry))
    }

    /// What is no directory; `None` for a socket, which no one can make.
    fn leaf(&mut self, name: &CStr) -> Result<Option<Entry>> {
        let dir = self.walk.dir().map_err(|error| self.failed(name, "its directory is closed", error))?;
        let stat =
            fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|error| self.failed(name, "cannot look at it", error))?;
        let path = EntryPath::new_unchecked(self.path_of(name));
        self.names = names(&stat);
        self.file = (self.names > 1).then(|| FileId::from(&stat));
        if let Some(file) = self.file.filter(|_| self.further == Names::Linked) {
            let first = self.linked.seen(file, |first| join(&first.directory, &first.name));
            if let Some(first) = first {
                let kind = Kind::Hardlink(EntryPath::new_unchecked(first));
                return Ok(Some(Entry { path, kind, ..plain(&stat) }));
            }
            let first = FirstName { directory: self.shared.get(&self.path), name: name.to_bytes().into() };
            self.linked.note(self.operation, file, self.names, first)?;
        }
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        let at = Target::At(dir, std::ffi::OsStr::from_bytes(name.to_bytes()));
        let device = |number| (number_of(major(number)), number_of(minor(number)));
        let kind = match kind {
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let file = retry(|| openat(dir, name, flags, Mode::empty()))
                    .map_err(|error| self.failed(name, "cannot open it", error))?;
                let content = content(&file, &stat).map_err(|error| self.failed(name, "cannot find its holes", error))?;
                let entry = self.entry(path.into_bytes(), Kind::File(content.clone()), &stat, Target::Fd(file.as_fd()))?;
                let whole = vec![Segment { offset: 0, length: content.size }];
                let mut left = content.data.unwrap_or(whole);
                left.retain(|segment| segment.length > 0);
                left.reverse();
                self.current = Some(Reading { file: file.into(), left, chunk: Arc::default() });
                return Ok(Some(entry));
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(dir, name).map_err(|error| self.failed(name, "cannot read the link", error))?;
                Kind::Symlink(CString::new(target.into_vec()).unwrap_or_default())
            }
            SFlag::S_IFIFO => Kind::Fifo,
            SFlag::S_IFCHR => {
                let (major, minor) = device(stat.st_rdev);
                Kind::CharDevice { major, minor }
            }
            SFlag::S_IFBLK => {
                let (major, minor) = device(stat.st_rdev);
                Kind::BlockDevice { major, minor }
            }
            _ => return Ok(None),
        };
        self.entry(path.into_bytes(), kind, &stat, at).map(Some)
    }

    fn entry(&self, path: Vec<u8>, kind: Kind, stat: &FileStat, target: Target<'_>) -> Result<Entry> {
        let mut xattrs = Vec::new();
        let failed =
            |error| Error::io(self.operation, "cannot read its extended attributes", error).with_context("entry", Escaped(&path));
        for name in xattr::list(target).map_err(failed)? {
            let ours = path.is_empty() && ATTRIBUTES.contains(&name.as_c_str());
            // XFS lists the ACLs by the name it stores them under too. How btrfs stores a file it takes from the folder the file is made in: it
            // is the pool's choice, and not the image's.
            if ours || [&b"trusted.SGI_ACL_"[..], b"btrfs."].iter().any(|prefix| name.to_bytes().starts_with(prefix)) {
                continue;
            }
            if let Some(value) = xattr::get(target, &name).map_err(failed)? {
                xattrs.push((name, value));
            }
        }
        Ok(Entry { path: EntryPath::new_unchecked(path), kind, xattrs, ..plain(stat) })
    }
}

impl Archive for Existing {
    fn next(&mut self) -> Result<Option<Entry>> {
        self.current = None;
        self.file = None;
        if let Some(top) = self.top.take() {
            let stat = fstat(&top).map_err(|error| self.failed(c"", "fstat failed", error))?;
            let mut entry = self.entry(Vec::new(), Kind::Directory, &stat, Target::Fd(top.as_fd()))?;
            if let Some(Top { mode, uid, gid }) = self.said {
                (entry.mode, entry.uid, entry.gid) = (mode, uid, gid);
            }
            return Ok(Some(entry));
        }
        loop {
            let kind = self.walk.advance().map_err(|error| self.failed(c"", "cannot read the directory", error))?;
            let Some(kind) = kind else {
                let left = self.walk.leave().map_err(|error| self.failed(c"", "cannot go back up", error))?;
                if left.is_none() {
                    return Ok(None);
                }
                self.path.truncate(self.parents.pop().unwrap_or(0));
                continue;
            };
            let name = self.walk.name().to_owned();
            if kind != EntryType::Other
                && let Some(entry) = self.enter(&name)?
            {
                return Ok(Some(entry));
            }
            if let Some(entry) = self.leaf(&name)? {
                return Ok(Some(entry));
            }
        }
    }

    fn piece(&mut self) -> Result<Option<Piece>> {
        let Some(reading) = &mut self.current else { return Ok(None) };
        let Some(segment) = reading.left.last_mut() else { return Ok(None) };
        let wanted = segment.length.min(CHUNK) as usize;
        if Arc::get_mut(&mut reading.chunk).is_none() {
            reading.chunk = Arc::default();
        }
        let Some(chunk) = Arc::get_mut(&mut reading.chunk) else { return Ok(None) };
        chunk.resize(wanted, 0);
        let length = loop {
            match reading.file.read_at(chunk, segment.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(|error| Error::io(self.operation, "cannot read it", error))?,
            }
        };
        if length == 0 {
            return Err(Error::new(ErrorKind::Io, self.operation, "it became shorter while it was read"));
        }
        segment.offset += length as u64;
        segment.length -= length as u64;
        if segment.length == 0 {
            reading.left.pop();
        }
        Ok(Some(Piece::new(Arc::clone(&reading.chunk), 0..length)))
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        self.current.as_ref().map(|reading| reading.file.as_fd())
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// All but the path, the kind and the attributes.
// The fields' types differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn plain(stat: &FileStat) -> Entry {
    Entry {
        path: EntryPath::default(),
        kind: Kind::Fifo,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp { seconds: stat.st_mtime as i64, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        xattrs: Vec::new(),
        lost_acls: Vec::new(),
        offset: 0,
    }
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn names(stat: &FileStat) -> u64 {
    stat.st_nlink as u64
}

/// Half of a device number, which has no more than 32 bits in the kernel.
fn number_of(half: u64) -> u32 {
    u32::try_from(half).unwrap_or(u32::MAX)
}

/// The size of a file, and where its data lies if it has holes.
#[allow(clippy::unnecessary_cast)]
fn content(file: &OwnedFd, stat: &FileStat) -> Result<Content, Errno> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    // No fewer blocks than bytes: no holes.
    if (stat.st_blocks as u64).saturating_mul(512) >= size {
        return Ok(Content { size, data: None });
    }
    let mut data = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match lseek64(file, at as i64, Whence::SeekData) {
            Ok(begin) => begin as u64,
            Err(Errno::ENXIO) => break,
            // A file system that tells no holes has none.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Content { size, data: None }),
            Err(error) => return Err(error),
        };
        let end = (lseek64(file, begin as i64, Whence::SeekHole)? as u64).min(size);
        if end <= begin {
            break;
        }
        data.push(Segment { offset: begin, length: end - begin });
        at = end;
    }
    Ok(match data.as_slice() {
        [Segment { offset: 0, length }] if *length == size => Content { size, data: None },
        _ => Content { size, data: Some(data) },
    })
}
