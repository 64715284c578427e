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
    /// An xz stream ([format](https://tukaani.org/xz/xz-file-format.txt)), which should hold a tar stream.
    #[cfg(feature = "xz")]
    Xz,
    /// A stream of the older format of the LZMA utilities, which should hold a tar stream. It has no checksum.
    #[cfg(feature = "xz")]
    Lzma,
    /// A bzip2 stream, which should hold a tar stream.
    #[cfg(feature = "bzip2")]
    Bzip2,
    /// A stream of lz4 frames ([format](https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md)), which should hold a tar stream.
    #[cfg(feature = "lz4")]
    Lz4,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Tar => "tar",
            #[cfg(feature = "gzip")]
            Format::Gzip => "tar.gz",
            #[cfg(feature = "zstd")]
            Format::Zstd => "tar.zst",
            #[cfg(feature = "xz")]
            Format::Xz => "tar.xz",
            #[cfg(feature = "xz")]
            Format::Lzma => "tar.lzma",
            #[cfg(feature = "bzip2")]
            Format::Bzip2 => "tar.bz2",
            #[cfg(feature = "lz4")]
            Format::Lz4 => "tar.lz4",
        })
    }
}

/// What the first bytes of a stream say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Tar,
    Gzip,
    Zstd,
    Xz,
    Lzma,
    Bzip2,
    Lz4,
    /// What no build reads, by its name.
    Foreign(&'static str),
}

/// Formats by their magic bytes and where these are: what we can name, whether or not this build reads it.
const MAGICS: &[(usize, &[u8], Known)] = &[
    (0, b"\x1f\x8b", Known::Gzip),
    (0, b"\x28\xb5\x2f\xfd", Known::Zstd),
    (0, b"\xfd7zXZ\0", Known::Xz),
    (0, b"BZh", Known::Bzip2),
    (0, b"\x04\x22\x4d\x18", Known::Lz4),
    (0, b"\x02\x21\x4c\x18", Known::Lz4),
    (0, b"\x5d\x00\x00", Known::Lzma),
    (0, b"LZIP", Known::Foreign("lzip")),
    (0, b"\x89LZO\0", Known::Foreign("lzop")),
    (0, b"\x1f\x9d", Known::Foreign("compress")),
    (0, b"7z\xbc\xaf\x27\x1c", Known::Foreign("7z")),
    (0, b"hsqs", Known::Foreign("squashfs")),
    (0, b"QFI\xfb", Known::Foreign("qcow2")),
    (0, b"KDMV", Known::Foreign("vmdk")),
    (0, b"PK\x03\x04", Known::Foreign("zip")),
    (0, b"070701", Known::Foreign("cpio")),
    (0, b"\x7fELF", Known::Foreign("executable")),
    (257, b"ustar", Known::Tar),
];

impl Format {
    /// The formats this build reads, for messages.
    pub(super) fn readable() -> String {
        let all = [
            ("tar", true),
            ("tar.gz", cfg!(feature = "gzip")),
            ("tar.zst", cfg!(feature = "zstd")),
            ("tar.xz", cfg!(feature = "xz")),
            ("tar.lzma", cfg!(feature = "xz")),
            ("tar.bz2", cfg!(feature = "bzip2")),
            ("tar.lz4", cfg!(feature = "lz4")),
        ];
        let names: Vec<_> = all.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            _ => "tar".into(),
        }
    }

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
        let known = named.map(|(_, _, known)| *known).or_else(|| behind_skippable_frames(start));
        if known == Some(Known::Lzma) {
            check_lzma_header(start).map_err(|why| invalid(format!("it begins like an lzma stream, but {why}")))?;
        }
        let (name, feature): (&str, Option<&str>) = match known {
            Some(Known::Tar) => return Ok(Format::Tar),
            #[cfg(feature = "gzip")]
            Some(Known::Gzip) => return Ok(Format::Gzip),
            #[cfg(feature = "zstd")]
            Some(Known::Zstd) => return Ok(Format::Zstd),
            #[cfg(feature = "xz")]
            Some(Known::Xz) => return Ok(Format::Xz),
            #[cfg(feature = "xz")]
            Some(Known::Lzma) => return Ok(Format::Lzma),
            #[cfg(feature = "bzip2")]
            Some(Known::Bzip2) => return Ok(Format::Bzip2),
            #[cfg(feature = "lz4")]
            Some(Known::Lz4) => return Ok(Format::Lz4),
            #[cfg(not(feature = "gzip"))]
            Some(Known::Gzip) => ("gzip", Some("gzip")),
            #[cfg(not(feature = "zstd"))]
            Some(Known::Zstd) => ("zstd", Some("zstd")),
            #[cfg(not(feature = "xz"))]
            Some(Known::Xz) => ("xz", Some("xz")),
            #[cfg(not(feature = "xz"))]
            Some(Known::Lzma) => ("lzma", Some("xz")),
            #[cfg(not(feature = "bzip2"))]
            Some(Known::Bzip2) => ("bzip2", Some("bzip2")),
            #[cfg(not(feature = "lz4"))]
            Some(Known::Lz4) => ("lz4", Some("lz4")),
            Some(Known::Foreign("squashfs")) if !cfg!(feature = "squashfs") => ("squashfs", Some("squashfs")),
            Some(Known::Foreign(name)) => (name, None),
            None if start.len() < PEEK => {
                return Err(invalid(format!("it ends after {} bytes, before one tar header", start.len())));
            }
            None => {
                let remedy = format!("this build reads {}", Self::readable());
                return Err(invalid("it is of no known format".into()).with_remedy(remedy));
            }
        };
        let mut remedy = format!("this build reads {}", Self::readable());
        if let Some(feature) = feature {
            remedy.push_str(&format!("; build it with the feature `{feature}`"));
        }
        Err(Error::new(ErrorKind::Unsupported, "read the image", format!("it is a {name} stream"))
            .with_context("offset", 0)
            .with_remedy(remedy))
    }

    /// The size of what the stream holds, in bytes, if its first bytes say so.
    pub(super) fn content_size(self, start: &[u8]) -> Option<u64> {
        let _ = start;
        match self {
            #[cfg(feature = "zstd")]
            Format::Zstd => zstd::zstd_safe::get_frame_content_size(start).ok().flatten(),
            #[cfg(feature = "xz")]
            Format::Lzma => start.get(5..13)?.first_chunk().map(|size| u64::from_le_bytes(*size)).filter(|&size| size != u64::MAX),
            #[cfg(feature = "lz4")]
            Format::Lz4 if start.first() == Some(&4) && start.get(4).is_some_and(|flags| flags & 8 != 0) => {
                start.get(6..14)?.first_chunk().map(|size| u64::from_le_bytes(*size))
            }
            _ => None,
        }
    }
}

/// zstd and lz4 share the magics of skippable frames (pzstd writes one first, for instance): what follows them tells. If that is too far
/// away, zstd is more likely.
fn behind_skippable_frames(mut start: &[u8]) -> Option<Known> {
    let mut found = None;
    while let [first, b'\x2a', b'\x4d', b'\x18', rest @ ..] = start
        && first & 0xf0 == 0x50
    {
        found = Some(Known::Zstd);
        let Some((length, rest)) = rest.split_first_chunk() else { break };
        start = rest.get(u32::from_le_bytes(*length) as usize..).unwrap_or_default();
    }
    let lz4 = MAGICS.iter().any(|(_, magic, known)| *known == Known::Lz4 && start.starts_with(magic));
    if lz4 { found.map(|_| Known::Lz4) } else { found }
}

/// The magic of lzma is none but the most usual properties and a dictionary of whole pages. What it must hold else tells it from other bytes.
fn check_lzma_header(start: &[u8]) -> Result<(), String> {
    let Some((header, _)) = start.split_first_chunk::<13>() else { return Err(format!("ends after {} bytes", start.len())) };
    let [_, d0, d1, d2, d3, size @ ..] = *header;
    let dictionary = u32::from_le_bytes([d0, d1, d2, d3]);
    // 2^n or 2^n + 2^(n-1): no encoder has written others.
    let leading = dictionary.leading_zeros();
    if dictionary == 0 || dictionary.rotate_left(leading) & !(0b11 << 30) != 0 {
        return Err("its dictionary size is none".into());
    }
    let size = u64::from_le_bytes(size);
    if size != u64::MAX && size >= 1 << 48 {
        return Err("the size it gives is beyond reason".into());
    }
    Ok(())
}

/// Whether a block passes for a tar header by its checksum, or for the zeros of an archive without entries.
pub(super) fn is_tar_header(block: &[u8]) -> bool {
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

    #[test]
    fn what_another_build_reads_is_named_with_its_feature() {
        let lzma = b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0";
        let formats: [(&[u8], &str, bool); 6] = [
            (b"\x1f\x8b\x08", "gzip", cfg!(feature = "gzip")),
            (b"\x28\xb5\x2f\xfd", "zstd", cfg!(feature = "zstd")),
            (b"\xfd7zXZ\0", "xz", cfg!(feature = "xz")),
            (lzma, "xz", cfg!(feature = "xz")),
            (b"BZh9", "bzip2", cfg!(feature = "bzip2")),
            (b"\x04\x22\x4d\x18", "lz4", cfg!(feature = "lz4")),
        ];
        for (start, feature, here) in formats {
            match Format::detect(start) {
                Ok(_) => assert!(here, "{feature}"),
                Err(error) => {
                    assert!(!here, "{error:?}");
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    assert!(error.remedy().unwrap().ends_with(&format!("the feature `{feature}`")), "{error:?}");
                }
            }
        }
    }

    #[test]
    fn an_lzma_header_has_to_make_sense() {
        let header = |dictionary: u32, size: u64| [&[0x5d][..], &dictionary.to_le_bytes(), &size.to_le_bytes(), &[0; 8]].concat();
        let message = |start: &[u8]| Format::detect(start).unwrap_err().message().to_owned();
        for (dictionary, size) in [(1 << 16, u64::MAX), (8 << 20, u64::MAX), (3 << 22, 10), (3 << 30, 1 << 40)] {
            let known = Format::detect(&header(dictionary, size)).map_err(|error| error.kind());
            assert_ne!(known, Err(ErrorKind::InvalidImage), "{dictionary}");
        }
        assert_eq!(message(&header(5 << 16, u64::MAX)), "it begins like an lzma stream, but its dictionary size is none");
        assert_eq!(message(&header(1 << 16, 1 << 60)), "it begins like an lzma stream, but the size it gives is beyond reason");
        assert_eq!(message(&header(1 << 16, 0)[..9]), "it begins like an lzma stream, but ends after 9 bytes");
    }

    #[cfg(all(feature = "zstd", feature = "lz4"))]
    #[test]
    fn skippable_frames_are_those_of_what_follows() {
        let skip = b"\x53\x2a\x4d\x18\x02\0\0\0ab";
        let with = |rest: &[u8]| Format::detect(&[&skip[..], skip, rest].concat()).unwrap();
        assert_eq!(with(b"\x04\x22\x4d\x18"), Format::Lz4);
        assert_eq!(with(b"\x28\xb5\x2f\xfd"), Format::Zstd);
        assert_eq!(with(b""), Format::Zstd);
        assert_eq!(Format::detect(b"\x53\x2a\x4d\x18\xff\xff\xff\xff").unwrap(), Format::Zstd);
    }
}
