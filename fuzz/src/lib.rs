//! What is fuzzed: each target is a function of bytes, which panics at a finding. The library's tests run them over the seeds too.

mod arena;
mod differential;

use std::io::Cursor;
use std::time::Duration;

use reroot::unpack::{NoHooks, Threads, UnpackOptions, Unpacked, scan, unpack as unpack_tar};
use reroot::{ByteSize, CancelToken, Error, ErrorKind, Image, Limits, Result};

pub use self::differential::differential;

use self::arena::Arena;

/// What panics at a finding in some bytes.
pub type Target = fn(&[u8]);

/// The targets, by their names.
pub const TARGETS: &[(&str, Target)] = &[
    ("unpack", unpack),
    ("detect", detect),
    ("pax", pax),
    #[cfg(feature = "oci")]
    ("oci", oci),
    #[cfg(feature = "squashfs")]
    ("squashfs", squashfs),
    ("differential", differential),
];

/// A tar stream: read, and unpacked.
pub fn unpack(data: &[u8]) {
    let data = &mended(data)[..];
    let arena = Arena::new();
    let options = options(data);
    let scanned = scan(data, &options, &mut NoHooks);
    let unpacked = arena.run(|root| unpack_tar(data, root, &options, &mut NoHooks));
    match (scanned, unpacked) {
        (Ok(scanned), Ok(unpacked)) => assert_eq!(scanned, unpacked.tally),
        (Err(error), Ok(_)) => panic!("only a scan fails: {}", error.report()),
        (_, Err(_)) => {}
    }
}

/// A stream of any format, from telling which to unpacking what it holds.
pub fn detect(data: &[u8]) {
    let arena = Arena::new();
    let mut image = Image::from_reader(Cursor::new(data.to_vec()), "fuzz");
    let _ = arena.run(|root| image_into(&mut image, root, data));
}

/// The records of an extended header: of one entry, or of all, by the first byte.
pub fn pax(data: &[u8]) {
    let Some((&first, records)) = data.split_first() else { return };
    let mut archive = header("PaxHeader", if first & 1 == 0 { b'x' } else { b'g' }, records.len() as u64).to_vec();
    archive.extend_from_slice(records);
    archive.resize(archive.len().next_multiple_of(512), 0);
    let (kind, size) = match first >> 1 & 3 {
        0 => (b'5', 0),
        1 => (b'2', 0),
        _ => (b'0', 1024),
    };
    archive.extend_from_slice(&header("entry", kind, size));
    archive.resize(archive.len() + size as usize + 1024, 0);
    unpack(&archive);
}

/// A document of an image in layers, chosen by the first byte; what others say of it is true.
#[cfg(feature = "oci")]
pub fn oci(data: &[u8]) {
    use std::fs;
    let Some((&first, document)) = data.split_first() else { return };
    let arena = Arena::new();
    let image = arena.beside("image");
    let blobs = image.join("blobs/sha256");
    let _ = fs::create_dir_all(&blobs);
    let add = |bytes: &[u8], media: &str| -> String {
        let digest = hex(bytes);
        let _ = fs::write(blobs.join(&digest), bytes);
        format!(r#"{{"mediaType":"application/vnd.oci.image.{media}","digest":"sha256:{digest}","size":{}}}"#, bytes.len())
    };
    let layer = [&header("file", b'0', 0)[..], &[0; 1024]].concat();
    let described = add(&layer, "layer.v1.tar");
    let given = |which: u8, usual: String| if first % 6 == which { document.to_vec() } else { usual.into_bytes() };
    let config =
        format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, hex(&layer));
    let config = add(&given(1, config), "config.v1+json");
    let manifest = add(&given(2, format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{described}]}}"#)), "manifest.v1+json");
    let nested = add(&given(3, format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#)), "index.v1+json");
    let index = given(0, format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, if first % 6 == 3 { &nested } else { &manifest }));
    let _ = fs::write(image.join("index.json"), index);
    let _ = fs::write(image.join("oci-layout"), given(4, r#"{"imageLayoutVersion":"1.0.0"}"#.into()));
    if first % 6 == 5 {
        // A docker archive has its own.
        let _ = fs::remove_file(image.join("index.json"));
        let mut archive = Vec::new();
        for (name, bytes) in [("manifest.json", document), ("layer.tar", &layer), ("config.json", br#"{"os":"linux","rootfs":{}}"#)]
        {
            archive.extend_from_slice(&header(name, b'0', bytes.len() as u64));
            archive.extend_from_slice(bytes);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        archive.resize(archive.len() + 1024, 0);
        let _ = fs::remove_dir_all(&image);
        let _ = fs::write(&image, archive);
    }
    let _ = arena.run(|root| {
        let mut image = Image::open(&image)?;
        image_into(&mut image, root, data)
    });
}

/// A squashfs image: read, and unpacked.
#[cfg(feature = "squashfs")]
pub fn squashfs(data: &[u8]) {
    use reroot::unpack::{scan_squashfs, unpack_squashfs};
    use std::fs::{self, File};
    let arena = Arena::new();
    let path = arena.beside("image");
    let Ok(file) = fs::write(&path, data).and_then(|()| File::open(&path)) else { return };
    let options = options(data);
    let scanned = scan_squashfs(&file, &options, &mut NoHooks);
    let unpacked = arena.run(|root| unpack_squashfs(&file, root, &options, &mut NoHooks));
    if let (Ok(scanned), Ok(unpacked)) = (scanned, unpacked) {
        assert_eq!(scanned, unpacked.tally);
    }
}

fn image_into(image: &mut Image, root: std::os::fd::BorrowedFd<'_>, data: &[u8]) -> Result<Unpacked> {
    let unpacked = image.unpack(root, &options(data), &mut NoHooks, &CancelToken::new(), Duration::from_secs(10));
    unpacked.map(|(unpacked, _)| unpacked)
}

/// Little of everything: so that a run is short, and a path fits the kernel's limits.
fn options(data: &[u8]) -> UnpackOptions {
    let limits = Limits::default().with_entries(200).with_bytes(ByteSize::mib(2)).with_file_size(ByteSize::mib(64));
    let limits = limits.with_path(1024).with_header(ByteSize::kib(64));
    // Threads take time to start, and are all the same at each run: now and then.
    let threads = if data.len() % 8 == 7 { Threads::Own } else { Threads::Caller };
    UnpackOptions::default().with_limits(limits).with_threads(threads)
}

/// What an archive may fail with, and what may be said of it: what is wrong with it is not the system's fault.
fn assert_orderly(error: &Error) {
    use ErrorKind as Kind;
    let orderly = matches!(
        error.kind(),
        Kind::InvalidImage | Kind::UnsafePath | Kind::LimitExceeded | Kind::Unsupported | Kind::DigestMismatch
    );
    let must_be_chosen = matches!(error.kind(), Kind::NotFound | Kind::InvalidInput) && error.operation() == "choose an image";
    assert!(orderly || must_be_chosen || arena::is_limited() && error.kind() == Kind::PermissionDenied, "{}", error.report());
    assert_harmless(&error.report().to_string());
    assert!(!error.to_string().contains('\n'));
}

fn assert_harmless(text: &str) {
    let reorders = |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && !reorders(c)), "{text:?}");
}

/// The stream with the checksum of every header made right, or none would get past it that is not a seed's.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut mended = data.to_vec();
    for block in mended.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    mended
}

/// A header of the caller's own, sealed.
fn header(name: &str, kind: u8, size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    let _ = header.set_path(name);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o755);
    header.set_mtime(1_000_000_000);
    let (uid, gid) = arena::owner();
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    if kind == b'2' {
        let _ = header.set_link_name("target");
    }
    header.set_cksum();
    *header.as_bytes()
}

#[cfg(feature = "oci")]
fn hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
