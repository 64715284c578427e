//! librados and librbd, loaded at run time. What is declared here is what `librados.h` and `librbd.h` declare, from 16.2 on.

use std::ffi::{c_char, c_int, c_uchar, c_void};
use std::sync::OnceLock;

use libc::{ssize_t, time_t, timeval};

use crate::sys::library::library;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident)+) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            pub(super) struct $name {
                _private: [u8; 0],
            }
        )+
    };
}

opaque! {
    /// A connection.
    RawCluster
    /// A pool of it, and a namespace.
    RawIo
    /// Reads of one object that are done together.
    RawReadOp
    /// Writes to one object that are done together.
    RawWriteOp
    /// Keys and values that were read.
    RawOmap
    /// A call that ends later.
    RawCompletion
    /// An open image.
    RawImage
    /// What an image is made with.
    RawOptions
}

/// Asked while a long call runs; a negative answer ends it.
pub(super) type ProgressCall = extern "C" fn(u64, u64, *mut c_void) -> c_int;
/// Told of an extent: where, how long, whether it holds something.
pub(super) type ExtentCall = extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;
/// Told of a notification: its id, the watch, who sent it, and what.
pub(super) type NotifyCall = extern "C" fn(*mut c_void, u64, u64, u64, *mut c_void, usize);
/// Told that a watch is broken.
pub(super) type BrokenCall = extern "C" fn(*mut c_void, u64, c_int);
/// Told that a call ended.
pub(super) type DoneCall = extern "C" fn(*mut RawCompletion, *mut c_void);

/// `rbd_image_info_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawInfo {
    pub(super) size: u64,
    pub(super) object_size: u64,
    pub(super) objects: u64,
    pub(super) order: c_int,
    pub(super) prefix: [c_char; 24],
    pub(super) parent_pool: i64,
    pub(super) parent_name: [c_char; 96],
}

/// `rbd_linked_image_spec_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawLinked {
    pub(super) pool_id: i64,
    pub(super) pool: *mut c_char,
    pub(super) namespace: *mut c_char,
    pub(super) id: *mut c_char,
    pub(super) name: *mut c_char,
    pub(super) trash: bool,
}

/// `rbd_snap_spec_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawSnapSpec {
    pub(super) id: u64,
    pub(super) kind: c_int,
    pub(super) name: *mut c_char,
}

/// `rbd_snap_info_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawSnap {
    pub(super) id: u64,
    pub(super) size: u64,
    pub(super) name: *const c_char,
}

/// `rbd_group_info_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawGroup {
    pub(super) name: *mut c_char,
    pub(super) pool: i64,
}

/// `rbd_mirror_image_info_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawMirror {
    pub(super) global_id: *mut c_char,
    pub(super) state: c_int,
    pub(super) primary: bool,
}

/// `rbd_trash_image_info_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawTrash {
    pub(super) id: *mut c_char,
    pub(super) name: *mut c_char,
    pub(super) source: c_int,
    pub(super) deletion: time_t,
    pub(super) deferment_end: time_t,
}

/// `rbd_image_watcher_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawWatcher {
    pub(super) address: *mut c_char,
    pub(super) client: i64,
    pub(super) cookie: u64,
}

library! {
    /// Objects, locks and monitors.
    #[cfg_attr(not(test), allow(dead_code, reason = "some of it only the tests call"))]
    Rados from "librados.so.2" {
        rados_create2: fn(*mut *mut RawCluster, *const c_char, *const c_char, u64) -> c_int;
        rados_connect: fn(*mut RawCluster) -> c_int;
        rados_shutdown: fn(*mut RawCluster);
        rados_conf_read_file: fn(*mut RawCluster, *const c_char) -> c_int;
        rados_conf_set: fn(*mut RawCluster, *const c_char, *const c_char) -> c_int;
        rados_conf_get: fn(*mut RawCluster, *const c_char, *mut c_char, usize) -> c_int;
        rados_cluster_fsid: fn(*mut RawCluster, *mut c_char, usize) -> c_int;
        rados_get_instance_id: fn(*mut RawCluster) -> u64;
        rados_getaddrs: fn(*mut RawCluster, *mut *mut c_char) -> c_int;
        rados_buffer_free: fn(*mut c_char);
        rados_pool_reverse_lookup: fn(*mut RawCluster, i64, *mut c_char, usize) -> c_int;
        rados_wait_for_latest_osdmap: fn(*mut RawCluster) -> c_int;
        rados_mon_command: fn(
            *mut RawCluster, *mut *const c_char, usize, *const c_char, usize, *mut *mut c_char, *mut usize, *mut *mut c_char,
            *mut usize
        ) -> c_int;
        rados_ioctx_create: fn(*mut RawCluster, *const c_char, *mut *mut RawIo) -> c_int;
        rados_ioctx_destroy: fn(*mut RawIo);
        rados_ioctx_get_id: fn(*mut RawIo) -> i64;
        rados_ioctx_set_namespace: fn(*mut RawIo, *const c_char);
        rados_read: fn(*mut RawIo, *const c_char, *mut c_char, usize, u64) -> c_int;
        rados_remove: fn(*mut RawIo, *const c_char) -> c_int;
        rados_create_read_op: fn() -> *mut RawReadOp;
        rados_release_read_op: fn(*mut RawReadOp);
        rados_read_op_omap_get_vals2: fn(
            *mut RawReadOp, *const c_char, *const c_char, u64, *mut *mut RawOmap, *mut c_uchar, *mut c_int
        );
        rados_read_op_omap_get_vals_by_keys2: fn(
            *mut RawReadOp, *const *const c_char, usize, *const usize, *mut *mut RawOmap, *mut c_int
        );
        rados_read_op_operate: fn(*mut RawReadOp, *mut RawIo, *const c_char, c_int) -> c_int;
        rados_omap_get_next2: fn(*mut RawOmap, *mut *mut c_char, *mut *mut c_char, *mut usize, *mut usize) -> c_int;
        rados_omap_get_end: fn(*mut RawOmap);
        rados_create_write_op: fn() -> *mut RawWriteOp;
        rados_release_write_op: fn(*mut RawWriteOp);
        rados_write_op_omap_set2: fn(
            *mut RawWriteOp, *const *const c_char, *const *const c_char, *const usize, *const usize, usize
        );
        rados_write_op_omap_rm_keys2: fn(*mut RawWriteOp, *const *const c_char, *const usize, usize);
        rados_write_op_operate: fn(*mut RawWriteOp, *mut RawIo, *const c_char, *mut time_t, c_int) -> c_int;
        rados_lock_exclusive: fn(*mut RawIo, *const c_char, *const c_char, *const c_char, *const c_char, *mut timeval, u8) -> c_int;
        rados_lock_shared: fn(
            *mut RawIo, *const c_char, *const c_char, *const c_char, *const c_char, *const c_char, *mut timeval, u8
        ) -> c_int;
        rados_unlock: fn(*mut RawIo, *const c_char, *const c_char, *const c_char) -> c_int;
        rados_list_lockers: fn(
            *mut RawIo, *const c_char, *const c_char, *mut c_int, *mut c_char, *mut usize, *mut c_char, *mut usize, *mut c_char,
            *mut usize, *mut c_char, *mut usize
        ) -> ssize_t;
        rados_break_lock: fn(*mut RawIo, *const c_char, *const c_char, *const c_char, *const c_char) -> c_int;
        rados_watch3: fn(*mut RawIo, *const c_char, *mut u64, NotifyCall, BrokenCall, u32, *mut c_void) -> c_int;
        rados_watch_check: fn(*mut RawIo, u64) -> c_int;
        rados_unwatch2: fn(*mut RawIo, u64) -> c_int;
        rados_watch_flush: fn(*mut RawCluster) -> c_int;
        rados_notify_ack: fn(*mut RawIo, *const c_char, u64, u64, *const c_char, c_int) -> c_int;
        rados_aio_create_completion2: fn(*mut c_void, Option<DoneCall>, *mut *mut RawCompletion) -> c_int;
        rados_aio_flush_async: fn(*mut RawIo, *mut RawCompletion) -> c_int;
        rados_aio_wait_for_complete: fn(*mut RawCompletion) -> c_int;
        rados_aio_get_return_value: fn(*mut RawCompletion) -> c_int;
        rados_aio_release: fn(*mut RawCompletion);
        rados_aio_notify: fn(
            *mut RawIo, *const c_char, *mut RawCompletion, *const c_char, c_int, u64, *mut *mut c_char, *mut usize
        ) -> c_int;
    } optional {
        rados_set_pool_full_try: fn(*mut RawIo);
        rados_blocklist_add: fn(*mut RawCluster, *mut c_char, u32) -> c_int;
        rados_blacklist_add: fn(*mut RawCluster, *mut c_char, u32) -> c_int;
    }
}

library! {
    /// Images.
    #[cfg_attr(not(test), allow(dead_code, reason = "some of it only the tests call"))]
    Rbd from "librbd.so.1" {
        rbd_image_options_create: fn(*mut *mut RawOptions);
        rbd_image_options_destroy: fn(*mut RawOptions);
        rbd_image_options_set_string: fn(*mut RawOptions, c_int, *const c_char) -> c_int;
        rbd_image_options_set_uint64: fn(*mut RawOptions, c_int, u64) -> c_int;
        rbd_namespace_exists: fn(*mut RawIo, *const c_char, *mut bool) -> c_int;
        rbd_create4: fn(*mut RawIo, *const c_char, u64, *mut RawOptions) -> c_int;
        rbd_clone3: fn(*mut RawIo, *const c_char, *const c_char, *mut RawIo, *const c_char, *mut RawOptions) -> c_int;
        rbd_remove_with_progress: fn(*mut RawIo, *const c_char, ProgressCall, *mut c_void) -> c_int;
        rbd_rename: fn(*mut RawIo, *const c_char, *const c_char) -> c_int;
        rbd_trash_move: fn(*mut RawIo, *const c_char, u64) -> c_int;
        rbd_trash_get: fn(*mut RawIo, *const c_char, *mut RawTrash) -> c_int;
        rbd_trash_get_cleanup: fn(*mut RawTrash);
        rbd_trash_list: fn(*mut RawIo, *mut RawTrash, *mut usize) -> c_int;
        rbd_trash_list_cleanup: fn(*mut RawTrash, usize);
        rbd_trash_remove_with_progress: fn(*mut RawIo, *const c_char, bool, ProgressCall, *mut c_void) -> c_int;
        rbd_trash_restore: fn(*mut RawIo, *const c_char, *const c_char) -> c_int;
        rbd_open: fn(*mut RawIo, *const c_char, *mut *mut RawImage, *const c_char) -> c_int;
        rbd_open_by_id: fn(*mut RawIo, *const c_char, *mut *mut RawImage, *const c_char) -> c_int;
        rbd_open_read_only: fn(*mut RawIo, *const c_char, *mut *mut RawImage, *const c_char) -> c_int;
        rbd_open_by_id_read_only: fn(*mut RawIo, *const c_char, *mut *mut RawImage, *const c_char) -> c_int;
        rbd_close: fn(*mut RawImage) -> c_int;
        rbd_resize2: fn(*mut RawImage, u64, bool, ProgressCall, *mut c_void) -> c_int;
        rbd_stat: fn(*mut RawImage, *mut RawInfo, usize) -> c_int;
        rbd_get_id: fn(*mut RawImage, *mut c_char, usize) -> c_int;
        rbd_get_features: fn(*mut RawImage, *mut u64) -> c_int;
        rbd_get_op_features: fn(*mut RawImage, *mut u64) -> c_int;
        rbd_get_stripe_unit: fn(*mut RawImage, *mut u64) -> c_int;
        rbd_get_stripe_count: fn(*mut RawImage, *mut u64) -> c_int;
        rbd_get_data_pool_id: fn(*mut RawImage) -> i64;
        rbd_get_parent: fn(*mut RawImage, *mut RawLinked, *mut RawSnapSpec) -> c_int;
        rbd_linked_image_spec_cleanup: fn(*mut RawLinked);
        rbd_snap_spec_cleanup: fn(*mut RawSnapSpec);
        rbd_list_children3: fn(*mut RawImage, *mut RawLinked, *mut usize) -> c_int;
        rbd_linked_image_spec_list_cleanup: fn(*mut RawLinked, usize);
        rbd_snap_list: fn(*mut RawImage, *mut RawSnap, *mut c_int) -> c_int;
        rbd_snap_list_end: fn(*mut RawSnap);
        rbd_snap_get_namespace_type: fn(*mut RawImage, u64, *mut c_int) -> c_int;
        rbd_snap_get_trash_namespace: fn(*mut RawImage, u64, *mut c_char, usize) -> c_int;
        rbd_snap_is_protected: fn(*mut RawImage, *const c_char, *mut c_int) -> c_int;
        rbd_snap_protect: fn(*mut RawImage, *const c_char) -> c_int;
        rbd_snap_unprotect: fn(*mut RawImage, *const c_char) -> c_int;
        rbd_snap_create: fn(*mut RawImage, *const c_char) -> c_int;
        rbd_snap_remove: fn(*mut RawImage, *const c_char) -> c_int;
        rbd_snap_remove_by_id: fn(*mut RawImage, u64) -> c_int;
        rbd_snap_set_by_id: fn(*mut RawImage, u64) -> c_int;
        rbd_flatten_with_progress: fn(*mut RawImage, ProgressCall, *mut c_void) -> c_int;
        rbd_diff_iterate2: fn(*mut RawImage, *const c_char, u64, u64, u8, u8, ExtentCall, *mut c_void) -> c_int;
        rbd_metadata_set: fn(*mut RawImage, *const c_char, *const c_char) -> c_int;
        rbd_metadata_remove: fn(*mut RawImage, *const c_char) -> c_int;
        rbd_watchers_list: fn(*mut RawImage, *mut RawWatcher, *mut usize) -> c_int;
        rbd_watchers_list_cleanup: fn(*mut RawWatcher, usize);
        rbd_get_group: fn(*mut RawImage, *mut RawGroup, usize) -> c_int;
        rbd_group_info_cleanup: fn(*mut RawGroup, usize) -> c_int;
        rbd_mirror_image_get_info: fn(*mut RawImage, *mut RawMirror, usize) -> c_int;
        rbd_mirror_image_get_info_cleanup: fn(*mut RawMirror);
    }
}

/// Both libraries.
#[derive(Debug)]
pub(super) struct Libraries {
    pub(super) rados: Rados,
    pub(super) rbd: Rbd,
}

impl Libraries {
    /// Loads them once, for good: they are C++ with threads and destructors of their own, and nothing says that they can be unloaded.
    pub(super) fn load() -> Result<&'static Self, libloading::Error> {
        static LOADED: OnceLock<Libraries> = OnceLock::new();
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded);
        }
        let rados = Rados::load()?;
        let rbd = Rbd::load()?;
        Ok(LOADED.get_or_init(|| Libraries { rados, rbd }))
    }
}
