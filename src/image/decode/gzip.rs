//! gzip, [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952).

use flate2::{Decompress, FlushDecompress, Status};

use super::{Decode, Fault, Step};

/// The largest window there is, as a power of two.
const WINDOW_BITS: u8 = 15;

pub(super) struct Gzip(Decompress);

impl Gzip {
    pub(super) fn new() -> Self {
        // zlib reads the header and checks the sum and the length by itself, while the bytes are still in the cache.
        Gzip(Decompress::new_gzip(WINDOW_BITS))
    }
}

impl Decode for Gzip {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        let (taken, written) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output, FlushDecompress::None).map_err(Fault::corrupt)?;
        Ok(Step {
            taken: (self.0.total_in() - taken) as usize,
            written: (self.0.total_out() - written) as usize,
            ended: status == Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.0.reset(true);
        Ok(())
    }
}
