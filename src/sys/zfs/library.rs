//! `libzfs_core` and `libnvpair`, loaded at run time: no header and no library is needed to build.
//!
//! `libzfs_core` is the interface that OpenZFS keeps stable; its version is 3 from 2.0 to 2.4. What is declared here is what `libzfs_core.h` and
//! `libnvpair.h` declare.

use std::ffi::{c_char, c_int, c_uchar, c_uint};

use crate::sys::library::library;

/// A list of names and values, as the libraries know it.
#[repr(C)]
pub(super) struct RawList {
    _private: [u8; 0],
}

/// A name and a value in such a list.
#[repr(C)]
pub(super) struct RawPair {
    _private: [u8; 0],
}

library! {
    /// Lists of names and values.
    NvPair from "libnvpair.so.3" {
        nvlist_alloc: fn(*mut *mut RawList, c_uint, c_int) -> c_int;
        nvlist_free: fn(*mut RawList);
        nvlist_add_boolean: fn(*mut RawList, *const c_char) -> c_int;
        nvlist_add_uint64: fn(*mut RawList, *const c_char, u64) -> c_int;
        nvlist_add_string: fn(*mut RawList, *const c_char, *const c_char) -> c_int;
        nvlist_add_nvlist: fn(*mut RawList, *const c_char, *mut RawList) -> c_int;
        nvlist_next_nvpair: fn(*mut RawList, *mut RawPair) -> *mut RawPair;
        nvpair_name: fn(*mut RawPair) -> *const c_char;
        nvpair_type: fn(*mut RawPair) -> c_int;
        nvpair_value_boolean_value: fn(*mut RawPair, *mut c_int) -> c_int;
        nvpair_value_int32: fn(*mut RawPair, *mut i32) -> c_int;
        nvpair_value_int64: fn(*mut RawPair, *mut i64) -> c_int;
        nvpair_value_uint64: fn(*mut RawPair, *mut u64) -> c_int;
        nvpair_value_string: fn(*mut RawPair, *mut *const c_char) -> c_int;
        nvpair_value_nvlist: fn(*mut RawPair, *mut *mut RawList) -> c_int;
    }
}

library! {
    /// Calls of the kernel's ZFS.
    ZfsCore from "libzfs_core.so.3" {
        libzfs_core_init: fn() -> c_int;
        libzfs_core_fini: fn();
        lzc_create: fn(*const c_char, c_int, *mut RawList, *mut c_uchar, c_uint) -> c_int;
        lzc_clone: fn(*const c_char, *const c_char, *mut RawList) -> c_int;
        lzc_promote: fn(*const c_char, *mut c_char, c_int) -> c_int;
        lzc_snapshot: fn(*mut RawList, *mut RawList, *mut *mut RawList) -> c_int;
        lzc_destroy_snaps: fn(*mut RawList, c_int, *mut *mut RawList) -> c_int;
        lzc_destroy: fn(*const c_char) -> c_int;
        lzc_rename: fn(*const c_char, *const c_char) -> c_int;
        lzc_rollback_to: fn(*const c_char, *const c_char) -> c_int;
        lzc_channel_program: fn(*const c_char, *const c_char, u64, u64, *mut RawList, *mut *mut RawList) -> c_int;
        lzc_channel_program_nosync: fn(*const c_char, *const c_char, u64, u64, *mut RawList, *mut *mut RawList) -> c_int;
    }
}
