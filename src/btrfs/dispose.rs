//! What becomes of old roots and of snapshots: removed in an order in which no part of a root passes for a whole one, and space that comes
//! back by and by.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::sys::statvfs::fstatvfs;

use super::BtrfsVolume;
use super::foreign;
use super::nested::{self, Nested};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::siblings::{DOOMED, snapshots};
use crate::sys::btrfs::subvolume;
use crate::sys::btrfs::{Refused, lookup, sync, tree};
use crate::sys::holders::Tables;
use crate::sys::rename;
use crate::text::Escaped;
use crate::volume::{Reclaiming, Slot, Snapshot, SnapshotOwner, Tidied, Warning};

/// How long a new root waits for the space of an old one.
const RECLAIM_WAIT: Duration = Duration::from_secs(120);
/// How long while none of it comes: what somebody still has open does not, before they let it go.
const RECLAIM_IDLE: Duration = Duration::from_secs(5);
const RECLAIM_STEP: Duration = Duration::from_millis(5);

/// Whose space is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// That of the roots that this value removed.
    Own,
    /// All that is destroyed on the file system.
    All,
}

/// How far the kernel has come with giving back space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleaner {
    Done,
    Busy,
}

impl BtrfsVolume {
    /// Waits until the kernel has given back the space of all that is destroyed on the file system; returns what was still to come when the
    /// wait ended.
    ///
    /// Writes out what the file system has to write, for the kernel gives nothing back before.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`]: only root can know; [`ErrorKind::Cancelled`].
    pub fn wait_reclaimed(&mut self, wait: &Wait) -> Result<Reclaiming> {
        const OPERATION: &str = "wait for the space of what was removed";
        self.wait_for_cleaner(Whose::All, wait, Duration::MAX, OPERATION)?;
        let left =
            tree::reclaiming(self.place.parent()).map_err(|refused| self.refusal(OPERATION, "the kernel refused", refused))?;
        Ok(Reclaiming::new(left.len() as u64))
    }

    /// Removes a root with all that is in it.
    pub(super) fn dispose(&mut self, slot: Slot) -> Result<()> {
        if !self.is_there(slot, nested::OPERATION)? {
            return Ok(());
        }
        let name = self.place.name_of(slot);
        let Some(root) = self.place.open_root(slot, nested::OPERATION)? else { return Ok(()) };
        let nested = self.refuse_removal(&name, root.as_fd())?;
        let own = lookup::id(root.as_fd()).map_err(|refused| self.refusal(nested::OPERATION, "cannot tell its id", refused))?;
        if nested.is_empty() {
            match nested::destroy(self.place.parent(), &name, root.as_fd()) {
                Ok(()) => {
                    self.destroyed.push(own);
                    self.reclaim();
                    return Ok(());
                }
                // Whoever may not destroy it removes it file by file.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && !nested::is_privileged(root.as_fd()) => {}
                Err(error) => return Err(self.add_volume(error)),
            }
        }
        // It goes in more than one step: a part of a root must not bear a name under which a whole one is looked for.
        drop(root);
        self.tidy_doomed()?;
        let doomed = self.doomed();
        let renamed =
            rename::no_replace(self.place.parent(), &name, &doomed).and_then(|()| rename::sync_directory(self.place.parent()));
        renamed.map_err(|error| self.place.failed(nested::OPERATION, "cannot rename it away", error))?;
        let going: Vec<_> = nested.iter().map(|inner| inner.info.id).chain([own]).collect();
        self.remove(&doomed, going)
    }

    /// The name under which a root goes that has subvolumes in it.
    fn doomed(&self) -> OsString {
        let mut name = self.place.name_of(Slot::Live);
        name.push(DOOMED);
        name
    }

    /// Destroys these snapshots, the manager's and others.
    pub(super) fn destroy_snapshots(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        const OPERATION: &str = "purge the snapshots";
        let (mut own, foreign): (Vec<_>, Vec<_>) =
            snapshots.iter().cloned().partition(|snapshot| snapshot.owner == SnapshotOwner::Manager);
        if let Some(dir) = self.snapshots.open(OPERATION).map_err(|error| self.add_volume(error))?.filter(|_| !own.is_empty()) {
            // All of them before the first one goes.
            snapshots::check_names(&own, OPERATION).map_err(|error| self.add_volume(error))?;
            let mounts = Tables::read().map_err(|error| self.add_volume(error))?;
            own.iter().try_for_each(|snapshot| self.refuse_mounted(&mounts, dir.as_fd(), &snapshot.name, OPERATION))?;
            // One step for most. Those with subvolumes in them are renamed first, and so are plain directories.
            own.retain(|snapshot| {
                let gone = subvolume::destroy(dir.as_fd(), &snapshot.name);
                !matches!(gone.map_err(|refused| refused.errno), Ok(()) | Err(Errno::ENOENT))
            });
            let purged = self.snapshots.purge(&own, &mut |dir, name| nested::remove(dir, name));
            purged.map_err(|error| self.add_volume(error))?;
        }
        if !foreign.is_empty() {
            self.purge_foreign(&foreign)?;
        }
        self.reclaim();
        Ok(())
    }

    /// Destroys those snapshots of the old root that are not in the manager's folder.
    fn purge_foreign(&mut self, wanted: &[Snapshot]) -> Result<()> {
        const OPERATION: &str = "purge the snapshots";
        let mut roots = vec![(None, self.uuid)];
        for slot in [Slot::Retired, Slot::Staged] {
            if let Some(root) = self.place.open_root(slot, OPERATION)? {
                let info =
                    subvolume::info(root.as_fd()).map_err(|refused| self.refusal(OPERATION, "cannot look at the root", refused))?;
                roots.retain(|(_, uuid)| *uuid != info.uuid);
                roots.push((Some(root), info.uuid));
            }
        }
        let mounts = Tables::read()?;
        for (root, uuid) in &roots {
            let top = root.as_ref().map(AsFd::as_fd);
            for foreign in self.foreign(top, *uuid, OPERATION)? {
                if wanted.iter().any(|snapshot| snapshot.name == foreign.name()) {
                    foreign::destroy(&foreign, self.place.parent(), top, &mounts).map_err(|error| self.add_volume(error))?;
                }
            }
        }
        Ok(())
    }

    /// Removes a root that bears none of the three names any more, or that has no subvolume in it.
    fn remove(&mut self, name: &OsStr, going: impl IntoIterator<Item = u64>) -> Result<()> {
        nested::remove(self.place.parent(), name).map_err(|error| self.add_volume(error))?;
        self.destroyed.extend(going);
        self.reclaim();
        Ok(())
    }

    /// Removes the qgroups that the kernel left behind when it gave back what was destroyed.
    pub(super) fn reclaim(&mut self) {
        if self.destroyed.is_empty() {
            return;
        }
        let fd = self.place.parent();
        let Ok(going) = tree::reclaiming(fd) else {
            // Who may not ask cannot wait either.
            self.destroyed.clear();
            return;
        };
        self.destroyed.retain(|id| {
            let gone = !going.contains(id);
            if gone {
                let _ = crate::sys::btrfs::quota::destroy(fd, *id);
            }
            !gone
        });
    }

    /// Waits for the space of what is destroyed if the new root may need it: in place of an old root, and where space is scarce.
    pub(super) fn wait_for_space(&mut self) -> Result<()> {
        const OPERATION: &str = "wait for the space of a removed root";
        let whose = if self.is_scarce() {
            Whose::All
        } else if !self.destroyed.is_empty() && !self.is_there(Slot::Live, OPERATION)? {
            Whose::Own
        } else {
            return Ok(());
        };
        // Who may not ask gets what the kernel gives back by itself.
        if !tree::reclaiming(self.place.parent()).is_ok_and(|going| !going.is_empty()) {
            return Ok(());
        }
        let wait = Wait::new(RECLAIM_WAIT, CancelToken::new());
        if self.wait_for_cleaner(whose, &wait, RECLAIM_IDLE, OPERATION)? == Cleaner::Busy {
            self.told.push(Warning::new("the space of a removed root was not back before the new one was filled"));
        }
        Ok(())
    }

    /// Has the kernel give back what is destroyed, and waits for it, but not for longer than `idle` while nothing comes.
    fn wait_for_cleaner(&mut self, whose: Whose, wait: &Wait, idle: Duration, operation: &'static str) -> Result<Cleaner> {
        let refused = |refused: Refused| self.refusal(operation, "the kernel refused", refused);
        let fd = self.place.parent();
        let mut step = RECLAIM_STEP;
        let (mut last, mut changed) = (None, Instant::now());
        loop {
            // The cleaner sleeps for half a minute at a time unless it is woken.
            sync::all(fd).map_err(refused)?;
            let going = tree::reclaiming(fd).map_err(refused)?;
            if !going.iter().any(|id| whose == Whose::All || self.destroyed.contains(id)) {
                break;
            }
            let now = Some((going.len(), fstatvfs(fd).map(|stat| stat.blocks_free()).ok()));
            if now != last {
                (last, changed) = (now, Instant::now());
            }
            if changed.elapsed() >= idle || !wait.pause(operation, step)? {
                return Ok(Cleaner::Busy);
            }
            step = (step * 2).min(Duration::from_secs(1));
        }
        // What was given back can be used after the next transaction.
        sync::all(fd).map_err(refused)?;
        self.reclaim();
        Ok(Cleaner::Done)
    }

    /// Whether less than an eighth of the file system is free.
    fn is_scarce(&self) -> bool {
        fstatvfs(self.place.parent()).is_ok_and(|stat| stat.blocks_available() < stat.blocks() / 8)
    }

    /// Refuses to remove what a mount shows: the kernel would not.
    pub(super) fn refuse_mounted(&self, mounts: &Tables, dir: BorrowedFd<'_>, name: &OsStr, operation: &'static str) -> Result<()> {
        let found = mounts.of(dir, name).map_err(|error| self.add_volume(error))?;
        let Some(holder) = found.first() else { return Ok(()) };
        let what = Escaped::from(name);
        let error = Error::new(ErrorKind::Busy, operation, format!("{what} is in use: {holder}"))
            .with_remedy("unmount it and run recover")
            .with_context("holder", holder);
        Err(self.add_volume(error))
    }

    /// Refuses to remove a root that is not only ours; returns the subvolumes in one that is.
    fn refuse_removal(&self, name: &OsStr, root: BorrowedFd<'_>) -> Result<Vec<Nested>> {
        let mounts = Tables::read().map_err(|error| self.add_volume(error))?;
        self.refuse_mounted(&mounts, self.place.parent(), name, nested::OPERATION)?;
        let uuid = subvolume::info(root).map_err(|refused| self.refusal(nested::OPERATION, "cannot look at it", refused))?.uuid;
        let nested = nested::list(root, nested::OPERATION).map_err(|error| self.add_volume(error))?;
        match nested.iter().find(|inner| inner.info.parent_uuid == uuid && !uuid.is_none()) {
            Some(snapshot) => {
                let path = Escaped::from(snapshot.path.as_path());
                let error = Error::new(ErrorKind::HasSnapshots, nested::OPERATION, format!("its snapshot {path} lies in it"))
                    .with_remedy("move the snapshot out of it or delete it, and run recover");
                Err(self.add_volume(error))
            }
            None => Ok(nested),
        }
    }

    /// Removes what is left of a root that was going.
    pub(super) fn tidy_doomed(&mut self) -> Result<Tidied> {
        let doomed = self.doomed();
        match fstatat(self.place.parent(), doomed.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(Tidied::Nothing),
            Err(error) => return Err(self.place.failed(nested::OPERATION, "cannot look at what is left of an old root", error)),
            Ok(_) => {}
        }
        let mounts = Tables::read().map_err(|error| self.add_volume(error))?;
        self.refuse_mounted(&mounts, self.place.parent(), &doomed, nested::OPERATION)?;
        self.remove(&doomed, [])?;
        Ok(Tidied::Something)
    }
}
