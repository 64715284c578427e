//! Lists of names and values, safe to use.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use nix::errno::Errno;

use super::check;
use super::library::{NvPair, RawList, RawPair};

/// No list that ZFS returns is as deep.
const MAX_DEPTH: u32 = 16;

/// A value in a list that ZFS returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// The name alone says it.
    Set,
    Bool(bool),
    Number(i64),
    Text(Vec<u8>),
    List(Map),
    /// Of a kind that nothing here asks for.
    Other,
}

/// What a list holds.
pub(crate) type Map = BTreeMap<String, Value>;

impl Value {
    pub(crate) fn as_text(&self) -> Option<&[u8]> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text that is UTF-8, as all names of ZFS are.
    pub(crate) fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_text()?).ok()
    }

    /// Numbers are unsigned in ZFS, and signed on their way through a program.
    pub(crate) fn as_number(&self) -> Option<u64> {
        match self {
            Value::Number(number) => Some(number.cast_unsigned()),
            _ => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&Map> {
        match self {
            Value::List(map) => Some(map),
            _ => None,
        }
    }
}

/// A value to give to ZFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    Set,
    Number(u64),
    Text(CString),
    List(Vec<(CString, Given)>),
}

/// A list that is freed when it is dropped.
pub(super) struct List<'a> {
    calls: &'a NvPair,
    raw: *mut RawList,
}

impl<'a> List<'a> {
    /// Takes a list that a call returned, which may be none.
    pub(super) fn from_raw(calls: &'a NvPair, raw: *mut RawList) -> Self {
        List { calls, raw }
    }

    pub(super) fn new(calls: &'a NvPair, items: &[(CString, Given)]) -> Result<Self, Errno> {
        const NV_UNIQUE_NAME: u32 = 1;
        let mut raw = ptr::null_mut();
        // SAFETY: the pointer is written to, and names the list afterwards.
        check(unsafe { (calls.nvlist_alloc)(&raw mut raw, NV_UNIQUE_NAME, 0) })?;
        let list = List { calls, raw };
        for (name, value) in items {
            let name = name.as_ptr();
            // SAFETY: the list is alive, names and texts are NUL-terminated, and all that is added is copied.
            check(unsafe {
                match value {
                    Given::Set => (calls.nvlist_add_boolean)(raw, name),
                    Given::Number(number) => (calls.nvlist_add_uint64)(raw, name, *number),
                    Given::Text(text) => (calls.nvlist_add_string)(raw, name, text.as_ptr()),
                    Given::List(items) => (calls.nvlist_add_nvlist)(raw, name, List::new(calls, items)?.raw),
                }
            })?;
        }
        Ok(list)
    }

    pub(super) fn as_raw(&self) -> *mut RawList {
        self.raw
    }

    pub(super) fn read(&self) -> Map {
        read(self.calls, self.raw, 0)
    }
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours alone; a null pointer is let pass.
        unsafe { (self.calls.nvlist_free)(self.raw) }
    }
}

fn read(calls: &NvPair, list: *mut RawList, depth: u32) -> Map {
    let mut map = Map::new();
    if list.is_null() || depth > MAX_DEPTH {
        return map;
    }
    let mut pair = ptr::null_mut();
    loop {
        // SAFETY: the list is alive, and the pair is one of it, or null, which asks for the first.
        pair = unsafe { (calls.nvlist_next_nvpair)(list, pair) };
        if pair.is_null() {
            return map;
        }
        // SAFETY: a pair has a name, NUL-terminated, that lives as long as the list.
        let name = unsafe { CStr::from_ptr((calls.nvpair_name)(pair)) };
        map.insert(name.to_string_lossy().into_owned(), value(calls, pair, depth));
    }
}

fn value(calls: &NvPair, pair: *mut RawPair, depth: u32) -> Value {
    // As sys/nvpair.h numbers them.
    const BOOLEAN: c_int = 1;
    const INT32: c_int = 5;
    const INT64: c_int = 7;
    const UINT64: c_int = 8;
    const STRING: c_int = 9;
    const NVLIST: c_int = 19;
    const BOOLEAN_VALUE: c_int = 21;
    /// Asks for a value of the type that the pair has.
    macro_rules! ask {
        ($call:ident, $start:expr) => {{
            let mut value = $start;
            // SAFETY: the pair is alive and has this type; the value is written to.
            match unsafe { (calls.$call)(pair, &raw mut value) } {
                0 => value,
                _ => return Value::Other,
            }
        }};
    }
    // SAFETY: the pair is alive.
    match unsafe { (calls.nvpair_type)(pair) } {
        BOOLEAN => Value::Set,
        BOOLEAN_VALUE => Value::Bool(ask!(nvpair_value_boolean_value, 0) != 0),
        INT32 => Value::Number(ask!(nvpair_value_int32, 0).into()),
        INT64 => Value::Number(ask!(nvpair_value_int64, 0)),
        UINT64 => Value::Number(ask!(nvpair_value_uint64, 0u64).cast_signed()),
        STRING => {
            let text: *const c_char = ask!(nvpair_value_string, ptr::null());
            // SAFETY: it is NUL-terminated and lives as long as the list.
            Value::Text(unsafe { CStr::from_ptr(text) }.to_bytes().to_owned())
        }
        NVLIST => Value::List(read(calls, ask!(nvpair_value_nvlist, ptr::null_mut()), depth + 1)),
        _ => Value::Other,
    }
}
