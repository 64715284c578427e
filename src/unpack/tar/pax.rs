//! PAX extended headers: `LENGTH KEY=VALUE\n`, as [pax(1)](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html) has them.

use std::ffi::CString;

use super::super::acl::{self, Acl};
use super::super::entry::{LostAcl, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{Escaped, percent_decode};

/// The longest name and value of an extended attribute that Linux takes.
const XATTR_NAME_MAX: usize = 255;
const XATTR_SIZE_MAX: usize = 65536;
/// How many attributes an entry may have. Linux cannot list more names than fit 64 KiB.
const XATTRS_MAX: usize = 1024;

/// What extended headers say of the next entry. `None`: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    xattrs: Vec<(CString, Vec<u8>)>,
    /// ACLs that mean nobody here.
    pub(super) lost_acls: Vec<LostAcl>,
    /// Those that libarchive writes in a form of its own, besides the common one.
    archive_xattrs: Vec<(CString, Vec<u8>)>,
    /// The names in the common form of those that libarchive escapes there too, as no one else does.
    archive_twins: Vec<CString>,
    pub(super) sparse: Sparse,
}

/// What GNU tar's three PAX formats of sparse files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    /// Offsets and lengths by turns: from `GNU.sparse.map` (0.1), or from repeated records (0.0).
    pub(super) map: Option<Vec<u64>>,
}

impl Extensions {
    /// Takes in the records of one extended header; later ones win.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            // Some writers pad the header with NUL bytes.
            if records.iter().all(|&byte| byte == 0) {
                break;
            }
            let (key, value, rest) = split_record(records)?;
            self.record(key, value).map_err(|error| error.with_context("record", Escaped(key)))?;
            records = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return set_xattr(&mut self.xattrs, gnu_decode(name), value.to_vec());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let decoded = percent_decode(name).ok_or_else(|| invalid("an escape is malformed"))?;
            let value = base64_decode(value).ok_or_else(|| invalid("a value is not base64"))?;
            let twin = gnu_decode(name);
            if twin != decoded && self.archive_twins.len() < XATTRS_MAX {
                self.archive_twins.extend(CString::new(twin));
            }
            return set_xattr(&mut self.archive_xattrs, decoded, value);
        }
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = id(value)?,
            b"gid" => self.gid = id(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"SCHILY.acl.access" => self.acl("system.posix_acl_access", value)?,
            b"SCHILY.acl.default" => self.acl("system.posix_acl_default", value)?,
            b"GNU.sparse.name" => self.sparse.name = text(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = number(value)?,
            b"GNU.sparse.major" => self.sparse.major = number(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = number(value)?,
            b"GNU.sparse.map" => {
                let numbers =
                    value.split(|&byte| byte == b',').map(|part| number(part)?.ok_or_else(|| invalid("a number is missing")));
                self.sparse.map = Some(numbers.collect::<Result<_>>()?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let map = self.sparse.map.get_or_insert_default();
                let expected: &[u8] = if map.len().is_multiple_of(2) { b"GNU.sparse.offset" } else { b"GNU.sparse.numbytes" };
                if key != expected {
                    return Err(invalid("a sparse map's records are out of order"));
                }
                map.push(number(value)?.ok_or_else(|| invalid("a number is missing"))?);
            }
            // Comments, access times, names of owners: nothing that is put on disk.
            _ => {}
        }
        Ok(())
    }

    fn acl(&mut self, attribute: &str, value: &[u8]) -> Result<()> {
        match acl::from_text(value)? {
            Acl::Empty => Ok(()),
            Acl::Known(acl) => set_xattr(&mut self.xattrs, attribute.into(), acl),
            Acl::Nameless { group } => {
                let access = attribute == "system.posix_acl_access";
                self.lost_acls.push(if access { LostAcl::Access { group } } else { LostAcl::Default });
                Ok(())
            }
        }
    }

    /// Whether anything is said that can only be meant for one entry.
    pub(super) fn has_attributes(&self) -> bool {
        let attributes = !self.xattrs.is_empty() || !self.archive_xattrs.is_empty() || !self.lost_acls.is_empty();
        attributes || self.sparse != Sparse::default()
    }

    /// All extended attributes, each once.
    pub(super) fn take_xattrs(&mut self) -> Vec<(CString, Vec<u8>)> {
        let mut xattrs = std::mem::take(&mut self.xattrs);
        xattrs.retain(|(name, _)| !self.archive_twins.contains(name));
        for (name, value) in std::mem::take(&mut self.archive_xattrs) {
            if !xattrs.iter().any(|(known, _)| *known == name) {
                xattrs.push((name, value));
            }
        }
        xattrs
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidImage, "unpack", format!("an extended header is malformed: {message}"))
}

/// Key, value and what follows the first record.
fn split_record(records: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|&byte| byte == b' ').ok_or_else(|| invalid("a record has no length"))?;
    let length = number(&records[..space])?.ok_or_else(|| invalid("a record has no length"))?;
    let length = usize::try_from(length).ok().filter(|&length| length > space && length <= records.len());
    let (record, rest) = records.split_at(length.ok_or_else(|| invalid("a record is longer than its header"))?);
    let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(|| invalid("a record does not end where it says"))?;
    let equals = body.iter().position(|&byte| byte == b'=').ok_or_else(|| invalid("a record has no value"))?;
    Ok((&body[..equals], &body[equals + 1..], rest))
}

/// An empty value takes back what an earlier header said.
fn text(value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(Error::new(ErrorKind::UnsafePath, "unpack", "a path holds a NUL byte").with_remedy("do not trust this image"));
    }
    Ok(Some(value.to_vec()).filter(|value| !value.is_empty()))
}

fn number(value: &[u8]) -> Result<Option<u64>> {
    if value.is_empty() {
        return Ok(None);
    }
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| invalid("a number is none, or too large"))
}

fn id(value: &[u8]) -> Result<Option<u32>> {
    // All ones means "leave it" to chown, and is nobody's number.
    let fits = |id| u32::try_from(id).ok().filter(|&id| id != u32::MAX).ok_or_else(|| invalid("an owner is out of range"));
    number(value)?.map(fits).transpose()
}

/// Seconds with any number of decimals, of which nine count, rounded down; they may be negative.
fn time(value: &[u8]) -> Result<Timestamp> {
    let bad = || invalid("a time is none, or out of range");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(bad());
    }
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    let kept = &fraction[..fraction.len().min(9)];
    let nanoseconds: u32 = format!("{kept:0<9}").parse().map_err(|_| bad())?;
    let more = fraction[kept.len()..].bytes().any(|byte| byte != b'0');
    Ok(match (negative, nanoseconds + u32::from(negative && more)) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn set_xattr(xattrs: &mut Vec<(CString, Vec<u8>)>, name: Vec<u8>, value: Vec<u8>) -> Result<()> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX || value.len() > XATTR_SIZE_MAX {
        return Err(invalid("an extended attribute is larger than any can be"));
    }
    let name = CString::new(name).map_err(|_| invalid("an extended attribute's name holds a NUL byte"))?;
    if let Some((_, known)) = xattrs.iter_mut().find(|(known, _)| *known == name) {
        *known = value;
        return Ok(());
    }
    if xattrs.len() >= XATTRS_MAX {
        return Err(Error::new(ErrorKind::LimitExceeded, "unpack", "an entry has more extended attributes than any can have")
            .with_context("limit", XATTRS_MAX));
    }
    xattrs.push((name, value));
    Ok(())
}

/// GNU tar writes `=` and `%` in an attribute's name as `%3D` and `%25`, for a key ends at the first `=`, and nothing else so.
fn gnu_decode(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'3', b'D', after @ ..] => (b'=', after),
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            _ => (byte, after),
        };
        out.push(byte);
        rest = after;
    }
    out
}

/// Base64 with or without padding; line ends are skipped.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text.iter().filter(|byte| !b"=\r\n".contains(byte)) {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let digits = (1..).find(|digits| (body + digits).to_string().len() == *digits).unwrap();
        let mut out = format!("{} {key}=", body + digits).into_bytes();
        out.extend_from_slice(value);
        out.push(b'\n');
        out
    }

    fn read(records: &[Vec<u8>]) -> Result<Extensions> {
        let mut extensions = Extensions::default();
        extensions.read(&records.concat()).map(|()| extensions)
    }

    #[test]
    fn records_are_read_and_later_ones_win() {
        let mut found = read(&[
            record("path", b"a"),
            record("path", b"caf\xe9=\nx"),
            record("size", b"8589934592"),
            record("uid", b"70000"),
            record("mtime", b"1.5"),
            record("SCHILY.xattr.user.a", b"1\n\x002"),
            record("LIBARCHIVE.xattr.user.a", b"b3RoZXI"),
            record("LIBARCHIVE.xattr.user.b%3d", b"AAE="),
            record("SCHILY.xattr.user.%C3%A9", b"x"),
            record("LIBARCHIVE.xattr.user.%C3%A9", b"eA"),
            record("SCHILY.xattr.user.c%3D%25%41", b"x"),
            record("comment", b"x"),
        ])
        .unwrap();
        assert_eq!(found.path.as_deref(), Some(&b"caf\xe9=\nx"[..]));
        assert_eq!((found.size, found.uid), (Some(1 << 33), Some(70000)));
        assert_eq!(found.mtime, Some(Timestamp { seconds: 1, nanoseconds: 500_000_000 }));
        assert_eq!(
            found.take_xattrs(),
            [
                (c"user.a".into(), b"1\n\x002".to_vec()),
                (c"user.c=%%41".into(), b"x".to_vec()),
                (c"user.b=".into(), vec![0, 1]),
                (c"user.\u{e9}".into(), b"x".to_vec())
            ]
        );
        assert_eq!(read(&[record("size", b"1"), record("size", b"")]).unwrap().size, None);
    }

    #[test]
    fn times_are_rounded_down() {
        let read = |text: &str| time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds)).ok();
        assert_eq!(read("0"), Some((0, 0)));
        assert_eq!(read("12.000000001"), Some((12, 1)));
        assert_eq!(read("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(read("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(read("-1"), Some((-1, 0)));
        assert_eq!(read("-0.0000000001"), Some((-1, 999_999_999)));
        assert_eq!(read("-0.9999999999"), Some((-1, 0)));
        for bad in ["", "-", ".5", "1.x", "1e5", "99999999999999999999", "--1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn malformed_headers_are_errors() {
        for bad in [
            &b"x"[..],
            b"5 a=",
            b"99 path=x\n",
            b"4 a=\n",
            b"0 path=x\n",
            b"18446744073709551616 path=x\n",
            b"7 path\n",
            b" path=x\n",
            b"-9 path=x\n",
        ] {
            assert!(Extensions::default().read(bad).is_err(), "{bad:?}");
        }
        for (key, value) in [
            ("size", &b"-1"[..]),
            ("size", b"18446744073709551616"),
            ("uid", b"4294967295"),
            ("uid", b"root"),
            ("mtime", b"now"),
            ("path", b"a\0b"),
            ("GNU.sparse.map", b"0,,1"),
            ("GNU.sparse.numbytes", b"1"),
            ("LIBARCHIVE.xattr.user.a", b"*"),
            ("SCHILY.xattr.", b"x"),
            ("SCHILY.acl.access", b"user::q"),
        ] {
            assert!(read(&[record(key, value)]).is_err(), "{key}");
        }
        assert!(read(&[record("SCHILY.xattr.user.x", &[0; XATTR_SIZE_MAX + 1])]).is_err());
        // Padding is no record.
        Extensions::default().read(b"8 path=x\0\0").unwrap_err();
        Extensions::default().read(&[record("path", b"x"), vec![0; 3]].concat()).unwrap();
    }
}
