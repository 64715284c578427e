//! What an image is made of, and how each kind of it becomes a root.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
#[cfg(feature = "squashfs")]
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::base::BaseRoot;
#[cfg(feature = "squashfs")]
use super::format::PEEK;
use super::layout::Layout;
#[cfg(feature = "oci")]
use super::oci;
#[cfg(feature = "squashfs")]
use super::open::{check_squashfs_layout, is_squashfs};
#[cfg(feature = "squashfs")]
use super::source::Whole;
use super::source::{Input, Position, Source};
#[cfg(any(feature = "oci", feature = "squashfs"))]
use super::spool::spool;
use super::stream::Stream;
#[cfg(any(feature = "oci", feature = "squashfs"))]
use super::stream::unwrap;
use super::{Image, check_expected};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::CancelToken;
use crate::record::Origin;
use crate::size::ByteSize;
use crate::unpack::{DevicePolicy, Hooks, Limits, Tally, Unified, UnpackOptions, Unpacked, copy_tree, scan_stream, unpack_stream};

/// What an image is made of.
#[derive(Debug)]
pub(super) enum Content {
    Nothing,
    /// It has been read and cannot be read again.
    Spent,
    /// A root that is unpacked already.
    Base(Arc<BaseRoot>),
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
    /// A tarball that begins like one of layers and is none: it is damaged, or it is a root, and nothing says which.
    #[cfg(feature = "oci")]
    Doubtful(File),
}

impl Content {
    pub(super) fn is_rereadable(&self) -> bool {
        match self {
            Content::Nothing | Content::Base(_) | Content::Stream(Input::File(_)) => true,
            Content::Spent | Content::Stream(_) => false,
            #[cfg(feature = "squashfs")]
            Content::Squashfs(_) => true,
            #[cfg(feature = "oci")]
            Content::Layers(_) | Content::Doubtful(_) => true,
            #[cfg(feature = "oci")]
            Content::Packed(_) => false,
        }
    }

    /// The file it all comes from, if it is one; else the same again.
    pub(super) fn into_file(self) -> Result<File, Self> {
        match self {
            Content::Stream(Input::File(file)) => Ok(file),
            #[cfg(feature = "squashfs")]
            Content::Squashfs(file) => Ok(file),
            #[cfg(feature = "oci")]
            Content::Packed(file) | Content::Doubtful(file) => Ok(file),
            #[cfg(feature = "oci")]
            Content::Layers(store) => store.into_file().map_err(Content::Layers),
            other => Err(other),
        }
    }
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
    /// `stop` is set if it fails, so that no one waits for the stream.
    fn tar(
        self,
        stream: &mut (dyn Read + Send),
        stop: &CancelToken,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
    ) -> Result<Unpacked> {
        match self {
            Target::Root(root) => unpack_stream(stream, &|| stop.cancel(), root, options, hooks),
            Target::Nowhere => scan_stream(stream, &|| stop.cancel(), options, hooks).map(only),
        }
    }

    /// What shapes the content was settled when the base was made, and so was how much it may be: that it is there shows that it may be so
    /// large.
    fn base(self, base: &BaseRoot, options: &UnpackOptions, hooks: &mut dyn Hooks) -> Result<Unpacked> {
        let limits = Limits {
            entries: u64::MAX,
            bytes: ByteSize::from_bytes(u64::MAX),
            file_size: ByteSize::from_bytes(u64::MAX),
            path: usize::MAX,
            header: ByteSize::from_bytes(u64::MAX),
        };
        let devices = DevicePolicy::Create;
        let options = UnpackOptions { strip: None, shift: None, unified: Unified::No, limits, devices, ..options.clone() };
        match self {
            Target::Root(root) => copy_tree(base.root()?, base.record.top, root, &options, hooks),
            Target::Nowhere => base.check(hooks).map(|()| Unpacked::default()),
        }
    }

    #[cfg(feature = "squashfs")]
    fn squashfs(self, file: &File, options: &UnpackOptions, hooks: &mut dyn Hooks, consumed: &Arc<AtomicU64>) -> Result<Unpacked> {
        match self {
            Target::Root(root) => crate::unpack::unpack_squashfs_counted(file, root, options, hooks, consumed),
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
    /// Unpacks the image into the directory `root`, checks it, and returns its digest.
    pub(crate) fn fill(
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
        if self.strip.is_some() {
            options.strip.clone_from(&self.strip);
        }
        options.unified = match self.layout {
            Layout::Detect => Unified::Detect,
            Layout::Lxd => Unified::Yes,
            _ if matches!(self.origin, Origin::Split { .. }) => Unified::Refuse,
            _ => Unified::No,
        };
        let options = &mut options;
        let (unpacked, digest) = match std::mem::replace(&mut self.content, Content::Spent) {
            Content::Nothing => {
                self.content = Content::Nothing;
                return Ok((Unpacked::default(), None));
            }
            Content::Base(base) => {
                let read = target.base(&base, options, hooks)?;
                let digest = base.record.digest;
                self.content = Content::Base(base);
                return Ok((read, digest));
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
                let image = self.select(&store, reading.cancel)?.clone();
                let read = self.read_layers((&store, &image), target, options, hooks, reading, reading.position.clone())?;
                self.content = Content::Layers(store);
                read
            }
            #[cfg(feature = "oci")]
            Content::Doubtful(file) => {
                let store = oci::Store::of_image(file, self.layout)?;
                let image = self.choose(&store, reading.cancel)?;
                self.read_layers((&store, &image), target, options, hooks, reading, reading.position.clone())?
            }
            #[cfg(feature = "oci")]
            Content::Packed(file) => {
                let stream = Stream::new(self.source(Input::File(file), reading)?, self.decoding)?;
                self.read_packed(stream, Vec::new(), target, options, hooks, reading)?
            }
        };
        Ok((unpacked, Some(digest)))
    }

    /// The bytes of `input`, a file's from its start.
    pub(super) fn source(&self, mut input: Input, reading: &Reading<'_>) -> Result<Source> {
        if let Input::File(file) = &mut input {
            file.rewind().map_err(|error| Error::io("read the image", "cannot go to its start", error))?;
        }
        let source = Source::new(input, reading.cancel.clone(), reading.patience);
        Ok(source.counting_in(reading.position.clone()).hashing_after(self.before.clone()))
    }

    fn read_stream(
        &mut self,
        input: Input,
        target: Target<'_>,
        options: &mut UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
    ) -> Result<(Unpacked, Sha256)> {
        // What is in a file was found out when it was opened.
        #[cfg_attr(not(any(feature = "oci", feature = "squashfs")), expect(unused_variables))]
        let is_file = matches!(input, Input::File(_));
        #[cfg_attr(not(feature = "squashfs"), expect(unused_mut))]
        let mut source = self.source(input, reading)?;
        #[cfg(feature = "squashfs")]
        if !is_file && is_squashfs(source.peek(PEEK).map_err(unwrap)?) {
            check_squashfs_layout(self.layout)?;
            crate::unpack::squashfs_length(source.peek(PEEK).map_err(unwrap)?, &options.limits)?;
            let file = target.spool(&mut source, options, hooks)?;
            let (digest, _) = source.finish().map_err(unwrap)?;
            check_expected(self.expected, digest)?;
            return Ok((target.squashfs(&file, options, hooks, &Arc::default())?, digest));
        }
        let stop = source.stop();
        let mut stream = Stream::new(source, self.decoding)?;
        #[cfg_attr(not(feature = "oci"), expect(unused_mut))]
        let mut start: Vec<u8> = Vec::new();
        #[cfg(feature = "oci")]
        if !is_file && matches!(self.layout, Layout::Detect | Layout::Oci) {
            stream.by_ref().take(oci::PEEK as u64).read_to_end(&mut start).map_err(unwrap)?;
            if self.layout == Layout::Oci || oci::begins_like_layers(&start) {
                return self.read_packed(stream, start, target, options, hooks, reading);
            }
        }
        let unpacked = target.tar(&mut (&start[..]).chain(&mut stream), &stop, options, hooks)?;
        let (digest, input) = stream.finish()?;
        if let Input::File(_) = input {
            self.content = Content::Stream(input);
        }
        check_expected(self.expected, digest)?;
        Ok((unpacked, digest))
    }

    /// Keeps a tarball of layers on disk, of which `start` has been read, and then reads it.
    #[cfg(feature = "oci")]
    fn read_packed(
        &self,
        mut stream: Stream,
        start: Vec<u8>,
        target: Target<'_>,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
    ) -> Result<(Unpacked, Sha256)> {
        let file = target.spool(&mut (&start[..]).chain(&mut stream), options, hooks)?;
        stream.finish()?;
        let store = oci::Store::of_image(file, self.layout)?;
        // All that is read of the source has been counted.
        let image = self.choose(&store, reading.cancel)?;
        self.read_layers((&store, &image), target, options, hooks, reading, Position::default())
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
        // What is unpacked is what is told; the other pass runs ahead of it.
        let apart = &Reading { position: Position::default(), ..*reading };
        let open = || -> Result<Source> {
            let own = file.try_clone().map_err(|error| Error::io("read the image", "it cannot be opened again", error))?;
            self.source(Input::Reader(Box::new(Whole::new(own))), apart)
        };
        let digest = |source: Source| source.finish().map(|(digest, _)| digest).map_err(unwrap);
        let source = open()?;
        let stop = source.stop();
        let (unpacked, digest) = std::thread::scope(|scope| {
            let hashing = std::thread::Builder::new().name("reroot-digest".into()).spawn_scoped(scope, move || digest(source));
            let unpacked = target.squashfs(file, options, hooks, reading.position.counter());
            if unpacked.is_err() {
                stop.cancel();
            }
            let digest = match hashing {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => open().and_then(digest),
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
        (store, image): (&oci::Store, &oci::Selected),
        target: Target<'_>,
        options: &UnpackOptions,
        hooks: &mut dyn Hooks,
        reading: &Reading<'_>,
        position: Position,
    ) -> Result<(Unpacked, Sha256)> {
        let options = &UnpackOptions { unified: Unified::No, ..options.clone() };
        let layers = oci::Stack::new(store, image, self.decoding, reading.cancel, position);
        Ok((target.layers(layers, options, hooks)?, image.digest))
    }
}
