//! xz and its older kin lzma, by liblzma.

use std::thread;

use liblzma::stream::{Action, Error, MtStreamBuilder, Status, Stream};

use super::{Decode, Decoding, Fault, Padding, Step};

/// How much memory the decoder may take, in bytes, for all threads together. Dictionaries come in powers of two and halfway between them,
/// so that a single one has at most 96 MiB.
const MEMORY: u64 = 128 << 20;

/// No image has gained from more threads, and each costs memory.
const THREADS: usize = 16;

/// xz: members are its streams. liblzma could read on from one to the next by itself, but its binding cannot ask the parallel decoder to.
pub(super) struct Xz {
    decoding: Decoding,
    stream: Stream,
}

impl Xz {
    pub(super) fn new(decoding: Decoding) -> Result<Self, Fault> {
        let stream = match decoding {
            Decoding::Serial => Stream::new_stream_decoder(MEMORY, 0),
            Decoding::Parallel => {
                let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
                MtStreamBuilder::new().threads(threads as u32).memlimit_threading(MEMORY).memlimit_stop(MEMORY).decoder()
            }
        };
        Ok(Xz { decoding, stream: stream.map_err(start)? })
    }
}

impl Decode for Xz {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        step(&mut self.stream, input, output)
    }

    fn restart(&mut self) -> Result<(), Fault> {
        *self = Xz::new(self.decoding)?;
        Ok(())
    }

    fn padding(&self) -> Padding {
        Padding::Quads
    }
}

/// lzma, the format of `lzma(1)`: one stream without a checksum.
pub(super) struct Lzma(Stream);

impl Lzma {
    pub(super) fn new() -> Result<Self, Fault> {
        Ok(Lzma(Stream::new_lzma_decoder(MEMORY).map_err(start)?))
    }
}

impl Decode for Lzma {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        step(&mut self.0, input, output)
    }

    fn restart(&mut self) -> Result<(), Fault> {
        Err(Fault::corrupt("something follows the end of the lzma stream"))
    }
}

fn step(stream: &mut Stream, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
    let (taken, written) = (stream.total_in(), stream.total_out());
    let action = if input.is_empty() { Action::Finish } else { Action::Run };
    let status = stream.process(input, output, action).map_err(|error| match error {
        Error::MemLimit => Fault::Memory {
            asks: "a dictionary of more than 96 MiB",
            remedy: "compress the image again with `xz -9` or less, without a dictionary size of its own",
        },
        Error::Options => {
            Fault::Unsupported { uses: "filters or options that are unknown", remedy: "compress the image again with `xz -6`" }
        }
        Error::Mem => Fault::Start(error.into()),
        error => Fault::corrupt(error),
    })?;
    Ok(Step {
        taken: (stream.total_in() - taken) as usize,
        written: (stream.total_out() - written) as usize,
        ended: status == Status::StreamEnd,
    })
}

fn start(error: Error) -> Fault {
    Fault::Start(error.into())
}
