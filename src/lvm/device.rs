//! The devices of logical volumes: active or not, and where their nodes are.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use super::name::{device, pool_device};
use super::{LvmVolume, command};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::sys::command::Program;
use crate::sys::dm::{self, State};
use crate::sys::holders::{self, FileSystem};
use crate::volume::Holder;

/// For how long a node may be late, and a device be suspended: LVM itself suspends those that it changes, for milliseconds.
const LATE: Duration = Duration::from_secs(5);
const LATE_STEP: Duration = Duration::from_millis(10);

/// Whether udev's links to a device are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// Others are going to use the device, by whatever name.
    Awaited,
    /// Only this library uses it, by its number; it is deactivated again soon.
    Unneeded,
}

impl Links {
    pub(super) fn option(self) -> Option<&'static str> {
        match self {
            Links::Awaited => None,
            Links::Unneeded => Some("--noudevsync"),
        }
    }
}

impl LvmVolume {
    /// The device of a volume of the group; `None` while it is not active.
    pub(super) fn state(&self, name: &str, operation: &'static str) -> Result<Option<State>> {
        self.ask(|| dm::state(&device(self.name.group(), name)), operation)
    }

    pub(super) fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.name.group())
    }

    /// Activates a volume; `links` says for whom.
    pub(super) fn activate(&self, name: &str, links: Links, operation: &'static str) -> Result<()> {
        let full = self.full(name);
        let args = ["--activate", "y", "--ignoreactivationskip"].into_iter().chain(links.option()).chain([full.as_str()]);
        self.lvm.must("lvchange", args, operation).map_err(|error| match self.look_again(operation) {
            Ok(group) if group.find(name).is_none() => {
                self.add_volume(error.with_kind(ErrorKind::NotFound)).with_remedy("see what became of it: lvs")
            }
            _ => self.add_volume(error),
        })
    }

    /// Whether udev is waited for where only this library uses a device in this pool: a pool that comes with it is checked by a program, by its name.
    pub(super) fn links_in(&self, pool: Option<&str>, operation: &'static str) -> Result<Links> {
        match pool {
            Some(pool) if self.ask(|| dm::state(&pool_device(self.name.group(), pool)), operation)?.is_none() => Ok(Links::Awaited),
            _ => Ok(Links::Unneeded),
        }
    }

    /// Deactivates those that are active. Whoever has one open keeps it, and is named.
    pub(super) fn deactivate(&self, names: &[&str], operation: &'static str) -> Result<()> {
        let mut active = Vec::new();
        for name in names {
            if self.state(name, operation)?.is_some() {
                self.refuse_suspended(&device(self.name.group(), name), operation)?;
                active.push(self.full(name));
            }
        }
        if active.is_empty() {
            return Ok(());
        }
        let args = ["--activate".to_owned(), "n".to_owned()].into_iter().chain(active);
        self.lvm.must("lvchange", args, operation).map_err(|error| self.busy_or(names, operation, error))
    }

    /// Names who has one of these open, if that is why a command failed.
    pub(super) fn busy_or(&self, names: &[&str], operation: &'static str, error: Error) -> Error {
        for name in names {
            let holders = match self.state(name, operation) {
                Ok(Some(state)) if state.openers > 0 => self.holders_of(name, state),
                _ => continue,
            };
            let held = holders.ok().and_then(|holders| Some(holders.first()?.to_string()));
            let why = format!("{} is in use: {}", self.full(name), held.unwrap_or_else(|| "its device is open".to_owned()));
            return self.add_volume(Error::new(ErrorKind::Busy, operation, why).with_source(error)).with_remedy("release it");
        }
        self.add_volume(error)
    }

    /// The node of an active volume's device, which is not suspended: what is asked of one that is would not return.
    pub(super) fn node(&self, name: &str, operation: &'static str) -> Result<PathBuf> {
        let wait = Wait::new(LATE, CancelToken::new());
        loop {
            let missing = match self.state(name, operation)? {
                None => self.add_volume(Error::new(ErrorKind::NotFound, operation, format!("{} is not active", self.full(name)))),
                Some(State { suspended: true, .. }) => self.is_suspended(&device(self.name.group(), name), operation),
                Some(state) => match node_of(state.number, &device(self.name.group(), name)) {
                    Some(node) => return Ok(node),
                    None => {
                        let (major, minor) = (libc::major(state.number), libc::minor(state.number));
                        let why = format!("{} is active, but nothing in /dev is its device {major}:{minor}", self.full(name));
                        self.add_volume(Error::new(ErrorKind::NotFound, operation, why))
                            .with_remedy("mount a devtmpfs on /dev, or make the nodes: dmsetup mknodes")
                    }
                },
            };
            if !wait.pause(operation, LATE_STEP)? {
                return Err(missing);
            }
        }
    }

    pub(super) fn is_suspended(&self, device: &str, operation: &'static str) -> Error {
        let error = Error::new(ErrorKind::Busy, operation, format!("the device {device} is suspended"));
        self.add_volume(error).with_remedy(format!("resume it: dmsetup resume {device}"))
    }

    /// Refuses a device that is suspended, and stays so: LVM would wait for it.
    pub(super) fn refuse_suspended(&self, device: &str, operation: &'static str) -> Result<()> {
        let wait = Wait::new(LATE, CancelToken::new());
        while self.ask(|| dm::state(device), operation)?.is_some_and(|state| state.suspended) {
            if !wait.pause(operation, LATE_STEP)? {
                return Err(self.is_suspended(device, operation));
            }
        }
        Ok(())
    }

    /// Removes the devices of a volume that is gone: udev's rules may have activated it (lvm2-activation, for a loop device at every change), and `lvremove` looks
    /// for devices before it waits for the group's lock. One that is a thick snapshot, or has one, is on a device more.
    pub(super) fn remove_stray(&self, name: &str, operation: &'static str) -> Result<()> {
        let device = device(self.name.group(), name);
        ["", "-cow", "-real"].iter().try_for_each(|layer| self.remove_device(&format!("{device}{layer}"), operation))
    }

    fn remove_device(&self, device: &str, operation: &'static str) -> Result<()> {
        if self.ask(|| dm::state(device), operation)?.is_none() {
            return Ok(());
        }
        let dmsetup = Program::find("dmsetup", "dmsetup")?.command().args(["remove", "--retry", device]);
        let removed = dmsetup.run(operation, &command::limit()).and_then(|done| done.success(operation));
        match self.ask(|| dm::state(device), operation)? {
            Some(_) => removed.map(drop).map_err(|error| self.add_volume(error)),
            None => Ok(()),
        }
    }

    /// Who has an active volume open.
    pub(super) fn holders_of(&self, name: &str, state: State) -> Result<Vec<Holder>> {
        let device = device(self.name.group(), name);
        let minor = libc::minor(state.number);
        let sources = [format!("/dev/mapper/{device}"), format!("/dev/{}", self.full(name)), format!("/dev/dm-{minor}")];
        let file_system = FileSystem { fs_type: None, sources: &sources, device: Some(state.number), block: Some(state.number) };
        let mut found = holders::of_file_system(&file_system, &[]).map_err(|error| self.add_volume(error))?;
        found.extend(holders::of_block_device(state.number));
        if found.is_empty() {
            found.push(Holder::Other(format!("{} have its device open", state.openers)));
        }
        Ok(found)
    }
}

/// A node of the device with this number.
fn node_of(number: libc::dev_t, device: &str) -> Option<PathBuf> {
    let candidates = [format!("/dev/dm-{}", libc::minor(number)), format!("/dev/mapper/{device}")];
    candidates
        .into_iter()
        .map(PathBuf::from)
        .find(|path| fs::metadata(path).is_ok_and(|node| node.file_type().is_block_device() && node.rdev() == number))
}
