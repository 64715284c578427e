//! Finding a base, or making it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use reroot::base::{BaseOptions, BaseState};
use reroot::conformance::{Manifest, Tree};
use reroot::image::Layout;
use reroot::{DevicePolicy, ErrorKind, IdMap, IdShift, Image, Limits, LossPolicy, Outcome};

use super::common::loopfs::run;
use super::{Stand, Work, anew, digest_of, ensure_and_watch, failed, from_base, list, no_wait, shown, tree};

/// Longer than a file has to be as it is.
const SETTLED: Duration = Duration::from_millis(2100);

#[test]
fn a_base_is_made_once_and_a_file_is_read_once() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let ensure = || shown(ensure_and_watch(&stand.bases(), Image::open(&path).unwrap(), &BaseOptions::default()));
    let (first, work) = ensure();
    assert_eq!(work, Work { read: true, made: true });
    assert_eq!(first.name().to_string(), digest_of(&path).to_string());
    assert_eq!(stand.kept(), [first.name().to_string(), format!("{}.reroot-lock", first.name())]);
    // It was changed a moment ago: the next change might not show in its times.
    let (_, work) = ensure();
    assert_eq!(work, Work { read: true, made: false });
    assert!(!stand.folder_of_bases().join("memo").exists());

    std::thread::sleep(SETTLED);
    let works: Vec<_> = (0..3).map(|_| ensure().1).collect();
    assert_eq!(works, [true, false, false].map(|read| Work { read, made: false }));
    // Of the same length and with the same time of change, but another: the kernel knows.
    let before = fs::metadata(&path).unwrap();
    let other = tree("b").to_tar().unwrap();
    assert_eq!(other.len() as u64, before.len());
    fs::write(&path, other).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before.modified().unwrap());
    let (second, work) = ensure();
    assert_eq!(work, Work { read: true, made: true });
    assert_ne!(first.name(), second.name());
    assert_eq!(fs::read_to_string(stand.path_of(&second).join("etc/hostname")).unwrap(), "b");

    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&stand.folder_of_bases()), 0o700);
    let names: Vec<_> = stand.bases().list().unwrap().into_iter().map(|info| (info.name, info.state)).collect();
    let mut expected = [first, second].map(|base| (base.name().clone(), BaseState::Complete));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(names, expected);
    // With the last to hold it goes the lock.
    assert!(!list(&stand.folder_of_bases()).iter().any(|name| name.ends_with("-lock")));
}

#[test]
fn a_base_that_is_asked_for_by_its_digest_takes_no_reading() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let digest = digest_of(&path);
    let options = BaseOptions::default();
    let (base, work) = shown(ensure_and_watch(&stand.bases(), Image::open(&path).unwrap().with_sha256(digest), &options));
    assert_eq!(work, Work { read: false, made: true });
    // The first block has to be that of a tar: to open an image is to find out what it is.
    let garbage = fs::read(&path).unwrap();
    fs::write(&path, garbage.iter().enumerate().map(|(at, byte)| if at < 512 { *byte } else { byte ^ 0x55 }).collect::<Vec<_>>())
        .unwrap();
    let (again, work) = shown(ensure_and_watch(&stand.bases(), Image::open(&path).unwrap().with_sha256(digest), &options));
    assert_eq!((work, again.name()), (Work { read: false, made: false }, base.name()));
    drop(again);
    assert_eq!(shown(stand.bases().find(base.name(), &no_wait())).unwrap().record().digest, Some(digest));

    // Without a digest a stream is worth nothing: it would be read to know whether it has to be.
    let stream = || Image::from_reader(std::io::Cursor::new(tree("s").to_tar().unwrap()), "s");
    let error = failed(stand.bases().ensure(stream(), &options));
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::Untouched));
    assert!(error.remedy().unwrap().contains("digest") && error.report().to_string().contains("reroot-test"), "{}", error.report());
    let path = stand.image("s.tar", &tree("s"));
    let (base, work) = shown(ensure_and_watch(&stand.bases(), stream().with_sha256(digest_of(&path)), &options));
    assert_eq!(work, Work { read: false, made: true });
    assert_eq!(shown(stand.bases().name_of(&Image::open(&path).unwrap(), &options)), *base.name());
    // And the origin of what was read as a stream is a stream.
    stand.rebuild("c1", &base);
    let error = failed(Image::from_record(&stand.volume("c1").record().unwrap().unwrap()));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.report());

    let error = failed(stand.bases().ensure(Image::empty(), &options));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = failed(stand.bases().ensure(base.image(), &options));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_a_kill_left_is_made_anew() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let name = digest_of(&path).to_string();
    let folder = stand.folder_of_bases();
    let leave = |suffix: &str| {
        let root = folder.join(format!("{name}{suffix}"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/junk"), "junk").unwrap();
    };
    for suffixes in [&["staged"][..], &["retired"], &["staged", "retired"]] {
        suffixes.iter().for_each(|suffix| leave(&format!(".reroot-{suffix}")));
        fs::write(folder.join(format!("{name}.reroot-lock")), "99999999\n").unwrap();
        fs::write(folder.join("memo.new"), "half").unwrap();
        let found = stand.bases().list().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].state, found[0].record.is_none()), (BaseState::Unfinished, true), "{found:?}");
        assert_eq!(found[0].to_string(), format!("{name}\n  unfinished"));
        assert!(shown(stand.bases().find(&name.parse().unwrap(), &no_wait())).is_none());
        let base = if suffixes.len() == 2 {
            // This says that the staged one is whole, as between two renames: it never is one of a base's states.
            shown(stand.bases().remove(&name.parse().unwrap(), &super::soon()));
            stand.ensure(&path)
        } else {
            stand.ensure(&path)
        };
        assert_eq!(fs::read_to_string(stand.path_of(&base).join("etc/hostname")).unwrap(), "a", "{suffixes:?}");
        assert!(!stand.path_of(&base).join("etc/junk").exists());
        drop(base);
        assert_eq!(stand.kept().iter().filter(|kept| *kept != "memo.new").collect::<Vec<_>>(), [&name]);
        shown(stand.bases().remove(&name.parse().unwrap(), &super::soon()));
    }
}

#[test]
fn a_damaged_or_a_wrong_image_leaves_no_base() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let whole = fs::read(&path).unwrap();
    let short = stand.path("images/short.tar");
    fs::write(&short, &whole[..5000]).unwrap();
    let error = failed(stand.bases().ensure(Image::open(&short).unwrap(), &BaseOptions::default()));
    assert_eq!(error.kind(), ErrorKind::InvalidImage, "{}", error.report());
    assert_ne!(error.outcome(), Outcome::Interrupted, "{}", error.report());
    assert_eq!(stand.kept(), [""; 0]);
    let wrong = digest_of(&short);
    let error = failed(stand.bases().ensure(Image::open(&path).unwrap().with_sha256(wrong), &BaseOptions::default()));
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{}", error.report());
    assert_eq!(stand.kept(), [""; 0]);
    assert!(stand.bases().list().unwrap().is_empty());
    // A limit is not part of a base's name, but it holds while one is made.
    let few = BaseOptions::new().with_limits(Limits::new().with_entries(2));
    let error = failed(stand.bases().ensure(Image::open(&path).unwrap(), &few));
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{}", error.report());
    assert_eq!(stand.kept(), [""; 0]);
    let base = stand.ensure(&path);
    drop(shown(stand.bases().ensure(Image::open(&path).unwrap(), &few)));
    // Nor does one hold for what is there already.
    let report = shown(from_base(&base).limits(Limits::new().with_entries(2)).run(&mut *stand.volume("c1")));
    assert_eq!(report.entries, 5);
}

#[test]
fn what_shapes_the_content_makes_a_base_of_its_own() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let name = |image: Image, options: &BaseOptions| shown(stand.bases().name_of(&image, options)).to_string();
    let image = || Image::open(&path).unwrap();
    let plain = name(image(), &BaseOptions::new());
    let shift = |host| {
        let map: IdMap = format!("0 {host} 65536").parse().unwrap();
        BaseOptions::new().with_shift(IdShift::new(map.clone(), map))
    };
    let mut names = vec![
        plain.clone(),
        name(image(), &BaseOptions::new().with_devices(DevicePolicy::Skip)),
        name(image(), &BaseOptions::new().with_devices(DevicePolicy::Refuse)),
        name(image(), &shift(100_000)),
        name(image(), &shift(200_000)),
        name(image().with_strip("etc").unwrap(), &BaseOptions::new()),
        name(image().with_layout(Layout::Root).unwrap(), &BaseOptions::new()),
    ];
    assert!(names.iter().all(|name| name.starts_with(&plain)), "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 7, "{names:?}");
    let same = [
        BaseOptions::new().with_losses(LossPolicy::Refuse),
        BaseOptions::new().with_limits(Limits::new().with_entries(1)),
        BaseOptions::new().with_wait(Duration::ZERO),
    ];
    for options in same {
        assert_eq!(name(image(), &options), plain);
    }
    let stripped = shown(stand.bases().ensure(image().with_strip("etc").unwrap(), &BaseOptions::new()));
    assert_eq!(list(&stand.path_of(&stripped)), ["hostname", "link", "same"]);
    stand.ensure(&path);
    assert_eq!(stand.bases().list().unwrap().len(), 2);
    // What was settled when the base was made cannot be asked for again; what was stripped once is not stripped twice.
    let error = failed(from_base(&stripped).shift(shift(100_000).shift.unwrap()).run(&mut *stand.volume("c1")));
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidInput, Outcome::Untouched));
    stand.rebuild("c1", &stripped);
    assert_eq!(list(&stand.root("c1")), ["hostname", "link", "same"]);
    let record = stand.volume("c1").record().unwrap().unwrap();
    assert_eq!(record.strip.as_deref(), Some("etc".as_ref()));
    shown(anew(shown(Image::from_record(&record))).run(&mut *stand.volume("c1")));
    assert_eq!(list(&stand.root("c1")), ["hostname", "link", "same"]);
}

#[test]
fn an_image_in_two_files_has_a_base() {
    let stand = Stand::new();
    let source = stand.path("source");
    fs::create_dir_all(source.join("rootfs/etc")).unwrap();
    fs::write(source.join("rootfs/etc/hostname"), "split\n").unwrap();
    fs::write(source.join("metadata.yaml"), "architecture: x86_64\n").unwrap();
    let pack = |name: &str, folder: &str, member: &str| {
        let path = stand.path("images").join(name);
        run(Command::new("tar").arg("-C").arg(source.join(folder)).arg("-cf").arg(&path).arg(member)).unwrap();
        path
    };
    let (metadata, rootfs) = (pack("meta.tar", ".", "metadata.yaml"), pack("rootfs.tar", "rootfs", "."));
    let open = || Image::lxd_split(&metadata, &rootfs).unwrap();
    let (base, work) = shown(ensure_and_watch(&stand.bases(), open(), &BaseOptions::default()));
    assert_eq!(work, Work { read: true, made: true });
    let both = stand.path("both");
    fs::write(&both, [fs::read(&metadata).unwrap(), fs::read(&rootfs).unwrap()].concat()).unwrap();
    assert_eq!(base.name().image(), digest_of(&both));
    std::thread::sleep(SETTLED);
    let works: Vec<_> = (0..2).map(|_| shown(ensure_and_watch(&stand.bases(), open(), &BaseOptions::default())).1.read).collect();
    assert_eq!(works, [true, false]);
    // Other metadata, another image.
    fs::write(source.join("metadata.yaml"), "architecture: i686\n").unwrap();
    pack("meta.tar", ".", "metadata.yaml");
    let (other, work) = shown(ensure_and_watch(&stand.bases(), open(), &BaseOptions::default()));
    assert!(work.read && work.made && other.name() != base.name());
    stand.rebuild("c1", &base);
    assert_eq!(fs::read_to_string(stand.root("c1").join("etc/hostname")).unwrap(), "split\n");
}

#[test]
fn what_looks_like_an_image_in_a_base_is_not_taken_for_one() {
    let stand = Stand::new();
    let mut tree = Tree::new();
    tree.file("metadata.yaml", "architecture: x86_64\n");
    tree.file("rootfs/etc/hostname", "inner");
    let path = stand.image("a.tar", &tree);
    let plain = Image::open(&path).unwrap().with_layout(Layout::Root).unwrap();
    let base = shown(stand.bases().ensure(plain, &BaseOptions::default()));
    stand.rebuild("c1", &base);
    assert_eq!(list(&stand.root("c1")), ["metadata.yaml", "rootfs"]);
    let base = stand.ensure(&path);
    stand.rebuild("c1", &base);
    assert_eq!(list(&stand.root("c1")), ["etc"]);
    assert_eq!(fs::read_to_string(stand.root("c1").join("etc/hostname")).unwrap(), "inner");
}

#[cfg(feature = "oci")]
#[test]
fn an_image_in_layers_is_known_by_its_manifest() {
    use sha2::Digest;
    let stand = Stand::new();
    let layout = stand.path("images/layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
        (digest, bytes.len())
    };
    let (layer, length) = blob(&tree("layer").to_tar().unwrap());
    let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let config = serde_json::json!({"os": "linux", "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]}});
    let (config, config_length) = blob(config.to_string().as_bytes());
    let kind = |what: &str| format!("application/vnd.oci.image.{what}");
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": kind("manifest.v1+json"),
        "config": {"mediaType": kind("config.v1+json"), "digest": format!("sha256:{config}"), "size": config_length},
        "layers": [{"mediaType": kind("layer.v1.tar"), "digest": format!("sha256:{layer}"), "size": length}]});
    let (manifest, manifest_length) = blob(manifest.to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": kind("manifest.v1+json"), "digest": format!("sha256:{manifest}"), "size": manifest_length}]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();

    let options = BaseOptions::default();
    let (base, work) = shown(ensure_and_watch(&stand.bases(), Image::open(&layout).unwrap(), &options));
    assert_eq!((work, base.name().to_string()), (Work { read: false, made: true }, manifest.clone()));
    // Its layers are not read where the base is there.
    fs::write(layout.join("blobs/sha256").join(&layer), vec![b'x'; length]).unwrap();
    let (again, work) = shown(ensure_and_watch(&stand.bases(), Image::open(&layout).unwrap(), &options));
    assert_eq!((work, again.name()), (Work { read: false, made: false }, base.name()));
    stand.rebuild("c1", &base);
    let differences = Manifest::of(&stand.path_of(&base)).unwrap();
    let copied = Manifest::of(&stand.root("c1")).unwrap();
    assert!(differences.diff(&copied).is_empty(), "{}", differences.diff(&copied));
}

#[test]
fn the_use_of_a_base_is_noted_to_a_minute() {
    let stand = Stand::new();
    let path = stand.image("a.tar", &tree("a"));
    let base = stand.ensure(&path);
    let file = stand.folder_of_bases().join(format!("{}.reroot-used", base.name()));
    let set = |ago: i64| {
        let now = SystemTime::now();
        let time = if ago < 0 { now + Duration::from_secs(-ago as u64) } else { now - Duration::from_secs(ago as u64) };
        fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    };
    let used = || SystemTime::now().duration_since(fs::metadata(&file).unwrap().modified().unwrap()).map(|age| age.as_secs());
    assert!(used().unwrap() < 30);
    set(40);
    drop(stand.ensure(&path));
    assert!(used().unwrap() >= 40);
    set(4000);
    drop(shown(stand.bases().find(base.name(), &no_wait())).unwrap());
    assert!(used().unwrap() < 30);
    // A clock that was wrong.
    set(-4000);
    drop(stand.ensure(&path));
    assert!(used().unwrap() < 30);
    fs::remove_file(&file).unwrap();
    drop(stand.ensure(&path));
    assert!(used().unwrap() < 30);
}
