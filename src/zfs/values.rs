//! How ZFS numbers the values of native properties: those with words are given to the kernel by number.
//!
//! The numbers are a part of the format on the disk and do not change; see `zfs_prop.c`, `zio.h` and `zfs_acl.h` of OpenZFS.

use std::ffi::CString;

use crate::sys::zfs::{Given, Value};
use crate::zfs::name::c_text;

const ON_OFF: &[(&str, u64)] = &[("off", 0), ("on", 1)];
const CACHE: &[(&str, u64)] = &[("none", 0), ("metadata", 1), ("all", 2)];
const CHECKSUM: &[(&str, u64)] = &[
    ("on", 1),
    ("off", 2),
    ("fletcher2", 6),
    ("fletcher4", 7),
    ("sha256", 8),
    ("noparity", 10),
    ("sha512", 11),
    ("skein", 12),
    ("edonr", 13),
    ("blake3", 14),
];
const VERIFY: u64 = 1 << 8;
const DEDUP: &[(&str, u64)] = &[
    ("on", 1),
    ("off", 2),
    ("verify", 1 | VERIFY),
    ("sha256", 8),
    ("sha256,verify", 8 | VERIFY),
    ("sha512", 11),
    ("sha512,verify", 11 | VERIFY),
    ("skein", 12),
    ("skein,verify", 12 | VERIFY),
    ("edonr,verify", 13 | VERIFY),
    ("blake3", 14),
    ("blake3,verify", 14 | VERIFY),
];
const COMPRESSION: &[(&str, u64)] = &[
    ("on", 1),
    ("off", 2),
    ("lzjb", 3),
    ("gzip", 10),
    ("gzip-1", 5),
    ("gzip-2", 6),
    ("gzip-3", 7),
    ("gzip-4", 8),
    ("gzip-5", 9),
    ("gzip-6", 10),
    ("gzip-7", 11),
    ("gzip-8", 12),
    ("gzip-9", 13),
    ("zle", 14),
    ("lz4", 15),
    ("zstd", ZSTD),
];
const ZSTD: u64 = 16;
/// The level of zstd lies above the bits of the algorithm.
const LEVEL_SHIFT: u64 = 7;
/// `zstd-fast` and `zstd-fast-1` are level 103, and `zstd-fast-10` is 112; from 20 on the levels are counted.
const FAST: u64 = 102;
const FAST_STEPS: &[(u64, u64)] =
    &[(20, 113), (30, 114), (40, 115), (50, 116), (60, 117), (70, 118), (80, 119), (90, 120), (100, 121), (500, 122), (1000, 123)];

const WORDS: &[(&str, &[(&str, u64)])] = &[
    ("aclinherit", &[("discard", 0), ("noallow", 1), ("passthrough", 3), ("restricted", 4), ("passthrough-x", 5)]),
    ("aclmode", &[("discard", 0), ("groupmask", 2), ("passthrough", 3), ("restricted", 4)]),
    ("acltype", &[("off", 0), ("posix", 1), ("posixacl", 1), ("noacl", 0), ("nfsv4", 2)]),
    ("atime", ON_OFF),
    ("canmount", &[("off", 0), ("on", 1), ("noauto", 2)]),
    ("checksum", CHECKSUM),
    ("compression", COMPRESSION),
    ("copies", &[("1", 1), ("2", 2), ("3", 3)]),
    ("dedup", DEDUP),
    ("devices", ON_OFF),
    ("direct", &[("disabled", 0), ("standard", 1), ("always", 2)]),
    ("dnodesize", &[("legacy", 0), ("auto", 1), ("1k", 1024), ("2k", 2048), ("4k", 4096), ("8k", 8192), ("16k", 16384)]),
    ("exec", ON_OFF),
    ("logbias", &[("latency", 0), ("throughput", 1)]),
    ("longname", ON_OFF),
    ("nbmand", ON_OFF),
    ("overlay", ON_OFF),
    ("prefetch", CACHE),
    ("primarycache", CACHE),
    ("readonly", ON_OFF),
    ("redundant_metadata", &[("all", 0), ("most", 1), ("some", 2), ("none", 3)]),
    ("relatime", ON_OFF),
    ("secondarycache", CACHE),
    ("setuid", ON_OFF),
    ("snapdev", &[("hidden", 0), ("visible", 1)]),
    ("snapdir", &[("hidden", 0), ("visible", 1)]),
    ("sync", &[("standard", 0), ("always", 1), ("disabled", 2)]),
    ("vscan", ON_OFF),
    // `on` has been either of the two.
    ("xattr", &[("off", 0), ("dir", 1), ("sa", 2)]),
];

/// Those that are texts in the kernel too.
const TEXTS: &[&str] = &["context", "defcontext", "fscontext", "mlslabel", "mountpoint", "rootcontext", "sharenfs", "sharesmb"];

/// How the kernel takes this value of a property; `None` if that is not known here, and the command has to set it.
pub(super) fn given(property: &str, value: &Value) -> Option<Given> {
    match value {
        Value::Number(number) => Some(Given::Number(number.cast_unsigned())),
        Value::Text(text) if TEXTS.contains(&property) => Some(Given::Text(c_text(text.as_slice()))),
        Value::Text(_) => {
            let word = value.as_str()?;
            let (_, words) = WORDS.iter().find(|(known, _)| *known == property)?;
            let number = words.iter().find(|(known, _)| *known == word).map(|(_, number)| *number);
            number.or_else(|| if property == "compression" { zstd(word) } else { None }).map(Given::Number)
        }
        _ => None,
    }
}

fn zstd(word: &str) -> Option<u64> {
    let level = match word.strip_prefix("zstd-fast") {
        Some("") => FAST + 1,
        Some(steps) => match steps.strip_prefix('-')?.parse().ok()? {
            few @ 1..=10 => FAST + few,
            many => FAST_STEPS.iter().find(|(known, _)| *known == many)?.1,
        },
        None => word.strip_prefix("zstd-")?.parse().ok().filter(|level| (1..=19).contains(level))?,
    };
    Some(ZSTD | level << LEVEL_SHIFT)
}

/// A property with a word for its value.
pub(super) fn word(property: &str, word: &str) -> Option<(CString, Given)> {
    given(property, &Value::Text(word.into())).map(|value| (c_text(property), value))
}

/// A property with a number for its value.
pub(super) fn number(property: &str, number: u64) -> (CString, Given) {
    (c_text(property), Given::Number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_numbers_of_the_format_on_the_disk() {
        let number = |property, word: &str| match given(property, &Value::Text(word.into())) {
            Some(Given::Number(number)) => Some(number),
            other => {
                assert_eq!(other, None);
                None
            }
        };
        assert_eq!(number("compression", "lz4"), Some(15));
        assert_eq!(number("compression", "zstd"), Some(16));
        assert_eq!(number("compression", "zstd-3"), Some(16 | 3 << 7));
        assert_eq!(number("compression", "zstd-fast"), Some(16 | 103 << 7));
        assert_eq!(number("compression", "zstd-fast-10"), Some(16 | 112 << 7));
        assert_eq!(number("compression", "zstd-fast-1000"), Some(16 | 123 << 7));
        for unknown in ["zstd-20", "zstd-fast-11", "lz5", "zstd-", "zstd-fast-"] {
            assert_eq!(number("compression", unknown), None, "{unknown}");
        }
        assert_eq!(number("atime", "on"), Some(1));
        assert_eq!(number("xattr", "on"), None);
        assert_eq!(number("colour", "on"), None);
        assert_eq!(given("recordsize", &Value::Number(16384)), Some(Given::Number(16384)));
        assert_eq!(given("mountpoint", &Value::Text("legacy".into())), Some(Given::Text(c"legacy".to_owned())));
    }
}
