//! Walks a tree of any depth by directory descriptors: no path is resolved, no link followed, no mount entered, nothing recurses.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat};

use super::call::{FileId, retry};

/// Directories held open at once. The ones above are closed and found again through `..`.
const OPEN_FRAMES: usize = 16;
const BUFFER: usize = 32 << 10;
/// For directories that a first `BUFFER` does not hold.
const LARGE_BUFFER: usize = 1 << 20;
/// `d_ino`, `d_off`, `d_reclen` and `d_type` of the kernel's `linux_dirent64`, before the name.
const ENTRY_HEADER: usize = 19;

/// What a directory says of an entry. File systems may not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryType {
    Directory,
    Other,
    Unknown,
}

/// Opens the directory `name` in `dir`, if it is one and no mount point.
///
/// `EXDEV`: a mount point. `ELOOP`, `ENOTDIR`: no directory. `ENOSYS`: the kernel is older than 5.6.
pub(crate) fn open_beneath(dir: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    retry(|| openat2(dir, name, how))
}

/// In which order a walk comes by the entries of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the directory lists them, each once.
    Listed,
    /// By inode, within what was read at once: file systems remove neighbours several times faster. What is still there may come by again.
    Inodes,
}

/// One directory on the way from the top to where the walk is.
#[derive(Debug)]
struct Frame {
    name: CString,
    id: FileId,
    dir: Option<OwnedFd>,
    buffer: Vec<u8>,
    /// How much of it the last read filled.
    filled: usize,
    /// The entries in it: their inodes and where they begin.
    entries: Vec<(u64, u32)>,
    /// How many of them the walk came by; the last one is the current entry.
    taken: usize,
    /// Where to go on reading after the directory was closed, for `lseek`.
    resume: i64,
    /// Where the entries after those in `buffer` begin.
    behind: i64,
    seen: u64,
    pass: u32,
}

/// A directory that the walk has left.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) name: CString,
    /// Entries that the last pass over it came by.
    pub(crate) seen: u64,
    /// How often it was entered again.
    pub(crate) pass: u32,
}

/// A walk in progress. It begins at the top, before its first entry.
#[derive(Debug)]
pub(crate) struct Walk {
    frames: Vec<Frame>,
    order: Order,
    spare: Vec<Vec<u8>>,
}

impl Walk {
    /// Starts at `top`, an open directory, called `name` in messages.
    pub(crate) fn new(top: OwnedFd, name: &CStr, order: Order) -> io::Result<Self> {
        let mut walk = Walk { frames: Vec::new(), order, spare: Vec::new() };
        walk.push(top, name.to_owned(), 0)?;
        Ok(walk)
    }

    /// Whether it is in the directory that it started at.
    #[cfg_attr(
        not(any(feature = "ceph", feature = "lvm", feature = "zfs")),
        allow(dead_code, reason = "only a file system's top has what is not to be touched")
    )]
    pub(crate) fn is_at_top(&self) -> bool {
        self.frames.len() == 1
    }

    /// Moves to the next entry of the directory the walk is in; `None` at its end.
    pub(crate) fn advance(&mut self) -> io::Result<Option<EntryType>> {
        let Some(frame) = self.frames.last_mut() else { return Ok(None) };
        if frame.taken == frame.entries.len() {
            frame.read(self.order)?;
        }
        let Some(&(_, start)) = frame.entries.get(frame.taken) else { return Ok(None) };
        frame.taken += 1;
        frame.seen += 1;
        let header = frame.buffer.get(start as usize..).and_then(|entry| entry.first_chunk::<ENTRY_HEADER>()).ok_or(Errno::EIO)?;
        if self.order == Order::Listed {
            frame.resume = position_after(header);
        }
        Ok(Some(match header[18] {
            libc::DT_DIR => EntryType::Directory,
            libc::DT_UNKNOWN => EntryType::Unknown,
            _ => EntryType::Other,
        }))
    }

    /// The name of the current entry.
    pub(crate) fn name(&self) -> &CStr {
        self.frames.last().and_then(Frame::name_of_current).unwrap_or_default()
    }

    /// The directory the walk is in.
    pub(crate) fn dir(&self) -> io::Result<BorrowedFd<'_>> {
        let frame = self.frames.last().and_then(|frame| frame.dir.as_ref());
        Ok(frame.ok_or(Errno::EBADF)?.as_fd())
    }

    /// Goes into `dir`, which the caller opened under this name, before its first entry. `pass` counts how often that happened before.
    pub(crate) fn enter(&mut self, dir: OwnedFd, name: CString, pass: u32) -> io::Result<()> {
        if let Some(shallowest) = self.frames.len().checked_sub(OPEN_FRAMES).and_then(|at| self.frames.get_mut(at)) {
            shallowest.dir = None;
            shallowest.entries = Vec::new();
            shallowest.taken = 0;
            let buffer = std::mem::take(&mut shallowest.buffer);
            self.recycle(buffer);
        }
        self.push(dir, name, pass)
    }

    /// Goes back up, to where the entry of the left directory is the current one; `None` if that was the top.
    pub(crate) fn leave(&mut self) -> io::Result<Option<Left>> {
        let Some(left) = self.frames.pop() else { return Ok(None) };
        self.recycle(left.buffer);
        let Some(parent) = self.frames.last_mut() else { return Ok(None) };
        if parent.dir.is_none() {
            let child = left.dir.ok_or(Errno::EBADF)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let dir = retry(|| openat(&child, c"..", flags, Mode::empty()))?;
            if FileId::from(&fstat(&dir)?) != parent.id {
                return Err(io::Error::other("a directory was moved away while it was walked"));
            }
            // Entries that are gone do not move the others.
            nix::unistd::lseek64(&dir, parent.resume, nix::unistd::Whence::SeekSet)?;
            parent.behind = parent.resume;
            parent.dir = Some(dir);
            parent.buffer = self.spare.pop().unwrap_or_default();
        }
        Ok(Some(Left { name: left.name, seen: left.seen, pass: left.pass }))
    }

    /// The path of the directory the walk is in, from the top's own name, for messages; its middle is left out if it is long.
    pub(crate) fn path(&self) -> Vec<u8> {
        const SHOWN: usize = 8;
        let mut path = Vec::new();
        let hidden = self.frames.len().saturating_sub(SHOWN);
        for (depth, frame) in self.frames.iter().enumerate() {
            if depth > 0 && depth <= hidden {
                if depth == 1 {
                    path.extend_from_slice(b"/...");
                }
                continue;
            }
            if depth > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(frame.name.to_bytes());
        }
        path
    }

    /// Keeps a buffer for the next directory, unless it is a large one.
    fn recycle(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= BUFFER {
            self.spare.push(buffer);
        }
    }

    fn push(&mut self, dir: OwnedFd, name: CString, pass: u32) -> io::Result<()> {
        let id = FileId::from(&fstat(&dir)?);
        let buffer = self.spare.pop().unwrap_or_default();
        let entries = Vec::new();
        self.frames.push(Frame {
            name,
            id,
            dir: Some(dir),
            buffer,
            entries,
            filled: 0,
            taken: 0,
            resume: 0,
            behind: 0,
            seen: 0,
            pass,
        });
        Ok(())
    }
}

impl Frame {
    /// Reads the next entries.
    fn read(&mut self, order: Order) -> io::Result<()> {
        let large = self.filled > BUFFER / 2;
        self.entries.clear();
        self.taken = 0;
        self.resume = self.behind;
        self.buffer.resize(if large { LARGE_BUFFER } else { BUFFER }, 0);
        let dir = self.dir.as_ref().ok_or(Errno::EBADF)?;
        while self.entries.is_empty() {
            let length = match read_entries(dir.as_fd(), &mut self.buffer) {
                Ok(length) => length,
                // Someone else removed the directory under us: it has no more entries.
                Err(Errno::ENOENT) => 0,
                Err(error) => return Err(error.into()),
            };
            self.filled = length;
            if length == 0 {
                return Ok(());
            }
            let mut start = 0;
            while let Some(header) = self.buffer.get(start..length).and_then(|entry| entry.first_chunk::<ENTRY_HEADER>()) {
                let inode = u64::from_ne_bytes(chunk(header, 0));
                let size = usize::from(u16::from_ne_bytes(chunk(header, 16)));
                if size <= ENTRY_HEADER {
                    return Err(Errno::EIO.into());
                }
                self.behind = position_after(header);
                let name =
                    self.buffer.get(start + ENTRY_HEADER..start + size).and_then(|name| CStr::from_bytes_until_nul(name).ok());
                if !matches!(name.ok_or(Errno::EIO)?.to_bytes(), b"." | b"..") {
                    self.entries.push((inode, start as u32));
                }
                start += size;
            }
        }
        if order == Order::Inodes {
            self.entries.sort_unstable();
        }
        Ok(())
    }

    fn name_of_current(&self) -> Option<&CStr> {
        let (_, start) = self.entries.get(self.taken.checked_sub(1)?)?;
        CStr::from_bytes_until_nul(self.buffer.get(*start as usize + ENTRY_HEADER..)?).ok()
    }
}

/// Where the entry after the one with this header begins.
fn position_after(header: &[u8; ENTRY_HEADER]) -> i64 {
    i64::from_ne_bytes(chunk(header, 8))
}

/// The bytes of a field. All fields lie within the header, so there is no field that would come out as zeros.
fn chunk<const N: usize>(header: &[u8; ENTRY_HEADER], at: usize) -> [u8; N] {
    header.get(at..).and_then(|field| field.first_chunk()).copied().unwrap_or([0; N])
}

fn read_entries(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    retry(|| {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`; the descriptor is borrowed for the call.
        let length = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
        Errno::result(length).map(|length| length as usize)
    })
}

/// The bytes on disk of a tree, each inode once, mounts left out; `None` if the tree does not exist.
pub(crate) fn disk_usage(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<u64>> {
    let top = match open_beneath(parent, name, OFlag::O_RDONLY) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut linked = std::collections::HashSet::new();
    let mut blocks = fstat(&top)?.st_blocks as u64;
    let mut walk = Walk::new(top, name, Order::Listed)?;
    loop {
        let Some(kind) = walk.advance()? else {
            match walk.leave()? {
                Some(_) => continue,
                None => return Ok(Some(blocks.saturating_mul(512))),
            }
        };
        if kind != EntryType::Other {
            match open_beneath(walk.dir()?, walk.name(), OFlag::O_RDONLY) {
                Ok(dir) => {
                    blocks = blocks.saturating_add(fstat(&dir)?.st_blocks as u64);
                    let name = walk.name().to_owned();
                    walk.enter(dir, name, 0)?;
                    continue;
                }
                Err(Errno::EXDEV | Errno::ENOENT) => continue,
                Err(Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match nix::sys::stat::fstatat(walk.dir()?, walk.name(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_nlink > 1 && !linked.insert(FileId::from(&stat)) => {}
            Ok(stat) => blocks = blocks.saturating_add(stat.st_blocks as u64),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_walk_comes_by_every_entry_once_whatever_the_depth() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = dir.path().join("top");
        fs::create_dir(&at).unwrap();
        let mut made = 0;
        for depth in 0..80 {
            for n in 0..20 {
                fs::write(at.join(format!("file-{depth}-{n}")), "").unwrap();
                fs::create_dir(at.join(format!("side-{n}"))).unwrap();
                made += 2;
            }
            at.push("down");
            fs::create_dir(&at).unwrap();
            made += 1;
        }
        let parent = fs::File::open(dir.path()).unwrap();
        let mut walk = Walk::new(open_beneath(parent.as_fd(), c"top", OFlag::O_RDONLY).unwrap(), c"top", Order::Listed).unwrap();
        let mut seen = 0;
        loop {
            match walk.advance().unwrap() {
                Some(EntryType::Directory) => {
                    seen += 1;
                    let name = walk.name().to_owned();
                    let child = open_beneath(walk.dir().unwrap(), &name, OFlag::O_RDONLY).unwrap();
                    walk.enter(child, name, 0).unwrap();
                }
                Some(_) => seen += 1,
                None => {
                    if walk.leave().unwrap().is_none() {
                        break;
                    }
                }
            }
        }
        assert_eq!(seen, made);
    }

    #[test]
    fn hard_links_count_once_and_holes_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let parent = fs::File::open(dir.path()).unwrap();
        let usage = || disk_usage(parent.as_fd(), c"top").unwrap().unwrap();
        let empty = usage();
        fs::write(top.join("a"), vec![1; 1 << 20]).unwrap();
        nix::unistd::syncfs(&parent).unwrap();
        let one = usage();
        assert!(one >= empty + (1 << 20), "{one} {empty}");
        fs::hard_link(top.join("a"), top.join("b")).unwrap();
        fs::File::create(top.join("hole")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(usage(), one);
        assert_eq!(disk_usage(parent.as_fd(), c"none").unwrap(), None);
    }
}
