//! What the kernel tells of mounts in `/proc/PID/mountinfo`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One line of `mountinfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "ceph", feature = "lvm", feature = "zfs")),
    allow(dead_code, reason = "a directory has no need to know what its file system is called")
)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    pub(crate) parent: u64,
    /// The file system, as `major:minor`.
    pub(crate) device: Vec<u8>,
    /// The folder of the file system that is mounted.
    pub(crate) root: Vec<u8>,
    /// Where it is mounted, as the process sees it.
    pub(crate) point: Vec<u8>,
    /// The peer group whose members get what is mounted here, and the one whose members this one gets it from.
    pub(crate) shared: Option<u64>,
    pub(crate) master: Option<u64>,
    /// The type of the file system, and what it calls its source.
    pub(crate) fs_type: Vec<u8>,
    pub(crate) source: Vec<u8>,
    /// Of an overlay: the directories that it shows, by the paths under which whoever mounted it saw them; some may be relative to where that was.
    pub(crate) layers: Vec<Vec<u8>>,
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
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let device = fields.next()?.to_owned();
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    let mut mount = Mount { id, parent, device, root, point, ..Mount::default() };
    // The options of the mount, and then as many fields as there is something to say.
    for field in fields.by_ref().skip(1).take_while(|field| *field != b"-") {
        if let Some(group) = field.strip_prefix(b"shared:") {
            mount.shared = number(group);
        } else if let Some(group) = field.strip_prefix(b"master:") {
            mount.master = number(group);
        }
    }
    mount.fs_type = unescape(fields.next()?);
    mount.source = unescape(fields.next()?);
    if mount.fs_type == b"overlay" {
        mount.layers = layers(fields.next().unwrap_or_default());
    }
    Some(mount)
}

/// The layers in an overlay's options, which the kernel writes as they were given, with commas escaped.
fn layers(options: &[u8]) -> Vec<Vec<u8>> {
    let mut layers = Vec::new();
    for option in options.split(|&byte| byte == b',') {
        let Some(at) = option.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = (&option[..at], unescape(&option[at + 1..]));
        match name {
            // One each.
            b"upperdir" | b"workdir" | b"lowerdir+" | b"datadir+" => layers.push(value),
            b"lowerdir" => layers.extend(split_layers(&value)),
            _ => {}
        }
    }
    layers
}

/// The layers in a list, which colons separate; a backslash makes what follows a part of the path.
fn split_layers(list: &[u8]) -> Vec<Vec<u8>> {
    let mut layers = vec![Vec::new()];
    let mut bytes = list.iter();
    while let Some(&byte) = bytes.next() {
        match (byte, layers.last_mut()) {
            (b':', _) => layers.push(Vec::new()),
            (b'\\', Some(layer)) => layer.extend(bytes.next()),
            (byte, Some(layer)) => layer.push(byte),
            (_, None) => {}
        }
    }
    // Two colons in a row begin what is for data only.
    layers.retain(|layer| !layer.is_empty());
    layers
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
    fn the_layers_of_an_overlay_are_read() {
        let layers = |options: &str| {
            let line = format!("36 35 0:40 / /mnt rw - overlay overlay {options}");
            let mounts = parse(line.as_bytes());
            mounts[0].layers.iter().map(|layer| String::from_utf8(layer.clone()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(
            layers("rw,lowerdir=/a:/b\\040c::/d,upperdir=/u\\054v,workdir=/w,index=off"),
            ["/a", "/b c", "/d", "/u,v", "/w"]
        );
        assert_eq!(layers("rw,lowerdir=/a\\134:b:/c,xino=on"), ["/a:b", "/c"]);
        assert_eq!(layers("rw,lowerdir+=/a:b,lowerdir+=/c,datadir+=/d,redirect_dir=on"), ["/a:b", "/c", "/d"]);
        assert_eq!(layers("rw"), [""; 0]);
        assert!(parse(b"36 35 98:0 / /mnt rw - ext4 /dev/a rw,lowerdir=/a")[0].layers.is_empty());
    }

    #[test]
    fn lines_are_read_with_their_escapes() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402\\134\\012x rw,noatime master:1 - ext3 /dev/a\\040b rw\nnonsense\n\
                     37 35 0:5 / /p rw - proc proc rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, b"/mnt 2\\\nx");
        assert_eq!((mounts[0].id, mounts[0].parent, mounts[0].device.as_slice()), (36, 35, b"98:0".as_slice()));
        assert_eq!((mounts[0].shared, mounts[0].master), (None, Some(1)));
        assert_eq!((mounts[0].fs_type.as_slice(), mounts[0].source.as_slice()), (&b"ext3"[..], &b"/dev/a b"[..]));
        assert_eq!((mounts[1].root.as_slice(), mounts[1].shared, mounts[1].source.as_slice()), (&b"/"[..], None, &b"proc"[..]));
        let both = parse(b"1 0 0:5 / / rw shared:7 master:3 propagate_from:2 - tmpfs  rw\n");
        assert_eq!((both[0].shared, both[0].master, both[0].source.as_slice()), (Some(7), Some(3), &b""[..]));
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
