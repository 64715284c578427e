//! zstd, [RFC 8878](https://www.rfc-editor.org/rfc/rfc8878), skippable frames among the others.

use std::io;

use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::{Decode, Fault, Step};

/// The largest window a frame may ask for, as a power of two: 32 MiB, what `zstd -19` and `zstd -20` use at most.
///
/// It bounds the decoder's memory; `zstd -22` and `--long` may ask for 128 MiB, which the whole library must stay below.
const WINDOW_LOG: u32 = 25;

pub(super) struct Zstd(Decoder<'static>);

impl Zstd {
    pub(super) fn new() -> Result<Self, Fault> {
        let start = |error: io::Error| Fault::Start(error.into());
        let mut decoder = Decoder::new().map_err(start)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(start)?;
        Ok(Zstd(decoder))
    }
}

impl Decode for Zstd {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        match self.0.run_on_buffers(input, output) {
            Ok(status) => Ok(Step { taken: status.bytes_read, written: status.bytes_written, ended: status.remaining == 0 }),
            Err(error) if error.to_string().contains("too much memory") => Err(Fault::Memory {
                asks: "a window of more than 32 MiB",
                remedy: "compress the image again with `zstd -19`, without --ultra and --long",
            }),
            Err(error) => Err(Fault::corrupt(error)),
        }
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.0.reinit().map_err(Fault::corrupt)
    }
}
