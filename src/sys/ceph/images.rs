//! Images as a whole: made, cloned, renamed, thrown away.

use std::ffi::{CString, c_int};
use std::ptr;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;

#[cfg(test)]
use super::answer::listed;
use super::answer::{check, string_at, text};
use super::library::{RawOptions, RawTrash, Rbd};
use super::progress::{Patience, go_on};
use super::{Failed, Image, Pool};
use crate::progress::Wait;
use crate::size::ByteSize;

/// What an image can do, as `rbd/features.h` numbers it.
pub(crate) mod features {
    pub(crate) const LAYERING: u64 = 1 << 0;
    pub(crate) const STRIPING: u64 = 1 << 1;
    #[cfg(test)]
    pub(crate) const EXCLUSIVE_LOCK: u64 = 1 << 2;
    #[cfg(test)]
    pub(crate) const OBJECT_MAP: u64 = 1 << 3;
    #[cfg(test)]
    pub(crate) const FAST_DIFF: u64 = 1 << 4;
    pub(crate) const DEEP_FLATTEN: u64 = 1 << 5;
    pub(crate) const DATA_POOL: u64 = 1 << 7;
    pub(crate) const OPERATIONS: u64 = 1 << 8;
    pub(crate) const MIGRATING: u64 = 1 << 9;
    pub(crate) const NON_PRIMARY: u64 = 1 << 10;
    pub(crate) const DIRTY_CACHE: u64 = 1 << 11;
    /// Those that nobody asks for: the library sets them when something needs them.
    pub(crate) const IMPLIED: u64 = STRIPING | DATA_POOL | OPERATIONS | MIGRATING | NON_PRIMARY | DIRTY_CACHE;

    /// What is done with an image that older clients would not understand.
    #[cfg(test)]
    pub(crate) const OP_CLONE_CHILD: u64 = 1 << 1;
}

/// How an image lies in its pools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// Those in [`features::IMPLIED`] follow from the rest, and may be there or not. `None`: what the cluster's configuration says.
    pub(crate) features: Option<u64>,
    /// An object is of 2 to this power bytes. `None`: the same.
    pub(crate) order: Option<u8>,
    /// 0: an object's size.
    pub(crate) stripe_unit: u64,
    /// 0: one.
    pub(crate) stripe_count: u64,
    /// `None`: the image's own.
    pub(crate) data_pool: Option<String>,
}

/// Which image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which<'a> {
    Name(&'a str),
    Id(&'a str),
}

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only to look: it leaves no watcher, and nobody notices. Nor does it notice what others do meanwhile: for what is so now, open it
    /// again.
    ReadOnly,
    /// To change it. While it is open it watches the image, which keeps others from removing it. What it does needs the image's lock,
    /// if it has the feature for that: `EROFS` says that somebody else keeps it, or that it could not be asked for.
    Write,
}

/// Whether the time that something is to stay in the trash counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deferment {
    #[cfg(test)]
    Respect,
    Ignore,
}

/// Who put an image into the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrashSource {
    User,
    Mirroring,
    Migration,
    /// Somebody who was removing it, and was interrupted.
    Removing,
    /// A user who removed an image that others depend on.
    Parent,
    /// Younger than this code.
    Other(i32),
}

/// An image in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrashEntry {
    pub(crate) id: String,
    /// What it was called.
    pub(crate) name: String,
    pub(crate) source: TrashSource,
    pub(crate) deleted: SystemTime,
    /// It stays this long unless somebody insists.
    pub(crate) deferment_end: SystemTime,
}

/// What an image is made with, freed when dropped.
struct Options<'a> {
    rbd: &'a Rbd,
    raw: *mut RawOptions,
}

// As librbd.h numbers them.
const FORMAT: c_int = 0;
const FEATURES: c_int = 1;
const ORDER: c_int = 2;
const STRIPE_UNIT: c_int = 3;
const STRIPE_COUNT: c_int = 4;
const DATA_POOL: c_int = 10;
const CLONE_FORMAT: c_int = 12;

impl<'a> Options<'a> {
    fn new(rbd: &'a Rbd, layout: &Layout) -> Result<Self, Failed> {
        let mut raw = ptr::null_mut();
        // SAFETY: the pointer is written to.
        unsafe { (rbd.rbd_image_options_create)(&raw mut raw) }
        let options = Options { rbd, raw };
        options.number(FORMAT, 2)?;
        if let Some(wanted) = layout.features {
            options.number(FEATURES, wanted & !features::IMPLIED)?;
        }
        if let Some(order) = layout.order {
            options.number(ORDER, order.into())?;
        }
        if layout.stripe_unit != 0 && layout.stripe_count != 0 {
            options.number(STRIPE_UNIT, layout.stripe_unit)?;
            options.number(STRIPE_COUNT, layout.stripe_count)?;
        }
        if let Some(pool) = &layout.data_pool {
            const CALL: &str = "rbd_image_options_set_string";
            let pool = text(CALL, pool)?;
            // SAFETY: they are alive, and the name is NUL-terminated and copied.
            check(CALL, unsafe { (rbd.rbd_image_options_set_string)(raw, DATA_POOL, pool.as_ptr()) })?;
        }
        Ok(options)
    }

    fn number(&self, option: c_int, value: u64) -> Result<(), Failed> {
        // SAFETY: they are alive.
        let result = unsafe { (self.rbd.rbd_image_options_set_uint64)(self.raw, option, value) };
        check("rbd_image_options_set_uint64", result).map(drop)
    }
}

impl Drop for Options<'_> {
    fn drop(&mut self) {
        // SAFETY: they are ours.
        unsafe { (self.rbd.rbd_image_options_destroy)(self.raw) }
    }
}

/// The lock of an image: that of writers with the feature for it, and that of `rbd lock`.
pub(super) const LOCK: &str = "rbd_lock";
/// How the library calls its own locks, which it hands over when asked.
const OURS: &str = "auto ";

impl Pool {
    /// `EBUSY`, if somebody has locked an image by hand: to remove it, the library would wait until they unlock it, without end.
    fn refuse_locked(&self, call: &'static str, id: &str) -> Result<(), Failed> {
        let lockers = self.lockers(&header(id), LOCK)?.held;
        match lockers.iter().all(|locker| locker.cookie.starts_with(OURS)) {
            true => Ok(()),
            false => Err(Failed { call, errno: Errno::EBUSY }),
        }
    }

    fn refuse_locked_name(&self, call: &'static str, name: &str) -> Result<(), Failed> {
        match self.image_ids(&[name])?.remove(0) {
            Some(id) => self.refuse_locked(call, &id),
            None => Ok(()),
        }
    }

    /// Makes an image. `EEXIST`: there is one of this name.
    pub(crate) fn create(&self, name: &str, size: ByteSize, layout: &Layout) -> Result<(), Failed> {
        const CALL: &str = "rbd_create4";
        let name = text(CALL, name)?;
        let options = Options::new(self.rbd(), layout)?;
        // SAFETY: the name is NUL-terminated, and the options alive.
        check(CALL, unsafe { (self.rbd().rbd_create4)(self.io(), name.as_ptr(), size.bytes(), options.raw) }).map(drop)
    }

    /// Makes a clone of a snapshot, of the second kind: the snapshot need not be protected, and may be removed while the clone is there.
    pub(crate) fn clone_image(&self, parent: &str, snapshot: &str, name: &str, layout: &Layout) -> Result<(), Failed> {
        const CALL: &str = "rbd_clone3";
        let (parent, snapshot, name) = (text(CALL, parent)?, text(CALL, snapshot)?, text(CALL, name)?);
        // Without it there is no clone.
        let layout = Layout { features: layout.features.map(|wanted| wanted | features::LAYERING), ..layout.clone() };
        let options = Options::new(self.rbd(), &layout)?;
        options.number(CLONE_FORMAT, 2)?;
        // SAFETY: the names are NUL-terminated, and the options alive.
        let result = unsafe {
            let clone = self.rbd().rbd_clone3;
            clone(self.io(), parent.as_ptr(), snapshot.as_ptr(), self.io(), name.as_ptr(), options.raw)
        };
        check(CALL, result).map(drop)
    }

    /// Gives an image another name. `EEXIST`: there is one of that name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Failed> {
        const CALL: &str = "rbd_rename";
        let (from, to) = (text(CALL, from)?, text(CALL, to)?);
        // SAFETY: the names are NUL-terminated.
        check(CALL, unsafe { (self.rbd().rbd_rename)(self.io(), from.as_ptr(), to.as_ptr()) }).map(drop)
    }

    /// Removes an image and what it holds. Interrupted, it leaves the rest in the trash, as [`TrashSource::Removing`]. `EBUSY`: somebody
    /// has it open to write, or locked.
    pub(crate) fn remove(&self, name: &str, wait: &Wait) -> Result<(), Failed> {
        const CALL: &str = "rbd_remove_with_progress";
        self.refuse_locked_name(CALL, name)?;
        let name = text(CALL, name)?;
        Patience::new(CALL, wait).run(|patience| {
            // SAFETY: the name is NUL-terminated, and the context what the callback expects.
            unsafe { (self.rbd().rbd_remove_with_progress)(self.io(), name.as_ptr(), go_on, patience) }
        })
    }

    /// Moves an image into the trash, to stay there for a time. `EBUSY`: somebody has it locked.
    pub(crate) fn trash(&self, name: &str, delay: Duration) -> Result<(), Failed> {
        const CALL: &str = "rbd_trash_move";
        self.refuse_locked_name(CALL, name)?;
        let name = text(CALL, name)?;
        // SAFETY: the name is NUL-terminated.
        check(CALL, unsafe { (self.rbd().rbd_trash_move)(self.io(), name.as_ptr(), delay.as_secs()) }).map(drop)
    }

    /// Removes an image from the trash, for good. `EPERM`: its time has not come.
    pub(crate) fn remove_trash(&self, id: &str, deferment: Deferment, wait: &Wait) -> Result<(), Failed> {
        const CALL: &str = "rbd_trash_remove_with_progress";
        self.refuse_locked(CALL, id)?;
        let id = text(CALL, id)?;
        let force = deferment == Deferment::Ignore;
        Patience::new(CALL, wait).run(|patience| {
            // SAFETY: the id is NUL-terminated, and the context what the callback expects.
            unsafe { (self.rbd().rbd_trash_remove_with_progress)(self.io(), id.as_ptr(), force, go_on, patience) }
        })
    }

    /// Takes an image out of the trash and gives it a name.
    #[cfg(test)]
    pub(crate) fn restore_trash(&self, id: &str, name: &str) -> Result<(), Failed> {
        const CALL: &str = "rbd_trash_restore";
        let (id, name) = (text(CALL, id)?, text(CALL, name)?);
        // SAFETY: both are NUL-terminated.
        check(CALL, unsafe { (self.rbd().rbd_trash_restore)(self.io(), id.as_ptr(), name.as_ptr()) }).map(drop)
    }

    /// What the trash says of an image.
    pub(crate) fn trash_entry(&self, id: &str) -> Result<Option<TrashEntry>, Failed> {
        const CALL: &str = "rbd_trash_get";
        let id = text(CALL, id)?;
        let mut raw = RawTrash::EMPTY;
        // SAFETY: the id is NUL-terminated; the entry is written to.
        match check(CALL, unsafe { (self.rbd().rbd_trash_get)(self.io(), id.as_ptr(), &raw mut raw) }) {
            Err(Failed { errno: Errno::ENOENT, .. }) => Ok(None),
            Err(failed) => Err(failed),
            Ok(_) => {
                // SAFETY: it was filled, and is freed once.
                let entry = unsafe { raw.read(CALL) };
                unsafe { (self.rbd().rbd_trash_get_cleanup)(&raw mut raw) };
                entry.map(Some)
            }
        }
    }

    /// All that is in the trash.
    #[cfg(test)]
    pub(crate) fn trash_list(&self) -> Result<Vec<TrashEntry>, Failed> {
        const CALL: &str = "rbd_trash_list";
        let mut entries = listed(CALL, &RawTrash::EMPTY, |entries, count| {
            // SAFETY: there is room for as many as is said.
            unsafe { (self.rbd().rbd_trash_list)(self.io(), entries, count) }
        })?;
        // SAFETY: they were filled, and are freed once.
        let read: Vec<_> = entries.iter().map(|raw| unsafe { raw.read(CALL) }).collect();
        unsafe { (self.rbd().rbd_trash_list_cleanup)(entries.as_mut_ptr(), entries.len()) };
        read.into_iter().collect()
    }

    /// Opens an image.
    pub(crate) fn open(&self, which: &Which<'_>, access: Access) -> Result<Image, Failed> {
        let rbd = self.rbd();
        let (call, open, key) = match (*which, access) {
            (Which::Name(name), Access::ReadOnly) => ("rbd_open_read_only", rbd.rbd_open_read_only, name),
            (Which::Name(name), Access::Write) => ("rbd_open", rbd.rbd_open, name),
            (Which::Id(id), Access::ReadOnly) => ("rbd_open_by_id_read_only", rbd.rbd_open_by_id_read_only, id),
            (Which::Id(id), Access::Write) => ("rbd_open_by_id", rbd.rbd_open_by_id, id),
        };
        let key: CString = text(call, key)?;
        let mut raw = ptr::null_mut();
        // SAFETY: the name or id is NUL-terminated, no snapshot is asked for, and the pointer is written to.
        check(call, unsafe { open(self.io(), key.as_ptr(), &raw mut raw, ptr::null()) })?;
        Ok(Image::new(self.clone(), raw))
    }
}

/// The object that an image begins with.
pub(super) fn header(id: &str) -> String {
    format!("rbd_header.{id}")
}

impl RawTrash {
    const EMPTY: RawTrash = RawTrash { id: ptr::null_mut(), name: ptr::null_mut(), source: 0, deletion: 0, deferment_end: 0 };

    /// # Safety
    /// It was filled by the library.
    unsafe fn read(&self, call: &'static str) -> Result<TrashEntry, Failed> {
        let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(1 << 40));
        // SAFETY: the texts of a filled one are NUL-terminated.
        let (id, name) = unsafe { (string_at(call, self.id)?, string_at(call, self.name)?) };
        let source = match self.source {
            0 => TrashSource::User,
            1 => TrashSource::Mirroring,
            2 => TrashSource::Migration,
            3 => TrashSource::Removing,
            4 => TrashSource::Parent,
            other => TrashSource::Other(other),
        };
        Ok(TrashEntry { id, name, source, deleted: time(self.deletion), deferment_end: time(self.deferment_end) })
    }
}
