//! What can be seen of a volume.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::mapped::{self, Mapped, Shown, What, Writes};
use super::{Captured, CephVolume, Role, TOOL_LIMIT, UnreadablePolicy, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{self, Device, FilesystemKind, Recipe};
use crate::progress::{CancelToken, Wait};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::ceph::{Access, Image, Which};
use crate::text::Escaped;
use crate::volume::{Holder, Names, Slot};

/// What begins so in an image's metadata is ours.
pub(super) const OURS: &str = "reroot.";
/// The record of a base, where it is read without mapping its image.
pub(super) const RECORD: &str = "reroot.record";
/// How the feature exclusive-lock calls its locks, which are handed over.
pub(super) const LOCK_OF_FEATURE: &str = "auto ";
/// How long whoever has a device open and is not known is taken for someone who looks at it.
const BRIEF: Duration = Duration::from_secs(1);
const BRIEF_STEP: Duration = Duration::from_millis(20);
/// How long what an open image shows is taken for what there is.
const FRESH: Duration = Duration::from_millis(200);
/// How often the names and the notes are read anew where they do not fit together: a rebuild is on its way.
const LOOKS: u32 = 4;
const LOOK_STEP: Duration = Duration::from_millis(50);

/// An image that was opened to be looked at.
#[derive(Debug)]
pub(super) struct Look {
    id: String,
    opened: Instant,
    image: Arc<Image>,
}

const SLOTS: [Slot; 3] = [Slot::Live, Slot::Staged, Slot::Retired];

impl CephVolume {
    /// The ids of the images of the three slots, by one read; a stranger's image under one of our names is an error naming it.
    pub(super) fn ids(&self, operation: &'static str) -> Result<[Option<String>; 3]> {
        let names = SLOTS.map(|slot| self.name.slot(slot));
        let [live, staged, retired] = names.each_ref();
        let keys = [notes::made(staged), notes::made(retired)];
        let mut looks = 0;
        loop {
            let ids = self.pool.image_ids(&[live, staged, retired]);
            let ids = ids.map_err(|error| self.failed(error, operation, "cannot read the names of the images"))?;
            let mut ids = ids.into_iter();
            let ids: [Option<String>; 3] = std::array::from_fn(|_| ids.next().flatten());
            let [_, staged_id, retired_id] = ids.each_ref();
            if staged_id.is_none() && retired_id.is_none() {
                return Ok(ids);
            }
            let made = notes::read(&self.pool, &keys);
            let made = made.map_err(|error| self.failed(error, operation, "cannot read what is noted of the images"))?;
            let is_ours = |name: &str, id: &str| made.get(&notes::made(name)).is_some_and(|noted| notes::is_of(noted, id));
            let stranger = [(staged, staged_id), (retired, retired_id)]
                .into_iter()
                .find(|(name, id)| id.as_deref().is_some_and(|id| !is_ours(name, id)))
                .map(|(name, _)| name);
            let Some(name) = stranger else { return Ok(ids) };
            looks += 1;
            if looks == LOOKS {
                let full = format!("{}/{name}", self.name.place());
                let error = Error::new(ErrorKind::AlreadyExists, operation, format!("{full} was not made by this library"));
                let remedy = format!("rename it, for the name is reserved: rbd rename {full} OTHER");
                return Err(self.add_volume(error).with_remedy(remedy));
            }
            std::thread::sleep(LOOK_STEP);
        }
    }

    pub(super) fn state_names(&self) -> Result<Names> {
        let [live, staged, retired] = self.ids("look at the volume")?.map(|id| id.is_some());
        Ok(Names { live, staged, retired })
    }

    /// The id of the image of a slot, which stays with it through renames.
    pub(super) fn id_of(&self, slot: Slot, operation: &'static str) -> Result<Option<String>> {
        let [live, staged, retired] = self.ids(operation)?;
        Ok(match slot {
            Slot::Live => live,
            Slot::Staged => staged,
            Slot::Retired => retired,
        })
    }

    /// The live root, or the retired one of an interrupted in-place rebuild.
    pub(super) fn root(&self, operation: &'static str) -> Result<Option<(Slot, String)>> {
        let [live, _, retired] = self.ids(operation)?;
        Ok(live.map(|id| (Slot::Live, id)).or_else(|| Some((Slot::Retired, retired?))))
    }

    /// Opens an image to look at it, which leaves no watch. One that was opened a moment ago shows what it did then: opening takes as long as all that is asked.
    pub(super) fn look_at(&self, id: &str, operation: &'static str) -> Result<Arc<Image>> {
        let mut last = self.last_look.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = last.as_ref().filter(|look| look.id == id && look.opened.elapsed() < FRESH) {
            return Ok(Arc::clone(&look.image));
        }
        let image = self.pool.open(&Which::Id(id), Access::ReadOnly);
        let image = Arc::new(image.map_err(|error| self.failed(error, operation, "cannot open the image"))?);
        *last = Some(Look { id: id.to_owned(), opened: Instant::now(), image: Arc::clone(&image) });
        Ok(image)
    }

    /// Has the next look see what was just changed.
    pub(super) fn look_anew(&self) {
        *self.last_look.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn state_holders(&self) -> Result<Vec<Holder>> {
        const OPERATION: &str = "find out who uses the volume";
        let wait = Wait::new(BRIEF, CancelToken::new());
        let name = self.name.image();
        let mut released = false;
        loop {
            let Some(id) = self.id_of(Slot::Live, OPERATION)? else { return Ok(Vec::new()) };
            let target = self.target(name, &id);
            let here = mapped::shown(&target, OPERATION).map_err(|error| self.add_volume(error))?;
            if !released && here.is_any() {
                released = true;
                mapped::release_left(&target, OPERATION).map_err(|error| self.add_volume(error))?;
                continue;
            }
            let holders = self.who_holds(&id, &here, OPERATION)?;
            if !holders.is_empty() {
                self.look_anew();
            }
            // Whenever a device comes or was written to, udev has a look at it; and so has another process of this library.
            let lasts = |holder: &Holder| !matches!(holder, Holder::Process { command, .. } if command.contains("udev"));
            let last = !here.is_ours() && holders.iter().any(lasts);
            if holders.is_empty() || last || !wait.pause(OPERATION, BRIEF_STEP)? {
                return Ok(holders);
            }
        }
    }

    fn who_holds(&self, id: &str, here: &Shown, operation: &'static str) -> Result<Vec<Holder>> {
        let mut holders = Vec::new();
        for device in &here.kernel {
            let users = mapped::holders_of(device);
            if users.is_empty() {
                let what = if device.snapshot == "-" {
                    String::new()
                } else {
                    format!(" (its snapshot {})", Escaped(device.snapshot.as_bytes()))
                };
                holders.push(Holder::Other(format!("mapped on this host as {}{what}", device.node().display())));
            }
            holders.extend(users);
        }
        holders.extend(here.nbd.iter().map(|node| Holder::Other(format!("mapped on this host as {}", node.display()))));
        let image = self.look_at(id, operation)?;
        let watchers = image.watchers().map_err(|error| self.failed(error, operation, "cannot ask who watches the image"))?;
        let is_known = |client: u64| client == self.pool.instance() || here.kernel.iter().any(|device| device.client == client);
        for watcher in watchers.iter().filter(|watcher| !is_known(watcher.client)) {
            holders.push(Holder::Other(format!("client.{} at {} watches it", watcher.client, Escaped(watcher.address.as_bytes()))));
        }
        let lockers = image.lockers().map_err(|error| self.failed(error, operation, "cannot ask who has locked the image"))?;
        for locker in &lockers.held {
            // The feature exclusive-lock takes one for whoever writes, and takes it away from one that watches no more.
            if !locker.cookie.starts_with(LOCK_OF_FEATURE) {
                let (cookie, client) = (Escaped(locker.cookie.as_bytes()), Escaped(locker.client.as_bytes()));
                holders.push(Holder::Other(format!("locked as {cookie} by {client} at {}", Escaped(locker.address.as_bytes()))));
            }
        }
        Ok(holders)
    }

    /// An image beside the volume, or its own.
    pub(super) fn target<'a>(&'a self, image: &'a str, id: &'a str) -> mapped::Target<'a> {
        mapped::Target { cluster: &self.cluster, pool: &self.pool, place: self.name.place(), image, id }
    }

    /// Maps an image of the volume.
    pub(super) fn map(&self, slot: Slot, image: &Image, writes: Writes, operation: &'static str) -> Result<Mapped> {
        let told = |error| self.failed(error, operation, "cannot look at the image");
        let (name, id) = (self.name.slot(slot), image.id().map_err(told)?);
        let what = What { of: self.target(&name, &id), snapshot: None, features: image.features().map_err(told)?, writes };
        mapped::map(&what, self.mapping, operation).map_err(|error| self.add_volume(error))
    }

    /// Asks something of a root's device, which is mapped for reading meanwhile. Whoever else uses the image does not notice.
    pub(super) fn while_mapped<T>(
        &self,
        slot: Slot,
        image: &Image,
        writes: Writes,
        operation: &'static str,
        question: impl FnOnce(&Device<'_>) -> Result<T>,
    ) -> Result<T> {
        self.ask_mapped(slot, image, writes, operation, question)?
    }

    /// The same; the outer error is for what could not be mapped or unmapped, and says nothing of what is on it.
    fn ask_mapped<T>(
        &self,
        slot: Slot,
        image: &Image,
        writes: Writes,
        operation: &'static str,
        question: impl FnOnce(&Device<'_>) -> Result<T>,
    ) -> Result<Result<T>> {
        let mapped = self.map(slot, image, writes, operation)?;
        let wait = Wait::new(TOOL_LIMIT, CancelToken::new());
        let answer = question(&Device { path: mapped.node(), operation, wait: &wait }).map_err(|error| self.add_volume(error));
        let unmapped = mapped.unmap(operation).map_err(|error| self.add_volume(error));
        match answer {
            // A cluster that is away looks like a filesystem that is damaged.
            Err(error) if error.kind() == ErrorKind::Io => match image.watchers() {
                Ok(_) => Ok(Err(error)),
                Err(silent) => Err(self.failed(silent, operation, "cannot reach the image").with_source(error)),
            },
            Err(error) => Ok(Err(error)),
            Ok(answer) => unmapped.map(|()| Ok(answer)),
        }
    }

    /// The same of a live root that is to be replaced. If its filesystem was not unmounted, its log has to be replayed first, which nobody may be in the way of.
    fn while_replayed<T>(
        &self,
        slot: Slot,
        image: &Image,
        operation: &'static str,
        question: impl Fn(&Device<'_>) -> Result<T>,
    ) -> Result<Result<T>> {
        match self.ask_mapped(slot, image, Writes::Refused, operation, &question)? {
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
                self.look_anew();
                if let Some(holder) = self.state_holders()?.first() {
                    let why = format!("its filesystem was not unmounted, and is in use: {holder}");
                    return Err(self.add_volume(Error::new(ErrorKind::Busy, operation, why)));
                }
                self.ask_mapped(slot, image, Writes::Allowed, operation, &question)
            }
            answer => Ok(answer),
        }
    }

    pub(super) fn state_record(&self) -> Result<Option<ImageRecord>> {
        const OPERATION: &str = "read the record of the image";
        let Some((slot, id)) = self.root(OPERATION)? else { return Ok(None) };
        let image = self.look_at(&id, OPERATION)?;
        if let Role::Base(_) = self.role {
            let noted = image.metadata().map_err(|error| self.failed(error, OPERATION, "cannot read the image's metadata"))?;
            if let Some(record) = noted.get(RECORD).and_then(|record| ImageRecord::from_bytes(record).ok()) {
                return Ok(Some(record));
            }
        }
        self.while_mapped(slot, &image, Writes::Refused, OPERATION, |device| {
            match filesystem::record(device, &self.options) {
                // In use, or not unmounted: what its log holds may be missing then.
                Err(error) if error.raw_os_error() == Some(libc::EROFS) => filesystem::record_without_log(device, &self.options),
                record => record,
            }
        })
    }

    /// The kind of filesystem and the size that the root has, or that a new one is going to have.
    pub(super) fn form(&self, operation: &'static str) -> Result<(FilesystemKind, ByteSize)> {
        let chosen = self.recipe.as_ref().map(Recipe::kind);
        let Some((slot, id)) = self.root(operation)? else {
            return Ok((chosen.unwrap_or(FilesystemKind::Ext4), self.size));
        };
        let image = self.look_at(&id, operation)?;
        let size = image.size().map_err(|error| self.failed(error, operation, "cannot ask for the image's size"))?;
        if let Some(kind) = chosen {
            return Ok((kind, size));
        }
        let found = self.while_mapped(slot, &image, Writes::Refused, operation, |device| device.probe())?;
        let nothing = || {
            self.add_volume(Error::new(ErrorKind::Unsupported, operation, "there is no filesystem on it"))
                .with_remedy("say of which kind its bases are: with_recipe")
        };
        Ok((found.ok_or_else(nothing)?.kind, size))
    }

    pub(super) fn capture_live(&mut self) -> Result<()> {
        const OPERATION: &str = "read the properties of the live root";
        (self.captured, self.begun) = (None, false);
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let Some((slot, id)) = self.root(OPERATION)? else { return Ok(()) };
        let image = self.look_at(&id, OPERATION)?;
        let told = |error| self.failed(error, OPERATION, "cannot ask for the image's properties");
        let (size, layout) = (image.size().map_err(told)?, image.layout().map_err(told)?);
        let mut metadata = image.metadata().map_err(told)?;
        metadata.retain(|key, _| !key.starts_with(OURS));
        let captured = self.while_replayed(slot, &image, OPERATION, |device| filesystem::capture(device, &self.options))?;
        let (kind, top) = match captured {
            Ok((kind, top)) => (Some(kind), Ok(top)),
            Err(error) if self.unreadable == UnreadablePolicy::Replace && filesystem::is_damage(error.kind()) => {
                (None, Err(error.to_string()))
            }
            Err(error) if filesystem::is_damage(error.kind()) => {
                return Err(error.with_remedy("mend the filesystem, or have the rebuild replace what cannot be read"));
            }
            Err(error) => return Err(error),
        };
        self.captured = Some(Captured { id, slot, size, layout, metadata, kind, top, recipe: None });
        Ok(())
    }
}
