//! How a volume that runs full grows.

use crate::error::Error;
use crate::size::ByteSize;

/// Growth goes by a quarter of the size, so that a volume that keeps filling up is grown a few times and not a few thousand; but by no less
/// than this.
const LEAST: ByteSize = ByteSize::mib(64);

/// The size that a volume of this one gets when it is full, `max` at most; `None` if it has that already.
pub(super) fn larger(size: ByteSize, max: ByteSize) -> Option<ByteSize> {
    (size < max).then(|| size.saturating_add(ByteSize::from_bytes(size.bytes() / 4).max(LEAST)).min(max))
}

/// Says of a volume that is full that it has the largest size allowed.
pub(super) fn is_largest(error: Error, size: ByteSize) -> Error {
    error.with_context("size", size).with_remedy("allow a larger size: the volume has the largest one allowed")
}
