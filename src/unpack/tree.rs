//! The directories on the way to the current entry, open, and finished when the archive leaves them.
//!
//! A directory's mode, ACLs and time are applied after its content, for making things in it changes or forbids them. Only the directories
//! that the current path runs through wait for that, so memory grows with depth and not with the number of directories; one that the archive
//! comes back to is made workable again, and then put back as it was.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat};

use super::crew::{FinishJob, Job};
use super::disk::Disk;
use super::entry::{EntryPath, Timestamp};
use super::make::{Dir, Made, Plain};
use super::meta::{Metadata, Object};
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::sys::xattr::{self, Target};

/// How many directories are held open at the most: the deepest ones, for they are used next. Others are opened again when needed.
const MAX_OPEN: usize = 24;
/// How often the kernel may say that a path changed while it was resolved.
const MAX_AGAIN: usize = 64;
/// How many bytes of attributes the directories on the way may have waiting for their end, all together.
const MAX_PENDING: usize = 8 << 20;

/// How many times a directory that is there may be gone into, all together: an archive of some KiB could make that its only work, for days.
const DESCENTS_MAX: u64 = 32 << 20;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const IMPLIED_MODE: u32 = 0o755;
const ACCESS_ACL: &CStr = c"system.posix_acl_access";
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// The directories from the root to the current one; there is always the root.
pub(super) struct Tree {
    root: Frame,
    below: Vec<Frame>,
    /// Frames below this index are closed.
    first_open: usize,
    /// How many of the frames are symbolic links.
    links: usize,
    /// How many times a directory that was there was gone into.
    descents: u64,
    /// The number of the layer that is unpacked, if layers are.
    layer: u32,
}

struct Frame {
    /// Its name in its parent, as the archive's path has it; it may be a symbolic link to the directory.
    name: OsString,
    kind: FrameKind,
    dir: Option<Arc<Dir>>,
    /// To know it again.
    id: DirId,
    /// The layer that made it; 0 if that is not known to be one above the lowest.
    born: u32,
    /// The layer that was last told that it touched this directory, and with it those that this one lies in.
    told: u32,
    /// What it is like until it is finished.
    made: Made,
    finish: Finish,
}

/// The device and the inode of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirId(u64, u64);

#[derive(Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Directory,
    Symlink,
}

/// What is to be done when the archive leaves a directory.
enum Finish {
    /// Put back what a finished directory had.
    Restore(Saved),
    /// Give it what its entry says, or what an implied directory gets.
    Apply(Metadata),
}

struct Saved {
    mode: u32,
    mtime: Option<Timestamp>,
    default_acl: Option<Vec<u8>>,
}

impl Tree {
    /// Begins at the root, which is workable from here on.
    pub(super) fn new(disk: &Disk<'_>) -> Result<Self> {
        let dir = disk.root.try_clone_to_owned().map_err(|error| Error::io("unpack", "cannot use the root directory", error))?;
        let (stat, mut saved) = make_workable(disk, dir.as_fd(), Age::Old).map_err(cannot_use)?;
        // The time of the root follows what is made in it, unless the archive says otherwise.
        saved.mtime = None;
        let root = Frame::new(disk, OsString::new(), FrameKind::Directory, dir, &stat, Finish::Restore(saved));
        Ok(Tree { root, below: Vec::new(), first_open: 0, links: 0, descents: 0, layer: 0 })
    }

    /// Goes to the directory `path`, makes what is missing on the way, and finishes what is left behind.
    pub(super) fn enter(&mut self, disk: &mut Disk<'_>, path: &[u8]) -> Result<Arc<Dir>> {
        self.leave_doubtful(disk)?;
        let components = || path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).map(OsStr::from_bytes);
        let shared = self.below.iter().zip(components()).take_while(|(frame, component)| frame.name == **component).count();
        self.leave_to(disk, shared)?;
        for component in components().skip(shared) {
            let dir = self.current(disk)?;
            self.descend(disk, &dir, component)?;
        }
        self.current(disk)
    }

    /// Makes the directory `name` in the current one, or takes the one that is there, and goes into it.
    pub(super) fn make_directory(&mut self, disk: &mut Disk<'_>, name: &OsStr, metadata: Metadata) -> Result<()> {
        self.check_pending(&metadata)?;
        let dir = self.current(disk)?;
        loop {
            // Workable for the caller, and for no one for whom it will not be.
            let mode = Mode::from_bits_truncate(metadata.mode & 0o777 | 0o700);
            let mode = if metadata.xattrs.is_empty() { mode } else { Mode::S_IRWXU };
            match disk.call(|| mkdirat(&dir, name, mode))? {
                Ok(()) => {
                    let child =
                        disk.must("cannot open the directory just made", || openat(&dir, name, DIRECTORY, Mode::empty()))?;
                    return self.push(disk, name, FrameKind::Directory, child, Age::New, Some(metadata));
                }
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(Error::io("unpack", "cannot make a directory", error)),
            }
            // Whatever is to be done to it has to be done before it is looked at.
            disk.settle()?;
            let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(cannot_use)?;
            if is(&stat, SFlag::S_IFDIR) {
                let child = open_directory(disk, dir.as_fd(), name, &stat)?;
                // An earlier entry's ACL would stay, and the new mode become its mask. The default ACL goes as the directory is readied.
                xattr::remove(Target::Fd(child.as_fd()), ACCESS_ACL)
                    .map_err(|error| Error::io("unpack", "cannot remove an earlier entry's ACL", error))?;
                return self.push(disk, name, FrameKind::Directory, child, Age::Old, Some(metadata));
            }
            disk.replace(dir.as_fd(), name)?;
        }
    }

    /// Says which layer makes what is made from here on.
    pub(super) fn set_layer(&mut self, layer: u32) {
        self.layer = layer;
    }

    /// Which directory the first `depth` components of the current path lead to.
    pub(super) fn id(&self, depth: usize) -> DirId {
        depth.checked_sub(1).and_then(|index| self.below.get(index)).unwrap_or(&self.root).id
    }

    /// How deep the current directory is.
    pub(super) fn depth(&self) -> usize {
        self.below.len()
    }

    /// Tells `see` of each directory that the one at `depth` really lies in, itself first and the root not at all, and whether the current
    /// layer made it. Those that have been told of on behalf of this layer are left out.
    pub(super) fn trace(&mut self, disk: &Disk<'_>, depth: usize, see: &mut dyn FnMut(DirId, Age) -> Result<()>) -> Result<()> {
        for depth in (1..=depth.min(self.below.len())).rev() {
            let layer = self.layer;
            let frame = self.frame(depth);
            if std::mem::replace(&mut frame.told, layer) == layer {
                return Ok(());
            }
            let (kind, id) = (frame.kind, frame.id);
            if kind == FrameKind::Directory {
                see(id, if frame.born == layer { Age::New } else { Age::Old })?;
                continue;
            }
            // What a link leads to lies elsewhere than the link.
            let (mut dir, mut id, root) =
                (self.dir(disk, depth)?.as_fd().try_clone_to_owned().map_err(cannot_hold)?, id, self.root.id);
            while id != root {
                see(id, Age::Old)?;
                dir =
                    openat(&dir, "..", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(cannot_use)?;
                let above = identity(&fstat(&dir).map_err(cannot_use)?);
                if std::mem::replace(&mut id, above) == above {
                    return Err(replaced(disk));
                }
            }
            return Ok(());
        }
        Ok(())
    }

    /// Goes from the current directory into `name`, a directory in it.
    pub(super) fn go_down(&mut self, disk: &mut Disk<'_>, name: &OsStr) -> Result<()> {
        let dir = self.current(disk)?;
        self.descend(disk, &dir, name)
    }

    /// Leaves the current directory for the one it is in.
    pub(super) fn go_up(&mut self, disk: &mut Disk<'_>) -> Result<()> {
        self.leave_to(disk, self.below.len().saturating_sub(1))
    }

    /// Whether the current path runs through a symbolic link, so that what is in it has another path too.
    pub(super) fn is_behind_link(&self) -> bool {
        self.links > 0
    }

    /// Lets the root have this metadata when all is done.
    pub(super) fn set_root(&mut self, metadata: Metadata) {
        self.root.finish = Finish::Apply(metadata);
    }

    /// Lets the root have this owner, if no entry said whose it is.
    pub(super) fn imply_root(&mut self, owner: Option<(u32, u32)>) {
        if let (Finish::Restore(saved), Some(_)) = (&self.root.finish, owner) {
            self.root.finish = Finish::Apply(Metadata { mode: saved.mode, owner, ..Metadata::default() });
        }
    }

    /// If `path` is a directory on the way to the current one, lets it have this metadata when it is left; gives it back if it is not.
    pub(super) fn set_pending(&mut self, disk: &mut Disk<'_>, path: &EntryPath, metadata: Metadata) -> Result<Option<Metadata>> {
        self.leave_doubtful(disk)?;
        let depth = path.components().count();
        let on_the_way = path.components().zip(&self.below).filter(|(component, frame)| frame.name == **component).count() == depth;
        let kind = depth.checked_sub(1).and_then(|index| self.below.get(index)).map(|frame| frame.kind);
        // A directory's entry replaces a symbolic link of its name.
        if !on_the_way || kind != Some(FrameKind::Directory) {
            return Ok(Some(metadata));
        }
        self.check_pending(&metadata)?;
        // What an earlier entry granted is not granted any more.
        let dir = self.dir(disk, depth)?;
        xattr::remove(Target::Fd(dir.as_fd()), ACCESS_ACL)
            .map_err(|error| Error::io("unpack", "cannot remove an earlier ACL", error))?;
        let frame = self.frame(depth);
        let mut metadata = metadata;
        if let Finish::Apply(earlier) = &mut frame.finish {
            // Attributes of the earlier entry stay, as they would had they been set already.
            let is_new = |(name, _): &(CString, Vec<u8>)| !metadata.xattrs.iter().any(|(other, _)| other == name);
            let is_acl = |(name, _): &(CString, Vec<u8>)| [ACCESS_ACL, DEFAULT_ACL].contains(&name.as_c_str());
            let kept: Vec<_> = earlier.xattrs.drain(..).filter(|xattr| is_new(xattr) && !is_acl(xattr)).collect();
            metadata.xattrs.splice(0..0, kept);
        }
        frame.finish = Finish::Apply(metadata);
        Ok(None)
    }

    /// Whether there is room to remember this metadata besides what is waiting already.
    fn check_pending(&self, metadata: &Metadata) -> Result<()> {
        let size =
            |metadata: &Metadata| metadata.xattrs.iter().map(|(name, value)| name.count_bytes() + value.len()).sum::<usize>();
        let new = size(metadata);
        if new == 0 {
            return Ok(());
        }
        let waiting = self.below.iter().filter_map(|frame| match &frame.finish {
            Finish::Apply(metadata) => Some(size(metadata)),
            Finish::Restore(_) => None,
        });
        if waiting.sum::<usize>() + new > MAX_PENDING {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "unpack",
                "the attributes of nested directories are too large together",
            )
            .with_context("limit", ByteSize::from_bytes(MAX_PENDING as u64)));
        }
        Ok(())
    }

    /// The directory `path`, whatever links it runs through, for the target of a hard link; `None` if there is none.
    pub(super) fn find(&mut self, disk: &Disk<'_>, path: &[u8]) -> Result<Option<Arc<Dir>>> {
        let here = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
        if here.map(OsStr::from_bytes).eq(self.below.iter().map(|frame| frame.name.as_os_str())) {
            return self.current(disk).map(Some);
        }
        let path = if path.is_empty() { b"." } else { path };
        match open_in_root(disk.root, OsStr::from_bytes(path), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC) {
            Ok(dir) => {
                let stat = fstat(&dir).map_err(cannot_use)?;
                Ok(Some(Arc::new(Dir::new(dir, &stat, disk.maker))))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(error) => Err(cannot_use(error)),
        }
    }

    /// Finishes every directory that is still open, the root last.
    pub(super) fn finish(mut self, disk: &mut Disk<'_>) -> Result<()> {
        self.leave_to(disk, 0)?;
        let Tree { root, .. } = self;
        let Some(dir) = root.dir else { return Ok(()) };
        finish_directory(disk, dir, EntryPath::default(), root.made, root.finish)
    }

    /// The current directory.
    pub(super) fn current(&mut self, disk: &Disk<'_>) -> Result<Arc<Dir>> {
        self.dir(disk, self.below.len())
    }

    /// The directory at `depth`, opened again if it had been closed.
    fn dir(&mut self, disk: &Disk<'_>, depth: usize) -> Result<Arc<Dir>> {
        if let Some(dir) = &self.frame(depth).dir {
            return Ok(Arc::clone(dir));
        }
        let dir = match self.open_again(disk, depth) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(replaced(disk)),
            result => result.map_err(cannot_use)?,
        };
        let stat = fstat(&dir).map_err(cannot_use)?;
        if identity(&stat) != self.frame(depth).id {
            return Err(replaced(disk));
        }
        let frame = self.frame(depth);
        let dir = Arc::new(Dir::new(dir, &stat, disk.maker));
        frame.dir = Some(Arc::clone(&dir));
        self.first_open = self.first_open.min(depth.saturating_sub(1));
        Ok(dir)
    }

    /// Opens a closed directory: from the one below it, which takes one step, or else by its whole path.
    fn open_again(&mut self, disk: &Disk<'_>, depth: usize) -> nix::Result<OwnedFd> {
        let id = self.frame(depth).id;
        if let Some(Frame { kind: FrameKind::Directory, dir: Some(below), .. }) = self.below.get(depth)
            && let Ok(dir) = openat(&**below, "..", DIRECTORY, Mode::empty())
            && fstat(&dir).is_ok_and(|stat| identity(&stat) == id)
        {
            return Ok(dir);
        }
        let path = self.path(depth);
        open_in_root(disk.root, OsStr::from_bytes(path.as_bytes()), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
    }

    fn frame(&mut self, depth: usize) -> &mut Frame {
        match depth.checked_sub(1).and_then(|index| self.below.get_mut(index)) {
            Some(frame) => frame,
            None => &mut self.root,
        }
    }

    fn path(&self, depth: usize) -> EntryPath {
        let names: Vec<_> = self.below.iter().take(depth).map(|frame| frame.name.as_bytes()).collect();
        EntryPath::new_unchecked(names.join(&b'/'))
    }

    /// Goes into `name`, the next component of a path to something else, and makes it if it is missing.
    fn descend(&mut self, disk: &mut Disk<'_>, dir: &Arc<Dir>, name: &OsStr) -> Result<()> {
        self.descents += 1;
        if self.descents > DESCENTS_MAX {
            return Err(Error::new(ErrorKind::LimitExceeded, "unpack", "its paths lead to and fro too often")
                .with_remedy("pack the image in the order of its directories"));
        }
        // It may be on its way, or a directory there may be still to be finished.
        disk.settle()?;
        let stat = match fstatat(&**dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => {
                let owner = disk.implied_owner;
                return self.make_directory(disk, name, Metadata { mode: IMPLIED_MODE, owner, ..Metadata::default() });
            }
            Err(error) => return Err(cannot_use(error)),
        };
        if is(&stat, SFlag::S_IFDIR) {
            let child = open_directory(disk, dir.as_fd(), name, &stat)?;
            return self.push(disk, name, FrameKind::Directory, child, Age::Old, None);
        }
        let refuse = |what: &str| {
            let path = self.path(self.below.len());
            let slash = if path.is_root() { "" } else { "/" };
            let shown = crate::text::Escaped::from(name).to_string();
            let parent = if path.is_root() { String::new() } else { path.to_string() };
            Err(Error::new(ErrorKind::InvalidImage, "unpack", format!("{parent}{slash}{shown} on the way to it is {what}")))
        };
        if !is(&stat, SFlag::S_IFLNK) {
            return refuse("not a directory");
        }
        // From the root, so that a link that leads upward or begins with a slash ends below it all the same.
        let mut path = self.path(self.below.len()).as_bytes().to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        match open_in_root(disk.root, OsStr::from_bytes(&path), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC) {
            Ok(child) => self.push(disk, name, FrameKind::Symlink, child, Age::Old, None),
            Err(Errno::ENOENT | Errno::ENOTDIR) => refuse("a symbolic link to no directory"),
            Err(Errno::ELOOP) => refuse("a symbolic link that leads back to itself"),
            Err(error) => Err(cannot_use(error)),
        }
    }

    /// Makes an open directory the current one. Without metadata of its own, it is put back as it is when it is left.
    fn push(
        &mut self,
        disk: &Disk<'_>,
        name: &OsStr,
        kind: FrameKind,
        dir: OwnedFd,
        age: Age,
        metadata: Option<Metadata>,
    ) -> Result<()> {
        let (stat, saved) = make_workable(disk, dir.as_fd(), age).map_err(cannot_use)?;
        let finish = metadata.map_or(Finish::Restore(saved), Finish::Apply);
        self.links += usize::from(kind == FrameKind::Symlink);
        let mut frame = Frame::new(disk, name.to_owned(), kind, dir, &stat, finish);
        frame.born = if age == Age::New { self.layer } else { 0 };
        self.below.push(frame);
        while self.below.len() - self.first_open > MAX_OPEN {
            if let Some(frame) = self.below.get_mut(self.first_open) {
                frame.dir = None;
            }
            self.first_open += 1;
        }
        Ok(())
    }

    /// Leaves a path that may not lead where it did, so that the next begins at the root.
    fn leave_doubtful(&mut self, disk: &mut Disk<'_>) -> Result<()> {
        if std::mem::take(&mut disk.doubtful) && self.links > 0 {
            self.leave_to(disk, 0)?;
        }
        Ok(())
    }

    /// Finishes the deepest directories until `depth` are left below the root.
    fn leave_to(&mut self, disk: &mut Disk<'_>, depth: usize) -> Result<()> {
        while self.below.len() > depth {
            let path = self.path(self.below.len());
            let dir = self.current(disk)?;
            // Its parent is next, and is opened from here if it had been closed.
            self.dir(disk, self.below.len() - 1)?;
            let Some(frame) = self.below.pop() else { break };
            self.first_open = self.first_open.min(self.below.len());
            self.links -= usize::from(frame.kind == FrameKind::Symlink);
            finish_directory(disk, dir, path, frame.made, frame.finish)?;
        }
        Ok(())
    }
}

impl Frame {
    fn new(disk: &Disk<'_>, name: OsString, kind: FrameKind, dir: OwnedFd, stat: &FileStat, finish: Finish) -> Self {
        let dir = Some(Arc::new(Dir::new(dir, stat, disk.maker)));
        Frame { name, kind, dir, id: identity(stat), born: 0, told: 0, made: Made::from(stat), finish }
    }
}

fn replaced(disk: &Disk<'_>) -> Error {
    if disk.doubtful {
        return Error::new(ErrorKind::InvalidImage, "unpack", "an entry replaced a directory that its own path runs through");
    }
    Error::new(ErrorKind::Io, "unpack", "a directory was replaced while it was filled")
        .with_remedy("keep others out of the pool's directory")
}

/// Gives a directory that is complete its metadata, after all that is still on its way into it.
fn finish_directory(disk: &mut Disk<'_>, dir: Arc<Dir>, path: EntryPath, made: Made, finish: Finish) -> Result<()> {
    let metadata = match finish {
        Finish::Apply(metadata) => metadata,
        // Nothing was changed that would have to be put back; it may be someone else's.
        Finish::Restore(Saved { mode, mtime: None, default_acl: None }) if mode == made.mode => {
            disk.settle()?;
            return Ok(());
        }
        Finish::Restore(Saved { mode, mtime, default_acl }) => {
            let xattrs = default_acl.map(|acl| (DEFAULT_ACL.into(), acl)).into_iter().collect();
            Metadata { mode, owner: None, mtime, xattrs, lost_acls: Vec::new() }
        }
    };
    match Plain::of(&metadata).filter(|_| disk.privileged) {
        Some(plain) if disk.is_crew_to_finish() => {
            disk.give(Job::Finish(FinishJob { path, dir, made, plain }));
            Ok(())
        }
        plain => {
            disk.settle()?;
            let done = plain.is_some_and(|plain| disk.maker.finish(dir.as_fd(), made, &plain).is_ok());
            if done {
                return Ok(());
            }
            disk.apply(Object::Open(dir.as_fd()), &path, &metadata).map_err(|error| error.with_context("directory", &path))
        }
    }
}

/// Whether a directory was there before, or has just been made in one that hands down no ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Old,
    New,
}

/// Readies a directory for filling: the caller may, and nothing made in it inherits an ACL. Returns what it is like then, and what that changed.
fn make_workable(disk: &Disk<'_>, dir: BorrowedFd<'_>, age: Age) -> nix::Result<(FileStat, Saved)> {
    let mut stat = fstat(dir)?;
    let mode = stat.st_mode & 0o7777;
    if !disk.privileged && mode & 0o700 != 0o700 {
        fchmod(dir, Mode::from_bits_truncate(mode | 0o700))?;
        stat.st_mode |= 0o700;
    }
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let mut default_acl = None;
    if age == Age::Old {
        default_acl = xattr::get(Target::Fd(dir), DEFAULT_ACL).map_err(errno)?;
    }
    if default_acl.is_some() {
        xattr::remove(Target::Fd(dir), DEFAULT_ACL).map_err(errno)?;
    }
    let mtime = Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec.try_into().unwrap_or(0) };
    Ok((stat, Saved { mode, mtime: Some(mtime), default_acl }))
}

/// Opens a directory that is there, also one whose mode forbids it to the caller, who made it.
fn open_directory(disk: &mut Disk<'_>, dir: BorrowedFd<'_>, name: &OsStr, stat: &FileStat) -> Result<OwnedFd> {
    let open = || openat(dir, name, DIRECTORY, Mode::empty());
    match disk.call(open)? {
        Err(Errno::EACCES) => {
            let mode = stat.st_mode & 0o7777;
            let workable = Mode::from_bits_truncate(mode | 0o700);
            fchmodat(dir, name, workable, FchmodatFlags::FollowSymlink).map_err(cannot_use)?;
            let child = disk.call(open)?.map_err(cannot_use)?;
            // As it was, so that who saves its mode saves the right one.
            fchmod(&child, Mode::from_bits_truncate(mode)).map_err(cannot_use)?;
            Ok(child)
        }
        result => result.map_err(cannot_use),
    }
}

/// Opens a path as if `root` were the root directory: absolute links and `..` in links end below it.
fn open_in_root(root: BorrowedFd<'_>, path: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut result = openat2(root, path, how);
    for _ in 0..MAX_AGAIN {
        if !matches!(result, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
        result = openat2(root, path, how);
    }
    result
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

#[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
pub(super) fn identity(stat: &FileStat) -> DirId {
    DirId(stat.st_dev as u64, stat.st_ino as u64)
}

fn cannot_hold(error: std::io::Error) -> Error {
    Error::io("unpack", "cannot hold a directory of the new root open", error)
}

fn cannot_use(error: Errno) -> Error {
    let told = Error::io("unpack", "cannot use a directory of the new root", error);
    match error {
        Errno::ENOSYS => told.with_remedy("use Linux 5.6 or later, for openat2"),
        _ => told,
    }
}
