//! What fills a root: nothing, or a tar stream from a file, a pipe or a reader.
//!
//! An [`Image`] is opened, and its format told by its first bytes, before a volume is touched. It is read once, by
//! [`Rebuild::run`](crate::Rebuild::run) (in place: twice), and digested in the same pass.

#[cfg(feature = "tar")]
mod decode;
#[cfg(feature = "tar")]
mod format;
#[cfg(feature = "tar")]
mod source;
#[cfg(feature = "tar")]
mod stream;
#[cfg(feature = "tar")]
mod unpack;

#[cfg(feature = "tar")]
pub use self::{decode::Decoding, format::Format};
#[cfg(feature = "tar")]
pub(crate) use self::{source::Position, stream::Stream};

#[cfg(feature = "tar")]
use std::{fs::File, io::Read, os::fd::OwnedFd, path::Path, time::Duration};

#[cfg(feature = "tar")]
use self::source::{Input, Source};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "tar")]
use crate::progress::CancelToken;
use crate::record::{ImageRecord, Origin};
use crate::size::ByteSize;
use crate::text::Escaped;
#[cfg(feature = "tar")]
use crate::unpack::StripPrefix;

/// What fills a root.
#[derive(Debug)]
pub struct Image {
    origin: Origin,
    expected: Option<Sha256>,
    #[cfg(feature = "tar")]
    strip: Option<StripPrefix>,
    #[cfg(feature = "tar")]
    decoding: Decoding,
    need: Need,
    #[cfg(feature = "tar")]
    input: Option<Input>,
    length: Option<ByteSize>,
}

/// What is known of an image's size before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Need {
    /// It takes no less than this.
    pub at_least: ByteSize,
    /// It takes about this much, as the image itself says.
    pub expected: Option<ByteSize>,
}

impl Image {
    /// Nothing: the root becomes an empty directory.
    pub fn empty() -> Self {
        Image {
            origin: Origin::Empty,
            expected: None,
            #[cfg(feature = "tar")]
            strip: None,
            #[cfg(feature = "tar")]
            decoding: Decoding::default(),
            need: Need::default(),
            #[cfg(feature = "tar")]
            input: None,
            length: None,
        }
    }

    /// The image that a root was last filled from, by its record: the same file, the same digest, the same folder.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it came from a stream, which no one can read again, or if the record holds no digest to check it
    /// by; else those of [`Image::open`]. That the file has changed since shows in the rebuild, as [`ErrorKind::DigestMismatch`].
    pub fn from_record(record: &ImageRecord) -> Result<Self> {
        let refuse =
            |why: String| Err(Error::new(ErrorKind::Unsupported, "open the original image", why).with_remedy("name an image"));
        match &record.origin {
            Origin::Empty => Ok(Image::empty()),
            Origin::Stream(name) => {
                refuse(format!("the volume was filled from a stream ({}), which is gone", Escaped(name.as_bytes())))
            }
            #[cfg(not(feature = "tar"))]
            Origin::File(_) => refuse("this build reads no images".into()),
            #[cfg(feature = "tar")]
            Origin::File(path) => {
                let Some(digest) = record.digest else {
                    return refuse("its digest is not recorded, so no one can tell whether it is still the same".into());
                };
                let image = Image::open(path)?.with_sha256(digest);
                match &record.strip {
                    Some(strip) => image.with_strip(strip),
                    None => Ok(image),
                }
            }
        }
    }

    /// Expects the image, as it is read (compressed), to have this digest. Any other is an error before the commit.
    #[must_use]
    pub fn with_sha256(mut self, digest: Sha256) -> Self {
        self.expected = Some(digest);
        self
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its length in bytes, compressed, where that is known.
    pub fn length(&self) -> Option<ByteSize> {
        self.length
    }

    /// What is known of the space it needs.
    pub fn need(&self) -> Need {
        self.need
    }

    /// Whether it can be read more than once, as an in-place rebuild has to.
    pub fn is_rereadable(&self) -> bool {
        #[cfg(feature = "tar")]
        return matches!(self.input, None | Some(Input::File(_)));
        #[cfg(not(feature = "tar"))]
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.origin == Origin::Empty
    }

    #[cfg(feature = "tar")]
    pub(crate) fn strip(&self) -> Option<&StripPrefix> {
        self.strip.as_ref()
    }

    /// What to record with a root filled from this image, whose digest turned out to be `digest`.
    pub(crate) fn record(&self, digest: Option<Sha256>) -> ImageRecord {
        let mut record = ImageRecord::new(self.origin.clone());
        record.digest = digest;
        #[cfg(feature = "tar")]
        if let Some(folder) = &self.strip {
            record = record.with_strip(folder.as_path());
        }
        record
    }
}

#[cfg(feature = "tar")]
impl Image {
    /// Takes only what lies below `folder` in the image; it becomes the root. `rootfs` is right for LXD's unified images.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if `folder` is absolute, empty, or holds `..`.
    pub fn with_strip(mut self, folder: impl AsRef<Path>) -> Result<Self> {
        self.strip = Some(StripPrefix::try_from(folder.as_ref())?);
        Ok(self)
    }

    /// Sets whether its decoder may use several threads, and the memory they take.
    #[must_use]
    pub fn with_decoding(mut self, decoding: Decoding) -> Self {
        self.decoding = decoding;
        self
    }

    /// The image in a file, told by its content and not by its name. A named pipe is read as a stream.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidImage`] for a directory, an empty file or an unknown format,
    /// [`ErrorKind::Unsupported`] for a format that this build does not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
        let path = path.as_ref();
        let with_path = |error: Error| error.with_context("image", Escaped::from(path));
        let io = |error| with_path(Error::io("open the image", "it cannot be opened", error));
        let absolute = std::path::absolute(path).map_err(io)?;
        // Without O_NONBLOCK, a named pipe that no one writes to would be waited for here, for ever.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(with_path(Error::new(ErrorKind::InvalidImage, "open the image", "it is a directory"))
                .with_remedy("pack it: tar --numeric-owner --xattrs --xattrs-include='*' -C DIRECTORY -cf IMAGE ."));
        }
        if metadata.file_type().is_fifo() || metadata.file_type().is_char_device() || metadata.file_type().is_socket() {
            return Ok(Image::from_fd(OwnedFd::from(file), Escaped::from(path).to_string()));
        }
        let start = read_start(&file).map_err(io)?;
        let format = Format::detect(&start).map_err(with_path)?;
        let length = ByteSize::from_bytes(metadata.len());
        Ok(Image {
            origin: Origin::File(absolute),
            need: estimate(format, &start, length),
            input: Some(Input::File(file)),
            length: Some(length),
            ..Image::empty()
        })
    }

    /// The image that arrives on a pipe, a socket or standard input; `name` is for messages and the record.
    ///
    /// The descriptor is waited on with `poll`, so that a cancel and the deadline of
    /// [`Rebuild::stall_limit`](crate::Rebuild::stall_limit) are heeded while nothing arrives.
    pub fn from_fd(fd: impl Into<OwnedFd>, name: impl Into<String>) -> Self {
        let input = Some(Input::Pipe(File::from(fd.into())));
        Image { origin: Origin::Stream(name.into()), input, ..Image::empty() }
    }

    /// The image that a reader yields; `name` is for messages and the record.
    ///
    /// A reader that blocks cannot be interrupted: prefer [`Image::from_fd`] where there is a descriptor.
    pub fn from_reader(reader: impl Read + Send + 'static, name: impl Into<String>) -> Self {
        let input = Some(Input::Reader(Box::new(reader)));
        Image { origin: Origin::Stream(name.into()), input, ..Image::empty() }
    }

    /// Begins to read the image. Follow with [`finish`](Self::finish).
    pub(crate) fn start(&mut self, cancel: &CancelToken, patience: Duration) -> Result<Stream> {
        use std::io::Seek;
        let read_before = || Error::new(ErrorKind::Unsupported, "read the image", "it has been read already");
        let mut input = self.input.take().ok_or_else(read_before)?;
        if let Input::File(file) = &mut input {
            file.rewind().map_err(|error| Error::io("read the image", "cannot go to its start", error))?;
        }
        Stream::new(Source::new(input, cancel.clone(), patience), self.decoding)
    }

    /// Reads what is left of the image, and checks and returns its digest.
    pub(crate) fn finish(&mut self, stream: Stream) -> Result<Sha256> {
        let (digest, input) = stream.finish()?;
        self.input = Some(input).filter(|input| matches!(input, Input::File(_)));
        match self.expected {
            Some(expected) if expected != digest => {
                Err(Error::new(ErrorKind::DigestMismatch, "verify the image", "it is not the image that was asked for")
                    .with_context("expected", expected)
                    .with_context("found", digest)
                    .with_remedy("fetch the image again, or give the digest it is published with"))
            }
            _ => Ok(digest),
        }
    }
}

#[cfg(feature = "tar")]
fn read_start(file: &File) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut start = vec![0; format::PEEK];
    let mut filled = 0;
    while filled < start.len() {
        match file.read_at(&mut start[filled..], filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(filled);
    Ok(start)
}

/// A tar stream says nothing of its content's size but its own length, most of which is content; a compressed one cannot
/// unpack to less than what it takes to store it.
#[cfg(feature = "tar")]
fn estimate(format: Format, start: &[u8], length: ByteSize) -> Need {
    match format {
        Format::Tar => Need { at_least: ByteSize::ZERO, expected: Some(length) },
        #[cfg_attr(
            not(any(feature = "gzip", feature = "zstd", feature = "xz", feature = "bzip2", feature = "lz4")),
            expect(unreachable_patterns)
        )]
        _ => Need { at_least: length, expected: format.content_size(start).map(ByteSize::from_bytes) },
    }
}

#[cfg(all(test, feature = "gzip", feature = "zstd", feature = "xz", feature = "bzip2", feature = "lz4"))]
mod tests;
