//! Making a root beside the live one, and finishing it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;

use super::mapped::{Mapped, Writes};
use super::name::ImageName;
use super::state::RECORD;
use super::{CephVolume, ClonePolicy, Role, Staging, TOOL_LIMIT, bases, notes};
use crate::error::{Error, ErrorKind, Result, Space};
use crate::filesystem::{self, Abandon, CloneSize, Device, FilesystemKind, Recipe, Staged, Start, Storage, smallest};
use crate::progress::{CancelToken, Wait};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::ceph::{Access, Failed, Image, Mirroring, Shrink, Which};
use crate::text::Escaped;
use crate::volume::{RootMetadata, Slot, StageSpec, VolumeId, Warning};

const OPERATION: &str = "stage a root";
/// How often a pool is asked again that is about to have room.
const ROOM_STEP: Duration = Duration::from_millis(200);
/// A device has whole sectors.
const SECTOR: ByteSize = ByteSize::from_bytes(512);

impl CephVolume {
    /// Refuses what [`stage_root`](Self::stage_root) cannot do, and a live root that could not be removed in the end.
    pub(super) fn check_stage(&self, spec: &StageSpec) -> Result<()> {
        let root = self.root(OPERATION)?;
        let live = root.as_ref().map(|(_, id)| self.look_at(id, OPERATION)).transpose()?;
        let size = self.size_of(spec, live.as_deref())?;
        if let Some(base) = &spec.base {
            self.check_base(base, size)?;
        }
        // Of a live root the kind is known once it was captured: then it is large enough already.
        let kind = self.recipe.as_ref().map_or(FilesystemKind::Ext4, Recipe::kind);
        if size < smallest(kind) {
            let why = format!("{kind} needs {} or more, and it would have {size}", smallest(kind));
            return Err(self.add_volume(Error::new(ErrorKind::TooSmall, OPERATION, why)).with_remedy("ask for a larger size"));
        }
        live.map_or(Ok(()), |live| self.refuse_bound(&live))
    }

    /// Refuses an image that other hosts' copies or other images go with.
    fn refuse_bound(&self, live: &Image) -> Result<()> {
        let told = |error| self.failed(error, OPERATION, "cannot ask what the image belongs to");
        let (group, mirrored) = (live.group().map_err(told)?, live.mirrored().map_err(told)?);
        let spec = self.name.spec(Slot::Live);
        let (why, remedy) = match (group, mirrored) {
            (Some(group), _) => (
                format!("its image is a member of the group {:?}", Escaped(group.name.as_bytes()).to_string()),
                format!("take it out of the group: rbd group image rm GROUP {spec}"),
            ),
            (None, Mirroring::Off) => return Ok(()),
            (None, _) => {
                ("its image is mirrored to another cluster".to_owned(), format!("end that: rbd mirror image disable {spec}"))
            }
        };
        Err(self.add_volume(Error::new(ErrorKind::Unsupported, OPERATION, why)).with_remedy(remedy))
    }

    /// The size of a new root.
    fn size_of(&self, spec: &StageSpec, live: Option<&Image>) -> Result<ByteSize> {
        let kept = match (spec.size, &self.captured, live) {
            (Some(asked), ..) => asked,
            // In place, the old root is gone by now.
            (None, Some(captured), _) => captured.size,
            (None, None, Some(live)) => {
                live.size().map_err(|error| self.failed(error, OPERATION, "cannot ask for the image's size"))?
            }
            (None, None, None) => self.size,
        };
        Ok(kept.round_up(SECTOR))
    }

    /// The image of a base, which has to be in the same pool and namespace.
    fn base_name(&self, base: &VolumeId) -> Result<ImageName> {
        let other = |why: &str| {
            let error = self.add_volume(Error::new(ErrorKind::Unsupported, OPERATION, why)).with_context("base", base);
            error.with_remedy("make the base in the volume's own pool")
        };
        if base.scheme() != "ceph" {
            return Err(other("the base is of another backend"));
        }
        let name: ImageName = base.name().to_str().unwrap_or_default().parse()?;
        if name.place() != self.name.place() {
            return Err(other("the base is in another pool or namespace"));
        }
        Ok(name)
    }

    /// Refuses a base that is not complete, or larger than the volume.
    fn check_base(&self, base: &VolumeId, size: ByteSize) -> Result<()> {
        let name = self.base_name(base)?;
        let missing = || self.no_base().with_context("base", base);
        let ids = self.pool.image_ids(&[name.image()]);
        let id = ids.map_err(|error| self.failed(error, OPERATION, "cannot find the base"))?.pop().flatten().ok_or_else(missing)?;
        let image = self.look_at(&id, OPERATION)?;
        let told = |error| self.failed(error, OPERATION, "cannot look at the base");
        if !image.snapshots().map_err(told)?.iter().any(|snapshot| snapshot.name == bases::SNAPSHOT) {
            return Err(missing());
        }
        self.check_size(image.size().map_err(told)?, size).map_err(|error| error.with_context("base", base))
    }

    fn no_base(&self) -> Error {
        self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is no such base"))
    }

    /// Refuses a base that is larger than the volume.
    fn check_size(&self, base: ByteSize, size: ByteSize) -> Result<()> {
        if base <= size {
            return Ok(());
        }
        let why = format!("the base has {base}, and the volume {size}");
        let error = self.add_volume(Error::new(ErrorKind::NoSpace(Space::Quota), OPERATION, why));
        Err(error.with_remedy("ask for a larger size, or make the base smaller"))
    }

    pub(super) fn stage_root(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        self.staging = Staging::default();
        let [live, staged, _] = self.ids(OPERATION)?;
        if staged.is_some() {
            let error = Error::new(ErrorKind::AlreadyExists, OPERATION, "there is a staged root already");
            return Err(self.add_volume(error).with_remedy("run recover"));
        }
        let live = if self.captured.is_none() { live.map(|id| self.look_at(&id, OPERATION)).transpose()? } else { None };
        let size = self.size_of(spec, live.as_deref())?;
        let base = spec.base.as_ref().map(|base| self.base_name(base)).transpose()?;
        self.announce(Slot::Staged, "", OPERATION)?;
        self.begun = true;
        self.mend_name(Slot::Staged, OPERATION)?;
        let ready = match self.make(size, base.as_ref()) {
            // Somebody else has made it just now.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
            made => made.and_then(|()| self.make_ready(spec, size)),
        };
        if ready.is_err() {
            self.staging = Staging::default();
            let _ = self.remove_root(Slot::Staged);
        }
        ready
    }

    /// Makes the image.
    fn make(&self, size: ByteSize, base: Option<&ImageName>) -> Result<()> {
        let staged = self.name.slot(Slot::Staged);
        let kept = self.captured.as_ref().map(|captured| captured.layout.clone());
        let mut layout = kept.unwrap_or_default();
        if self.data_pool.is_some() {
            layout.data_pool.clone_from(&self.data_pool);
        }
        let wait = self.wait_for_room();
        let made = loop {
            let made = match base {
                Some(base) => self.pool.clone_image(base.image(), bases::SNAPSHOT, &staged, &layout),
                None => self.pool.create(&staged, size, &layout),
            };
            match (made, base) {
                (Err(error), Some(base)) if error.errno == Errno::ENOENT => return Err(self.no_base().with_context("base", base)),
                (Err(error), _) if matches!(error.errno, Errno::ENOSPC | Errno::EDQUOT) && wait.pause(OPERATION, ROOM_STEP)? => {}
                (made, _) => break made,
            }
        };
        made.map_err(|error| self.failed(error, OPERATION, "cannot make the staged image"))
    }

    fn make_ready(&mut self, spec: &StageSpec, size: ByteSize) -> Result<OwnedFd> {
        let recipe = if spec.base.is_none() { Some(self.recipe_for(spec, size)?) } else { None };
        let id = self.id_of(Slot::Staged, OPERATION)?;
        let id = id.ok_or_else(|| self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "the staged image is gone")))?;
        self.announce(Slot::Staged, &id, OPERATION)?;
        let image = self.look_at(&id, OPERATION)?;
        let made = image.size().map_err(|error| self.failed(error, OPERATION, "cannot ask for the staged image's size"))?;
        self.check_size(made, size)?;
        let is_larger = made < size;
        self.finish_image(is_larger.then_some(size))?;
        let mapped = self.map_staged(&image)?;
        let (client, node) = (mapped.client(), mapped.node().to_owned());
        self.staging.mapped = Some(mapped);
        if let Some(client) = client {
            let noted = notes::write(&self.pool, &[(notes::mapped(&self.name.slot(Slot::Staged)), client.into_bytes())]);
            noted.map_err(|error| self.failed(error, OPERATION, "cannot note who fills the staged image"))?;
        }
        let wait = Wait::new(TOOL_LIMIT, CancelToken::new());
        let device = Device { path: &node, operation: OPERATION, wait: &wait };
        let start = match &recipe {
            Some(recipe) => Start::Empty(recipe, Storage::Zeroed),
            None => {
                let larger = if is_larger { CloneSize::Larger(size) } else { CloneSize::OfBase };
                Start::Clone(self.kind_of_base(&device)?, larger)
            }
        };
        let top = self.captured.as_ref().and_then(|captured| captured.top.as_ref().ok());
        let begun = Staged::begin(&device, start, top, &self.options);
        let (filesystem, root) = begun.map_err(|error| self.explain_full(self.add_volume(error)))?;
        self.staging.filesystem = Some(filesystem);
        Ok(root)
    }

    /// Maps the staged image. In place, a pool that was full may not have room for that yet.
    fn map_staged(&self, image: &Image) -> Result<Mapped> {
        let wait = self.wait_for_room();
        loop {
            match self.map(Slot::Staged, image, Writes::Allowed, OPERATION) {
                Err(error) if matches!(error.kind(), ErrorKind::NoSpace(_)) && wait.pause(OPERATION, ROOM_STEP)? => {}
                mapped => return mapped,
            }
        }
    }

    /// How long a pool may take to have room again: what the old root took is given back by and by.
    fn wait_for_room(&self) -> Wait {
        let patience = if self.is_without_root() { self.cluster.deadline() } else { Duration::ZERO };
        Wait::new(patience, CancelToken::new())
    }

    /// Gives the image the old one's metadata, and a clone its size.
    fn finish_image(&self, size: Option<ByteSize>) -> Result<()> {
        let metadata = self.captured.as_ref().map(|captured| &captured.metadata).filter(|metadata| !metadata.is_empty());
        if size.is_none() && metadata.is_none() {
            return Ok(());
        }
        let told = |what: &'static str| move |error| self.failed(error, OPERATION, what);
        let image = self.pool.open(&Which::Name(&self.name.slot(Slot::Staged)), Access::Write);
        let image = image.map_err(told("cannot open the staged image"))?;
        for (key, value) in metadata.into_iter().flatten() {
            image.set_metadata(key, value).map_err(told("cannot keep the old image's metadata"))?;
        }
        size.map_or(Ok(()), |size| self.resize(&image, size)).map_err(told("cannot give the staged image its size"))
    }

    fn resize(&self, image: &Image, size: ByteSize) -> Result<(), Failed> {
        image.resize(size, Shrink::Refuse, &Wait::new(TOOL_LIMIT, CancelToken::new()))
    }

    /// The kind of a base that was just cloned, which has to be the volume's.
    fn kind_of_base(&self, device: &Device<'_>) -> Result<FilesystemKind> {
        let add = |error| self.add_volume(error);
        let found = match device.sniff().map_err(add)? {
            Some(kind) => Some(kind),
            None => device.probe().map_err(add)?.map(|found| found.kind),
        };
        let own = self.recipe.as_ref().map(Recipe::kind).or(self.captured.as_ref().and_then(|captured| captured.kind));
        filesystem::kind_of_clone(found, own, OPERATION).map_err(|error| self.add_volume(error))
    }

    /// How the filesystem of a new root is made: with as many inodes as the image has entries.
    fn recipe_for(&mut self, spec: &StageSpec, size: ByteSize) -> Result<Recipe> {
        self.keep_recipe(OPERATION)?;
        let kept = self.captured.as_ref().and_then(|captured| captured.recipe.as_ref());
        let recipe = self.recipe.as_ref().or(kept).cloned().unwrap_or_else(|| Recipe::new(FilesystemKind::Ext4));
        Ok(recipe.with_room_for(spec.entries, size))
    }

    /// Finds out how the live root's filesystem was made, if that is how the new one is to be made.
    pub(super) fn keep_recipe(&mut self, operation: &'static str) -> Result<()> {
        let Some(captured) = self.captured.as_ref().filter(|captured| self.recipe.is_none() && captured.recipe.is_none()) else {
            return Ok(());
        };
        let (slot, Some(kind)) = (captured.slot, captured.kind) else { return Ok(()) };
        let Some(id) = self.id_of(slot, operation)? else { return Ok(()) };
        let image = self.look_at(&id, operation)?;
        let recipe = self.while_mapped(slot, &image, Writes::Refused, operation, |device| device.recipe(kind))?;
        if let Some(captured) = &mut self.captured {
            captured.recipe = Some(recipe);
        }
        Ok(())
    }

    pub(super) fn grow_staged(&mut self, to: ByteSize) -> Result<ByteSize> {
        const OPERATION: &str = "grow the staged root";
        let missing = || self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is none that is being filled"));
        let (Some(filesystem), Some(mapped)) = (&self.staging.filesystem, &self.staging.mapped) else { return Err(missing()) };
        let told = |error| self.failed(error, OPERATION, "cannot make the staged image larger");
        let image = self.pool.open(&Which::Name(&self.name.slot(Slot::Staged)), Access::Write).map_err(told)?;
        let (now, size) = (image.size().map_err(told)?, to.round_up(SECTOR));
        if size <= now {
            return Ok(now);
        }
        self.resize(&image, size).map_err(told)?;
        // It may have taken the image's lock, which the kernel needs for what it writes from here on.
        drop(image);
        // The kernel hears of it by and by.
        let wait = Wait::new(self.cluster.deadline(), CancelToken::new());
        let device = Device { path: mapped.node(), operation: OPERATION, wait: &wait };
        while device.size().map_err(|error| self.add_volume(error))? < size {
            if !wait.pause(OPERATION, Duration::from_millis(5))? {
                let why = format!("{} did not become larger with its image", mapped.node().display());
                return Err(self.add_volume(Error::new(ErrorKind::TimedOut, OPERATION, why)));
            }
        }
        filesystem.grow(size, OPERATION).map_err(|error| self.add_volume(error))?;
        Ok(size)
    }

    pub(super) fn seal_staged(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        const OPERATION: &str = "seal the staged root";
        let (Some(filesystem), Some(mapped)) = (self.staging.filesystem.take(), self.staging.mapped.take()) else {
            return Err(self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is none that was filled")));
        };
        let top = self.captured.as_ref().map(|captured| &captured.top);
        let keep = top.and_then(|top| top.as_ref().ok()).filter(|_| root == RootMetadata::Keep);
        let abandon = filesystem.abandon();
        let sealed = filesystem.seal(keep, record, OPERATION).map_err(|error| self.add_volume(error));
        let mut warnings = match (sealed, abandon) {
            (Ok(warnings), _) => warnings,
            (Err(error), abandon) => {
                abandon.into_iter().for_each(Abandon::now);
                return Err(error);
            }
        };
        mapped.unmap(OPERATION).map_err(|error| self.add_volume(error))?;
        let gone = notes::remove(&self.pool, &[notes::mapped(&self.name.slot(Slot::Staged))]);
        gone.map_err(|error| self.failed(error, OPERATION, "cannot remove the note of who fills the staged image"))?;
        if let Some(Err(error)) = top {
            warnings.push(Warning::new(format!("the old root's owner, mode and attributes could not be kept: {error}")));
        }
        self.complete(record, OPERATION)?;
        Ok(warnings)
    }

    /// What is done to an image that nobody maps any more.
    fn complete(&self, record: &ImageRecord, operation: &'static str) -> Result<()> {
        let is_base = matches!(self.role, Role::Base(_));
        if !is_base && self.clones == ClonePolicy::Linked {
            return Ok(());
        }
        let told = |what: &'static str| move |error| self.failed(error, operation, what);
        let image = self.pool.open(&Which::Name(&self.name.slot(Slot::Staged)), Access::Write);
        let image = image.map_err(told("cannot open the staged image"))?;
        if self.clones == ClonePolicy::Flattened && image.parent().map_err(told("cannot ask for the image's parent"))?.is_some() {
            self.flatten(&image, operation)?;
        }
        if is_base {
            image.set_metadata(RECORD, &record.to_bytes()).map_err(told("cannot note what the base was filled from"))?;
            image.create_snapshot(bases::SNAPSHOT).map_err(told("cannot take the snapshot that is cloned"))?;
        }
        Ok(())
    }

    /// Notes that the image of a slot is ours, and its id if it has one by now.
    pub(super) fn announce(&self, slot: Slot, id: &str, operation: &'static str) -> Result<()> {
        let mut notes = vec![(notes::made(&self.name.slot(slot)), id.as_bytes().to_owned())];
        if let Role::Base(name) = &self.role {
            notes.push((notes::base(self.name.image()), name.to_string().into_bytes()));
        }
        let noted = notes::write(&self.pool, &notes);
        noted.map_err(|error| self.failed(error, operation, "cannot note that the image is ours"))
    }
}
