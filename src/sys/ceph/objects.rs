//! Objects and the keys and values beside them, among which is RBD's directory of images.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::ptr;
use std::slice;

use nix::errno::Errno;

use super::answer::{Decoder, check, string, text};
use super::library::{Rados, RawIo, RawOmap, RawReadOp, RawWriteOp};
use super::{Failed, Pool};

/// Keys and values, by key.
type Omap = BTreeMap<String, Vec<u8>>;

/// How many keys are asked for at once: an OSD gives no more than 1024 anyway.
const PAGE: u64 = 1024;
/// The object that says which images there are.
const DIRECTORY: &str = "rbd_directory";
/// An image's id is some 15 letters, with its length before it.
const MAX_ID_OBJECT: usize = 4096;

/// Keys and values that were read. It outlives the op that fills it.
struct Found<'a> {
    rados: &'a Rados,
    raw: *mut RawOmap,
}

impl Found<'_> {
    /// What was found. Only after the op went well: it is in no state to be read before.
    fn read(&mut self, call: &'static str) -> Result<Vec<(String, Vec<u8>)>, Failed> {
        let mut found = Vec::new();
        loop {
            let (mut key, mut value, mut key_len, mut value_len) = (ptr::null_mut(), ptr::null_mut(), 0, 0);
            // SAFETY: it was filled; the pointers and lengths are written to.
            let result = unsafe {
                let next = self.rados.rados_omap_get_next2;
                next(self.raw, &raw mut key, &raw mut value, &raw mut key_len, &raw mut value_len)
            };
            check(call, result)?;
            if key.is_null() {
                return Ok(found);
            }
            // SAFETY: they are as long as the library says, and live as long as this.
            found.push(unsafe { (string(call, borrowed(&key, key_len))?, borrowed(&value, value_len).to_vec()) });
        }
    }
}

/// # Safety
/// The pointer is null, or there are as many bytes where it points to, as long as it is borrowed.
unsafe fn borrowed(start: &*mut c_char, len: usize) -> &[u8] {
    // SAFETY: the caller says so.
    if start.is_null() { &[] } else { unsafe { slice::from_raw_parts(start.cast::<u8>(), len) } }
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: it is ours, and the op that would fill it is gone.
            unsafe { (self.rados.rados_omap_get_end)(self.raw) }
        }
    }
}

struct ReadOp<'a> {
    rados: &'a Rados,
    raw: *mut RawReadOp,
}

impl<'a> ReadOp<'a> {
    fn new(rados: &'a Rados) -> Self {
        // SAFETY: it takes nothing.
        ReadOp { rados, raw: unsafe { (rados.rados_create_read_op)() } }
    }

    fn run(self, call: &'static str, io: *mut RawIo, object: &CString) -> Result<(), Failed> {
        // SAFETY: all is alive; the name is NUL-terminated.
        check(call, unsafe { (self.rados.rados_read_op_operate)(self.raw, io, object.as_ptr(), 0) }).map(drop)
    }
}

impl Drop for ReadOp<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours, and not under way: to run it is to wait for it.
        unsafe { (self.rados.rados_release_read_op)(self.raw) }
    }
}

struct WriteOp<'a> {
    rados: &'a Rados,
    raw: *mut RawWriteOp,
}

impl<'a> WriteOp<'a> {
    fn new(rados: &'a Rados) -> Self {
        // SAFETY: it takes nothing.
        WriteOp { rados, raw: unsafe { (rados.rados_create_write_op)() } }
    }

    fn run(self, call: &'static str, io: *mut RawIo, object: &CString) -> Result<(), Failed> {
        // SAFETY: all is alive; the name is NUL-terminated; no time is given.
        let result = unsafe { (self.rados.rados_write_op_operate)(self.raw, io, object.as_ptr(), ptr::null_mut(), 0) };
        check(call, result).map(drop)
    }
}

impl Drop for WriteOp<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours, and not under way.
        unsafe { (self.rados.rados_release_write_op)(self.raw) }
    }
}

/// Where texts begin, and how long they are.
fn parts<T: AsRef<[u8]>>(texts: &[T]) -> (Vec<*const c_char>, Vec<usize>) {
    texts.iter().map(|text| (text.as_ref().as_ptr().cast::<c_char>(), text.as_ref().len())).unzip()
}

impl Pool {
    /// The values of these keys, those that there are. An object that is not there has none.
    pub(crate) fn omap(&self, object: &str, keys: &[String]) -> Result<Omap, Failed> {
        const CALL: &str = "rados_read_op_omap_get_vals_by_keys2";
        if keys.is_empty() {
            return Ok(Omap::new());
        }
        let object = text(CALL, object)?;
        let (starts, lens) = parts(keys);
        let mut result: c_int = 0;
        let mut found = Found { rados: self.rados(), raw: ptr::null_mut() };
        let op = ReadOp::new(self.rados());
        // SAFETY: as many keys as lengths, all copied; the result and the list outlive the op.
        unsafe {
            let ask = self.rados().rados_read_op_omap_get_vals_by_keys2;
            ask(op.raw, starts.as_ptr(), keys.len(), lens.as_ptr(), &raw mut found.raw, &raw mut result);
        }
        match op.run(CALL, self.io(), &object).and_then(|()| check(CALL, result)) {
            Ok(_) => Ok(found.read(CALL)?.into_iter().collect()),
            Err(Failed { errno: Errno::ENOENT, .. }) => Ok(Omap::new()),
            Err(failed) => Err(failed),
        }
    }

    /// All keys that begin so, and their values. An object that is not there has none.
    pub(crate) fn omap_with_prefix(&self, object: &str, prefix: &str) -> Result<Omap, Failed> {
        const CALL: &str = "rados_read_op_omap_get_vals2";
        let (object, prefix) = (text(CALL, object)?, text(CALL, prefix)?);
        let mut all = Omap::new();
        let mut after = CString::default();
        loop {
            let (mut result, mut more) = (0, 0);
            let mut found = Found { rados: self.rados(), raw: ptr::null_mut() };
            let op = ReadOp::new(self.rados());
            // SAFETY: the texts are NUL-terminated and copied; all that is written to outlives the op.
            unsafe {
                let ask = self.rados().rados_read_op_omap_get_vals2;
                ask(op.raw, after.as_ptr(), prefix.as_ptr(), PAGE, &raw mut found.raw, &raw mut more, &raw mut result);
            }
            match op.run(CALL, self.io(), &object).and_then(|()| check(CALL, result)) {
                Ok(_) => {}
                Err(Failed { errno: Errno::ENOENT, .. }) => return Ok(all),
                Err(failed) => return Err(failed),
            }
            let page = found.read(CALL)?;
            // Every page begins behind the one before it, so that this comes to an end.
            match page.last() {
                Some((last, _)) if more != 0 && last.as_bytes() > after.as_bytes() => {
                    after = text(CALL, last)?;
                    all.extend(page);
                }
                _ => {
                    all.extend(page);
                    return Ok(all);
                }
            }
        }
    }

    /// Sets keys, all at once. An object that is not there is made.
    pub(crate) fn set_omap(&self, object: &str, pairs: &[(String, Vec<u8>)]) -> Result<(), Failed> {
        const CALL: &str = "rados_write_op_omap_set2";
        let object = text(CALL, object)?;
        let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = pairs.iter().map(|(key, value)| (key.as_bytes(), &value[..])).unzip();
        let ((keys, key_lens), (values, value_lens)) = (parts(&keys), parts(&values));
        let op = WriteOp::new(self.rados());
        // SAFETY: as many of each, all copied.
        unsafe {
            let set = self.rados().rados_write_op_omap_set2;
            set(op.raw, keys.as_ptr(), values.as_ptr(), key_lens.as_ptr(), value_lens.as_ptr(), pairs.len());
        }
        op.run(CALL, self.io(), &object)
    }

    /// Removes keys, all at once. Those that are gone are no error.
    pub(crate) fn remove_omap(&self, object: &str, keys: &[String]) -> Result<(), Failed> {
        const CALL: &str = "rados_write_op_omap_rm_keys2";
        let object = text(CALL, object)?;
        let (starts, lens) = parts(keys);
        let op = WriteOp::new(self.rados());
        // SAFETY: as many keys as lengths, all copied.
        unsafe { (self.rados().rados_write_op_omap_rm_keys2)(op.raw, starts.as_ptr(), lens.as_ptr(), keys.len()) }
        gone_is_fine(op.run(CALL, self.io(), &object))
    }

    /// What an object holds, its first `most` bytes.
    pub(crate) fn read(&self, object: &str, most: usize) -> Result<Option<Vec<u8>>, Failed> {
        const CALL: &str = "rados_read";
        let object = text(CALL, object)?;
        let mut buffer = vec![0u8; most];
        // SAFETY: the name is NUL-terminated, and the buffer as long as is said.
        let result = unsafe { (self.rados().rados_read)(self.io(), object.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match check(CALL, result) {
            Ok(len) => {
                buffer.truncate(usize::try_from(len).unwrap_or(0));
                Ok(Some(buffer))
            }
            Err(Failed { errno: Errno::ENOENT, .. }) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Removes an object. One that is gone is no error.
    pub(crate) fn remove_object(&self, object: &str) -> Result<(), Failed> {
        const CALL: &str = "rados_remove";
        let object = text(CALL, object)?;
        // SAFETY: the name is NUL-terminated.
        gone_is_fine(check(CALL, unsafe { (self.rados().rados_remove)(self.io(), object.as_ptr()) }).map(drop))
    }

    /// The ids of the images of these names, in one read.
    pub(crate) fn image_ids(&self, names: &[&str]) -> Result<Vec<Option<String>>, Failed> {
        let keys: Vec<_> = names.iter().map(|name| format!("name_{name}")).collect();
        let found = self.omap(DIRECTORY, &keys)?;
        keys.iter().map(|key| found.get(key).map(|value| decoded(value)).transpose()).collect()
    }

    /// The name of the image of this id.
    pub(crate) fn image_name(&self, id: &str) -> Result<Option<String>, Failed> {
        let key = format!("id_{id}");
        self.omap(DIRECTORY, std::slice::from_ref(&key))?.get(&key).map(|value| decoded(value)).transpose()
    }

    /// The names of all images that begin so.
    #[cfg(test)]
    pub(crate) fn image_names(&self, prefix: &str) -> Result<Vec<String>, Failed> {
        let found = self.omap_with_prefix(DIRECTORY, &format!("name_{prefix}"))?;
        Ok(found.into_keys().filter_map(|key| key.strip_prefix("name_").map(str::to_owned)).collect())
    }

    /// The id that the object of a name holds, beside the directory. One that the directory does not know is what a killed rename leaves.
    pub(crate) fn id_object(&self, name: &str) -> Result<Option<String>, Failed> {
        self.read(&id_object_name(name), MAX_ID_OBJECT)?.map(|value| decoded(&value)).transpose()
    }

    pub(crate) fn remove_id_object(&self, name: &str) -> Result<(), Failed> {
        self.remove_object(&id_object_name(name))
    }
}

fn id_object_name(name: &str) -> String {
    format!("rbd_id.{name}")
}

fn gone_is_fine(result: Result<(), Failed>) -> Result<(), Failed> {
    match result {
        Err(Failed { errno: Errno::ENOENT, .. }) => Ok(()),
        result => result,
    }
}

/// A text as RBD writes it: its length, and then itself.
fn decoded(value: &[u8]) -> Result<String, Failed> {
    const CALL: &str = "rbd_directory";
    let mut decoder = Decoder::new(CALL, value);
    let text = decoder.counted()?;
    decoder.end()?;
    string(CALL, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_read_as_rbd_writes_them() {
        assert_eq!(decoded(b"\x04\0\0\x0010ab").unwrap(), "10ab");
        assert_eq!(decoded(b"\0\0\0\0").unwrap(), "");
        for (bad, errno) in [
            (&b""[..], Errno::EBADMSG),
            (b"\x04\0\0", Errno::EBADMSG),
            (b"\x05\0\0\x0010ab", Errno::EBADMSG),
            (b"\x03\0\0\x0010ab", Errno::EBADMSG),
            (b"\xff\xff\xff\xff10ab", Errno::EBADMSG),
            (b"\x01\0\0\0\xff", Errno::EILSEQ),
        ] {
            assert_eq!(decoded(bad).unwrap_err().errno, errno, "{bad:?}");
        }
    }
}
