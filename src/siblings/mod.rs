//! Volumes that are directories of one folder: the three names side by side, and what every backend of such volumes does alike.
//!
//! The staged and the retired root of `c1` and its lock lie beside it, as `c1.reroot-staged`, `c1.reroot-retired` and `c1.reroot-lock`;
//! names with these endings are reserved.

pub(crate) mod bases;
pub(crate) mod snapshots;

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::syncfs;

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::progress::Wait;
use crate::properties::{self, Properties};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::call::retry;
use crate::sys::lock::{self, FileLock};
use crate::sys::{attr, holders, rename, space, walk};
use crate::text::Escaped;
use crate::volume::{Commit, Holder, Names, RootMetadata, Slot, Usage, UsageDetail, VolumeId, VolumeLock, Warning};

pub(crate) const STAGED: &str = ".reroot-staged";
pub(crate) const RETIRED: &str = ".reroot-retired";
/// What a root is called while more than one step removes it, where removal is atomic otherwise.
pub(crate) const DOOMED: &str = ".reroot-doomed";
pub(crate) const RESERVED: [&str; 4] = [STAGED, RETIRED, DOOMED, lock::SUFFIX];
pub(crate) const NAME_MAX: usize = 255;
/// How many holders a message names.
const SHOWN_HOLDERS: usize = 3;

/// A volume's place: a folder, held open, and a name in it.
#[derive(Debug)]
pub(crate) struct Siblings {
    scheme: &'static str,
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
}

/// A root that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    captured: Option<Properties>,
    /// Open since before the first byte, so that `syncfs` reports every write that failed since then.
    root: Option<OwnedFd>,
    /// What could not be kept when it was made, for [`Staging::seal`] to tell.
    warnings: Vec<Warning>,
    start: Start,
}

/// How a root begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Start {
    #[default]
    Empty,
    /// With all that a base holds, durably.
    #[cfg_attr(not(feature = "btrfs"), allow(dead_code, reason = "directories are copied"))]
    Clone,
}

impl Siblings {
    /// The volume at `path`, which need not exist; its parent directory must.
    pub(crate) fn open(scheme: &'static str, path: &Path) -> Result<Self> {
        const OPERATION: &str = "open the volume";
        let given = path;
        let context = |error: Error| error.with_context("volume", format_args!("{scheme}:{}", Escaped::from(given)));
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
        let volume = Siblings { scheme, path, parent, name };
        volume.kind_of(Slot::Live, OPERATION).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => error.with_kind(ErrorKind::InvalidInput),
            _ => error,
        })?;
        Ok(volume)
    }

    pub(crate) fn name_of(&self, slot: Slot) -> OsString {
        let mut name = self.name.clone();
        name.push(match slot {
            Slot::Live => "",
            Slot::Staged => STAGED,
            Slot::Retired => RETIRED,
        });
        name
    }

    pub(crate) fn failed(&self, operation: &'static str, message: &str, error: impl Into<std::io::Error>) -> Error {
        self.failed_in(self.parent.as_fd(), operation, message, error)
    }

    /// The same of what was done in a root, which may have a project of its own.
    fn failed_in(&self, root: BorrowedFd<'_>, operation: &'static str, message: &str, error: impl Into<std::io::Error>) -> Error {
        space::explain(root, Error::io(operation, message, error).with_context("volume", self.id()))
    }

    /// Whether a root is there. Anything else under its name is an error.
    pub(crate) fn kind_of(&self, slot: Slot, operation: &'static str) -> Result<bool> {
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
    pub(crate) fn open_root(&self, slot: Slot, operation: &'static str) -> Result<Option<OwnedFd>> {
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
    pub(crate) fn open_live_or_retired(&self, operation: &'static str) -> Result<Option<OwnedFd>> {
        match self.open_root(Slot::Live, operation)? {
            Some(root) => Ok(Some(root)),
            None => self.open_root(Slot::Retired, operation),
        }
    }

    /// Does `switch`, durably. A root whose immutable or append-only flag forbids it loses the flag, which comes back if nothing happened.
    pub(crate) fn switch(
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
        // keeps the order of the two, and of whatever the caller removes next. A file system that lost its disk takes nothing back.
        rename::sync_directory(self.parent.as_fd()).map_err(|error| match undo() {
            Ok(()) => self.failed(operation, "cannot make the new names durable; the old ones are back", error),
            Err(_) => self
                .failed(operation, "cannot make the new names durable, nor take them back; the old ones may be on the disk", error)
                .with_outcome(Outcome::Interrupted),
        })
    }

    pub(crate) fn refused(&self, operation: &'static str, [from, to]: [Slot; 2], error: Errno) -> Error {
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

    pub(crate) fn id(&self) -> VolumeId {
        VolumeId::new(self.scheme, &self.path)
    }

    /// The absolute path of the live root.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the three names.
    pub(crate) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    pub(crate) fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        let lock = FileLock::acquire(self.parent(), &self.name, wait);
        lock.map(VolumeLock::new).map_err(|error| error.with_context("volume", self.id()))
    }

    /// Which of the three names exist, as `is_there` finds them.
    pub(crate) fn names(&self, is_there: impl Fn(Slot, &'static str) -> Result<bool>) -> Result<Names> {
        const OPERATION: &str = "look at the volume";
        Ok(Names {
            live: is_there(Slot::Live, OPERATION)?,
            staged: is_there(Slot::Staged, OPERATION)?,
            retired: is_there(Slot::Retired, OPERATION)?,
        })
    }

    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        holders::find(self.parent(), &self.name).map_err(|error| error.with_context("volume", self.id()))
    }

    pub(crate) fn usage(&self, detail: UsageDetail) -> Result<Usage> {
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
            let used = walk::disk_usage(self.parent(), &c_name(&self.name))
                .map_err(|error| self.failed(OPERATION, "cannot read the live root", error))?;
            if let Some(used) = used {
                usage = usage.with_used(ByteSize::from_bytes(used));
            }
        }
        Ok(usage)
    }

    pub(crate) fn record(&self) -> Result<Option<ImageRecord>> {
        const OPERATION: &str = "read the record of the image";
        let Some(root) = self.open_live_or_retired(OPERATION)? else { return Ok(None) };
        properties::record(root.as_fd()).map_err(|error| error.with_context("volume", self.id()))
    }

    pub(crate) fn rename(&self, from: Slot, to: Slot) -> Result<()> {
        let (old, new) = (self.name_of(from), self.name_of(to));
        let undo = || rename::no_replace(self.parent(), &new, &old);
        self.switch("rename a root", [from, to], || rename::no_replace(self.parent(), &old, &new), undo)
    }

    pub(crate) fn exchange(&self, commit: Commit) -> Result<()> {
        const OPERATION: &str = "exchange the roots";
        if commit != Commit::Exchange {
            let why = "this volume was told to rename twice";
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, why).with_context("volume", self.id()));
        }
        let (live, staged) = (self.name_of(Slot::Live), self.name_of(Slot::Staged));
        let exchange = || rename::exchange(self.parent(), &staged, &live);
        self.switch(OPERATION, [Slot::Staged, Slot::Live], exchange, exchange).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
                let why = "the file system or the kernel cannot exchange two names";
                Error::new(ErrorKind::Unsupported, OPERATION, why).with_context("volume", self.id()).with_source(error)
            }
            _ => error,
        })
    }

    /// Refuses the removal of the live root.
    pub(crate) fn refuse_live(&self, slot: Slot) -> Result<()> {
        match slot {
            Slot::Live => {
                Err(Error::new(ErrorKind::InvalidInput, "remove a root", "the live root is never removed under its name")
                    .with_context("volume", self.id()))
            }
            _ => Ok(()),
        }
    }
}

impl Staging {
    /// Reads the properties of the live root, or of what is left of it.
    pub(crate) fn capture(&mut self, place: &Siblings) -> Result<()> {
        const OPERATION: &str = "read the properties of the live root";
        self.captured = None;
        if let Some(root) = place.open_live_or_retired(OPERATION)? {
            let captured =
                Properties::capture(root.as_fd()).map_err(|error| place.failed(OPERATION, "the kernel refused", error))?;
            self.captured = Some(captured);
        }
        Ok(())
    }

    /// Makes a staged root by `make` and readies it for filling; `unmake` takes it away again when that fails.
    pub(crate) fn stage(
        &mut self,
        place: &Siblings,
        start: Start,
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<(), Errno>,
        ready: impl FnOnce(BorrowedFd<'_>, &mut Vec<Warning>) -> Result<()>,
        unmake: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<(), Errno>,
    ) -> Result<OwnedFd> {
        const OPERATION: &str = "stage a root";
        self.forget();
        self.start = start;
        let name = place.name_of(Slot::Staged);
        make(place.parent(), &name).map_err(|error| match error {
            Errno::EEXIST => place.failed(OPERATION, "there is a staged root already", error).with_remedy("run recover"),
            error => place.failed(OPERATION, "cannot make its directory", error),
        })?;
        let prepare = || {
            let root = place
                .open_root(Slot::Staged, OPERATION)?
                .ok_or_else(|| place.failed(OPERATION, "it is gone again", Errno::ENOENT))?;
            let refused = |error| place.failed(OPERATION, "cannot prepare its directory", error);
            let mut warnings = match (start, &self.captured) {
                // What no live root says stays as the base has it.
                (Start::Clone, None) => Vec::new(),
                (_, captured) => properties::prepare(root.as_fd(), captured.as_ref()).map_err(refused)?,
            };
            ready(root.as_fd(), &mut warnings)?;
            let kept = root.try_clone().map_err(refused)?;
            Ok((root, kept, warnings))
        };
        match prepare() {
            Ok((root, kept, warnings)) => {
                self.root = Some(kept);
                self.warnings = warnings;
                Ok(root)
            }
            Err(error) => {
                let _ = unmake(place.parent(), &name);
                Err(error)
            }
        }
    }

    /// Finishes the staged root: its properties, the record, `finish`, and then the disk.
    pub(crate) fn seal(
        &mut self,
        place: &Siblings,
        record: &ImageRecord,
        root: RootMetadata,
        finish: impl FnOnce(BorrowedFd<'_>, &mut Vec<Warning>) -> Result<()>,
    ) -> Result<Vec<Warning>> {
        const OPERATION: &str = "seal the staged root";
        let mut warnings = std::mem::take(&mut self.warnings);
        let staged = match self.root.take() {
            Some(staged) => staged,
            None => place
                .open_root(Slot::Staged, OPERATION)?
                .ok_or_else(|| Error::new(ErrorKind::NotFound, OPERATION, "there is none").with_context("volume", place.id()))?,
        };
        let keep = self.captured.as_ref().filter(|_| root == RootMetadata::Keep);
        let told = properties::apply(staged.as_fd(), keep, record);
        let failed = |what, error| place.failed_in(staged.as_fd(), OPERATION, what, error);
        warnings.extend(told.map_err(|error| failed("cannot set the properties of its directory", error))?);
        finish(staged.as_fd(), &mut warnings)?;
        // The names and properties of a clone are one transaction with the rename that follows, or an earlier one; data it has written none.
        if self.start == Start::Empty {
            retry(|| syncfs(&staged)).map_err(|error| failed("what was written did not reach the disk", error.into()))?;
        }
        Ok(warnings)
    }

    /// How the captured properties have new data written, if not in the usual way.
    #[cfg(feature = "btrfs")]
    pub(crate) fn how_data_is_written(&self) -> Option<&'static str> {
        self.captured.as_ref().and_then(Properties::how_data_is_written)
    }

    /// Closes the staged root.
    pub(crate) fn forget(&mut self) {
        self.root = None;
        self.warnings.clear();
    }
}

/// A name that is known to hold no NUL byte.
pub(crate) fn c_name(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).unwrap_or_default()
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
