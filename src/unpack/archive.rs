//! What an unpacking reads: entry after entry, and the data of files in pieces that are shared, not copied.

use std::fmt;
use std::ops::{Deref, Range};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::entry::Entry;
use crate::error::Result;

/// An archive of any format. Errors carry the place in the archive where there is one; the entry is added by the caller.
pub(super) trait Archive {
    /// The next entry, or `None` after the last. What was left of the data of the one before is passed over.
    fn next(&mut self) -> Result<Option<Entry>>;

    /// The next stored bytes of the current entry's file, never empty; of a sparse file, those of its segments one after the other. `None` at
    /// their end, which comes before all that [`Content`](super::entry::Content) says only through an error.
    fn piece(&mut self) -> Result<Option<Piece>>;

    /// The file on disk that holds what the current entry's file is to hold, from which it may be cloned instead.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Bytes of a file, shared between the archive that read them and whoever writes them.
#[derive(Clone)]
pub(super) struct Piece {
    chunk: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Piece {
    /// The bytes of `chunk` in `range`; nothing, if there are none.
    pub(super) fn new(chunk: Arc<Vec<u8>>, range: Range<usize>) -> Self {
        Piece { chunk, range }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.chunk.get(self.range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes)", self.range.len())
    }
}
