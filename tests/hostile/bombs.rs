//! Little that becomes much: streams that decompress to more than a disk holds, headers that no entry follows, ends that do not end.

use std::io::Read;
use std::time::{Duration, Instant};

use reroot::unpack::{NoHooks, UnpackOptions, scan};
use reroot::{ByteSize, ErrorKind, Limits};

use crate::arena::Arena;
use crate::forge::{Forge, Header, header};

/// Longer than any of these takes, on a machine that has other things to do too.
const DEADLINE: Duration = Duration::from_secs(60);

/// A stream that begins with some bytes and goes on with others, over and over, so many bytes in all.
struct Repeated {
    first: Vec<u8>,
    again: Vec<u8>,
    at: usize,
    left: u64,
}

impl Read for Repeated {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() && self.left > 0 {
            let rest = match self.first.get(self.at..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => &self.again[(self.at - self.first.len()) % self.again.len()..],
            };
            let length = rest.len().min(out.len() - filled).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            out[filled..filled + length].copy_from_slice(&rest[..length]);
            (filled, self.at, self.left) = (filled + length, self.at + length, self.left - length as u64);
        }
        Ok(filled)
    }
}

fn repeated(first: Forge, again: Forge, length: u64) -> Repeated {
    Repeated { first: first.without_end(), again: again.without_end(), at: 0, left: length }
}

#[track_caller]
fn assert_bounded(what: &str, stream: Repeated, options: &UnpackOptions) {
    let length = stream.left;
    let begun = Instant::now();
    let error = Arena::new().unpack(stream, options).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{what}, of {length} bytes: {}", error.report());
    assert!(begun.elapsed() < DEADLINE, "{what}: {:?}", begun.elapsed());
}

#[test]
fn headers_without_an_entry_come_to_an_end() {
    // Each says that nothing follows it, so that its content counts for nothing: 64 GiB of them.
    let empty = |kind| -> Header { header("nothing", kind, 0) };
    for kind in [b'x', b'g', b'L', b'K', b'V'] {
        assert_bounded(
            &format!("headers of type {}", kind as char),
            repeated(Forge::new(), Forge::new().raw(empty(kind)), 64 << 30),
            &UnpackOptions::default(),
        );
        let scanned =
            scan(repeated(Forge::new(), Forge::new().raw(empty(kind)), 64 << 30), &UnpackOptions::default(), &mut NoHooks);
        assert_eq!(scanned.unwrap_err().kind(), ErrorKind::LimitExceeded);
    }
    // With a little in each.
    assert_bounded("comments", repeated(Forge::new(), Forge::new().pax(&[("comment", b"c")]), 64 << 30), &UnpackOptions::default());
    // And with an entry between any two.
    let between = Forge::new().raw(empty(b'g')).raw(empty(b'x')).dir("d");
    let options = UnpackOptions::default().with_limits(Limits::default().with_entries(10_000));
    assert_bounded("entries between", repeated(Forge::new(), between, 64 << 30), &options);
}

#[test]
fn what_follows_the_end_comes_to_an_end() {
    let zeros = || Forge::new().data(&[0; 1]);
    assert_bounded("zeros", repeated(Forge::new().file("f", b"x"), zeros(), 64 << 30), &UnpackOptions::default());
    let first = Forge::new().file("f", b"x").data(&[0; 1024]);
    assert_bounded("files", repeated(first, Forge::new().file("g", b"y"), 64 << 30), &UnpackOptions::default());
}

#[test]
fn entries_and_data_come_to_an_end() {
    let options = UnpackOptions::default().with_limits(Limits::default().with_entries(3000).with_bytes(ByteSize::mib(8)));
    assert_bounded("directories", repeated(Forge::new(), Forge::new().dir("d"), 64 << 30), &options);
    assert_bounded("links", repeated(Forge::new(), Forge::new().symlink("l", "t"), 64 << 30), &options);
    assert_bounded("data", repeated(Forge::new(), Forge::new().file("f", &[7; 100_000]), 64 << 30), &options);
    let large = Forge::new().raw(header("f", b'0', 60 << 30));
    assert_bounded("one file", repeated(large, Forge::new().data(&[7; 512]), 64 << 30), &options);
    // What has data by its size and is nobody's.
    for kind in [b'D', b'5', b'V'] {
        let passed_over = Forge::new().raw(header("d/", kind, 60 << 30));
        let result = Arena::new().unpack(repeated(passed_over, Forge::new().data(&[7; 512]), 64 << 30), &options);
        assert!(matches!(result.unwrap_err().kind(), ErrorKind::LimitExceeded | ErrorKind::InvalidImage), "{}", kind as char);
    }
}

#[cfg(all(feature = "dir", feature = "zstd", feature = "gzip"))]
mod compressed {
    use std::fs;
    use std::io::Write;

    use reroot::dir::DirVolume;
    use reroot::{Image, Rebuild};

    use super::*;

    /// A file of many zeros, in as few bytes as a compressor makes of them.
    fn squeezed(mut out: impl Write, length: u64) {
        let mut left = repeated(Forge::new().raw(header("zeros", b'0', length)), Forge::new().data(&[0; 65536]), length + 512);
        std::io::copy(&mut left, &mut out).unwrap();
        out.write_all(&[0; 1024]).unwrap();
    }

    #[test]
    fn ratios_are_bounded_by_what_comes_out() {
        const LENGTH: u64 = 1 << 30;
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        squeezed(&mut zstd, LENGTH);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        squeezed(&mut gzip, LENGTH);
        for (name, bomb) in [("zstd", zstd.finish().unwrap()), ("gzip", gzip.finish().unwrap())] {
            assert!((bomb.len() as u64) < LENGTH / 100, "{name} is no bomb: {} bytes", bomb.len());
            let arena = Arena::new();
            let live = arena.path().join("c1");
            let begun = Instant::now();
            let limits = Limits::default().with_bytes(ByteSize::mib(4));
            let image = Image::from_reader(std::io::Cursor::new(bomb), name);
            let error = Rebuild::new(image).limits(limits).run(&mut DirVolume::open(&live).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{name}: {}", error.report());
            assert!(begun.elapsed() < DEADLINE);
            assert!(!live.exists());
            let left: Vec<_> = fs::read_dir(arena.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(!left.iter().any(|name| name.to_string_lossy().contains("staged")), "{left:?}");
        }
    }
}
