//! Space in a pool, and room for a root that is being filled.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::CephVolume;
use crate::error::{Error, ErrorKind, Result, Space};
use crate::progress::{CancelToken, Wait};
use crate::size::ByteSize;
use crate::text::Escaped;
use crate::volume::{Slot, Usage, UsageDetail};

/// How often the cluster is asked while a root is filled: it counts no more often itself.
const OFTEN: Duration = Duration::from_secs(1);
/// How long counting what an image takes may take.
const COUNT_LIMIT: Duration = Duration::from_secs(600);

/// When the pool was looked at last, and what it had left before the root was filled.
#[derive(Debug, Default)]
pub(super) struct Room {
    looked: Option<Instant>,
    before: Option<PoolSpace>,
}

/// What a pool has.
#[derive(Debug, Clone, Copy)]
struct PoolSpace {
    /// What can still be stored, by the disks.
    available: ByteSize,
    stored: ByteSize,
    quota: Option<ByteSize>,
    objects: u64,
    objects_quota: Option<u64>,
}

#[derive(serde::Deserialize)]
struct Df {
    stats: DfTotal,
    pools: Vec<DfPool>,
}

#[derive(serde::Deserialize)]
struct DfTotal {
    total_avail_bytes: u64,
}

#[derive(serde::Deserialize)]
struct DfPool {
    name: String,
    stats: DfStats,
}

#[derive(serde::Deserialize)]
struct DfStats {
    stored: Option<u64>,
    #[serde(default)]
    bytes_used: u64,
    max_avail: u64,
    #[serde(default)]
    objects: u64,
    #[serde(default)]
    quota_bytes: u64,
    #[serde(default)]
    quota_objects: u64,
}

/// What the monitors think of a pool: only they decide when its quota is used up, and count otherwise than they tell.
#[derive(serde::Deserialize)]
struct ListedPool {
    pool_name: String,
    #[serde(default)]
    flags_names: String,
}

impl ListedPool {
    /// Which space the cluster takes no more writes for, if it takes none.
    fn full(&self) -> Option<(Space, String)> {
        let has = |flag: &str| self.flags_names.split(',').any(|name| name == flag);
        // One that is full by its quota has both.
        if has("full_quota") {
            Some((Space::Quota, "the cluster says that the pool's quota is used up".to_owned()))
        } else if has("full") {
            Some((Space::Pool, "the cluster says that the pool is full".to_owned()))
        } else {
            None
        }
    }
}

impl PoolSpace {
    /// What is left for data.
    fn free(&self) -> ByteSize {
        let quota = self.quota.map(|quota| quota.saturating_sub(self.stored));
        quota.map_or(self.available, |left| left.min(self.available))
    }

    /// Which space runs out with so much more, if one does.
    fn full_with(&self, more: ByteSize) -> Option<(Space, String)> {
        // While its manager starts, the cluster counts nothing.
        if self.free() >= more || self.available == ByteSize::ZERO {
            return None;
        }
        let by_quota = self.quota.is_some_and(|quota| quota.saturating_sub(self.stored) <= self.available);
        let (space, of) = if by_quota { (Space::Quota, "its quota") } else { (Space::Pool, "the cluster") };
        Some((space, format!("the pool had {} left by {of}, and {more} were written", self.free())))
    }

    /// Which quota is used up, if one is.
    fn full(&self) -> Option<(Space, String)> {
        match (self.quota, self.objects_quota) {
            (Some(quota), _) if self.stored >= quota => {
                Some((Space::Quota, format!("the pool holds {}, and its quota is {quota}", self.stored)))
            }
            (_, Some(most)) if self.objects >= most => {
                Some((Space::Quota, format!("the pool holds {} objects, and its quota is {most}", self.objects)))
            }
            _ => None,
        }
    }
}

impl CephVolume {
    /// Space in a pool. What the cluster counts is some seconds old.
    fn space(&self, pool: &str, operation: &'static str) -> Result<PoolSpace> {
        let text = self.pool.mon_command(r#"{"prefix":"df","detail":"detail","format":"json"}"#);
        let text = text.map_err(|error| self.failed(error, operation, "cannot ask how much space there is"))?;
        let unread = || self.add_volume(Error::new(ErrorKind::Io, operation, "the cluster's account of its space cannot be read"));
        let df: Df = serde_json::from_slice(&text).map_err(|error| unread().with_source(error))?;
        let Some(stats) = df.pools.into_iter().find(|found| found.name == pool).map(|found| found.stats) else {
            self.check_data_pool(pool, operation)?;
            // It is so new that nothing was counted yet.
            let available = ByteSize::from_bytes(df.stats.total_avail_bytes);
            return Ok(PoolSpace { available, stored: ByteSize::ZERO, quota: None, objects: 0, objects_quota: None });
        };
        let limit = |most: u64| (most > 0).then_some(most);
        let stored = stats.stored.unwrap_or(stats.bytes_used);
        // Nothing of it was counted yet.
        let is_new = (stats.max_avail, stored, stats.objects) == (0, 0, 0);
        Ok(PoolSpace {
            available: ByteSize::from_bytes(if is_new { df.stats.total_avail_bytes } else { stats.max_avail }),
            stored: ByteSize::from_bytes(stored),
            quota: limit(stats.quota_bytes).map(ByteSize::from_bytes),
            objects: stats.objects,
            objects_quota: limit(stats.quota_objects),
        })
    }

    /// The one that the data goes to.
    fn pool_of_data(&self) -> &str {
        let kept = self.captured.as_ref().and_then(|captured| captured.layout.data_pool.as_deref());
        self.data_pool.as_deref().or(kept).unwrap_or_else(|| self.name.pool())
    }

    /// Which space of a pool is used up, if one is.
    fn full(&self, pool: &str, operation: &'static str) -> Result<Option<(Space, String)>> {
        if let Some(full) = self.space(pool, operation)?.full() {
            return Ok(Some(full));
        }
        let text = self.pool.mon_command(r#"{"prefix":"osd pool ls","detail":"detail","format":"json"}"#);
        let text = text.map_err(|error| self.failed(error, operation, "cannot ask whether the pool is full"))?;
        let unread = || self.add_volume(Error::new(ErrorKind::Io, operation, "the cluster's list of its pools cannot be read"));
        let pools: Vec<ListedPool> = serde_json::from_slice(&text).map_err(|error| unread().with_source(error))?;
        Ok(pools.iter().find(|listed| listed.pool_name == pool).and_then(ListedPool::full))
    }

    /// Refuses a pool that is not there.
    fn check_data_pool(&self, pool: &str, operation: &'static str) -> Result<()> {
        let command = serde_json::json!({ "prefix": "osd pool get", "pool": pool, "var": "size", "format": "json" });
        self.pool.mon_command(&command.to_string()).map(drop).map_err(|error| match error.errno {
            Errno::ENOENT => {
                let why = format!("the cluster has no pool {:?}", Escaped(pool.as_bytes()).to_string());
                let error = self.add_volume(Error::new(ErrorKind::NotFound, operation, why));
                error.with_remedy("see which there are: ceph osd pool ls")
            }
            _ => self.failed(error, operation, "cannot ask for the pool"),
        })
    }

    pub(super) fn state_usage(&self, detail: UsageDetail) -> Result<Usage> {
        const OPERATION: &str = "measure the space";
        let mut usage = Usage::new(self.space(self.pool_of_data(), OPERATION)?.free());
        let Some(id) = self.id_of(Slot::Live, OPERATION)? else { return Ok(usage) };
        let image = self.look_at(&id, OPERATION)?;
        let told = |error| self.failed(error, OPERATION, "cannot measure the image");
        usage = usage.with_size(image.size().map_err(told)?);
        if detail == UsageDetail::Full {
            let wait = Wait::new(COUNT_LIMIT, CancelToken::new());
            usage = usage.with_used(image.used(&wait).map_err(told)?);
        }
        Ok(usage)
    }

    /// Refuses to go on where the pool is full: what cannot be written would otherwise show only at the end.
    pub(super) fn check_pool(&mut self, written: ByteSize) -> Result<()> {
        const OPERATION: &str = "fill the staged root";
        // In place there is no root to go back to, and what the old one took is counted for a while: let the pool decide.
        if self.is_without_root() {
            return Ok(());
        }
        let refuse = |volume: &Self, full: Option<(Space, String)>| match full {
            Some((space, why)) => Err(volume.add_volume(Error::new(ErrorKind::NoSpace(space), OPERATION, why))),
            None => Ok(()),
        };
        if self.staging.room.looked.is_none_or(|looked| looked.elapsed() >= OFTEN) {
            let space = self.space(self.pool_of_data(), OPERATION)?;
            self.staging.room.looked = Some(Instant::now());
            self.staging.room.before.get_or_insert(space);
            refuse(self, space.full())?;
        }
        // What the cluster counts comes later than what is written.
        refuse(self, self.staging.room.before.and_then(|before| before.full_with(written)))
    }

    /// Refuses to begin what has to be ended, where the pool that names are kept in is full: a rename takes room too.
    pub(super) fn refuse_full(&self, operation: &'static str) -> Result<()> {
        let Some((space, why)) = self.full(self.name.pool(), operation)? else { return Ok(()) };
        let error = self.add_volume(Error::new(ErrorKind::NoSpace(space), operation, why));
        Err(error.with_remedy("raise the pool's quota, or make room: in a pool that is full nothing can be renamed"))
    }

    /// Whether the old root has made room for the new one.
    pub(super) fn is_without_root(&self) -> bool {
        self.captured.as_ref().is_some_and(|captured| captured.slot != Slot::Live)
    }

    /// Finds out which space it was that ran out.
    pub(super) fn explain_full(&self, error: Error) -> Error {
        let spaces =
            [ErrorKind::NoSpace(Space::Pool), ErrorKind::NoSpace(Space::Inodes), ErrorKind::Io, ErrorKind::PermissionDenied];
        if !spaces.contains(&error.kind()) {
            return error;
        }
        let operation = error.operation();
        let full = match self.full(self.pool_of_data(), operation) {
            // What the device could not do has the same cause.
            Err(silent) if silent.kind() == ErrorKind::TimedOut => return silent.with_source(error),
            full => full.ok().flatten(),
        };
        match full {
            Some((space, why)) => self.add_volume(Error::new(ErrorKind::NoSpace(space), operation, why)).with_source(error),
            // The filesystem is full, and that is as large as the image.
            None if error.kind() == ErrorKind::NoSpace(Space::Pool) => error
                .with_kind(ErrorKind::NoSpace(Space::Quota))
                .with_remedy("ask for a larger size, or allow the volume to grow: its filesystem is full"),
            None if error.kind() == ErrorKind::NoSpace(Space::Inodes) => {
                error.with_remedy("ask for a larger size, allow the volume to grow, or make its filesystem with more inodes")
            }
            None if error.remedy().is_none() => error.with_remedy(
                "see how the cluster is (ceph -s), and look into the kernel's log: what an OSD does not do in time fails here",
            ),
            None => error,
        }
    }
}
