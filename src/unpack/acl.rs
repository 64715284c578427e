//! POSIX ACLs from the text that archives hold to the form that the kernel takes.
//!
//! The text is that of [acl(5)](https://man7.org/linux/man-pages/man5/acl.5.html), in its long or short form, with numeric qualifiers; the
//! kernel's form is the attribute `system.posix_acl_access` or `_default`: a version and then tag, permissions and id of each entry
//! (`linux/posix_acl_xattr.h`).

use std::str;

use crate::error::{Error, ErrorKind, Result};
use crate::text::Escaped;

pub(super) const VERSION: u32 = 2;
pub(super) const USER_OBJ: u16 = 0x01;
pub(super) const USER: u16 = 0x02;
pub(super) const GROUP_OBJ: u16 = 0x04;
pub(super) const GROUP: u16 = 0x08;
pub(super) const MASK: u16 = 0x10;
pub(super) const OTHER: u16 = 0x20;
/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

/// What an archive says of an ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Acl {
    /// Nothing.
    Empty,
    /// The kernel's form of it.
    Known(Vec<u8>),
    /// It names a user or a group without its number: whom it means on the machine that made the archive is not known here. GNU tar
    /// writes such ACLs, up to 1.34 with `--numeric-owner` too. `group` are the permissions of the owning group.
    Nameless { group: u32 },
}

/// Reads an ACL.
///
/// # Errors
/// [`ErrorKind::InvalidImage`] if the text is malformed.
pub(super) fn from_text(text: &[u8]) -> Result<Acl> {
    let text = str::from_utf8(text).map_err(|_| malformed(text))?;
    let mut entries = Vec::new();
    for line in text.split(['\n', ',']) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            entries.push(parse(entry)?);
        }
    }
    if entries.is_empty() {
        return Ok(Acl::Empty);
    }
    // The kernel wants the tags in this order; that of the ids is what setfacl writes.
    entries.sort_unstable();
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    let named = count(USER) + count(GROUP) > 0;
    let complete = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&tag| count(tag) == 1);
    let unique = entries.windows(2).all(|pair| pair[0].id.is_none() || (pair[0].tag, pair[0].id) != (pair[1].tag, pair[1].id));
    if !complete || !unique || count(MASK) > 1 || named && count(MASK) == 0 {
        return Err(malformed(text.as_bytes()));
    }
    let mut known = VERSION.to_le_bytes().to_vec();
    for entry in &entries {
        let Some(id) = entry.id else {
            let group = entries.iter().find(|entry| entry.tag == GROUP_OBJ).map_or(0, |entry| entry.permissions.into());
            return Ok(Acl::Nameless { group });
        };
        known.extend_from_slice(&entry.tag.to_le_bytes());
        known.extend_from_slice(&entry.permissions.to_le_bytes());
        known.extend_from_slice(&id.to_le_bytes());
    }
    Ok(Acl::Known(known))
}

/// The permissions of the owning group in the kernel's form of an ACL; none if it is malformed.
///
/// The group's bits in a file's mode are the ACL's mask. Without the ACL they would be the group's own, and too many.
pub(super) fn group_permissions(acl: &[u8]) -> u32 {
    let (entries, _) = acl.get(4..).unwrap_or_default().as_chunks::<8>();
    let group = entries.iter().find(|entry| u16::from_le_bytes([entry[0], entry[1]]) == GROUP_OBJ);
    group.map_or(0, |entry| u16::from_le_bytes([entry[2], entry[3]]).into())
}

/// One entry of an ACL.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct AclEntry {
    tag: u16,
    /// `None`: only a name is known.
    id: Option<u32>,
    permissions: u16,
}

/// Reads `user:1000:rwx` and the like. bsdtar writes a name there and the number in a fourth field.
fn parse(entry: &str) -> Result<AclEntry> {
    let invalid = || malformed(entry.as_bytes());
    let entry = entry.strip_prefix("default:").or_else(|| entry.strip_prefix("d:")).unwrap_or(entry);
    let fields: Vec<_> = entry.split(':').map(str::trim).collect();
    let (kind, qualifier, letters, number) = match fields[..] {
        [kind @ ("mask" | "m" | "other" | "o"), letters] => (kind, "", letters, None),
        [kind, qualifier, letters] => (kind, qualifier, letters, None),
        [kind, qualifier, letters, number] => (kind, qualifier, letters, Some(number)),
        _ => return Err(invalid()),
    };
    let tag = match (kind, qualifier.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return Err(invalid()),
    };
    let id = match (qualifier, number) {
        ("", _) => Some(NO_ID),
        (_, Some(number)) => Some(number.parse().map_err(|_| invalid())?),
        (qualifier, None) if qualifier.bytes().all(|byte| byte.is_ascii_digit()) => Some(qualifier.parse().map_err(|_| invalid())?),
        _ => None,
    };
    if !qualifier.is_empty() && id == Some(NO_ID) {
        return Err(invalid());
    }
    let mut permissions = 0;
    for letter in letters.chars() {
        permissions |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return Err(invalid()),
        };
    }
    Ok(AclEntry { tag, id, permissions })
}

fn malformed(text: &[u8]) -> Error {
    let shown = &text[..text.len().min(80)];
    Error::new(ErrorKind::InvalidImage, "unpack", format!("an ACL is malformed: {}", Escaped(shown)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn texts_of_every_writer_mean_the_same() {
        let known = |text: &[u8]| match from_text(text) {
            Ok(Acl::Known(known)) => known,
            other => panic!("{other:?}"),
        };
        let expected = known(b"user::rwx,user:1000:r-x,group::r-x,group:7:---,mask::r-x,other::---");
        for same in [
            &b"user::rwx\nuser:1000:r-x\t#effective:r-x\ngroup::r-x\ngroup:7:---\nmask::r-x\nother::---\n"[..],
            b"other::---,mask::r-x,group:7:---,group::r-x,user:1000:r-x,user::rwx",
            b"u::rwx,u:lisa:r-x:1000,g::rx,g:wheel:-:7,m:rx,o:-",
            b"default:user::rwx,default:user:1000:r-x,default:group::r-x,default:group:7:---,default:mask::r-x,default:other::---",
        ] {
            assert_eq!(known(same), expected, "{}", String::from_utf8_lossy(same));
        }
        assert_eq!(from_text(b"").unwrap(), Acl::Empty);
        assert_eq!(group_permissions(&expected), 5);
        assert_eq!(group_permissions(b"short"), 0);
        assert_eq!(expected.len(), 4 + 6 * 8);
    }

    #[test]
    fn what_is_malformed_is_an_error() {
        for bad in [
            &b"user::rwx"[..],
            b"user::rwx,group::r-x",
            b"user::rwx,group::r-x,other::r-x,other::r-x",
            b"user::rwx,user:5:rwx,group::r-x,other::r-x",
            b"user::rwx,user:5:rwx,user:5:r,group::r-x,mask::r,other::r-x",
            b"user::rwz,group::r-x,other::r-x",
            b"user::rwx,group::r-x,other:x:r-x",
            b"user::rwx,user:4294967295:r,mask::r,group::r-x,other::r-x",
            b"a:b:c:d:e",
            b"\xff",
        ] {
            assert_eq!(from_text(bad).unwrap_err().kind(), ErrorKind::InvalidImage, "{bad:?}");
        }
    }

    #[test]
    fn a_name_without_its_number_means_nobody() {
        let text = b"user::rwx,user:lisa:r-x,user:bart:r-x,group::--x,mask::rwx,other::---";
        assert_eq!(from_text(text).unwrap(), Acl::Nameless { group: 1 });
    }

    #[test]
    fn the_kernel_stores_what_setfacl_stores() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        match Command::new("setfacl").args(["-m", "u:12:rw,g:34:x,u:5:r"]).arg(&file).status() {
            Ok(status) if status.success() => {}
            _ => {
                assert!(std::env::var_os("REROOT_REQUIRE").is_none(), "setfacl does not work here");
                eprintln!("not tested, ACLs against setfacl: it does not work here");
                return;
            }
        }
        let text =
            Command::new("getfacl").args(["--omit-header", "--numeric", "--absolute-names"]).arg(&file).output().unwrap().stdout;
        let open = std::fs::File::open(&file).unwrap();
        let target = crate::sys::xattr::Target::Fd(std::os::fd::AsFd::as_fd(&open));
        let stored = crate::sys::xattr::get(target, c"system.posix_acl_access").unwrap().unwrap();
        assert_eq!(from_text(&text).unwrap(), Acl::Known(stored));
    }
}
