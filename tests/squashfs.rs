//! What we put on disk is what mksquashfs packed.

#![cfg(all(feature = "squashfs", feature = "conformance"))]

#[path = "squashfs/support.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use reroot::conformance::manifest::Manifest;
use reroot::unpack::{LossKind, LossPolicy, NoHooks, Threads, UnpackOptions, scan_squashfs};
use reroot::{ByteSize, ErrorKind, Limits};

use support::{assert_same, is_available, pack, place, run, try_unpack, unpack};

/// Each way of packing that changes how an image is read.
const WAYS: &[&[&str]] = &[
    &["-comp", "gzip"],
    &["-comp", "zstd"],
    &["-comp", "lzo"],
    &["-comp", "lzo", "-Xalgorithm", "lzo1x_1", "-b", "1M"],
    #[cfg(feature = "xz")]
    &["-comp", "xz"],
    #[cfg(feature = "xz")]
    &["-comp", "xz", "-Xbcj", "x86", "-Xdict-size", "100%", "-b", "1M"],
    #[cfg(feature = "lz4")]
    &["-comp", "lz4"],
    #[cfg(feature = "lz4")]
    &["-comp", "lz4", "-Xhc"],
    &["-comp", "zstd", "-b", "4096"],
    &["-comp", "gzip", "-b", "1M"],
    &["-comp", "zstd", "-no-fragments"],
    &["-comp", "zstd", "-tailends"],
    &["-comp", "zstd", "-always-use-fragments", "-b", "64K"],
    &["-comp", "gzip", "-noI", "-noD", "-noF", "-noX"],
    &["-comp", "gzip", "-noI"],
    &["-comp", "gzip", "-noD"],
    &["-comp", "gzip", "-noF"],
    &["-comp", "gzip", "-noX"],
    &["-comp", "gzip", "-no-exports", "-no-sparse", "-no-duplicates"],
];

#[test]
fn every_way_of_packing() {
    let Some(place) = place("squashfs images") else { return };
    let source = place.tree();
    let expected = Manifest::of(&source).unwrap();
    for way in WAYS {
        let name = way.concat();
        let image = pack(&place, &source, &name, way);
        let (root, unpacked) = unpack(&image, &place.path(&format!("{name}.ours")), &UnpackOptions::new());
        assert!(unpacked.losses.is_empty(), "{way:?}: {}", unpacked.losses);
        assert_same(&format!("{way:?}"), &expected, &root);
        let tally = scan_squashfs(&fs::File::open(&image).unwrap(), &UnpackOptions::new(), &mut NoHooks).unwrap();
        assert_eq!(tally.entries, unpacked.tally.entries, "{way:?}");
        // With `-no-sparse` the holes are stored.
        assert_eq!(tally.bytes, unpacked.tally.bytes, "{way:?}");
        fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn without_threads_the_tree_is_the_same() {
    let Some(place) = place("squashfs images without threads") else { return };
    let source = place.tree();
    let image = pack(&place, &source, "image", &["-comp", "zstd"]);
    let options = UnpackOptions::new().with_threads(Threads::Caller);
    let (root, _) = unpack(&image, &place.path("ours"), &options);
    assert_same("without threads", &Manifest::of(&source).unwrap(), &root);
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    let Some(place) = place("holes in squashfs images") else { return };
    let source = place.build("source", support::SPARSE);
    let image = pack(&place, &source, "image", &["-comp", "gzip"]);
    let (root, unpacked) = unpack(&image, &place.path("ours"), &UnpackOptions::new());
    assert_same("sparse", &Manifest::of(&source).unwrap(), &root);
    assert!(unpacked.tally.bytes < ByteSize::mib(6), "{}", unpacked.tally.bytes);
    for file in ["all-hole", "middle", "huge"] {
        let blocks = fs::metadata(root.join("sparse").join(file)).unwrap().blocks();
        assert!(blocks <= 2 * 256 + 16, "{file} takes {blocks} blocks of 512 bytes");
    }
}

#[test]
fn what_was_appended_is_there_too() {
    let Some(place) = place("appended squashfs images") else { return };
    let source = place.tree();
    let image = pack(&place, &source, "image", &["-comp", "zstd"]);
    let more =
        place.build("more", "mkdir -p added/deep; printf more > added/deep/file; ln added/deep/file added/again; printf x > top");
    run(Command::new("mksquashfs").arg(&more).arg(&image).args(["-no-progress", "-quiet"]));
    let expected = place.path("expected");
    run(Command::new("unsquashfs").args(["-no-progress", "-quiet", "-f", "-d"]).arg(&expected).arg(&image));
    let (root, _) = unpack(&image, &place.path("ours"), &UnpackOptions::new());
    // A directory's own size and count are its file system's matter.
    let names = |root: &Path| {
        let print = ["(", "-type", "d", "-printf", "%P %y %m\n", ")", "-o", "-printf", "%P %y %m %s %n\n"];
        run(Command::new("find").current_dir(root).arg(".").args(print))
    };
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(names(&expected)), sorted(names(&root)));
}

#[test]
fn sockets_are_left_out_and_counted() {
    let Some(place) = place("sockets in squashfs images") else { return };
    let source = place.build("source", "mkdir -p run; printf x > run/file");
    let _listener = std::os::unix::net::UnixListener::bind(source.join("run/socket")).unwrap();
    let image = pack(&place, &source, "image", &["-comp", "gzip"]);
    let (root, unpacked) = unpack(&image, &place.path("ours"), &UnpackOptions::new());
    let losses: Vec<_> = unpacked.losses.iter().map(|loss| (loss.kind.clone(), loss.count, loss.examples.join(","))).collect();
    assert_eq!(losses, [(LossKind::Socket, 1, "run/socket".to_owned())]);
    assert!(root.join("run/file").exists() && !root.join("run/socket").exists());
    let options = UnpackOptions::new().with_losses(LossPolicy::Refuse);
    let error = try_unpack(&image, &place.path("refused"), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lossy);
    assert!(error.to_string().contains("entry run/socket"), "{error}");
    let options = options.with_strip("run".parse().unwrap());
    assert_eq!(try_unpack(&image, &place.path("stripped"), &options).unwrap_err().kind(), ErrorKind::Lossy);
}

#[test]
fn limits_hold() {
    let Some(place) = place("limits on squashfs images") else { return };
    let source = place.tree();
    let image = pack(&place, &source, "image", &["-comp", "gzip"]);
    let limits = Limits::new();
    for (name, limits) in [
        ("entries", limits.with_entries(100)),
        ("bytes", limits.with_bytes(ByteSize::kib(100))),
        ("file_size", limits.with_file_size(ByteSize::kib(100))),
        ("path", limits.with_path(20)),
        // ext4 takes no large attributes.
        ("header", limits.with_header(ByteSize::from_bytes(16))),
    ] {
        let options = UnpackOptions::new().with_limits(limits);
        let error = scan_squashfs(&fs::File::open(&image).unwrap(), &options, &mut NoHooks).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{name}: {error}");
    }
}

#[test]
fn what_is_no_image_is_told_apart() {
    let Some(place) = place("broken squashfs images") else { return };
    let source = place.build("source", "head -c 300000 /dev/urandom > data; printf x > small");
    let bytes = fs::read(pack(&place, &source, "image", &["-comp", "gzip"])).unwrap();
    let scan = |name: &str, bytes: &[u8]| {
        let path = place.path(name);
        fs::write(&path, bytes).unwrap();
        scan_squashfs(&fs::File::open(path).unwrap(), &UnpackOptions::new(), &mut NoHooks)
    };
    let set = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    scan("whole", &bytes).unwrap();
    let used = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
    let error = scan("truncated", &bytes[..used - 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage);
    assert!(error.message().contains("truncated"), "{error}");
    for (name, bytes, kind) in [
        ("empty", Vec::new(), ErrorKind::InvalidImage),
        ("other", set(0, b"ustar"), ErrorKind::InvalidImage),
        ("swapped", set(0, b"sqsh"), ErrorKind::Unsupported),
        ("version", set(28, &[3]), ErrorKind::Unsupported),
        ("lzma", set(20, &[2]), ErrorKind::Unsupported),
        ("block size", set(12, &[1]), ErrorKind::InvalidImage),
        ("huge blocks", set(12, &[0, 0, 0, 1]), ErrorKind::InvalidImage),
    ] {
        let error = scan(name, &bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
    }
}

#[test]
fn a_corrupt_block_is_told_with_its_file() {
    let Some(place) = place("corrupt squashfs images") else { return };
    let source = place.build("source", "mkdir a; seq 1 200000 > a/numbers; printf x > small");
    let image = pack(&place, &source, "image", &["-comp", "gzip", "-no-fragments"]);
    let mut bytes = fs::read(&image).unwrap();
    bytes[2000..2064].fill(0xff);
    fs::write(&image, bytes).unwrap();
    let error = try_unpack(&image, &place.path("ours"), &UnpackOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage, "{error}");
    let context: Vec<_> = error.context().collect();
    assert!(context.contains(&("entry", "a/numbers")) && context.contains(&("offset", "96")), "{error}");
}

/// Thousands of broken images: no panic, and none takes for ever.
#[test]
fn no_image_makes_us_panic() {
    use std::os::unix::fs::FileExt;
    if !is_available("mutated squashfs images") {
        return;
    }
    let place = support::Place::new();
    let source = place.build("source", support::SMALL);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let limits = Limits::new().with_bytes(ByteSize::mib(64)).with_entries(10_000);
    let options = UnpackOptions::new().with_limits(limits);
    let (mut taken, mut refused) = (0, 0);
    for way in [&["-comp", "gzip", "-noI", "-noX", "-b", "4096"][..], &["-comp", "gzip"], &["-comp", "zstd"], &["-comp", "lzo"]] {
        let image = pack(&place, &source, &way.concat(), way);
        let whole = fs::read(&image).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
        for round in 0..1500 {
            let mut broken = whole.clone();
            for _ in 0..1 + random(4) {
                // Half of them in the tables, which are at the end, or in the superblock.
                let at = match random(4) {
                    0 => random(96),
                    1 => broken.len() - 1 - random(broken.len().min(4096)),
                    _ => random(broken.len()),
                };
                broken[at] = match random(4) {
                    0 => 0xff,
                    1 => 0,
                    2 => broken[at] ^ (1 << random(8)),
                    _ => random(256) as u8,
                };
            }
            if round % 10 == 0 {
                broken.truncate(random(broken.len()));
            }
            file.set_len(0).unwrap();
            file.write_all_at(&broken, 0).unwrap();
            let begun = std::time::Instant::now();
            match scan_squashfs(&file, &options, &mut NoHooks) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
            assert!(begun.elapsed().as_secs() < 20, "{way:?}, round {round}, takes too long");
        }
    }
    assert!(taken > 0 && refused > taken / 10, "{taken} taken, {refused} refused");
}

#[test]
fn debian_is_what_was_packed() {
    let Some(place) = place("a Debian root filesystem in squashfs") else { return };
    let Some(source) = support::debian(&place) else { return };
    let expected = Manifest::of(&source).unwrap();
    assert!(expected.len() > 5_000, "that is no Debian: {} entries", expected.len());
    for way in [&["-comp", "zstd"][..], &["-comp", "gzip"]] {
        let name = way.concat();
        let image = pack(&place, &source, &name, &[way, &["-Xcompression-level", "3"]].concat());
        let (root, unpacked) = unpack(&image, &place.path(&format!("{name}.ours")), &UnpackOptions::new());
        assert!(unpacked.losses.is_empty(), "{}", unpacked.losses);
        assert_same(&name, &expected, &root);
    }
}
