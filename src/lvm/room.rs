//! Room in a thin pool, watched while a root is filled.
//!
//! A pool that is full lets its writers wait for a minute, or fails them, and all its volumes share it. So a rebuild stops before.

use std::io;

use super::LvmVolume;
use super::name::{device, pool_device};
use crate::error::{Error, ErrorKind, Result, Space};
use crate::size::ByteSize;
use crate::sys::dm::{self, Mode, Pool};
use crate::volume::Usage;

/// What is left to others of the data space: a hundredth of it, and no more than this.
const LEFT: u64 = 64 << 20;
/// What is left of the metadata, for what the pool itself writes at every commit.
const METADATA_LEFT: u64 = 64 << 10;

/// A staged root and its pool.
#[derive(Debug)]
pub(super) struct Room {
    pool: String,
    staged: String,
    /// What was mapped before it was filled.
    before: u64,
    /// What was written to it so far.
    written: ByteSize,
}

/// A pool that has too little, and of what.
struct Short {
    space: Space,
    why: String,
}

impl Room {
    fn mapped(&self) -> io::Result<u64> {
        Ok(dm::mapped(&self.staged)?.unwrap_or_default())
    }

    /// Whether what was written and may still be on its way finds room; `None` if it does.
    fn short(&self) -> io::Result<Option<Short>> {
        let Some(pool) = dm::pool(&self.pool)? else { return Ok(None) };
        if let Some(short) = spoilt(&pool) {
            return Ok(Some(short));
        }
        let arrived = self.mapped()?.saturating_sub(self.before);
        let coming = self.written.bytes().saturating_sub(arrived);
        let (data, metadata) = (ByteSize::from_bytes(pool.data_free), ByteSize::from_bytes(pool.metadata_free));
        if pool.data_free < coming.saturating_add(LEFT.min(pool.data_total / 100)) {
            let why = format!("{data} are left in the thin pool, of {}", ByteSize::from_bytes(pool.data_total));
            return Ok(Some(Short { space: Space::ThinData, why }));
        }
        let needed = Usage::default().with_chunk(ByteSize::from_bytes(pool.chunk)).metadata_for(ByteSize::from_bytes(coming));
        if pool.metadata_free < needed.map_or(0, ByteSize::bytes).saturating_add(METADATA_LEFT) {
            let why = format!("{metadata} are left of the thin pool's metadata, of {}", ByteSize::from_bytes(pool.metadata_total));
            return Ok(Some(Short { space: Space::ThinMetadata, why }));
        }
        Ok(None)
    }
}

/// What keeps a pool from taking more.
fn spoilt(pool: &Pool) -> Option<Short> {
    let (space, why) = match pool.mode {
        Mode::Writable => return None,
        Mode::OutOfData => (Space::ThinData, "the thin pool is full"),
        Mode::ReadOnly => (Space::ThinMetadata, "the thin pool is read-only: its metadata is full, or has to be repaired"),
        Mode::Failed => (Space::ThinMetadata, "the thin pool has failed, and its metadata has to be repaired"),
    };
    Some(Short { space, why: why.to_owned() })
}

impl LvmVolume {
    fn short(&self, short: Short, operation: &'static str) -> Error {
        let error = self.add_volume(Error::new(ErrorKind::NoSpace(short.space), operation, short.why));
        match &self.staging.room {
            Some(room) => error.with_context("device", &room.pool),
            None => error,
        }
    }

    /// Which of the pool's two spaces is the fuller one.
    pub(super) fn fuller(&self, operation: &'static str) -> Space {
        let pool = self.pool_now(operation);
        let used = |free: u64, total: u64| 1.0 - free as f64 / total.max(1) as f64;
        let is_metadata =
            pool.is_some_and(|pool| used(pool.metadata_free, pool.metadata_total) > used(pool.data_free, pool.data_total));
        if is_metadata { Space::ThinMetadata } else { Space::ThinData }
    }

    fn pool_now(&self, operation: &'static str) -> Option<Pool> {
        let pool = self.look(operation).and_then(|group| self.pool_of(&group, operation)).ok()?;
        dm::pool(&pool_device(self.name.group(), &pool)).ok()?
    }

    /// Whether the pool has metadata left: one that writes no more, and has, could not write it.
    pub(super) fn has_metadata(&self, operation: &'static str) -> bool {
        self.pool_now(operation).is_some_and(|pool| pool.metadata_free > METADATA_LEFT)
    }

    /// Begins to look at the pool of a staged root.
    pub(super) fn look_at_pool(&mut self, pool: &str, staged: &str, operation: &'static str) -> Result<()> {
        let group = self.name.group();
        let mut room = Room { pool: pool_device(group, pool), staged: device(group, staged), before: 0, written: ByteSize::ZERO };
        room.before = self.ask(|| room.mapped(), operation)?;
        self.staging.room = Some(room);
        Ok(())
    }

    /// Refuses to go on where the pool has too little room for so much.
    pub(super) fn check_pool(&mut self, written: ByteSize) -> Result<()> {
        if let Some(room) = &mut self.staging.room {
            room.written = written;
        }
        self.check_arrival("fill the staged root")
    }

    /// Refuses to go on where what was written may not find room.
    pub(super) fn check_arrival(&self, operation: &'static str) -> Result<()> {
        let Some(room) = &self.staging.room else { return Ok(()) };
        match self.ask(|| room.short(), operation)? {
            Some(short) => Err(self.short(short, operation)),
            None => Ok(()),
        }
    }

    /// Finds out which space it was that ran out.
    pub(super) fn explain_full(&self, error: Error) -> Error {
        let spaces =
            [ErrorKind::NoSpace(Space::Pool), ErrorKind::NoSpace(Space::Inodes), ErrorKind::Io, ErrorKind::PermissionDenied];
        if !spaces.contains(&error.kind()) {
            return error;
        }
        let spoilt = self.staging.room.as_ref().and_then(|room| spoilt(&dm::pool(&room.pool).ok()??));
        match spoilt {
            Some(short) => {
                let operation = error.operation();
                self.short(short, operation).with_source(error)
            }
            // The filesystem is full, and that is as large as the volume.
            None if error.kind() == ErrorKind::NoSpace(Space::Pool) => error
                .with_kind(ErrorKind::NoSpace(Space::Quota))
                .with_remedy("ask for a larger size, or allow the volume to grow: its filesystem is full"),
            None if error.kind() == ErrorKind::NoSpace(Space::Inodes) => {
                error.with_remedy("ask for a larger size, allow the volume to grow, or make its filesystem with more inodes")
            }
            None => error,
        }
    }
}
