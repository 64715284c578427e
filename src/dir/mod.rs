//! The directory backend: `dir:/srv/pool/containers/c1`.
//!
//! A volume is a directory. Its staged and retired roots and its lock lie beside it, as `c1.reroot-staged`, `c1.reroot-retired` and
//! `c1.reroot-lock`; names with these endings are reserved.

mod properties;
mod snapshots;

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};

use self::properties::Properties;
use self::snapshots::SnapshotsDir;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::call::retry;
use crate::sys::lock::{self, FileLock};
use crate::sys::xattr::{self, Target};
use crate::sys::{attr, holders, remove, rename, walk};
use crate::text::Escaped;
use crate::volume::{
    Capabilities, Commit, Holder, Names, RebuildableVolume, Removal, RootId, RootMetadata, Sizing, Slot, Snapshot, SnapshotSupport,
    StageSpec, Tidied, Usage, UsageDetail, VolumeId, VolumeLock, Warning,
};

const STAGED: &str = ".reroot-staged";
const RETIRED: &str = ".reroot-retired";
const RESERVED: [&str; 3] = [STAGED, RETIRED, lock::SUFFIX];
const NAME_MAX: usize = 255;
/// How many holders a message names.
const SHOWN_HOLDERS: usize = 3;

/// A volume that is a directory.
///
/// - Snapshots are directories too, where LXD keeps them: those of `POOL/containers/NAME` are `POOL/containers-snapshots/NAME/SNAP`.
///   [`with_snapshots_dir`](Self::with_snapshots_dir) says otherwise.
/// - A rebuild keeps the root directory's owner, mode, ACLs, extended attributes, project id and inheritable flags. The immutable and the
///   append-only flag are cleared and not kept: a root that bears them can be neither filled nor switched.
/// - Old and new root are under one project quota while both exist. Where it has no room for both, rebuild in place.
/// - Works without root, as far as the kernel lets the caller; what could not be kept is a [`Warning`] from
///   [`seal`](RebuildableVolume::seal).
/// - Needs Linux 5.6 and `/proc`.
#[derive(Debug)]
pub struct DirVolume {
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
    snapshots: SnapshotsDir,
    commit: Commit,
    captured: Option<Properties>,
    /// Open since before the first byte, so that `syncfs` reports every write that failed since then.
    staged: Option<OwnedFd>,
    /// What [`stage`](RebuildableVolume::stage) could not keep, for [`seal`](RebuildableVolume::seal) to tell.
    warnings: Vec<Warning>,
}

impl DirVolume {
    /// The volume at `path`, which need not exist. Its parent directory must, and is held open from here on.
    ///
    /// A relative path is taken from the current directory. Nothing is changed.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`] if the path does not end in a name that a volume can have, or is a symbolic link or a file.
    /// - [`ErrorKind::NotFound`] if the parent directory does not exist.
    pub fn open(path: impl AsRef<Path>) -> Result<DirVolume> {
        const OPERATION: &str = "open the volume";
        let given = path.as_ref();
        let context = |error: Error| error.with_context("volume", format_args!("dir:{}", Escaped::from(given)));
        let name = volume_name(given).map_err(|why| context(Error::new(ErrorKind::InvalidInput, OPERATION, why)))?;
        let path =
            std::path::absolute(given).map_err(|error| context(Error::io(OPERATION, "there is no current directory", error)))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parent = retry(|| open(folder, flags, Mode::empty())).map_err(|error| {
            let shown = Escaped::from(folder).to_string();
            let error = context(Error::io(OPERATION, "cannot open its parent directory", error)).with_context("directory", &shown);
            if error.kind() == ErrorKind::NotFound { error.with_remedy(format!("make it: mkdir -p {shown}")) } else { error }
        })?;
        let path = folder.join(&name);
        let volume = DirVolume {
            snapshots: SnapshotsDir::beside(&path),
            path,
            parent,
            name,
            commit: Commit::Exchange,
            captured: None,
            staged: None,
            warnings: Vec::new(),
        };
        volume.kind_of(Slot::Live, OPERATION).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => error.with_kind(ErrorKind::InvalidInput),
            _ => error,
        })?;
        Ok(volume)
    }

    /// Sets the directory that holds this volume's snapshots, each a directory in it. It need not exist.
    #[must_use]
    pub fn with_snapshots_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshots = SnapshotsDir::at(path.into());
        self
    }

    /// Sets how a commit switches roots; [`Commit::Exchange`] unless set. [`Commit::TwoRenames`] never tries an exchange.
    #[must_use]
    pub fn with_commit(mut self, commit: Commit) -> Self {
        self.commit = commit;
        self
    }

    /// The absolute path of the live root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name_of(&self, slot: Slot) -> OsString {
        let mut name = self.name.clone();
        name.push(match slot {
            Slot::Live => "",
            Slot::Staged => STAGED,
            Slot::Retired => RETIRED,
        });
        name
    }

    fn failed(&self, operation: &'static str, message: &str, error: impl Into<std::io::Error>) -> Error {
        Error::io(operation, message, error).with_context("volume", self.id())
    }

    /// Whether a root is there. Anything else under its name is an error.
    fn kind_of(&self, slot: Slot, operation: &'static str) -> Result<bool> {
        let name = self.name_of(slot);
        let wrong = |what: String| Error::new(ErrorKind::AlreadyExists, operation, what).with_context("volume", self.id());
        let stat = match fstatat(&self.parent, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(false),
            Err(error) => return Err(self.failed(operation, &format!("cannot look at the {slot}"), error)),
        };
        let shown = Escaped::from(name.as_os_str());
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            return Ok(true);
        }
        if kind == SFlag::S_IFLNK {
            let target = nix::fcntl::readlinkat(&self.parent, name.as_os_str()).unwrap_or_default();
            let target = Escaped::from(target.as_os_str()).to_string();
            let error = wrong(format!("{shown} is a symbolic link to {target}"));
            return Err(match slot {
                Slot::Live => error.with_remedy(format!("name the directory itself: {target}")),
                _ => error.with_remedy("move it away: the name is reserved"),
            });
        }
        Err(wrong(format!("{shown} is not a directory")).with_remedy("move it away, or name another volume"))
    }

    /// Opens a root; `None` if there is none.
    fn open_root(&self, slot: Slot, operation: &'static str) -> Result<Option<OwnedFd>> {
        if !self.kind_of(slot, operation)? {
            return Ok(None);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match retry(|| openat(&self.parent, self.name_of(slot).as_os_str(), flags, Mode::empty())) {
            Ok(root) => Ok(Some(root)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.failed(operation, &format!("cannot open the {slot}"), error)),
        }
    }

    /// The live root, or what an interrupted in-place rebuild left of it: its directory goes last, so it still has the volume's properties.
    fn open_live_or_retired(&self, operation: &'static str) -> Result<Option<OwnedFd>> {
        match self.open_root(Slot::Live, operation)? {
            Some(root) => Ok(Some(root)),
            None => self.open_root(Slot::Retired, operation),
        }
    }

    /// Does `switch`, durably. A root whose immutable or append-only flag forbids it loses the flag, which comes back if nothing happened.
    fn switch(
        &self,
        operation: &'static str,
        slots: [Slot; 2],
        switch: impl Fn() -> Result<(), Errno>,
        undo: impl Fn() -> Result<(), Errno>,
    ) -> Result<()> {
        let mut cleared = Vec::new();
        let mut result = switch();
        if result == Err(Errno::EPERM) {
            for slot in slots {
                let Ok(Some(root)) = self.open_root(slot, operation) else { continue };
                if let Ok(Some(protection)) = attr::unprotect(root.as_fd()) {
                    cleared.push((root, protection));
                }
            }
            if !cleared.is_empty() {
                result = switch();
            }
        }
        if let Err(error) = result {
            for (root, protection) in cleared {
                let _ = attr::protect(root.as_fd(), protection);
            }
            return Err(self.refused(operation, slots, error));
        }
        // The names are in memory but may not be on the disk. An error has to mean that nothing happened, so it is taken back: the journal
        // keeps the order of the two, and of whatever the caller removes next.
        rename::sync_directory(self.parent.as_fd()).map_err(|error| {
            let _ = undo();
            self.failed(operation, "cannot make the new names durable; the old ones are back", error)
        })
    }

    fn refused(&self, operation: &'static str, [from, to]: [Slot; 2], error: Errno) -> Error {
        match error {
            Errno::EBUSY => {
                let mut error = self.failed(operation, &format!("the {from} or the {to} is in use"), error);
                for holder in self.holders().unwrap_or_default().iter().take(SHOWN_HOLDERS) {
                    error = error.with_remedy(format!("end this use and try again: {holder}")).with_context("holder", holder);
                }
                error.with_remedy("unmount what is mounted on it and try again")
            }
            Errno::EXDEV => self
                .failed(operation, "the parent directory enforces a project id that the root does not have", error)
                .with_remedy("give both the same project id (chattr -p), or end the inheritance on the parent (chattr -P)"),
            Errno::EEXIST => self.failed(operation, &format!("there is a {to} already"), error).with_remedy("run recover"),
            error => self.failed(operation, &format!("cannot rename the {from}"), error),
        }
    }
}

/// The name that a volume at `path` has, or why it can have none.
fn volume_name(path: &Path) -> Result<OsString, String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        return Err("the path holds a NUL byte".into());
    }
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let name = bytes.get(..end).and_then(|path| path.rsplit(|&byte| byte == b'/').next()).unwrap_or_default();
    if matches!(name, b"" | b"." | b"..") {
        return Err("the path does not end in the name of a volume".into());
    }
    if let Some(suffix) = RESERVED.iter().find(|suffix| name.ends_with(suffix.as_bytes())) {
        return Err(format!("names that end in {suffix} are reserved"));
    }
    let longest = NAME_MAX - RESERVED.iter().map(|suffix| suffix.len()).max().unwrap_or(0);
    if name.len() > longest {
        return Err(format!("its name is {} bytes long; {longest} are the most", name.len()));
    }
    Ok(OsStr::from_bytes(name).to_owned())
}

impl RebuildableVolume for DirVolume {
    fn id(&self) -> VolumeId {
        VolumeId::new("dir", &self.path)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_commit(self.commit)
            .with_removal(Removal::Gradual)
            .with_snapshots(SnapshotSupport::Independent)
            .with_sizing(Sizing::Unsized)
    }

    fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        let lock = FileLock::acquire(self.parent.as_fd(), &self.name, wait);
        lock.map(VolumeLock::new).map_err(|error| error.with_context("volume", self.id()))
    }

    fn names(&self) -> Result<Names> {
        const OPERATION: &str = "look at the volume";
        Ok(Names {
            live: self.kind_of(Slot::Live, OPERATION)?,
            staged: self.kind_of(Slot::Staged, OPERATION)?,
            retired: self.kind_of(Slot::Retired, OPERATION)?,
        })
    }

    fn identity(&self, slot: Slot) -> Result<Option<RootId>> {
        const OPERATION: &str = "tell one root from another";
        let Some(root) = self.open_root(slot, OPERATION)? else { return Ok(None) };
        let stat = fstat(&root).map_err(|error| self.failed(OPERATION, "fstat failed", error))?;
        Ok(Some(RootId::new(format!("{}:{}", stat.st_dev, stat.st_ino))))
    }

    fn holders(&self) -> Result<Vec<Holder>> {
        holders::find(self.parent.as_fd(), &self.name).map_err(|error| error.with_context("volume", self.id()))
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        if !self.kind_of(Slot::Live, "list the snapshots")? {
            return Ok(Vec::new());
        }
        self.snapshots.list().map_err(|error| error.with_context("volume", self.id()))
    }

    fn usage(&self, detail: UsageDetail) -> Result<Usage> {
        const OPERATION: &str = "measure the space";
        let pool = retry(|| fstatvfs(&self.parent)).map_err(|error| self.failed(OPERATION, "fstatvfs failed", error))?;
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let free = (pool.blocks_available() as u64).saturating_mul(pool.fragment_size() as u64);
        let mut usage = Usage::new(ByteSize::from_bytes(free));
        // Some file systems make inodes as they go and count none.
        if pool.files() > 0 {
            usage = usage.with_free_inodes(pool.files_available());
        }
        if detail == UsageDetail::Full {
            let used = walk::disk_usage(self.parent.as_fd(), &c_name(&self.name))
                .map_err(|error| self.failed(OPERATION, "cannot read the live root", error))?;
            if let Some(used) = used {
                usage = usage.with_used(ByteSize::from_bytes(used));
            }
        }
        Ok(usage)
    }

    fn record(&self) -> Result<Option<ImageRecord>> {
        const OPERATION: &str = "read the record of the image";
        let Some(root) = self.open_live_or_retired(OPERATION)? else { return Ok(None) };
        for name in properties::believable_records() {
            let value = xattr::get(Target::Fd(root.as_fd()), name);
            if let Some(value) = value.map_err(|error| self.failed(OPERATION, "cannot read an extended attribute", error))? {
                return ImageRecord::from_bytes(&value).map(Some).map_err(|error| error.with_context("volume", self.id()));
            }
        }
        Ok(None)
    }

    fn capture(&mut self) -> Result<()> {
        const OPERATION: &str = "read the properties of the live root";
        self.captured = None;
        if let Some(root) = self.open_live_or_retired(OPERATION)? {
            let captured =
                Properties::capture(root.as_fd()).map_err(|error| self.failed(OPERATION, "the kernel refused", error))?;
            self.captured = Some(captured);
        }
        Ok(())
    }

    fn stage(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        const OPERATION: &str = "stage a root";
        if spec.size.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "a directory has no size").with_context("volume", self.id()));
        }
        self.staged = None;
        self.warnings.clear();
        let name = self.name_of(Slot::Staged);
        mkdirat(&self.parent, name.as_os_str(), Mode::S_IRWXU).map_err(|error| match error {
            Errno::EEXIST => self.failed(OPERATION, "there is a staged root already", error).with_remedy("run recover"),
            error => self.failed(OPERATION, "cannot make its directory", error),
        })?;
        let prepare = || {
            let root = self
                .open_root(Slot::Staged, OPERATION)?
                .ok_or_else(|| self.failed(OPERATION, "it is gone again", Errno::ENOENT))?;
            let refused = |error| self.failed(OPERATION, "cannot prepare its directory", error);
            let warnings = properties::prepare(root.as_fd(), self.captured.as_ref()).map_err(refused)?;
            let kept = root.try_clone().map_err(refused)?;
            Ok((root, kept, warnings))
        };
        match prepare() {
            Ok((root, kept, warnings)) => {
                self.staged = Some(kept);
                self.warnings = warnings;
                Ok(root)
            }
            Err(error) => {
                let _ = unlinkat(&self.parent, name.as_os_str(), UnlinkatFlags::RemoveDir);
                Err(error)
            }
        }
    }

    fn seal(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        const OPERATION: &str = "seal the staged root";
        let mut warnings = std::mem::take(&mut self.warnings);
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => self
                .open_root(Slot::Staged, OPERATION)?
                .ok_or_else(|| Error::new(ErrorKind::NotFound, OPERATION, "there is none").with_context("volume", self.id()))?,
        };
        let keep = self.captured.as_ref().filter(|_| root == RootMetadata::Keep);
        let told = properties::apply(staged.as_fd(), keep, record);
        warnings.extend(told.map_err(|error| self.failed(OPERATION, "cannot set the properties of its directory", error))?);
        retry(|| syncfs(&staged)).map_err(|error| self.failed(OPERATION, "what was written did not reach the disk", error))?;
        Ok(warnings)
    }

    fn rename(&mut self, from: Slot, to: Slot) -> Result<()> {
        let (old, new) = (self.name_of(from), self.name_of(to));
        let parent = self.parent.as_fd();
        let undo = || rename::no_replace(parent, &new, &old);
        self.switch("rename a root", [from, to], || rename::no_replace(parent, &old, &new), undo)
    }

    fn exchange(&mut self) -> Result<()> {
        const OPERATION: &str = "exchange the roots";
        let unsupported = |why: &str| Error::new(ErrorKind::Unsupported, OPERATION, why).with_context("volume", self.id());
        if self.commit != Commit::Exchange {
            return Err(unsupported("this volume was told to rename twice"));
        }
        let (live, staged) = (self.name_of(Slot::Live), self.name_of(Slot::Staged));
        let exchange = || rename::exchange(self.parent.as_fd(), &staged, &live);
        self.switch(OPERATION, [Slot::Staged, Slot::Live], exchange, exchange).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
                unsupported("the file system or the kernel cannot exchange two names").with_source(error)
            }
            _ => error,
        })
    }

    fn purge(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        self.snapshots.purge(snapshots).map_err(|error| error.with_context("volume", self.id()))
    }

    fn discard(&mut self, slot: Slot) -> Result<()> {
        if slot == Slot::Live {
            return Err(Error::new(ErrorKind::InvalidInput, "remove a root", "the live root is never removed under its name")
                .with_context("volume", self.id()));
        }
        if slot == Slot::Staged {
            self.staged = None;
        }
        let removed = remove::remove_tree(self.parent.as_fd(), &self.name_of(slot));
        removed.map(drop).map_err(|error| error.with_context("volume", self.id()))
    }

    fn tidy(&mut self) -> Result<Tidied> {
        self.snapshots.tidy().map_err(|error| error.with_context("volume", self.id()))
    }
}

/// A name that is known to hold no NUL byte.
fn c_name(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_must_end_in_a_name_of_its_own() {
        let name = |path: &str| volume_name(Path::new(path));
        assert_eq!(name("/srv/c1").unwrap(), "c1");
        assert_eq!(name("c1//").unwrap(), "c1");
        assert_eq!(name("-x y").unwrap(), "-x y");
        for bad in
            ["", "/", "//", ".", "/srv/.", "/srv/..", "/srv/../", "a\0b", "c1.reroot-staged", "c1.reroot-lock/", ".reroot-retired"]
        {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        let longest = "x".repeat(NAME_MAX - RETIRED.len());
        assert!(name(&longest).is_ok());
        assert!(name(&format!("{longest}x")).is_err());
    }
}
