//! An image that is unpacked already: a base.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use nix::sys::stat::fstat;

use super::content::Content;
use super::source::{Input, Position, Source};
use super::{Image, Need};
use crate::base_name::BaseName;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::CancelToken;
use crate::record::ImageRecord;
use crate::sys::sync::clean;
use crate::unpack::{Hooks, fingerprint};
use crate::volume::{BasePool, VolumeId, VolumeLock};

/// How long a file has to be as it is before its times tell whether it is still the same: longer than a tick of any clock.
const SETTLED: Duration = Duration::from_secs(2);

/// A base that is held.
#[derive(Debug)]
pub(crate) struct BaseRoot {
    pub(crate) id: VolumeId,
    pub(crate) name: BaseName,
    pub(crate) record: ImageRecord,
    pub(crate) pool: Arc<dyn BasePool>,
    /// Its directory, once someone has read in it: to clone it takes none.
    pub(crate) root: OnceLock<OwnedFd>,
    pub(crate) _hold: VolumeLock,
}

impl BaseRoot {
    /// Its directory.
    pub(crate) fn root(&self) -> Result<BorrowedFd<'_>> {
        if let Some(root) = self.root.get() {
            return Ok(root.as_fd());
        }
        let Some(root) = self.pool.open(&self.name)? else {
            return Err(Error::new(ErrorKind::NotFound, "open the base", "it is gone").with_context("base", &self.name));
        };
        Ok(self.root.get_or_init(|| root).as_fd())
    }

    /// Reads all of it: that it can be read, that nothing is mounted in it, and that it holds what it was made with.
    pub(super) fn check(&self, hooks: &mut dyn Hooks) -> Result<()> {
        if self.is_unchanged(hooks)? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidImage, "check the base", "it was changed since it was made")
            .with_context("base", &self.name)
            .with_remedy("remove the base: it is made again from its image"))
    }

    /// Reads all of it, and says whether it holds what was recorded when it was made, if that was.
    pub(crate) fn is_unchanged(&self, hooks: &mut dyn Hooks) -> Result<bool> {
        let found = fingerprint(self.root()?, hooks)?;
        // Not by the number of bytes: what a file system calls a hole may change when it writes them out.
        Ok(self.record.contents.is_none_or(|recorded| recorded.digest == found.digest))
    }
}

impl Drop for BaseRoot {
    fn drop(&mut self) {
        if self.root.take().is_some() {
            self.pool.close(&self.name);
        }
    }
}

impl Image {
    /// The image that a base was made from, in its unpacked form.
    pub(crate) fn of_base(base: Arc<BaseRoot>) -> Self {
        let record = &base.record;
        Image {
            origin: record.origin.clone(),
            layout: record.layout,
            need: Need {
                expected: record.contents.map(|contents| contents.bytes),
                entries: record.contents.map(|contents| contents.entries),
                ..Need::default()
            },
            length: record.contents.map(|contents| contents.bytes),
            content: Content::Base(base),
            ..Image::empty()
        }
    }

    /// The base that it is.
    pub(crate) fn base(&self) -> Option<&Arc<BaseRoot>> {
        match &self.content {
            Content::Base(base) => Some(base),
            _ => None,
        }
    }

    /// Its digest, if that is known before it is read: it was asked for, or a manifest tells it.
    pub(crate) fn known_digest(&self, cancel: &CancelToken) -> Result<Option<Sha256>> {
        if self.expected.is_some() {
            return Ok(self.expected);
        }
        #[cfg(not(feature = "oci"))]
        let _ = cancel;
        #[cfg(feature = "oci")]
        if let Content::Layers(store) = &self.content {
            return self.select(store, cancel).map(|selected| Some(selected.digest));
        }
        Ok(None)
    }

    /// What tells its file, and the state the file is in, from every other: `None` if nothing does, because the file was changed a moment
    /// ago or there is none. Printable, without spaces.
    pub(crate) fn file_state(&self) -> Option<String> {
        let file = match &self.content {
            Content::Stream(Input::File(file)) => file,
            #[cfg(feature = "squashfs")]
            Content::Squashfs(file) => file,
            _ => return None,
        };
        // A store through a mapping shows in no time before its page is written out, and where none is, never.
        if !has_true_times(file) {
            return None;
        }
        clean(file.as_fd()).ok()?;
        let stat = fstat(file.as_fd()).ok()?;
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_ctime).ok()?);
        if SystemTime::now().duration_since(changed).ok()? < SETTLED {
            return None;
        }
        let id = format!("{}:{}:{}", stat.st_dev, stat.st_ino, stat.st_size);
        let times = format!("{}.{}:{}.{}", stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        Some(format!("{id}:{times}:{}", self.before.clone().finish()))
    }

    /// Reads its file to the end and digests it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the digest comes only with the unpacking, or the image can be read only once.
    pub(crate) fn digest(&self, cancel: &CancelToken, position: Position) -> Result<Sha256> {
        const OPERATION: &str = "digest the image";
        let file = match &self.content {
            Content::Stream(Input::File(file)) => file,
            #[cfg(feature = "squashfs")]
            Content::Squashfs(file) => file,
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, OPERATION, "its digest is not known before it is unpacked")
                    .with_remedy("give the digest it is published with, or save the image to a file and decompress it"));
            }
        };
        let own = file.try_clone().map_err(|error| Error::io(OPERATION, "its file cannot be opened again", error))?;
        let reading = super::Reading { cancel, patience: Duration::MAX, position };
        let source: Source = self.source(Input::File(own), &reading)?;
        source.finish().map(|(digest, _)| digest).map_err(super::stream::unwrap)
    }
}

/// Whether the file lies on a file system of which it is known that no change of a file leaves all its times as they were.
fn has_true_times(file: &File) -> bool {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
    let known = [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, XFS_SUPER_MAGIC];
    fstatfs(file).is_ok_and(|stat| known.contains(&stat.filesystem_type()))
}
