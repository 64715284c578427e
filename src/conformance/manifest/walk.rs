//! Reads a tree into a manifest: one directory descriptor at a time, down by name and up by `..`, so that neither the depth of the tree
//! nor the length of its paths nor the limit on open files matters.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};

use super::{DirectoryTimes, Facts, Kind, Manifest, ManifestOptions, Owners, shown};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::sys::xattr::{self, Target};

const OPERATION: &str = "read the manifest of a tree";
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

pub(super) fn read_path(path: &Path, options: &ManifestOptions) -> Result<Manifest> {
    let root = openat(AT_FDCWD, path, DIRECTORY, Mode::empty()).map_err(|errno| {
        Error::io(OPERATION, "cannot open the directory", errno).with_context("path", crate::text::Escaped::from(path))
    })?;
    read(root, options)
}

pub(super) fn read_fd(dir: BorrowedFd<'_>, options: &ManifestOptions) -> Result<Manifest> {
    // A descriptor of our own: reading moves the offset, and the caller's may have been opened with `O_PATH`.
    let root =
        openat(dir, ".", DIRECTORY, Mode::empty()).map_err(|errno| Error::io(OPERATION, "cannot open the directory", errno))?;
    read(root, options)
}

/// A directory on the way down to the current one.
struct Level {
    /// Its position in the manifest.
    position: usize,
    /// Device and inode, to know it again on the way up.
    identity: (u64, u64),
    /// The names in it that are still to come, last first.
    names: Vec<OsString>,
}

struct Walk<'a> {
    options: &'a ManifestOptions,
    manifest: Manifest,
    /// The first path of every file that has several.
    links: HashMap<(u64, u64), usize>,
    buffer: Vec<u8>,
}

fn read(root: OwnedFd, options: &ManifestOptions) -> Result<Manifest> {
    let fail = |errno: Errno| Error::io(OPERATION, "cannot read the directory", errno).with_context("entry", ".");
    let stat = fstat(&root).map_err(fail)?;
    let mut facts = facts(&stat, Kind::Directory, options);
    facts.xattrs = xattrs(Target::Fd(root.as_fd()), options)
        .map_err(|error| Error::io(OPERATION, "cannot read the extended attributes", error).with_context("entry", "."))?;
    facts.xattrs.retain(|(name, _)| {
        let ours: [&[u8]; 2] = [b"trusted.reroot.", b"user.reroot."];
        !ours.iter().any(|prefix| name.to_bytes().starts_with(prefix))
    });
    if options.directory_times != DirectoryTimes::Kept {
        facts.mtime = None;
    }
    let mut walk = Walk { options, manifest: Manifest::new(facts), links: HashMap::new(), buffer: vec![0; 64 << 10] };
    let mut dir = Dir::from_fd(root).map_err(fail)?;
    let mut levels = vec![Level { position: 0, identity: identity(&stat), names: names(&mut dir).map_err(fail)? }];
    while let Some(level) = levels.last_mut() {
        let position = level.position;
        if let Some(name) = level.names.pop() {
            if let Some((deeper, below)) = walk.entry(&dir, position, &name)? {
                levels.push(deeper);
                dir = below;
            }
            continue;
        }
        levels.pop();
        if let Some(above) = levels.last() {
            dir = up(&dir, above.identity).map_err(|error| locate(error, &walk.manifest, position, OsStr::new("..")))?;
        }
    }
    Ok(walk.manifest)
}

impl Walk<'_> {
    /// Records an entry; a directory is entered.
    fn entry(&mut self, dir: &Dir, parent: usize, name: &OsStr) -> Result<Option<(Level, Dir)>> {
        let at = |what: &str, error: std::io::Error| locate(Error::io(OPERATION, what, error), &self.manifest, parent, name);
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        let entry = match openat2(dir, name, how) {
            Ok(entry) => entry,
            Err(Errno::EXDEV) => {
                let facts = Facts { kind: Kind::Mount, mode: 0, owner: None, mtime: None, xattrs: Vec::new(), linked_to: None };
                self.manifest.push(parent, name, facts);
                return Ok(None);
            }
            Err(errno) => return Err(at("cannot open the entry", errno.into())),
        };
        let stat = fstat(&entry).map_err(|errno| at("cannot examine the entry", errno.into()))?;
        let rdev = (major(stat.st_rdev), minor(stat.st_rdev));
        let mut below = None;
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => {
                // By the name again: an `O_PATH` descriptor cannot be read.
                let opened = openat(dir, name, DIRECTORY, Mode::empty()).and_then(Dir::from_fd);
                let mut opened = opened.map_err(|errno| at("cannot open the directory", errno.into()))?;
                let identity = fstat(&opened).map(|stat| identity(&stat));
                if identity != Ok((stat.st_dev, stat.st_ino)) {
                    return Err(at("the directory was replaced meanwhile", Errno::ESTALE.into()));
                }
                let names = names(&mut opened).map_err(|errno| at("cannot read the directory", errno.into()))?;
                below = Some((names, opened));
                Kind::Directory
            }
            SFlag::S_IFREG => {
                let (size, digest) =
                    content(dir, name, &stat, &mut self.buffer).map_err(|error| at("cannot read the file", error))?;
                Kind::File { size, digest }
            }
            SFlag::S_IFLNK => {
                Kind::Symlink(readlinkat(&entry, "").map_err(|errno| at("cannot read the symbolic link", errno.into()))?)
            }
            SFlag::S_IFCHR => Kind::CharacterDevice(rdev.0, rdev.1),
            SFlag::S_IFBLK => Kind::BlockDevice(rdev.0, rdev.1),
            SFlag::S_IFIFO => Kind::Fifo,
            _ => Kind::Socket,
        };
        let mut facts = facts(&stat, kind, self.options);
        facts.xattrs = xattrs(Target::At(dir.as_fd(), name), self.options)
            .map_err(|error| at("cannot read the extended attributes", error))?;
        if stat.st_nlink > 1 && below.is_none() {
            let next = self.manifest.len();
            let first = *self.links.entry(identity(&stat)).or_insert(next);
            facts.linked_to = (first != next).then_some(first);
        }
        let position = self.manifest.push(parent, name, facts);
        Ok(below.map(|(names, opened)| (Level { position, identity: identity(&stat), names }, opened)))
    }
}

fn locate(error: Error, manifest: &Manifest, parent: usize, name: &OsStr) -> Error {
    error.with_context("entry", shown(&manifest.path(parent).join(name)))
}

fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn up(dir: &Dir, expected: (u64, u64)) -> Result<Dir> {
    let fail = |errno: Errno| Error::io(OPERATION, "cannot go back up", errno);
    let above = openat(dir, "..", DIRECTORY, Mode::empty()).map_err(fail)?;
    if identity(&fstat(&above).map_err(fail)?) != expected {
        return Err(fail(Errno::ESTALE));
    }
    Dir::from_fd(above).map_err(fail)
}

/// The names in a directory, sorted so that the first is popped first.
fn names(dir: &mut Dir) -> nix::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
    Ok(names)
}

fn facts(stat: &FileStat, kind: Kind, options: &ManifestOptions) -> Facts {
    let ignored = kind == Kind::Directory && options.directory_times == DirectoryTimes::Ignored;
    Facts {
        // What a symbolic link shows as its mode differs between file systems and means nothing.
        mode: if matches!(kind, Kind::Symlink(_)) { 0 } else { stat.st_mode & 0o7777 },
        owner: (options.owners == Owners::Kept).then_some((stat.st_uid, stat.st_gid)),
        mtime: (!ignored).then_some((stat.st_mtime, stat.st_mtime_nsec as u32)),
        xattrs: Vec::new(),
        linked_to: None,
        kind,
    }
}

fn xattrs(target: Target<'_>, options: &ManifestOptions) -> std::io::Result<Vec<(std::ffi::CString, Vec<u8>)>> {
    let mut attributes = Vec::new();
    for name in xattr::list(target)? {
        // Where XFS shows root the ACLs a second time, in its own format.
        if [c"trusted.SGI_ACL_FILE", c"trusted.SGI_ACL_DEFAULT"].contains(&name.as_c_str()) {
            continue;
        }
        if options.ignored_xattrs.iter().any(|prefix| name.to_bytes().starts_with(prefix.as_bytes())) {
            continue;
        }
        if let Some(value) = xattr::get(target, &name)? {
            attributes.push((name, value));
        }
    }
    Ok(attributes)
}

/// The size and digest of a regular file. Opened only after it was seen to be one, and then compared: opening a device can do things.
fn content(dir: &Dir, name: &OsStr, seen: &FileStat, buffer: &mut [u8]) -> std::io::Result<(u64, crate::digest::Sha256)> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::empty())?);
    if identity(&fstat(&file)?) != identity(seen) {
        return Err(Errno::ESTALE.into());
    }
    let (mut size, mut hasher) = (0, Hasher::new());
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((size, hasher.finish())),
            Ok(length) => {
                size += length as u64;
                hasher.update(&buffer[..length]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
