//! One entry of an archive, as its reader hands it to the writer: checked, bounded, and free of the archive format's ways.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use crate::text::Escaped;

/// A path below the root: components joined by single slashes, none of them empty, `.`, `..` or longer than 255 bytes, without NUL. The empty path
/// is the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Trusts that `path` is as the type says; [`super::path`] makes it so.
    pub(super) fn new_unchecked(path: Vec<u8>) -> Self {
        EntryPath(path)
    }

    /// Whether it is the root itself.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Its bytes, whole.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Its bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its components.
    pub(super) fn components(&self) -> impl Iterator<Item = &OsStr> {
        self.0.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).map(OsStr::from_bytes)
    }

    /// The path of its directory and its name; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[u8], &OsStr)> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.0[..slash], OsStr::from_bytes(&self.0[slash + 1..])),
            None => (&[], OsStr::from_bytes(&self.0)),
        })
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { Escaped(&self.0).fmt(f) }
    }
}

/// An entry and its metadata. The content of a file is read from the archive's reader, before the next entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: EntryPath,
    pub(super) kind: Kind,
    /// The permission bits with setuid, setgid and sticky: `& 0o7777`.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    /// Extended attributes in the order they are to be set; ACLs are among them, in the kernel's binary form.
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    /// ACLs that cannot be kept.
    pub(super) lost_acls: Vec<LostAcl>,
    /// Where its header begins in the tar stream, in bytes; for messages.
    pub(super) offset: u64,
}

/// An ACL that cannot be kept, because the archive names whom it means but does not number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostAcl {
    /// That of the entry itself, which grants its group these permissions.
    Access { group: u32 },
    /// That which a directory's new entries inherit.
    Default,
}

impl LostAcl {
    /// The attribute that would hold it.
    pub(super) fn attribute(&self) -> &'static std::ffi::CStr {
        match self {
            LostAcl::Access { .. } => c"system.posix_acl_access",
            LostAcl::Default => c"system.posix_acl_default",
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File(Content),
    Directory,
    /// With its target, not empty, as it is to be stored.
    Symlink(CString),
    /// To an earlier entry.
    Hardlink(EntryPath),
    Fifo,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// The size the file is to have, in bytes.
    pub(super) size: u64,
    /// Where data lies, in order, without overlaps, none empty, all within `size`; their lengths sum up to what the archive stores.
    /// `None`: one piece from 0 to `size`.
    pub(super) data: Option<Vec<Segment>>,
}

/// A piece of data between holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A time, `nanoseconds` below a thousand million after `seconds`, which may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Timestamp {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}
