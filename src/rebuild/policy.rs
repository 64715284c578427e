//! What a rebuild may and may not do.

/// What becomes of the snapshots of the old root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SnapshotPolicy {
    /// If there are any, the rebuild is refused, naming them.
    #[default]
    Refuse,
    /// They are destroyed once the new root is live: exactly those that the plan names. Refused if something depends on one. After a kill in between, those that
    /// do not go with the old root are still there, for the next rebuild to decide on.
    Purge,
    /// They stay. Refused where the backend cannot keep them. Where they are bound to a root that can be rebuilt where it stands
    /// ([`SnapshotSupport::Within`](crate::volume::SnapshotSupport::Within)), that is done, whether there are any or not.
    Keep,
}

/// In which order the old root goes and the new one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Strategy {
    /// The new root is made beside the old one, and they are switched when it is complete. A failure leaves the old root.
    #[default]
    Swap,
    /// The old root is removed first, so that the pool never holds both. The image is read and checked to its end before; what fails
    /// after that leaves the volume without a root, and says so. An image that cannot be read twice is refused.
    ///
    /// The check covers the image's form, its checksums and digest, each path by itself, the limits and the policy on devices. It cannot cover what depends on
    /// the tree that the entries make together, such as a hard link to something that is absent or a path through a file, nor what depends on the
    /// disk: room, losses, names and attributes that the file system does not take. An image that fails for one of these costs the old root.
    InPlace,
}

/// Whether an image is read once more before anything is made of it, to know what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Survey {
    /// What it says of itself has to do. Where that is nothing, what it needs shows while the root is filled.
    #[default]
    Skip,
    /// It is read to its end, checked and counted first, as an in-place rebuild does anyway: an unusable image costs nothing then, and a volume of a
    /// size of its own is known to hold it, or made large enough at once. An image that cannot be read twice is refused.
    Count,
}

/// Who removes the old root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Dispose {
    /// The rebuild, before it returns.
    #[default]
    Wait,
    /// The next [`recover`](crate::recover) or rebuild of the volume, on a thread or at a time of the caller's choice.
    Detach,
}
