//! What pools of block devices have in common, on which volumes have filesystems of their own.

use reroot::ByteSize;
use reroot::filesystem::FilesystemKind;
use reroot::volume::Slot;

/// What the sitter is told about devices. It mounts where nobody else sees it.
pub(super) const SITTING: &str = "\
    sit) IFS= read -r device; IFS= read -r at; mount \"$device\" \"$at\" && cd \"$at\" ;; \
    rise) at=$PWD; cd / && umount \"$at\" ;;";

/// Of a new volume: little more than its file system takes.
pub(super) fn size(kind: FilesystemKind) -> ByteSize {
    match kind {
        FilesystemKind::Xfs => ByteSize::mib(300),
        FilesystemKind::Btrfs => ByteSize::mib(128),
        _ => ByteSize::mib(64),
    }
}

/// What an empty file system takes of its pool; that of XFS fills its log with zeros.
pub(super) fn taken(kind: FilesystemKind) -> ByteSize {
    match kind {
        FilesystemKind::Xfs => ByteSize::mib(66),
        FilesystemKind::Btrfs => ByteSize::mib(12),
        _ => ByteSize::mib(6),
    }
}

/// What a root is called that lies beside the others of its volume.
pub(super) fn slot_name(volume: &str, slot: Slot) -> String {
    let suffix = match slot {
        Slot::Live => "",
        Slot::Staged => ".reroot-staged",
        Slot::Retired => ".reroot-retired",
    };
    format!("{volume}{suffix}")
}
