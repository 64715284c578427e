//! ext4, by e2fsprogs.

use std::ffi::OsString;

use super::options::{self, Short};
use super::recipe;
use super::tool::{self, Needs};
use super::{Checked, Device, Recipe, Storage, mke2fs_conf};
use crate::error::{Error, ErrorKind, Result};
use crate::size::ByteSize;

/// Options of mke2fs that take a value.
const TAKING: &[u8] = b"bCdeEgGiIJlLmMNoOrRtTUz";
/// What a superblock holds at most.
const LABEL_MAX: usize = 16;
const INODES_MAX: u64 = u32::MAX as u64;
/// Every feature that mke2fs takes. Others tell a state (`needs_recovery`, `orphan_present`), or come by use.
const FEATURES: [&str; 31] = [
    "64bit",
    "bigalloc",
    "casefold",
    "dir_index",
    "dir_nlink",
    "ea_inode",
    "encrypt",
    "ext_attr",
    "extent",
    "extra_isize",
    "fast_commit",
    "filetype",
    "flex_bg",
    "has_journal",
    "huge_file",
    "inline_data",
    "large_dir",
    "large_file",
    "meta_bg",
    "metadata_csum",
    "metadata_csum_seed",
    "mmp",
    "orphan_file",
    "project",
    "quota",
    "resize_inode",
    "sparse_super",
    "sparse_super2",
    "stable_inodes",
    "uninit_bg",
    "verity",
];
/// Every mount option that a superblock can hold.
const MOUNT_OPTIONS: [&str; 12] = [
    "debug",
    "bsdgroups",
    "user_xattr",
    "acl",
    "uid16",
    "journal_data",
    "journal_data_ordered",
    "journal_data_writeback",
    "nobarrier",
    "block_validity",
    "discard",
    "nodelalloc",
];

/// How a filesystem was made, and tuned since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    features: Vec<String>,
    /// Options of mke2fs, each with its value.
    options: Vec<(u8, String)>,
    /// Parts of its option -E.
    extended: Vec<String>,
    /// What only tune2fs sets, in its words.
    tuned: Vec<String>,
    inodes: u64,
    /// The size of the device that these inodes were for.
    per: ByteSize,
}

/// How much of a filesystem is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The journal, and all of it only if it is marked as damaged or due.
    IfMarked,
    All,
}

/// Reads how the filesystem on a device was made.
pub(super) fn form(device: &Device<'_>) -> Result<Form> {
    let text = dump(device)?;
    Form::parse(&text, device.size()?).map_err(|missing| {
        let message = format!("dumpe2fs does not tell its {missing}");
        device.error(ErrorKind::Io, message).with_remedy("say how the new filesystem is to be made")
    })
}

fn dump(device: &Device<'_>) -> Result<String> {
    device.succeed("dumpe2fs", Needs::E2fsprogs, |dump| dump.arg("-h").arg(device.path))
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?.trim();
    (!value.is_empty()).then_some(value)
}

/// The number that a field begins with; what follows is for people.
fn number(text: &str, key: &'static str) -> Result<u64, &'static str> {
    let digits = field(text, key).and_then(|value| value.split(' ').next());
    digits.and_then(|digits| digits.parse().ok()).ok_or(key)
}

impl Form {
    /// From what `dumpe2fs -h` says.
    fn parse(text: &str, device: ByteSize) -> Result<Self, &'static str> {
        let words = |key: &'static str| field(text, key).map(|value| value.split(' ').filter(|word| !word.is_empty())).ok_or(key);
        let features = words("Filesystem features")?.filter(|name| FEATURES.contains(name)).map(str::to_owned);
        let features: Vec<_> = features.collect();
        let has = |feature: &str| features.iter().any(|name| name == feature);
        let at_least_one = |key| number(text, key).ok().filter(|number| *number > 0);

        let (block, blocks) = (number(text, "Block size")?, number(text, "Block count")?);
        let mut options = vec![(b'b', block.to_string()), (b'I', number(text, "Inode size")?.to_string())];
        options.push((b'm', percentage(number(text, "Reserved block count")?, blocks)));
        let behaviour = match field(text, "Errors behavior").ok_or("Errors behavior")? {
            "Remount read-only" => "remount-ro",
            "Panic" => "panic",
            _ => "continue",
        };
        options.push((b'e', behaviour.to_owned()));
        if has("bigalloc") {
            options.push((b'C', number(text, "Cluster size")?.to_string()));
        }
        if let Some(groups) = at_least_one("Flex block group size").filter(|_| has("flex_bg")) {
            options.push((b'G', groups.to_string()));
        }

        let mut extended = Vec::new();
        for (key, name) in
            [("RAID stride", "stride"), ("RAID stripe width", "stripe_width"), ("MMP update interval", "mmp_update_interval")]
        {
            extended.extend(at_least_one(key).map(|value| format!("{name}={value}")));
        }
        if let Some(encoding) = field(text, "Character encoding").filter(|_| has("casefold")) {
            extended.push(format!("encoding={encoding}"));
        }
        let quotas = [("User", "usrquota"), ("Group", "grpquota"), ("Project", "prjquota")];
        let quotas = quotas.iter().filter(|(whose, _)| field(text, &format!("{whose} quota inode")).is_some());
        let quotas: Vec<_> = quotas.map(|(_, name)| *name).collect();
        if has("quota") && !quotas.is_empty() {
            extended.push(format!("quotatype={}", quotas.join(":")));
        }

        let set: Vec<_> = words("Default mount options")?.collect();
        let mount = MOUNT_OPTIONS.iter().map(|name| if set.contains(name) { (*name).to_owned() } else { format!("^{name}") });
        // The modes of the journal are one value: what is cleared goes first.
        let (cleared, set): (Vec<_>, Vec<_>) = mount.partition(|option| option.starts_with('^'));
        let mut tuned = vec!["-o".to_owned(), [cleared, set].concat().join(",")];
        let more = [("Default directory hash", "hash_alg"), ("Mount options", "mount_opts")];
        let more = more.iter().filter_map(|(key, name)| Some(format!("{name}={}", field(text, key)?)));
        let more: Vec<_> = more.collect();
        if !more.is_empty() {
            tuned.extend(["-E".to_owned(), more.join(",")]);
        }
        let mounts = field(text, "Maximum mount count").ok_or("Maximum mount count")?;
        tuned.extend(["-c".to_owned(), mounts.to_owned()]);
        tuned.extend(["-i".to_owned(), format!("{}s", number(text, "Check interval")?)]);
        tuned.extend(["-u".to_owned(), number(text, "Reserved blocks uid")?.to_string()]);
        tuned.extend(["-g".to_owned(), number(text, "Reserved blocks gid")?.to_string()]);

        // The last group is left out where it would be small: the filesystem is meant for the whole device nevertheless.
        let whole = blocks.saturating_mul(block);
        let group = number(text, "Blocks per group")?.saturating_mul(block);
        let per = if device.bytes().saturating_sub(whole) < group { device } else { ByteSize::from_bytes(whole) };
        Ok(Form { features, options, extended, tuned, inodes: number(text, "Inode count")?, per })
    }

    /// As many inodes as there were for a device of this size.
    fn inodes(&self, size: ByteSize) -> u64 {
        let inodes = u128::from(self.inodes) * u128::from(size.bytes()) / u128::from(self.per.bytes().max(1));
        u64::try_from(inodes).unwrap_or(INODES_MAX).min(INODES_MAX)
    }
}

fn form_of(recipe: &Recipe) -> Option<&Form> {
    match &recipe.form {
        Some(recipe::Form::Ext4(form)) => Some(form),
        _ => None,
    }
}

/// How many inodes a recipe leads to if it demands none.
pub(super) fn inodes(recipe: &Recipe, size: ByteSize) -> u64 {
    // What is malformed is refused when it is made.
    let options = options::shorts(&recipe.options, TAKING).unwrap_or_default();
    natural_inodes(recipe, &options, size)
}

fn natural_inodes(recipe: &Recipe, options: &[Short], size: ByteSize) -> u64 {
    let last = |letter| options.iter().rfind(|option| option.letter == letter);
    let rounded = |inodes: u64| inodes.saturating_sub(rounding(recipe, options, size));
    if let Some(inodes) = last(b'N').and_then(Short::number) {
        return rounded(inodes);
    }
    let usage = last(b'T').map(|option| option.parts().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>());
    let ratio = match (last(b'i').and_then(Short::number), &usage, form_of(recipe)) {
        (Some(ratio), ..) => ratio,
        // The number of one that exists is round already.
        (None, None, Some(form)) if form.per == size => return form.inodes,
        (None, None, Some(form)) => return rounded(form.inodes(size)),
        (None, usage, _) => mke2fs_conf::read().inode_ratio(size, usage.as_deref()),
    };
    rounded((size.bytes() / ratio.max(1)).min(INODES_MAX))
}

/// How many inodes are lost at most where their number is rounded down to a multiple of eight in each group.
fn rounding(recipe: &Recipe, options: &[Short], size: ByteSize) -> u64 {
    let theirs = options.iter().rfind(|option| option.letter == b'b').and_then(Short::number);
    let formed = || form_of(recipe)?.options.iter().find_map(|(letter, value)| (*letter == b'b').then(|| value.parse().ok())?);
    // The smaller the blocks, the more groups. By default they are small on small devices only.
    let default = if size < ByteSize::mib(512) { 1024 } else { 4096 };
    let block = theirs.or_else(formed).unwrap_or(default).clamp(1024, 65536);
    (size.bytes() / (block * block * 8) + 1) * 8
}

/// Makes one.
pub(super) fn make(device: &Device<'_>, recipe: &Recipe, size: ByteSize, storage: Storage) -> Result<()> {
    let arguments = arguments(device, recipe, size, extended(device, storage)?)?;
    device.succeed("mke2fs", Needs::E2fsprogs, |make| make.args(&arguments).arg(device.path))?;
    match form_of(recipe) {
        Some(form) => device.succeed("tune2fs", Needs::E2fsprogs, |tune| tune.args(&form.tuned).arg(device.path)).map(drop),
        None => Ok(()),
    }
}

/// How the blocks are treated that nothing is written to.
fn extended(device: &Device<'_>, storage: Storage) -> Result<Vec<String>> {
    let options: &[&str] = match storage {
        Storage::Zeroed if knows_prezeroed(device)? => &["nodiscard", "assume_storage_prezeroed=1"],
        // The kernel would zero the tables later, and take space for them while the root is in use.
        _ => &["nodiscard", "lazy_itable_init=0", "lazy_journal_init=0"],
    };
    Ok(options.iter().map(|option| (*option).to_owned()).collect())
}

/// Whether mke2fs is 1.47 or later.
fn knows_prezeroed(device: &Device<'_>) -> Result<bool> {
    let done = device.run("mke2fs", Needs::E2fsprogs, |make| make.arg("-V"))?;
    Ok(version(&done.stderr).is_some_and(|version| version >= (1, 47)))
}

fn version(words: &str) -> Option<(u32, u32)> {
    let mut numbers = words.strip_prefix("mke2fs ")?.split(['.', ' ', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What mke2fs is told. It heeds the last of each option, so lists become one, and what the user says replaces the rest.
fn arguments(device: &Device<'_>, recipe: &Recipe, size: ByteSize, mut extended: Vec<String>) -> Result<Vec<OsString>> {
    let options = options::shorts(&recipe.options, TAKING).map_err(|word| tool::malformed(device, &word))?;
    let theirs = |letter| options.iter().filter(move |option| option.letter == letter);
    let natural = natural_inodes(recipe, &options, size);
    let mut inodes = None;
    let mut features = Vec::new();
    let mut arguments: Vec<OsString> = ["-q", "-F", "-t", "ext4"].map(OsString::from).into();
    if let Some(form) = form_of(recipe) {
        for (letter, value) in form.options.iter().filter(|(letter, _)| theirs(*letter).next().is_none()) {
            arguments.extend(Short { letter: *letter, value: Some(value.into()) }.words());
        }
        features = [vec!["none".to_owned()], form.features.clone()].concat();
        extended.extend(form.extended.iter().cloned());
        if b"NiT".iter().all(|letter| theirs(*letter).next().is_none()) {
            inodes = Some(form.inodes(size));
        }
    }
    if let Some(label) = &recipe.label {
        if label.len() > LABEL_MAX {
            return Err(tool::long_label(device, LABEL_MAX));
        }
        arguments.extend(["-L".into(), label.clone()]);
    }
    let joined = |letter, ours: Vec<String>| {
        let theirs = theirs(letter).flat_map(Short::parts).map(OsString::from);
        ours.into_iter().map(OsString::from).chain(theirs).collect::<Vec<_>>().join(",".as_ref())
    };
    for (letter, list) in [(b'O', joined(b'O', features)), (b'E', joined(b'E', extended))] {
        if !list.is_empty() {
            arguments.extend(Short { letter, value: Some(list) }.words());
        }
    }
    let others = options.iter().filter(|option| !b"OE".contains(&option.letter));
    arguments.extend(others.flat_map(Short::words));
    if recipe.inodes > natural {
        inodes = Some(recipe.inodes.saturating_add(rounding(recipe, &options, size)));
    }
    if let Some(inodes) = inodes {
        if inodes > INODES_MAX {
            return Err(device.error(ErrorKind::TooSmall, format!("an ext4 has {INODES_MAX} inodes at most, not {inodes}")));
        }
        arguments.extend(["-N".into(), inodes.to_string().into()]);
    }
    Ok(arguments)
}

/// Checks one that is not mounted, and mends what e2fsck mends unasked.
pub(super) fn check(device: &Device<'_>, extent: Extent) -> Result<Checked> {
    let all: &[&str] = if extent == Extent::All { &["-f"] } else { &[] };
    let done = device.run("e2fsck", Needs::E2fsprogs, |check| check.arg("-p").args(all).arg(device.path))?;
    // A sum of bits: 1 and 2 tell that errors were corrected.
    match done.code() {
        Some(0) => Ok(Checked::Clean),
        Some(1..=3) => Ok(Checked::Mended),
        Some(code) if code & 4 != 0 => Err(damaged(device, &done.words())),
        _ => Err(device.failed(&done)),
    }
}

fn damaged(device: &Device<'_>, words: &str) -> Error {
    let error = device.error(ErrorKind::Io, format!("its ext4 is damaged: {words}"));
    error.with_remedy(format!("mend it by hand: e2fsck -f {}", device.shown()))
}

/// What percentage of all blocks so many are, as the tool takes it: it rounds the number of blocks down.
fn percentage(reserved: u64, blocks: u64) -> String {
    let blocks = blocks.max(1) as f64;
    // As someone would give it, if that comes to the same number; else from the middle of a block.
    let given = (reserved as f64 * 10_000.0 / blocks).ceil() / 100.0;
    if (given * blocks / 100.0).floor() == reserved as f64 {
        return format!("{given:.2}");
    }
    format!("{:.6}", ((reserved as f64 + 0.5) * 100.0 / blocks).min(50.0))
}

/// Grows one that is not mounted.
pub(super) fn grow(device: &Device<'_>) -> Result<()> {
    check(device, Extent::All)?;
    device.succeed("resize2fs", Needs::E2fsprogs, |resize| resize.arg(device.path)).map(drop)
}

#[cfg(test)]
mod tests;
