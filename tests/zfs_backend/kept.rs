//! What a rebuild keeps of the old root's dataset.

use super::*;
use reroot::zfs::DelegationPolicy;
use reroot::{RebuildableVolume, SnapshotPolicy};

/// Native properties with a value that none of them has by itself.
const SET: &[(&str, &str)] = &[
    ("atime", "off"),
    ("relatime", "off"),
    ("devices", "off"),
    ("exec", "off"),
    ("setuid", "off"),
    ("recordsize", "16384"),
    ("compression", "zstd-7"),
    ("checksum", "sha512"),
    ("copies", "2"),
    ("sync", "always"),
    ("logbias", "throughput"),
    ("primarycache", "metadata"),
    ("secondarycache", "none"),
    ("redundant_metadata", "most"),
    ("snapdir", "visible"),
    ("acltype", "posix"),
    ("aclinherit", "passthrough"),
    ("xattr", "dir"),
    ("dnodesize", "auto"),
    ("quota", "2147483648"),
    ("refquota", "1073741824"),
    ("reservation", "33554432"),
    ("refreservation", "16777216"),
    ("snapshot_limit", "77"),
    ("special_small_blocks", "4096"),
    ("sharenfs", "off"),
    ("overlay", "off"),
    ("canmount", "noauto"),
];

#[test]
fn every_local_property_is_kept() {
    let options: Vec<String> = SET.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut words: Vec<&str> = options.iter().flat_map(|option| ["-o", option.as_str()]).collect();
    words.extend(["-o", "user:note=a b\"c", "-o", "com.example:x=1"]);
    let pool = need!(Pool::with_foreign(&words));
    let report = rebuild(&mut pool.volume(), &new()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect("new", &["c1"]);
    for (name, value) in SET.iter().chain(&[("user:note", "a b\"c"), ("com.example:x", "1"), ("mountpoint", "legacy")]) {
        assert_eq!((pool.get(name, "c1").as_str(), pool.source(name, "c1").as_str()), (*value, "local"), "{name}");
    }
    // What nobody set is not set now.
    for name in ["dedup", "nbmand", "vscan"] {
        assert_eq!(pool.source(name, "c1"), "default", "{name}");
    }
}

#[test]
fn every_word_of_a_property_arrives() {
    let pool = need!(Pool::with_foreign(&[]));
    let words: &[(&str, &[&str])] = &[
        (
            "compression",
            &[
                "on",
                "off",
                "lzjb",
                "gzip",
                "gzip-1",
                "gzip-9",
                "zle",
                "lz4",
                "zstd",
                "zstd-19",
                "zstd-fast-1",
                "zstd-fast-10",
                "zstd-fast-1000",
            ],
        ),
        ("checksum", &["on", "off", "fletcher2", "fletcher4", "sha256", "sha512", "skein", "edonr", "blake3"]),
        ("dedup", &["on", "off", "verify", "sha256", "sha256,verify", "skein,verify", "edonr,verify", "blake3,verify"]),
        ("dnodesize", &["legacy", "auto", "1k", "2k", "4k", "8k", "16k"]),
        ("acltype", &["off", "posix", "nfsv4"]),
        ("aclinherit", &["discard", "noallow", "restricted", "passthrough", "passthrough-x"]),
        ("aclmode", &["discard", "groupmask", "passthrough", "restricted"]),
        ("xattr", &["off", "on", "sa", "dir"]),
        ("redundant_metadata", &["all", "most", "some", "none"]),
        ("sync", &["standard", "always", "disabled"]),
        ("prefetch", &["none", "metadata", "all"]),
        ("direct", &["disabled", "standard", "always"]),
        ("readonly", &["on", "off"]),
        ("snapdev", &["visible", "hidden"]),
    ];
    let names = words.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",");
    // Several at a time, each with every word of its own.
    for round in 0..words.iter().map(|(_, words)| words.len()).max().unwrap() {
        let mut set = vec!["set".to_owned()];
        set.extend(words.iter().filter_map(|(name, words)| Some(format!("{name}={}", words.get(round)?))));
        pool.zfs(&set.iter().map(String::as_str).collect::<Vec<_>>(), "c1");
        let all = || pool.zfs(&["get", "-Hp", "-o", "property,value,source", &names], "c1");
        let before = all();
        let report = rebuild(&mut pool.volume(), &new()).unwrap();
        assert_eq!(all(), before, "{report}");
    }
}

#[test]
fn how_names_are_compared_is_kept() {
    let pool = need!(Pool::with_foreign(&["-o", "casesensitivity=insensitive", "-o", "normalization=formC"]));
    for _ in 0..2 {
        rebuild(&mut pool.volume(), &new()).unwrap();
        assert_eq!((pool.get("casesensitivity", "c1"), pool.get("normalization", "c1")), ("insensitive".into(), "formC".into()));
        assert_eq!(pool.get("utf8only", "c1"), "on");
        assert!(pool.visit("c1", |root| root.join("NEW").exists()));
    }
}

#[test]
fn limits_hold_from_the_first_byte() {
    let pool = need!(Pool::with_foreign(&["-o", "refquota=20M"]));
    let mut large = Tree::new();
    large.file("large", vec![7u8; 30 << 20]);
    pool.zfs(&["set", "compression=off"], "c1");
    let error = rebuild(&mut pool.volume(), &large).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace(reroot::Space::Quota), "{}", error.report());
    assert_eq!(error.outcome(), Outcome::RolledBack);
    pool.expect("old", &["c1"]);
    // One that may grow grows.
    let report = Rebuild::new(image(&large)).max_size(reroot::ByteSize::gib(1)).run(&mut pool.volume()).unwrap();
    assert!(report.grown.is_some(), "{report}");
    pool.expect("large", &["c1"]);
    assert_eq!(pool.get("refquota", "c1"), report.grown.unwrap().bytes().to_string());
    // And a size that is asked for is set, on both limits where there are two.
    pool.zfs(&["set", "quota=1G"], "c1");
    Rebuild::new(image(&new())).size(reroot::ByteSize::gib(2)).run(&mut pool.volume()).unwrap();
    assert_eq!((pool.get("quota", "c1"), pool.get("refquota", "c1")), ("2147483648".into(), "2147483648".into()));
    assert!(
        refused(Rebuild::new(image(&new())).size(reroot::ByteSize::gib(1)).run(&mut pool.volume()), ErrorKind::Unsupported)
            .contains("shrink")
    );
}

#[test]
fn an_encrypted_parent_gives_its_key() {
    let pool = need!(Pool::new());
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), [7u8; 32]).unwrap();
    let location = format!("keylocation=file://{}", key.path().display());
    let crypt = ["create", "-o", "mountpoint=none", "-o", "encryption=on", "-o", "keyformat=raw", "-o", &location];
    zfs(&[&crypt[..], &[&pool.name("secret")]].concat()).unwrap();
    let volume = || ZfsVolume::open(&pool.name("secret/c1")).unwrap();
    for tree in [old(), new()] {
        rebuild(&mut volume(), &tree).unwrap();
        assert_eq!(pool.get("encryptionroot", "secret/c1"), pool.name("secret"));
        assert_ne!(pool.get("encryption", "secret/c1"), "off");
    }
    // One with a key of its own would lose it, but not within.
    zfs(&[&crypt[..], &[&pool.name("secret/own")]].concat()).unwrap();
    let mut own = ZfsVolume::open(&pool.name("secret/own")).unwrap();
    assert!(refused(rebuild(&mut own, &new()), ErrorKind::Unsupported).contains("key"));
    Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Keep).run(&mut own).unwrap();
    assert_eq!(pool.get("encryptionroot", "secret/own"), pool.name("secret/own"));
    // Without its key nothing can be done, and the error says what to do.
    zfs(&["unload-key", "-r", &pool.name("secret")]).unwrap();
    let error = rebuild(&mut volume(), &old()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    assert!(error.remedy().unwrap().contains("zfs load-key"), "{}", error.report());
    zfs(&["load-key", "-r", &pool.name("secret")]).unwrap();
}

#[test]
fn received_values_are_kept_and_told_of() {
    let pool = need!(Pool::with_foreign(&["-o", "compression=gzip-3", "-o", "com.example:note=sent"]));
    pool.zfs(&["snapshot"], "c1@s");
    let send = format!("zfs send -p {} | zfs receive -u {}", pool.name("c1@s"), pool.name("c2"));
    run(Command::new("sh").args(["-c", &send])).unwrap();
    pool.zfs(&["destroy"], "c2@s");
    assert_eq!(pool.source("compression", "c2"), "received");
    let mut volume = ZfsVolume::open(&pool.name("c2")).unwrap();
    let report = rebuild(&mut volume, &new()).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.message.contains("received")), "{report}");
    assert_eq!((pool.get("compression", "c2").as_str(), pool.get("com.example:note", "c2").as_str()), ("gzip-3", "sent"));
}

#[test]
fn one_that_mounts_itself_does_so_only_as_the_live_root() {
    let pool = need!(Pool::new());
    let at = tempfile::tempdir().unwrap();
    let mountpoint = format!("mountpoint={}", at.path().display());
    zfs(&["create", "-o", &mountpoint, &pool.name("c1")]).unwrap();
    fs::write(at.path().join("old"), "").unwrap();
    pool.zfs(&["unmount"], "c1");
    // As a kill between the two renames leaves it.
    let mut volume = pool.volume();
    let lock = volume.lock(&reroot::Wait::new(std::time::Duration::ZERO, reroot::CancelToken::new())).unwrap();
    volume.capture().unwrap();
    drop(volume.stage(&reroot::volume::StageSpec::new()).unwrap());
    volume.seal(&reroot::ImageRecord::new(reroot::Origin::Empty), reroot::volume::RootMetadata::Keep).unwrap();
    volume.rename(reroot::volume::Slot::Live, reroot::volume::Slot::Retired).unwrap();
    for root in ["c1.reroot-staged", "c1.reroot-retired"] {
        assert_eq!(pool.get("canmount", root), "noauto");
    }
    drop(lock);
    reroot::recover(&mut pool.volume(), &reroot::Wait::new(std::time::Duration::ZERO, reroot::CancelToken::new())).unwrap();
    assert_eq!((pool.get("canmount", "c1").as_str(), pool.get("mounted", "c1").as_str()), ("on", "no"));
    assert_eq!(pool.get("mountpoint", "c1"), at.path().display().to_string());
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert_eq!(pool.get("canmount", "c1"), "on");
    pool.zfs(&["mount"], "c1");
    assert!(at.path().join("new").exists());
    pool.zfs(&["unmount"], "c1");
    assert_eq!(pool.source("reroot:canmount", "c1"), "-");
}

#[test]
fn what_is_delegated_is_kept_on_demand() {
    let pool = need!(Pool::with_foreign(&[]));
    for words in
        ["-s @own mount,snapshot", "-c destroy", "-u nobody @own,hold", "-l -g daemon rollback", "-d -e create", "-u 12345 hold"]
    {
        let words: Vec<_> = ["allow"].into_iter().chain(words.split(' ')).collect();
        pool.zfs(&words, "c1");
    }
    let before = pool.zfs(&["allow"], "c1");
    let report = rebuild(&mut pool.volume().with_delegation(DelegationPolicy::Keep), &new()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    assert_eq!(pool.zfs(&["allow"], "c1"), before);
    Rebuild::new(image(&old())).snapshots(SnapshotPolicy::Keep).run(&mut pool.volume()).unwrap();
    assert_eq!(pool.zfs(&["allow"], "c1"), before);
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert_eq!(pool.zfs(&["allow"], "c1"), "");
}

#[test]
fn a_root_that_cannot_be_renamed_mounts_itself_as_before() {
    let pool = need!(Pool::new());
    pool.zfs(&["create", "-u", "-o", "mountpoint=/run/reroot-test-c1"], "c1");
    // Beside the volume's name there is no room for it.
    let long = "x".repeat(254 - pool.name("c1").len());
    pool.zfs(&["snapshot"], &format!("c1@{long}"));
    let rebuild = Rebuild::new(image(&new())).snapshots(reroot::SnapshotPolicy::Purge);
    let error = rebuild.run(&mut pool.volume()).unwrap_err();
    assert!(error.remedy().unwrap().contains("shorter"), "{}", error.report());
    assert_eq!((pool.get("canmount", "c1").as_str(), pool.get("reroot:canmount", "c1").as_str()), ("on", "-"));
}
