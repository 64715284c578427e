//! Archives by hand, byte for byte: what no honest writer makes.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

/// A tar stream in the making.
#[derive(Clone, Default)]
pub(crate) struct Forge(Vec<u8>);

/// One header.
#[derive(Clone)]
pub(crate) struct Header([u8; 512]);

pub(crate) fn header(name: &str, kind: u8, size: u64) -> Header {
    let mut block = [0; 512];
    let length = name.len().min(100);
    block[..length].copy_from_slice(&name.as_bytes()[..length]);
    block[100..108].copy_from_slice(b"0000644\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let mut header = Header(block);
    // The caller's own, so that an ordinary user can keep it too.
    header = header.number(108..116, nix::unistd::getuid().as_raw().into()).number(116..124, nix::unistd::getgid().as_raw().into());
    header.number(124..136, size).number(136..148, 1_000_000_000)
}

impl Header {
    pub(crate) fn bytes(mut self, range: Range<usize>, bytes: &[u8]) -> Self {
        self.0[range].copy_from_slice(bytes);
        self
    }

    /// Octal if it fits, and GNU's binary form if not.
    pub(crate) fn number(mut self, range: Range<usize>, number: u64) -> Self {
        let width = range.len();
        let octal = format!("{number:0width$o}\0", width = width - 1);
        if octal.len() == width {
            self.0[range].copy_from_slice(octal.as_bytes());
        } else {
            let bytes = u128::from(number).to_be_bytes();
            self.0[range.clone()].copy_from_slice(&bytes[16 - width..]);
            self.0[range.start] |= 0x80;
        }
        self
    }

    fn sealed(mut self) -> [u8; 512] {
        seal(&mut self.0);
        self.0
    }
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Makes the checksum of the header at `at` right, if there is one.
pub(crate) fn mend_checksum(archive: &mut [u8], at: usize) {
    if let Some(block) = archive.get_mut(at..at + 512)
        && block[257..262] == *b"ustar"
    {
        seal(block);
    }
}

impl Forge {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, header: Header) -> Self {
        self.0.extend_from_slice(&header.sealed());
        self
    }

    /// Bytes of an entry, filled up to a block.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.raw(header(path, b'0', content.len() as u64)).data(content)
    }

    /// A file whose path is divided over the two fields of ustar.
    pub(crate) fn prefixed(self, prefix: &str, path: &str, content: &[u8]) -> Self {
        let header = header(path, b'0', content.len() as u64).bytes(345..345 + prefix.len(), prefix.as_bytes());
        self.raw(header).data(content)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.raw(header(path, b'5', 0).bytes(100..108, b"0000755\0"))
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.link(path, b'2', target)
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.link(path, b'1', target)
    }

    fn link(self, path: &str, kind: u8, target: &str) -> Self {
        let length = target.len().min(100);
        self.raw(header(path, kind, 0).bytes(157..157 + length, &target.as_bytes()[..length]))
    }

    pub(crate) fn fifo(self, path: &str) -> Self {
        self.raw(header(path, b'6', 0))
    }

    pub(crate) fn device(self, path: &str, kind: u8, major: u64, minor: u64) -> Self {
        self.raw(header(path, kind, 0).number(329..337, major).number(337..345, minor))
    }

    pub(crate) fn gnu_long(self, kind: u8, name: &str) -> Self {
        let name = [name.as_bytes(), b"\0"].concat();
        self.raw(header("././@LongLink", kind, name.len() as u64)).data(&name)
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', records)
    }

    pub(crate) fn global(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'g', records)
    }

    fn extended(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length = (1..).map(|digits| body + digits).find(|length| length.to_string().len() + body == *length).unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(header("PaxHeader", kind, data.len() as u64)).data(&data)
    }

    /// The stream as far as it goes.
    pub(crate) fn without_end(self) -> Vec<u8> {
        self.0
    }

    /// The stream with its end marker.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An archive with every type of entry and of header.
pub(crate) fn everything() -> Forge {
    let long = format!("d/{}", "n".repeat(200));
    Forge::new()
        .dir("./")
        .dir("d/")
        .pax(&[("path", b"d/pax"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b"), ("SCHILY.acl.access", b"u::rw,g::r,o::r")])
        .file("short", b"content")
        .gnu_long(b'L', &long)
        .file("cut", &[7; 1000])
        .hardlink("hard", "d/pax")
        .symlink("soft", "d/pax")
        .symlink("slash", "/")
        .file("slash/through", b"x")
        .fifo("fifo")
        .device("null", b'3', 1, 3)
        .pax(&[("GNU.sparse.size", b"5000"), ("GNU.sparse.map", b"10,3,4000,2")])
        .file("sparse", b"abcde")
        .global(&[("comment", b"none")])
        .file("d/again", b"y")
}

/// Lets who is not root remove a tree.
pub(crate) fn open_up(path: &Path) {
    if !nix::unistd::geteuid().is_root() {
        let _ = Command::new("chmod").args(["-R", "u+rwx", "--"]).arg(path).status();
    }
}

/// So many empty files, made while they are read.
pub(crate) struct Endless {
    left: u64,
    names: Names,
    block: [u8; 512],
    at: usize,
}

/// Whether each file has a name of its own, which takes time to make.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Same,
    Different,
}

impl Endless {
    pub(crate) fn empty_files(count: u64, names: Names) -> Self {
        Endless { left: count, names, block: header("f", b'0', 0).sealed(), at: 512 }
    }
}

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == 512 {
            if self.left == 0 {
                self.block = [0; 512];
            } else if self.names == Names::Different {
                self.block = header(&format!("f{}", self.left), b'0', 0).sealed();
            }
            self.left = self.left.saturating_sub(1);
            self.at = 0;
        }
        let length = out.len().min(512 - self.at);
        out[..length].copy_from_slice(&self.block[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
