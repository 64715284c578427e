//! A staged root that is a snapshot of a base.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;

use super::BtrfsVolume;
use super::quota::Kept;
use crate::error::{Error, ErrorKind, Result, Space};
use crate::size::ByteSize;
use crate::sys::btrfs::quota::{self, Limits, Mode as Counting, Status};
use crate::sys::btrfs::subvolume::{self, Access};
use crate::sys::btrfs::{self, Refused, lookup};
use crate::sys::call::retry;
use crate::volume::{StageSpec, VolumeId, Warning};

const ELSEWHERE: &str = "the base lies on another file system than the volume";
const MAKE_ONE: &str = "make a base in the volume's pool";

impl BtrfsVolume {
    /// Opens a base to be cloned: a read-only subvolume.
    pub(super) fn open_base(&self, base: &VolumeId, operation: &'static str) -> Result<OwnedFd> {
        let add = |error: Error| self.add_volume(error.with_context("base", base));
        let unusable = |why: &str| add(Error::new(ErrorKind::Unsupported, operation, format!("the base {why}")));
        if base.scheme() != self.place.id().scheme() {
            return Err(unusable("is of another backend").with_remedy(MAKE_ONE));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = retry(|| open(Path::new(base.name()), flags, Mode::empty()))
            .map_err(|error| add(Error::io(operation, "cannot open the base", error)))?;
        if !subvolume::is_subvolume(root.as_fd()).map_err(|error| add(Error::io(operation, "cannot look at the base", error)))? {
            return Err(unusable("is no subvolume"));
        }
        let info = subvolume::info(root.as_fd()).map_err(|refused| add(refused.explain(operation, "cannot look at the base")))?;
        if info.access == Access::ReadWrite {
            return Err(unusable("can be written to, so no one can tell what it holds").with_remedy("remove it and make it again"));
        }
        // The clone shows as it is before it can be closed.
        let stat = fstat(&root).map_err(|error| add(Error::io(operation, "cannot look at the base", error)))?;
        if stat.st_mode & 0o077 != 0 || stat.st_uid != geteuid().as_raw() {
            return Err(unusable("can be entered by others").with_remedy("remove it and make it again"));
        }
        Ok(root)
    }

    /// Says of a snapshot that could not be made why, where the kernel's word for it needs one.
    pub(super) fn explain_clone(error: Error) -> Error {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EXDEV) => error.with_kind(ErrorKind::Unsupported).with_remedy(format!("{ELSEWHERE}: {MAKE_ONE}")),
            Some(Errno::EPERM) => error.with_remedy("only root may clone a base that is another user's"),
            _ => error,
        }
    }

    /// Refuses a base that this volume cannot become a clone of, before an old root goes for it.
    pub(super) fn check_base(&self, spec: &StageSpec) -> Result<()> {
        const OPERATION: &str = "clone the base";
        let Some(base) = &spec.base else { return Ok(()) };
        let root = self.open_base(base, OPERATION)?;
        let refused = |refused: Refused| self.refusal(OPERATION, "cannot tell its file system", refused);
        let [ours, theirs] = [self.place.parent(), root.as_fd()].map(btrfs::file_system);
        if ours.map_err(refused)? != theirs.map_err(refused)? {
            let error = Error::new(ErrorKind::Unsupported, OPERATION, ELSEWHERE).with_remedy(MAKE_ONE);
            return Err(self.add_volume(error.with_context("base", base)));
        }
        // A simple quota counts for a clone only what is first written in it.
        if !matches!(quota::status(root.as_fd()), Ok(Some(Status { mode: Counting::Full, consistent: true }))) {
            return Ok(());
        }
        let kept = match self.place.open_live_or_retired(OPERATION)? {
            Some(live) => self.kept_quota(live.as_fd(), OPERATION)?,
            None => Kept::Nothing,
        };
        self.check_clone(root.as_fd(), kept.limits(spec.size), OPERATION)
    }

    /// Refuses a clone that is larger than its limits: the kernel lets it be, and refuses every write after. `root` is the clone, or its base.
    pub(super) fn check_clone(&self, root: BorrowedFd<'_>, limits: Limits, operation: &'static str) -> Result<()> {
        let Some(limit) = limits.referenced else { return Ok(()) };
        let refused = |refused: Refused| self.refusal(operation, "cannot read its qgroup", refused);
        let id = lookup::id(root).map_err(refused)?;
        let group = quota::qgroup(root, id).map_err(refused)?.unwrap_or_default();
        if group.referenced <= limit {
            return Ok(());
        }
        let (holds, limit) = (ByteSize::from_bytes(group.referenced), ByteSize::from_bytes(limit));
        Err(self.add_volume(
            Error::new(ErrorKind::NoSpace(Space::Quota), operation, format!("the base holds {holds}, and the limit is {limit}"))
                .with_remedy(format!("allow the volume {holds} or more")),
        ))
    }

    /// Tells of what a clone cannot have.
    pub(super) fn warn_of_clone(&mut self) {
        if let Some(what) = self.staging.how_data_is_written() {
            self.told.push(Warning::new(format!(
                "what the base holds is stored, and its folders pass on, as the base has it; only what is new at the top of the root, and what \
                 comes of that, is {what}"
            )));
        }
    }
}
