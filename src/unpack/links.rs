//! What has to be remembered of files that have several names, and no longer than that.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::sys::call::FileId;

/// How much memory is for it. Some 300,000 files at a time, of which some names were seen and others not.
const MAX: usize = 32 << 20;
/// What a file takes besides what is noted of it: its place in the map, which is not full, and what the allocator adds.
const OVERHEAD: usize = 64;

/// A note of a file.
pub(super) trait Note {
    /// How much memory goes with it, in bytes.
    fn cost(&self) -> usize;
}

/// The files of which not all names were seen yet.
#[derive(Debug)]
pub(super) struct Links<T> {
    files: BTreeMap<(u64, u64), (T, u32)>,
    /// What the notes take.
    held: usize,
    max: usize,
}

impl<T: Note> Links<T> {
    pub(super) fn new() -> Self {
        Links { files: BTreeMap::new(), held: 0, max: MAX }
    }

    /// What was noted of the file at its first name; `None` if this is it. With the last name the note goes.
    pub(super) fn seen<R>(&mut self, file: FileId, read: impl FnOnce(&T) -> R) -> Option<R> {
        let key = (file.dev, file.ino);
        let (note, left) = self.files.get_mut(&key)?;
        let value = read(note);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.held = self.held.saturating_sub(OVERHEAD + note.cost());
            self.files.remove(&key);
        }
        Some(value)
    }

    /// Notes this of a file that has so many names.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] if that would be more than there is memory for.
    pub(super) fn note(&mut self, operation: &'static str, file: FileId, names: u64, note: T) -> Result<()> {
        let Some(left) = names.checked_sub(1).filter(|left| *left > 0) else { return Ok(()) };
        self.held = self.held.saturating_add(OVERHEAD + note.cost());
        if self.held > self.max {
            let message = format!("{} files have names that are far apart", self.files.len());
            return Err(Error::new(ErrorKind::LimitExceeded, operation, message)
                .with_context("limit", ByteSize::from_bytes(self.max as u64))
                .with_remedy("rebuild from the image without a base"));
        }
        self.files.insert((file.dev, file.ino), (note, u32::try_from(left).unwrap_or(u32::MAX)));
        Ok(())
    }
}

/// Where a file was first found.
#[derive(Debug)]
pub(super) struct FirstName {
    /// The path of its directory, which it shares with all that were found there.
    pub(super) directory: Arc<Vec<u8>>,
    pub(super) name: Box<[u8]>,
}

impl Note for FirstName {
    fn cost(&self) -> usize {
        // The smallest piece that the allocator gives out.
        let own = size_of::<Self>() + self.name.len().max(32);
        // Whoever comes first to a directory brings its path, and whoever goes last takes it along.
        if Arc::strong_count(&self.directory) == 1 { own + self.directory.len() + 64 } else { own }
    }
}

impl Note for crate::digest::Sha256 {
    fn cost(&self) -> usize {
        size_of::<Self>()
    }
}

/// The path of a directory, kept as long as a note holds it.
#[derive(Debug, Default)]
pub(super) struct SharedPath(Weak<Vec<u8>>);

impl SharedPath {
    pub(super) fn get(&mut self, path: &[u8]) -> Arc<Vec<u8>> {
        if let Some(known) = self.0.upgrade().filter(|known| known.as_slice() == path) {
            return known;
        }
        let new = Arc::new(path.to_vec());
        self.0 = Arc::downgrade(&new);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(shared: &mut SharedPath, directory: &[u8]) -> FirstName {
        FirstName { directory: shared.get(directory), name: b"name".to_vec().into() }
    }

    #[test]
    fn a_note_goes_with_the_last_name() {
        let (mut links, mut shared) = (Links::new(), SharedPath::default());
        let file = |ino| FileId { dev: 1, ino };
        for ino in 0..3 {
            assert!(links.seen(file(ino), |_| ()).is_none());
            links.note("test", file(ino), 3, first(&mut shared, b"a/b")).unwrap();
        }
        links.note("test", file(9), 1, first(&mut shared, b"c")).unwrap();
        for _ in 0..2 {
            for ino in 0..3 {
                assert_eq!(links.seen(file(ino), |first| first.directory.to_vec()), Some(b"a/b".to_vec()));
            }
        }
        assert!(links.files.is_empty() && links.held == 0, "{links:?}");
        assert!(links.seen(file(0), |_| ()).is_none());
    }

    #[test]
    fn there_is_an_end_to_it() {
        let (mut links, mut shared) = (Links::new(), SharedPath::default());
        links.max = 10_000;
        let mut full = None;
        for ino in 0..100 {
            let directory = ino.to_string().repeat(100);
            match links.note("test", FileId { dev: 1, ino }, 2, first(&mut shared, directory.as_bytes())) {
                Ok(()) => assert!(links.held <= links.max),
                Err(error) => full = full.or(Some((ino, error))),
            }
        }
        let (noted, error) = full.unwrap();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!((20..60).contains(&noted) && error.remedy().unwrap().contains("without a base"), "{noted}: {}", error.report());
    }
}
