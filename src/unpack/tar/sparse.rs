//! Maps of sparse files, checked before anyone writes by them.

use super::super::entry::{Content, Segment};
use crate::error::{Error, ErrorKind, Result};

/// The content of a file of `size` bytes whose data lies where `map` says (offsets and lengths), `stored` bytes of it in all.
///
/// # Errors
/// [`ErrorKind::InvalidImage`] if pieces are out of order, overlap, lie beyond the size, or do not add up to what is stored.
pub(super) fn content(size: u64, map: impl IntoIterator<Item = (u64, u64)>, stored: u64) -> Result<Content> {
    let invalid = |message: &str| Error::new(ErrorKind::InvalidImage, "unpack", format!("a sparse map is malformed: {message}"));
    let mut segments = Vec::new();
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in map {
        if offset < end {
            return Err(invalid("its pieces overlap or are out of order"));
        }
        end =
            offset.checked_add(length).filter(|&end| end <= size).ok_or_else(|| invalid("a piece lies beyond the file's size"))?;
        // GNU tar ends a map with an empty piece at the file's end.
        if length > 0 {
            sum += length;
            segments.push(Segment { offset, length });
        }
    }
    if sum != stored {
        return Err(invalid("its pieces do not add up to what is stored"));
    }
    Ok(Content { size, data: Some(segments) })
}

/// Pairs of a list of offsets and lengths by turns.
///
/// # Errors
/// [`ErrorKind::InvalidImage`] if one is left over.
pub(super) fn pairs(numbers: &[u64]) -> Result<impl Iterator<Item = (u64, u64)>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::new(ErrorKind::InvalidImage, "unpack", "a sparse map is malformed: an offset has no length"));
    }
    Ok(pairs.iter().map(|[offset, length]| (*offset, *length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_ordered_and_complete() {
        let ok = content(100, [(10, 5), (20, 10), (100, 0)], 15).unwrap();
        assert_eq!(ok.data.unwrap(), [Segment { offset: 10, length: 5 }, Segment { offset: 20, length: 10 }]);
        assert_eq!(content(100, [], 0).unwrap().data.unwrap(), []);
        for (map, stored) in [
            (vec![(20, 10), (10, 5)], 15),
            (vec![(10, 5), (14, 5)], 10),
            (vec![(95, 6)], 6),
            (vec![(u64::MAX, 2)], 2),
            (vec![(0, 10)], 9),
            (vec![(0, 10)], 11),
            (vec![(101, 0)], 0),
        ] {
            assert_eq!(content(100, map.clone(), stored).unwrap_err().kind(), ErrorKind::InvalidImage, "{map:?}");
        }
        assert!(pairs(&[1, 2, 3]).is_err());
    }
}
