//! Images of every format, whole and damaged.

use lz4_flex::frame::{BlockMode, FrameInfo};

use super::stream::Stream;
use super::*;
use crate::progress::CancelToken;
use std::io::{Read, Write};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(100_000);
    header.set_cksum();
    let content: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    builder.append_data(&mut header, "file", &content[..]).unwrap();
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.set_pledged_src_size(Some(bytes.len() as u64)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Begins to read an image's stream.
fn start(image: &mut Image, patience: Duration) -> Result<Stream> {
    let reading = Reading { cancel: &CancelToken::new(), patience, position: Position::default() };
    let Content::Stream(input) = std::mem::replace(&mut image.content, Content::Spent) else { panic!("it is no stream") };
    Stream::new(image.source(input, &reading)?, image.decoding)
}

/// Reads the rest of it, and checks its digest.
fn finish(image: &mut Image, stream: Stream) -> Result<Sha256> {
    let (digest, input) = stream.finish()?;
    image.content = Content::Stream(input);
    check_expected(image.expected, digest).map(|()| digest)
}

fn decode(image: &mut Image) -> Result<(Vec<u8>, Sha256)> {
    let mut stream = start(image, PATIENCE)?;
    let mut out = Vec::new();
    stream.read_to_end(&mut out).map_err(|error| error.downcast::<Error>().unwrap())?;
    let digest = finish(image, stream)?;
    Ok((out, digest))
}

fn from(bytes: Vec<u8>) -> Image {
    Image::from_reader(std::io::Cursor::new(bytes), "test")
}

type Encoder = fn(&[u8]) -> Vec<u8>;

/// Formats that are checked by a sum, with an encoder for each way that their writers have.
const CHECKED: &[(&str, Encoder)] = &[
    ("gzip", gzip),
    ("zstd", zstd),
    ("xz", xz),
    ("xz in blocks", xz_blocks),
    ("bzip2", bzip2),
    ("lz4", |bytes| lz4(bytes, FrameInfo::new().content_checksum(true))),
    ("lz4, linked", |bytes| lz4(bytes, FrameInfo::new().content_checksum(true).block_mode(BlockMode::Linked))),
    ("lz4, checked by block", |bytes| lz4(bytes, FrameInfo::new().block_checksums(true).content_size(Some(bytes.len() as u64)))),
];

/// Those that are not.
const UNCHECKED: &[(&str, Encoder)] = &[("lzma", lzma), ("lz4, legacy", |bytes| lz4(bytes, FrameInfo::new().legacy_frame(true)))];

fn xz(bytes: &[u8]) -> Vec<u8> {
    encode(liblzma::stream::Stream::new_easy_encoder(1, liblzma::stream::Check::Crc64).unwrap(), bytes)
}

fn xz_blocks(bytes: &[u8]) -> Vec<u8> {
    let mut builder = liblzma::stream::MtStreamBuilder::new();
    builder.threads(2).preset(0).block_size(16 << 10).check(liblzma::stream::Check::Sha256);
    encode(builder.encoder().unwrap(), bytes)
}

fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    encode(liblzma::stream::Stream::new_lzma_encoder(&options).unwrap(), bytes)
}

fn encode(stream: liblzma::stream::Stream, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lz4(bytes: &[u8], info: FrameInfo) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Decodes with both kinds of [`Decoding`], which must agree.
fn decode_bytes(bytes: &[u8]) -> Result<Vec<u8>> {
    let [parallel, serial] = [Decoding::Parallel, Decoding::Serial]
        .map(|decoding| decode(&mut from(bytes.to_vec()).with_decoding(decoding)).map(|(out, _)| out));
    match (&parallel, &serial) {
        (Ok(parallel), Ok(serial)) => assert!(parallel == serial),
        (Err(parallel), Err(serial)) => assert_eq!(parallel.kind(), serial.kind(), "{parallel} / {serial}"),
        (parallel, serial) => panic!("{:?} / {:?}", parallel.as_ref().map(Vec::len), serial.as_ref().map(Vec::len)),
    }
    parallel
}

#[test]
fn streams_of_every_format_decode_whole() {
    let tar = tar();
    let (first, second) = tar.split_at(70_000);
    assert!(decode_bytes(&tar).unwrap() == tar);
    for (name, encode) in CHECKED.iter().chain(UNCHECKED) {
        assert!(decode_bytes(&encode(&tar)).unwrap() == tar, "{name}");
        if *name != "lzma" {
            assert!(decode_bytes(&[encode(first), encode(second)].concat()).unwrap() == tar, "{name}, joined");
        }
    }
    for encode in [zstd, CHECKED[5].1, CHECKED[6].1, UNCHECKED[1].1] {
        for skippable in [&b"\x50\x2a\x4d\x18\x04\0\0\0abcd"[..], b"\x5f\x2a\x4d\x18\0\0\0\0"] {
            assert!(decode_bytes(&[skippable, &encode(&tar)].concat()).unwrap() == tar);
            assert!(decode_bytes(&[&encode(first), skippable, skippable, &encode(second), skippable].concat()).unwrap() == tar);
        }
    }
    let legacy_then_not = [UNCHECKED[1].1(first), CHECKED[5].1(second)].concat();
    assert!(decode_bytes(&legacy_then_not).unwrap() == tar);
}

#[test]
fn the_digest_is_that_of_the_compressed_bytes() {
    let bytes = [xz(&tar()), vec![0; 8]].concat();
    let mut hasher = crate::digest::Hasher::new();
    hasher.update(&bytes);
    assert_eq!(decode(&mut from(bytes)).unwrap().1, hasher.finish());
}

#[test]
fn large_streams_cross_every_buffer() {
    let mut random = 1u32;
    let mut bytes = tar();
    while bytes.len() < 9 << 20 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let again = random as usize % (bytes.len() - 5000);
        let length = random as usize >> 20;
        bytes.extend_from_within(again..again + length);
        bytes.extend(random.to_le_bytes());
    }
    for (name, encode) in CHECKED.iter().chain(UNCHECKED) {
        assert!(decode_bytes(&encode(&bytes)).unwrap() == bytes, "{name}");
    }
}

/// Places in a stream of `length` bytes, the first and the last ones among them.
fn places(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |&at| at < 40 || at + 40 > length || at % 997 == 0)
}

#[test]
fn a_cut_stream_is_an_error_with_its_offset() {
    for (name, encode) in CHECKED.iter().chain(&UNCHECKED[..1]) {
        let bytes = encode(&tar());
        for cut in places(bytes.len()).skip(1) {
            let error = decode_bytes(&bytes[..cut]).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{name}: {error:?}");
            assert!(error.context().any(|(key, _)| key == "offset"), "{name}: {error:?}");
            if cut >= 13 {
                assert!(error.message().ends_with("stream is truncated"), "{name} at {cut}: {error:?}");
                assert!(error.remedy().is_some());
            }
        }
    }
}

#[test]
fn a_flipped_bit_never_changes_the_content() {
    let tar = tar();
    for (name, encode) in CHECKED {
        let mut bytes = encode(&tar);
        let mut refused = 0;
        let all: Vec<_> = places(bytes.len()).collect();
        for &at in &all {
            let bit = 1 << (at % 8);
            bytes[at] ^= bit;
            match decode_bytes(&bytes) {
                Ok(out) => assert!(out == tar, "{name}: bit {bit} of byte {at} changed the content"),
                Err(error) => {
                    let kind = error.kind();
                    let expected = [ErrorKind::InvalidImage, ErrorKind::Unsupported, ErrorKind::LimitExceeded];
                    assert!(expected.contains(&kind), "{name}: {error:?}");
                    refused += 1;
                }
            }
            bytes[at] ^= bit;
        }
        // Some bits mean nothing: those of a time or a system in a header, and what fills up the last byte.
        assert!(refused + 20 > all.len(), "{name}: {refused} of {}", all.len());
    }
    for (_, encode) in UNCHECKED {
        let mut bytes = encode(&tar);
        for at in places(bytes.len()).collect::<Vec<_>>() {
            bytes[at] ^= 0x10;
            // Nothing can be told of what comes out, but that both ways of decoding agree on it.
            let _ = decode_bytes(&bytes);
            bytes[at] ^= 0x10;
        }
    }
}

#[test]
fn nothing_but_padding_may_follow_the_last_member() {
    let tar = tar();
    for (name, encode) in CHECKED.iter().chain(UNCHECKED) {
        let bytes = encode(&tar);
        let with = |tail: &[u8]| decode_bytes(&[&bytes[..], tail].concat());
        if *name != "lz4, legacy" {
            assert!(with(&[0; 200_000]).unwrap() == tar, "{name}");
        }
        for tail in [&b"garbage, and more of it"[..], b"\0\0\0\0garbage"] {
            assert_eq!(with(tail).expect_err(name).kind(), ErrorKind::InvalidImage, "{name}");
        }
    }
    assert_eq!(decode_bytes(&[&xz(&tar)[..], &[0; 6]].concat()).unwrap_err().kind(), ErrorKind::InvalidImage);
    assert!(decode_bytes(&[&xz(&tar[..70_000])[..], &[0; 12], &xz(&tar[70_000..])].concat()).unwrap() == tar);
}

#[test]
fn what_follows_the_archive_is_limited() {
    let finish = |zeros: usize| {
        let tar = tar();
        let mut image = from(zstd(&[&tar[..], &vec![0; zeros]].concat()));
        let mut stream = start(&mut image, PATIENCE).unwrap();
        stream.read_exact(&mut vec![0; tar.len()]).unwrap();
        finish(&mut image, stream)
    };
    finish(60 << 20).unwrap();
    let error = finish(65 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    assert!(error.context().any(|(key, _)| key == "offset"));
}

#[test]
fn what_is_compressed_but_no_tar_stream_is_said_to_be_none() {
    for inside in [&b"hsqs"[..], b"\xfd7zXZ\0", &[b'x'; 600], &gzip(&tar())] {
        let inside = [inside, &[7; 600]].concat();
        for (name, encode) in CHECKED.iter().chain(UNCHECKED) {
            let stream = start(&mut from(encode(&inside)), PATIENCE).unwrap();
            let options = crate::unpack::UnpackOptions::new();
            let error = crate::unpack::scan(stream, &options, &mut crate::unpack::NoHooks).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{name}: {error:?}");
            assert_eq!(error.message(), "this is not a tar stream", "{name}");
        }
    }
}

#[test]
fn a_dictionary_beyond_the_limit_is_refused_and_the_limit_itself_is_not() {
    // The size is a byte in the header of the first block, which its CRC follows; no small stream minds a larger one.
    let xz_with = |size: u8| {
        let mut bytes = xz(&tar());
        assert_eq!((bytes[12], bytes[14], bytes[15]), (2, 0x21, 1));
        bytes[16] = size;
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..20]);
        bytes[20..24].copy_from_slice(&crc.sum().to_le_bytes());
        bytes
    };
    let lzma_with = |size: u32| {
        let mut bytes = lzma(&tar());
        bytes[1..5].copy_from_slice(&size.to_le_bytes());
        bytes
    };
    for allowed in [xz_with(28), xz_with(29), lzma_with(96 << 20)] {
        assert!(decode_bytes(&allowed).unwrap() == tar());
    }
    for refused in [xz_with(30), xz_with(40), lzma_with(128 << 20), lzma_with(3 << 30)] {
        let error = decode_bytes(&refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
        assert!(error.remedy().unwrap().contains("xz -9"));
    }
    assert_eq!(decode_bytes(&xz_with(63)).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn some_formats_tell_the_size_of_what_they_hold() {
    let size = tar().len() as u64;
    let told = |bytes: &[u8]| Format::detect(&bytes[..512]).unwrap().content_size(&bytes[..512]);
    assert_eq!(told(&zstd(&tar())), Some(size));
    assert_eq!(told(&CHECKED[7].1(&tar())), Some(size));
    assert_eq!(told(&CHECKED[5].1(&tar())), None);
    let mut known = lzma(&tar());
    assert_eq!(told(&known), None);
    known[5..13].copy_from_slice(&size.to_le_bytes());
    assert_eq!(told(&known), Some(size));
}

#[test]
fn a_window_beyond_the_limit_is_refused_and_the_limit_itself_is_not() {
    // Without a pledged size the encoder asks for the whole window, however little follows.
    let long = |log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&tar()).unwrap();
        encoder.finish().unwrap()
    };
    decode(&mut from(long(25))).unwrap();
    let error = decode(&mut from(long(27))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
}

#[test]
fn a_file_can_be_read_twice_and_its_digest_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.wrong-name");
    std::fs::write(&path, zstd(&tar())).unwrap();
    let mut image = Image::open(&path).unwrap();
    assert_eq!(image.need().expected, Some(ByteSize::from_bytes(tar().len() as u64)));
    assert!(image.is_rereadable());
    let (first, digest) = decode(&mut image).unwrap();
    let mut image = image.with_sha256(digest);
    assert!(decode(&mut image).unwrap().0 == first);
    let record = image.record(Some(digest));
    let mut again = Image::from_record(&record).unwrap();
    assert!(decode(&mut again).unwrap().0 == first);
    std::fs::write(&path, gzip(&tar())).unwrap();
    let error = decode(&mut Image::from_record(&record).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[test]
fn what_is_no_image_is_refused_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Image::open(dir.path()).unwrap_err().kind(), ErrorKind::InvalidImage);
    assert_eq!(Image::open(dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(Image::open(&empty).unwrap_err().message(), "it is empty");
    for bad in ["", "/", "/rootfs", "a/../b", ".."] {
        assert!(Image::empty().with_strip(bad).is_err(), "{bad}");
    }
    assert_eq!(Image::empty().with_strip("./a/./b/").unwrap().strip.unwrap().as_path(), Path::new("a/b"));
}

#[test]
fn a_named_pipe_is_waited_for_and_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let mut image = Image::open(&path).unwrap();
    assert!(!image.is_rereadable());
    let error = start(&mut image, Duration::from_millis(80)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::InvalidImage), "{error:?}");
}
