//! Subvolumes in a root, and the removal of a root with all of them.
//!
//! They are found by the file system's own references, whatever their names hold, and destroyed from within outwards.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::btrfs::lookup::{self, Child};
use crate::sys::btrfs::subvolume::{self, Access, Info};
use crate::sys::btrfs::tree;
use crate::sys::call::retry;
use crate::sys::{attr, remove};
use crate::text::Escaped;

pub(super) const OPERATION: &str = "remove a root";

/// A subvolume in a root.
#[derive(Debug)]
pub(super) struct Nested {
    /// Where, from the top of the root.
    pub(super) path: PathBuf,
    pub(super) info: Info,
}

/// All subvolumes in the root whose top directory is open, each after the one it lies in.
pub(super) fn list(root: BorrowedFd<'_>, operation: &'static str) -> Result<Vec<Nested>> {
    let mut found: Vec<Nested> = Vec::new();
    let mut next = 0;
    let mut outer = PathBuf::new();
    loop {
        let at = |error: Error| error.with_context("subvolume", Escaped::from(outer.as_path()));
        let opened = if next == 0 { None } else { Some(open(root, &outer, operation)?) };
        let top = opened.as_ref().map_or(root, AsFd::as_fd);
        let children = lookup::children(top)
            .map_err(|refused| at(refused.explain(operation, "cannot find out which subvolumes lie in the root")))?;
        for Child { folder, name, .. } in children {
            let path = outer.join(folder).join(name);
            let child = open(root, &path, operation)?;
            let info = subvolume::info(child.as_fd())
                .map_err(|refused| at(refused.explain(operation, "cannot look at a subvolume in the root")))?;
            found.push(Nested { path, info });
        }
        match found.get(next) {
            Some(nested) => outer.clone_from(&nested.path),
            None => return Ok(found),
        }
        next += 1;
    }
}

/// Opens a directory of the root, across subvolumes, but not through a link nor into a mount.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, operation: &'static str) -> Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    retry(|| openat2(root, path, how)).map_err(|error| match error {
        Errno::EXDEV => Error::new(ErrorKind::Busy, operation, "something is mounted in it")
            .with_remedy("unmount it and run recover")
            .with_context("subvolume", Escaped::from(path)),
        Errno::ENAMETOOLONG => Error::io(operation, "the path of a subvolume in the root is too long to be opened", error)
            .with_remedy("destroy it by hand (btrfs subvolume delete), then run recover")
            .with_context("subvolume", Escaped::from(path)),
        error => Error::io(operation, "cannot open a subvolume in the root", error).with_context("subvolume", Escaped::from(path)),
    })
}

/// Removes the root `name` of `parent` with all subvolumes in it. What does not exist is no error, and what is a plain directory goes too.
///
/// Not in one step if there are subvolumes in it. The caller has seen to it that nothing is mounted there.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let context = |error: Error| error.with_context("root", Escaped::from(name));
    let root = match open(parent, Path::new(name), OPERATION) {
        Ok(root) => root,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(context(error)),
    };
    let top = root.as_fd();
    let failed = |error: Errno| context(Error::io(OPERATION, "cannot look at it", error));
    if !subvolume::is_subvolume(top).map_err(failed)? {
        return remove::remove_tree(parent, name).map(drop);
    }
    let nested = list(top, OPERATION).map_err(context)?;
    let mut by_hand = false;
    for inner in nested.iter().rev() {
        match destroy_in(top, &nested, inner) {
            Ok(()) => {}
            Err(error) if is_denied(&error) && !is_privileged(parent) => {
                by_hand = true;
                break;
            }
            Err(error) => return Err(context(error)),
        }
    }
    if !by_hand {
        match destroy(parent, name, top) {
            Ok(()) => return Ok(()),
            Err(error) if is_denied(&error) && !is_privileged(parent) => {}
            Err(error) => return Err(context(error)),
        }
    }
    // Whoever may not destroy subvolumes may still remove what is theirs file by file, and an empty subvolume like a directory.
    for inner in &nested {
        if let Ok(inner) = open(top, &inner.path, OPERATION) {
            let _ = subvolume::set_access(inner.as_fd(), Access::ReadWrite);
        }
    }
    let _ = subvolume::set_access(top, Access::ReadWrite);
    remove::remove_tree(parent, name).map(drop)
}

/// Destroys one subvolume, in one step. It has no other in it.
pub(super) fn destroy(parent: BorrowedFd<'_>, name: &OsStr, top: BorrowedFd<'_>) -> Result<()> {
    let Err(refused) = subvolume::destroy(parent, name) else { return Ok(()) };
    if refused.errno == Errno::ENOENT {
        return Ok(());
    }
    // A read-only one does not go for everyone, and a protected one for no one.
    let changed = subvolume::set_access(top, Access::ReadWrite).is_ok() && matches!(refused.errno, Errno::EROFS | Errno::EACCES);
    let cleared = matches!(attr::unprotect(top), Ok(Some(_)));
    let refused = if changed || cleared {
        match subvolume::destroy(parent, name) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        }
    } else {
        refused
    };
    let error = refused.explain(OPERATION, "the kernel does not let the subvolume go");
    Err(match refused.errno {
        Errno::EPERM => error.with_remedy(
            "as root: see that it is not the default subvolume (btrfs subvolume get-default), holds no active swap file and is not being \
             sent; else: mount the file system with user_subvol_rm_allowed",
        ),
        Errno::ENOTEMPTY => error.with_remedy("a subvolume was made in it meanwhile: run recover"),
        _ => error,
    })
}

fn destroy_in(root: BorrowedFd<'_>, all: &[Nested], inner: &Nested) -> Result<()> {
    let context = |error: Error| error.with_context("subvolume", Escaped::from(inner.path.as_path()));
    let name = inner.path.file_name().unwrap_or_default();
    let folder = open(root, inner.path.parent().unwrap_or(Path::new("")), OPERATION)?;
    let top = match open(folder.as_fd(), Path::new(name), OPERATION) {
        Ok(top) => top,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(context(error)),
    };
    match destroy(folder.as_fd(), name, top.as_fd()) {
        // What it lies in is read-only.
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
            let outer = all.iter().filter(|outer| inner.path != outer.path && inner.path.starts_with(&outer.path));
            let outer = outer.max_by_key(|outer| outer.path.as_os_str().as_bytes().len());
            let opened = outer.map(|outer| open(root, &outer.path, OPERATION)).transpose()?;
            let outer = opened.as_ref().map_or(root, AsFd::as_fd);
            subvolume::set_access(outer, Access::ReadWrite)
                .map_err(|refused| context(refused.explain(OPERATION, "it lies in a read-only subvolume")))?;
            destroy(folder.as_fd(), name, top.as_fd()).map_err(context)
        }
        result => result.map_err(context),
    }
}

fn is_denied(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// Whether the caller may do everything, so that a refusal has a reason other than who asks.
pub(super) fn is_privileged(fd: BorrowedFd<'_>) -> bool {
    tree::default_subvolume(fd).is_ok()
}
