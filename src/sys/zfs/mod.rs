//! What the kernel's ZFS does for us, through `libzfs_core`. Each call is atomic, and durable when it returns.

mod library;
mod list;

use std::ffi::{CStr, CString, c_int};
use std::fmt;
use std::io;
use std::ptr;
use std::sync::Arc;

use nix::errno::Errno;

use self::library::{NvPair, RawList, ZfsCore};
use self::list::List;
pub(crate) use self::list::{Given, Map, Value};

/// The libraries, loaded, and the kernel's ZFS, reached. Clones share both.
#[derive(Debug, Clone)]
pub(crate) struct Zfs(Arc<Calls>);

#[derive(Debug)]
struct Calls {
    core: ZfsCore,
    pair: NvPair,
}

impl Drop for Calls {
    fn drop(&mut self) {
        // SAFETY: it was initialised by whoever made this, once.
        unsafe { (self.core.libzfs_core_fini)() }
    }
}

/// Why ZFS cannot be reached.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The libraries are not there, or lack a function.
    Library(libloading::Error),
    /// The kernel's module is not, or the caller may not use it.
    Module(io::Error),
}

/// A program failed: the error of the call, and what the program itself said, if it did.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) errno: Errno,
    pub(crate) said: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.said.is_empty() { self.errno.fmt(f) } else { f.write_str(&self.said) }
    }
}

/// What a program may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Look. It sees one state of the pool.
    Reads,
    /// Change things, in one transaction.
    Writes,
}

/// The most that the kernel grants.
const MAX_INSTRUCTIONS: u64 = 100_000_000;
const MAX_MEMORY: u64 = 100 << 20;

impl Zfs {
    pub(crate) fn load() -> Result<Self, Unavailable> {
        let pair = NvPair::load().map_err(Unavailable::Library)?;
        let core = ZfsCore::load().map_err(Unavailable::Library)?;
        // SAFETY: it opens the device of ZFS, and counts how often it was called.
        match unsafe { (core.libzfs_core_init)() } {
            0 => Ok(Zfs(Arc::new(Calls { core, pair }))),
            errno => Err(Unavailable::Module(io::Error::from_raw_os_error(errno))),
        }
    }

    fn list(&self, items: &[(CString, Given)]) -> Result<List<'_>, Errno> {
        List::new(&self.0.pair, items)
    }

    /// Makes a file system with these properties.
    pub(crate) fn create(&self, name: &CStr, properties: &[(CString, Given)]) -> Result<(), Errno> {
        const LZC_DATSET_TYPE_ZFS: c_int = 2;
        let properties = self.list(properties)?;
        // SAFETY: the name is NUL-terminated, the list is alive, and no key is given.
        check(unsafe { (self.0.core.lzc_create)(name.as_ptr(), LZC_DATSET_TYPE_ZFS, properties.as_raw(), ptr::null_mut(), 0) })
    }

    /// Makes a clone of the snapshot `origin` with these properties.
    pub(crate) fn clone_of(&self, origin: &CStr, name: &CStr, properties: &[(CString, Given)]) -> Result<(), Errno> {
        let properties = self.list(properties)?;
        // SAFETY: the names are NUL-terminated and the list is alive.
        check(unsafe { (self.0.core.lzc_clone)(name.as_ptr(), origin.as_ptr(), properties.as_raw()) })
    }

    /// Makes a clone the owner of the snapshots that it depends on. `EEXIST`: it has one of the same name.
    pub(crate) fn promote(&self, name: &CStr) -> Result<(), Errno> {
        let mut conflict = [0; 256];
        // SAFETY: the name is NUL-terminated, and the buffer is as long as is said.
        check(unsafe { (self.0.core.lzc_promote)(name.as_ptr(), conflict.as_mut_ptr(), conflict.len() as c_int) })
    }

    /// Takes a snapshot, given by its full name, with these user properties.
    pub(crate) fn snapshot(&self, name: &CStr, properties: &[(CString, Given)]) -> Result<(), Errno> {
        let (names, properties) = (self.list(&[(name.to_owned(), Given::Set)])?, self.list(properties)?);
        let mut errors = ptr::null_mut();
        // SAFETY: the lists are alive; the pointer is written to.
        let result = unsafe { (self.0.core.lzc_snapshot)(names.as_raw(), properties.as_raw(), &raw mut errors) };
        self.first_error(result, errors)
    }

    /// Destroys snapshots, given by their full names, all or none. Those that are gone are no error.
    pub(crate) fn destroy_snapshots(&self, names: &[CString]) -> Result<(), Errno> {
        let names: Vec<_> = names.iter().map(|name| (name.clone(), Given::Set)).collect();
        let names = self.list(&names)?;
        let mut errors = ptr::null_mut();
        // SAFETY: the list is alive; the pointer is written to.
        let result = unsafe { (self.0.core.lzc_destroy_snaps)(names.as_raw(), 0, &raw mut errors) };
        self.first_error(result, errors)
    }

    /// The call says of several errors only that there are some; the list names them.
    fn first_error(&self, result: c_int, errors: *mut RawList) -> Result<(), Errno> {
        let errors = List::from_raw(&self.0.pair, errors);
        check(result).map_err(|errno| {
            let named = errors.read().into_values().find_map(|value| i32::try_from(value.as_number()?).ok());
            named.map_or(errno, Errno::from_raw)
        })
    }

    /// Destroys a file system that has neither children nor snapshots.
    pub(crate) fn destroy(&self, name: &CStr) -> Result<(), Errno> {
        // SAFETY: the name is NUL-terminated.
        check(unsafe { (self.0.core.lzc_destroy)(name.as_ptr()) })
    }

    /// Renames a file system, or a snapshot within its own.
    pub(crate) fn rename(&self, from: &CStr, to: &CStr) -> Result<(), Errno> {
        // SAFETY: the names are NUL-terminated.
        check(unsafe { (self.0.core.lzc_rename)(from.as_ptr(), to.as_ptr()) })
    }

    /// Brings a file system back to its latest snapshot, given by its full name. `EEXIST`: there is a later one.
    pub(crate) fn roll_back(&self, name: &CStr, snapshot: &CStr) -> Result<(), Errno> {
        // SAFETY: the names are NUL-terminated.
        check(unsafe { (self.0.core.lzc_rollback_to)(name.as_ptr(), snapshot.as_ptr()) })
    }

    /// Runs a program in the kernel and returns what it returned, a table.
    pub(crate) fn run(&self, pool: &CStr, program: &CStr, how: Program, arguments: &[(CString, Given)]) -> Result<Map, Failed> {
        let failed = |errno| Failed { errno, said: String::new() };
        let arguments = self.list(arguments).map_err(failed)?;
        let call = match how {
            Program::Reads => self.0.core.lzc_channel_program_nosync,
            Program::Writes => self.0.core.lzc_channel_program,
        };
        let mut out = ptr::null_mut();
        // SAFETY: the texts are NUL-terminated, the list is alive, and the pointer is written to.
        let result =
            unsafe { call(pool.as_ptr(), program.as_ptr(), MAX_INSTRUCTIONS, MAX_MEMORY, arguments.as_raw(), &raw mut out) };
        let mut out = List::from_raw(&self.0.pair, out).read();
        match check(result) {
            Ok(()) => match out.remove("return") {
                Some(Value::List(map)) => Ok(map),
                _ => Ok(Map::new()),
            },
            Err(errno) => {
                let said = out.get("error").and_then(Value::as_text).map(|text| String::from_utf8_lossy(text).into_owned());
                Err(Failed { errno, said: said.unwrap_or_default() })
            }
        }
    }
}

/// ZFS has errors of its own above those of the system (`zfs_errno_t` in sys/fs/zfs.h): they become the nearest of those.
fn check(result: c_int) -> Result<(), Errno> {
    const FIRST: c_int = 1024;
    const BAD_PROPERTY: c_int = 1044;
    match result {
        0 => Ok(()),
        BAD_PROPERTY => Err(Errno::EINVAL),
        FIRST.. => Err(Errno::ENOTSUP),
        errno => Err(Errno::from_raw(errno)),
    }
}
