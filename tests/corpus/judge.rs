//! What an archive is to unpack to: what GNU tar makes of it, but for what is written down here.

use reroot::ErrorKind;

use crate::makers::{Maker, TREES};

/// What is to become of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What GNU tar makes of it.
    Tar,
    /// The same, and it is the tree that it was made of.
    TarAndSource,
    /// What GNU tar makes of it that is not told to heed ACLs.
    TarWithoutAcls,
    /// The same, but for the times of directories of which it says nothing.
    TarButDirectoryTimes,
    /// The tree that it was made of.
    Source,
    /// An error of this kind.
    Error(ErrorKind),
}

/// The verdict on the archive that `maker` makes of `tree`, which is one of [`TREES`].
pub(crate) fn of_tree(maker: &Maker, tree: &str) -> Verdict {
    debug_assert!(TREES.contains(&tree));
    match (maker.name, tree) {
        // It leaves out the first name of what its format does not have, and not the others. GNU tar fails too.
        ("bsdtar-v7" | "pax-tar", "links") | ("pax-tar", "nodes") => Verdict::Error(ErrorKind::InvalidImage),
        // A prefix of 155 bytes runs into the checksum of the next header. GNU tar fails too.
        ("perl", "names") => Verdict::Error(ErrorKind::InvalidImage),
        // A time a nanosecond before 1970 is `-1e-09` there. GNU tar takes it for a second before.
        ("python-pax" | "python-pax-global", "fractions") => Verdict::Error(ErrorKind::InvalidImage),
        // ACLs as attributes and not in records of their own: told to heed ACLs, GNU tar removes them after it has set them.
        ("tar-posix-xattrs" | "umoci", "acls") => Verdict::TarWithoutAcls,
        // It writes those with odd characters in records of its own alone, which GNU tar does not know.
        ("bsdtar-paxr" | "bsdtar-pax" | "bsdtar-pax-sparse", "attribute_names") => Verdict::Source,
        // The exceptions hold several names of what is no file, which it does not link.
        ("tar-posix-all", tree) if !matches!(tree, "links" | "nodes") => Verdict::TarAndSource,
        _ => Verdict::Tar,
    }
}
