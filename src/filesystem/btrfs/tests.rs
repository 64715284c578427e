//! What is made of the words of the tools, as btrfs-progs 6.2 wrote them.

use super::*;

use std::path::Path;
use std::time::Duration;

use crate::progress::{CancelToken, Wait};

const SUPER: &str = include_str!("super.txt");
const MIXED: &str = include_str!("mixed.txt");

/// What mkfs.btrfs would be told.
fn told(recipe: &Recipe) -> Result<String> {
    let wait = Wait::new(Duration::ZERO, CancelToken::new());
    let device = Device { path: Path::new("/dev/none"), operation: "test", wait: &wait };
    let words = arguments(&device, recipe)?;
    Ok(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
}

fn like(text: &str) -> Recipe {
    Recipe::like(recipe::Form::Btrfs(Super(text.to_owned()).form().unwrap()))
}

#[test]
fn the_form_is_read_from_the_superblock() {
    assert_eq!(
        told(&like(SUPER)).unwrap(),
        "--quiet --force --nodiscard --nodesize=16384 --sectorsize=4096 --csum=xxhash --metadata=dup \
         --features=extref,skinny-metadata,no-holes --runtime-features=free-space-tree"
    );
    assert_eq!(
        told(&like(MIXED).with_label("root").with_options(["--csum", "sha256"])).unwrap(),
        "--quiet --force --nodiscard --nodesize=4096 --sectorsize=4096 --csum=crc32c --metadata=single --data=single \
         --features=extref,skinny-metadata,^no-holes,mixed-bg --runtime-features=^free-space-tree -L root --csum sha256"
    );
    assert_eq!(Super(SUPER.replace("nodesize", "x")).form(), Err("nodesize"));
    assert_eq!(Super(SUPER.replace("SYSTEM|", "x")).form(), Err("profile"));
}

#[test]
fn a_log_is_seen() {
    assert!(!Super(SUPER.to_owned()).has_log());
    assert!(Super(SUPER.replace("log_root\t\t0\n", "log_root\t\t30670848\n")).has_log());
    // What cannot be read is taken for one.
    assert!(Super(String::new()).has_log());
}

#[test]
fn no_word_passes_for_a_device() {
    let stray = |words: &[&str]| {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        stray(&words).map(|word| word.to_str().unwrap().to_owned())
    };
    assert_eq!(stray(&["-m", "single", "--nodesize=65536", "--csum", "sha256", "-Kr", "/tree", "-O^no-holes"]), None);
    for bad in
        [&["/dev/sda"][..], &["--quiet", "/dev/sda"], &["-m", "dup", "/dev/sda"], &["-mdup", "/dev/sda"], &["--", "/dev/sda"]]
    {
        assert!(stray(bad).is_some(), "{bad:?}");
    }
    // It would take the device for its value.
    assert_eq!(stray(&["-K", "-m"]).as_deref(), Some("-m"));
    let error = told(&Recipe::new(FilesystemKind::Btrfs).with_options(["/dev/sda"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
