//! Making a root beside the live one, filling up what it lacks, and finishing it.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::syncfs;

use super::bases::ORIGIN;
use super::limits::Limits;
use super::name::{DatasetName, c_text};
use super::place::{program, text, unless_busy};
use super::properties::Properties as Made;
use super::{Form, Role, Start, ZfsVolume, command, note, values};
use crate::error::{Error, ErrorKind, Result, Space};
use crate::properties::{self, close, top_of};
use crate::record::ImageRecord;
use crate::size::ByteSize;
use crate::sys::call::retry;
use crate::sys::detached::Access;
use crate::sys::zfs::{Given, Value};
use crate::volume::{Placement, RootMetadata, Slot, StageSpec, VolumeId, Warning};

const OPERATION: &str = "stage a root";

/// What decides whether a new dataset can take the live one's place.
struct Checked {
    /// Whether a new root is being made within the live one: then nothing else is known but the next.
    within: bool,
    /// Whether nothing can be written to the live one.
    read_only: bool,
    children: Vec<String>,
    /// Whose key each has; empty without encryption.
    live: Option<String>,
    parent: Option<String>,
    base: Option<String>,
    /// What the base holds.
    held: Option<ByteSize>,
    limits: Limits,
}

impl ZfsVolume {
    /// Refuses what [`stage_beside`](Self::stage_beside) and [`stage_within`](Self::stage_within) cannot do.
    pub(super) fn check_stage(&self, spec: &StageSpec) -> Result<()> {
        let checked = self.ask_for_checks(spec)?;
        if spec.placement == Placement::Within {
            return self.check_writable(&checked);
        }
        self.check_children(&checked.children)?;
        self.check_keys(&checked)?;
        self.check_room(&checked, spec)
    }

    fn check_writable(&self, checked: &Checked) -> Result<()> {
        if !checked.read_only {
            return Ok(());
        }
        let error =
            Error::new(ErrorKind::Unsupported, OPERATION, "it is read-only, and its snapshots are kept by a rebuild within it");
        let remedy = format!("make it writable meanwhile: zfs set readonly=off {}", self.place.name);
        Err(self.place.add_volume(error).with_remedy(remedy))
    }

    fn ask_for_checks(&self, spec: &StageSpec) -> Result<Checked> {
        let mut arguments = vec![
            text("live", self.place.name.slot(Slot::Live)),
            text("parent", self.place.name.parent()),
            text("safety", self.place.name.safety()),
        ];
        if let Some(base) = &spec.base {
            arguments.push(text("base", self.origin(base)?));
        }
        let found = self.place.ask(program!("check"), &arguments, OPERATION)?;
        let key = |key: &str| found.get(key).and_then(Value::as_str).map(str::to_owned);
        let children = found.get("children").and_then(Value::as_list).into_iter().flatten().map(|(name, _)| name.clone());
        Ok(Checked {
            within: found.contains_key("safety"),
            read_only: key("read_only").as_deref() == Some("on"),
            children: children.collect(),
            live: key("live"),
            parent: key("parent"),
            base: key("base"),
            held: found.get("held").and_then(Value::as_number).map(ByteSize::from_bytes),
            limits: Limits::told(&found),
        })
    }

    /// What a new dataset beside the live one gets its key from must be what the live one has it from.
    fn check_keys(&self, checked: &Checked) -> Result<()> {
        let refuse = |what: String, remedy: &str| {
            Err(self.place.add_volume(Error::new(ErrorKind::Unsupported, OPERATION, what)).with_remedy(remedy))
        };
        let key = |root: &str| if root.is_empty() { "none".to_owned() } else { format!("that of {root}") };
        let Checked { live, parent, base, .. } = checked;
        if let Some(live) = live.as_deref().filter(|live| Some(*live) != parent.as_deref()) {
            let parent = key(parent.as_deref().unwrap_or_default());
            return refuse(
                format!("its key is {}, and a dataset beside it would have another: {parent}", key(live)),
                "keep the snapshots: the rebuild then happens within the dataset",
            );
        }
        match (live.as_ref().or(parent.as_ref()), base) {
            (Some(own), Some(base)) if own != base => {
                refuse(format!("its key is {}, and that of the base is {}", key(own), key(base)), "rebuild from the image itself")
            }
            _ => Ok(()),
        }
    }

    /// Refuses a base that is not there, or that is larger than the volume may be.
    fn check_room(&self, checked: &Checked, spec: &StageSpec) -> Result<()> {
        let Some(base) = &spec.base else { return Ok(()) };
        let Some(held) = checked.held else {
            let error = Error::new(ErrorKind::NotFound, OPERATION, "there is no such base");
            return Err(self.place.add_volume(error).with_context("base", base));
        };
        // Without a live root, those of the retired one.
        let limits = self.captured.as_ref().map_or(checked.limits, |captured| captured.kept.limits);
        match spec.size.map_or(limits, |size| limits.raised(size)).size() {
            Some(size) if size < held => {
                let why = format!("the base holds {held}, and the volume is limited to {size}");
                let error = Error::new(ErrorKind::NoSpace(Space::Quota), OPERATION, why);
                Err(self.place.add_volume(error).with_remedy("ask for a larger size"))
            }
            _ => Ok(()),
        }
    }

    /// The snapshot that a base is cloned from.
    fn origin(&self, base: &VolumeId) -> Result<String> {
        let other = |why: &str| {
            self.place
                .add_volume(Error::new(ErrorKind::Unsupported, OPERATION, why))
                .with_context("base", base)
                .with_remedy("make the base in the volume's own pool")
        };
        if base.scheme() != "zfs" {
            return Err(other("the base is of another backend"));
        }
        let name: DatasetName = base.name().to_str().unwrap_or_default().parse()?;
        if name.pool() != self.place.name.pool() {
            return Err(other("the base is in another pool"));
        }
        Ok(format!("{name}@{ORIGIN}"))
    }

    pub(super) fn stage_beside(&mut self, spec: &StageSpec) -> Result<OwnedFd> {
        let checked = self.ask_for_checks(spec)?;
        if checked.within {
            return Err(self.is_staged());
        }
        self.check_room(&checked, spec)?;
        let staged = c_text(self.place.name.slot(Slot::Staged));
        let mut made = self.made_with(spec)?;
        let origin = spec.base.as_ref().map(|base| self.origin(base)).transpose()?;
        let make = |properties: &[(CString, Given)]| match &origin {
            Some(origin) => self.place.zfs.clone_of(&c_text(origin.as_str()), &staged, properties),
            None => self.place.zfs.create(&staged, properties),
        };
        let mut done = make(&made.at_once());
        if done == Err(Errno::EINVAL) && !made.or_soon.is_empty() {
            crate::trace::debug!(volume = %self.place.id(), "the kernel takes the properties one by one");
            made.leave_to_command();
            done = make(&made.at_once());
        }
        done.map_err(|errno| self.not_made(errno))?;
        self.staging.start = if spec.base.is_some() { Start::Clone } else { Start::Empty };
        let ready = self.make_ready(made);
        if ready.is_err() {
            self.staging.root = None;
            let _ = unless_busy(|| self.place.zfs.destroy(&staged));
        }
        ready
    }

    /// What a new dataset is made with.
    fn made_with(&self, spec: &StageSpec) -> Result<Made> {
        let of_clone = spec.base.is_some();
        let (mut made, limits, form) = match &self.captured {
            Some(captured) => (captured.kept.properties(), captured.kept.limits, captured.form.clone()),
            None => {
                let canmount = if self.role == Role::Base { "off" } else { "noauto" };
                let mut made = Made::default();
                made.now.extend(values::word("mountpoint", "legacy"));
                made.now.extend(values::word("canmount", canmount));
                (made, Limits::default(), Form::default())
            }
        };
        if of_clone && form != Form::default() {
            let error = Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                format!("the base does not compare names as it does: {}", form.as_str()),
            );
            return Err(self.place.add_volume(error).with_remedy("rebuild from the image itself"));
        }
        made.now.push(text(note::MADE, "1"));
        made.now.extend(if of_clone { vec![form.note()] } else { form.properties() });
        made.now.extend(spec.size.map_or(limits, |size| limits.raised(size)).properties(of_clone));
        Ok(made)
    }

    pub(super) fn is_staged(&self) -> Error {
        let error = Error::new(ErrorKind::AlreadyExists, OPERATION, "there is a staged root already");
        self.place.add_volume(error).with_remedy("run recover")
    }

    fn not_made(&self, errno: Errno) -> Error {
        match errno {
            // Perhaps it is not ours.
            Errno::EEXIST => self.place.look(OPERATION).err().unwrap_or_else(|| self.is_staged()),
            Errno::ENOENT => self.place.without_parent(OPERATION),
            Errno::EINVAL | Errno::ENOTSUP => {
                self.place.failed(OPERATION, "ZFS does not take the old root's properties for a new one", errno)
            }
            errno => self.place.failed(OPERATION, "cannot make its dataset", errno),
        }
    }

    fn make_ready(&mut self, made: Made) -> Result<OwnedFd> {
        let staged = self.place.name.slot(Slot::Staged);
        let mut warnings = Vec::new();
        if let Err(error) = command::set(&self.place, &staged, &made.soon, "keep a property") {
            warnings.push(Warning::new(format!("{} could not be kept", made.soon.join(", "))).with_error(error));
        }
        warnings.extend(self.captured.iter().flat_map(|captured| captured.kept.warnings()));
        let root = self.place.mount(&staged, Access::ReadWrite, OPERATION)?;
        self.prepare(staged, &root, warnings, made.last)?;
        Ok(root)
    }

    /// Readies an empty root or a clone for filling, and keeps what [`seal_staged`](Self::seal_staged) needs.
    pub(super) fn prepare(&mut self, dataset: String, root: &OwnedFd, mut warnings: Vec<Warning>, last: Vec<String>) -> Result<()> {
        let refused = |error: std::io::Error| self.place.add_volume(Error::io(OPERATION, "cannot prepare its directory", error));
        let top = self.captured.as_ref().map(|captured| &captured.top);
        if self.staging.start == Start::Empty || top.is_some() {
            warnings.extend(properties::prepare(root.as_fd(), top).map_err(refused)?);
        }
        self.staging.root = Some(root.try_clone().map_err(refused)?);
        self.staging.dataset = Some(dataset);
        (self.staging.warnings, self.staging.last) = (warnings, last);
        Ok(())
    }

    /// The dataset in which the new root is made.
    fn staged_dataset(&self, operation: &'static str) -> Result<Option<String>> {
        if let Some(dataset) = &self.staging.dataset {
            return Ok(Some(dataset.clone()));
        }
        let look = self.place.look(operation)?;
        Ok(match (&look.staged, look.safety) {
            (Some(_), _) => Some(self.place.name.slot(Slot::Staged)),
            (None, Some(_)) => Some(self.place.name.slot(Slot::Live)),
            (None, None) => None,
        })
    }

    pub(super) fn grow_staged(&mut self, to: ByteSize) -> Result<ByteSize> {
        const OPERATION: &str = "grow the staged root";
        let missing = |kind, why| self.place.add_volume(Error::new(kind, OPERATION, why));
        let dataset = self.staged_dataset(OPERATION)?.ok_or_else(|| missing(ErrorKind::NotFound, "there is none"))?;
        let limits = self.place.space(&dataset, OPERATION)?.limits;
        let Some(size) = limits.size() else { return Err(missing(ErrorKind::Unsupported, "it has no size")) };
        let raised = limits.raised(to);
        command::set(&self.place, &dataset, &limits.changes(raised), OPERATION)?;
        Ok(raised.size().unwrap_or(size))
    }

    pub(super) fn seal_staged(&mut self, record: &ImageRecord, root: RootMetadata) -> Result<Vec<Warning>> {
        const OPERATION: &str = "seal the staged root";
        let dataset = self.staged_dataset(OPERATION)?;
        let dataset = dataset.ok_or_else(|| self.place.add_volume(Error::new(ErrorKind::NotFound, OPERATION, "there is none")))?;
        let staged = match self.staging.root.take() {
            Some(staged) => staged,
            None => self.place.mount(&dataset, Access::ReadWrite, OPERATION)?,
        };
        let mut warnings = std::mem::take(&mut self.staging.warnings);
        let failed = |what: &'static str, error: std::io::Error| self.place.add_volume(Error::io(OPERATION, what, error));
        let closed = match self.role {
            Role::Base => Some(top_of(staged.as_fd()).map_err(|error| failed("cannot look at it", error))?),
            Role::Volume => None,
        };
        let record = closed.map_or_else(|| record.clone(), |top| record.clone().with_top(top));
        let keep = self.captured.as_ref().map(|captured| &captured.top).filter(|_| root == RootMetadata::Keep);
        let told = properties::apply(staged.as_fd(), keep, &record);
        warnings.extend(told.map_err(|error| failed("cannot set the properties of its directory", error))?);
        if self.role == Role::Base {
            close(staged.as_fd()).map_err(|error| failed("cannot close it to others", error))?;
        }
        // All that a clone has written becomes durable with the rename that follows, or not at all.
        if self.staging.start == Start::Empty {
            let synced = retry(|| syncfs(&staged));
            synced.map_err(|error| self.place.failed(OPERATION, "what was written did not reach the disk", error))?;
        }
        drop(staged);
        let last = std::mem::take(&mut self.staging.last);
        command::set(&self.place, &dataset, &last, OPERATION)?;
        if let Some(captured) = self.captured.as_ref().filter(|_| dataset != self.place.name.as_str()) {
            warnings.extend(captured.delegated.apply(&self.place, &dataset, OPERATION));
        }
        if self.role == Role::Base {
            let origin: CString = c_text(format!("{dataset}@{ORIGIN}"));
            let taken = self.place.zfs.snapshot(&origin, &[]);
            taken.map_err(|errno| self.place.failed(OPERATION, "cannot take the snapshot that is cloned", errno))?;
        }
        Ok(warnings)
    }
}
