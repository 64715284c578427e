//! What goes in and comes out: texts, numbers, and buffers that turn out too short.

use std::ffi::{CStr, CString, c_char, c_int};
use std::slice;

use nix::errno::Errno;

use super::Failed;
use super::library::Rados;

/// A buffer that is too short is made longer this often.
const ATTEMPTS: u32 = 12;
/// No name and no option is as long.
const MAX_TEXT: usize = 1 << 20;
/// No list has more entries that anyone asks for.
const MAX_ENTRIES: usize = 1 << 20;

/// A result that is an error when it is negative.
pub(super) fn check(call: &'static str, result: c_int) -> Result<c_int, Failed> {
    if result < 0 { Err(Failed { call, errno: Errno::from_raw(result.saturating_neg()) }) } else { Ok(result) }
}

/// A text to give. One with a NUL in it is nothing that a cluster has.
pub(super) fn text(call: &'static str, text: &str) -> Result<CString, Failed> {
    CString::new(text).map_err(|_| Failed { call, errno: Errno::EINVAL })
}

/// Text that came back. Names that are not UTF-8 are an error, for nobody could name them again.
pub(super) fn string(call: &'static str, bytes: &[u8]) -> Result<String, Failed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Failed { call, errno: Errno::EILSEQ })
}

/// A text that came back by its pointer; none is an empty one.
///
/// # Safety
/// The pointer is null, or that of a NUL-terminated text.
pub(super) unsafe fn string_at(call: &'static str, text: *const c_char) -> Result<String, Failed> {
    if text.is_null() {
        return Ok(String::new());
    }
    // SAFETY: the caller says so.
    string(call, unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Asks for a text with a longer and longer buffer, until it fits.
pub(super) fn grown(call: &'static str, mut ask: impl FnMut(*mut c_char, usize) -> c_int) -> Result<String, Failed> {
    let mut buffer = vec![0u8; 256];
    loop {
        match check(call, ask(buffer.as_mut_ptr().cast(), buffer.len())) {
            Err(Failed { errno: Errno::ERANGE | Errno::ENAMETOOLONG, .. }) if buffer.len() < MAX_TEXT => {
                buffer.resize(buffer.len() * 4, 0);
            }
            result => {
                result?;
                let len = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
                return string(call, &buffer[..len]);
            }
        }
    }
}

/// Asks for a list, with more and more room, until it fits. The call is told how many entries there is room for, and says how many there
/// are.
pub(super) fn listed<T: Clone>(
    call: &'static str,
    empty: &T,
    mut ask: impl FnMut(*mut T, &mut usize) -> c_int,
) -> Result<Vec<T>, Failed> {
    let mut entries = vec![empty.clone(); 32];
    for _ in 0..ATTEMPTS {
        let mut count = entries.len();
        match check(call, ask(entries.as_mut_ptr(), &mut count)) {
            Err(Failed { errno: Errno::ERANGE, .. }) => {
                // Some more, for those that are made in between.
                let room = count.max(entries.len()).saturating_add(16);
                if room > MAX_ENTRIES {
                    break;
                }
                entries = vec![empty.clone(); room];
            }
            result => {
                result?;
                entries.truncate(count);
                return Ok(entries);
            }
        }
    }
    Err(Failed { call, errno: Errno::E2BIG })
}

/// Bytes that librados allocated, freed when dropped.
pub(super) struct Reply {
    rados: &'static Rados,
    start: *mut c_char,
    len: usize,
}

impl Reply {
    /// Takes what a call gave, which may be nothing.
    pub(super) fn new(rados: &'static Rados, start: *mut c_char, len: usize) -> Self {
        Reply { rados, start, len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: it is as long as the library said, and ours.
        unsafe { slice::from_raw_parts(self.start.cast(), self.len) }
    }

    pub(super) fn into_string(self, call: &'static str) -> Result<String, Failed> {
        string(call, self.bytes())
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // SAFETY: it is ours; nothing is let pass.
        unsafe { (self.rados.rados_buffer_free)(self.start) }
    }
}

/// Reads numbers and texts as Ceph encodes them, little endian.
pub(super) struct Decoder<'a> {
    call: &'static str,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(call: &'static str, bytes: &'a [u8]) -> Self {
        Decoder { call, rest: bytes }
    }

    fn malformed<T>(&self) -> Result<T, Failed> {
        Err(Failed { call: self.call, errno: Errno::EBADMSG })
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Failed> {
        match self.rest.split_at_checked(len) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => self.malformed(),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Failed> {
        let mut number = [0; 4];
        number.copy_from_slice(self.bytes(4)?);
        Ok(u32::from_le_bytes(number))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Failed> {
        let mut number = [0; 8];
        number.copy_from_slice(self.bytes(8)?);
        Ok(u64::from_le_bytes(number))
    }

    /// Bytes with their length before them.
    pub(super) fn counted(&mut self) -> Result<&'a [u8], Failed> {
        let len = self.u32()?;
        self.bytes(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Nothing follows.
    pub(super) fn end(self) -> Result<(), Failed> {
        if self.rest.is_empty() { Ok(()) } else { self.malformed() }
    }
}
