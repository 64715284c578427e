//! A volume's place: the kernel's ZFS, and the names of its datasets there.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::mem::replace;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::name::{DatasetName, c_text};
use super::note;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::run_lock;
use crate::sys::zfs::{Failed, Given, Map, Program, Unavailable, Value, Zfs};
use crate::text::Escaped;
use crate::volume::{Slot, VolumeId, VolumeLock};

/// For how long a dataset is let go by whoever holds it for a moment, such as a new process that has not begun its program yet.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// How long after it was made a dataset may be without the notes it was made with: two transactions of the pool.
const NOTED: Duration = Duration::from_secs(3);
pub(super) const BUSY_STEP: Duration = Duration::from_millis(20);

/// The kernel's ZFS and a dataset in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) zfs: Zfs,
    pub(super) name: DatasetName,
}

/// A program that the kernel runs.
macro_rules! program {
    ($name:literal) => {
        match std::ffi::CStr::from_bytes_with_nul(concat!(include_str!(concat!("programs/", $name, ".lua")), "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => c"",
        }
    };
}
pub(super) use program;

/// A dataset under one of a volume's names.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) guid: u64,
    /// Our notes on it.
    pub(super) notes: BTreeMap<String, Vec<u8>>,
    /// Whether there are datasets below it.
    pub(super) has_children: bool,
}

/// What there is of a volume.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) live: Option<Found>,
    pub(super) staged: Option<Found>,
    pub(super) retired: Option<Found>,
    /// The GUID of the snapshot that keeps the old root.
    pub(super) safety: Option<u64>,
}

/// Loads what is needed to speak with ZFS.
pub(super) fn load(operation: &'static str) -> Result<Zfs> {
    Zfs::load().map_err(|unavailable| match unavailable {
        Unavailable::Library(error) => Error::new(ErrorKind::Unsupported, operation, "the libraries of ZFS are not there")
            .with_source(error)
            .with_remedy("install libzfs_core (OpenZFS 2.1 or later), on Debian by: apt-get install libzfs4linux"),
        Unavailable::Module(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Error::io(operation, "cannot open the device of ZFS", error).with_remedy("run this as root")
        }
        Unavailable::Module(error) => Error::new(ErrorKind::Unsupported, operation, "the kernel has no ZFS")
            .with_source(error)
            .with_remedy("load the module: modprobe zfs"),
    })
}

impl Place {
    pub(super) fn open(name: DatasetName, operation: &'static str) -> Result<Self> {
        let zfs = load(operation).map_err(|error| error.with_context("volume", VolumeId::new("zfs", name.as_str())))?;
        Ok(Place { zfs, name })
    }

    pub(super) fn id(&self) -> VolumeId {
        VolumeId::new("zfs", self.name.as_str())
    }

    pub(super) fn add_volume(&self, error: Error) -> Error {
        error.with_context("volume", self.id())
    }

    pub(super) fn failed(&self, operation: &'static str, message: impl Into<String>, errno: Errno) -> Error {
        let error = self.add_volume(Error::io(operation, message, errno));
        match error.kind() {
            ErrorKind::PermissionDenied if !geteuid().is_root() => error.with_remedy("run this as root"),
            _ => error,
        }
    }

    fn pool(&self) -> CString {
        c_text(self.name.pool())
    }

    /// Runs a program that looks at this pool.
    pub(super) fn ask(&self, program: &CStr, arguments: &[(CString, Given)], operation: &'static str) -> Result<Map> {
        self.zfs.run(&self.pool(), program, Program::Reads, arguments).map_err(|failed| self.program_failed(operation, failed))
    }

    fn program_failed(&self, operation: &'static str, failed: Failed) -> Error {
        match failed.errno {
            Errno::ENOENT if failed.said.is_empty() => {
                let pool = self.name.pool();
                self.add_volume(Error::new(ErrorKind::NotFound, operation, format!("there is no pool {pool}")))
                    .with_remedy(format!("import it: zpool import {pool}"))
            }
            Errno::EROFS => {
                let pool = self.name.pool();
                self.failed(operation, format!("the pool {pool} is read-only"), failed.errno)
                    .with_remedy(format!("import it so that it can be written to: zpool export {pool} && zpool import {pool}"))
            }
            errno if failed.said.is_empty() => self.failed(operation, "ZFS refused", errno),
            errno => self.failed(operation, format!("ZFS says: {}", Escaped(failed.said.as_bytes())), errno),
        }
    }

    /// The dataset that the volume is to lie in does not exist.
    pub(super) fn without_parent(&self, operation: &'static str) -> Error {
        let parent = self.name.parent();
        self.add_volume(Error::new(ErrorKind::NotFound, operation, format!("there is no dataset {parent}")))
            .with_remedy(format!("make it: zfs create -p {parent}"))
    }

    /// Sets notes on a dataset, all or none.
    pub(super) fn note(&self, dataset: &str, notes: &[(&str, &[u8])], operation: &'static str) -> Result<()> {
        let notes = notes.iter().map(|(name, value)| (c_text(*name), Given::Text(c_text(*value)))).collect();
        let arguments = [text("name", dataset), (c"notes".to_owned(), Given::List(notes))];
        let done = self.zfs.run(&self.pool(), program!("note"), Program::Writes, &arguments);
        done.map(drop).map_err(|failed| self.program_failed(operation, failed))
    }

    /// What there is of the volume. Something else under one of its names is an error naming it.
    pub(super) fn look(&self, operation: &'static str) -> Result<Look> {
        let mut first = true;
        until_noted(operation, || match self.look_once(Unnoted::Strange, operation)? {
            // Who may not mount it cannot tell. It costs a mount, and what was left without its note does not become so while one waits for that.
            Err(_) if replace(&mut first, false) && self.is_unnoted(&self.name.slot(Slot::Staged), operation).unwrap_or(false) => {
                self.look_once(Unnoted::Ours, operation)
            }
            found => Ok(found),
        })
    }

    /// The inner error is for what has none of our notes.
    fn look_once(&self, unnoted: Unnoted, operation: &'static str) -> Result<Result<Look>> {
        let names = [("live", Slot::Live), ("staged", Slot::Staged), ("retired", Slot::Retired)];
        let given = names.map(|(key, slot)| text(key, self.name.slot(slot)));
        let arguments = [(c"names".to_owned(), Given::List(given.to_vec())), text("safety", self.name.safety())];
        let found = self.ask(program!("look"), &arguments, operation)?;
        let mut look = Look { safety: found.get("safety").map(guid_of), ..Look::default() };
        for (key, slot) in names {
            let Some(there) = found.get(key) else { continue };
            let name = self.name.slot(slot);
            let table = |key: &str| there.as_list().and_then(|map| map.get(key));
            if table("type").and_then(Value::as_str) != Some("filesystem") {
                let error = Error::new(ErrorKind::AlreadyExists, operation, format!("{name} is not a file system"));
                return Err(self.add_volume(error).with_remedy("rename it, or name another volume"));
            }
            let notes: BTreeMap<_, _> = table("ours")
                .and_then(Value::as_list)
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name.clone(), value.as_text()?.to_owned())))
                .collect();
            // Where only the retired root is whole, nothing was staged yet: it would be taken for one that is complete.
            let may_be_unnoted = found.contains_key("live") || !found.contains_key("retired");
            let may_lack_it = slot == Slot::Live || slot == Slot::Staged && unnoted == Unnoted::Ours && may_be_unnoted;
            if !may_lack_it && !notes.contains_key(note::MADE) {
                return Ok(Err(self.add_volume(of_a_stranger(&name, operation))));
            }
            let it = Some(Found { guid: guid_of(there), notes, has_children: table("children").is_some() });
            match slot {
                Slot::Live => look.live = it,
                Slot::Staged => look.staged = it,
                Slot::Retired => look.retired = it,
            }
        }
        if let (Some(live), Some(safety)) = (&look.live, found.get("safety")) {
            self.check_safety(live, safety, operation)?;
        }
        Ok(Ok(look))
    }

    /// Refuses a snapshot under the name of ours that was not taken of this dataset by this library: to roll back to it would destroy what came later.
    fn check_safety(&self, live: &Found, safety: &Value, operation: &'static str) -> Result<()> {
        let of = safety.as_list().and_then(|map| map.get("of")).and_then(Value::as_str);
        if of.and_then(|of| of.parse().ok()) == Some(live.guid) {
            return Ok(());
        }
        let name = self.name.safety();
        let error = Error::new(ErrorKind::AlreadyExists, operation, format!("{name} was not made by this library of this dataset"));
        Err(self.add_volume(error).with_remedy(format!("rename it, for the name is reserved: zfs rename {name} @OTHER")))
    }

    pub(super) fn lock(&self, wait: &Wait) -> Result<VolumeLock> {
        run_lock::exclusive(&self.id(), wait).map(VolumeLock::new)
    }

    pub(super) fn lock_shared(&self, wait: &Wait) -> Result<VolumeLock> {
        run_lock::shared(&self.id(), wait)
    }
}

/// What a staged dataset is that has none of our notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unnoted {
    Strange,
    Ours,
}

impl Look {
    pub(super) fn of(&self, slot: Slot) -> Option<&Found> {
        match slot {
            Slot::Live => self.live.as_ref(),
            Slot::Staged => self.staged.as_ref(),
            Slot::Retired => self.retired.as_ref(),
        }
    }
}

/// Says of a dataset under a name of ours that someone else made it.
pub(super) fn of_a_stranger(dataset: &str, operation: &'static str) -> Error {
    Error::new(ErrorKind::AlreadyExists, operation, format!("{dataset} was not made by this library"))
        .with_remedy(format!("rename it, for the name is reserved: zfs rename {dataset} OTHER"))
}

/// Looks again, for a moment, at a dataset that has none of our notes: one that somebody else is making has them a moment after it is there.
pub(super) fn until_noted<T>(operation: &'static str, mut look: impl FnMut() -> Result<Result<T>>) -> Result<T> {
    let wait = Wait::new(NOTED, CancelToken::new());
    loop {
        match look()? {
            Ok(found) => return Ok(found),
            Err(stranger) if !wait.pause(operation, BUSY_STEP)? => return Err(stranger),
            Err(_) => {}
        }
    }
}

/// Does again what finds a dataset busy, for a moment.
pub(super) fn unless_busy(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    let wait = Wait::new(BUSY, CancelToken::new());
    loop {
        match call() {
            Err(Errno::EBUSY) if wait.pause("wait", BUSY_STEP).is_ok_and(|again| again) => {}
            result => return result,
        }
    }
}

/// An argument of a program.
pub(super) fn text(key: &str, value: impl Into<Vec<u8>>) -> (CString, Given) {
    (c_text(key), Given::Text(c_text(value)))
}

fn guid_of(found: &Value) -> u64 {
    found.as_list().and_then(|map| map.get("guid")).and_then(Value::as_number).unwrap_or_default()
}
