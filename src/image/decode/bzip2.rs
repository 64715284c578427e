//! bzip2. Its blocks are small and its transform slow by nature: expect some 30 MiB/s.

use bzip2::{Decompress, Status};

use super::{Decode, Fault, Step};

pub(super) struct Bzip2(Decompress);

impl Bzip2 {
    pub(super) fn new() -> Self {
        Bzip2(Decompress::new(false))
    }
}

impl Decode for Bzip2 {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Fault> {
        let (taken, written) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output).map_err(Fault::corrupt)?;
        Ok(Step {
            taken: (self.0.total_in() - taken) as usize,
            written: (self.0.total_out() - written) as usize,
            ended: status == Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.0 = Decompress::new(false);
        Ok(())
    }
}
