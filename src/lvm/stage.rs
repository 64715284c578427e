//! Making a root beside the live one, and finishing it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::device::Links;
use super::name::{device, pool_device};
use super::report::{Activation, Group, Layout, Volume};
use super::watch::Watch;
use super::{Lies, LvmVolume, MADE, Role, Staging, command};
use super::{bases, note};
use crate::error::{Error, ErrorKind, Result, Space};
use crate::filesystem::{self, CloneSize, Device, FilesystemKind, Recipe, Staged, Start, Storage, smallest};
use crate::progress::{CancelToken, Wait};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::zero;
use crate::volume::{RootMetadata, Slot, StageSpec, VolumeId, Warning};

const OPERATION: &str = "stage a root";
/// How long zeroing may take, and what a device writes in a second at least.
const ZEROING_LIMIT: Duration = Duration::from_secs(60);
const SLOWEST_ZEROING: u64 = 4 << 20;

impl LvmVolume {
    /// Refuses what [`stage_root`](Self::stage_root) cannot do.
    pub(super) fn check_stage(&self, spec: &StageSpec) -> Result<()> {
        let group = self.look(OPERATION)?;
        let size = self.size_of(&group, spec);
        if let Some(base) = &spec.base {
            self.base_in(&group, base, size)?;
        }
        // Of a live root the kind is known once it was captured: then it is large enough already.
        let kind = self.recipe.as_ref().map_or(FilesystemKind::Ext4, Recipe::kind);
        if size < smallest(kind) {
            let why = format!("{kind} needs {} or more, and it would have {size}", smallest(kind));
            return Err(self.add_volume(Error::new(ErrorKind::TooSmall, OPERATION, why)).with_remedy("ask for a larger size"));
        }
        if self.lies == Lies::Thin {
            self.pool_of(&group, OPERATION)?;
            // Those of a thick volume are snapshots by the policy.
            self.refuse_dependents(&group, self.name.name(), OPERATION)?;
        }
        Ok(())
    }

    /// The size of a new root, in whole extents.
    fn size_of(&self, group: &Group, spec: &StageSpec) -> ByteSize {
        // In place, the old root is gone by now.
        let live = self.root_in(group).or(self.captured.as_ref().map(|captured| &captured.volume));
        let size = spec.size.or_else(|| live.map(|volume| volume.size)).unwrap_or(self.size);
        size.round_up(group.extent)
    }

    /// The logical volume of a base, which has to lie in the same pool and to be no larger than the volume.
    fn base_in<'a>(&self, group: &'a Group, base: &VolumeId, size: ByteSize) -> Result<&'a Volume> {
        let refuse = |kind, why: String| self.add_volume(Error::new(kind, OPERATION, why)).with_context("base", base);
        let other =
            |why: &str| refuse(ErrorKind::Unsupported, why.to_owned()).with_remedy("make the base in the volume's own thin pool");
        if base.scheme() != "lvm" {
            return Err(other("the base is of another backend"));
        }
        let name = base.name().to_str().unwrap_or_default();
        let Some(name) = name.strip_prefix(self.name.group()).and_then(|rest| rest.strip_prefix('/')) else {
            return Err(other("the base is in another volume group"));
        };
        let found = group.find(name).filter(|found| found.is_read_only());
        let found = found.ok_or_else(|| refuse(ErrorKind::NotFound, "there is no such base".to_owned()))?;
        if found.pool.as_deref() != Some(self.pool_of(group, OPERATION)?.as_str()) {
            return Err(other("the base is in another thin pool"));
        }
        if found.size > size {
            let why = format!("the base has {}, and the volume {size}", found.size);
            return Err(
                refuse(ErrorKind::NoSpace(Space::Quota), why).with_remedy("ask for a larger size, or make the base smaller")
            );
        }
        Ok(found)
    }

    pub(super) fn stage_root(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        self.staging = Staging::default();
        let group = self.look(OPERATION)?;
        let staged = self.name.slot(Slot::Staged);
        if group.find(&staged).is_some() {
            let error = Error::new(ErrorKind::AlreadyExists, OPERATION, "there is a staged root already");
            return Err(self.add_volume(error).with_remedy("run recover"));
        }
        let size = self.size_of(&group, spec);
        let base = spec.base.as_ref().map(|base| self.base_in(&group, base, size)).transpose()?;
        let pool = if self.lies == Lies::Thin { Some(self.pool_of(&group, OPERATION)?) } else { None };
        if let Some(pool) = &pool {
            self.refuse_suspended(&pool_device(self.name.group(), pool), OPERATION)?;
        }
        let links = self.links_in(pool.as_deref(), OPERATION)?;
        let arguments = self.arguments(&staged, size, base, pool.as_deref(), links);
        let made = self.lvm.run("lvcreate", &arguments, OPERATION)?;
        self.seen.forget();
        made.success(OPERATION).map_err(|error| self.not_made(error))?;
        self.staging.begun = true;
        let ready = self.make_ready(spec, &group, size, base, pool.as_deref());
        if ready.is_err() {
            self.staging = Staging::default();
            let _ = self.remove_root(Slot::Staged);
        }
        ready
    }

    /// What `lvcreate` is called with.
    fn arguments(&self, staged: &str, size: ByteSize, base: Option<&Volume>, pool: Option<&str>, links: Links) -> Vec<String> {
        let common = ["--yes", "--name", staged, "--activate", "y", "--ignoreactivationskip", "--addtag", MADE];
        let mut all: Vec<String> = common.into_iter().chain(links.option()).map(str::to_owned).collect();
        let kept = self.captured.as_ref().map(|captured| &captured.volume);
        let mut add = |name: &str, value: &str| all.extend([name.to_owned(), value.to_owned()]);
        if let Role::Base(tag) = &self.role {
            add("--addtag", tag);
        }
        let skipped = matches!(self.role, Role::Base(_)) || kept.is_some_and(|kept| kept.activation == Activation::Skipped);
        add("--setactivationskip", if skipped { "y" } else { "n" });
        if let Some(kept) = kept {
            kept.tags.iter().filter(|tag| *tag != MADE).for_each(|tag| add("--addtag", tag));
            if let Some(policy) = kept.own_allocation().filter(|_| pool.is_none()) {
                add("--alloc", policy);
            }
            match kept.read_ahead.as_str() {
                "auto" => {}
                // Reported in bytes, and set in sectors.
                bytes => add("--readahead", &(bytes.parse::<u64>().unwrap_or_default() / 512).to_string()),
            }
        }
        let bytes = format!("{}b", size.bytes());
        match (base, pool) {
            (Some(base), _) => {
                all.extend(["--snapshot".to_owned(), self.full(&base.name)]);
            }
            (None, Some(pool)) => {
                add("--virtualsize", &bytes);
                add("--thinpool", pool);
                all.extend(["--thin", "--wipesignatures", "n", self.name.group()].map(str::to_owned));
            }
            (None, None) => {
                add("--size", &bytes);
                if let Some(kept) = kept.filter(|kept| kept.layout == Layout::Striped) {
                    add("--stripes", &kept.stripes.to_string());
                    add("--stripesize", &format!("{}b", kept.stripe_size.bytes()));
                }
                all.extend(["--wipesignatures", "n", "--zero", "n", self.name.group()].map(str::to_owned));
            }
        }
        all
    }

    fn not_made(&self, error: Error) -> Error {
        let said = error.message().to_owned();
        let error = self.add_volume(error);
        if said.contains("insufficient free space") || said.contains("Insufficient") {
            return error
                .with_kind(ErrorKind::NoSpace(Space::Pool))
                .with_remedy("extend the volume group (vgextend), or rebuild in place, which needs no room for two roots");
        }
        if said.contains("already exists") {
            // Perhaps it is not ours.
            return self
                .look_again(OPERATION)
                .err()
                .unwrap_or_else(|| error.with_kind(ErrorKind::AlreadyExists).with_remedy("run recover"));
        }
        if said.contains("needs check") && self.has_metadata(OPERATION) {
            let remedy = "see the kernel's log: the pool's disk failed; then deactivate the pool and repair its metadata (lvconvert --repair)";
            return error.with_kind(ErrorKind::Io).with_remedy(remedy);
        }
        // A pool with too little room takes no new volume.
        if said.contains("reached threshold") || said.contains("free metadata") {
            return error.with_kind(ErrorKind::NoSpace(self.fuller(OPERATION)));
        }
        self.explain_full(error)
    }

    fn make_ready(
        &mut self,
        spec: &StageSpec,
        group: &Group,
        size: ByteSize,
        base: Option<&Volume>,
        pool: Option<&str>,
    ) -> Result<OwnedFd> {
        let staged = self.name.slot(Slot::Staged);
        if let Some(pool) = pool {
            self.look_at_pool(pool, &staged, OPERATION)?;
            self.staging.watch = Watch::begin(&pool_device(self.name.group(), pool), &device(self.name.group(), &staged));
            self.check_pool(ByteSize::ZERO)?;
        }
        if base.is_some_and(|base| base.size < size) {
            self.extend(&staged, size, OPERATION)?;
        }
        let node = self.node(&staged, OPERATION)?;
        let wait = command::limit();
        let device = Device { path: &node, operation: OPERATION, wait: &wait };
        let recipe;
        let start = match base {
            Some(base) => {
                let larger = if base.size < size { CloneSize::Larger(size) } else { CloneSize::OfBase };
                Start::Clone(self.kind_of_base(base, &device)?, larger)
            }
            None => {
                recipe = self.recipe_for(spec, size)?;
                // What a pool hands out reads as zeros, unless it is told not to bother.
                let storage = match pool.and_then(|pool| group.find(pool)) {
                    Some(pool) if pool.zeroes => Storage::Zeroed,
                    Some(_) => Storage::Used,
                    None => {
                        // Striped, it may be larger than it was asked for.
                        let end = device.size().map_err(|error| self.add_volume(error))?;
                        self.zero(&node, ByteSize::ZERO, end, OPERATION)?;
                        Storage::Zeroed
                    }
                };
                Start::Empty(&recipe, storage)
            }
        };
        let top = self.captured.as_ref().and_then(|captured| captured.top.as_ref().ok());
        let begun = Staged::begin(&device, start, top, &self.options);
        let (filesystem, root) = begun.map_err(|error| self.explain_full(self.add_volume(error)))?;
        self.staging.filesystem = Some(filesystem);
        // What a clone shares with its base is mapped, and what a new filesystem has written is not of the image.
        if let Some(pool) = pool {
            self.look_at_pool(pool, &staged, OPERATION)?;
        }
        Ok(root)
    }

    /// The kind of a base that was just cloned, which has to be the volume's.
    fn kind_of_base(&self, base: &Volume, device: &Device<'_>) -> Result<FilesystemKind> {
        let found = match bases::kind_by_name(&base.name) {
            Some(kind) => Some(kind),
            None => device.probe().map_err(|error| self.add_volume(error))?.map(|found| found.kind),
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
        let Some(kind) = captured.kind else { return Ok(()) };
        let node = self.node(&captured.volume.name, operation)?;
        let wait = command::limit();
        let recipe = Device { path: &node, operation, wait: &wait }.recipe(kind).map_err(|error| self.add_volume(error))?;
        if let Some(captured) = &mut self.captured {
            captured.recipe = Some(recipe);
        }
        Ok(())
    }

    /// What is set only when a root is complete, as `lvchange` takes it.
    fn last_changes(&self, record: &ImageRecord) -> Vec<String> {
        let mut args = Vec::new();
        let mut add = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        let kept = self.captured.as_ref().map(|captured| &captured.volume);
        if kept.is_some_and(Volume::is_read_only) || matches!(self.role, Role::Base(_)) {
            add("--permission", "r");
        }
        // A new thin volume takes none: it is for what it may become.
        if let Some(policy) = kept.filter(|kept| kept.layout == Layout::Thin).and_then(Volume::own_allocation) {
            add("--alloc", policy);
        }
        if let Role::Base(_) = self.role {
            note::tags(record).iter().for_each(|tag| add("--addtag", tag));
        }
        args
    }

    fn extend(&self, name: &str, size: ByteSize, operation: &'static str) -> Result<()> {
        let size = format!("{}b", size.bytes());
        let args = ["--yes", "--size", &size, &self.full(name)].map(str::to_owned);
        let done = self.lvm.run("lvextend", args, operation)?;
        self.seen.forget();
        done.success(operation).map(drop).map_err(|error| self.not_made(error))
    }

    /// Zeroes what lies on a device between two places: on extents of a thick volume that is what someone else had there.
    fn zero(&self, node: &Path, from: ByteSize, to: ByteSize, operation: &'static str) -> Result<()> {
        let limit = ZEROING_LIMIT + Duration::from_secs(to.saturating_sub(from).bytes() / SLOWEST_ZEROING);
        let wait = Wait::new(limit, CancelToken::new());
        zero::range(node, from, to, operation, &wait).map_err(|error| self.add_volume(error))
    }

    pub(super) fn grow_staged(&mut self, to: ByteSize) -> Result<ByteSize> {
        const OPERATION: &str = "grow the staged root";
        let group = self.look_again(OPERATION)?;
        let staged = self.name.slot(Slot::Staged);
        let missing = || self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is none that is being filled"));
        let now = group.find(&staged).ok_or_else(missing)?.size;
        let size = to.round_up(group.extent);
        if size <= now {
            return Ok(now);
        }
        let filesystem = self.staging.filesystem.as_ref().ok_or_else(missing)?;
        self.extend(&staged, size, OPERATION)?;
        if self.lies == Lies::Thick {
            let node = self.node(&staged, OPERATION)?;
            let wait = command::limit();
            let end = Device { path: &node, operation: OPERATION, wait: &wait }.size().map_err(|error| self.add_volume(error))?;
            self.zero(&node, now, end, OPERATION)?;
        }
        filesystem.grow(size, OPERATION).map_err(|error| self.add_volume(error))?;
        Ok(size)
    }

    pub(super) fn seal_staged(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        const OPERATION: &str = "seal the staged root";
        let staged = self.name.slot(Slot::Staged);
        // What is still on its way has to find room as well.
        if self.staging.filesystem.is_some() {
            self.check_arrival(OPERATION)?;
        }
        let Some(filesystem) = self.staging.filesystem.take() else {
            return Err(self.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is none that was filled")));
        };
        let top = self.captured.as_ref().map(|captured| &captured.top);
        let keep = top.and_then(|top| top.as_ref().ok()).filter(|_| root == RootMetadata::Keep);
        let mut warnings = filesystem.seal(keep, record, OPERATION).map_err(|error| self.add_volume(error))?;
        self.staging.watch = None;
        if let Some(Err(error)) = top {
            warnings.push(Warning::new(format!("the old root's owner, mode and attributes could not be kept: {error}")));
        }
        let mut args = self.last_changes(record);
        if !args.is_empty() {
            self.deactivate(&[&staged], OPERATION)?;
            args.push(self.full(&staged));
            let done = self.lvm.must("lvchange", args, OPERATION);
            self.seen.forget();
            done.map_err(|error| self.add_volume(error))?;
        }
        Ok(warnings)
    }
}
