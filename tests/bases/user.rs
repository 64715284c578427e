//! Callers who are not root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reroot::base::{BaseOptions, CollectPolicy, References, Verdict};
use reroot::conformance::manifest::DirectoryTimes;
use reroot::conformance::{ManifestOptions, Tree};
use reroot::{CancelToken, ErrorKind, Image, LossPolicy, Outcome, Rebuild};

use super::common::Folder;
use super::common::loopfs::{Kind, run};
use super::{Scheme, Stand, anew, failed, is_root, list, need, shown, tree};

const MARKER: &str = "REROOT_TEST_BASES_USER";
const USER: u32 = 61_778;

/// What a user does in a folder of their own.
fn as_user(place: &Path, scheme: Scheme) {
    assert!(is_root().is_err());
    let stand = Stand::at(Folder::new(place).unwrap(), scheme, None);
    let mut image = tree("a");
    image.file("etc/sudoers", "x").mode = 0o440;
    image.directory("closed").mode = 0o500;
    let path = stand.image("a.tar", &image);
    let base = shown(stand.bases().ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
    for _ in 0..2 {
        let report = stand.rebuild("c1", &base);
        assert!(report.losses.is_empty(), "{report}");
        shown(anew(Image::open(&path).unwrap()).run(&mut *stand.volume("direct")));
        let manifest =
            |name| shown(ManifestOptions::new().with_directory_times(DirectoryTimes::IgnoredOfRoot).read(&stand.root(name)));
        let (one, other) = (manifest("direct"), manifest("c1"));
        assert!(one.diff(&other).is_empty(), "{}", one.diff(&other));
    }
    assert_eq!(stand.bases().verify(base.name(), &CancelToken::new()).unwrap(), Verdict::Intact);
    assert!(stand.bases().list().unwrap()[0].record.is_some());
    let name = base.name().clone();
    drop(base);
    let policy = CollectPolicy::unused_for(Duration::ZERO).with_references(References::Ignore);
    let collected = shown(stand.bases().collect(&policy, &CancelToken::new()));
    assert_eq!(collected.removed, [name], "{collected}");
    assert_eq!(stand.kept(), [""; 0]);
    assert_eq!(list(&stand.path("pool/containers")), ["c1", "direct"]);

    // What its owner may not read, as the file of the passwords is in some distributions, can be unpacked and not be copied.
    image.file("etc/shadow", "secret").mode = 0;
    let path = stand.image("b.tar", &image);
    let error = failed(stand.bases().ensure(Image::open(&path).unwrap(), &BaseOptions::default()));
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    assert!(error.remedy().unwrap().contains("without a base"), "{}", error.report());
    assert_eq!(stand.kept(), [""; 0]);
    shown(anew(Image::open(&path).unwrap()).run(&mut *stand.volume("direct")));
}

/// Runs the test `name` of this program again as an ordinary user who owns `place`.
fn again(name: &str, place: &Path) {
    // Whoever it is may not be able to reach the build folder.
    let reachable = tempfile::tempdir().unwrap();
    let exe = reachable.path().join("exe");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    for path in [reachable.path(), &exe] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let user = USER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(&exe);
    command.args(["--exact", name, "--nocapture"]).env(MARKER, place).env("TMPDIR", place);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn asked() -> Option<std::path::PathBuf> {
    std::env::var_os(MARKER).map(Into::into)
}

#[test]
fn an_ordinary_user_has_directories() {
    if let Some(place) = asked() {
        return as_user(&place, Scheme::Dir);
    }
    if is_root().is_err() {
        return as_user(&std::env::temp_dir(), Scheme::Dir);
    }
    let place = tempfile::tempdir().unwrap();
    chown(place.path(), Some(USER), Some(USER)).unwrap();
    again("user::an_ordinary_user_has_directories", place.path());
}

fn on_btrfs(name: &str, options: &str) {
    if let Some(place) = asked() {
        return as_user(&place, Scheme::Btrfs);
    }
    need!(is_root());
    let stand = need!(Stand::on(Kind::Btrfs, Scheme::Btrfs, 128));
    let fs = stand.fs.as_ref().unwrap().path();
    run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&fs)).unwrap();
    let home = fs.join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    for path in [fs.parent().unwrap(), &fs] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    again(name, &home);
}

#[test]
fn a_user_who_may_destroy_subvolumes_has_those() {
    on_btrfs("user::a_user_who_may_destroy_subvolumes_has_those", "user_subvol_rm_allowed");
}

#[test]
fn and_so_has_one_who_may_not() {
    on_btrfs("user::and_so_has_one_who_may_not", "noatime");
}

/// To an ordinary user an image of root's is one that loses its owners, as in a rebuild without a base.
#[test]
fn without_root_what_a_base_loses_is_lost_by_its_volumes() {
    if is_root().is_ok() {
        let place = tempfile::tempdir().unwrap();
        chown(place.path(), Some(USER), Some(USER)).unwrap();
        return again("user::without_root_what_a_base_loses_is_lost_by_its_volumes", place.path());
    }
    let stand = Stand::new();
    let mut image = Tree::new();
    image.file("theirs", "x").owner = (0, 12);
    image.character_device("null", 1, 3);
    let path = stand.image("theirs.tar", &image);
    let direct = shown(anew(Image::open(&path).unwrap()).run(&mut *stand.volume("direct")));
    assert!(!direct.losses.is_empty());
    let base = stand.ensure(&path);
    assert_eq!(base.record().losses, direct.losses.count());
    let report = stand.rebuild("c1", &base);
    assert_eq!(list(&stand.root("c1")), list(&stand.root("direct")));
    assert_eq!(report.entries, 1);
    assert!(report.warnings.iter().any(|warning| warning.message.contains("the base lacks")), "{report}");
    // Whoever wants none is refused, by the record: the base is not read for it.
    let error = failed(Rebuild::from_base(&base).losses(LossPolicy::Refuse).run(&mut *stand.volume("c1")));
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lossy, Outcome::Untouched), "{}", error.report());
}
