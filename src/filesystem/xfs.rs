//! XFS, by xfsprogs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use super::options::{self, Short};
use super::recipe;
use super::tool::{self, Needs};
use super::{Device, FilesystemKind, Recipe};
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;
use crate::sys::command::Finished;
use crate::sys::detached::Access;

/// Options of mkfs.xfs that take a value.
const TAKING: &[u8] = b"bcdilLmnprs";
/// What a superblock holds at most.
const LABEL_MAX: usize = 12;
const INODE_SIZE: u64 = 512;

/// How a filesystem was made: options of mkfs.xfs, each with one of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form(Vec<(u8, String)>);

/// Reads how the filesystem on a device was made.
pub(super) fn form(device: &Device<'_>) -> Result<Form> {
    let text = device.succeed("xfs_db", Needs::Xfsprogs, |db| db.args(["-r", "-c", "info"]).arg(device.path))?;
    Form::parse(&text).map_err(|missing| {
        let message = format!("xfs_db does not tell its {missing}");
        device.error(ErrorKind::Io, message).with_remedy("say how the new filesystem is to be made")
    })
}

impl Form {
    /// From what `info` of xfs_db says, in sections of which all but the first line begin with blanks.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (mut section, mut values) = ("", Vec::new());
        for line in text.lines() {
            let Some((name, rest)) = line.split_once('=') else { continue };
            if !name.trim().is_empty() {
                section = name.trim();
            }
            let pairs = rest.split([' ', ',']).filter_map(|word| word.split_once('='));
            values.extend(pairs.map(|(key, value)| (section, key, value)));
        }
        let text = |section: &str, key: &'static str| {
            let found = values.iter().find(|(in_section, name, _)| *in_section == section && *name == key);
            found.map(|(_, _, value)| *value)
        };
        let number = |section, key| text(section, key).and_then(|value| value.parse::<u64>().ok()).ok_or(key);

        let block = number("data", "bsize")?;
        let mut options = vec![(b'b', format!("size={block}"))];
        let mut add =
            |letter, name: &str, value: Option<&str>| options.extend(value.map(|value| (letter, format!("{name}={value}"))));
        add(b's', "size", text("meta-data", "sectsz"));
        add(b'i', "size", text("meta-data", "isize"));
        add(b'i', "maxpct", text("data", "imaxpct"));
        add(b'i', "attr", text("meta-data", "attr"));
        add(b'n', "size", text("naming", "bsize"));
        // What its tools know of they tell, and mkfs takes.
        for name in ["crc", "finobt", "rmapbt", "reflink", "bigtime", "inobtcount", "metadir"] {
            add(b'm', name, text("meta-data", name));
        }
        for name in ["sparse", "nrext64", "exchange"] {
            add(b'i', name, text("meta-data", name));
        }
        add(b'n', "parent", text("naming", "parent"));
        if number("meta-data", "crc")? == 0 {
            add(b'i', "projid32bit", text("meta-data", "projid32bit"));
            add(b'n', "ftype", text("naming", "ftype"));
        }
        if number("naming", "ascii-ci")? == 1 {
            add(b'n', "version", Some("ci"));
        }
        match (number("data", "sunit")?, number("data", "swidth")?) {
            (0, _) => options.push((b'd', "noalign".to_owned())),
            (unit, width) => {
                // Blocks here, sectors of 512 bytes there.
                options.push((b'd', format!("sunit={}", unit * block / 512)));
                options.push((b'd', format!("swidth={}", width * block / 512)));
            }
        }
        Ok(Form(options))
    }
}

/// All that mkfs is told, a part of an option each: it takes none twice, so what the user says replaces the rest.
fn parts(recipe: &Recipe) -> Result<Vec<Short>, OsString> {
    let theirs = options::shorts(&recipe.options, TAKING)?.into_iter().flat_map(|option| {
        let parts: Vec<_> = match option.letter {
            b'L' | b'p' | b'c' => vec![option.clone()],
            letter => option.parts().map(|part| Short { letter, value: Some(part.to_owned()) }).collect(),
        };
        if parts.is_empty() { vec![option] } else { parts }
    });
    let theirs: Vec<_> = theirs.collect();
    let ours = match &recipe.form {
        Some(recipe::Form::Xfs(form)) => form.0.as_slice(),
        _ => &[],
    };
    let label = recipe.label.as_ref().map(|label| Short { letter: b'L', value: Some(label.clone()) });
    let ours = ours.iter().map(|(letter, part)| Short { letter: *letter, value: Some(part.into()) }).chain(label);
    let kept = ours.filter(|our| !theirs.iter().any(|their| replaces(their, our)));
    Ok(kept.chain(theirs.iter().cloned()).collect())
}

/// The name of a part.
fn key(option: &Short) -> &[u8] {
    let value = option.value.as_deref().map(OsStr::as_bytes).unwrap_or_default();
    value.split(|&byte| byte == b'=').next().unwrap_or_default()
}

fn replaces(theirs: &Short, ours: &Short) -> bool {
    // The ways to say how the disks below lie exclude each other.
    let lies =
        |option: &Short| option.letter == b'd' && [&b"noalign"[..], b"sunit", b"swidth", b"su", b"sw"].contains(&key(option));
    let same = theirs.letter == ours.letter && (theirs.letter == b'L' || key(theirs) == key(ours));
    same || lies(theirs) && lies(ours)
}

/// The last value of a part, as a number.
fn value(parts: &[Short], letter: u8, name: &str) -> Option<u64> {
    let part = parts.iter().rfind(|part| part.letter == letter && key(part) == name.as_bytes())?;
    let value = part.value.as_deref()?.as_bytes().get(name.len() + 1..)?;
    options::size(OsStr::from_bytes(value))
}

fn inode_size(parts: &[Short]) -> u64 {
    value(parts, b'i', "size").unwrap_or(INODE_SIZE).max(1)
}

/// Which part of the space inodes may take, in percent: as mkfs has it, unless it is told.
fn percent(parts: &[Short], size: ByteSize) -> u64 {
    let by_size = match size {
        size if size < ByteSize::gib(1 << 10) => 25,
        size if size < ByteSize::gib(50 << 10) => 5,
        _ => 1,
    };
    // No percent at all is no limit.
    match value(parts, b'i', "maxpct") {
        Some(0) => 100,
        percent => percent.unwrap_or(by_size),
    }
}

/// How many inodes a recipe leads to if it demands none.
pub(super) fn inodes(recipe: &Recipe, size: ByteSize) -> u64 {
    // What is malformed is refused when it is made.
    let parts = parts(recipe).unwrap_or_default();
    (size.bytes() / 100).saturating_mul(percent(&parts, size)) / inode_size(&parts)
}

/// Makes one.
pub(super) fn make(device: &Device<'_>, recipe: &Recipe, size: ByteSize) -> Result<()> {
    let arguments = arguments(device, recipe, size)?;
    device.succeed("mkfs.xfs", Needs::Xfsprogs, |make| make.args(&arguments).arg(device.path)).map(drop)
}

fn arguments(device: &Device<'_>, recipe: &Recipe, size: ByteSize) -> Result<Vec<OsString>> {
    let mut parts = parts(recipe).map_err(|word| tool::malformed(device, &word))?;
    if recipe.label.as_ref().is_some_and(|label| label.len() > LABEL_MAX) {
        return Err(tool::long_label(device, LABEL_MAX));
    }
    let percent = percent(&parts, size);
    let needed = recipe.inodes.saturating_mul(inode_size(&parts)).div_ceil((size.bytes() / 100).max(1));
    if needed > 100 {
        let message = format!("{} inodes take more than the {size} that it has", recipe.inodes);
        return Err(device.error(ErrorKind::TooSmall, message).with_remedy("give the volume a larger size"));
    }
    if needed > percent {
        parts.retain(|part| part.letter != b'i' || key(part) != b"maxpct");
        parts.push(Short { letter: b'i', value: Some(format!("maxpct={needed}").into()) });
    }
    let mut arguments: Vec<OsString> = ["-q", "-f", "-K"].map(OsString::from).into();
    arguments.extend(parts.iter().flat_map(Short::words));
    Ok(arguments)
}

/// Checks one that is not mounted. Before its log is replayed the check would take every change in there for damage.
pub(super) fn check(device: &Device<'_>) -> Result<()> {
    replay(device)?;
    let done = device.run("xfs_repair", Needs::Xfsprogs, |repair| repair.arg("-n").arg(device.path))?;
    match done.code() {
        Some(0) => Ok(()),
        // 1 tells of damage, and of all that kept it from looking.
        Some(1) if done.stderr.contains("couldn't") || done.stderr.contains("fatal error") => Err(device.failed(&done)),
        Some(1) => Err(damaged(device, &done.words())),
        _ => Err(device.failed(&done)),
    }
}

fn damaged(device: &Device<'_>, words: &str) -> Error {
    let error = device.error(ErrorKind::Io, format!("its xfs is damaged: {words}"));
    error.with_remedy(format!("mend it by hand: xfs_repair {}", device.shown()))
}

/// Has the kernel write out what is in the log.
fn replay(device: &Device<'_>) -> Result<()> {
    device.mount(FilesystemKind::Xfs, Access::ReadWrite, "").map(drop)?;
    device.unused()
}

/// A new UUID. It is in every record of the log, which has to be clean.
pub(super) fn renew(device: &Device<'_>) -> Result<()> {
    let before = uuid(device)?;
    if generate(device, before)?.is_some() {
        replay(device)?;
        if let Some(done) = generate(device, before)? {
            return Err(device.failed(&done));
        }
    }
    Ok(())
}

/// Has the tool make one, as `xfs_admin` has it. It ends well where it did nothing, with a log that is not clean for one: then what it said is returned.
fn generate(device: &Device<'_>, before: [u8; 16]) -> Result<Option<Finished>> {
    let done = device.run("xfs_db", Needs::Xfsprogs, |db| db.args(["-x", "-c", "uuid generate"]).arg(device.path))?;
    let renewed = done.status.success() && uuid(device)? != before;
    Ok((!renewed).then_some(done))
}

/// As the superblock has it: `struct xfs_dsb` of the kernel's `xfs_format.h`.
fn uuid(device: &Device<'_>) -> Result<[u8; 16]> {
    const AT: u64 = 32;
    let mut uuid = [0; 16];
    let read = File::open(device.path).and_then(|file| file.read_exact_at(&mut uuid, AT));
    read.map(|()| uuid).map_err(|error| device.io("cannot read its superblock", error))
}

#[cfg(test)]
mod tests;
