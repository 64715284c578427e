//! What mke2fs does when it is not told, as `/etc/mke2fs.conf` has it: how many bytes of a device there are for an inode.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use crate::size::ByteSize;

const PATH: &str = "/etc/mke2fs.conf";
/// Far more than anyone writes into it.
const LENGTH_MAX: u64 = 1 << 20;
/// What it does without the file.
const BUILT_IN: &str = "[defaults]\ninode_ratio = 16384\n[fs_types]\nsmall = {\ninode_ratio = 4096\n}\nfloppy = {\ninode_ratio = 8192\n}\n\
    big = {\ninode_ratio = 32768\n}\nhuge = {\ninode_ratio = 65536\n}\n";
const RATIO: &str = "inode_ratio";
const RATIO_WITHOUT: u64 = 8192;

/// Bytes for an inode: by default, and by the types of filesystems and of their use.
#[derive(Debug)]
pub(super) struct Ratios {
    default: u64,
    types: HashMap<String, u64>,
}

/// Reads the file of this machine.
pub(super) fn read() -> Ratios {
    let mut text = String::new();
    let read = File::open(PATH).and_then(|file| file.take(LENGTH_MAX).read_to_string(&mut text));
    parse(if read.is_ok() { &text } else { BUILT_IN })
}

fn parse(text: &str) -> Ratios {
    let mut ratios = Ratios { default: RATIO_WITHOUT, types: HashMap::new() };
    let (mut section, mut of_type) = ("", None);
    for line in text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default().trim()) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            (section, of_type) = (name.trim(), None);
        } else if line.starts_with('}') {
            of_type = None;
        } else if let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            match (section, of_type) {
                ("fs_types", None) if value.starts_with('{') => of_type = Some(key),
                ("defaults", None) if key == RATIO => ratios.default = value.parse().unwrap_or(ratios.default),
                ("fs_types", Some(name)) if key == RATIO => {
                    if let Ok(ratio) = value.parse() {
                        ratios.types.insert(name.to_owned(), ratio);
                    }
                }
                _ => {}
            }
        }
    }
    ratios
}

impl Ratios {
    /// For an ext4 on a device of this size, or for the uses that it is said to have.
    pub(super) fn inode_ratio(&self, size: ByteSize, usage: Option<&[String]>) -> u64 {
        let by_size = match size {
            size if size < ByteSize::mib(3) => "floppy",
            size if size < ByteSize::mib(512) => "small",
            size if size < ByteSize::gib(4 << 10) => "default",
            size if size < ByteSize::gib(16 << 10) => "big",
            _ => "huge",
        };
        let usage = usage.map_or_else(|| vec![by_size], |usage| usage.iter().map(String::as_str).collect());
        let last = usage.into_iter().rev().chain(["ext4"]).find_map(|name| self.types.get(name));
        last.copied().unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_type_that_says_something_counts() {
        let text = "[options]\n\tinode_ratio = 1 ; no\n[defaults]\n\tbase_features = a,b\n\tinode_ratio = 16384\n[fs_types]\n\text4 = {\n\t\tfeatures = x\n\t}\n\
            \tsmall = {\n\t\tblocksize = 1024\n\t\tinode_ratio = 4096\n\t}\n\tbig={\n\t\tinode_ratio = 32768\n\t}\n\tnews = {\n\t\tinode_ratio = 2048 # many\n\t}\n";
        let ratios = parse(text);
        let by_size = |size| ratios.inode_ratio(size, None);
        assert_eq!(by_size(ByteSize::mib(511)), 4096);
        assert_eq!(by_size(ByteSize::mib(512)), 16384);
        assert_eq!(by_size(ByteSize::gib(4096)), 32768);
        assert_eq!(by_size(ByteSize::gib(16384)), 16384);
        let by_use = |usage: &[&str]| {
            let usage: Vec<_> = usage.iter().map(|name| (*name).to_owned()).collect();
            ratios.inode_ratio(ByteSize::mib(511), Some(&usage))
        };
        assert_eq!((by_use(&["news"]), by_use(&["news", "small"]), by_use(&["unheard-of"])), (2048, 4096, 16384));
        let ext4 = parse("[fs_types]\next4 = {\ninode_ratio = 9999\n}\n");
        assert_eq!(ext4.inode_ratio(ByteSize::mib(8), None), 9999);
        assert_eq!(parse("").inode_ratio(ByteSize::mib(8), None), RATIO_WITHOUT);
    }

    #[test]
    fn without_the_file_it_is_as_in_the_one_that_comes_with_it() {
        let ratios = parse(BUILT_IN);
        let by_size = [(1, 8192), (8, 4096), (1 << 10, 16384), (5 << 20, 32768), (17 << 20, 65536)];
        for (mib, ratio) in by_size {
            assert_eq!(ratios.inode_ratio(ByteSize::mib(mib), None), ratio, "{mib}");
        }
    }
}
