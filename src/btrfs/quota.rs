//! Limits: what qgroups say of a root, and how a staged root gets the same.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::BtrfsVolume;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::size::ByteSize;
use crate::sys::btrfs::quota::{self, Limits, Mode, Qgroup};
use crate::sys::btrfs::{Refused, lookup};
use crate::volume::{StageSpec, Warning};

/// How long to wait for a count of what is there after quotas were turned on.
const RESCAN_WAIT: Duration = Duration::from_secs(30);

/// How long to wait for a count that is coming to its end.
const RECOUNT_WAIT: Duration = Duration::from_secs(2);

/// What to do when a limit is asked for and the file system's quotas are off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum QuotaPolicy {
    /// Refuse, before anything is changed.
    #[default]
    Refuse,
    /// Turn qgroups on, for the whole file system. They cost time with every snapshot that is made and removed.
    Enable,
    /// Turn simple quotas on, for the whole file system; needs Linux 6.7. They are cheap, and count for a root only what is first written
    /// in it.
    EnableSimple,
}

/// What the qgroup of a root says, as of the file system's last transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Quota {
    /// What the root refers to, shared or not.
    pub referenced: ByteSize,
    /// What no one else refers to, and so would come back if the root went.
    pub exclusive: ByteSize,
    /// The limit on what it refers to.
    pub max_referenced: Option<ByteSize>,
    /// The limit on what it alone refers to.
    pub max_exclusive: Option<ByteSize>,
    /// The groups it is a member of, as `LEVEL/ID`.
    pub parents: Vec<String>,
    /// Whether what is counted is right; it is not while everything is counted afresh.
    pub consistent: bool,
}

/// What is kept of the qgroup of a live root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// There are no quotas, or there is no root.
    Nothing,
    /// These limits and groups.
    Group(Qgroup),
    /// The caller may not read the groups; what anyone may see are these limits.
    Hidden(Limits),
}

impl Kept {
    /// The limits of the next staged root, of this size if one is asked for.
    pub(super) fn limits(&self, wanted: Option<ByteSize>) -> Limits {
        let kept = match self {
            Kept::Group(group) => group.limits,
            Kept::Nothing | Kept::Hidden(_) => Limits::default(),
        };
        wanted.map_or(kept, |size| at_least(kept, size))
    }
}

pub(super) fn bytes(size: ByteSize) -> u64 {
    size.bytes()
}

fn size(bytes: u64) -> ByteSize {
    ByteSize::from_bytes(bytes)
}

/// The size of a root: the lower of its limits.
pub(super) fn limit_of(limits: Limits) -> Option<ByteSize> {
    [limits.referenced, limits.exclusive].into_iter().flatten().min().map(size)
}

/// The limits of a root of this size or more: what is below it is raised, and what it refers to is limited if nothing is.
fn at_least(limits: Limits, wanted: ByteSize) -> Limits {
    let raise = |limit: Option<u64>| limit.map(|limit| limit.max(bytes(wanted)));
    match limits {
        Limits { referenced: None, exclusive: None } => Limits { referenced: Some(bytes(wanted)), exclusive: None },
        Limits { referenced, exclusive } => Limits { referenced: raise(referenced), exclusive: raise(exclusive) },
    }
}

impl BtrfsVolume {
    /// What the qgroup of the live root says; `None` if there is no live root or quotas are off.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`]: only root may read qgroups.
    pub fn quota(&self) -> Result<Option<Quota>> {
        const OPERATION: &str = "read the quota";
        let Some(root) = self.place.open_root(crate::volume::Slot::Live, OPERATION)? else { return Ok(None) };
        let refused = |refused: Refused| self.refused(OPERATION, "the kernel refused", refused);
        let Some(status) = quota::status(root.as_fd()).map_err(refused)? else { return Ok(None) };
        let id = lookup::id(root.as_fd()).map_err(refused)?;
        let group = quota::qgroup(root.as_fd(), id).map_err(refused)?.unwrap_or_default();
        Ok(Some(Quota {
            referenced: size(group.referenced),
            exclusive: size(group.exclusive),
            max_referenced: group.limits.referenced.map(size),
            max_exclusive: group.limits.exclusive.map(size),
            parents: group.parents.iter().map(|id| format!("{}/{}", quota::level(*id), id & ((1 << 48) - 1))).collect(),
            consistent: status.consistent,
        }))
    }

    /// What is to be kept of the qgroup of an open root.
    pub(super) fn kept_quota(&self, root: BorrowedFd<'_>, operation: &'static str) -> Result<Kept> {
        let refused = |refused: Refused| self.refused(operation, "cannot read its qgroup", refused);
        match quota::status(root) {
            Ok(None) => return Ok(Kept::Nothing),
            Ok(Some(_)) => {}
            Err(error) if error.is_denied() => {
                return Ok(quota::visible_limits(root).map_or(Kept::Nothing, Kept::Hidden));
            }
            Err(error) => return Err(refused(error)),
        }
        let id = lookup::id(root).map_err(refused)?;
        Ok(quota::qgroup(root, id).map_err(refused)?.map_or(Kept::Nothing, Kept::Group))
    }

    /// Refuses a size that no staged root could have; says whether quotas have to be turned on for it.
    pub(super) fn check_quota(&self, spec: &StageSpec, operation: &'static str) -> Result<Option<Mode>> {
        if spec.size.is_none() {
            return Ok(None);
        }
        let status =
            quota::status(self.place.parent()).map_err(|refused| self.refused(operation, "a size is a qgroup's limit", refused))?;
        match (status, self.quota_policy) {
            (Some(_), _) => Ok(None),
            (None, QuotaPolicy::Enable) => Ok(Some(Mode::Full)),
            (None, QuotaPolicy::EnableSimple) => Ok(Some(Mode::Simple)),
            (None, QuotaPolicy::Refuse) => Err(self.quotas_are_off(operation)),
        }
    }

    fn quotas_are_off(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Unsupported, operation, "a size is a limit, and the file system's quotas are off")
            .with_remedy("turn them on (btrfs quota enable, or with --simple from Linux 6.7), or leave the size out")
            .with_context("volume", self.place.id())
    }

    /// Turns quotas on and waits, not for ever, until all is counted.
    pub(super) fn enable_quota(&mut self, mode: Mode, operation: &'static str) -> Result<()> {
        let fd = self.place.parent();
        quota::enable(fd, mode).map_err(|refused| {
            let error = self.refused(operation, "cannot turn the file system's quotas on", refused);
            let too_old = mode == Mode::Simple && refused.errno == Errno::EINVAL;
            if too_old { error.with_kind(ErrorKind::Unsupported).with_remedy("use Linux 6.7 or later, or qgroups") } else { error }
        })?;
        let wait = Wait::new(RESCAN_WAIT, CancelToken::new());
        while mode == Mode::Full && quota::is_rescanning(fd).unwrap_or(false) {
            if !wait.pause(operation, Duration::from_millis(20))? {
                self.told.push(Warning::new("quotas were turned on, and what is there is still being counted"));
                break;
            }
        }
        Ok(())
    }

    /// Gives a new staged root its limits.
    pub(super) fn limit(&self, root: BorrowedFd<'_>, spec: &StageSpec, warnings: &mut Vec<Warning>) -> Result<()> {
        const OPERATION: &str = "limit the staged root";
        if matches!(&self.kept, Kept::Hidden(limits) if *limits != Limits::default()) {
            warnings.push(Warning::new("the qgroup limits of the old root could not be kept; run as root to keep them"));
        }
        let limits = self.kept.limits(spec.size);
        if limits == Limits::default() {
            return Ok(());
        }
        self.set_limits(root, limits, OPERATION)?;
        if spec.base.is_some() { self.check_clone(root, limits, OPERATION) } else { Ok(()) }
    }

    /// Sees to it that a clone in a group is counted. What it shares is counted for its base, and the kernel does not know how much of that is
    /// new to the group: it gives up counting for the whole file system.
    pub(super) fn recount_clone(&mut self, operation: &'static str) {
        let fd = self.place.parent();
        let counts = quota::status(fd).ok().flatten();
        if !counts.is_some_and(|status| status.mode == Mode::Full && !status.consistent) {
            return;
        }
        let wait = Wait::new(RECOUNT_WAIT, CancelToken::new());
        let result = loop {
            match quota::rescan(fd) {
                // A count that the clone has put an end to is about to notice.
                Err(refused) if refused.errno == Errno::EINPROGRESS => match wait.pause(operation, Duration::from_millis(5)) {
                    Ok(true) => {}
                    _ => break Err(refused),
                },
                result => break result,
            }
        };
        let warning = Warning::new(
            "the qgroups of the file system are being counted afresh: until that is done, the limits of the group that the volume is in do \
             not hold",
        );
        self.told.push(match result {
            Ok(()) => warning,
            Err(refused) => Warning::new(
                "the volume's group cannot tell what it shares with its base until the qgroups are counted afresh (btrfs quota rescan)",
            )
            .with_error(self.refused(operation, "the kernel did not begin with it", refused)),
        });
    }

    fn set_limits(&self, root: BorrowedFd<'_>, limits: Limits, operation: &'static str) -> Result<()> {
        let set = lookup::id(root).and_then(|id| quota::set_limits(root, id, limits));
        set.map_err(|refused| self.refused(operation, "cannot set the limits of its qgroup", refused))
    }

    /// Raises the limits of the staged root to `to`.
    pub(super) fn raise(&self, root: BorrowedFd<'_>, to: ByteSize) -> Result<ByteSize> {
        const OPERATION: &str = "grow the staged root";
        let refused = |refused: Refused| self.refused(OPERATION, "cannot read its qgroup", refused);
        if quota::status(root).map_err(refused)?.is_none() {
            return Err(self.quotas_are_off(OPERATION));
        }
        let id = lookup::id(root).map_err(refused)?;
        let limits = quota::qgroup(root, id).map_err(refused)?.unwrap_or_default().limits;
        if limit_of(limits).is_none() {
            // Without a limit it is as large as can be.
            return Ok(ByteSize::from_bytes(u64::MAX));
        }
        let raised = at_least(limits, to);
        if raised != limits {
            self.set_limits(root, raised, OPERATION)?;
        }
        Ok(limit_of(raised).unwrap_or(to))
    }

    fn refused(&self, operation: &'static str, message: &str, refused: Refused) -> Error {
        let error = refused.explain(operation, message).with_context("volume", self.place.id());
        if refused.is_denied() { error.with_remedy("only root may read and change qgroups: run as root") } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_rise_and_never_fall() {
        let limits = |referenced, exclusive| Limits { referenced, exclusive };
        assert_eq!(at_least(limits(None, None), size(5)), limits(Some(5), None));
        assert_eq!(at_least(limits(Some(3), Some(9)), size(5)), limits(Some(5), Some(9)));
        assert_eq!(at_least(limits(None, Some(1)), size(5)), limits(None, Some(5)));
        assert_eq!(limit_of(limits(Some(3), Some(2))), Some(size(2)));
        assert_eq!(limit_of(limits(None, None)), None);
    }
}
