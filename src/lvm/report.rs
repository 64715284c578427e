//! What LVM reports of a volume group.

use std::path::PathBuf;

use serde::Deserialize;

use crate::size::ByteSize;

/// What is asked for. Of metadata only: nothing here asks a device, which may hang.
pub(super) const FIELDS: &str = "lv_name,lv_uuid,lv_size,lv_tags,segtype,pool_lv,origin,lv_permissions,lv_skip_activation,\
                                 lv_allocation_policy,lv_read_ahead,zero,chunk_size,lv_metadata_size,stripes,stripe_size,vg_extent_size,vg_free";

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) size: ByteSize,
    pub(super) tags: Vec<String>,
    pub(super) layout: Layout,
    /// The thin pool it is in.
    pub(super) pool: Option<String>,
    /// What it was taken of, if it is a snapshot.
    pub(super) origin: Option<String>,
    pub(super) permission: Permission,
    pub(super) activation: Activation,
    /// `contiguous`, `cling`, `normal`, `anywhere`, `inherit`.
    pub(super) allocation: String,
    /// `auto`, or a number of bytes.
    pub(super) read_ahead: String,
    /// Of a pool: whether what it hands out reads as zeros.
    pub(super) zeroes: bool,
    /// Of a pool: what it hands out at once.
    pub(super) chunk: ByteSize,
    /// Of a pool: its metadata's size.
    pub(super) metadata: ByteSize,
    pub(super) stripes: u64,
    pub(super) stripe_size: ByteSize,
}

/// How a logical volume lies in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    Thin,
    ThinPool,
    /// On extents of its own, by one of these segment types.
    Linear,
    Striped,
    /// Any other, by its name.
    Other(String),
}

/// Whether it may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    ReadWrite,
    ReadOnly,
}

/// Whether it is activated with its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    WithGroup,
    Skipped,
}

impl Volume {
    pub(super) fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }

    /// What a tag says behind its prefix.
    pub(super) fn tagged(&self, prefix: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(prefix))
    }

    /// The allocation policy, if it has one of its own.
    pub(super) fn own_allocation(&self) -> Option<&str> {
        Some(self.allocation.as_str()).filter(|policy| !matches!(*policy, "" | "inherit"))
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.permission == Permission::ReadOnly
    }
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Group {
    pub(super) volumes: Vec<Volume>,
    pub(super) extent: ByteSize,
    pub(super) free: ByteSize,
}

impl Group {
    pub(super) fn find(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// What goes with a volume when that is removed: snapshots that are not in its own thin pool. There are those on extents of their own, and those in another
    /// pool, of which it is the external origin (lvmthin(7)).
    pub(super) fn dependents(&self, name: &str) -> Vec<String> {
        let pool = self.find(name).and_then(|volume| volume.pool.as_deref());
        let apart = |volume: &&Volume| volume.origin.as_deref() == Some(name) && (pool.is_none() || volume.pool.as_deref() != pool);
        self.volumes.iter().filter(apart).map(|volume| volume.name.clone()).collect()
    }

    /// Whether a volume is a snapshot of another, or of a snapshot of it, and so on. A writable one is a volume of its own: what was taken of that
    /// is not the other's.
    pub(super) fn descends(&self, volume: &Volume, from: &str) -> bool {
        let origin = |volume: &&Volume| volume.origin.as_deref().and_then(|origin| self.find(origin));
        let mut line = std::iter::successors(Some(volume), origin).take(self.volumes.len());
        line.by_ref().take_while(|volume| volume.is_read_only()).any(|volume| volume.origin.as_deref() == Some(from))
    }
}

#[derive(Deserialize)]
struct Document {
    report: Vec<Report>,
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    lv: Vec<Row>,
    #[serde(default)]
    vg: Vec<GroupRow>,
    #[serde(default)]
    pv: Vec<DiskRow>,
}

/// All values are texts, and empty where there is nothing to say.
#[derive(Deserialize)]
struct Row {
    lv_name: String,
    lv_uuid: String,
    lv_size: String,
    lv_tags: String,
    segtype: String,
    pool_lv: String,
    origin: String,
    lv_permissions: String,
    lv_skip_activation: String,
    lv_allocation_policy: String,
    lv_read_ahead: String,
    zero: String,
    chunk_size: String,
    lv_metadata_size: String,
    stripes: String,
    stripe_size: String,
    #[serde(flatten)]
    group: GroupRow,
}

#[derive(Deserialize)]
struct GroupRow {
    vg_extent_size: String,
    vg_free: String,
}

#[derive(Deserialize)]
struct DiskRow {
    pv_name: String,
}

/// Reads a report of physical volumes: their devices, of those that are there.
pub(super) fn parse_disks(json: &[u8]) -> Result<Vec<PathBuf>, serde_json::Error> {
    let document: Document = serde_json::from_slice(json)?;
    let names = document.report.into_iter().flat_map(|report| report.pv).map(|row| row.pv_name);
    Ok(names.filter(|name| name.starts_with('/')).map(PathBuf::from).collect())
}

/// Reads a report of logical volumes, or one of the group alone.
pub(super) fn parse(json: &[u8]) -> Result<Group, serde_json::Error> {
    let document: Document = serde_json::from_slice(json)?;
    let mut group = Group::default();
    for report in document.report {
        for row in report.vg {
            (group.extent, group.free) = (bytes(&row.vg_extent_size), bytes(&row.vg_free));
        }
        for row in report.lv {
            (group.extent, group.free) = (bytes(&row.group.vg_extent_size), bytes(&row.group.vg_free));
            // One of several segments has a row for each.
            if !group.volumes.iter().any(|volume| volume.uuid == row.lv_uuid) {
                group.volumes.push(volume(row));
            }
        }
    }
    Ok(group)
}

fn volume(row: Row) -> Volume {
    let some = |text: String| if text.is_empty() { None } else { Some(text) };
    Volume {
        name: row.lv_name,
        uuid: row.lv_uuid,
        size: bytes(&row.lv_size),
        tags: row.lv_tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
        layout: match row.segtype.as_str() {
            "thin" => Layout::Thin,
            "thin-pool" => Layout::ThinPool,
            "linear" => Layout::Linear,
            "striped" => Layout::Striped,
            _ => Layout::Other(row.segtype),
        },
        pool: some(row.pool_lv),
        origin: some(row.origin),
        permission: if row.lv_permissions.starts_with("read-only") { Permission::ReadOnly } else { Permission::ReadWrite },
        activation: if row.lv_skip_activation.is_empty() { Activation::WithGroup } else { Activation::Skipped },
        allocation: row.lv_allocation_policy,
        read_ahead: row.lv_read_ahead,
        zeroes: !row.zero.is_empty(),
        chunk: bytes(&row.chunk_size),
        metadata: bytes(&row.lv_metadata_size),
        stripes: row.stripes.parse().unwrap_or(1),
        stripe_size: bytes(&row.stripe_size),
    }
}

fn bytes(text: &str) -> ByteSize {
    ByteSize::from_bytes(text.parse().unwrap_or_default())
}
