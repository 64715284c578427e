//! What a rebuild keeps of the old root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use reroot::btrfs::ReadOnlyPolicy;
use reroot::{Rebuild, RebuildableVolume, Strategy};

use super::loopfs::run;
use super::{Pool, file_image, need, new, old, rebuild};

fn property(pool: &Pool, path: &str, name: &str) -> String {
    let shown = run(Command::new("btrfs").args(["property", "get", "-ts"]).arg(pool.path(path)).arg(name));
    let shown = shown.or_else(|_| run(Command::new("btrfs").args(["property", "get"]).arg(pool.path(path)).arg(name)));
    shown.unwrap().trim().to_owned()
}

fn flags(pool: &Pool, path: &str) -> String {
    run(Command::new("lsattr").arg("-d").arg(pool.path(path))).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn compression_and_the_directory_itself() {
    let pool = need!(Pool::with_old(128));
    let root = pool.root();
    run(Command::new("btrfs").args(["property", "set"]).arg(&root).args(["compression", "zstd"])).unwrap();
    chown(&root, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o2751)).unwrap();
    run(Command::new("setfacl").args(["-m", "u:77:rx,d:u:78:rwx"]).arg(&root)).unwrap();
    run(Command::new("setfattr").args(["-n", "user.mine", "-v", "x"]).arg(&root)).unwrap();
    let acl = run(Command::new("getfacl").args(["-n", "--absolute-names"]).arg(&root)).unwrap();
    let mode = fs::metadata(&root).unwrap().mode();
    let report = rebuild(&mut pool.volume(), &new()).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    pool.expect_only("new");
    assert_eq!(property(&pool, "containers/c1", "compression"), "compression=zstd");
    // What was written since then is compressed too.
    assert_eq!(property(&pool, "containers/c1/new", "compression"), "compression=zstd");
    let made = fs::metadata(&root).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode()), (1234, 4321, mode));
    assert_eq!(run(Command::new("getfacl").args(["-n", "--absolute-names"]).arg(&root)).unwrap(), acl);
    let value = run(Command::new("getfattr").args(["--only-values", "--absolute-names", "-n", "user.mine"]).arg(&root)).unwrap();
    assert_eq!(value, "x");
}

#[test]
fn no_copy_on_write() {
    let pool = need!(Pool::new(128));
    rebuild(&mut pool.volume(), &reroot::conformance::Tree::new()).unwrap();
    run(Command::new("chattr").arg("+C").arg(pool.root())).unwrap();
    rebuild(&mut pool.volume(), &new()).unwrap();
    assert!(flags(&pool, "containers/c1").contains('C'));
    assert!(flags(&pool, "containers/c1/new").contains('C'), "what is made in it has copy on write");
}

#[test]
fn the_read_only_flag_by_policy() {
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let pool = need!(Pool::with_old(128));
        let run = |volume: &mut dyn RebuildableVolume, tree: &reroot::conformance::Tree| {
            let report = Rebuild::new(file_image(&pool.path("backup"), tree)).strategy(strategy).run(volume).unwrap();
            assert!(report.warnings.is_empty(), "{report}");
        };
        run_set(&pool, "true");
        run(&mut pool.volume(), &new());
        pool.expect_only("new");
        assert_eq!(property(&pool, "containers/c1", "ro"), "ro=true");
        run(&mut pool.volume().with_read_only(ReadOnlyPolicy::Clear), &old());
        pool.expect_only("old");
        assert_eq!(property(&pool, "containers/c1", "ro"), "ro=false");
        assert_eq!(pool.subvolumes(), ["containers/c1"]);
    }
}

fn run_set(pool: &Pool, value: &str) {
    run(Command::new("btrfs").args(["property", "set", "-ts"]).arg(pool.root()).args(["ro", value])).unwrap();
}

#[test]
fn a_protected_old_root_goes_too() {
    let pool = need!(Pool::with_old(128));
    fs::create_dir(pool.root().join("held")).unwrap();
    run(Command::new("chattr").arg("+i").arg(pool.root().join("held"))).unwrap();
    run(Command::new("chattr").arg("+i").arg(pool.root())).unwrap();
    rebuild(&mut pool.volume(), &new()).unwrap();
    pool.expect_only("new");
    assert_eq!(pool.subvolumes(), ["containers/c1"]);
}
