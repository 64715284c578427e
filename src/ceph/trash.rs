//! The trash: roots go through it, so that one that is half removed never has a name, and stay in it for a while where that is the policy.
//!
//! librbd moves an image in four steps: an entry in the trash, the object of its name, its name in the directory, the entry once more. Killed in between, or refused one of them, it leaves
//! an entry for an image that still has its name. So an image that the directory knows a name of is never taken for one in the trash.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use super::lock::SHUT_OUT;
use super::{CephVolume, mapped, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::sys::ceph::{Access, Deferment, Failed, TrashEntry, Watcher, Which};
use crate::sys::krbd;
use crate::volume::{Slot, Tidied};

/// How long the objects of one image may take to go.
const REMOVAL_LIMIT: Duration = Duration::from_secs(3600);
/// How long others may have an image open that only look at it.
const SETTLE: Duration = Duration::from_secs(5);
const SETTLE_STEP: Duration = Duration::from_millis(50);
/// How long the cluster takes to miss who watched an image: 30 seconds, unless it is told otherwise (`osd_client_watch_timeout`).
const LAPSE: Duration = Duration::from_secs(40);

/// Where librbd keeps the entries of the trash, and what their keys begin with.
pub(super) const OBJECT: &str = "rbd_trash";
const ENTRY: &str = "id_";

impl CephVolume {
    /// In one step it has no name any more: what is removed object by object is never found half gone under one.
    ///
    /// The watch of a client that was shut out is waited for, as are those that nobody has any more.
    pub(super) fn move_to_trash(
        &self,
        name: &str,
        id: &str,
        shut_out: Option<&str>,
        delay: Duration,
        operation: &'static str,
    ) -> Result<()> {
        let (wait, lapse) = (Wait::new(SETTLE, CancelToken::new()), Wait::new(LAPSE, CancelToken::new()));
        // librbd moves an image that another host has mapped, and could not remove it then.
        loop {
            let watchers = self.watchers_of(id, operation)?;
            let Some(error) = self.watched_by(&watchers, operation) else { break };
            let patient = if watchers.iter().all(|watcher| self.is_stale(watcher, shut_out)) { &lapse } else { &wait };
            if !patient.pause(operation, SETTLE_STEP)? {
                return Err(error);
            }
        }
        loop {
            match self.pool.trash(name, delay) {
                Ok(()) => return Ok(()),
                Err(error) if error.errno == Errno::ENOENT => return self.remove_part(name, operation),
                Err(error) if error.errno == Errno::EBUSY && wait.pause(operation, SETTLE_STEP)? => {}
                Err(error) => {
                    let busy = error.errno == Errno::EBUSY;
                    let error = self.failed(error, operation, format!("cannot move {}/{name} to the trash", self.name.place()));
                    return Err(if busy { self.watched(id, error, operation) } else { error });
                }
            }
        }
    }

    /// Removes what a killed making of an image has left: a name, and nothing that could be opened.
    fn remove_part(&self, name: &str, operation: &'static str) -> Result<()> {
        let wait = Wait::new(REMOVAL_LIMIT, CancelToken::new());
        let told = |error| self.failed(error, operation, "cannot remove what is left of an image");
        match self.pool.remove(name, &wait) {
            Err(error) if error.errno == Errno::ENOENT => {}
            removed => removed.map_err(told)?,
        }
        // librbd says the same of a trash that it cannot write to.
        match self.pool.image_ids(&[name]).map_err(told)?.iter().all(Option::is_none) {
            true => Ok(()),
            false => {
                let why = format!("{}/{name} is still there", self.name.place());
                Err(self.add_volume(Error::new(ErrorKind::Io, operation, why)).with_remedy("see whether the pool is full: ceph df"))
            }
        }
    }

    /// Who watches an image, which keeps it from being removed.
    pub(super) fn in_use(&self, id: &str, operation: &'static str) -> Result<Option<Error>> {
        let watchers = self.watchers_of(id, operation)?;
        Ok(self.watched_by(&watchers, operation))
    }

    /// Those who watch an image, but for ourselves.
    fn watchers_of(&self, id: &str, operation: &'static str) -> Result<Vec<Watcher>> {
        self.look_anew();
        let image = match self.pool.open(&Which::Id(id), Access::ReadOnly) {
            // It was never made, or its removal has begun.
            Err(error) if error.errno == Errno::ENOENT => return Ok(Vec::new()),
            image => image.map_err(|error| self.failed(error, operation, "cannot open the image"))?,
        };
        let watchers = image.watchers().map_err(|error| self.failed(error, operation, "cannot ask who watches the image"))?;
        Ok(watchers.into_iter().filter(|watcher| watcher.client != self.pool.instance()).collect())
    }

    fn watched_by(&self, watchers: &[Watcher], operation: &'static str) -> Option<Error> {
        let named: Vec<_> = watchers.iter().map(|watcher| format!("client.{} at {}", watcher.client, watcher.address)).collect();
        let error = Error::new(ErrorKind::Busy, operation, format!("the image is in use: {} watches it", named.join(", ")));
        let error = self.add_volume(error).with_remedy(
            "unmap it there, or, if a rebuild was killed there, run recover there; a host that died is missed within half a minute",
        );
        (!named.is_empty()).then_some(error)
    }

    /// Shuts out the client that another host's kernel fills an image by: its process is dead, or has lost the lock of the volume, and what it still has to write would
    /// become objects of no image. On this host it is gone by now. Returns the client that is noted.
    pub(super) fn shut_out_filler(&self, name: &str, operation: &'static str) -> Result<Option<String>> {
        let told = |error| self.failed(error, operation, "cannot shut out the host that filled the image before");
        let key = notes::mapped(name);
        let noted = notes::read(&self.pool, std::slice::from_ref(&key)).map_err(told)?.remove(&key);
        let client = noted.and_then(|client| String::from_utf8(client).ok());
        if let Some(client) = client.as_ref().filter(|client| !self.is_of_host(client)) {
            self.pool.blocklist(client, SHUT_OUT).map_err(told)?;
        }
        Ok(client)
    }

    /// Whether a watch is from this host and no mapping on it has it: it is that of a process that died, or of a mapping that went while the cluster did not answer. Or of a client
    /// that was shut out.
    fn is_stale(&self, watcher: &Watcher, shut_out: Option<&str>) -> bool {
        let mapped = krbd::mappings().is_ok_and(|all| all.iter().any(|mapping| mapping.client == watcher.client));
        self.is_of_host(&watcher.address) && !mapped || shut_out == Some(watcher.address.as_str())
    }

    /// Whether the client with this address is one of this host.
    fn is_of_host(&self, address: &str) -> bool {
        let host = |address: &str| {
            let (host, _) = address.rsplit_once(':')?;
            Some(host.trim_start_matches("v1:").trim_start_matches("v2:").to_owned())
        };
        let ours = self.pool.addresses().ok().and_then(|ours| host(&ours));
        ours.is_some() && ours == host(address)
    }

    /// Names who keeps an image from being removed, if that is known.
    fn watched(&self, id: &str, error: Error, operation: &'static str) -> Error {
        match self.in_use(id, operation) {
            Ok(Some(named)) => named.with_source(error),
            _ => error,
        }
    }

    /// Removes an image from the trash that has no name any more.
    pub(super) fn remove_from_trash(&self, id: &str, operation: &'static str) -> Result<()> {
        let removed = match self.remove_entry(id) {
            Err(error) if matches!(error.errno, Errno::EUCLEAN | Errno::EBUSY) => match self.finish_move(id) {
                Ok(()) => self.remove_entry(id),
                // It was for another reason.
                Err(_) => Err(error),
            },
            removed => removed,
        };
        removed.map_err(|error| {
            let busy = error.errno == Errno::EBUSY;
            let error = self.failed(error, operation, "cannot remove the image from the trash");
            if busy { self.watched(id, error, operation) } else { error }
        })
    }

    fn remove_entry(&self, id: &str) -> Result<(), Failed> {
        let wait = Wait::new(REMOVAL_LIMIT, CancelToken::new());
        match self.pool.remove_trash(id, Deferment::Ignore, &wait) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            removed => removed,
        }
    }

    /// Ends a move to the trash that was killed: librbd takes it up by the name that the image had, if no other has that.
    fn finish_move(&self, id: &str) -> Result<(), Failed> {
        let not_there = Failed { call: "rbd_trash_get", errno: Errno::ENOENT };
        let entry = self.pool.trash_entry(id)?.ok_or_else(|| not_there.clone())?;
        match self.pool.image_ids(&[&entry.name])?.iter().any(Option::is_some) {
            true => Err(not_there),
            false => self.pool.trash(&entry.name, Duration::ZERO),
        }
    }

    /// Removes old roots of the volume from the trash whose time has come; returns which notes are done with.
    pub(super) fn tidy_trash(&self, operation: &'static str) -> Result<(Tidied, Vec<String>)> {
        let told = |error| self.failed(error, operation, "cannot read what is in the trash of the volume's roots");
        let (mut tidied, mut done) = (Tidied::Nothing, Vec::new());
        for (id, moved) in notes::below(&self.pool, &notes::trash(self.name.image(), "")).map_err(told)? {
            let entry = self.pool.trash_entry(&id).map_err(told)?.filter(|entry| self.is_root(entry, &moved));
            if self.pool.image_name(&id).map_err(told)?.is_some() {
                // It never came to be there, or was brought back.
                self.drop_entry(&id, entry.as_ref(), operation)?;
            } else if let Some(entry) = entry {
                if entry.deferment_end > SystemTime::now() {
                    continue;
                }
                match self.remove_trashed(&id, &entry, operation) {
                    Ok(()) => tidied = Tidied::Something,
                    // It keeps nobody from a rebuild; the next one tries again.
                    Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::HasDependents) => {
                        crate::trace::warning!(volume = %self.name, %error, "an old root stays in the trash");
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            done.push(notes::trash(self.name.image(), &id));
        }
        Ok((tidied, done))
    }

    /// Whether an entry is of a root of this volume, from when it was moved there: a person may have brought the image back since, and thrown it away again.
    fn is_root(&self, entry: &TrashEntry, moved: &[u8]) -> bool {
        let named = [Slot::Staged, Slot::Retired].iter().any(|slot| self.name.slot(*slot) == entry.name);
        named && (moved.is_empty() || moved == seconds(entry.deleted).to_string().as_bytes())
    }

    /// Removes an old root that was moved to the trash before, and what this host still maps of it.
    fn remove_trashed(&self, id: &str, entry: &TrashEntry, operation: &'static str) -> Result<()> {
        mapped::release(&self.target(&entry.name, id), operation).map_err(|error| self.add_volume(error))?;
        self.remove_snapshots_of(id, operation)?;
        self.remove_from_trash(id, operation)
    }

    /// Notes when an image was moved to the trash in which it is to stay.
    pub(super) fn note_trashed(&self, id: &str, operation: &'static str) -> Result<()> {
        let told = |error| self.failed(error, operation, "cannot note when the image was moved to the trash");
        let Some(entry) = self.pool.trash_entry(id).map_err(told)? else { return Ok(()) };
        let moved = seconds(entry.deleted).to_string().into_bytes();
        notes::write(&self.pool, &[(notes::trash(self.name.image(), id), moved)]).map_err(told)
    }

    /// Before a root that was to go becomes live again: whatever was begun to remove it is forgotten first.
    pub(super) fn keep_from_trash(&self, operation: &'static str) -> Result<()> {
        let Some(id) = self.id_of(Slot::Retired, operation)? else { return Ok(()) };
        let told = |error| self.failed(error, operation, "cannot look into the trash");
        let entry = self.pool.trash_entry(&id).map_err(told)?;
        self.drop_entry(&id, entry.as_ref(), operation)?;
        notes::remove(&self.pool, &[notes::trash(self.name.image(), &id)]).map_err(told)
    }

    /// Removes the entry of an image that has a name: whoever purges the trash would remove the image.
    fn drop_entry(&self, id: &str, entry: Option<&TrashEntry>, operation: &'static str) -> Result<()> {
        if entry.is_none() {
            return Ok(());
        }
        let dropped = self.pool.remove_omap(OBJECT, &[format!("{ENTRY}{id}")]);
        dropped.map_err(|error| self.failed(error, operation, "cannot take an image that has a name out of the trash"))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// As long as librbd can count: it has 32 bits for the second in which the time is over.
pub(super) fn delay(asked: Duration) -> Duration {
    let most = u64::from(u32::MAX).saturating_sub(seconds(SystemTime::now()));
    Duration::from_secs(asked.as_secs().saturating_add(u64::from(asked.subsec_nanos() > 0)).min(most))
}
