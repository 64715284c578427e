//! From a tar stream to its entries: v7, ustar, GNU and PAX.
//!
//! The `tar` crate knows the layout of a header. Its own iterator is not used: it cannot bound the extension headers, loses sparse files of
//! PAX format 1.0, and fills holes with zeros.

mod blocks;
mod pax;
mod sparse;

use std::ffi::CString;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use self::blocks::{BLOCK, Blocks};
use self::pax::Extensions;
use super::archive::{Archive, Piece};
use super::chunks::Chunks;
use super::entry::{Content, Entry, Kind, Timestamp};
use super::options::Limits;
use super::path;
use crate::error::{Error, ErrorKind, Result};
use crate::text::Escaped;

/// A tar stream, read within limits.
pub(super) struct Tar<'a> {
    blocks: Blocks<'a>,
    limits: Limits,
    global: Extensions,
    /// Bytes of global headers so far.
    global_size: u64,
    /// Bytes of the current entry's data that are still to come, and of the padding after them.
    data: u64,
    padding: u64,
    entries: u64,
    stored: u64,
}

/// What the headers before an entry said of it.
#[derive(Default)]
struct Prelude {
    extensions: Extensions,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Bytes of extension headers so far.
    size: u64,
}

impl Archive for Tar<'_> {
    fn next(&mut self) -> Result<Option<Entry>> {
        self.skip_data()?;
        let offset = self.blocks.offset();
        let Some((header, mut prelude)) = self.header()? else { return Ok(None) };
        let name = self.name(&header, &mut prelude);
        let entry = self.entry(&header, prelude, &name, offset);
        entry.map(Some).map_err(|error| error.with_context("entry", Escaped(&name)).with_context("offset", offset))
    }

    fn piece(&mut self) -> Result<Option<Piece>> {
        if self.data == 0 {
            return Ok(None);
        }
        let piece = self.blocks.piece(self.data)?;
        self.data -= piece.len() as u64;
        Ok(Some(piece))
    }
}

impl<'a> Tar<'a> {
    pub(super) fn new(chunks: &'a mut dyn Chunks, limits: Limits) -> Self {
        Tar {
            blocks: Blocks::new(chunks),
            limits,
            global: Extensions::default(),
            global_size: 0,
            data: 0,
            padding: 0,
            entries: 0,
            stored: 0,
        }
    }

    fn skip_data(&mut self) -> Result<()> {
        let (data, padding) = (std::mem::take(&mut self.data), std::mem::take(&mut self.padding));
        self.blocks.skip(data)?;
        self.blocks.skip(padding)
    }

    /// The next header of an entry, with all that came before it; `None` at the end marker.
    fn header(&mut self) -> Result<Option<(Header, Prelude)>> {
        let mut prelude = Prelude::default();
        loop {
            let offset = self.blocks.offset();
            let Some(block) = self.blocks.block()? else { return Err(self.blocks.truncated()) };
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&block);
            if !has_valid_checksum(&header) {
                let message = if offset == 0 { "this is not a tar stream" } else { "a header is corrupt" };
                return Err(invalid(message).with_context("offset", offset).with_remedy("fetch the image again"));
            }
            let at = |error: Error| error.with_context("offset", offset);
            let kind = header.as_old().linkflag[0];
            if matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K' | b'V') {
                // One that says that nothing follows it takes room and time all the same.
                self.count_header(&mut prelude, BLOCK as u64).map_err(at)?;
            }
            match kind {
                b'x' | b'X' => {
                    let records = self.extension(&header, &mut prelude).map_err(at)?;
                    prelude.extensions.read(&records).map_err(at)?;
                }
                b'g' => {
                    let records = self.extension(&header, &mut prelude).map_err(at)?;
                    // These stay for the whole archive, so they count together, however many entries lie between them.
                    self.global_size = self.global_size.saturating_add(records.len() as u64);
                    if self.global_size > self.limits.header.bytes() {
                        return Err(at(limit("the global headers exceed", self.limits.header)));
                    }
                    self.global.read(&records).map_err(at)?;
                    if self.global.has_attributes() {
                        return Err(at(invalid("a global header gives attributes or holes to every entry")));
                    }
                }
                b'L' => prelude.long_name = Some(until_nul(self.extension(&header, &mut prelude).map_err(at)?)),
                b'K' => prelude.long_link = Some(until_nul(self.extension(&header, &mut prelude).map_err(at)?)),
                // A volume's label.
                b'V' => {
                    self.begin_data(size_of(&header).map_err(at)?);
                    self.count_data().map_err(at)?;
                }
                _ => return Ok(Some((header, prelude))),
            }
            self.skip_data()?;
        }
    }

    /// The data of an extension header, within the limit for all of one entry.
    fn extension(&mut self, header: &Header, prelude: &mut Prelude) -> Result<Vec<u8>> {
        let size = size_of(header)?;
        self.count_header(prelude, size)?;
        let mut data = vec![0; usize::try_from(size).map_err(|_| invalid("an extended header is too large"))?];
        self.begin_data(size);
        self.blocks.read_exact(&mut data)?;
        self.data = 0;
        Ok(data)
    }

    fn count_header(&self, prelude: &mut Prelude, size: u64) -> Result<()> {
        prelude.size = prelude.size.saturating_add(size);
        if prelude.size > self.limits.header.bytes() {
            return Err(limit("the extension headers of an entry exceed", self.limits.header));
        }
        Ok(())
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// The entry's name as the archive has it.
    fn name(&self, header: &Header, prelude: &mut Prelude) -> Vec<u8> {
        let extensions = &mut prelude.extensions;
        let pax = extensions.sparse.name.take().or_else(|| extensions.path.take()).or_else(|| self.global.path.clone());
        pax.or_else(|| prelude.long_name.take()).unwrap_or_else(|| header_name(header))
    }

    /// The entry of a header.
    fn entry(&mut self, header: &Header, mut prelude: Prelude, name: &[u8], offset: u64) -> Result<Entry> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(limit("there are more entries than", self.limits.entries));
        }
        let kind = header.as_old().linkflag[0];
        let extensions = &mut prelude.extensions;
        let size = match extensions.size.or(self.global.size) {
            Some(size) => size,
            None => size_of(header)?,
        };
        // Only files have data; what other types say of their size means something else, and nothing follows them.
        let is_directory = kind == b'5' || matches!(kind, 0 | b'0' | b'7') && name.ends_with(b"/");
        let has_data = matches!(kind, 0 | b'0' | b'7' | b'S' | b'D');
        self.begin_data(if has_data { size } else { 0 });
        if is_directory || kind == b'D' {
            self.count_data()?;
            // It is no file's: passed over, as the padding after it is.
            self.padding = self.padding.saturating_add(std::mem::take(&mut self.data));
        }

        let uid = extensions.uid.or(self.global.uid).map_or_else(|| owner(&header.as_old().uid), Ok)?;
        let gid = extensions.gid.or(self.global.gid).map_or_else(|| owner(&header.as_old().gid), Ok)?;
        let mtime = extensions.mtime.or(self.global.mtime).map_or_else(|| mtime(header), Ok)?;
        let mode = field(&header.as_old().mode, "mode")? as u32 & 0o7777;
        let xattrs = extensions.take_xattrs();
        let mut lost_acls = std::mem::take(&mut extensions.lost_acls);
        // The same ACL may be there by number too.
        lost_acls.retain(|lost| !xattrs.iter().any(|(name, _)| name.as_c_str() == lost.attribute()));

        let path = path::below_root(name, &self.limits)?;
        let kind = match kind {
            _ if is_directory => Kind::Directory,
            b'D' => Kind::Directory,
            0 | b'0' | b'7' => Kind::File(self.file(extensions, size, prelude.size)?),
            b'S' => Kind::File(self.old_gnu_sparse(header, size, &mut prelude)?),
            b'1' => {
                let target = self.link_target(header, &mut prelude);
                let target =
                    path::below_root(&target, &self.limits).map_err(|error| error.with_context("link", Escaped(&target)))?;
                Kind::Hardlink(target)
            }
            b'2' => {
                let target = self.link_target(header, &mut prelude);
                if target.is_empty() || target.len() > self.limits.path {
                    return Err(invalid("a symbolic link's target is empty or too long"));
                }
                Kind::Symlink(CString::new(target).map_err(|_| invalid("a symbolic link's target holds a NUL byte"))?)
            }
            b'3' => {
                let (major, minor) = device(header)?;
                Kind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = device(header)?;
                Kind::BlockDevice { major, minor }
            }
            b'6' => Kind::Fifo,
            b'M' => return Err(invalid("it continues a file of another volume; multi-volume archives cannot be read")),
            other => return Err(invalid(&format!("its type '{}' is unknown", Escaped(&[other])))),
        };
        if let Kind::File(content) = &kind {
            self.check_content(content)?;
        }
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs, lost_acls, offset })
    }

    fn link_target(&self, header: &Header, prelude: &mut Prelude) -> Vec<u8> {
        let pax = prelude.extensions.link.take().or_else(|| self.global.link.clone());
        pax.or_else(|| prelude.long_link.take())
            .or_else(|| header.link_name_bytes().map(|target| target.into_owned()))
            .unwrap_or_default()
    }

    fn check_content(&mut self, content: &Content) -> Result<()> {
        if content.size > self.limits.file_size.bytes() {
            return Err(limit("a file is larger than", self.limits.file_size));
        }
        self.count_data()
    }

    /// Counts the data of an entry, whether it is written or passed over.
    fn count_data(&mut self) -> Result<()> {
        self.stored = self.stored.saturating_add(self.data);
        if self.stored > self.limits.bytes.bytes() {
            return Err(limit("the files are together larger than", self.limits.bytes));
        }
        Ok(())
    }

    /// A regular file, or a sparse one in one of GNU tar's three PAX formats.
    fn file(&mut self, extensions: &Extensions, size: u64, header_size: u64) -> Result<Content> {
        let sparse = &extensions.sparse;
        let Some(real_size) = sparse.size else { return Ok(Content { size, data: None }) };
        if let Some(map) = &sparse.map {
            return sparse::content(real_size, sparse::pairs(map)?, size);
        }
        match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) => {
                let map = self.map_before_data(header_size)?;
                sparse::content(real_size, sparse::pairs(&map)?, self.data)
            }
            (None, None) if size == 0 => sparse::content(real_size, [], 0),
            _ => Err(invalid("it is sparse in an unknown format")),
        }
    }

    /// The map of format 1.0: decimal numbers, a line each, the count of pieces first, at the start of the data and padded to blocks.
    fn map_before_data(&mut self, header_size: u64) -> Result<Vec<u64>> {
        let bad = || invalid("a sparse map is malformed: its numbers are none");
        let mut prelude = Prelude { size: header_size, ..Prelude::default() };
        let (mut numbers, mut expected) = (Vec::new(), None::<u64>);
        let (mut number, mut digits) = (0u64, 0);
        loop {
            self.count_header(&mut prelude, BLOCK as u64)?;
            let mut block = [0; BLOCK];
            self.data = self.data.checked_sub(BLOCK as u64).ok_or_else(bad)?;
            self.blocks.read_exact(&mut block)?;
            for byte in block {
                match byte {
                    b'0'..=b'9' => {
                        let digit = u64::from(byte - b'0');
                        number = number.checked_mul(10).and_then(|number| number.checked_add(digit)).ok_or_else(bad)?;
                        digits += 1;
                    }
                    b'\n' if digits > 0 => {
                        match expected {
                            None => expected = Some(number.checked_mul(2).ok_or_else(bad)?),
                            Some(_) => numbers.push(number),
                        }
                        (number, digits) = (0, 0);
                        if expected == Some(numbers.len() as u64) {
                            return Ok(numbers);
                        }
                    }
                    _ => return Err(bad()),
                }
            }
        }
    }

    /// GNU tar's own format: the map begins in the header and goes on in blocks after it.
    fn old_gnu_sparse(&mut self, header: &Header, stored: u64, prelude: &mut Prelude) -> Result<Content> {
        let header = header.as_gnu().ok_or_else(|| invalid("it is sparse, but its header is not GNU tar's"))?;
        let size = field(&header.realsize, "real size")?;
        let mut map = Vec::new();
        let mut add = |pieces: &[GnuSparseHeader]| -> Result<()> {
            for piece in pieces.iter().filter(|piece| piece.numbytes[0] != 0) {
                map.push((field(&piece.offset, "sparse map")?, field(&piece.numbytes, "sparse map")?));
            }
            Ok(())
        };
        add(&header.sparse)?;
        let mut extended = header.is_extended();
        while extended {
            self.count_header(prelude, BLOCK as u64)?;
            let mut block = GnuExtSparseHeader::new();
            self.blocks.read_exact(block.as_mut_bytes())?;
            add(&block.sparse)?;
            extended = block.is_extended();
        }
        sparse::content(size, map, stored)
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidImage, "unpack", message)
}

fn limit(message: &str, limit: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::LimitExceeded, "unpack", format!("{message} the limit of {limit}"))
        .with_remedy("raise the limit, if this image is to be trusted")
}

/// Whether the sum of the header's bytes, its own field taken as spaces, is the stored one. Some old writers summed signed bytes.
fn has_valid_checksum(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let Some(stored) = parse_number(&header.as_old().cksum) else { return false };
    let sum = |value: fn(u8) -> i64| -> i64 {
        let byte = |(at, &byte): (usize, &u8)| value(if (148..156).contains(&at) { b' ' } else { byte });
        bytes.iter().enumerate().map(byte).sum()
    };
    stored == i128::from(sum(i64::from)) || stored == i128::from(sum(|byte| i64::from(byte as i8)))
}

fn size_of(header: &Header) -> Result<u64> {
    let size = field(&header.as_old().size, "size")?;
    // Whatever is added to a size later must not overflow.
    if size > i64::MAX as u64 { Err(invalid("its size is out of range")) } else { Ok(size) }
}

fn field(bytes: &[u8], what: &str) -> Result<u64> {
    let number = parse_number(bytes).and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| invalid(&format!("its {what} is not a number")))
}

fn owner(bytes: &[u8]) -> Result<u32> {
    let id = u32::try_from(field(bytes, "owner")?).ok();
    // All ones means "leave it" to chown, and is nobody's number.
    id.filter(|&id| id != u32::MAX).ok_or_else(|| invalid("its owner is out of range"))
}

fn mtime(header: &Header) -> Result<Timestamp> {
    let seconds = parse_number(&header.as_old().mtime).and_then(|seconds| i64::try_from(seconds).ok());
    let seconds = seconds.ok_or_else(|| invalid("its time is not a number"))?;
    Ok(Timestamp { seconds, nanoseconds: 0 })
}

fn device(header: &Header) -> Result<(u32, u32)> {
    let bytes = header.as_bytes();
    if bytes[257..262] != *b"ustar" {
        return Err(invalid("it is a device without a number"));
    }
    // Of more bits than these Linux has none.
    let number = |bytes, bits: u32| {
        let number = u32::try_from(field(bytes, "device number")?).ok().filter(|number| number >> bits == 0);
        number.ok_or_else(|| invalid("its device number is out of range"))
    };
    Ok((number(&bytes[329..337], 12)?, number(&bytes[337..345], 20)?))
}

/// A numeric field: octal digits between spaces or NUL bytes, or GNU's binary form, which may be negative. An empty one is zero.
fn parse_number(field: &[u8]) -> Option<i128> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let mut number = if first & 0x40 != 0 { -1i128 } else { 0 };
        number = number << 6 | i128::from(first & 0x3f);
        return rest.iter().try_fold(number, |number, &byte| Some(number.checked_mul(256)? | i128::from(byte)));
    }
    let digits = field.iter().copied().skip_while(|&byte| byte == b' ' || byte == 0);
    let end = |byte: u8| byte == b' ' || byte == 0;
    let mut number = 0i128;
    let mut digits = digits.peekable();
    while let Some(byte) = digits.next_if(|&byte| !end(byte)) {
        number = number * 8 + i128::from(byte.checked_sub(b'0').filter(|&digit| digit < 8)?);
    }
    digits.all(end).then_some(number)
}

/// The name in the header itself. As GNU tar does, it takes the magic of ustar for what it says, whatever the version after it.
fn header_name(header: &Header) -> Vec<u8> {
    let bytes = header.as_bytes();
    let name = until_nul(bytes[..100].to_vec());
    let prefix = if bytes[257..263] == *b"ustar\0" { until_nul(bytes[345..500].to_vec()) } else { Vec::new() };
    if prefix.is_empty() { name } else { [&prefix[..], b"/", &name].concat() }
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(nul) = name.iter().position(|&byte| byte == 0) {
        name.truncate(nul);
    }
    name
}
