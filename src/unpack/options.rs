//! What an unpacking may do, and how much.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::str::FromStr;

use super::entry::EntryPath;
use super::shift::IdShift;
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::text::Escaped;
use crate::volume::RootMetadata;

/// What an unpacking may do, and how much. The default keeps everything and takes everything within the default [`Limits`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// What stops a bomb.
    pub limits: Limits,
    /// What becomes of device nodes.
    pub devices: DevicePolicy,
    /// What happens when something cannot be kept.
    pub losses: LossPolicy,
    /// The folder of the archive that becomes the root; `None`: its top.
    pub strip: Option<StripPrefix>,
    /// Whether the archive's entry for the root itself sets the metadata of the root directory.
    pub root: RootMetadata,
    /// Which threads do the work.
    pub threads: Threads,
    /// When what is written goes to the disk.
    pub writeback: Writeback,
    /// How owners are shifted into the range of ids that a container has on the host; `None`: they are taken as they are.
    pub shift: Option<IdShift>,
    /// Whether the archive is an LXD image, whose root is its folder `rootfs`. Without meaning where a folder is named.
    pub(crate) unified: Unified,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        UnpackOptions {
            limits: Limits::default(),
            devices: DevicePolicy::default(),
            losses: LossPolicy::default(),
            strip: None,
            root: RootMetadata::FromImage,
            threads: Threads::default(),
            writeback: Writeback::default(),
            shift: None,
            unified: Unified::No,
        }
    }
}

impl UnpackOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`UnpackOptions::limits`].
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets [`UnpackOptions::devices`].
    #[must_use]
    pub fn with_devices(mut self, devices: DevicePolicy) -> Self {
        self.devices = devices;
        self
    }

    /// Sets [`UnpackOptions::losses`].
    #[must_use]
    pub fn with_losses(mut self, losses: LossPolicy) -> Self {
        self.losses = losses;
        self
    }

    /// Sets [`UnpackOptions::strip`].
    #[must_use]
    pub fn with_strip(mut self, strip: StripPrefix) -> Self {
        self.strip = Some(strip);
        self
    }

    /// Sets [`UnpackOptions::root`].
    #[must_use]
    pub fn with_root(mut self, root: RootMetadata) -> Self {
        self.root = root;
        self
    }

    /// Sets [`UnpackOptions::threads`].
    #[must_use]
    pub fn with_threads(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// Sets [`UnpackOptions::writeback`].
    #[must_use]
    pub fn with_writeback(mut self, writeback: Writeback) -> Self {
        self.writeback = writeback;
        self
    }

    /// Sets [`UnpackOptions::shift`].
    #[must_use]
    pub fn with_shift(mut self, shift: IdShift) -> Self {
        self.shift = Some(shift);
        self
    }
}

/// How much an archive may hold. The defaults let every real root filesystem through and stop a bomb before it fills the pool or the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Entries. Default: 4,000,000.
    pub entries: u64,
    /// File data, holes not counted, of all files together. Default: 256 GiB.
    pub bytes: ByteSize,
    /// The size of one file, holes counted. Default: 8 TiB.
    pub file_size: ByteSize,
    /// The length of a path or of a link's target in bytes. Default: 4,096, the kernel's own limit.
    pub path: usize,
    /// What one entry may have of extension headers: long names, attributes, sparse maps. Default: 1 MiB.
    pub header: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 4_000_000,
            bytes: ByteSize::gib(256),
            file_size: ByteSize::gib(8 << 10),
            path: 4096,
            header: ByteSize::mib(1),
        }
    }
}

impl Limits {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Limits::entries`].
    #[must_use]
    pub fn with_entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// Sets [`Limits::bytes`].
    #[must_use]
    pub fn with_bytes(mut self, bytes: ByteSize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets [`Limits::file_size`].
    #[must_use]
    pub fn with_file_size(mut self, size: ByteSize) -> Self {
        self.file_size = size;
        self
    }

    /// Sets [`Limits::path`].
    #[must_use]
    pub fn with_path(mut self, bytes: usize) -> Self {
        self.path = bytes;
        self
    }

    /// Sets [`Limits::header`].
    #[must_use]
    pub fn with_header(mut self, size: ByteSize) -> Self {
        self.header = size;
        self
    }
}

/// What becomes of the device nodes in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DevicePolicy {
    /// They are made. Where the kernel does not let the caller, that is a loss.
    #[default]
    Create,
    /// They are left out. That is no loss, for it was asked for.
    Skip,
    /// The first one is an error.
    Refuse,
}

/// What happens when something cannot be kept: an owner without being root, an attribute that the file system does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LossPolicy {
    /// It is counted in [`Losses`](super::Losses), and the unpacking goes on.
    #[default]
    Report,
    /// The first one is an error of the kind [`ErrorKind::Lossy`].
    Refuse,
}

/// When what is written goes to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Writeback {
    /// When the kernel sees fit.
    #[default]
    Later,
    /// As soon as a file of some size is complete, so that the disk is at work meanwhile: for a caller who syncs at the end.
    Early,
}

/// Which threads unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Threads {
    /// Three of its own, joined before the call returns: one decodes ahead, one reads the archive and writes, one helps it write. The
    /// reader of the stream and the hooks are called on these.
    #[default]
    Own,
    /// The caller's alone. Slower, and for those who may not have more.
    Caller,
}

/// Whether an archive is an LXD image in one piece: `metadata.yaml`, perhaps `templates/`, and the root in `rootfs/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unified {
    /// Its top is the root.
    No,
    /// Its top is the root, and it is an error if it is one: its metadata lies elsewhere.
    Refuse,
    /// Its first entries tell.
    Detect,
    /// It is one.
    Yes,
}

/// A folder of an archive that becomes the root. What lies outside it is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StripPrefix(EntryPath);

impl StripPrefix {
    /// The folder, as a path below the top of the archive.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.0.as_bytes()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The folder of an LXD image that is its root.
    pub(super) fn rootfs() -> Self {
        StripPrefix(EntryPath::new_unchecked(b"rootfs".to_vec()))
    }
}

impl TryFrom<&Path> for StripPrefix {
    type Error = Error;

    /// # Errors
    /// [`ErrorKind::InvalidInput`] if `path` is absolute, empty, or holds `..`.
    fn try_from(path: &Path) -> Result<Self> {
        let mut joined = Vec::new();
        let mut valid = !path.as_os_str().as_bytes().contains(&0);
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    if !joined.is_empty() {
                        joined.push(b'/');
                    }
                    joined.extend_from_slice(name.as_bytes());
                }
                Component::CurDir => {}
                _ => valid = false,
            }
        }
        if !valid || joined.is_empty() {
            let message = format!("\"{}\" is not a path below the top of the image", Escaped::from(path));
            return Err(Error::new(ErrorKind::InvalidInput, "read a folder of the image", message)
                .with_remedy("write it like rootfs or var/lib/root"));
        }
        Ok(StripPrefix(EntryPath::new_unchecked(joined)))
    }
}

impl FromStr for StripPrefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        StripPrefix::try_from(Path::new(OsStr::new(text)))
    }
}

impl fmt::Display for StripPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lies_below_the_top() {
        assert_eq!("./a//b/.".parse::<StripPrefix>().unwrap().as_bytes(), b"a/b");
        for bad in ["", ".", "/", "/a", "..", "a/../b", "a\0b"] {
            assert!(bad.parse::<StripPrefix>().is_err(), "{bad:?}");
        }
    }
}
