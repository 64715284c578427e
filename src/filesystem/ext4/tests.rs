//! What is made of the words of the tools, as e2fsprogs 1.47.0 wrote them.

use super::*;

use std::path::Path;
use std::time::Duration;

use crate::filesystem::FilesystemKind;
use crate::progress::{CancelToken, Wait};

const MOUNTED: &str = include_str!("mounted.txt");
const TUNED: &str = include_str!("tuned.txt");

fn like(text: &str, device: ByteSize) -> Recipe {
    Recipe::like(recipe::Form::Ext4(Form::parse(text, device).unwrap()))
}

/// What mke2fs would be told for a device of this size.
fn told(recipe: &Recipe, size: ByteSize) -> Result<String> {
    let wait = Wait::new(Duration::ZERO, CancelToken::new());
    let device = Device { path: Path::new("/dev/none"), operation: "test", wait: &wait };
    let words = arguments(&device, recipe, size, vec!["nodiscard".into()])?;
    Ok(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
}

#[test]
fn state_is_no_part_of_the_form() {
    let words = told(&like(MOUNTED, ByteSize::mib(64)), ByteSize::mib(64)).unwrap();
    assert_eq!(
        words,
        "-q -F -t ext4 -b 1024 -I 256 -m 5.00 -e continue -G 16 -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
         flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum -E nodiscard -N 16384"
    );
}

#[test]
fn all_that_can_be_set_is_kept() {
    let recipe = like(TUNED, ByteSize::gib(1));
    let words = told(&recipe, ByteSize::gib(1)).unwrap();
    assert!(words.starts_with("-q -F -t ext4 -b 4096 -I 512 -m 1.50 -e remount-ro -C 32768 -G 16 -O none,has_journal,"), "{words}");
    let extended =
        "-E nodiscard,stride=16,stripe_width=64,mmp_update_interval=7,encoding=utf8-12.1,quotatype=usrquota:prjquota -N 32768";
    assert!(words.ends_with(extended), "{words}");
    assert_eq!(
        form_of(&recipe).unwrap().tuned.join(" "),
        "-o ^debug,^bsdgroups,^uid16,^journal_data_ordered,^journal_data_writeback,^nobarrier,^block_validity,^nodelalloc,user_xattr,acl,\
         journal_data,discard -E hash_alg=tea,mount_opts=foo=bar -c 20 -i 259200s -u 5 -g 65534"
    );
}

#[test]
fn what_the_user_says_comes_before_all_else() {
    let recipe = like(MOUNTED, ByteSize::mib(64)).with_label("root");
    let words = told(&recipe.clone().with_options(["-b4096", "-qO", "^has_journal", "-E", "discard"]), ByteSize::mib(64)).unwrap();
    assert_eq!(
        words,
        "-q -F -t ext4 -I 256 -m 5.00 -e continue -G 16 -L root -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
         flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,^has_journal -E nodiscard,discard -b 4096 -q -N 16384"
    );
    let words = told(&recipe.clone().with_options(["-i", "65536"]), ByteSize::mib(64)).unwrap();
    assert!(words.ends_with("-E nodiscard -i 65536"), "{words}");
    let plain = Recipe::new(FilesystemKind::Ext4);
    assert_eq!(told(&plain, ByteSize::mib(64)).unwrap(), "-q -F -t ext4 -E nodiscard");
    for bad in [&["/dev/sda"][..], &["-N"], &["--help"]] {
        let error = told(&plain.clone().with_options(bad), ByteSize::mib(64)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let error = told(&plain.with_label("longer than sixteen"), ByteSize::mib(64)).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidInput, "the label is longer than 16 bytes"));
}

#[test]
fn inodes_go_with_the_size_unless_more_are_demanded() {
    let like = like(MOUNTED, ByteSize::mib(64));
    let inodes = |recipe: &Recipe, mib| recipe.inodes(ByteSize::mib(mib)).unwrap();
    // Less what may be lost where the number in each of nine or seventeen groups is rounded.
    assert_eq!((inodes(&like, 64), inodes(&like, 128)), (16384, 32768 - 17 * 8));
    let demanding = like.clone().with_inodes(20000);
    assert_eq!((inodes(&demanding, 64), inodes(&demanding, 128)), (20000, 32768 - 17 * 8));
    assert!(told(&demanding, ByteSize::mib(64)).unwrap().ends_with(" -N 20072"));
    assert!(told(&demanding, ByteSize::mib(128)).unwrap().ends_with(" -N 32768"));
    // The user's wish for few does not hold where that would be too few.
    let few = like.clone().with_options(["-N", "1000"]);
    assert_eq!(inodes(&few, 64), 1000 - 9 * 8);
    assert!(told(&few.with_inodes(2000), ByteSize::mib(64)).unwrap().ends_with("-N 1000 -N 2072"));
    assert_eq!(inodes(&like.clone().with_options(["-i64k"]), 64), 1024 - 9 * 8);
    let error = told(&like.with_inodes(1 << 32), ByteSize::gib(1 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooSmall);
}

#[test]
fn a_group_too_small_to_be_made_does_not_make_the_inodes_more() {
    let short = MOUNTED.replace("Block count:              65536", "Block count:              65000");
    let form = Form::parse(&short, ByteSize::mib(64)).unwrap();
    assert_eq!((form.per, form.inodes(ByteSize::mib(64))), (ByteSize::mib(64), 16384));
    // One that was never grown to its device is another matter.
    assert_eq!(Form::parse(MOUNTED, ByteSize::mib(128)).unwrap().inodes(ByteSize::mib(128)), 32768);
}

#[test]
fn what_is_missing_is_named() {
    let cut = MOUNTED.replace("Inode size", "Inode sighs");
    assert_eq!(Form::parse(&cut, ByteSize::mib(64)), Err("Inode size"));
    assert_eq!(Form::parse("", ByteSize::mib(64)), Err("Filesystem features"));
}

#[test]
fn versions_are_compared_as_numbers() {
    assert_eq!(version("mke2fs 1.47.0 (5-Feb-2023); Using EXT2FS Library version 1.47.0"), Some((1, 47)));
    assert_eq!(version("mke2fs 1.48-WIP (1-Jan-2025)"), Some((1, 48)));
    assert_eq!(version("mke2fs: not found"), None);
}

#[test]
fn a_percentage_comes_to_the_same_blocks() {
    for (reserved, blocks, shown) in [(163, 16384, "1.00"), (819, 16384, "5.00"), (0, 16384, "0.00"), (7, 1_000_000, "0.000750")] {
        assert_eq!(percentage(reserved, blocks), shown);
    }
}
