//! Sparse files in each of the four formats: a terabyte of holes is a hole, and a map that lies is refused.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use reroot::unpack::{NoHooks, UnpackOptions, scan};
use reroot::{ByteSize, ErrorKind, Limits};

use crate::arena::{refuse, refuse_with, take};
use crate::forge::{Forge, header};

/// One sparse file: its size, where its pieces lie, and what is stored of them.
type Build = fn(&str, &[(u64, u64)], &[u8]) -> Forge;

const FORMATS: [(&str, Build); 4] = [("old GNU", old_gnu), ("0.0", by_records), ("0.1", by_one_record), ("1.0", before_the_data)];

/// The map begins in the header and goes on in blocks after it.
fn old_gnu(size: &str, map: &[(u64, u64)], stored: &[u8]) -> Forge {
    let size = size.parse().unwrap();
    let mut first = header("sparse", b'S', stored.len() as u64).bytes(257..265, b"ustar  \0").number(483..495, size);
    let (here, mut rest) = map.split_at(map.len().min(4));
    for (number, (offset, length)) in here.iter().enumerate() {
        let at = 386 + 24 * number;
        first = first.number(at..at + 12, *offset).number(at + 12..at + 24, *length);
    }
    let mut forge = Forge::new().raw(first.bytes(482..483, &[u8::from(!rest.is_empty())]));
    while !rest.is_empty() {
        let (here, after) = rest.split_at(rest.len().min(21));
        let mut block = String::new();
        for (offset, length) in here {
            // Enough digits for what the tests say here.
            block += &format!("{offset:011o}\0{length:011o}\0");
        }
        let mut block = block.into_bytes();
        block.resize(504, 0);
        block.push(u8::from(!after.is_empty()));
        forge = forge.data(&block);
        rest = after;
    }
    forge.data(stored)
}

fn by_records(size: &str, map: &[(u64, u64)], stored: &[u8]) -> Forge {
    let numbers: Vec<_> = map.iter().map(|(offset, length)| (offset.to_string(), length.to_string())).collect();
    let mut records = vec![("GNU.sparse.size", size.as_bytes())];
    for (offset, length) in &numbers {
        records.extend([("GNU.sparse.offset", offset.as_bytes()), ("GNU.sparse.numbytes", length.as_bytes())]);
    }
    Forge::new().pax(&records).file("sparse", stored)
}

fn by_one_record(size: &str, map: &[(u64, u64)], stored: &[u8]) -> Forge {
    let map: Vec<_> = map.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
    let records = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", &map.join(",").into_bytes())];
    Forge::new().pax(&records).file("sparse", stored)
}

fn before_the_data(size: &str, map: &[(u64, u64)], stored: &[u8]) -> Forge {
    let mut data = format!("{}\n", map.len()).into_bytes();
    for (offset, length) in map {
        data.extend(format!("{offset}\n{length}\n").into_bytes());
    }
    data.resize(data.len().next_multiple_of(512), 0);
    data.extend_from_slice(stored);
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ];
    Forge::new().pax(&records).file("GNUSparseFile.0/sparse", &data)
}

#[test]
fn a_terabyte_of_holes_is_a_hole_in_each_format() {
    const TERABYTE: u64 = 1 << 40;
    for (format, build) in FORMATS {
        let begun = Instant::now();
        // Also where the data is the last that there is.
        let (arena, unpacked) = take(build(&TERABYTE.to_string(), &[(1 << 20, 3), (TERABYTE - 3, 3)], b"abcend"));
        let file = fs::File::open(arena.root().join("sparse")).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), unpacked.tally.bytes.bytes()), (TERABYTE, 6), "{format}");
        assert!(metadata.blocks() < 1024, "{format}: {} blocks", metadata.blocks());
        let mut end = [0; 3];
        file.read_exact_at(&mut end, TERABYTE - 3).unwrap();
        assert_eq!(&end, b"end", "{format}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{format}: {:?}", begun.elapsed());
        refuse(build(&(1u64 << 60).to_string(), &[(0, 3)], b"end"), ErrorKind::LimitExceeded);
    }
}

#[test]
fn maps_that_lie_are_refused_in_each_format() {
    for (format, build) in FORMATS {
        for (what, size, map, stored) in [
            ("out of order", "100", &[(50, 2), (0, 1)][..], 3),
            ("overlapping", "100", &[(0, 2), (1, 1)], 3),
            ("past the end", "100", &[(0, 2), (100, 1)], 3),
            ("an empty piece past the end", "100", &[(0, 3), (101, 0)], 3),
            ("larger than the file", "2", &[(0, 3)], 3),
            ("less than is stored", "100", &[(0, 2)], 3),
            ("more than is stored", "100", &[(0, 4)], 3),
            ("no piece for what is stored", "100", &[(100, 0)], 3),
            ("an overflow", "100", &[(u64::MAX >> 1, u64::MAX >> 1), (u64::MAX >> 1, 3)], 3),
        ] {
            let archive = build(size, map, &vec![b'x'; stored]);
            let (arena, error) = refuse_with(archive.clone(), &UnpackOptions::default());
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{format}, {what}: {}", error.report());
            assert!(!arena.root().join("sparse").exists(), "{format}, {what}: something was written");
            scan(&archive.end()[..], &UnpackOptions::default(), &mut NoHooks).unwrap_err();
        }
    }
}

#[test]
fn maps_in_many_pieces_are_read_and_bounded() {
    for (format, build) in FORMATS {
        let map: Vec<_> = (0..100).map(|number| (number * 1000, 1)).collect();
        let (arena, _) = take(build("100000", &map, &[b'x'; 100]).file("after", b"y"));
        let content = fs::read(arena.root().join("sparse")).unwrap();
        assert_eq!((content.len(), content.iter().filter(|&&byte| byte == b'x').count()), (100_000, 100), "{format}");
        assert!(content.iter().step_by(1000).all(|&byte| byte == b'x'), "{format}");
        assert_eq!(fs::read(arena.root().join("after")).unwrap(), b"y", "{format}");
        // A map counts as a header does.
        let map: Vec<_> = (0..2000).map(|number| (number, 0)).collect();
        let limits = Limits::default().with_header(ByteSize::kib(4));
        let (_, error) = refuse_with(build("100000", &map, b""), &UnpackOptions::default().with_limits(limits));
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{format}: {}", error.report());
    }
}

#[test]
fn binary_numbers_that_overflow_are_refused_in_old_gnu_headers() {
    let first = || header("sparse", b'S', 0).bytes(257..265, b"ustar  \0");
    for (bytes, kind) in [
        (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ErrorKind::InvalidImage),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ErrorKind::InvalidImage),
        (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", ErrorKind::LimitExceeded),
        (b"99999999999\0", ErrorKind::InvalidImage),
    ] {
        refuse(Forge::new().raw(first().bytes(483..495, bytes)), kind);
        // As an offset and as a length.
        for at in [386, 398] {
            let whole = first().number(483..495, 10).number(386..398, 1).number(398..410, 1);
            refuse(Forge::new().raw(whole.bytes(at..at + 12, bytes)), ErrorKind::InvalidImage);
        }
    }
    // A chain of map blocks that is cut off, and one that never ends.
    let mut block = vec![0; 504];
    block.push(1);
    let chain = |count| (0..count).fold(Forge::new().raw(first().bytes(482..483, &[1])), |forge, _| forge.data(&block));
    let error = scan(&chain(3).without_end()[..], &UnpackOptions::default(), &mut NoHooks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage);
    refuse(chain(3000), ErrorKind::LimitExceeded);
}

#[test]
fn what_is_no_map_is_refused() {
    for (size, map) in [
        ("10", "5,2,0,1"),
        ("10", "0,2,1,1"),
        ("10", "0,3,10,1"),
        ("2", "0,3"),
        ("10", "0,2"),
        ("10", "0,4"),
        ("10", "18446744073709551615,3"),
        ("10", "0,3,4"),
        ("10", "x"),
        ("18446744073709551616", "0,3"),
    ] {
        let records = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())];
        refuse(Forge::new().pax(&records).file("s", b"abc"), ErrorKind::InvalidImage);
    }
    let version: [(&str, &[u8]); 3] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"100")];
    for map in ["2\n0\n1\n", "99999999999999999999\n", "18446744073709551615\n", "1\n0\n600\n", "\n", "1\n-1\n1\n"] {
        let mut data = map.as_bytes().to_vec();
        data.resize(512, 0);
        data.push(b'x');
        refuse(Forge::new().pax(&version).file("s", &data), ErrorKind::InvalidImage);
    }
    // A map that never ends is bounded by the limit on headers.
    let mut endless = b"1000000000000\n".to_vec();
    endless.extend("1\n".repeat(1 << 20).bytes());
    refuse(Forge::new().pax(&version).file("s", &endless), ErrorKind::LimitExceeded);
}
