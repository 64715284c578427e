//! What a root directory has besides its content, and how it gets from the live root to the staged one.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::stat::{Mode, fchmod, fstat};
#[cfg(any(feature = "btrfs", feature = "zfs"))]
use nix::unistd::getegid;
use nix::unistd::{Gid, Uid, fchown, geteuid};

use crate::error::{Error, Result};
use crate::record::{ATTRIBUTES, ImageRecord, Top};
use crate::sys::attr::{self, Attributes, Protection};
use crate::sys::xattr::{self, Target};
use crate::text::Escaped;
use crate::volume::Warning;

/// Those of [`ATTRIBUTES`] that the caller may believe.
///
/// Who has root in the container owns the root directory and can set its user attributes. Whoever could have set the trusted one therefore
/// reads no other; an ordinary user, or root in a user namespace, has nothing better.
fn believable_records() -> &'static [&'static CStr] {
    const INITIAL_NAMESPACE: [&str; 3] = ["0", "0", "4294967295"];
    let initial = std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(INITIAL_NAMESPACE));
    if geteuid().is_root() && initial { &ATTRIBUTES[..1] } else { &ATTRIBUTES }
}

/// The record that a root directory has, by whom the caller may believe.
pub(crate) fn record(root: BorrowedFd<'_>) -> Result<Option<ImageRecord>> {
    const OPERATION: &str = "read the record of the image";
    for name in believable_records() {
        let value = xattr::get(Target::Fd(root), name);
        if let Some(value) = value.map_err(|error| Error::io(OPERATION, "cannot read an extended attribute", error))? {
            return ImageRecord::from_bytes(&value).map(Some);
        }
    }
    Ok(None)
}

const ACCESS_ACL: &CStr = c"system.posix_acl_access";
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// The mode a staged root has while nothing gave it another, if it is not to get a captured one. The sticky bit tells it from a 0700 that
/// the image asked for.
const UNSET_MODE: u32 = 0o1700;
const DEFAULT_MODE: u32 = 0o755;

/// The properties of a live root.
#[derive(Debug)]
pub(crate) struct Properties {
    uid: u32,
    gid: u32,
    mode: u32,
    xattrs: Vec<(CString, Vec<u8>)>,
    /// Attributes that are listed but that the caller may not read.
    unreadable: Vec<CString>,
    attributes: Option<Attributes>,
    flags: Option<u32>,
    protection: Option<Protection>,
}

impl Properties {
    pub(crate) fn capture(root: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = fstat(root)?;
        let mut xattrs = Vec::new();
        let mut unreadable = Vec::new();
        for name in xattr::list(Target::Fd(root))?.into_iter().filter(|name| is_property(name)) {
            match xattr::get(Target::Fd(root), &name) {
                Ok(Some(value)) => xattrs.push((name, value)),
                // It went since it was listed.
                Ok(None) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => unreadable.push(name),
                Err(error) => return Err(error),
            }
        }
        Ok(Properties {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            xattrs,
            unreadable,
            attributes: attr::attributes(root)?,
            flags: attr::kept_flags(root)?,
            protection: attr::protection(root)?,
        })
    }
}

#[cfg(feature = "btrfs")]
impl Properties {
    /// How new data is written below a root that has them, if not in the usual way.
    pub(crate) fn how_data_is_written(&self) -> Option<&'static str> {
        let compressed = self.xattrs.iter().any(|(name, value)| name.as_c_str() == c"btrfs.compression" && !value.is_empty());
        match self.flags {
            Some(flags) if attr::is_not_copied_on_write(flags) => Some("not copied on write, as in the old root"),
            _ if compressed => Some("compressed as in the old root"),
            _ => None,
        }
    }
}

/// Whether an attribute is a property of the root: not our own record, not a signature over an inode number that changes, and not the form
/// in which XFS stores the ACLs that are listed by their own names too.
fn is_property(name: &CStr) -> bool {
    let stored_acl = name.to_bytes().starts_with(b"trusted.SGI_ACL_");
    !ATTRIBUTES.contains(&name) && name != c"security.evm" && !stored_acl
}

/// Readies a new directory for filling: closed to others, without what its parent bequeathed, under the limits of the live root.
pub(crate) fn prepare(root: BorrowedFd<'_>, captured: Option<&Properties>) -> io::Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    for acl in [DEFAULT_ACL, ACCESS_ACL] {
        xattr::remove(Target::Fd(root), acl)?;
    }
    let mode = if captured.is_some() { 0o700 } else { UNSET_MODE };
    fchmod(root, Mode::from_bits_truncate(mode))?;
    let Some(captured) = captured else { return Ok(warnings) };
    // Flags first: some file systems take case folding and the like for an empty directory only.
    if let Some(flags) = captured.flags {
        warn(
            &mut warnings,
            attr::set_kept_flags(root, flags).map_err(io::Error::from),
            "the inode flags (lsattr) of the root directory",
        );
    }
    // What btrfs calls a property acts on what is written from now on.
    for (name, value) in captured.xattrs.iter().filter(|(name, _)| name.to_bytes().starts_with(b"btrfs.")) {
        warn(&mut warnings, xattr::set(Target::Fd(root), name, value), &attribute(name));
    }
    if let Some(attributes) = &captured.attributes {
        match attr::set_attributes(root, attributes) {
            // A limit that root loses is an error: the volume would grow without one.
            Err(error) if geteuid().is_root() && attributes.inherits_project() && attributes.project != 0 => {
                return Err(error.into());
            }
            result => warn(&mut warnings, result.map_err(io::Error::from), &format!("the project id {}", attributes.project)),
        }
    }
    Ok(warnings)
}

/// The mode that a filled directory is to have if nothing gave it another.
fn mode_of(found: u32) -> u32 {
    if found == UNSET_MODE { DEFAULT_MODE } else { found }
}

/// What a filled directory that will be closed would be open to.
#[cfg(any(feature = "btrfs", feature = "zfs"))]
pub(crate) fn top_of(root: BorrowedFd<'_>) -> io::Result<Top> {
    let stat = fstat(root)?;
    Ok(Top { mode: mode_of(stat.st_mode & 0o7777), uid: stat.st_uid, gid: stat.st_gid })
}

/// Closes a filled directory to everyone but the caller, so that whatever it is cloned to is closed from its first moment.
#[cfg(any(feature = "btrfs", feature = "zfs"))]
pub(crate) fn close(root: BorrowedFd<'_>) -> io::Result<()> {
    fchown(root, Some(geteuid()), Some(getegid()))?;
    Ok(fchmod(root, Mode::S_IRWXU)?)
}

/// Gives a filled directory the captured properties, or what is still missing of the defaults, and the record.
pub(crate) fn apply(root: BorrowedFd<'_>, captured: Option<&Properties>, record: &ImageRecord) -> io::Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    let stat = fstat(root)?;
    let found = stat.st_mode & 0o7777;
    let top = match (captured, record.top) {
        (Some(captured), _) => Some(Top { mode: captured.mode, uid: captured.uid, gid: captured.gid }),
        (None, top) => top,
    };
    let mode = match top {
        Some(top) => top.mode,
        None => mode_of(found),
    };
    if let Some(Top { uid, gid, .. }) = top.filter(|top| (stat.st_uid, stat.st_gid) != (top.uid, top.gid)) {
        let result = fchown(root, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        warn(&mut warnings, result.map_err(io::Error::from), &format!("the owner {uid}:{gid} of the root directory"));
    }
    // An owner without write permission cannot set attributes, unless it is root.
    fchmod(root, Mode::from_bits_truncate(mode | 0o700))?;
    store_record(root, record, &mut warnings);
    if let Some(captured) = captured {
        apply_xattrs(root, captured, &mut warnings)?;
    }
    // Last: an ACL that came or went has changed the group's bits.
    fchmod(root, Mode::from_bits_truncate(mode))?;
    if fstat(root)?.st_mode & 0o7777 != mode {
        warnings.push(Warning::new(format!("the mode {mode:04o} of the root directory could not be kept")));
    }
    if let Some(protection) = captured.and_then(|captured| captured.protection) {
        let letters = protection.letters();
        warnings.push(Warning::new(format!("the old root directory was protected by chattr +{letters}; the new one is not")));
    }
    Ok(warnings)
}

fn apply_xattrs(root: BorrowedFd<'_>, captured: &Properties, warnings: &mut Vec<Warning>) -> io::Result<()> {
    let target = Target::Fd(root);
    for name in xattr::list(target)?.into_iter().filter(|name| is_property(name)) {
        let known = captured.xattrs.iter().any(|(known, _)| *known == name) || captured.unreadable.contains(&name);
        // A label that a security module gives every file does not go, and need not.
        if !known
            && let Err(error) = xattr::remove(target, &name)
            && !name.to_bytes().starts_with(b"security.")
        {
            let error = Error::io("remove an extended attribute", "the kernel refused", error);
            warnings.push(Warning::new(format!("the new root directory keeps {}", attribute(&name))).with_error(error));
        }
    }
    for (name, value) in &captured.xattrs {
        if xattr::get(target, name).ok().flatten().as_ref() != Some(value) {
            warn(warnings, xattr::set(target, name, value), &attribute(name));
        }
    }
    for name in &captured.unreadable {
        warnings.push(Warning::new(format!("{} could not be read and so not be kept", attribute(name))));
    }
    Ok(())
}

/// Stores the record under the best name the caller may use, and under no other.
fn store_record(root: BorrowedFd<'_>, record: &ImageRecord, warnings: &mut Vec<Warning>) {
    let target = Target::Fd(root);
    let value = record.to_bytes();
    let mut refusal = None;
    let mut stored = None;
    for name in ATTRIBUTES {
        match xattr::set(target, name, &value) {
            Ok(()) => {
                stored = Some(name);
                break;
            }
            Err(error) => refusal = Some(error),
        }
    }
    for name in ATTRIBUTES.into_iter().filter(|name| stored != Some(*name)) {
        // Without the privilege there is nothing to remove that could be seen.
        let _ = xattr::remove(target, name);
    }
    if let (None, Some(error)) = (stored, refusal) {
        let error = Error::io("record the image", "cannot set an extended attribute", error);
        warnings.push(Warning::new("the image is not recorded with the volume; name it in the next rebuild").with_error(error));
    }
}

fn attribute(name: &CStr) -> String {
    format!("the extended attribute {} of the root directory", Escaped(name.to_bytes()))
}

fn warn(warnings: &mut Vec<Warning>, result: io::Result<()>, what: &str) {
    if let Err(error) = result {
        let unprivileged = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) && !geteuid().is_root();
        let error = Error::io("keep a property", "the kernel refused", error);
        let hint = if unprivileged { "; run as root to keep it" } else { "" };
        warnings.push(Warning::new(format!("{what} could not be kept{hint}")).with_error(error));
    }
}
