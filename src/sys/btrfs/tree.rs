//! The file system's own trees, read by search: which subvolumes there are, and which are gone but not yet given back. All privileged.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use super::subvolume::{Access, ROOT_RDONLY};
use super::{Ioctl, MAGIC, Refused, Uuid, le_u16, le_u32, le_u64, zeroed};

const ROOT_TREE: u64 = 1;
/// The folder in the tree of roots whose entry `default` is what a mount shows that names no subvolume.
const ROOT_TREE_DIR: u64 = 6;
const FIRST_ID: u64 = 256;
const LAST_ID: u64 = -256i64 as u64;
const ORPHAN_ID: u64 = -5i64 as u64;

const ORPHAN_ITEM: u8 = 48;
const DIR_ITEM: u8 = 84;
const ROOT_ITEM: u8 = 132;
const ROOT_BACKREF: u8 = 144;

/// What one call may return.
const BUFFER: usize = 1 << 16;

/// `struct btrfs_ioctl_search_key`.
#[repr(C)]
pub(super) struct SearchKey {
    tree: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    count: u32,
    unused: [u32; 9],
}

/// `struct btrfs_ioctl_search_args_v2` without its last member, the buffer.
#[repr(C)]
pub(super) struct SearchHead {
    key: SearchKey,
    size: u64,
}

#[repr(C)]
struct SearchArgs {
    head: SearchHead,
    buffer: [u8; BUFFER],
}

/// The size of `struct btrfs_ioctl_search_header`, and where its members are.
const HEADER: usize = 32;
const HEADER_OBJECTID: usize = 8;
const HEADER_OFFSET: usize = 16;
const HEADER_TYPE: usize = 24;
const HEADER_LENGTH: usize = 28;

pub(super) const SEARCH: Ioctl = Ioctl {
    request: nix::request_code_readwrite!(MAGIC, 17, size_of::<SearchHead>()),
    name: "BTRFS_IOC_TREE_SEARCH_V2",
    since: "3.16",
};

/// The key of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) objectid: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    pub(super) const fn new(objectid: u64, kind: u8, offset: u64) -> Self {
        Key { objectid, kind, offset }
    }

    fn next(self) -> Option<Self> {
        let Key { objectid, kind, offset } = self;
        if let Some(offset) = offset.checked_add(1) {
            return Some(Key { objectid, kind, offset });
        }
        match kind.checked_add(1) {
            Some(kind) => Some(Key { objectid, kind, offset: 0 }),
            None => Some(Key { objectid: objectid.checked_add(1)?, kind: 0, offset: 0 }),
        }
    }
}

/// Shows `visit` all items of a tree from one key to another, both included, in their order, until it breaks. `ENOENT` if there is no such
/// tree.
pub(super) fn search(
    fd: BorrowedFd<'_>,
    tree: u64,
    from: Key,
    to: Key,
    visit: &mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
) -> Result<(), Refused> {
    let mut args = Box::new(zeroed!(SearchArgs));
    let mut next = Some(from);
    while let Some(from) = next.filter(|from| *from <= to) {
        args.head.key = SearchKey {
            tree,
            min_objectid: from.objectid,
            max_objectid: to.objectid,
            min_offset: from.offset,
            max_offset: to.offset,
            min_transid: 0,
            max_transid: u64::MAX,
            min_type: from.kind.into(),
            max_type: to.kind.into(),
            count: u32::MAX,
            unused: [0; 9],
        };
        args.head.size = BUFFER as u64;
        // SAFETY: the request wants a `SearchHead` and after it a buffer as large as that says.
        unsafe { SEARCH.call(fd, &raw mut *args)? };
        let count = args.head.key.count;
        let mut rest: &[u8] = &args.buffer;
        next = None;
        for _ in 0..count {
            let Some((key, item)) = take_item(&mut rest) else { break };
            next = key.next();
            if visit(key, item).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn take_item<'a>(rest: &mut &'a [u8]) -> Option<(Key, &'a [u8])> {
    // The header is in the processor's own order, unlike the items.
    let number = |at: usize| Some(u64::from_ne_bytes(*rest.get(at..)?.first_chunk()?));
    let half = |at: usize| Some(u32::from_ne_bytes(*rest.get(at..)?.first_chunk()?));
    let key = Key::new(number(HEADER_OBJECTID)?, half(HEADER_TYPE)? as u8, number(HEADER_OFFSET)?);
    let (item, after) = rest.get(HEADER..)?.split_at_checked(half(HEADER_LENGTH)? as usize)?;
    *rest = after;
    Some((key, item))
}

/// A subvolume of the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subvolume {
    pub(crate) id: u64,
    pub(crate) uuid: Uuid,
    pub(crate) parent_uuid: Uuid,
    pub(crate) access: Access,
    /// Where it lies; `None` if it is destroyed or is the top of the file system.
    pub(crate) place: Option<Place>,
}

/// A name in a directory of a subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The outer subvolume.
    pub(crate) tree: u64,
    /// The inode number of the directory.
    pub(crate) dir: u64,
    pub(crate) name: OsString,
}

/// All subvolumes but the top of the file system and those that are destroyed, by id.
pub(crate) fn subvolumes(fd: BorrowedFd<'_>) -> Result<Vec<Subvolume>, Refused> {
    let mut found: Vec<Subvolume> = Vec::new();
    let (from, to) = (Key::new(FIRST_ID, ROOT_ITEM, 0), Key::new(LAST_ID, ROOT_BACKREF, u64::MAX));
    search(fd, ROOT_TREE, from, to, &mut |key, item| {
        match key.kind {
            ROOT_ITEM => found.extend(root_item(key.objectid, item)),
            ROOT_BACKREF => {
                if let Some(last) = found.last_mut().filter(|last| last.id == key.objectid) {
                    last.place = root_ref(key.offset, item);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    found.retain(|subvolume| subvolume.place.is_some());
    Ok(found)
}

/// Reads a `struct btrfs_root_item`.
fn root_item(id: u64, item: &[u8]) -> Option<Subvolume> {
    const GENERATION: usize = 160;
    const FLAGS: usize = 208;
    const REFS: usize = 216;
    const GENERATION_V2: usize = 239;
    const UUID: usize = 247;
    const PARENT_UUID: usize = 263;
    let uuid = |at: usize| {
        // A kernel that does not know these members leaves the second generation behind.
        let valid = le_u64(item, GENERATION)? == le_u64(item, GENERATION_V2)?;
        valid.then_some(Uuid(*item.get(at..)?.first_chunk()?))
    };
    if le_u32(item, REFS)? == 0 {
        return None;
    }
    Some(Subvolume {
        id,
        uuid: uuid(UUID).unwrap_or_default(),
        parent_uuid: uuid(PARENT_UUID).unwrap_or_default(),
        access: if le_u64(item, FLAGS)? & ROOT_RDONLY != 0 { Access::ReadOnly } else { Access::ReadWrite },
        place: None,
    })
}

/// Reads a `struct btrfs_root_ref` and the name after it.
fn root_ref(tree: u64, item: &[u8]) -> Option<Place> {
    const NAME_LENGTH: usize = 16;
    const NAME: usize = 18;
    let length = usize::from(le_u16(item, NAME_LENGTH)?);
    let name = OsStr::from_bytes(item.get(NAME..)?.get(..length)?).to_owned();
    Some(Place { tree, dir: le_u64(item, 0)?, name })
}

/// The ids of the subvolumes that are destroyed and that the cleaner has not yet given back.
pub(crate) fn reclaiming(fd: BorrowedFd<'_>) -> Result<Vec<u64>, Refused> {
    let mut found = Vec::new();
    let (from, to) = (Key::new(ORPHAN_ID, ORPHAN_ITEM, FIRST_ID), Key::new(ORPHAN_ID, ORPHAN_ITEM, LAST_ID));
    search(fd, ROOT_TREE, from, to, &mut |key, _| {
        found.push(key.offset);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The id of the subvolume that a mount shows that names none: usually the top, 5.
pub(crate) fn default_subvolume(fd: BorrowedFd<'_>) -> Result<Option<u64>, Refused> {
    const NAME_LENGTH: usize = 27;
    const NAME: usize = 30;
    let mut found = None;
    let (from, to) = (Key::new(ROOT_TREE_DIR, DIR_ITEM, 0), Key::new(ROOT_TREE_DIR, DIR_ITEM, u64::MAX));
    search(fd, ROOT_TREE, from, to, &mut |_, item| {
        let length = le_u16(item, NAME_LENGTH).map(usize::from);
        let name = length.and_then(|length| item.get(NAME..)?.get(..length));
        if name != Some(b"default") {
            return ControlFlow::Continue(());
        }
        found = le_u64(item, 0);
        ControlFlow::Break(())
    })?;
    Ok(found)
}
