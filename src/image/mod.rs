//! What fills a root: nothing, a tar stream from a file, a pipe or a reader, or layers, or a squashfs.
//!
//! An [`Image`] is opened, and its format told by its first bytes, before a volume is touched. It is read once, by
//! [`Rebuild::run`](crate::Rebuild::run) (in place: twice), and digested in the same pass.

#[cfg(feature = "tar")]
mod base;
#[cfg(feature = "tar")]
mod content;
#[cfg(feature = "tar")]
mod decode;
#[cfg(feature = "tar")]
mod digesting;
#[cfg(feature = "tar")]
mod format;
mod layout;
#[cfg(feature = "tar")]
mod lxd;
#[cfg(feature = "oci")]
mod oci;
#[cfg(feature = "tar")]
mod open;
#[cfg(feature = "tar")]
mod source;
#[cfg(any(feature = "oci", feature = "squashfs"))]
mod spool;
#[cfg(feature = "tar")]
mod stream;
#[cfg(feature = "tar")]
mod unpack;

pub use self::layout::Layout;
#[cfg(feature = "oci")]
pub use self::oci::Platform;
#[cfg(feature = "tar")]
pub(crate) use self::{base::BaseRoot, content::Reading, source::Position};
#[cfg(feature = "tar")]
pub use self::{decode::Decoding, format::Format};

#[cfg(feature = "tar")]
use std::path::Path;
#[cfg(feature = "oci")]
use std::sync::OnceLock;

#[cfg(feature = "tar")]
use self::content::Content;
#[cfg(feature = "tar")]
use crate::digest::Hasher;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
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
    layout: Layout,
    need: Need,
    length: Option<ByteSize>,
    #[cfg(feature = "tar")]
    strip: Option<StripPrefix>,
    #[cfg(feature = "tar")]
    decoding: Decoding,
    #[cfg(feature = "tar")]
    content: Content,
    /// What its digest counts before its content: the metadata of an image in two files.
    #[cfg(feature = "tar")]
    before: Hasher,
    #[cfg(feature = "oci")]
    selector: oci::Selector,
    /// What was selected of a store, once it was.
    #[cfg(feature = "oci")]
    selected: OnceLock<oci::Selected>,
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
    /// So many files, directories and other entries.
    pub entries: Option<u64>,
}

impl Image {
    /// Nothing: the root becomes an empty directory.
    pub fn empty() -> Self {
        Image {
            origin: Origin::Empty,
            expected: None,
            layout: Layout::Detect,
            need: Need::default(),
            length: None,
            #[cfg(feature = "tar")]
            strip: None,
            #[cfg(feature = "tar")]
            decoding: Decoding::default(),
            #[cfg(feature = "tar")]
            content: Content::Nothing,
            #[cfg(feature = "tar")]
            before: Hasher::new(),
            #[cfg(feature = "oci")]
            selector: oci::Selector::default(),
            #[cfg(feature = "oci")]
            selected: OnceLock::new(),
        }
    }

    /// The image that a root was last filled from, by its record: the same files, the same digest, the same folder and layout.
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
            Origin::File(_) | Origin::Split { .. } => refuse("this build reads no images".into()),
            #[cfg(feature = "tar")]
            origin @ (Origin::File(_) | Origin::Split { .. }) => {
                let Some(digest) = record.digest else {
                    return refuse("its digest is not recorded, so no one can tell whether it is still the same".into());
                };
                let mut image = match origin {
                    Origin::Split { metadata, rootfs } => Image::lxd_split(metadata, rootfs)?,
                    Origin::File(path) => Image::open(path)?,
                    _ => Image::empty(),
                };
                if record.layout != image.layout {
                    image = image.with_layout(record.layout)?;
                }
                image = image.with_sha256(digest);
                match &record.strip {
                    Some(strip) => image.with_strip(strip),
                    None => Ok(image),
                }
            }
        }
    }

    /// Expects the image, as it is read (compressed), to have this digest. Any other is an error before the commit.
    ///
    /// That of an image in layers is the digest of its manifest (of its configuration, in a docker archive), which also chooses among several
    /// images; that of an image in two files is that of the metadata followed by the root.
    #[must_use]
    pub fn with_sha256(mut self, digest: Sha256) -> Self {
        self.expected = Some(digest);
        #[cfg(feature = "oci")]
        self.reselect();
        self
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its length in bytes, compressed, where that is known.
    pub fn length(&self) -> Option<ByteSize> {
        #[cfg(feature = "oci")]
        if let Content::Layers(store) = &self.content {
            return self.select(store, &CancelToken::new()).ok().map(|image| image.length());
        }
        self.length
    }

    /// What is known of the space it needs.
    pub fn need(&self) -> Need {
        #[cfg(feature = "oci")]
        if let Content::Layers(store) = &self.content {
            return self.select(store, &CancelToken::new()).map(|image| image.need()).unwrap_or_default();
        }
        self.need
    }

    /// Whether it can be read more than once, as an in-place rebuild has to. A stream cannot, nor can a compressed tarball of layers, which has
    /// to be kept on disk to be read.
    pub fn is_rereadable(&self) -> bool {
        #[cfg(feature = "tar")]
        return self.content.is_rereadable();
        #[cfg(not(feature = "tar"))]
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.origin == Origin::Empty
    }

    /// Checks what can be checked without reading much: that the image asked for is there, among those that a store of layers holds, and that a
    /// tarball which begins like such a store is a whole one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidInput`] and [`ErrorKind::DigestMismatch`], with a list of the images there are, and those of
    /// its documents and of its tarball; [`ErrorKind::Cancelled`].
    #[cfg_attr(not(feature = "oci"), expect(unused_variables))]
    pub(crate) fn resolve(&self, cancel: &CancelToken) -> Result<()> {
        #[cfg(feature = "oci")]
        if let Content::Layers(store) = &self.content {
            return self.select(store, cancel).map(drop).map_err(|error| error.with_context("image", &self.origin));
        }
        #[cfg(feature = "oci")]
        if let Content::Doubtful(file) = &self.content {
            let own = file.try_clone().map_err(|error| Error::io("read the image", "it cannot be opened again", error))?;
            return oci::Store::of_image(own, self.layout).map(drop).map_err(|error| error.with_context("image", &self.origin));
        }
        Ok(())
    }

    /// What to record with a root filled from this image, whose digest turned out to be `digest`.
    pub(crate) fn record(&self, digest: Option<Sha256>) -> ImageRecord {
        #[cfg(feature = "tar")]
        if let Some(base) = self.base() {
            let now = ImageRecord::new(Origin::Empty).time;
            let name = Some(base.name.clone());
            return ImageRecord { time: now, base: name, contents: None, ..base.record.clone() };
        }
        let mut record = ImageRecord::new(self.origin.clone()).with_layout(self.layout);
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
    /// Takes only what lies below `folder` in the image; it becomes the root. Which layout the image has is not asked then.
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

    #[cfg(feature = "oci")]
    fn select(&self, store: &oci::Store, cancel: &CancelToken) -> Result<&oci::Selected> {
        if let Some(selected) = self.selected.get() {
            return Ok(selected);
        }
        let selected = self.choose(store, cancel)?;
        Ok(self.selected.get_or_init(|| selected))
    }

    /// The one image of `store` that is asked for.
    #[cfg(feature = "oci")]
    fn choose(&self, store: &oci::Store, cancel: &CancelToken) -> Result<oci::Selected> {
        let selected = oci::select(store, &self.selector, self.expected, cancel);
        selected.map_err(|error| if self.layout == Layout::Detect { store.ask(error) } else { error })
    }

    /// Forgets what was selected, for another will be.
    #[cfg(feature = "oci")]
    fn reselect(&mut self) {
        self.selected = OnceLock::new();
    }
}

/// Which image, where one file or directory holds several in layers. All else has one only, and these say nothing then.
#[cfg(feature = "oci")]
impl Image {
    /// Takes the image with this tag: a name as the index or the archive has it, what follows its last slash or colon, or all from a slash on.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.selector.tag = Some(tag.into());
        self.reselect();
        self
    }

    /// Takes the image for this platform. Without it, it is the one for this machine, or the only one that does not say what it is for.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.selector.platform = Some(platform);
        self.reselect();
        self
    }
}

/// # Errors
/// [`ErrorKind::DigestMismatch`] if another digest was asked for.
#[cfg(feature = "tar")]
fn check_expected(expected: Option<Sha256>, digest: Sha256) -> Result<()> {
    match expected {
        Some(expected) if expected != digest => {
            Err(Error::new(ErrorKind::DigestMismatch, "verify the image", "it is not the image that was asked for")
                .with_context("expected", expected)
                .with_context("found", digest)
                .with_remedy("fetch the image again, or give the digest it is published with"))
        }
        _ => Ok(()),
    }
}

#[cfg(all(test, feature = "gzip", feature = "zstd", feature = "xz", feature = "bzip2", feature = "lz4"))]
mod tests;
