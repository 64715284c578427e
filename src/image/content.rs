//! What an image is made of, and how each kind of it becomes a root.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::layout::Layout;
#[cfg(feature = "oci")]
use super::oci;
use super::source::{Input, Position, Source};
#[cfg(any(feature = "oci", feature = "squashfs"))]
use super::spool::spool;
use super::stream::{Stream, unwrap};
use super::{Image, check_expected};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::CancelToken;
use crate::unpack::{Hooks, Tally, Unified, UnpackOptions, Unpacked, scan, unpack};

/// What an image is made of.
#[derive(Debug)]
pub(super) enum Content {
    Nothing,
    /// It has been read and cannot be read again.
    Spent,
    /// A tar stream, compressed or not. From a pipe or a reader it may be anything: its first bytes tell when they arrive.
    Stream(Input),
    #[cfg(feature = "squashfs")]
    Squashfs(File),
    /// Layers, which can be read in any order.
    #[cfg(feature = "oci")]
    Layers(oci::Store),
    /// A compressed tarball of layers, which cannot before it is spooled.
    #[cfg(feature = "oci")]
    Packed(File),
}

/// How an image is read: what stops it, how long its source may be silent, and where what is read is counted.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) cancel: &'a CancelToken,
    pub(crate) patience: Duration,
    pub(crate) position: Position,
}

/// Where an image goes.
#[derive(Clone, Copy)]
enum Target<'a> {
    Root(BorrowedFd<'a>),
    /// It is only looked at.
    Nowhere,
}

impl Target<'_> {
    fn tar(self, stream: impl Read + Send, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Unpacked> {
        match self {
            Target::Root(root) => unpack(stream, root, options, hooks),
            Target::Nowhere => scan(stream, options, hooks).map(only),
        }
    }

    #[cfg(feature = "squashfs")]
    fn squashfs(self, file: &File, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Unpacked> {
        match self {
            Target::Root(root) => crate::unpack::unpack_squashfs(file, root, options, hooks),
            Target::Nowhere => crate::unpack::scan_squashfs(file, options, hooks).map(only),
        }
    }

    #[cfg(feature = "oci")]
    fn layers(self, mut layers: oci::Stack<'_>, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Unpacked> {
        match self {
            Target::Root(root) => crate::unpack::unpack_layers(&mut layers, root, options, hooks),
            Target::Nowhere => crate::unpack::scan_layers(&mut layers, options, hooks).map(only),
        }
    }

    /// Keeps a stream on disk, beside the root.
    #[cfg(any(feature = "oci", feature = "squashfs"))]
    fn spool(self, stream: &mut dyn Read, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<File> {
        match self {
            Target::Root(root) => spool(stream, root, options.limits.bytes, hooks),
            Target::Nowhere => Err(Error::new(ErrorKind::Unsupported, "check the image", "it has to be kept on disk to be read")),
        }
    }
}

fn only(tally: Tally) -> Unpacked {
    Unpacked { tally, ..Unpacked::default() }
}

impl Image {
    /// Unpacks the image into the directory `root`, checks it, and returns its digest; of the options, where its root lies is its own matter.
    pub(crate) fn unpack(
        &mut self,
        root: BorrowedFd<'_>,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
    ) -> Result<(Unpacked, Option<Sha256>)> {
        self.read(Target::Root(root), options, hooks, reading)
    }

    /// Reads the image to its end, writes nothing, and checks it.
    pub(crate) fn check(&mut self, options: &UnpackOptions, hooks: &mut dyn Hooks, reading: &Reading<'_>) -> Result<Tally> {
        self.read(Target::Nowhere, options, hooks, reading).map(|(unpacked, _)| unpacked.tally)
    }

    fn read(
        &mut self,
        target: Target<'_>,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
    ) -> Result<(Unpacked, Option<Sha256>)> {
        let mut options = options.clone();
        options.strip = self.strip.clone();
        let options = &mut options;
        let (unpacked, digest) = match std::mem::replace(&mut self.content, Content::Spent) {
            Content::Nothing => {
                self.content = Content::Nothing;
                return Ok((Unpacked::default(), None));
            }
            Content::Spent => return Err(Error::new(ErrorKind::Unsupported, "read the image", "it has been read already")),
            Content::Stream(input) => self.read_stream(input, target, options, hooks, reading)?,
            #[cfg(feature = "squashfs")]
            Content::Squashfs(file) => {
                let read = self.read_squashfs(&file, target, options, hooks, reading)?;
                self.content = Content::Squashfs(file);
                read
            }
            #[cfg(feature = "oci")]
            Content::Layers(store) => {
                let read = self.read_layers(&store, target, options, hooks, reading, reading.position.clone())?;
                self.content = Content::Layers(store);
                read
            }
            #[cfg(feature = "oci")]
            Content::Packed(file) => self.read_stream(Input::File(file), target, options, hooks, reading)?,
        };
        Ok((unpacked, Some(digest)))
    }

    fn source(&self, input: Input, reading: &Reading<'_>) -> Source {
        Source::new(input, reading.cancel.clone(), reading.patience)
            .counting_in(reading.position.clone())
            .hashing_after(self.before.clone())
    }

    fn read_stream(
        &mut self,
        mut input: Input,
        target: Target<'_>,
        options: &mut UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
    ) -> Result<(Unpacked, Sha256)> {
        if let Input::File(file) = &mut input {
            file.rewind().map_err(|error| Error::io("read the image", "cannot go to its start", error))?;
        }
        #[cfg_attr(not(feature = "squashfs"), allow(unused_mut))]
        let mut source = self.source(input, reading);
        #[cfg(feature = "squashfs")]
        if super::format::is_squashfs(source.peek(super::format::PEEK).map_err(unwrap)?) {
            let file = target.spool(&mut source, options, hooks)?;
            let (digest, _) = source.finish().map_err(unwrap)?;
            check_expected(self.expected, digest)?;
            return Ok((target.squashfs(&file, options, hooks)?, digest));
        }
        let mut stream = Stream::new(source)?;
        options.unified = match self.layout {
            Layout::Detect => Unified::Detect,
            Layout::Lxd => Unified::Yes,
            _ => Unified::No,
        };
        let mut start = Vec::new();
        #[cfg(feature = "oci")]
        if matches!(self.layout, Layout::Detect | Layout::Oci) {
            stream.by_ref().take(oci::PEEK as u64).read_to_end(&mut start).map_err(unwrap)?;
            // What a file holds was found out when it was opened.
            let detect = self.layout == Layout::Detect && self.may_hold_layers;
            if self.layout == Layout::Oci || detect && oci::begins_like_layers(&start) {
                let file = target.spool(&mut (&start[..]).chain(&mut stream), options, hooks)?;
                stream.finish()?;
                let store = oci::Store::of_tarball(file)?;
                if !store.is_complete() {
                    return Err(Error::new(ErrorKind::InvalidImage, "read the image", "it begins like an image in layers, but is not complete")
                        .with_remedy("if it is a root filesystem, say so: its layout is root"));
                }
                // What is read of the source has all been counted.
                return self.read_layers(&store, target, options, hooks, reading, Position::default());
            }
        }
        let unpacked = target.tar((&std::mem::take(&mut start)[..]).chain(&mut stream), options, hooks)?;
        let (digest, input) = stream.finish()?;
        if let Input::File(_) = input {
            self.content = Content::Stream(input);
        }
        check_expected(self.expected, digest)?;
        Ok((unpacked, digest))
    }

    /// A squashfs is read in any order: its digest takes a pass of its own, at the same time.
    #[cfg(feature = "squashfs")]
    fn read_squashfs(
        &self,
        file: &File,
        target: Target<'_>,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
    ) -> Result<(Unpacked, Sha256)> {
        let own = || file.try_clone().map_err(|error| Error::io("read the image", "it cannot be opened again", error));
        let digest = |source: Source| source.finish().map(|(digest, _)| digest).map_err(unwrap);
        let stop = CancelToken::new();
        let whole = super::source::Whole::new(own()?);
        let source = self.source(Input::Reader(Box::new(whole.stopped_by(stop.clone()))), reading);
        let (unpacked, digest) = std::thread::scope(|scope| {
            let hashing = std::thread::Builder::new().name("reroot-digest".into()).spawn_scoped(scope, move || digest(source));
            let unpacked = target.squashfs(file, options, hooks);
            if unpacked.is_err() {
                stop.cancel();
            }
            let digest = match hashing {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => own().and_then(|file| digest(self.source(Input::Reader(Box::new(super::source::Whole::new(file))), reading))),
            };
            unpacked.map(|unpacked| (unpacked, digest))
        })?;
        let digest = digest?;
        check_expected(self.expected, digest)?;
        Ok((unpacked, digest))
    }

    #[cfg(feature = "oci")]
    fn read_layers(
        &self,
        store: &oci::Store,
        target: Target<'_>,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
        position: Position,
    ) -> Result<(Unpacked, Sha256)> {
        let image = oci::select(store, &self.selector, self.expected)?;
        let digest = image.digest;
        let layers = oci::Stack::new(store, image, reading.cancel, position);
        Ok((target.layers(layers, options, hooks)?, digest))
    }
}
