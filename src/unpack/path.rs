//! From a name in an archive to a path below the root.

use super::entry::{Entry, EntryPath, Kind};
use super::options::{Limits, StripPrefix};
use crate::error::{Error, ErrorKind, Result};

/// The longest name of one entry that Linux file systems take, in bytes.
const NAME_MAX: usize = 255;

/// Makes a path below the root of `raw`, the name of an entry or the target of a hard link.
///
/// A leading slash and `.` components go, as in GNU tar: `/etc` is the root's own `etc`.
///
/// # Errors
/// [`ErrorKind::UnsafePath`] for `..` and NUL; [`ErrorKind::LimitExceeded`] for what is too long.
pub(super) fn below_root(raw: &[u8], limits: &Limits) -> Result<EntryPath> {
    let unsafe_path = |message| Err(Error::new(ErrorKind::UnsafePath, "unpack", message).with_remedy("do not trust this image"));
    if raw.len() > limits.path {
        return Err(Error::new(ErrorKind::LimitExceeded, "unpack", format!("a path is {} bytes long", raw.len()))
            .with_context("limit", limits.path)
            .with_remedy("raise the limit on paths, if this image is to be trusted"));
    }
    if raw.contains(&0) {
        return unsafe_path("a path holds a NUL byte");
    }
    let mut path = Vec::with_capacity(raw.len());
    for part in raw.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return unsafe_path("a path leads upward by `..`"),
            part if part.len() > NAME_MAX => {
                return Err(Error::new(ErrorKind::LimitExceeded, "unpack", format!("a name is {} bytes long", part.len()))
                    .with_context("limit", NAME_MAX));
            }
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(EntryPath::new_unchecked(path))
}

/// The path below `prefix`; `None` if it lies outside.
fn strip(path: EntryPath, prefix: Option<&StripPrefix>) -> Option<EntryPath> {
    let Some(prefix) = prefix else { return Some(path) };
    match path.as_bytes().strip_prefix(prefix.as_bytes())? {
        b"" => Some(EntryPath::default()),
        [b'/', rest @ ..] => Some(EntryPath::new_unchecked(rest.to_vec())),
        _ => None,
    }
}

/// What of an entry lies below `prefix`, in its place there; `None` if it lies outside.
///
/// # Errors
/// [`ErrorKind::InvalidImage`] if the prefix turns out to be no directory, or what lies below it is a hard link to what does not.
pub(super) fn select(entry: Entry, prefix: Option<&StripPrefix>) -> Result<Option<Entry>> {
    let Some(prefix) = prefix else { return Ok(Some(entry)) };
    let (shown, offset) = (entry.path.clone(), entry.offset);
    let invalid = |message: String| {
        Error::new(ErrorKind::InvalidImage, "unpack", message).with_context("entry", &shown).with_context("offset", offset)
    };
    let Some(path) = strip(entry.path, Some(prefix)) else { return Ok(None) };
    if path.is_root() && entry.kind != Kind::Directory {
        return Err(invalid(format!("{prefix} is not a directory in the image")));
    }
    let kind = match entry.kind {
        Kind::Hardlink(target) => {
            let outside = invalid(format!("it is a hard link to {target}, which lies outside {prefix}"));
            Kind::Hardlink(strip(target, Some(prefix)).ok_or(outside)?)
        }
        kind => kind,
    };
    Ok(Some(Entry { path, kind, ..entry }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &[u8]) -> Result<String> {
        below_root(raw, &Limits::default()).map(|path| path.to_string())
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(read(b"./etc//passwd/").unwrap(), "etc/passwd");
        assert_eq!(read(b"///etc/./passwd").unwrap(), "etc/passwd");
        assert_eq!(read(b"./").unwrap(), ".");
        assert_eq!(read(b"a..b/...").unwrap(), "a..b/...");
        for bad in [&b".."[..], b"../x", b"a/../b", b"a/..", b"/..", b"./../x", b"a\0b"] {
            assert_eq!(read(bad).unwrap_err().kind(), ErrorKind::UnsafePath, "{bad:?}");
        }
        assert!(read(&b"x".repeat(255)).is_ok());
        assert_eq!(read(&b"x".repeat(256)).unwrap_err().kind(), ErrorKind::LimitExceeded);
        assert_eq!(read(&b"x/".repeat(2049)).unwrap_err().kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn a_prefix_is_whole_components() {
        let prefix: StripPrefix = "rootfs".parse().unwrap();
        let strip = |raw: &[u8]| {
            let path = below_root(raw, &Limits::default()).unwrap();
            super::strip(path, Some(&prefix)).map(|path| path.to_string())
        };
        assert_eq!(strip(b"rootfs/etc"), Some("etc".into()));
        assert_eq!(strip(b"./rootfs/"), Some(".".into()));
        assert_eq!(strip(b"rootfs2/etc"), None);
        assert_eq!(strip(b"metadata.yaml"), None);
        assert_eq!(strip(b""), None);
    }
}
