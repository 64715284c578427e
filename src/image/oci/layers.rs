//! The layers of an image as tar streams, each checked when it has been read.

use std::io::{self, Read};
use std::time::Duration;

use super::document::check_digest;
use super::invalid;
use super::select::{Layer, Selected};
use super::store::Store;
use crate::digest::{Hasher, Sha256};
use crate::error::{Error, Result};
use crate::image::decode::Decoding;
use crate::image::format::{Format, PEEK};
use crate::image::source::{Input, Position, Source};
use crate::image::stream::{Stream, unwrap};
use crate::progress::CancelToken;
use crate::unpack::Layers;

/// The layers of an image, read one after the other.
#[derive(Debug)]
pub(in crate::image) struct Stack<'a> {
    store: &'a Store,
    layers: std::vec::IntoIter<Layer>,
    decoding: Decoding,
    cancel: &'a CancelToken,
    position: Position,
}

impl<'a> Stack<'a> {
    /// Counts what is read of the layers, as they are stored, in `position`.
    pub(in crate::image) fn new(
        store: &'a Store,
        image: &Selected,
        decoding: Decoding,
        cancel: &'a CancelToken,
        position: Position,
    ) -> Self {
        Stack { store, layers: image.layers.clone().into_iter(), decoding, cancel, position }
    }

    fn read(&self, layer: &Layer, read: &mut dyn FnMut(&mut (dyn Read + Send)) -> Result<()>) -> Result<()> {
        let section = self.store.find(&layer.file)?.ok_or_else(|| invalid("a layer is gone"))?;
        let input = Input::Reader(Box::new(section));
        let mut source = Source::new(input, self.cancel.clone(), Duration::MAX).counting_in(self.position.clone());
        let format = Format::detect(source.peek(PEEK).map_err(unwrap)?)?;
        // Where nothing is compressed, the two digests are of the same bytes.
        let hasher = (format != Format::Tar).then(Hasher::new);
        let mut tar = Digested { stream: Stream::new(source, self.decoding)?, hasher };
        read(&mut tar)?;
        let (digest, diff_id) = tar.finish()?;
        if let Some(expected) = layer.digest {
            check_digest(digest, expected, "a layer")?;
        }
        check_digest(diff_id.unwrap_or(digest), layer.diff_id, "a layer's content")
    }
}

impl Layers for Stack<'_> {
    fn next(&mut self, read: &mut dyn FnMut(&mut (dyn Read + Send)) -> Result<()>) -> Result<bool> {
        let Some(layer) = self.layers.next() else { return Ok(false) };
        let name = layer.digest.unwrap_or(layer.diff_id);
        self.read(&layer, read).map_err(|error: Error| error.with_context("layer", name))?;
        Ok(true)
    }
}

/// A tar stream, digested as it is read.
struct Digested {
    stream: Stream,
    hasher: Option<Hasher>,
}

impl Digested {
    /// Reads the rest; the digests of what is stored and of what came out of it, if that is another.
    fn finish(mut self) -> Result<(Sha256, Option<Sha256>)> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest).map_err(unwrap)? != 0 {}
        let (digest, _) = self.stream.finish()?;
        Ok((digest, self.hasher.map(Hasher::finish)))
    }
}

impl Read for Digested {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        if let (Some(hasher), Some(bytes)) = (&mut self.hasher, buffer.get(..length)) {
            hasher.update(bytes);
        }
        Ok(length)
    }
}
