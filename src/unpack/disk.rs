//! The disk as an unpacking sees it: calls that wait for room, counts, and what could not be kept.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::crew::{Crew, Job};
use super::entry::EntryPath;
use super::loss::{LossKind, Losses};
use super::make::{Dir, Maker};
use super::options::{LossPolicy, UnpackOptions, Writeback};
use super::{Hooks, Tally};
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::sys::remove::remove_tree;
use crate::sys::space;

/// How many paths are remembered before the crew is waited for.
const ON_THEIR_WAY_MAX: usize = 2048;
/// How many times the directory may change among what is on its way.
const DIRS_MAX: usize = 16;

/// Bytes of file data between two calls of the caller's hook.
const DATA_STEP: u64 = 1 << 20;

pub(super) struct Disk<'a> {
    pub(super) root: BorrowedFd<'a>,
    /// Whether the caller is root, who need not ask for permissions.
    pub(super) privileged: bool,
    pub(super) tally: Tally,
    pub(super) losses: Losses,
    pub(super) maker: &'a Maker<'a>,
    /// Whether something was removed that the current path may run through, if that has symbolic links.
    pub(super) doubtful: bool,
    crew: Option<Crew<'a>>,
    /// Hashes of the paths of what the crew may still be at.
    on_their_way: HashSet<u64>,
    /// The directory of the last job that the crew got, and how many times it was another: each is held open.
    last_dir: Weak<Dir>,
    dirs: usize,
    /// Whether ids may be unknown to the kernel although the caller is root.
    in_namespace: bool,
    hasher: RandomState,
    policy: LossPolicy,
    pub(super) writeback: Writeback,
    /// Whose the directories are that the archive implies; `None`: the caller's.
    pub(super) implied_owner: Option<(u32, u32)>,
    hooks: &'a mut dyn Hooks,
    untold: u64,
}

impl<'a> Disk<'a> {
    pub(super) fn new(
        root: BorrowedFd<'a>,
        options: &UnpackOptions,
        hooks: &'a mut dyn Hooks,
        crew: Option<Crew<'a>>,
        maker: &'a Maker<'a>,
    ) -> Self {
        let privileged = geteuid().is_root();
        Disk {
            root,
            privileged,
            tally: Tally::default(),
            losses: Losses::default(),
            maker,
            doubtful: false,
            // Who is not root fails to keep most owners, which is for the policies to judge, file by file.
            crew: crew.filter(|_| privileged),
            on_their_way: HashSet::new(),
            last_dir: Weak::new(),
            dirs: 0,
            in_namespace: in_namespace(),
            hasher: RandomState::new(),
            policy: options.losses,
            writeback: options.writeback,
            implied_owner: options.shift.as_ref().and_then(|shift| shift.root()),
            hooks,
            untold: 0,
        }
    }

    /// Whether the crew has room for a file of `bytes` bytes in `dir`.
    pub(super) fn is_for_crew(&mut self, bytes: u64, dir: &Arc<Dir>) -> Result<bool> {
        let (Some(crew), Ok(bytes)) = (&self.crew, usize::try_from(bytes)) else { return Ok(false) };
        if crew.is_idle() {
            self.forget();
        } else if self.on_their_way.len() >= ON_THEIR_WAY_MAX {
            self.settle()?;
        }
        let known = self.last_dir.as_ptr() == Arc::as_ptr(dir);
        Ok(self.crew.as_ref().is_some_and(|crew| crew.has_room(bytes)) && (known || self.dirs < DIRS_MAX))
    }

    /// Whether the kernel knows every id for the caller: not in a user namespace, and not for an ordinary user.
    pub(super) fn knows_all_ids(&self) -> bool {
        self.privileged && !self.in_namespace
    }

    /// Nothing is on its way any more.
    fn forget(&mut self) {
        self.on_their_way.clear();
        self.last_dir = Weak::new();
        self.dirs = 0;
    }

    /// Leaves a job to the crew, if there is one.
    pub(super) fn give(&mut self, job: Job) {
        if let Job::File(file) = &job {
            self.on_their_way.insert(self.hasher.hash_one(&file.path));
            if self.last_dir.as_ptr() != Arc::as_ptr(&file.dir) {
                self.last_dir = Arc::downgrade(&file.dir);
                self.dirs += 1;
            }
        }
        if let Some(crew) = &self.crew {
            crew.give(job);
        }
    }

    /// Whether the crew has something to do before a directory can be finished, and may be left to finish it.
    pub(super) fn is_crew_to_finish(&self) -> bool {
        self.crew.as_ref().is_some_and(|crew| !crew.is_idle() && crew.may_finish())
    }

    /// Whether something of this path may still be on its way.
    pub(super) fn is_on_its_way(&self, path: &EntryPath) -> bool {
        !self.on_their_way.is_empty() && self.on_their_way.contains(&self.hasher.hash_one(path))
    }

    /// Waits until the crew is done, and does what it could not. Returns whether there was anything to wait for.
    pub(super) fn settle(&mut self) -> Result<bool> {
        let Some(crew) = &mut self.crew else { return Ok(false) };
        if crew.is_idle() {
            self.forget();
            return Ok(false);
        }
        let returned = crew.settle();
        self.forget();
        for job in returned {
            self.redo(job)?;
        }
        Ok(true)
    }

    /// Makes a call until it is neither interrupted nor out of space; what else it returns is for the caller to judge.
    ///
    /// # Errors
    /// Only what the caller's hook returns when there is no room.
    pub(super) fn call<T>(&mut self, mut call: impl FnMut() -> nix::Result<T>) -> Result<nix::Result<T>> {
        loop {
            match call() {
                Err(Errno::EINTR) => {}
                Err(error @ (Errno::ENOSPC | Errno::EDQUOT)) => self.full(error)?,
                // What is on its way holds directories open.
                Err(error @ (Errno::EMFILE | Errno::ENFILE)) if !self.settle()? => return Ok(Err(error)),
                Err(Errno::EMFILE | Errno::ENFILE) => {}
                result => return Ok(result),
            }
        }
    }

    /// The same, where every other failure is an error too.
    pub(super) fn must<T>(&mut self, message: &'static str, call: impl FnMut() -> nix::Result<T>) -> Result<T> {
        self.call(call)?.map_err(|error| Error::io("unpack", message, error))
    }

    /// Asks the caller for room.
    pub(super) fn full(&mut self, error: Errno) -> Result<()> {
        let error = space::explain(self.root, Error::io("unpack", "no space is left for it", error));
        let ErrorKind::NoSpace(space) = error.kind() else { return Err(error) };
        self.maker.umask().lend(|| self.hooks.full(space, error))
    }

    /// Removes whatever has the name of a new entry in a directory.
    pub(super) fn replace(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        self.settle()?;
        self.doubtful = true;
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => remove_tree(dir, name).map(drop),
            Err(error) => Err(Error::io("unpack", "cannot replace what an earlier entry made", error)),
        }
    }

    /// Counts what could not be kept, or refuses it.
    pub(super) fn lose(&mut self, kind: LossKind, path: &EntryPath) -> Result<()> {
        self.losses.add(self.policy, kind, path)
    }

    /// Counts an entry and tells the caller.
    pub(super) fn count_entry(&mut self) -> Result<()> {
        self.tally.entries += 1;
        self.tell()
    }

    /// Counts data and tells the caller from time to time.
    pub(super) fn count_data(&mut self, length: u64) -> Result<()> {
        self.tally.bytes = self.tally.bytes.saturating_add(ByteSize::from_bytes(length));
        self.untold += length;
        if self.untold < DATA_STEP {
            return Ok(());
        }
        self.untold = 0;
        self.tell()
    }

    fn tell(&mut self) -> Result<()> {
        self.maker.umask().lend(|| self.hooks.entry(&self.tally))
    }
}

/// Whether the caller is in a user namespace, where not every id is known.
fn in_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}
