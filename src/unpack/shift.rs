//! From the ids that an image has to those that a container's user namespace gives them on the host.

use std::fmt;
use std::str::FromStr;

use super::acl::{GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, VERSION};
use super::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::text::Escaped;

/// As many ids in a row, first inside the container and then on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct IdRange {
    /// The first id inside the container.
    pub container: u32,
    /// The first id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.container, self.host, self.count)
    }
}

/// Which id on the host an id inside a container is: what
/// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html) calls a map.
///
/// `"0 100000 65536".parse::<IdMap>()` reads what `/proc/PID/uid_map` holds: a range a line, first id inside, first id on the host, count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct IdMap {
    /// By their first ids inside the container.
    ranges: Vec<IdRange>,
}

impl IdMap {
    /// A map of these ranges, in any order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if there are none, if one is empty or goes beyond the last id, 4,294,967,294, or if two overlap, inside the container
    /// or on the host.
    pub fn new(ranges: impl IntoIterator<Item = IdRange>) -> Result<Self> {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        if ranges.is_empty() {
            return Err(invalid("it has no ranges".into()));
        }
        for range in &ranges {
            // The last number of all means "no id" to the kernel, so that first + count may reach it and not pass it.
            if range.count == 0 {
                return Err(invalid(format!("the range \"{range}\" is empty")));
            }
            if range.container.checked_add(range.count).is_none() || range.host.checked_add(range.count).is_none() {
                return Err(invalid(format!("the range \"{range}\" goes beyond the last id")));
            }
        }
        for (first, place) in [(IdRange::host as fn(&IdRange) -> u32, "on the host"), (IdRange::container, "in the container")] {
            ranges.sort_unstable_by_key(first);
            let overlap = ranges.windows(2).find(|pair| first(&pair[1]) - first(&pair[0]) < pair[0].count);
            if let Some([a, b]) = overlap {
                return Err(invalid(format!("the ranges \"{a}\" and \"{b}\" overlap {place}")));
            }
        }
        Ok(IdMap { ranges })
    }

    /// The map that [subuid(5)](https://man7.org/linux/man-pages/man5/subuid.5.html) or subgid(5) gives a user: `text` is the content of the
    /// file, `name` the user's name, and `id` its number, by which the file may also list the user. Ids inside the container count from 0 through
    /// the user's ranges, in the order of the file. Lines of others are not looked at.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the file gives the user nothing; [`ErrorKind::InvalidInput`] for a malformed line of the user, and as
    /// [`IdMap::new`].
    pub fn from_subids(text: &str, name: &str, id: Option<u32>) -> Result<Self> {
        let id = id.map(|id| id.to_string());
        let mut ranges = Vec::new();
        let mut container = 0u32;
        for (number, line) in text.lines().enumerate() {
            let mut fields = line.trim().split(':');
            let owner = fields.next().unwrap_or_default();
            if owner.is_empty() || owner != name && Some(owner) != id.as_deref() {
                continue;
            }
            let bad = || invalid(format!("line {} is malformed: {}", number + 1, Escaped(line.as_bytes())));
            let [host, count] = numbers(fields).ok_or_else(bad)?;
            ranges.push(IdRange { container, host, count });
            container = container.checked_add(count).ok_or_else(bad)?;
        }
        if ranges.is_empty() {
            let message = format!("{} has no ranges of subordinate ids", Escaped(name.as_bytes()));
            return Err(Error::new(ErrorKind::NotFound, "read an id map", message)
                .with_remedy("give it some: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER"));
        }
        IdMap::new(ranges)
    }

    /// The ranges, by their first ids inside the container.
    pub fn ranges(&self) -> &[IdRange] {
        &self.ranges
    }

    /// The id on the host of an id inside the container; `None` if it is outside the map.
    pub fn to_host(&self, container: u32) -> Option<u32> {
        let after = self.ranges.partition_point(|range| range.container <= container);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        let offset = container - range.container;
        (offset < range.count).then(|| range.host + offset)
    }

    /// The id inside the container of an id on the host; `None` if it is outside the map.
    pub fn to_container(&self, host: u32) -> Option<u32> {
        let range = self.ranges.iter().find(|range| range.host <= host && host - range.host < range.count)?;
        Some(range.container + (host - range.host))
    }
}

impl IdRange {
    fn container(&self) -> u32 {
        self.container
    }

    fn host(&self) -> u32 {
        self.host
    }
}

impl FromStr for IdMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut ranges = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let bad = || invalid(format!("line {} is malformed: {}", number + 1, Escaped(line.as_bytes())));
            let [container, host, count] = numbers(line.split_ascii_whitespace()).ok_or_else(bad)?;
            ranges.push(IdRange { container, host, count });
        }
        IdMap::new(ranges)
    }
}

/// As `/proc/PID/uid_map` has it, with commas for ends of lines; of long maps the beginning.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (at, range) in self.ranges.iter().take(SHOWN).enumerate() {
            write!(f, "{}{range}", if at == 0 { "" } else { ", " })?;
        }
        if self.ranges.len() > SHOWN { write!(f, ", and {} more", self.ranges.len() - SHOWN) } else { Ok(()) }
    }
}

/// What happens to an id that the map does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Outside {
    /// The first one is an error of the kind [`ErrorKind::Lossy`].
    #[default]
    Refuse,
    /// It becomes one of these, which are ids on the host. Choose such as own nothing: a program that is setuid to a squashed owner runs as
    /// this one.
    Squash {
        /// In place of a user.
        uid: u32,
        /// In place of a group.
        gid: u32,
    },
}

/// Shifts what an image says of owners: those of the entries, the users and groups that ACLs name, and the namespace that file
/// capabilities are for.
///
/// A capability of the image becomes one of the container: version 3 of `security.capability`, with the host's id of the container's root
/// ([capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)). Directories that the archive implies and has no entry for belong to the
/// container's root, [`IdShift::root`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdShift {
    /// The users.
    pub uids: IdMap,
    /// The groups.
    pub gids: IdMap,
    /// What happens to an id that they do not have.
    pub outside: Outside,
}

impl IdShift {
    /// Shifts by these maps, and refuses what they do not have.
    pub fn new(uids: IdMap, gids: IdMap) -> Self {
        IdShift { uids, gids, outside: Outside::Refuse }
    }

    /// Sets [`IdShift::outside`].
    #[must_use]
    pub fn with_outside(mut self, outside: Outside) -> Self {
        self.outside = outside;
        self
    }

    /// The user and the group on the host that the container's root is; `None` if one is outside its map and is not squashed.
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((self.id(Who::User, 0).ok()?.host, self.id(Who::Group, 0).ok()?.host))
    }

    /// Shifts what `entry` says of owners.
    ///
    /// # Errors
    /// [`ErrorKind::Lossy`] for an id outside the map, by policy; [`ErrorKind::InvalidImage`] for an ACL or a capability that is malformed. The entry
    /// is of no use then.
    pub(super) fn apply(&self, entry: &mut Entry) -> Result<()> {
        entry.uid = self.id(Who::User, entry.uid)?.host;
        entry.gid = self.id(Who::Group, entry.gid)?.host;
        for (name, value) in &mut entry.xattrs {
            match name.to_bytes() {
                b"system.posix_acl_access" | b"system.posix_acl_default" => *value = self.acl(value)?,
                b"security.capability" => *value = self.capability(value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn id(&self, who: Who, container: u32) -> Result<Shifted> {
        let map = match who {
            Who::User => &self.uids,
            Who::Group => &self.gids,
        };
        if let Some(host) = map.to_host(container) {
            return Ok(Shifted { host, squashed: false });
        }
        match (self.outside, who) {
            (Outside::Squash { uid: host, .. }, Who::User) | (Outside::Squash { gid: host, .. }, Who::Group) => {
                Ok(Shifted { host, squashed: true })
            }
            (Outside::Refuse, _) => {
                let what = match who {
                    Who::User => "user",
                    Who::Group => "group",
                };
                let message = format!("the {what} {container} is outside the map");
                Err(Error::new(ErrorKind::Lossy, "shift an owner", message)
                    .with_context("map", map)
                    .with_remedy("give the container a larger map, or squash what is outside it"))
            }
        }
    }

    /// The kernel's form of an ACL, shifted. What is squashed becomes one entry that grants no more than each of them did, and gives way
    /// to the entry of one who has that id by the map.
    fn acl(&self, value: &[u8]) -> Result<Vec<u8>> {
        let malformed = || Error::new(ErrorKind::InvalidImage, "shift an owner", "an ACL is malformed");
        let (version, rest) = value.split_first_chunk().ok_or_else(malformed)?;
        let (entries, []) = rest.as_chunks::<8>() else { return Err(malformed()) };
        if u32::from_le_bytes(*version) != VERSION {
            return Err(malformed());
        }
        let mut shifted: Vec<(u16, u32, bool, u16)> = Vec::with_capacity(entries.len());
        for &[t0, t1, p0, p1, i0, i1, i2, i3] in entries {
            let (tag, permissions) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
            let id = u32::from_le_bytes([i0, i1, i2, i3]);
            let id = match tag {
                USER => self.id(Who::User, id)?,
                GROUP => self.id(Who::Group, id)?,
                USER_OBJ | GROUP_OBJ | MASK | OTHER => Shifted { host: id, squashed: false },
                _ => return Err(malformed()),
            };
            shifted.push((tag, id.host, id.squashed, permissions));
        }
        // As the kernel and setfacl order them; one who has an id by the map comes before those who are squashed to it.
        shifted.sort_unstable();
        shifted.dedup_by(|next, kept| {
            let merged = (next.0, next.1) == (kept.0, kept.1) && next.2;
            if merged && kept.2 {
                kept.3 &= next.3;
            }
            merged
        });
        let mut out = version.to_vec();
        for (tag, id, _, permissions) in shifted {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&permissions.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        Ok(out)
    }

    /// A file capability (`struct vfs_cap_data`, `linux/capability.h`), shifted: numbers of four bytes, the lowest first. The first holds the
    /// version and flags, then come one or two pairs of sets, and in version 3 the id of the root whose namespace they are for.
    fn capability(&self, value: &[u8]) -> Result<Vec<u8>> {
        const REVISION: u32 = 0xff00_0000;
        const REVISION_1: u32 = 0x0100_0000;
        const REVISION_2: u32 = 0x0200_0000;
        const REVISION_3: u32 = 0x0300_0000;
        let malformed = || Error::new(ErrorKind::InvalidImage, "shift an owner", "a file capability is malformed");
        let (words, []) = value.as_chunks::<4>() else { return Err(malformed()) };
        let words: Vec<_> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (first, sets, root) = match words[..] {
            [first, permitted, inheritable] if first & REVISION == REVISION_1 => (first, [permitted, inheritable, 0, 0], 0),
            [first, a, b, c, d] if first & REVISION == REVISION_2 => (first, [a, b, c, d], 0),
            [first, a, b, c, d, root] if first & REVISION == REVISION_3 => (first, [a, b, c, d], root),
            _ => return Err(malformed()),
        };
        let root = self.id(Who::User, root)?.host;
        // The root of the host itself is whom version 2 is for.
        let (revision, root) = if root == 0 { (REVISION_2, None) } else { (REVISION_3, Some(root)) };
        let words = std::iter::once(first & !REVISION | revision).chain(sets).chain(root);
        Ok(words.flat_map(u32::to_le_bytes).collect())
    }
}

#[derive(Debug, Clone, Copy)]
enum Who {
    User,
    Group,
}

#[derive(Debug, Clone, Copy)]
struct Shifted {
    host: u32,
    squashed: bool,
}

/// Exactly `N` numbers, in digits and nothing else.
fn numbers<'a, const N: usize>(mut fields: impl Iterator<Item = &'a str>) -> Option<[u32; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let field = fields.next()?;
        *number = field.parse().ok().filter(|_| field.bytes().all(|byte| byte.is_ascii_digit()))?;
    }
    fields.next().is_none().then_some(numbers)
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidInput, "read an id map", why)
        .with_remedy("write it like 0 100000 65536: first id inside, first on the host, count")
}

#[cfg(test)]
mod tests;
