//! What a stream is, told by its first bytes and never by its name.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// How many of a stream's first bytes tell its format: a tar header's.
pub(super) const PEEK: usize = 512;

/// The format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Format {
    /// A tar stream, not compressed.
    Tar,
    /// A gzip stream ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)), which should hold a tar stream.
    #[cfg(feature = "gzip")]
    Gzip,
    /// A zstd stream ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)), which should hold a tar stream.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Tar => "tar",
            #[cfg(feature = "gzip")]
            Format::Gzip => "tar.gz",
            #[cfg(feature = "zstd")]
            Format::Zstd => "tar.zst",
        })
    }
}

/// Formats by their magic bytes and where these are: what we can name, whether or not this build reads it.
const MAGICS: &[(usize, &[u8], &str)] = &[
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"BZh", "bzip2"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x5d\x00\x00", "lzma"),
    (0, b"hsqs", "squashfs"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"070701", "cpio"),
    (0, b"\x7fELF", "executable"),
    (257, b"ustar", "tar"),
];

impl Format {
    /// The formats this build reads, for messages.
    pub(super) const READABLE: &str = match (cfg!(feature = "gzip"), cfg!(feature = "zstd")) {
        (true, true) => "tar, tar.gz and tar.zst",
        (true, false) => "tar and tar.gz",
        (false, true) => "tar and tar.zst",
        (false, false) => "tar",
    };

    /// Tells the format from the first [`PEEK`] bytes, fewer if the stream is shorter.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] for an empty stream and for bytes of no known format; [`ErrorKind::Unsupported`], naming it, for a format that this build does not read.
    pub(super) fn detect(start: &[u8]) -> Result<Format> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidImage, "read the image", message).with_context("offset", 0);
        if start.is_empty() {
            return Err(invalid("it is empty".into()));
        }
        // Before the magics: the first bytes of a tar stream are the name of a file, and it may be called anything.
        if is_tar_header(start) {
            return Ok(Format::Tar);
        }
        let named = MAGICS.iter().find(|(at, magic, _)| start.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
        match named.map(|(_, _, name)| *name) {
            #[cfg(feature = "gzip")]
            Some("gzip") => Ok(Format::Gzip),
            #[cfg(feature = "zstd")]
            Some("zstd") => Ok(Format::Zstd),
            Some("tar") => Ok(Format::Tar),
            // A skippable frame (pzstd writes one first) has sixteen possible magics.
            #[cfg(feature = "zstd")]
            None if start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == *b"\x2a\x4d\x18" => Ok(Format::Zstd),
            Some(name) => Err(Error::new(ErrorKind::Unsupported, "read the image", format!("it is a {name} stream"))
                .with_context("offset", 0)
                .with_remedy(format!("this build reads {}", Self::READABLE))),
            None if start.len() < PEEK => Err(invalid(format!("it ends after {} bytes, before one tar header", start.len()))),
            None => Err(invalid("it is of no known format".into()).with_remedy(format!("this build reads {}", Self::READABLE))),
        }
    }
}

/// Whether a block passes for a tar header by its checksum, or for the zeros of an archive without entries.
fn is_tar_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..512) else { return false };
    if block.iter().all(|&byte| byte == 0) {
        return true;
    }
    let field = &block[148..156];
    let digits = field.iter().copied().skip_while(|&byte| byte == b' ').take_while(u8::is_ascii_digit);
    let stored = digits.fold(0u32, |sum, digit| sum.wrapping_mul(8).wrapping_add(u32::from(digit.wrapping_sub(b'0'))));
    let sum = |add: fn(u8) -> i32| -> i32 {
        block.iter().enumerate().map(|(at, &byte)| add(if (148..156).contains(&at) { b' ' } else { byte })).sum()
    };
    let stored = i64::from(stored);
    stored == i64::from(sum(i32::from)) || stored == i64::from(sum(|byte| i32::from(byte as i8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_their_first_bytes() {
        let mut ustar = vec![0; 512];
        ustar[257..262].copy_from_slice(b"ustar");
        assert_eq!(Format::detect(&ustar).unwrap(), Format::Tar);
        assert_eq!(Format::detect(&[0; 512]).unwrap(), Format::Tar);
        #[cfg(feature = "gzip")]
        assert_eq!(Format::detect(b"\x1f\x8b\x08").unwrap(), Format::Gzip);
        #[cfg(feature = "zstd")]
        for magic in [b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\x5f\x2a\x4d\x18"] {
            assert_eq!(Format::detect(magic).unwrap(), Format::Zstd);
        }
    }

    #[test]
    fn a_v7_header_is_known_by_its_checksum() {
        let mut block = [0; 512];
        block[..4].copy_from_slice(b"file");
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(Format::detect(&block).unwrap(), Format::Tar);
        let sealed = |name: &[u8]| {
            let mut block = [0; 512];
            block[..name.len()].copy_from_slice(name);
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            block
        };
        for name in [&b"BZh-notes"[..], b"hsqs", b"070701.txt", b"PK\x03\x04"] {
            assert_eq!(Format::detect(&sealed(name)).unwrap(), Format::Tar);
        }
        block[0] ^= 1;
        assert_eq!(Format::detect(&block).unwrap_err().kind(), ErrorKind::InvalidImage);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = Format::detect(b"hsqs and so on").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("squashfs"), "{error}");
        assert_eq!(Format::detect(b"").unwrap_err().message(), "it is empty");
        assert_eq!(Format::detect(b"hello").unwrap_err().kind(), ErrorKind::InvalidImage);
        assert_eq!(Format::detect(&[b'x'; 512]).unwrap_err().message(), "it is of no known format");
    }
}
