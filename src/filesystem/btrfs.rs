//! btrfs on one device, by btrfs-progs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use super::recipe;
use super::tool::{self, Needs};
use super::{Device, FilesystemKind, Recipe};
use crate::error::{ErrorKind, Result};
use crate::sys::detached::Access;

/// Options of mkfs.btrfs that take a value in the next word.
const TAKING: &[u8] = b"AblnsmdLROrUu";
/// The same, where a whole word says so.
const TAKING_LONG: [&str; 15] = [
    "alloc-start",
    "byte-count",
    "checksum",
    "compress",
    "csum",
    "data",
    "features",
    "inode-flags",
    "label",
    "leafsize",
    "metadata",
    "nodesize",
    "rootdir",
    "runtime-features",
    "sectorsize",
];
/// What a superblock holds at most.
const LABEL_MAX: usize = 255;
/// Features by their names in a superblock and those that mkfs takes. What is on by default with some of its versions is turned off where it is not there.
const FEATURES: [(&str, &str, Default); 7] = [
    ("EXTENDED_IREF", "extref", Default::On),
    ("SKINNY_METADATA", "skinny-metadata", Default::On),
    ("NO_HOLES", "no-holes", Default::On),
    ("MIXED_GROUPS", "mixed-bg", Default::Off),
    ("ZONED", "zoned", Default::Off),
    ("BLOCK_GROUP_TREE", "block-group-tree", Default::Off),
    ("SIMPLE_QUOTA", "squota", Default::Off),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Default {
    On,
    Off,
}

/// How a filesystem was made, in words of mkfs.btrfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form(Vec<String>);

/// What a superblock says.
struct Super(String);

impl Super {
    fn read(device: &Device<'_>) -> Result<Self> {
        let arguments = ["inspect-internal", "dump-super", "-f"];
        device.succeed("btrfs", Needs::BtrfsProgs, |btrfs| btrfs.args(arguments).arg(device.path)).map(Super)
    }

    /// Whether there are changes that are written and not yet part of the filesystem.
    fn has_log(&self) -> bool {
        self.word("log_root").is_none_or(|root| root != "0")
    }

    /// The word after a key.
    fn word(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == key).then(|| words.next())?
        })
    }

    fn number(&self, key: &'static str) -> Result<u64, &'static str> {
        self.word(key).and_then(|word| word.parse().ok()).ok_or(key)
    }

    /// Whether a flag is set; each is on a line of its own.
    fn has(&self, flag: &str) -> bool {
        let names = self.0.lines().map(|line| line.trim_matches(|c: char| c.is_whitespace() || "(|)".contains(c)));
        names.into_iter().any(|name| name == flag)
    }

    fn form(&self) -> Result<Form, &'static str> {
        let mut words =
            vec![format!("--nodesize={}", self.number("nodesize")?), format!("--sectorsize={}", self.number("sectorsize")?)];
        let checksum = match self.number("csum_type")? {
            0 => "crc32c",
            1 => "xxhash",
            2 => "sha256",
            3 => "blake2",
            _ => return Err("csum_type"),
        };
        words.push(format!("--csum={checksum}"));
        // No tool reads the profile of the metadata by itself; that of the tree of chunks is the same.
        let profile = self.word_after("SYSTEM|").ok_or("profile")?;
        match (self.has("MIXED_GROUPS"), profile.as_str()) {
            (false, profile) => words.push(format!("--metadata={profile}")),
            // Mixed with data they may be in one copy where that tree is in two, as by default.
            (true, "single") => words.extend(["--metadata=single".to_owned(), "--data=single".to_owned()]),
            (true, _) => {}
        }
        let mut features = Vec::new();
        for (flag, name, default) in FEATURES {
            match (self.has(flag), default) {
                (true, _) => features.push(name.to_owned()),
                (false, Default::On) => features.push(format!("^{name}")),
                (false, Default::Off) => {}
            }
        }
        words.push(format!("--features={}", features.join(",")));
        let not = if self.has("FREE_SPACE_TREE") { "" } else { "^" };
        words.push(format!("--runtime-features={not}free-space-tree"));
        Ok(Form(words))
    }

    /// What follows a text, up to the next blank.
    fn word_after(&self, text: &str) -> Option<String> {
        let (_, rest) = self.0.split_once(text)?;
        rest.split_whitespace().next().map(str::to_ascii_lowercase)
    }
}

/// Reads how the filesystem on a device was made.
pub(super) fn form(device: &Device<'_>) -> Result<Form> {
    let read = Super::read(device)?;
    let missing = |missing| {
        let message = format!("btrfs does not tell its {missing}");
        device.error(ErrorKind::Io, message).with_remedy("say how the new filesystem is to be made")
    };
    if read.number("num_devices").map_err(missing)? != 1 {
        return Err(device.error(ErrorKind::Unsupported, "its btrfs is on more than one device"));
    }
    read.form().map_err(missing)
}

/// Makes one.
pub(super) fn make(device: &Device<'_>, recipe: &Recipe) -> Result<()> {
    let arguments = arguments(device, recipe)?;
    device.succeed("mkfs.btrfs", Needs::BtrfsProgs, |make| make.args(&arguments).arg(device.path)).map(drop)
}

fn arguments(device: &Device<'_>, recipe: &Recipe) -> Result<Vec<OsString>> {
    if let Some(word) = stray(&recipe.options) {
        return Err(tool::malformed(device, word));
    }
    let mut arguments: Vec<OsString> = ["--quiet", "--force", "--nodiscard"].map(OsString::from).into();
    if let Some(recipe::Form::Btrfs(form)) = &recipe.form {
        arguments.extend(form.0.iter().map(OsString::from));
    }
    if let Some(label) = &recipe.label {
        if label.len() > LABEL_MAX {
            return Err(tool::long_label(device, LABEL_MAX));
        }
        arguments.extend(["-L".into(), label.clone()]);
    }
    arguments.extend(recipe.options.iter().cloned());
    Ok(arguments)
}

/// The first word that would be taken for a device, or the option that would take the device for its value.
fn stray(options: &[OsString]) -> Option<&OsString> {
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let takes = match word.as_bytes() {
            [b'-', b'-', name @ ..] if !name.is_empty() => TAKING_LONG.iter().any(|long| long.as_bytes() == name),
            [b'-', letters @ ..] if !letters.is_empty() && !letters.starts_with(b"-") => {
                let at = letters.iter().position(|letter| TAKING.contains(letter));
                at.is_some_and(|at| at + 1 == letters.len())
            }
            _ => return Some(word),
        };
        if takes && words.next().is_none() {
            return Some(word);
        }
    }
    None
}

/// Checks one that is not mounted.
pub(super) fn check(device: &Device<'_>) -> Result<()> {
    replay(device)?;
    let done = device.run("btrfs", Needs::BtrfsProgs, |btrfs| btrfs.args(["check", "--readonly"]).arg(device.path))?;
    if done.status.success() {
        return Ok(());
    }
    let error = device.failed(&done);
    if error.kind() != ErrorKind::Io {
        return Err(error);
    }
    let error = device.error(ErrorKind::Io, format!("its btrfs is damaged: {}", done.words()));
    Err(error.with_remedy("ask those who know it before anything is mended; what can still be read: btrfs restore"))
}

/// Has the kernel make the log part of the filesystem, if there is one. Beside its source a clone mounts only since Linux 6.7.
fn replay(device: &Device<'_>) -> Result<()> {
    if Super::read(device)?.has_log() {
        device.mount(FilesystemKind::Btrfs, Access::ReadWrite, "").map(drop)?;
        device.unused()?;
    }
    Ok(())
}

/// A new UUID. The tool would make a log unreadable, and the filesystem with it, and end well.
pub(super) fn renew(device: &Device<'_>) -> Result<()> {
    replay(device)?;
    if Super::read(device)?.has_log() {
        return Err(device.error(ErrorKind::Io, "its log was not replayed"));
    }
    device.succeed("btrfstune", Needs::BtrfsProgs, |tune| tune.args(["-f", "-m"]).arg(device.path)).map(drop)
}

#[cfg(test)]
mod tests;
