//! Filesystems on block devices: how one is made, checked, given an identity of its own, mounted and grown.
//!
//! Backends whose volumes are block devices put a root into one. [`Recipe`] says how that is made. Everything else is done by the tools that every
//! distribution has, `e2fsprogs`, `xfsprogs`, `btrfs-progs` and `util-linux`; a backend needs those of the kind in use.

mod btrfs;
mod ext4;
mod mke2fs_conf;
mod options;
mod recipe;
mod staged;
mod tool;
mod xfs;

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use nix::errno::Errno;

pub use self::recipe::Recipe;
#[cfg(feature = "ceph")]
pub(crate) use self::staged::{Abandon, record_without_log};
pub(crate) use self::staged::{CloneSize, Staged, Start, capture, open, record};

use self::tool::Needs;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::size::ByteSize;
use crate::sys::detached::{self, Access, Setting};
use crate::sys::{grow, identity};
use crate::text::Escaped;

/// A kind of filesystem that a root can live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum FilesystemKind {
    /// ext4; no root is smaller than 8 MiB.
    Ext4,
    /// XFS; no root is smaller than 300 MiB.
    Xfs,
    /// btrfs on one device; no root is smaller than 128 MiB.
    Btrfs,
}

impl FilesystemKind {
    const ALL: [FilesystemKind; 3] = [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs];

    fn name(self) -> &'static str {
        match self {
            FilesystemKind::Ext4 => "ext4",
            FilesystemKind::Xfs => "xfs",
            FilesystemKind::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for FilesystemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FilesystemKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        FilesystemKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let message = format!("{:?} is not a filesystem that a root can live in", Escaped(text.as_bytes()).to_string());
            Error::new(ErrorKind::InvalidInput, "read a kind of filesystem", message).with_remedy("use ext4, xfs or btrfs")
        })
    }
}

/// What becomes of a live root whose filesystem cannot be read: it is damaged, there is none, or it is of a kind that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum UnreadablePolicy {
    /// The rebuild is refused: what its root directory had could not be kept.
    #[default]
    Refuse,
    /// It is replaced as any other, by a filesystem that is made as the recipe says that the volume was given, or ext4. What could not be kept is warned of.
    Replace,
}

/// Whether an error may be what a damaged filesystem, or none at all, leads to.
pub(crate) fn is_damage(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Io | ErrorKind::Unsupported | ErrorKind::InvalidInput | ErrorKind::PermissionDenied)
}

/// The kind of a base that is cloned, which has to be the volume's own, if that has one.
pub(crate) fn kind_of_clone(
    base: Option<FilesystemKind>,
    own: Option<FilesystemKind>,
    operation: &'static str,
) -> Result<FilesystemKind> {
    match (base, own) {
        (Some(base), None) => Ok(base),
        (Some(base), Some(own)) if base == own => Ok(base),
        (base, own) => {
            let name = |kind: Option<FilesystemKind>| kind.map_or_else(|| "no filesystem".to_owned(), |kind| kind.to_string());
            let why = format!("the base holds {}, and the volume {}", name(base), name(own));
            let error = Error::new(ErrorKind::Unsupported, operation, why);
            Err(error.with_remedy("make a base with the volume's filesystem, or rebuild from the image"))
        }
    }
}

/// The least size of a filesystem that is of use, known before anything is touched.
pub(crate) fn smallest(kind: FilesystemKind) -> ByteSize {
    match kind {
        // With less, half of it is journal, or there is none.
        FilesystemKind::Ext4 => ByteSize::mib(8),
        FilesystemKind::Xfs => ByteSize::mib(300),
        // 109 MiB for some of its tools, and an upper bound for all.
        FilesystemKind::Btrfs => ByteSize::mib(128),
    }
}

/// Whether an option is not the filesystem's: it is about how it is seen at a place, or for mount(8) alone. Where no path leads none of that matters.
fn is_of_mount(option: &str) -> bool {
    const NAMES: [&str; 30] = [
        "async",
        "atime",
        "auto",
        "defaults",
        "dev",
        "diratime",
        "exec",
        "group",
        "iversion",
        "mand",
        "noatime",
        "noauto",
        "nodev",
        "nodiratime",
        "noexec",
        "nofail",
        "noiversion",
        "nomand",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "nouser",
        "owner",
        "relatime",
        "ro",
        "rw",
        "strictatime",
        "suid",
        "user",
        "users",
    ];
    NAMES.contains(&option)
        || option.starts_with("x-")
        || option.starts_with("X-")
        || option.starts_with("comment=")
        || option == "_netdev"
}

/// What begins so, if that is a filesystem of ours and nothing else.
fn kind_of_start(start: &[u8]) -> Option<FilesystemKind> {
    /// Of ext4, among the features that a kernel has to know; ext2 and ext3 have no extents.
    const EXTENTS: u8 = 0x40;
    let at = |place: usize, magic: &[u8]| start.get(place..).is_some_and(|rest| rest.starts_with(magic));
    let ext4 = at(0x438, &[0x53, 0xef]) && start.get(0x460).is_some_and(|features| features & EXTENTS != 0);
    match (ext4, at(0, b"XFSB"), at(0x10040, b"_BHRfS_M")) {
        (true, false, false) => Some(FilesystemKind::Ext4),
        (false, true, false) => Some(FilesystemKind::Xfs),
        (false, false, true) => Some(FilesystemKind::Btrfs),
        _ => None,
    }
}

/// Gives a clone that is mounted a UUID of its own, if that is a matter of moments: an ext4, from Linux 6.0 on, whose checksums do not depend on it.
pub(crate) fn renew_mounted(root: BorrowedFd<'_>, kind: FilesystemKind) {
    if kind == FilesystemKind::Ext4
        && let Err(_errno) = identity::renew_ext4(root)
    {
        crate::trace::debug!(error = %_errno, "a clone keeps the UUID of its base");
    }
}

/// Grows a mounted filesystem to the size of its device. One that is as large already stays as it is.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it cannot be grown while it is mounted: [`Device::grow_offline`] may still do it. The filesystem is whole, and as
/// large as it was.
pub(crate) fn grow_online(
    root: BorrowedFd<'_>,
    kind: FilesystemKind,
    device_size: ByteSize,
    operation: &'static str,
) -> Result<()> {
    let grown = match kind {
        FilesystemKind::Ext4 => grow::ext4(root, device_size),
        FilesystemKind::Xfs => grow::xfs(root, device_size),
        FilesystemKind::Btrfs => grow::btrfs(root, device_size),
    };
    grown.map_err(|errno| {
        let message = format!("cannot grow the mounted {kind} to {device_size}");
        let error = Error::io(operation, message, errno);
        match errno {
            Errno::EEXIST if kind == FilesystemKind::Btrfs => {
                error.with_remedy("unmount the btrfs that it is a clone of, or use Linux 6.7 or later")
            }
            Errno::EBUSY => error.with_remedy("it is being resized already: try again later"),
            Errno::ENOTTY | Errno::EOPNOTSUPP => error.with_kind(ErrorKind::Unsupported).with_remedy("unmount it, and try again"),
            Errno::EINVAL if kind == FilesystemKind::Btrfs && device_size < ByteSize::mib(256) => {
                error.with_kind(ErrorKind::TooSmall).with_remedy("grow it to 256 MiB or more: btrfs takes no less")
            }
            // It says the same of one that it found errors in, or that has no room for the descriptors of more groups.
            Errno::EPERM if kind == FilesystemKind::Ext4 => {
                error.with_remedy("CAP_SYS_RESOURCE is needed; if it is there, look into the kernel's log, and grow it unmounted")
            }
            _ => error,
        }
    })
}

/// A block device, or an image of one, with a filesystem on it or soon to be.
///
/// All that is done here ends at the deadline of `wait`, but for what the kernel itself does: a mount, and growing while mounted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device<'a> {
    pub(crate) path: &'a Path,
    /// The verb phrase of the errors.
    pub(crate) operation: &'static str,
    pub(crate) wait: &'a Wait,
}

/// What is on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: FilesystemKind,
    /// As people write it, in lower case.
    pub(crate) uuid: String,
    pub(crate) label: Option<OsString>,
}

/// What a device's blocks read as before they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// As zeros: a new RBD image, a new thin volume of a pool that zeroes its chunks.
    Zeroed,
    #[cfg_attr(not(any(test, feature = "lvm")), allow(dead_code, reason = "what Ceph hands out is zeroed"))]
    /// As what was there before: also around what was written, in a pool that does not zero.
    Used,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Nothing was wrong; the journal may have been replayed, as a mount does it.
    Clean,
    /// There was damage of the kind that is mended without a question.
    Mended,
}

impl Device<'_> {
    /// What is on it; `None` if nothing that anyone would know.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] names content that is not a filesystem of ours. Nothing is changed.
    pub(crate) fn probe(&self) -> Result<Option<Found>> {
        // The program says no more of a device that it cannot open than of an empty one.
        File::open(self.path).map_err(|error| self.io("cannot open it", error))?;
        let done = self.run("blkid", Needs::UtilLinux, |blkid| blkid.args(["-p", "-o", "udev"]).arg(self.path))?;
        match done.code() {
            Some(0) => self.found(&tool::text(&done.stdout)),
            Some(2) => Ok(None),
            // Signatures of several: it names none of them then.
            Some(8) => {
                let error = self.error(ErrorKind::Unsupported, "it has the signatures of more than one filesystem");
                Err(error.with_remedy(format!("see what it is: wipefs {}", self.shown())))
            }
            _ => Err(self.failed(&done)),
        }
    }

    fn found(&self, text: &str) -> Result<Option<Found>> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let Some(name) = value("ID_FS_TYPE") else {
            return match value("ID_PART_TABLE_TYPE") {
                Some(table) => Err(self.stranger(&format!("a partition table ({})", Escaped(table.as_bytes())))),
                None => Ok(None),
            };
        };
        let Some(kind) = FilesystemKind::ALL.into_iter().find(|kind| kind.name() == name) else {
            return Err(self.stranger(&Escaped(name.as_bytes()).to_string()));
        };
        let uuid = value("ID_FS_UUID_ENC").unwrap_or_default().to_ascii_lowercase();
        let label = value("ID_FS_LABEL_ENC").filter(|label| !label.is_empty()).map(tool::unescape);
        Ok(Some(Found { kind, uuid, label }))
    }

    fn stranger(&self, what: &str) -> Error {
        self.error(ErrorKind::Unsupported, format!("it holds {what}, which is no root's"))
            .with_remedy("name a volume with ext4, xfs or btrfs on it, or with nothing")
    }

    /// How the filesystem on it was made, mounted or not: a recipe for another one of the same form.
    ///
    /// What tells its state, its age or its size is left out, and so are a journal on another device and features that the tools do not offer.
    pub(crate) fn recipe(&self, kind: FilesystemKind) -> Result<Recipe> {
        let label = match self.probe()? {
            Some(found) if found.kind == kind => found.label,
            found => return Err(self.other_kind(kind, found.map(|found| found.kind))),
        };
        let recipe = match kind {
            FilesystemKind::Ext4 => Recipe::like(recipe::Form::Ext4(ext4::form(self)?)),
            FilesystemKind::Xfs => Recipe::like(recipe::Form::Xfs(xfs::form(self)?)),
            FilesystemKind::Btrfs => Recipe::like(recipe::Form::Btrfs(btrfs::form(self)?)),
        };
        Ok(match label {
            Some(label) => recipe.with_label(label),
            None => recipe,
        })
    }

    fn other_kind(&self, kind: FilesystemKind, found: Option<FilesystemKind>) -> Error {
        let found = found.map_or("nothing".to_owned(), |kind| kind.to_string());
        self.error(ErrorKind::Unsupported, format!("it holds {found} where {kind} was expected"))
    }

    /// Makes a filesystem with a UUID of its own, over whatever is there.
    ///
    /// # Errors
    /// [`ErrorKind::TooSmall`] if the device has no room for it, and [`ErrorKind::InvalidInput`] if the user's options are malformed: mostly before
    /// anything is written. After any other error nothing that was there is to be trusted. A thin pool that is full shows as [`ErrorKind::Io`] with
    /// most tools: they do not tell.
    pub(crate) fn make(&self, recipe: &Recipe, storage: Storage) -> Result<()> {
        let (kind, size) = (recipe.kind(), self.size()?);
        if size < smallest(kind) {
            let message = format!("{kind} needs {} or more, and it has {size}", smallest(kind));
            return Err(self.error(ErrorKind::TooSmall, message).with_remedy("give the volume a larger size"));
        }
        self.unused()?;
        match kind {
            FilesystemKind::Ext4 => ext4::make(self, recipe, size, storage)?,
            FilesystemKind::Xfs => xfs::make(self, recipe, size)?,
            FilesystemKind::Btrfs => btrfs::make(self, recipe)?,
        }
        // A user's options can make something else of it, or nothing.
        match self.probe()? {
            Some(found) if found.kind == kind => Ok(()),
            found => Err(self
                .other_kind(kind, found.map(|found| found.kind))
                .with_kind(ErrorKind::InvalidInput)
                .with_remedy("look at the options that the filesystem is made with")),
        }
    }

    /// Checks a filesystem that is not mounted, and mends what needs no decision.
    ///
    /// - ext4: as at boot (`e2fsck -p`), in full only if it is marked as damaged.
    /// - XFS, btrfs: in full, but nothing is mended beyond the replay of their logs.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] tells of damage that someone has to look at, [`ErrorKind::Busy`] that it is mounted.
    pub(crate) fn check(&self, kind: FilesystemKind) -> Result<Checked> {
        self.unused()?;
        match kind {
            FilesystemKind::Ext4 => ext4::check(self, ext4::Extent::IfMarked),
            FilesystemKind::Xfs => xfs::check(self).map(|()| Checked::Clean),
            FilesystemKind::Btrfs => btrfs::check(self).map(|()| Checked::Clean),
        }
    }

    /// Gives a clone that is not mounted a UUID of its own, so that it can be mounted beside its source. ext4 needs none for that, and gets one
    /// from [`renew_mounted`].
    ///
    /// # Errors
    /// The clone is to be discarded, unless it is renewed again with success.
    pub(crate) fn renew(&self, kind: FilesystemKind) -> Result<()> {
        match kind {
            FilesystemKind::Ext4 => Ok(()),
            FilesystemKind::Xfs => self.unused().and_then(|()| xfs::renew(self)),
            FilesystemKind::Btrfs => self.unused().and_then(|()| btrfs::renew(self)),
        }
    }

    /// The kind of a filesystem of ours, by its first blocks. `None`: only [`probe`](Self::probe) can tell what that is.
    pub(crate) fn sniff(&self) -> Result<Option<FilesystemKind>> {
        const MOST: u64 = 0x10048;
        let mut start = Vec::new();
        let read = File::open(self.path).and_then(|file| file.take(MOST).read_to_end(&mut start));
        read.map_err(|error| self.io("cannot read its beginning", error))?;
        Ok(kind_of_start(&start))
    }

    /// Mounts it where no path leads, and replays its journal unless the device cannot be written to; returns its top directory, with which the
    /// mount goes. `options` are the filesystem's own, with commas between (`discard,commit=30`). Neither programs nor devices work in it.
    ///
    /// XFS is mounted whatever else is mounted with its UUID.
    ///
    /// # Errors
    /// In the kernel's words where it has any; nothing is mounted then.
    pub(crate) fn mount(&self, kind: FilesystemKind, access: Access, options: &str) -> Result<OwnedFd> {
        let c_text = |text: &[u8]| {
            CString::new(text).map_err(|_| self.error(ErrorKind::InvalidInput, "a path or mount option with a NUL in it"))
        };
        let (fs_type, source) = (c_text(kind.name().as_bytes())?, c_text(self.path.as_os_str().as_bytes())?);
        let always = if kind == FilesystemKind::Xfs { "nouuid" } else { "" };
        let mut pairs = Vec::new();
        for option in [always].into_iter().chain(options.split(',')).filter(|option| !option.is_empty() && !is_of_mount(option)) {
            let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
            pairs.push((c_text(key.as_bytes())?, value.map(|value| c_text(value.as_bytes())).transpose()?));
        }
        let settings = pairs.iter().map(|(key, value)| match value {
            Some(value) => Setting::Text(key, value),
            None => Setting::Flag(key),
        });
        let settings: Vec<_> = settings.collect();
        let begun = Instant::now();
        loop {
            match detached::mount_with(&fs_type, &source, access, &settings) {
                Ok(root) => return Ok(root),
                // The last mount may be on its way out, and be of another access.
                Err(refused) if refused.errno == Errno::EBUSY && self.settles(begun)? => {}
                Err(refused) => return Err(self.not_mounted(kind, refused)),
            }
        }
    }

    fn not_mounted(&self, kind: FilesystemKind, refused: detached::Refused) -> Error {
        let said = if refused.words.is_empty() { String::new() } else { format!(": {}", refused.words) };
        let error = self.io(format!("cannot mount its {kind}{said}"), refused.errno);
        match refused.errno {
            Errno::ENODEV => {
                error.with_kind(ErrorKind::Unsupported).with_remedy(format!("the kernel has no {kind}: modprobe {kind}"))
            }
            Errno::ENOSYS => error.with_remedy("Linux 5.2 or later is needed"),
            Errno::EUCLEAN | Errno::EBADMSG | Errno::EIO => error.with_remedy(self.by_hand(kind)),
            Errno::EINVAL => {
                error.with_kind(ErrorKind::InvalidInput).with_remedy("look at the mount options, and into the kernel's log")
            }
            Errno::EEXIST if kind == FilesystemKind::Btrfs => {
                error.with_remedy("unmount the btrfs that it is a clone of, or use Linux 6.7 or later")
            }
            Errno::EBUSY => error.with_remedy("unmount it, and end whoever else uses it"),
            _ => error,
        }
    }

    /// How a person checks it and mends it.
    fn by_hand(&self, kind: FilesystemKind) -> String {
        let tool = match kind {
            FilesystemKind::Ext4 => "e2fsck -f",
            FilesystemKind::Xfs => "xfs_repair -n",
            FilesystemKind::Btrfs => "btrfs check --readonly",
        };
        format!("look into the kernel's log, and at what this says: {tool} {}", self.shown())
    }

    /// Grows a filesystem that is not mounted to the size of its device, after a check where its tool demands that.
    pub(crate) fn grow_offline(&self, kind: FilesystemKind) -> Result<()> {
        self.unused()?;
        match kind {
            FilesystemKind::Ext4 => ext4::grow(self),
            // They grow no other way.
            FilesystemKind::Xfs | FilesystemKind::Btrfs => {
                let root = self.mount(kind, Access::ReadWrite, "")?;
                grow_online(root.as_fd(), kind, self.size()?, self.operation).map_err(|error| self.named(error))
            }
        }
    }

    /// How large the device is.
    pub(crate) fn size(&self) -> Result<ByteSize> {
        let size = File::open(self.path).and_then(|mut file| file.seek(SeekFrom::End(0)));
        size.map(ByteSize::from_bytes).map_err(|error| self.io("cannot tell its size", error))
    }
}

#[cfg(test)]
mod tests;
