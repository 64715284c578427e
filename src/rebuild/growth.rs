//! How large a volume has to be for an image, and how one that runs full grows.

use crate::error::{Error, ErrorKind, Result};
use crate::image::Need;
use crate::size::ByteSize;

/// What a file system takes besides the data that is in it: so much of that.
const OVERHEAD: u64 = 8;

/// The size that a new root begins with: what was asked for, or more if the image is known to need more and the volume may grow. `None`: that of the old
/// root, or the backend's default.
///
/// # Errors
/// [`ErrorKind::TooSmall`] for an image that cannot fit.
pub(super) fn to_begin_with(
    asked: Option<ByteSize>,
    current: Option<ByteSize>,
    max: Option<ByteSize>,
    need: &Need,
) -> Result<Option<ByteSize>> {
    let Some(size) = asked.or(current) else { return Ok(asked) };
    let largest = max.unwrap_or(size).max(size);
    if need.at_least > largest {
        let why = format!("the image needs {} or more, and the volume has {largest}", need.at_least);
        let remedy = if max.is_some() { "allow a larger size" } else { "ask for a larger size, or allow the volume to grow" };
        return Err(Error::new(ErrorKind::TooSmall, "size the volume", why).with_remedy(remedy));
    }
    let expected = need.expected.unwrap_or_default().max(need.at_least);
    let roomy = expected.saturating_add(ByteSize::from_bytes(expected.bytes() / OVERHEAD)).min(largest);
    Ok(if roomy > size { Some(roomy) } else { asked })
}

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
