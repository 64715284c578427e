//! One entry onto the disk.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, makedev, mknodat};
use nix::sys::uio::pwrite;
use nix::unistd::{ftruncate, linkat, symlinkat};

use super::Unpacked;
use super::archive::{Archive, Piece};
use super::crew::{FileJob, FinishJob, Job};
use super::disk::Disk;
use super::entry::{Content, Entry, EntryPath, Kind, Segment};
use super::loss::LossKind;
use super::make::{Dir, Made, Plain};
use super::meta::{Metadata, Object};
use super::options::{DevicePolicy, UnpackOptions, Writeback};
use super::tree::Tree;
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::sys::clone;
use crate::sys::sync::start_writeback;
use crate::volume::RootMetadata;

/// Bytes spent on remembering device nodes that were not made.
const MISSING_MAX: usize = 1 << 20;
/// The largest file that is left to the crew: small enough that it has all come before it is begun.
const CREW_FILE_MAX: u64 = 128 << 10;

/// The smallest file whose writing back is begun early: of less, the calls cost more than the disk gains.
const EARLY_MIN: u64 = 256 << 10;

/// Writes entries below a root.
pub(super) struct Writer<'a> {
    pub(super) disk: Disk<'a>,
    pub(super) tree: Tree,
    devices: DevicePolicy,
    root: RootMetadata,
    missing: Missing,
    /// Whether files may still turn out to be clonable from where the archive has them.
    shares: bool,
}

/// The device nodes that were not made, as far as memory is spent on them: hard links to them cannot be made either.
#[derive(Default)]
struct Missing {
    paths: HashSet<EntryPath>,
    bytes: usize,
}

impl Missing {
    fn add(&mut self, path: &EntryPath) {
        // What a set spends on an entry, roughly.
        let bytes = self.bytes + path.as_bytes().len() + 64;
        if bytes <= MISSING_MAX && self.paths.insert(path.clone()) {
            self.bytes = bytes;
        }
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(disk: Disk<'a>, options: &UnpackOptions) -> Result<Self> {
        let tree = Tree::new(&disk)?;
        Ok(Writer { disk, tree, devices: options.devices, root: options.root, missing: Missing::default(), shares: true })
    }

    /// Puts `entry` on the disk; a file's content comes from `archive`.
    pub(super) fn entry(&mut self, entry: &mut Entry, archive: &mut dyn Archive) -> Result<()> {
        self.disk.count_entry()?;
        let metadata = Metadata::from(&mut *entry);
        let Some((parent, name)) = entry.path.split() else { return self.root(metadata) };
        // The target of a hard link has to be there, and a second entry of a path has to come after the first.
        if matches!(entry.kind, Kind::Hardlink(_)) || self.disk.is_on_its_way(&entry.path) {
            self.disk.settle()?;
        }
        if entry.kind == Kind::Directory {
            return self.directory(&entry.path, parent, name, metadata);
        }
        let shared_dir = self.tree.enter(&mut self.disk, parent)?;
        if self.tree.is_behind_link() {
            self.disk.settle()?;
        }
        let dir = shared_dir.as_fd();
        match &entry.kind {
            Kind::Directory => Ok(()),
            Kind::File(content) => {
                let plain = Plain::of(&metadata).filter(|_| self.disk.privileged);
                let may_share = self.shares && archive.source().is_some();
                if let Some(plain) = plain
                    && !may_share
                    && self.is_for_crew(content, &shared_dir)?
                {
                    return self.give(entry, shared_dir, plain, content.size, archive);
                }
                let mode = plain.map_or(0o600, |plain| plain.mode);
                let maker = self.disk.maker;
                let (file, made) = self.disk.make(dir, name, || maker.file(&shared_dir, name, mode))?;
                if may_share && self.share(&file, content, archive)? {
                    return self.disk.finish_file(file.as_fd(), &entry.path, made, plain, &metadata);
                }
                self.content(&file, content, archive)?;
                if self.disk.writeback == Writeback::Early && content.size >= EARLY_MIN {
                    start_writeback(file.as_fd());
                }
                self.disk.finish_file(file.as_fd(), &entry.path, made, plain, &metadata)
            }
            Kind::Symlink(target) => {
                self.disk.make(dir, name, || symlinkat(target.as_c_str(), dir, name))?;
                let mut metadata = metadata;
                if metadata.owner.is_some_and(|(uid, gid)| self.disk.maker.owns(&shared_dir, uid, gid)) {
                    metadata.owner = None;
                }
                self.disk.apply(Object::Link(dir, name), &entry.path, &metadata)
            }
            Kind::Hardlink(target) => self.hard_link(dir, name, &entry.path, target),
            Kind::Fifo => {
                self.disk.make(dir, name, || mknodat(dir, name, SFlag::S_IFIFO, Mode::S_IRUSR | Mode::S_IWUSR, 0))?;
                self.disk.apply(Object::Node(dir, name), &entry.path, &metadata)
            }
            Kind::CharDevice { major, minor } => self.device(dir, &entry.path, SFlag::S_IFCHR, (*major, *minor), &metadata),
            Kind::BlockDevice { major, minor } => self.device(dir, &entry.path, SFlag::S_IFBLK, (*major, *minor), &metadata),
        }
    }

    /// Whether a file is small and simple enough to be left to the crew, and the crew has room for it.
    fn is_for_crew(&mut self, content: &Content, dir: &Arc<Dir>) -> Result<bool> {
        let simple = content.data.is_none() && content.size <= CREW_FILE_MAX && !self.tree.is_behind_link();
        Ok(simple && self.disk.is_for_crew(content.size, dir)?)
    }

    /// Clones a new file from where the archive has it; `false` if it has to be copied.
    fn share(&mut self, file: &OwnedFd, content: &Content, archive: &dyn Archive) -> Result<bool> {
        let Some(source) = archive.source() else { return Ok(false) };
        match self.disk.call(|| clone::file(source, file.as_fd()))? {
            Ok(()) => {
                let data = content.data.as_deref().map_or(content.size, |data| data.iter().map(|segment| segment.length).sum());
                self.disk.tally.shared = self.disk.tally.shared.saturating_add(ByteSize::from_bytes(data));
                self.disk.count_data(data)?;
                return Ok(true);
            }
            // Of this file and no other: it is copied on write where the original is not, or it is a swap file.
            Err(Errno::EINVAL | Errno::ETXTBSY) => {}
            Err(_) => self.shares = false,
        }
        Ok(false)
    }

    /// Leaves a file to the crew.
    fn give(&mut self, entry: &Entry, dir: Arc<Dir>, plain: Plain, size: u64, archive: &mut dyn Archive) -> Result<()> {
        let mut pieces = Vec::new();
        let mut length = 0;
        while let Some(piece) = archive.piece()? {
            length += piece.len() as u64;
            pieces.push(piece);
        }
        if length != size {
            return Err(invalid("its content is not as long as its size"));
        }
        let job = FileJob { path: entry.path.clone(), offset: entry.offset, dir, plain, pieces };
        self.disk.give(Job::File(job));
        self.disk.count_data(length)
    }

    /// Finishes the directories that are still open.
    pub(super) fn finish(mut self) -> Result<Unpacked> {
        if self.root == RootMetadata::FromImage {
            self.tree.imply_root(self.disk.implied_owner);
        }
        self.tree.finish(&mut self.disk)?;
        self.disk.settle()?;
        Ok(Unpacked { tally: self.disk.tally, losses: self.disk.losses })
    }

    fn root(&mut self, metadata: Metadata) -> Result<()> {
        if self.root == RootMetadata::FromImage {
            self.tree.set_root(metadata);
        }
        Ok(())
    }

    fn directory(&mut self, path: &EntryPath, parent: &[u8], name: &OsStr, metadata: Metadata) -> Result<()> {
        let Some(metadata) = self.tree.set_pending(&mut self.disk, path, metadata)? else { return Ok(()) };
        self.tree.enter(&mut self.disk, parent)?;
        self.tree.make_directory(&mut self.disk, name, metadata)
    }

    fn content(&mut self, file: &OwnedFd, content: &Content, archive: &mut dyn Archive) -> Result<()> {
        let whole = [Segment { offset: 0, length: content.size }];
        let mut segments = content.data.as_deref().unwrap_or(&whole).iter().copied();
        let mut left = Segment { offset: 0, length: 0 };
        while let Some(piece) = archive.piece()? {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                while left.length == 0 {
                    left = segments.next().ok_or_else(|| invalid("its content is longer than its size"))?;
                }
                let length = rest.len().min(usize::try_from(left.length).unwrap_or(usize::MAX));
                let (part, after) = rest.split_at(length);
                self.disk.write_at(file, part, left.offset)?;
                left.offset += length as u64;
                left.length -= length as u64;
                rest = after;
            }
            self.disk.count_data(piece.len() as u64)?;
        }
        if left.length > 0 || segments.any(|segment| segment.length > 0) {
            return Err(invalid("its content is shorter than its size"));
        }
        if content.data.is_none() {
            return Ok(());
        }
        // Also what ends in a hole has its size.
        let size = i64::try_from(content.size).map_err(|_| invalid("its size is out of range"))?;
        self.disk.must("cannot set its size", || ftruncate(file, size))
    }

    fn hard_link(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &EntryPath, target: &EntryPath) -> Result<()> {
        let missing = |what: &str| Error::new(ErrorKind::InvalidImage, "unpack", what).with_context("link", target);
        let Some((target_parent, target_name)) = target.split() else {
            return Err(missing("it is a hard link to the root directory"));
        };
        let Some(target_dir) = self.tree.find(&self.disk, target_parent)? else {
            if self.missing.paths.contains(target) {
                return self.miss_device(path);
            }
            return Err(missing("it is a hard link to an entry that does not come before it"));
        };
        let link = || linkat(&target_dir, target_name, dir, name, AtFlags::empty());
        let result = match self.disk.call(link)? {
            Err(Errno::EEXIST) if same(target_dir.as_fd(), target_name, dir, name) => return Ok(()),
            Err(Errno::EEXIST) => {
                self.disk.replace(dir, name)?;
                self.disk.call(link)?
            }
            result => result,
        };
        match result {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) if self.missing.paths.contains(target) => self.miss_device(path),
            Err(Errno::ENOENT) => Err(missing("it is a hard link to an entry that does not come before it")),
            Err(Errno::EPERM) if is_directory(target_dir.as_fd(), target_name) => Err(missing("it is a hard link to a directory")),
            Err(error) => Err(Error::io("unpack", "cannot make the hard link", error).with_context("link", target)),
        }
    }

    fn device(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &EntryPath,
        kind: SFlag,
        (major, minor): (u32, u32),
        metadata: &Metadata,
    ) -> Result<()> {
        let Some((_, name)) = path.split() else { return Ok(()) };
        check_device(self.devices)?;
        if self.devices == DevicePolicy::Skip {
            return self.miss_device(path);
        }
        let number = makedev(major.into(), minor.into());
        let mut make = || mknodat(dir, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, number);
        let result = match self.disk.call(&mut make)? {
            Err(Errno::EEXIST) => {
                self.disk.replace(dir, name)?;
                self.disk.call(make)?
            }
            result => result,
        };
        match result {
            Ok(()) => self.disk.apply(Object::Node(dir, name), path, metadata),
            Err(Errno::EPERM | Errno::EACCES) => self.miss_device(path),
            Err(error) => Err(Error::io("unpack", "cannot make the device node", error)),
        }
    }

    /// Goes on without a device node, or without another name of it.
    fn miss_device(&mut self, path: &EntryPath) -> Result<()> {
        self.missing.add(path);
        match self.devices {
            DevicePolicy::Skip => Ok(()),
            _ => self.disk.lose(LossKind::Device, path),
        }
    }
}

impl Disk<'_> {
    /// Makes something new under a name, and removes what had it: nothing is ever written through what exists.
    fn make<T>(&mut self, dir: BorrowedFd<'_>, name: &OsStr, mut make: impl FnMut() -> nix::Result<T>) -> Result<T> {
        match self.call(&mut make)? {
            Err(Errno::EEXIST) => {
                self.replace(dir, name)?;
                self.must("cannot make it", make)
            }
            result => result.map_err(|error| Error::io("unpack", "cannot make it", error)),
        }
    }

    /// Gives a file its metadata, in the short way if it is plain.
    fn finish_file(
        &mut self,
        file: BorrowedFd<'_>,
        path: &EntryPath,
        made: Made,
        plain: Option<Plain>,
        metadata: &Metadata,
    ) -> Result<()> {
        if plain.is_some_and(|plain| self.maker.finish(file, made, &plain).is_ok()) {
            return Ok(());
        }
        self.apply(Object::Open(file), path, metadata)
    }

    /// Does what the crew could not.
    pub(super) fn redo(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Finish(FinishJob { path, dir, plain, .. }) => self
                .apply(Object::Open(dir.as_fd()), &path, &Metadata::from(&plain))
                .map_err(|error| error.with_context("directory", &path)),
            Job::File(FileJob { path, offset, dir, plain, pieces }) => self
                .redo_file(&path, &dir, &plain, &pieces)
                .map_err(|error| error.with_context("entry", &path).with_context("offset", offset)),
        }
    }

    fn redo_file(&mut self, path: &EntryPath, dir: &Dir, plain: &Plain, pieces: &[Piece]) -> Result<()> {
        let Some((_, name)) = path.split() else { return Ok(()) };
        let maker = self.maker;
        let (file, made) = self.make(dir.as_fd(), name, || maker.file(dir, name, plain.mode))?;
        let mut at = 0;
        for piece in pieces {
            self.write_at(&file, piece, at)?;
            at += piece.len() as u64;
        }
        self.finish_file(file.as_fd(), path, made, Some(*plain), &Metadata::from(plain))
    }

    /// Writes all of `data` at an offset.
    fn write_at(&mut self, file: &OwnedFd, mut data: &[u8], mut offset: u64) -> Result<()> {
        while !data.is_empty() {
            let at = i64::try_from(offset).map_err(|_| invalid("its content is out of range"))?;
            let written = self.must("cannot write it", || pwrite(file, data, at))?;
            offset += written as u64;
            data = data.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidImage, "unpack", message)
}

/// Whether device nodes may be in an image at all.
pub(super) fn check_device(policy: DevicePolicy) -> Result<()> {
    if policy == DevicePolicy::Refuse {
        return Err(Error::new(ErrorKind::InvalidImage, "unpack", "it is a device node, and these are refused")
            .with_remedy("let device nodes be created or skipped, if this image is to be trusted"));
    }
    Ok(())
}

fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn same(a_dir: BorrowedFd<'_>, a: &OsStr, b_dir: BorrowedFd<'_>, b: &OsStr) -> bool {
    matches!((stat(a_dir, a), stat(b_dir, b)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

fn is_directory(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    stat(dir, name).is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}
