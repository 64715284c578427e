//! What is made of the words of the tools, as xfsprogs 6.1.0 wrote them.

use super::*;

use std::path::Path;
use std::time::Duration;

use crate::progress::{CancelToken, Wait};

const STRIPED: &str = include_str!("striped.txt");
const OLD: &str = include_str!("old.txt");

fn like(text: &str) -> Recipe {
    Recipe::like(recipe::Form::Xfs(Form::parse(text).unwrap()))
}

/// What mkfs.xfs would be told for a device of this size.
fn told(recipe: &Recipe, size: ByteSize) -> Result<String> {
    let wait = Wait::new(Duration::ZERO, CancelToken::new());
    let device = Device { path: Path::new("/dev/none"), operation: "test", wait: &wait };
    let words = arguments(&device, recipe, size)?;
    Ok(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
}

#[test]
fn the_form_is_told_part_by_part() {
    assert_eq!(
        told(&like(STRIPED), ByteSize::gib(2)).unwrap(),
        "-q -f -K -b size=4096 -s size=512 -i size=1024 -i maxpct=40 -i attr=2 -n size=8192 -m crc=1 -m finobt=1 -m rmapbt=0 -m reflink=1 \
         -m bigtime=0 -m inobtcount=1 -i sparse=1 -i nrext64=0 -n version=ci -d sunit=128 -d swidth=512"
    );
    let old = told(&like(OLD), ByteSize::gib(2)).unwrap();
    assert!(old.contains("-m crc=0 ") && old.ends_with("-i projid32bit=1 -n ftype=0 -d noalign"), "{old}");
}

#[test]
fn what_the_user_says_takes_the_place_of_it() {
    let recipe = like(STRIPED).with_label("root").with_options(["-i", "size=512,nrext64=1", "-d", "su=64k,sw=2", "-Lmine"]);
    assert_eq!(
        told(&recipe, ByteSize::gib(2)).unwrap(),
        "-q -f -K -b size=4096 -s size=512 -i maxpct=40 -i attr=2 -n size=8192 -m crc=1 -m finobt=1 -m rmapbt=0 -m reflink=1 \
         -m bigtime=0 -m inobtcount=1 -i sparse=1 -n version=ci -i size=512 -i nrext64=1 -d su=64k -d sw=2 -L mine"
    );
    let plain = Recipe::new(FilesystemKind::Xfs);
    assert_eq!(told(&plain.clone().with_label("root"), ByteSize::gib(1)).unwrap(), "-q -f -K -L root");
    for bad in [&["/dev/sda"][..], &["-i"]] {
        let error = told(&plain.clone().with_options(bad), ByteSize::gib(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(told(&plain.with_label("thirteen byte"), ByteSize::gib(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn inodes_take_a_part_of_the_space() {
    let size = ByteSize::from_bytes(100 << 20);
    let plain = Recipe::new(FilesystemKind::Xfs);
    assert_eq!(plain.inodes(size), Some(25 * (1 << 20) / 512));
    assert_eq!(like(STRIPED).inodes(size), Some(40 * (1 << 20) / 1024));
    assert_eq!(plain.inodes(ByteSize::gib(2 << 10)), Some((2 << 40) / 100 * 5 / 512));
    assert_eq!(plain.clone().with_options(["-i", "maxpct=0,size=1k"]).inodes(size), Some(100 << 10));
    // A percent more than a hundred thousand need, and none less than there are anyway.
    let many = like(STRIPED).with_inodes(50_000);
    assert_eq!(many.inodes(size), Some(50_000));
    let words = told(&many, size).unwrap();
    assert!(words.ends_with("-d swidth=512 -i maxpct=49") && !words.contains("maxpct=40"), "{words}");
    assert!(told(&like(STRIPED).with_inodes(100), size).unwrap().contains("maxpct=40"));
    let error = told(&plain.with_inodes(1 << 40), size).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooSmall);
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(Form::parse(&OLD.replace("imaxpct", "x").replace("crc", "x")), Err("crc"));
    assert_eq!(Form::parse(""), Err("bsize"));
}
