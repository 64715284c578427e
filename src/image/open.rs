//! Opening an image, and finding out what it is.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
#[cfg(feature = "oci")]
use std::time::Duration;

use super::content::Content;
#[cfg(feature = "squashfs")]
use super::format::is_tar_header;
use super::format::{Format, PEEK};
use super::layout::Layout;
use super::source::Input;
use super::{Image, Need, lxd};
#[cfg(feature = "oci")]
use super::{
    decode::Decoding,
    oci,
    source::{Source, Whole},
    stream::Stream,
};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "oci")]
use crate::progress::CancelToken;
use crate::record::Origin;
use crate::size::ByteSize;
use crate::text::Escaped;
#[cfg(feature = "squashfs")]
use crate::unpack::{Limits, squashfs_entries, squashfs_length};

impl Image {
    /// The image in a file, or in the directory of an OCI image layout, told by its content and not by its name. A named pipe is read as a stream.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidImage`] for another directory, an empty file or an unknown format,
    /// [`ErrorKind::Unsupported`] for a format that this build does not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let with_path = |error: Error| error.with_context("image", Escaped::from(path));
        let (file, absolute) = open_path(path)?;
        let kind = file.metadata().map_err(|error| with_path(cannot_open(error)))?.file_type();
        if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
            return Ok(Image::from_fd(OwnedFd::from(file), Escaped::from(path).to_string()));
        }
        let opened = if kind.is_dir() { Opened::directory(file, path) } else { Opened::file(file, Layout::Detect) };
        let Opened { content, need, length } = opened.map_err(with_path)?;
        Ok(Image { origin: Origin::File(absolute), content, need, length, ..Image::empty() })
    }

    /// An LXD or Incus image in two files: the tarball of its metadata, which has to hold `metadata.yaml`, and its root, a tarball or a squashfs.
    ///
    /// Its digest is LXD's fingerprint: the SHA-256 of the bytes of the first file and then the second.
    ///
    /// # Errors
    /// Those of [`Image::open`] for either file, and [`ErrorKind::InvalidImage`] or [`ErrorKind::LimitExceeded`] for what is no metadata.
    pub fn lxd_split(metadata: impl AsRef<Path>, rootfs: impl AsRef<Path>) -> Result<Self> {
        let (metadata, rootfs) = (metadata.as_ref(), rootfs.as_ref());
        let (metadata_file, metadata_path) = open_regular(metadata)?;
        let before = lxd::read_metadata(&metadata_file).map_err(|error| error.with_context("metadata", Escaped::from(metadata)))?;
        let (file, path) = open_regular(rootfs)?;
        let opened = Opened::file(file, Layout::Root).map_err(|error| error.with_context("image", Escaped::from(rootfs)));
        let Opened { content, need, length } = opened?;
        let origin = Origin::Split { metadata: metadata_path, rootfs: path };
        Ok(Image { origin, before, layout: Layout::Root, content, need, length, ..Image::empty() })
    }

    /// Says which layout the image has inside.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] if it cannot have that layout; [`ErrorKind::Unsupported`] for one that this build does not read.
    pub fn with_layout(mut self, layout: Layout) -> Result<Self> {
        let is_split = matches!(self.origin, Origin::Split { .. });
        if is_split && layout == Layout::Oci {
            return Err(invalid("the root of an image in two files holds no layers"));
        }
        // Its metadata is elsewhere, so there is nothing to detect it by.
        let layout = if is_split && layout == Layout::Detect { Layout::Root } else { layout };
        self.layout = layout;
        let origin = &self.origin;
        let with_path = |error: Error| error.with_context("image", origin);
        match self.content.into_file() {
            Ok(file) => {
                let opened = Opened::file(file, layout).map_err(with_path)?;
                (self.content, self.need, self.length) = (opened.content, opened.need, opened.length);
            }
            Err(content) => {
                #[cfg(feature = "oci")]
                if matches!(content, Content::Layers(_)) && !matches!(layout, Layout::Detect | Layout::Oci) {
                    return Err(with_path(invalid("it is a directory with an OCI image, and has no other layout")));
                }
                self.content = content;
                check_is_here(layout)?;
            }
        }
        Ok(self)
    }

    /// The image that arrives on a pipe, a socket or standard input; `name` is for messages and the record.
    ///
    /// The descriptor is waited on with `poll`, so that a cancel and the deadline of
    /// [`Rebuild::stall_limit`](crate::Rebuild::stall_limit) are heeded while nothing arrives.
    pub fn from_fd(fd: impl Into<OwnedFd>, name: impl Into<String>) -> Self {
        let content = Content::Stream(Input::Pipe(File::from(fd.into())));
        Image { origin: Origin::Stream(name.into()), content, ..Image::empty() }
    }

    /// The image that a reader yields; `name` is for messages and the record.
    ///
    /// A reader that blocks cannot be interrupted, and no deadline ends it: prefer [`Image::from_fd`] where there is a descriptor. A cancel holds as soon as
    /// its read returns, whatever that returns; who cancels can end it by closing what it reads from.
    pub fn from_reader(reader: impl Read + Send + 'static, name: impl Into<String>) -> Self {
        let content = Content::Stream(Input::Reader(Box::new(reader)));
        Image { origin: Origin::Stream(name.into()), content, ..Image::empty() }
    }
}

/// What was found in a file or a directory.
struct Opened {
    content: Content,
    need: Need,
    length: Option<ByteSize>,
}

impl Opened {
    fn directory(dir: File, path: &Path) -> Result<Self> {
        let _ = &dir;
        #[cfg(feature = "oci")]
        let missing = {
            let store = oci::Store::Directory(dir.into());
            if store.is_complete() {
                return Ok(Opened { content: Content::Layers(store), need: Need::default(), length: None });
            }
            store.missing()?.or_else(|| path.join("blobs/sha256").is_dir().then_some("index.json"))
        };
        #[cfg(not(feature = "oci"))]
        if path.join("oci-layout").exists() {
            check_is_here(Layout::Oci)?;
        }
        let shown = Escaped::from(path);
        let pack = format!("pack it: tar --numeric-owner --xattrs --xattrs-include='*' -C {shown} -cf IMAGE .");
        #[cfg(feature = "oci")]
        if let Some(missing) = missing {
            return Err(invalid(&format!("it is a directory with a part of an OCI image layout, but {missing} is missing"))
                .with_remedy(format!("copy the image again; or if it is a root filesystem, {pack}")));
        }
        Err(invalid("it is a directory").with_remedy(pack))
    }

    fn file(file: File, layout: Layout) -> Result<Self> {
        check_is_here(layout)?;
        let metadata = file.metadata().map_err(cannot_open)?;
        let size = metadata.len();
        #[cfg(feature = "squashfs")]
        let is_file = metadata.is_file();
        let length = Some(ByteSize::from_bytes(size));
        let start = read_start(&file, PEEK).map_err(cannot_open)?;
        #[cfg(feature = "squashfs")]
        if is_squashfs(&start) {
            check_squashfs_layout(layout)?;
            // The limits of the rebuild are not known yet.
            let no_limits = Limits::default().with_entries(u64::MAX);
            let (used, entries) = (squashfs_length(&start, &no_limits)?, squashfs_entries(&start, &no_limits)?);
            // A block device has no size here, and a file may be padded, or cut.
            let at_least = if is_file { used.min(ByteSize::from_bytes(size)) } else { used };
            let length = if is_file { length } else { Some(used) };
            let need = Need { at_least, expected: None, entries: Some(entries) };
            return Ok(Opened { content: Content::Squashfs(file), need, length });
        }
        let format = Format::detect(&start)?;
        let need = estimate(format, &start, ByteSize::from_bytes(size));
        #[cfg(feature = "oci")]
        if matches!(layout, Layout::Detect | Layout::Oci) {
            return Ok(match with_layers(file, format, layout)? {
                // What it needs is asked when it is known which image it is.
                content @ Content::Layers(_) => Opened { content, need: Need::default(), length },
                content => Opened { content, need, length },
            });
        }
        Ok(Opened { content: Content::Stream(Input::File(file)), need, length })
    }
}

/// What a tarball is, that may be one of layers.
#[cfg(feature = "oci")]
fn with_layers(file: File, format: Format, layout: Layout) -> Result<Content> {
    let detect = layout == Layout::Detect;
    let stream = |file| Ok(Content::Stream(Input::File(file)));
    if format != Format::Tar {
        let is_packed = !detect || oci::begins_like_layers(&decoded_start(&file));
        return if is_packed { Ok(Content::Packed(file)) } else { stream(file) };
    }
    if detect && !oci::begins_like_layers(&read_start(&file, oci::PEEK).map_err(cannot_open)?) {
        return stream(file);
    }
    let own = file.try_clone().map_err(cannot_open)?;
    match oci::Store::of_image(own, layout) {
        Ok(store) => Ok(Content::Layers(store)),
        // The caller may yet say that it is a root.
        Err(_) if detect => Ok(Content::Doubtful(file)),
        Err(error) => Err(error),
    }
}

/// The first bytes of a compressed file, decompressed; fewer if it is corrupt, which shows when it is read.
#[cfg(feature = "oci")]
fn decoded_start(file: &File) -> Vec<u8> {
    let mut start = Vec::new();
    let Ok(own) = file.try_clone() else { return start };
    let source = Source::new(Input::Reader(Box::new(Whole::new(own))), CancelToken::new(), Duration::ZERO);
    if let Ok(stream) = Stream::new(source, Decoding::default()) {
        // What came before an error is there all the same.
        let _ = stream.take(oci::PEEK as u64).read_to_end(&mut start);
    }
    start
}

/// # Errors
/// [`ErrorKind::InvalidImage`] for a layout that no squashfs has.
#[cfg(feature = "squashfs")]
pub(super) fn check_squashfs_layout(layout: Layout) -> Result<()> {
    if layout == Layout::Oci {
        return Err(invalid("it is a squashfs, and holds no layers").with_remedy("leave its layout out"));
    }
    Ok(())
}

/// Whether this is the start of a squashfs.
#[cfg(feature = "squashfs")]
pub(super) fn is_squashfs(start: &[u8]) -> bool {
    start.starts_with(b"hsqs") && !is_tar_header(start)
}

fn check_is_here(layout: Layout) -> Result<()> {
    if layout == Layout::Oci && !cfg!(feature = "oci") {
        return Err(Error::new(ErrorKind::Unsupported, "open the image", "it is an image in layers")
            .with_remedy("build with the feature oci"));
    }
    Ok(())
}

fn open_path(path: &Path) -> Result<(File, PathBuf)> {
    let with_path = |error| cannot_open(error).with_context("image", Escaped::from(path));
    let absolute = std::path::absolute(path).map_err(with_path)?;
    // Without O_NONBLOCK, a named pipe that no one writes to would be waited for here, for ever.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(with_path)?;
    Ok((file, absolute))
}

fn open_regular(path: &Path) -> Result<(File, PathBuf)> {
    let with_path = |error: Error| error.with_context("image", Escaped::from(path));
    let (file, absolute) = open_path(path)?;
    let kind = file.metadata().map_err(|error| with_path(cannot_open(error)))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(with_path(invalid("it is not a regular file")).with_remedy("name the two files of the image"));
    }
    Ok((file, absolute))
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidImage, "open the image", message)
}

fn cannot_open(error: std::io::Error) -> Error {
    Error::io("open the image", "it cannot be opened", error)
}

/// The first `length` bytes of a file, fewer if it is shorter.
fn read_start(file: &File, length: usize) -> std::io::Result<Vec<u8>> {
    let mut start = vec![0; length];
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
fn estimate(format: Format, start: &[u8], length: ByteSize) -> Need {
    match format {
        Format::Tar => Need { expected: Some(length), ..Need::default() },
        #[cfg_attr(
            not(any(feature = "gzip", feature = "zstd", feature = "xz", feature = "bzip2", feature = "lz4")),
            expect(unreachable_patterns)
        )]
        _ => Need { at_least: length, expected: format.content_size(start).map(ByteSize::from_bytes), ..Need::default() },
    }
}
