//! What can be seen of a volume.

use std::time::Duration;

use super::name::{device, pool_device};
use super::report::{Layout, Volume};
use super::{Activity, Captured, Lies, LvmVolume, Role, UnreadablePolicy, command, note};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{self, Device, FilesystemKind, Recipe};
use crate::progress::{CancelToken, Wait};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::dm;
use crate::volume::{Holder, Names, RootId, Slot, Usage};

/// How long whoever has a device open and is not known is taken for someone who looks at it.
const BRIEF: Duration = Duration::from_secs(1);
const BRIEF_STEP: Duration = Duration::from_millis(20);

impl LvmVolume {
    pub(super) fn state_names(&self) -> Result<Names> {
        let group = self.look("look at the volume")?;
        let has = |slot| group.find(&self.name.slot(slot)).is_some();
        Ok(Names { live: has(Slot::Live), staged: has(Slot::Staged), retired: has(Slot::Retired) })
    }

    pub(super) fn state_identity(&self, slot: Slot) -> Result<Option<RootId>> {
        let group = self.look("tell one root from another")?;
        Ok(group.find(&self.name.slot(slot)).map(|volume| RootId::new(volume.uuid.as_str())))
    }

    pub(super) fn state_holders(&self) -> Result<Vec<Holder>> {
        const OPERATION: &str = "find out who uses the volume";
        let name = self.name.name();
        let wait = Wait::new(BRIEF, CancelToken::new());
        loop {
            let holders = match self.state(name, OPERATION)? {
                Some(state) if state.openers > 0 => self.holders_of(name, state)?,
                _ => return Ok(Vec::new()),
            };
            // Whenever a device comes or was written to, udev has a look at it.
            let lasts = |holder: &Holder| match holder {
                Holder::Process { command, .. } => !command.contains("udev"),
                Holder::Other(_) => false,
                _ => true,
            };
            if holders.iter().any(lasts) || !wait.pause(OPERATION, BRIEF_STEP)? {
                return Ok(holders);
            }
        }
    }

    pub(super) fn state_usage(&self) -> Result<Usage> {
        const OPERATION: &str = "measure the space";
        let group = self.look(OPERATION)?;
        let live = group.find(self.name.name());
        let free = match self.lies {
            Lies::Thick => Usage::new(group.free),
            Lies::Thin => {
                let pool = self.pool_of(&group, OPERATION)?;
                let found = self.ask(|| dm::pool(&pool_device(self.name.group(), &pool)), OPERATION)?;
                let report = group.find(&pool);
                match (found, report) {
                    (Some(pool), _) => Usage::new(ByteSize::from_bytes(pool.data_free))
                        .with_free_metadata(ByteSize::from_bytes(pool.metadata_free))
                        .with_chunk(ByteSize::from_bytes(pool.chunk)),
                    // Nothing in it is active: how full it is shows only then.
                    (None, Some(pool)) => Usage::new(pool.size).with_chunk(pool.chunk),
                    (None, None) => Usage::default(),
                }
            }
        };
        let free = free.with_unit(group.extent);
        let Some(live) = live else { return Ok(free) };
        let used = match self.lies {
            Lies::Thick => Some(live.size),
            Lies::Thin => self.ask(|| dm::mapped(&device(self.name.group(), &live.name)), OPERATION)?.map(ByteSize::from_bytes),
        };
        let mut usage = free.with_size(live.size);
        usage.used = used;
        Ok(usage)
    }

    pub(super) fn ask<T>(&self, question: impl FnOnce() -> std::io::Result<T>, operation: &'static str) -> Result<T> {
        question().map_err(|error| {
            self.add_volume(Error::io(operation, "cannot ask device-mapper", error)).with_remedy("run this as root")
        })
    }

    /// The root that is to be read.
    fn live_or_retired(&self, operation: &'static str) -> Result<Option<Volume>> {
        Ok(self.root_in(&*self.look(operation)?).cloned())
    }

    /// Activates a volume if it is not active, and says whether it was.
    fn make_active(&self, volume: &Volume, operation: &'static str) -> Result<Activity> {
        match self.state(&volume.name, operation)? {
            Some(_) => Ok(Activity::Active),
            None => {
                let links = self.links_in(volume.pool.as_deref(), operation)?;
                self.activate(&volume.name, links, operation).map(|()| Activity::Inactive)
            }
        }
    }

    /// Asks something of a volume's device, which is active meanwhile.
    fn while_active<T>(
        &self,
        volume: &Volume,
        operation: &'static str,
        question: impl FnOnce(&Device<'_>) -> Result<T>,
    ) -> Result<(T, Activity)> {
        if let Some(pool) = &volume.pool {
            self.refuse_suspended(&pool_device(self.name.group(), pool), operation)?;
        }
        let activity = self.make_active(volume, operation)?;
        let answer = self.node(&volume.name, operation).and_then(|node| {
            let wait = command::limit();
            question(&Device { path: &node, operation, wait: &wait }).map_err(|error| self.add_volume(error))
        });
        if answer.is_err() {
            self.make_inactive(volume, activity, operation);
        }
        answer.map(|answer| (answer, activity))
    }

    /// Deactivates what was activated only to be looked at. Someone else may have come to use it.
    fn make_inactive(&self, volume: &Volume, activity: Activity, operation: &'static str) {
        if activity == Activity::Inactive {
            let _ = self.deactivate(&[&volume.name], operation);
        }
    }

    pub(super) fn state_record(&self) -> Result<Option<ImageRecord>> {
        const OPERATION: &str = "read the record of the image";
        let Some(volume) = self.live_or_retired(OPERATION)? else { return Ok(None) };
        if let Role::Base(_) = self.role
            && let Some(record) = note::record(&volume)
        {
            return Ok(Some(record));
        }
        let (record, activity) = self.while_active(&volume, OPERATION, |device| filesystem::record(device, &self.options))?;
        self.make_inactive(&volume, activity, OPERATION);
        Ok(record)
    }

    /// The kind of filesystem and the size that the root has, or that a new one is going to have.
    pub(super) fn form(&self, operation: &'static str) -> Result<(FilesystemKind, ByteSize)> {
        let chosen = self.recipe.as_ref().map(Recipe::kind);
        let Some(volume) = self.live_or_retired(operation)? else {
            return Ok((chosen.unwrap_or(FilesystemKind::Ext4), self.size));
        };
        if let Some(kind) = chosen {
            return Ok((kind, volume.size));
        }
        let (found, activity) = self.while_active(&volume, operation, |device| device.probe())?;
        self.make_inactive(&volume, activity, operation);
        let nothing = || self.add_volume(Error::new(ErrorKind::Unsupported, operation, "there is no filesystem on it"));
        Ok((found.ok_or_else(nothing)?.kind, volume.size))
    }

    pub(super) fn capture_live(&mut self) -> Result<()> {
        const OPERATION: &str = "read the properties of the live root";
        self.release();
        let Some(volume) = self.live_or_retired(OPERATION)? else { return Ok(()) };
        if matches!(volume.layout, Layout::Other(_) | Layout::ThinPool) {
            return Err(self.add_volume(Error::new(ErrorKind::Unsupported, OPERATION, "it is neither thin, linear nor striped")));
        }
        let before = self.state(&volume.name, OPERATION)?;
        match self.while_active(&volume, OPERATION, |device| filesystem::capture(device, &self.options)) {
            Ok(((kind, top), activity)) => {
                self.captured = Some(Captured { volume, kind: Some(kind), top: Ok(top), recipe: None, activity });
                Ok(())
            }
            Err(error) if self.unreadable == UnreadablePolicy::Replace && filesystem::is_damage(error.kind()) => {
                let activity = if before.is_some() { Activity::Active } else { Activity::Inactive };
                self.captured = Some(Captured { volume, kind: None, top: Err(error.to_string()), recipe: None, activity });
                Ok(())
            }
            Err(error) if filesystem::is_damage(error.kind()) => {
                Err(error.with_remedy("mend the filesystem, or have the rebuild replace what cannot be read"))
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what was captured, and deactivates the live root again if that activated it.
    pub(super) fn release(&mut self) {
        let Some(captured) = self.captured.take() else { return };
        if captured.activity == Activity::Inactive
            && let Err(_error) = self.deactivate(&[&captured.volume.name], "let go of the volume")
        {
            crate::trace::warning!(volume = %self.name, error = %_error, "it stays active");
        }
    }
}
