//! Zeroing block devices, by the device itself where it can.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::call::retry;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::size::ByteSize;

/// `_IO(0x12, 127)`: see linux/fs.h.
const BLKZEROOUT: libc::c_ulong = 0x127f;
/// Zeroed at once: no call takes longer than it takes to write so much.
const STEP: u64 = 64 << 20;

/// Zeroes what lies between two places of a device; both are multiples of its sectors.
///
/// # Errors
/// [`ErrorKind::TimedOut`] and [`ErrorKind::Cancelled`] by `wait`: some of it is zeroed then.
pub(crate) fn range(node: &Path, from: ByteSize, to: ByteSize, operation: &'static str, wait: &Wait) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(operation, "cannot zero its device", error);
    let device = File::options().write(true).open(node).map_err(failed)?;
    let mut place = from.bytes();
    while place < to.bytes() {
        if !wait.pause(operation, Duration::ZERO)? {
            let why = format!("no more than {} of its device were zeroed in time", ByteSize::from_bytes(place - from.bytes()));
            return Err(Error::new(ErrorKind::TimedOut, operation, why));
        }
        let range = [place, STEP.min(to.bytes() - place)];
        let done = retry(|| {
            // SAFETY: the request reads two numbers, which live through the call.
            let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT as _, range.as_ptr()) };
            Errno::result(result)
        });
        done.map_err(|errno| failed(errno.into()))?;
        place += range[1];
    }
    device.sync_all().map_err(failed)
}
