//! What a root was filled from, stored with it by the backend.

#[cfg(any(feature = "btrfs", feature = "ceph", feature = "dir", feature = "tar", feature = "lvm", feature = "zfs"))]
use std::ffi::CStr;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base_name::BaseName;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Layout;
use crate::size::ByteSize;
use crate::text::{Escaped, percent_decode};

/// What filled a root, so that it can be rebuilt from its original image.
///
/// A record is a claim, not a proof: whoever can write to the volume's properties may have changed it. A rebuild that follows one
/// therefore always checks the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageRecord {
    /// Where the image came from.
    pub origin: Origin,
    /// The digest of the image as it was read, compressed. Of an image in layers it is that of its manifest, and of an LXD image in two files that of
    /// the metadata and then the root, which is LXD's fingerprint.
    pub digest: Option<Sha256>,
    /// The folder of the image that became the root, if not its top.
    pub strip: Option<PathBuf>,
    /// The layout that its caller said the image has.
    pub layout: Layout,
    /// When the root was sealed, to the second.
    pub time: SystemTime,
    /// The base that the root was made from, if it was.
    pub base: Option<BaseName>,
    /// What the root held when it was sealed: of a base, to verify it by.
    pub contents: Option<Contents>,
    /// At how many entries something of the image could not be kept when the root was filled from it: of a base, for whoever clones it.
    pub losses: u64,
    /// What the image says of its root directory, where the directory itself is closed: that of a base that is to be cloned.
    pub top: Option<Top>,
}

/// Whose a root directory is, and what they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Top {
    /// The mode, `& 0o7777`.
    pub mode: u32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl FromStr for Top {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut fields = text.split(':');
        let (mode, uid, gid) = (fields.next().ok_or(())?, fields.next().ok_or(())?, fields.next().ok_or(())?);
        let mode = u32::from_str_radix(mode, 8).map_err(drop)? & 0o7777;
        Ok(Top { mode, uid: uid.parse().map_err(drop)?, gid: gid.parse().map_err(drop)? })
    }
}

/// What a tree holds, all but its root directory's own metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Contents {
    /// A digest of all names, kinds, owners, modes, times of change, attributes and data.
    pub digest: Sha256,
    /// The number of entries.
    pub entries: u64,
    /// File data, holes not counted.
    pub bytes: ByteSize,
}

/// Where an image came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Origin {
    /// No image: the root was made empty.
    Empty,
    /// A file, or the directory of an OCI image layout, by its absolute path.
    File(PathBuf),
    /// An LXD image in two files, by their absolute paths.
    Split {
        /// The metadata's tarball.
        metadata: PathBuf,
        /// The root, as a tarball or a squashfs.
        rootfs: PathBuf,
    },
    /// A stream, by the name its caller gave it.
    Stream(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Empty => f.write_str("nothing"),
            Origin::File(path) => Escaped::from(path.as_path()).fmt(f),
            Origin::Split { metadata, rootfs } => {
                write!(f, "{} and {}", Escaped::from(metadata.as_path()), Escaped::from(rootfs.as_path()))
            }
            Origin::Stream(name) => Escaped(name.as_bytes()).fmt(f),
        }
    }
}

/// The attributes of a root directory that hold its record where it has no better place, the trusted one first: only root can write that.
#[cfg(any(feature = "btrfs", feature = "ceph", feature = "dir", feature = "tar", feature = "lvm", feature = "zfs"))]
pub(crate) const ATTRIBUTES: [&CStr; 2] = [c"trusted.reroot.image", c"user.reroot.image"];

const HEADER: &[u8] = b"reroot 1";

impl ImageRecord {
    /// A record without a digest, of now.
    pub fn new(origin: Origin) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        ImageRecord {
            origin,
            digest: None,
            strip: None,
            layout: Layout::Detect,
            time: UNIX_EPOCH + Duration::from_secs(now),
            base: None,
            contents: None,
            losses: 0,
            top: None,
        }
    }

    /// Sets [`ImageRecord::digest`].
    #[must_use]
    pub fn with_digest(mut self, digest: Sha256) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Sets [`ImageRecord::strip`].
    #[must_use]
    pub fn with_strip(mut self, strip: &Path) -> Self {
        self.strip = Some(strip.to_owned());
        self
    }

    /// Sets [`ImageRecord::layout`].
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Sets [`ImageRecord::base`].
    #[must_use]
    pub fn with_base(mut self, base: BaseName) -> Self {
        self.base = Some(base);
        self
    }

    /// Sets [`ImageRecord::contents`].
    #[must_use]
    pub fn with_contents(mut self, contents: Contents) -> Self {
        self.contents = Some(contents);
        self
    }

    /// Sets [`ImageRecord::losses`].
    #[must_use]
    pub fn with_losses(mut self, losses: u64) -> Self {
        self.losses = losses;
        self
    }

    /// Sets [`ImageRecord::top`].
    #[must_use]
    pub fn with_top(mut self, top: Top) -> Self {
        self.top = Some(top);
        self
    }

    /// The record as a few lines of text, for a backend to store: an extended attribute, a dataset property, a tag.
    ///
    /// Lines end in a newline and hold printable ASCII only; a line a reader does not know is skipped.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        let mut line = |key: &str, value: &[u8]| {
            out.push(b'\n');
            out.extend_from_slice(key.as_bytes());
            out.push(b'=');
            for &byte in value {
                match byte {
                    b'%' | 0..=0x20 | 0x7f.. => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                    _ => out.push(byte),
                }
            }
        };
        match &self.origin {
            Origin::Empty => line("empty", b""),
            Origin::File(path) => line("file", path.as_os_str().as_bytes()),
            Origin::Split { metadata, rootfs } => {
                line("metadata", metadata.as_os_str().as_bytes());
                line("rootfs", rootfs.as_os_str().as_bytes());
            }
            Origin::Stream(name) => line("stream", name.as_bytes()),
        }
        if let Some(digest) = &self.digest {
            line("sha256", digest.to_string().as_bytes());
        }
        if let Some(strip) = &self.strip {
            line("strip", strip.as_os_str().as_bytes());
        }
        if self.layout != Layout::Detect {
            line("layout", self.layout.to_string().as_bytes());
        }
        let seconds = self.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        line("time", seconds.to_string().as_bytes());
        if let Some(base) = &self.base {
            line("base", base.to_string().as_bytes());
        }
        if let Some(Top { mode, uid, gid }) = &self.top {
            line("top", format!("{mode:04o}:{uid}:{gid}").as_bytes());
        }
        if self.losses > 0 {
            line("losses", self.losses.to_string().as_bytes());
        }
        if let Some(contents) = &self.contents {
            line("tree", contents.digest.to_string().as_bytes());
            line("entries", contents.entries.to_string().as_bytes());
            line("bytes", contents.bytes.bytes().to_string().as_bytes());
        }
        out.push(b'\n');
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if it is malformed or of a later version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let invalid = |why: &str| Error::new(ErrorKind::InvalidInput, "read the record of the image", why);
        let mut lines = bytes.split(|&byte| byte == b'\n');
        if lines.next() != Some(HEADER) {
            return Err(invalid("it is not a record this version can read"));
        }
        let mut record = ImageRecord { time: UNIX_EPOCH, ..ImageRecord::new(Origin::Empty) };
        let (mut origin, mut metadata, mut rootfs) = (None, None, None);
        let (mut tree, mut entries, mut size) = (None, None, None);
        for line in lines.filter(|line| !line.is_empty()) {
            let equals = line.iter().position(|&byte| byte == b'=').ok_or_else(|| invalid("a line has no value"))?;
            let value = percent_decode(&line[equals + 1..]).ok_or_else(|| invalid("an escape is malformed"))?;
            match &line[..equals] {
                b"empty" => origin = Some(Origin::Empty),
                b"file" => origin = Some(Origin::File(OsString::from_vec(value).into())),
                b"metadata" => metadata = Some(OsString::from_vec(value).into()),
                b"rootfs" => rootfs = Some(OsString::from_vec(value).into()),
                b"layout" => {
                    let name = std::str::from_utf8(&value).map_err(|_| invalid("the layout is not UTF-8"))?;
                    record.layout = name.parse()?;
                }
                b"stream" => {
                    let name = String::from_utf8(value).map_err(|_| invalid("the stream's name is not UTF-8"))?;
                    origin = Some(Origin::Stream(name));
                }
                b"sha256" => {
                    let hex = std::str::from_utf8(&value).map_err(|_| invalid("the digest is not hexadecimal"))?;
                    record.digest = Some(hex.parse()?);
                }
                b"base" => record.base = Some(text(&value).ok_or_else(|| invalid("the name of the base is malformed"))?),
                b"top" => {
                    let top = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    record.top = Some(top.ok_or_else(|| invalid("what it says of the root directory is malformed"))?);
                }
                b"tree" => tree = Some(text(&value).ok_or_else(|| invalid("the digest of the tree is malformed"))?),
                b"entries" => entries = Some(text(&value).ok_or_else(|| invalid("the number of entries is malformed"))?),
                b"bytes" => size = Some(text(&value).ok_or_else(|| invalid("the number of bytes is malformed"))?),
                b"losses" => record.losses = text(&value).ok_or_else(|| invalid("the number of losses is malformed"))?,
                b"strip" => record.strip = Some(OsString::from_vec(value).into()),
                b"time" => {
                    let seconds = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                    record.time = seconds
                        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
                        .ok_or_else(|| invalid("the time is not a number of seconds"))?;
                }
                _ => {}
            }
        }
        let split = metadata.zip(rootfs).map(|(metadata, rootfs)| Origin::Split { metadata, rootfs });
        if let (Some(digest), Some(entries), Some(bytes)) = (tree, entries, size) {
            record.contents = Some(Contents { digest, entries, bytes: ByteSize::from_bytes(bytes) });
        }
        record.origin = origin.or(split).ok_or_else(|| invalid("it names no image"))?;
        Ok(record)
    }
}

fn text<T: FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(feature = "serde")]
impl serde::Serialize for ImageRecord {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let origin = match &self.origin {
            Origin::Empty => "empty",
            Origin::File(_) => "file",
            Origin::Split { .. } => "split",
            Origin::Stream(_) => "stream",
        };
        let strip = self.strip.as_deref().map(|strip| Escaped::from(strip).to_string());
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut state = serializer.serialize_struct("ImageRecord", 9)?;
        state.serialize_field("origin", origin)?;
        state.serialize_field("name", &self.origin.to_string())?;
        state.serialize_field("sha256", &self.digest)?;
        state.serialize_field("strip", &strip)?;
        state.serialize_field("layout", &self.layout)?;
        state.serialize_field("time", &time)?;
        state.serialize_field("base", &self.base)?;
        state.serialize_field("contents", &self.contents)?;
        state.serialize_field("losses", &self.losses)?;
        state.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(record: &ImageRecord) {
        let bytes = record.to_bytes();
        assert!(bytes.iter().all(|byte| byte.is_ascii_graphic() || b" \n".contains(byte)), "{bytes:?}");
        assert_eq!(ImageRecord::from_bytes(&bytes).unwrap(), *record);
    }

    #[test]
    fn records_survive_the_trip() {
        let path = PathBuf::from(OsString::from_vec(b"/images/a=b %20\n\xff.tar.zst".to_vec()));
        let full =
            ImageRecord::new(Origin::File(path)).with_digest(Sha256::from_bytes([0xab; 32])).with_strip(Path::new("rootfs/a b"));
        same(&full);
        same(&ImageRecord::new(Origin::Empty));
        let split = Origin::Split { metadata: "/i/meta.tar.xz".into(), rootfs: "/i/root\n.squashfs".into() };
        same(&ImageRecord::new(split).with_layout(Layout::Root));
        same(&ImageRecord::new(Origin::Stream("standard input\n".into())));
        let digest = Sha256::from_bytes([0x1f; 32]);
        let contents = Contents { digest, entries: 7, bytes: ByteSize::mib(3) };
        same(
            &ImageRecord::new(Origin::File("/i".into()))
                .with_base(BaseName::new(digest))
                .with_contents(contents)
                .with_losses(7)
                .with_top(Top { mode: 0o2751, uid: 7, gid: 8 }),
        );
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in [
            "",
            "reroot 2\nempty=\n",
            "reroot 1\n",
            "reroot 1\nfile\n",
            "reroot 1\nfile=%G0\n",
            "reroot 1\nempty=\ntime=x\n",
            "reroot 1\nempty=\ntime=18446744073709551615\n",
            "reroot 1\nempty=\nsha256=00\n",
            "reroot 1\nrootfs=/i\n",
            "reroot 1\nfile=/i\nlayout=round\n",
        ] {
            assert!(ImageRecord::from_bytes(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let later = b"reroot 1\nfile=/i\nnew-in-1.1=x\n";
        assert_eq!(ImageRecord::from_bytes(later).unwrap().origin, Origin::File("/i".into()));
    }
}
