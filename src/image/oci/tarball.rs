//! What is where in a tarball of layers: its headers are read, and its data passed over.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use tar::{GnuExtSparseHeader, Header};

use super::invalid;
use crate::error::{Error, ErrorKind, Result};
use crate::image::format::is_tar_header;
use crate::size::ByteSize;

/// How much of a tarball's start tells whether it is one of layers, in bytes: room for extension headers before the first entry.
pub(in crate::image) const PEEK: usize = 16 << 10;
/// How many files a tarball of layers may hold.
const MEMBERS_MAX: usize = 65_536;
/// The longest name that is remembered; no document of an image names a file by a longer one.
const NAME_MAX: usize = 255;
/// The largest extension header.
const EXTENSION_MAX: ByteSize = ByteSize::mib(1);
/// How many links may lead to a file.
const LINKS_MAX: usize = 8;
const BLOCK: u64 = 512;

/// The regular files of a tarball and the links between them, by their names without a leading `./`.
#[derive(Debug, Default)]
pub(in crate::image) struct Members(HashMap<Vec<u8>, Member>);

#[derive(Debug)]
enum Member {
    Data(Range<u64>),
    Link(Vec<u8>),
}

impl Members {
    /// Reads all headers of `file`, up to the end marker.
    pub(super) fn read(file: &File) -> Result<Self> {
        let cannot = |error: io::Error| Error::io("read the image", "its tarball cannot be read", error);
        let length = file.metadata().map_err(cannot)?.len();
        let mut walk = Walk::new(|buffer: &mut [u8], offset| read_at(file, buffer, offset).map_err(cannot));
        let mut members = HashMap::new();
        while let Some(found) = walk.next()? {
            let end = found.data.checked_add(found.size).filter(|&end| end <= length);
            let end = end.ok_or_else(|| invalid("the tarball is truncated").with_context("offset", found.data))?;
            let member = match found.kind {
                0 | b'0' | b'7' if !found.is_sparse => Member::Data(found.data..end),
                b'1' => Member::Link(clean(&found.link)),
                b'2' => Member::Link(beside(&found.name, &found.link)),
                _ => continue,
            };
            if found.name.len() > NAME_MAX || found.link.len() > NAME_MAX {
                continue;
            }
            members.insert(found.name, member);
            if members.len() > MEMBERS_MAX {
                return Err(Error::new(ErrorKind::LimitExceeded, "read the image", "its tarball holds too many files")
                    .with_context("limit", MEMBERS_MAX));
            }
        }
        Ok(Members(members))
    }

    /// Where the data of the file `name` is.
    pub(super) fn find(&self, name: &[u8]) -> Option<Range<u64>> {
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match self.0.get(name)? {
                Member::Data(range) => return Some(range.clone()),
                Member::Link(target) => name = target,
            }
        }
        None
    }
}

/// Whether a tarball that begins with these bytes, of which [`PEEK`] are enough, may be one of layers.
pub(in crate::image) fn begins_like_layers(start: &[u8]) -> bool {
    let mut walk = Walk::new(|buffer: &mut [u8], offset| {
        let rest = usize::try_from(offset).ok().and_then(|offset| start.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    });
    while let Ok(Some(found)) = walk.next() {
        // The top directory comes first, if it comes at all.
        if !found.name.is_empty() {
            return is_of_layers(&found.name);
        }
    }
    false
}

fn is_of_layers(name: &[u8]) -> bool {
    let (top, below) = match name.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&name[..slash], true),
        None => (name, false),
    };
    let is_id = |name: &[u8]| name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit);
    match top {
        b"blobs" => true,
        b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories" => !below,
        _ => is_id(top) || !below && [&b".json"[..], b".tar"].iter().any(|end| top.strip_suffix(*end).is_some_and(is_id)),
    }
}

/// A header, with what the headers before it said.
struct Found {
    kind: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    data: u64,
    size: u64,
    is_sparse: bool,
}

/// Goes from header to header.
struct Walk<R> {
    read_at: R,
    offset: u64,
}

#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

impl<R: FnMut(&mut [u8], u64) -> Result<usize>> Walk<R> {
    fn new(read_at: R) -> Self {
        Walk { read_at, offset: 0 }
    }

    /// The next member; `None` at the end marker.
    fn next(&mut self) -> Result<Option<Found>> {
        let mut extensions = Extensions::default();
        loop {
            let offset = self.offset;
            let truncated = || invalid("the tarball is truncated").with_context("offset", offset);
            let mut header = Header::new_old();
            if (self.read_at)(header.as_mut_bytes(), offset)? < BLOCK as usize {
                return Err(truncated());
            }
            if header.as_bytes().iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            let corrupt = || invalid("a header of the tarball is corrupt").with_context("offset", offset);
            if !is_tar_header(header.as_bytes()) {
                return Err(corrupt());
            }
            let kind = header.as_old().linkflag[0];
            let is_extension = matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K');
            let mut size = header.entry_size().map_err(|_| corrupt())?;
            if !is_extension {
                size = extensions.size.unwrap_or(size);
            }
            let data = self.behind_sparse_map(&header, offset + BLOCK)?;
            let stored = if has_data(kind) { size } else { 0 };
            let next = stored.checked_next_multiple_of(BLOCK).and_then(|stored| data.checked_add(stored));
            self.offset = next.filter(|&next| next <= i64::MAX as u64).ok_or_else(corrupt)?;
            if !is_extension {
                let name = extensions.name.unwrap_or_else(|| header.path_bytes().into_owned());
                let link = extensions.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
                let is_sparse = extensions.is_sparse;
                return Ok(Some(Found { kind, name: clean(&name), link, data, size: stored, is_sparse }));
            }
            if size > EXTENSION_MAX.bytes() {
                return Err(Error::new(ErrorKind::LimitExceeded, "read the image", "a header of its tarball is too large")
                    .with_context("offset", offset)
                    .with_context("limit", EXTENSION_MAX));
            }
            let mut content = vec![0; size as usize];
            if (self.read_at)(&mut content, data)? < content.len() {
                return Err(truncated());
            }
            match kind {
                b'L' => extensions.name = Some(until_nul(content)),
                b'K' => extensions.link = Some(until_nul(content)),
                b'g' => {}
                _ => extensions.read(&content).ok_or_else(corrupt)?,
            }
        }
    }
}

impl<R: FnMut(&mut [u8], u64) -> Result<usize>> Walk<R> {
    /// Where the data is: an old GNU header of a sparse file goes on in blocks of its own, as long as each of them says so.
    fn behind_sparse_map(&mut self, header: &Header, mut at: u64) -> Result<u64> {
        let mut goes_on = header.as_old().linkflag[0] == b'S' && header.as_gnu().is_some_and(|header| header.is_extended());
        while goes_on {
            let mut block = GnuExtSparseHeader::new();
            if (self.read_at)(block.as_mut_bytes(), at)? < BLOCK as usize {
                return Err(invalid("the tarball is truncated").with_context("offset", at));
            }
            goes_on = block.is_extended();
            at += BLOCK;
        }
        Ok(at)
    }
}

impl Extensions {
    /// Reads PAX records: a length in decimal, a space, a key, `=`, a value, a newline.
    fn read(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().position(|&byte| byte == b' ')?;
            let length: usize = std::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
            let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
            records = records.get(length..)?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let value = record.get(equals + 1..)?;
            match record.get(..equals)? {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                key => self.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Some(())
    }
}

fn has_data(kind: u8) -> bool {
    !matches!(kind, b'1'..=b'6')
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(nul) = name.iter().position(|&byte| byte == 0) {
        name.truncate(nul);
    }
    name
}

/// A name without empty components and `.`; `..` takes back the one before it.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// The target of a symbolic link `name`.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    let dir = name.iter().rposition(|&byte| byte == b'/').and_then(|slash| name.get(..slash)).unwrap_or_default();
    clean(&[dir, b"/", target].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tarballs_of_layers_by_their_first_name() {
        let id = "0123456789abcdef".repeat(4);
        let begins = |name: &str| {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = Header::new_gnu();
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, "./", &b""[..]).unwrap();
            header.set_entry_type(tar::EntryType::Regular);
            builder.append_data(&mut header, name, &b""[..]).unwrap();
            begins_like_layers(&builder.into_inner().unwrap())
        };
        for name in
            ["blobs/sha256", "oci-layout", "index.json", "manifest.json", &id, &format!("{id}.tar"), &format!("{id}/layer.tar")]
        {
            assert!(begins(name), "{name}");
        }
        for name in ["bin", "blob", "index.json/x", &id[1..], &format!("{id}.txt"), &format!("x/{id}.json")] {
            assert!(!begins(name), "{name}");
        }
        assert!(!begins_like_layers(b"") && !begins_like_layers(&[0; 1024]) && !begins_like_layers(&[b'x'; 1024]));
    }

    #[test]
    fn members_are_where_they_are_and_links_end_there() {
        let file = tempfile::tempfile().unwrap();
        let mut builder = tar::Builder::new(file.try_clone().unwrap());
        let mut add = |name: &str, kind, link: &str, data: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_entry_type(kind);
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            builder.append_data(&mut header, name, data).unwrap();
        };
        add("a/layer.tar", tar::EntryType::Regular, "", &[7; 1000]);
        add("b/layer.tar", tar::EntryType::Symlink, "../a/layer.tar", b"");
        add("c", tar::EntryType::Link, "b/layer.tar", b"");
        add("loop", tar::EntryType::Symlink, "loop", b"");
        add("out", tar::EntryType::Symlink, "../../../a/layer.tar", b"");
        builder.into_inner().unwrap();
        let members = Members::read(&file).unwrap();
        let data = Some(512..1512);
        for name in [&b"a/layer.tar"[..], b"b/layer.tar", b"c", b"out"] {
            assert_eq!(members.find(name), data);
        }
        assert_eq!(members.find(b"loop"), None);
        assert_eq!(members.find(b"none"), None);
        file.set_len(1400).unwrap();
        assert_eq!(Members::read(&file).unwrap_err().kind(), ErrorKind::InvalidImage);
    }
}
