//! How a filesystem is made.

use std::ffi::OsString;

use super::{FilesystemKind, btrfs, ext4, xfs};
use crate::size::ByteSize;

/// Inodes that an image's entries leave to the filesystem itself.
const SPARE_INODES: u64 = 64;

/// How a filesystem is made: its kind, a label, the form of another one, and options of the user's own.
///
/// ```
/// use reroot::filesystem::{FilesystemKind, Recipe};
///
/// let recipe = Recipe::new(FilesystemKind::Ext4).with_label("root").with_options(["-m", "0"]);
/// assert_eq!(recipe.kind(), FilesystemKind::Ext4);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub(super) kind: FilesystemKind,
    pub(super) label: Option<OsString>,
    pub(super) form: Option<Form>,
    /// How many inodes there are to be, or more.
    pub(super) inodes: u64,
    pub(super) options: Vec<OsString>,
}

/// The form of a filesystem that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Ext4(ext4::Form),
    Xfs(xfs::Form),
    Btrfs(btrfs::Form),
}

impl Recipe {
    /// A filesystem as its tool makes one when it is told nothing.
    pub fn new(kind: FilesystemKind) -> Self {
        Recipe { kind, label: None, form: None, inodes: 0, options: Vec::new() }
    }

    /// One of the same form as another.
    pub(super) fn like(form: Form) -> Self {
        let kind = match form {
            Form::Ext4(_) => FilesystemKind::Ext4,
            Form::Xfs(_) => FilesystemKind::Xfs,
            Form::Btrfs(_) => FilesystemKind::Btrfs,
        };
        Recipe { form: Some(form), ..Recipe::new(kind) }
    }

    /// The kind.
    pub fn kind(&self) -> FilesystemKind {
        self.kind
    }

    /// Adds options for `mke2fs`, `mkfs.xfs` or `mkfs.btrfs`, each word for itself: `["-O", "^has_journal"]`. They go before all others. A word
    /// that is neither an option nor the value of one is refused when the filesystem is made.
    #[must_use]
    pub fn with_options(mut self, options: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Sets the label: at most 16 bytes for ext4, 12 for XFS, 255 for btrfs. A longer one is refused when the filesystem is made.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<OsString>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Demands so many inodes in all, those that a filesystem keeps for itself among them. btrfs has no limit.
    #[must_use]
    pub(crate) fn with_inodes(mut self, at_least: u64) -> Self {
        self.inodes = self.inodes.max(at_least);
        self
    }

    /// The same, with as many inodes as an image of so many entries needs on a device of this size.
    #[must_use]
    pub(crate) fn with_room_for(self, entries: Option<u64>, size: ByteSize) -> Self {
        let needed = entries.map(|entries| entries.saturating_add(SPARE_INODES));
        match (needed, self.inodes(size)) {
            (Some(needed), Some(planned)) if needed > planned => self.with_inodes(needed),
            _ => self,
        }
    }

    /// How many inodes a filesystem on a device of this size gets, or a little less; `None` where there is no limit.
    pub(crate) fn inodes(&self, size: ByteSize) -> Option<u64> {
        let natural = match self.kind {
            FilesystemKind::Ext4 => ext4::inodes(self, size),
            FilesystemKind::Xfs => xfs::inodes(self, size),
            FilesystemKind::Btrfs => return None,
        };
        Some(natural.max(self.inodes))
    }
}
