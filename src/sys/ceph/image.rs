//! An open image: what it is, and what can be done with it.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::answer::{check, grown, listed, string_at, text};
use super::images::{LOCK, features, header};
use super::library::{RawGroup, RawImage, RawInfo, RawLinked, RawMirror, RawSnap, RawSnapSpec, RawWatcher, Rbd};
use super::locks::Lockers;
use super::patience::{Pointer, within};
use super::progress::{Patience, go_on};
use super::{Access, Failed, Layout, Pool, Which};
use crate::progress::Wait;
use crate::size::ByteSize;

/// An open image, closed when dropped.
pub(crate) struct Image {
    pool: Pool,
    raw: *mut RawImage,
}

// SAFETY: librbd is made for use by several threads at once; what is not, to look at another snapshot, is done on images opened for it.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// Whether an image may become smaller, and lose what is behind its new end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shrink {
    Refuse,
    Allow,
}

/// What a clone is one of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) pool: String,
    pub(crate) namespace: String,
    pub(crate) image: String,
    pub(crate) id: String,
    /// The parent is in the trash.
    pub(crate) trash: bool,
    /// As it is called now: one that was removed has a name that the library made up.
    pub(crate) snapshot: String,
    pub(crate) snapshot_id: u64,
}

/// A clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) pool: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) id: String,
    /// It is in the trash.
    pub(crate) trash: bool,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snap {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) size: ByteSize,
    pub(crate) kind: SnapKind,
    /// Only those of users can be.
    pub(crate) protected: bool,
}

/// Whose a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapKind {
    User,
    Group,
    /// Removed, and still there because clones need it.
    Trash {
        original: String,
    },
    Mirror,
    /// Younger than this code.
    Other(i32),
}

/// Somebody who has an image open to write, or mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watcher {
    pub(crate) address: String,
    /// As [`Pool::instance`] numbers connections.
    pub(crate) client: u64,
    pub(crate) cookie: u64,
}

/// Whether an image is copied to another cluster, or is such a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mirroring {
    Off,
    Primary,
    /// A copy, which only the mirror writes to.
    Secondary,
    /// Being switched off.
    Ending,
}

/// A consistency group, by its name, and its pool's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupName {
    pub(crate) name: String,
    pub(crate) pool_id: i64,
}

impl Image {
    pub(super) fn new(pool: Pool, raw: *mut RawImage) -> Self {
        Image { pool, raw }
    }

    fn rbd(&self) -> &'static Rbd {
        self.pool.rbd()
    }

    /// Asks for a number.
    fn number(&self, name: &'static str, call: unsafe extern "C" fn(*mut RawImage, *mut u64) -> c_int) -> Result<u64, Failed> {
        let mut number = 0;
        // SAFETY: it is open; the number is written to.
        check(name, unsafe { call(self.raw, &raw mut number) })?;
        Ok(number)
    }

    fn info(&self) -> Result<RawInfo, Failed> {
        let mut info =
            RawInfo { size: 0, object_size: 0, objects: 0, order: 0, prefix: [0; 24], parent_pool: 0, parent_name: [0; 96] };
        // SAFETY: it is open; what is written to is as long as is said.
        check("rbd_stat", unsafe { (self.rbd().rbd_stat)(self.raw, &raw mut info, size_of::<RawInfo>()) })?;
        Ok(info)
    }

    pub(crate) fn id(&self) -> Result<String, Failed> {
        // SAFETY: the buffer is as long as is said.
        grown("rbd_get_id", |buffer, len| unsafe { (self.rbd().rbd_get_id)(self.raw, buffer, len) })
    }

    pub(crate) fn size(&self) -> Result<ByteSize, Failed> {
        Ok(ByteSize::from_bytes(self.info()?.size))
    }

    pub(crate) fn features(&self) -> Result<u64, Failed> {
        self.number("rbd_get_features", self.rbd().rbd_get_features)
    }

    #[cfg(test)]
    pub(crate) fn op_features(&self) -> Result<u64, Failed> {
        self.number("rbd_get_op_features", self.rbd().rbd_get_op_features)
    }

    /// What another image has to be made with to lie in the pools as this one does.
    pub(crate) fn layout(&self) -> Result<Layout, Failed> {
        const CALL: &str = "rbd_get_data_pool_id";
        let features = self.features()?;
        let order = self.info()?.order;
        let data_pool = if features & features::DATA_POOL == 0 {
            None
        } else {
            // SAFETY: it is open.
            let id = unsafe { (self.rbd().rbd_get_data_pool_id)(self.raw) };
            if id < 0 {
                check(CALL, c_int::try_from(id).unwrap_or(c_int::MIN + 1))?;
            }
            Some(self.pool.pool_name_of(id)?)
        };
        Ok(Layout {
            features: Some(features),
            order: Some(u8::try_from(order).map_err(|_| Failed { call: "rbd_stat", errno: Errno::ERANGE })?),
            stripe_unit: self.number("rbd_get_stripe_unit", self.rbd().rbd_get_stripe_unit)?,
            stripe_count: self.number("rbd_get_stripe_count", self.rbd().rbd_get_stripe_count)?,
            data_pool,
        })
    }

    /// The notes on an image. They lie beside its header, from where they come in one read, whatever their number.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, Vec<u8>>, Failed> {
        const PREFIX: &str = "metadata_";
        let found = self.pool.omap_with_prefix(&header(&self.id()?), PREFIX)?;
        Ok(found.into_iter().map(|(key, value)| (key[PREFIX.len()..].to_owned(), value)).collect())
    }

    pub(crate) fn set_metadata(&self, key: &str, value: &[u8]) -> Result<(), Failed> {
        const CALL: &str = "rbd_metadata_set";
        let key = text(CALL, key)?;
        let value = CString::new(value).map_err(|_| Failed { call: CALL, errno: Errno::EINVAL })?;
        // SAFETY: it is open, and the texts are NUL-terminated.
        check(CALL, unsafe { (self.rbd().rbd_metadata_set)(self.raw, key.as_ptr(), value.as_ptr()) }).map(drop)
    }

    /// `ENOENT`: there is none of this key.
    #[cfg(test)]
    pub(crate) fn remove_metadata(&self, key: &str) -> Result<(), Failed> {
        self.with_text("rbd_metadata_remove", self.rbd().rbd_metadata_remove, key)
    }

    fn with_text(
        &self,
        name: &'static str,
        call: unsafe extern "C" fn(*mut RawImage, *const c_char) -> c_int,
        given: &str,
    ) -> Result<(), Failed> {
        let given = text(name, given)?;
        // SAFETY: it is open, and the text is NUL-terminated.
        check(name, unsafe { call(self.raw, given.as_ptr()) }).map(drop)
    }

    /// What it is a clone of.
    pub(crate) fn parent(&self) -> Result<Option<Parent>, Failed> {
        const CALL: &str = "rbd_get_parent";
        let mut image = RawLinked::EMPTY;
        let mut snap = RawSnapSpec { id: 0, kind: 0, name: ptr::null_mut() };
        // SAFETY: it is open; both are written to.
        match check(CALL, unsafe { (self.rbd().rbd_get_parent)(self.raw, &raw mut image, &raw mut snap) }) {
            Err(Failed { errno: Errno::ENOENT, .. }) => return Ok(None),
            result => result?,
        };
        // SAFETY: both were filled, and are freed once.
        unsafe {
            let (child, snapshot) = (image.read(CALL), string_at(CALL, snap.name));
            (self.rbd().rbd_linked_image_spec_cleanup)(&raw mut image);
            (self.rbd().rbd_snap_spec_cleanup)(&raw mut snap);
            let Child { pool, namespace, name, id, trash } = child?;
            Ok(Some(Parent { pool, namespace, image: name, id, trash, snapshot: snapshot?, snapshot_id: snap.id }))
        }
    }

    pub(crate) fn snapshots(&self) -> Result<Vec<Snap>, Failed> {
        const CALL: &str = "rbd_snap_list";
        let empty = RawSnap { id: 0, size: 0, name: ptr::null() };
        let mut raw = listed(CALL, &empty, |snaps, count| {
            let mut room = c_int::try_from(*count).unwrap_or(c_int::MAX);
            // SAFETY: it is open, and there is room for as many as is said.
            let result = unsafe { (self.rbd().rbd_snap_list)(self.raw, snaps, &raw mut room) };
            *count = usize::try_from(if result < 0 { room } else { result }).unwrap_or(0);
            result
        })?;
        // SAFETY: the names of those that are listed are NUL-terminated.
        let named: Vec<_> = raw.iter().map(|snap| (snap.id, snap.size, unsafe { string_at(CALL, snap.name) })).collect();
        raw.push(empty);
        // SAFETY: the last one has no name, which is where the library stops.
        unsafe { (self.rbd().rbd_snap_list_end)(raw.as_mut_ptr()) };
        let mut snaps = Vec::with_capacity(named.len());
        for (id, size, name) in named {
            let name = name?;
            match self.snap(id, ByteSize::from_bytes(size), name) {
                // Somebody removed it just now.
                Err(Failed { errno: Errno::ENOENT, .. }) => {}
                snap => snaps.push(snap?),
            }
        }
        Ok(snaps)
    }

    fn snap(&self, id: u64, size: ByteSize, name: String) -> Result<Snap, Failed> {
        let mut kind = 0;
        // SAFETY: it is open; the answer is written to.
        check("rbd_snap_get_namespace_type", unsafe { (self.rbd().rbd_snap_get_namespace_type)(self.raw, id, &raw mut kind) })?;
        let kind = match kind {
            0 => SnapKind::User,
            1 => SnapKind::Group,
            // SAFETY: it is open, and the buffer as long as is said.
            2 => SnapKind::Trash {
                original: grown("rbd_snap_get_trash_namespace", |buffer, len| unsafe {
                    (self.rbd().rbd_snap_get_trash_namespace)(self.raw, id, buffer, len)
                })?,
            },
            3 => SnapKind::Mirror,
            other => SnapKind::Other(other),
        };
        let mut protected = 0;
        if kind == SnapKind::User {
            const CALL: &str = "rbd_snap_is_protected";
            let name = text(CALL, &name)?;
            // SAFETY: it is open, the name is NUL-terminated, and the answer is written to.
            check(CALL, unsafe { (self.rbd().rbd_snap_is_protected)(self.raw, name.as_ptr(), &raw mut protected) })?;
        }
        Ok(Snap { id, name, size, kind, protected: protected != 0 })
    }

    /// The clones of one snapshot, those in the trash among them.
    pub(crate) fn children(&self, snap: u64) -> Result<Vec<Child>, Failed> {
        const CALL: &str = "rbd_list_children3";
        // An image shows one snapshot at a time, to all who use it: this one is ours alone.
        let view = self.pool.open(&Which::Id(&self.id()?), Access::ReadOnly)?;
        // SAFETY: it is open.
        check("rbd_snap_set_by_id", unsafe { (self.rbd().rbd_snap_set_by_id)(view.raw, snap) })?;
        let mut raw = listed(CALL, &RawLinked::EMPTY, |images, count| {
            // SAFETY: it is open, and there is room for as many as is said.
            unsafe { (self.rbd().rbd_list_children3)(view.raw, images, count) }
        })?;
        // SAFETY: they were filled, and are freed once.
        let children: Vec<_> = raw.iter().map(|image| unsafe { image.read(CALL) }).collect();
        unsafe { (self.rbd().rbd_linked_image_spec_list_cleanup)(raw.as_mut_ptr(), raw.len()) };
        children.into_iter().collect()
    }

    #[cfg(test)]
    pub(crate) fn protect(&self, snap: &str) -> Result<(), Failed> {
        self.with_text("rbd_snap_protect", self.rbd().rbd_snap_protect, snap)
    }

    pub(crate) fn unprotect(&self, snap: &str) -> Result<(), Failed> {
        self.with_text("rbd_snap_unprotect", self.rbd().rbd_snap_unprotect, snap)
    }

    pub(crate) fn create_snapshot(&self, name: &str) -> Result<(), Failed> {
        self.with_text("rbd_snap_create", self.rbd().rbd_snap_create, name)
    }

    /// Removes a snapshot of a user's. One with clones of the second kind goes out of sight, and stays until they are gone.
    pub(crate) fn remove_snapshot(&self, name: &str) -> Result<(), Failed> {
        self.with_text("rbd_snap_remove", self.rbd().rbd_snap_remove, name)
    }

    /// Removes a snapshot of any kind.
    pub(crate) fn remove_snapshot_by_id(&self, id: u64) -> Result<(), Failed> {
        // SAFETY: it is open.
        check("rbd_snap_remove_by_id", unsafe { (self.rbd().rbd_snap_remove_by_id)(self.raw, id) }).map(drop)
    }

    /// Makes a clone depend on nothing.
    pub(crate) fn flatten(&self, wait: &Wait) -> Result<(), Failed> {
        Patience::new("rbd_flatten_with_progress", wait).run(|patience| {
            // SAFETY: it is open, and the context is what the callback expects.
            unsafe { (self.rbd().rbd_flatten_with_progress)(self.raw, go_on, patience) }
        })
    }

    pub(crate) fn resize(&self, size: ByteSize, shrink: Shrink, wait: &Wait) -> Result<(), Failed> {
        Patience::new("rbd_resize2", wait).run(|patience| {
            // SAFETY: it is open, and the context is what the callback expects.
            unsafe { (self.rbd().rbd_resize2)(self.raw, size.bytes(), shrink == Shrink::Allow, go_on, patience) }
        })
    }

    /// Who has it open to write, ourselves among them.
    pub(crate) fn watchers(&self) -> Result<Vec<Watcher>, Failed> {
        const CALL: &str = "rbd_watchers_list";
        let empty = RawWatcher { address: ptr::null_mut(), client: 0, cookie: 0 };
        let mut raw = listed(CALL, &empty, |watchers, count| {
            // SAFETY: it is open, and there is room for as many as is said.
            unsafe { (self.rbd().rbd_watchers_list)(self.raw, watchers, count) }
        })?;
        let read = |watcher: &RawWatcher| {
            Ok(Watcher {
                // SAFETY: it was filled.
                address: unsafe { string_at(CALL, watcher.address) }?,
                client: watcher.client.cast_unsigned(),
                cookie: watcher.cookie,
            })
        };
        let watchers: Vec<_> = raw.iter().map(read).collect();
        // SAFETY: they were filled, and are freed once.
        unsafe { (self.rbd().rbd_watchers_list_cleanup)(raw.as_mut_ptr(), raw.len()) };
        watchers.into_iter().collect()
    }

    /// Who holds the image's lock now: users of `rbd lock`, and those that write to it with the feature for it.
    pub(crate) fn lockers(&self) -> Result<Lockers, Failed> {
        // Not from librbd, which says what it knew when it last looked at the header.
        self.pool.lockers(&header(&self.id()?), LOCK)
    }

    pub(crate) fn group(&self) -> Result<Option<GroupName>, Failed> {
        const CALL: &str = "rbd_get_group";
        let mut raw = RawGroup { name: ptr::null_mut(), pool: -1 };
        // SAFETY: it is open; what is written to is as long as is said.
        check(CALL, unsafe { (self.rbd().rbd_get_group)(self.raw, &raw mut raw, size_of::<RawGroup>()) })?;
        let pool_id = raw.pool;
        // SAFETY: it was filled, and is freed once.
        let name = unsafe { string_at(CALL, raw.name) };
        unsafe { (self.rbd().rbd_group_info_cleanup)(&raw mut raw, size_of::<RawGroup>()) };
        let name = name?;
        Ok((!name.is_empty()).then_some(GroupName { name, pool_id }))
    }

    pub(crate) fn mirrored(&self) -> Result<Mirroring, Failed> {
        const CALL: &str = "rbd_mirror_image_get_info";
        let mut raw = RawMirror { global_id: ptr::null_mut(), state: 2, primary: false };
        // SAFETY: it is open; what is written to is as long as is said.
        check(CALL, unsafe { (self.rbd().rbd_mirror_image_get_info)(self.raw, &raw mut raw, size_of::<RawMirror>()) })?;
        // SAFETY: it was filled, and is freed once.
        unsafe { (self.rbd().rbd_mirror_image_get_info_cleanup)(&raw mut raw) };
        match (raw.state, raw.primary) {
            (0, _) => Ok(Mirroring::Ending),
            (1, true) => Ok(Mirroring::Primary),
            (1, false) => Ok(Mirroring::Secondary),
            (2, _) => Ok(Mirroring::Off),
            _ => Err(Failed { call: CALL, errno: Errno::EBADMSG }),
        }
    }

    /// How much of its own it holds, in whole objects. Quick with the feature for it; else every object is looked at.
    pub(crate) fn used(&self, wait: &Wait) -> Result<ByteSize, Failed> {
        const CALL: &str = "rbd_diff_iterate2";
        let size = self.size()?.bytes();
        let total = AtomicU64::new(0);
        let patience = Patience::new(CALL, wait);
        patience.run_with(&total, |context| {
            // SAFETY: it is open, and the context is what the callback expects.
            unsafe { (self.rbd().rbd_diff_iterate2)(self.raw, ptr::null(), 0, size, 0, 1, add, context) }
        })?;
        Ok(ByteSize::from_bytes(total.into_inner()))
    }
}

/// A [`Patience`] and the sum so far.
extern "C" fn add(_offset: u64, len: usize, holds: c_int, context: *mut c_void) -> c_int {
    // SAFETY: it is what `run_with` gave to the call, which has not returned.
    let (patience, total) = unsafe { &*context.cast::<(&Patience<'_>, &AtomicU64)>() };
    if holds != 0 {
        total.fetch_add(len as u64, Ordering::Relaxed);
    }
    patience.ask()
}

impl Drop for Image {
    fn drop(&mut self) {
        // The callback that told the last call's end locks the image once more afterwards (ImageState::complete_action_unlock), and librbd 18 does not wait for that
        // before it frees an image that is only read: the process aborts.
        let (pool, raw) = (self.pool.clone(), Pointer(self.raw));
        let closed = within(self.pool.0.cluster.ending(), move || {
            let raw = raw;
            let flushed = pool.flush_callbacks();
            // SAFETY: it is open, and closed once.
            check("rbd_close", unsafe { (pool.rbd().rbd_close)(raw.0) }).and(flushed)
        });
        match closed {
            Some(Ok(())) => {}
            Some(Err(_failed)) => {
                crate::trace::warning!(error = %_failed, "an image could not be closed well: its watch ends with the connection");
            }
            None => crate::trace::warning!("an image is not closed in time: its watch ends with this process"),
        }
    }
}

impl RawLinked {
    const EMPTY: RawLinked = RawLinked {
        pool_id: 0,
        pool: ptr::null_mut(),
        namespace: ptr::null_mut(),
        id: ptr::null_mut(),
        name: ptr::null_mut(),
        trash: false,
    };

    /// # Safety
    /// It was filled by the library.
    unsafe fn read(&self, call: &'static str) -> Result<Child, Failed> {
        // SAFETY: the texts of a filled one are NUL-terminated.
        unsafe {
            Ok(Child {
                pool: string_at(call, self.pool)?,
                namespace: string_at(call, self.namespace)?,
                name: string_at(call, self.name)?,
                id: string_at(call, self.id)?,
                trash: self.trash,
            })
        }
    }
}
