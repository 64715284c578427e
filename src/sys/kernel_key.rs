//! Keys that the kernel keeps for as long as a call needs them: see add_key(2).

use std::ffi::CString;
use std::fmt;
use std::io;

const THREAD_KEYRING: libc::c_long = -1;

/// A key of a type, and a description under which the kernel looks for it.
pub(crate) struct Key {
    kind: CString,
    description: CString,
    payload: Vec<u8>,
}

impl Key {
    pub(crate) fn new(kind: &str, description: &str, payload: &[u8]) -> io::Result<Key> {
        Ok(Key { kind: CString::new(kind)?, description: CString::new(description)?, payload: payload.to_owned() })
    }

    /// Puts it into the calling thread's keyring, where only what the thread does finds it. Allocates nothing.
    pub(crate) fn add(&self) -> io::Result<Added> {
        let (kind, description) = (self.kind.as_ptr(), self.description.as_ptr());
        // SAFETY: the texts are NUL-terminated, and the payload is as long as is said; all live through the call.
        let serial = unsafe {
            libc::syscall(libc::SYS_add_key, kind, description, self.payload.as_ptr(), self.payload.len(), THREAD_KEYRING)
        };
        if serial < 0 { Err(io::Error::last_os_error()) } else { Ok(Added(serial)) }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("description", &self.description).finish_non_exhaustive()
    }
}

/// A key in a thread's keyring, until it is dropped.
#[derive(Debug)]
pub(crate) struct Added(libc::c_long);

impl Drop for Added {
    fn drop(&mut self) {
        const UNLINK: libc::c_long = 9;
        // SAFETY: the call takes numbers only.
        unsafe { libc::syscall(libc::SYS_keyctl, UNLINK, self.0, THREAD_KEYRING) };
    }
}
