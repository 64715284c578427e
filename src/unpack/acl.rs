//! POSIX ACLs from the text that archives hold to the form that the kernel takes.
//!
//! The text is that of [acl(5)](https://man7.org/linux/man-pages/man5/acl.5.html), in its long or short form, with numeric qualifiers; the
//! kernel's form is the attribute `system.posix_acl_access` or `_default`: a version and then tag, permissions and id of each entry
//! (`linux/posix_acl_xattr.h`).

use std::str;

use crate::error::{Error, ErrorKind, Result};
use crate::text::Escaped;

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

/// The kernel's form of an ACL; empty for an empty text.
///
/// # Errors
/// [`ErrorKind::InvalidImage`] if the text is malformed, or names a user or group without its number: numbers are all that an image can mean.
pub(super) fn from_text(text: &[u8]) -> Result<Vec<u8>> {
    let text = str::from_utf8(text).map_err(|_| malformed(text))?;
    let mut entries = Vec::new();
    for line in text.split(['\n', ',']) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            entries.push(parse(entry)?);
        }
    }
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    // The kernel wants the tags in this order; that of the ids is what setfacl writes.
    entries.sort_unstable();
    let count = |tag| entries.iter().filter(|(found, _, _)| *found == tag).count();
    let named = count(USER) + count(GROUP) > 0;
    let complete = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&tag| count(tag) == 1);
    let unique = entries.windows(2).all(|pair| (pair[0].0, pair[0].1) != (pair[1].0, pair[1].1));
    if !complete || !unique || count(MASK) > 1 || named && count(MASK) == 0 {
        return Err(malformed(text.as_bytes()));
    }
    let mut out = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    Ok(out)
}

/// Tag, id and permissions of `user:1000:rwx` and the like. bsdtar writes a name there and the number in a fourth field.
fn parse(entry: &str) -> Result<(u16, u32, u16)> {
    let invalid = || malformed(entry.as_bytes());
    let entry = entry.strip_prefix("default:").or_else(|| entry.strip_prefix("d:")).unwrap_or(entry);
    let fields: Vec<_> = entry.split(':').map(str::trim).collect();
    let (kind, qualifier, permissions, number) = match fields[..] {
        [kind @ ("mask" | "m" | "other" | "o"), permissions] => (kind, "", permissions, None),
        [kind, qualifier, permissions] => (kind, qualifier, permissions, None),
        [kind, qualifier, permissions, number] => (kind, qualifier, permissions, Some(number)),
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
    let id = match qualifier {
        "" => NO_ID,
        qualifier => number.unwrap_or(qualifier).parse().ok().filter(|&id| id != NO_ID).ok_or_else(|| {
            let name = Escaped(qualifier.as_bytes());
            Error::new(ErrorKind::InvalidImage, "unpack", format!("an ACL names {name} without its number"))
                .with_remedy("make the archive with --numeric-owner")
        })?,
    };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return Err(invalid()),
        };
    }
    Ok((tag, id, bits))
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
        let expected = from_text(b"user::rwx,user:1000:r-x,group::r-x,group:7:---,mask::r-x,other::---").unwrap();
        for same in [
            &b"user::rwx\nuser:1000:r-x\t#effective:r-x\ngroup::r-x\ngroup:7:---\nmask::r-x\nother::---\n"[..],
            b"other::---,mask::r-x,group:7:---,group::r-x,user:1000:r-x,user::rwx",
            b"u::rwx,u:lisa:r-x:1000,g::rx,g:wheel:-:7,m:rx,o:-",
            b"default:user::rwx,default:user:1000:r-x,default:group::r-x,default:group:7:---,default:mask::r-x,default:other::---",
        ] {
            assert_eq!(from_text(same).unwrap(), expected, "{}", String::from_utf8_lossy(same));
        }
        assert_eq!(from_text(b"").unwrap(), b"");
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
        let error = from_text(b"user::rwx,user:lisa:r-x,group::r-x,mask::r-x,other::r-x").unwrap_err();
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("--numeric-owner")));
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
        assert_eq!(from_text(&text).unwrap(), stored);
    }
}
