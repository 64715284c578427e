//! Where the files of an image in layers are: in a directory, or in a tarball that is read in place.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::document::LARGEST;
use super::invalid;
use super::tarball::Members;
use crate::error::{Error, ErrorKind, Result};
use crate::image::layout::Layout;
use crate::text::Escaped;

/// The files of an image in layers, by their names.
#[derive(Debug)]
pub(in crate::image) enum Store {
    Directory(OwnedFd),
    Tarball(Arc<File>, Members),
}

impl Store {
    /// The tarball of an image in `file`, which is not compressed. `layout` is what the caller said, or that the file's first entry told.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] for what is no tarball of an image; [`ErrorKind::LimitExceeded`] for one of too many files. They ask for the
    /// layout if only the first entry told.
    pub(in crate::image) fn of_image(file: File, layout: Layout) -> Result<Self> {
        let told = layout != Layout::Detect;
        let members = Members::read(&file).map_err(|error| if told { error } else { ask(error) })?;
        let store = Store::Tarball(Arc::new(file), members);
        match (store.is_complete(), told) {
            (true, _) => Ok(store),
            (false, true) => Err(invalid("it is neither an OCI image layout nor a docker archive")
                .with_remedy("fetch the image again; or leave its layout out, if it is another kind of image")),
            (false, false) => Err(ask(invalid("it begins like an image in layers, but lacks its index or its manifest"))),
        }
    }

    /// Which of the two files that every OCI image layout has is not there, if the other one is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] if one of them is no regular file, or a link that leads out of the image.
    pub(in crate::image) fn missing(&self) -> Result<Option<&'static str>> {
        let has = |name| self.find(name).map(|section| section.is_some());
        Ok(match (has("oci-layout")?, has("index.json")?) {
            (true, false) => Some("index.json"),
            (false, true) => Some("oci-layout"),
            _ => None,
        })
    }

    /// Adds to an error of a tarball's documents that it may be no image in layers at all, unless it is clear.
    pub(in crate::image) fn ask(&self, error: Error) -> Error {
        match self {
            Store::Tarball(..) => ask(error),
            Store::Directory(_) => error,
        }
    }

    /// Whether it holds the files that every image has.
    pub(in crate::image) fn is_complete(&self) -> bool {
        let has = |name| self.find(name).is_ok_and(|section| section.is_some());
        has("oci-layout") && has("index.json") || has("manifest.json")
    }

    /// The file `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidImage`] if it is no regular file, or a link leads out of the image.
    pub(super) fn find(&self, name: &str) -> Result<Option<Section>> {
        match self {
            Store::Tarball(file, members) => {
                let Some(range) = members.find(name.as_bytes()) else { return Ok(None) };
                Ok(Some(Section { file: Arc::clone(file), position: range.start, end: range.end }))
            }
            Store::Directory(dir) => {
                // A pipe in the place of a file would be waited for without O_NONBLOCK.
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
                let how = OpenHow::new().flags(flags).mode(Mode::empty()).resolve(resolve);
                let file = match openat2(dir, name, how) {
                    Ok(file) => File::from(file),
                    Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
                    Err(Errno::EXDEV | Errno::ELOOP) => {
                        return Err(invalid("a link in it leads out of the image").with_context("file", Escaped(name.as_bytes())));
                    }
                    Err(error) => {
                        return Err(Error::io("read the image", "a file of it cannot be opened", error)
                            .with_context("file", Escaped(name.as_bytes())));
                    }
                };
                let metadata = file.metadata().map_err(|error| Error::io("read the image", "it cannot be looked at", error))?;
                if !metadata.is_file() {
                    return Err(invalid("it is not a regular file").with_context("file", Escaped(name.as_bytes())));
                }
                Ok(Some(Section { file: Arc::new(file), position: 0, end: metadata.len() }))
            }
        }
    }

    /// The tarball's file, to be read as a stream; the same again, if it is a directory.
    pub(in crate::image) fn into_file(self) -> Result<File, Self> {
        match self {
            Store::Tarball(file, members) => Arc::try_unwrap(file).map_err(|file| Store::Tarball(file, members)),
            directory => Err(directory),
        }
    }
}

fn ask(error: Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidImage | ErrorKind::LimitExceeded => {
            error.with_remedy("fetch the image again; or if it is a root filesystem, say that its layout is root")
        }
        _ => error,
    }
}

/// A part of a file, read from its start.
#[derive(Debug)]
pub(super) struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Section {
    /// How many bytes are left.
    pub(super) fn length(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// All of it, if it is no larger than a document may be.
    pub(super) fn read_document(mut self, what: &'static str) -> Result<Vec<u8>> {
        if self.length() > LARGEST.bytes() {
            let message = format!("{what} is {} bytes long", self.length());
            return Err(Error::new(ErrorKind::LimitExceeded, "read the image", message)
                .with_context("limit", LARGEST)
                .with_remedy("do not trust this image"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.length()).unwrap_or_default());
        self.read_to_end(&mut bytes).map_err(|error| Error::io("read the image", format!("{what} cannot be read"), error))?;
        Ok(bytes)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.length()).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let length = self.file.read_at(buffer, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}
