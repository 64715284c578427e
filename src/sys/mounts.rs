//! What the kernel tells of mounts in `/proc/PID/mountinfo`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One line of `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    pub(crate) parent: u64,
    /// The file system, as `major:minor`.
    pub(crate) device: Vec<u8>,
    /// The folder of the file system that is mounted.
    pub(crate) root: Vec<u8>,
    /// Where it is mounted, as the process sees it.
    pub(crate) point: Vec<u8>,
}

/// The number of a file system: major and minor.
pub(crate) type Device = [u32; 2];

/// A device's number from its text, `major:minor`.
pub(crate) fn numbers(device: &[u8], radix: u32) -> Option<Device> {
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, radix).ok();
    Some([number(major)?, number(minor)?])
}

/// Reads a `mountinfo` file; a line that cannot be understood is skipped.
pub(crate) fn read(path: &str) -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(path)?))
}

/// The mounts of the calling thread's namespace.
pub(crate) fn own() -> io::Result<Vec<Mount>> {
    read("/proc/thread-self/mountinfo")
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = fields.next()?.to_owned();
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    Some(Mount { id, parent, device, root, point })
}

/// Decodes the `\ooo` by which the kernel writes spaces, tabs, newlines and backslashes in paths.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let octal = |byte: &u8| (b'0'..=b'7').contains(byte).then(|| u16::from(byte - b'0'));
        if byte == b'\\'
            && let Some([a, b, c]) = tail.first_chunk()
            && let (Some(a), Some(b), Some(c)) = (octal(a), octal(b), octal(c))
        {
            out.push((a << 6 | b << 3 | c) as u8);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            out.push(byte);
        }
    }
    out
}

/// What of `path` lies below `top`, without a leading slash; empty if they are the same; `None` if it lies elsewhere.
///
/// By components: `/srv/c10` is not below `/srv/c1`.
pub(crate) fn below<'a>(path: &'a [u8], top: &[u8]) -> Option<&'a [u8]> {
    let top = top.strip_suffix(b"/").unwrap_or(top);
    match path.strip_prefix(top)? {
        [] => Some(&[]),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// `rest` under `top`, either of which may be empty or end in a slash.
pub(crate) fn join(top: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut path = top.strip_suffix(b"/").unwrap_or(top).to_owned();
    if !rest.is_empty() || path.is_empty() {
        path.push(b'/');
        path.extend_from_slice(rest);
    }
    path
}

/// The mount that an open descriptor is on.
pub(crate) fn of_descriptor(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the kernel does not say which mount a descriptor is on"))
}

/// The path of an open directory as the calling thread sees it.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    Ok(std::fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()))?.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_escapes() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402\\134\\012x rw,noatime master:1 - ext3 /dev/root rw\nnonsense\n\
                     37 35 0:5 / /p rw - proc proc rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, b"/mnt 2\\\nx");
        assert_eq!((mounts[0].id, mounts[0].parent, mounts[0].device.as_slice()), (36, 35, b"98:0".as_slice()));
        assert_eq!(mounts[1].root, b"/");
        assert_eq!(unescape(b"a\\04"), b"a\\04");
    }

    #[test]
    fn paths_are_compared_by_components() {
        assert_eq!(below(b"/srv/c1", b"/srv/c1"), Some(&b""[..]));
        assert_eq!(below(b"/srv/c1/etc/x", b"/srv/c1"), Some(&b"etc/x"[..]));
        assert_eq!(below(b"/srv/c10", b"/srv/c1"), None);
        assert_eq!(below(b"/srv", b"/srv/c1"), None);
        assert_eq!(below(b"/srv", b"/"), Some(&b"srv"[..]));
        assert_eq!(join(b"/", b"srv"), b"/srv");
        assert_eq!(join(b"/srv", b""), b"/srv");
        assert_eq!(join(b"/", b""), b"/");
    }

    #[test]
    fn the_kernel_agrees() {
        use std::os::fd::AsFd;
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        let id = of_descriptor(file.as_fd()).unwrap();
        let mounts = own().unwrap();
        let mount = mounts.iter().find(|mount| mount.id == id).unwrap();
        assert!(below(&path_of(file.as_fd()).unwrap(), &mount.point).is_some());
    }
}
