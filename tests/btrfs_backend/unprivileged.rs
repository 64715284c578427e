//! Callers who are not root, or only in a user namespace: what works, works, and the rest says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use reroot::btrfs::BtrfsVolume;
use reroot::volume::{SnapshotOwner, UsageDetail};
use reroot::{ByteSize, ErrorKind, Rebuild, RebuildableVolume, SnapshotPolicy, recover};

use super::loopfs::{Kind, LoopFs, run};
use super::{image, need, new, old, rebuild, soon};

const MARKER: &str = "REROOT_TEST_UNPRIVILEGED";
const USER: u32 = 61_778;

/// What the child does, in the folder that it owns.
fn as_user(folder: &Path, may_destroy: bool) {
    let containers = folder.join("containers");
    fs::create_dir(&containers).unwrap();
    fs::create_dir_all(folder.join("containers-snapshots/c1")).unwrap();
    let btrfs = |words: &[&str], paths: &[&str]| {
        run(Command::new("btrfs").args(words).args(paths.iter().map(|path| folder.join(path)))).unwrap();
    };
    let open = || BtrfsVolume::open(containers.join("c1")).unwrap();
    rebuild(&mut open(), &old()).unwrap();
    for inner in ["a b", "a b/c\nd"] {
        btrfs(&["subvolume", "create"], &[&format!("containers/c1/{inner}")]);
        fs::write(containers.join("c1").join(inner).join("file"), "x").unwrap();
    }
    btrfs(&["subvolume", "snapshot"], &["containers/c1", "containers-snapshots/c1/snap0"]);
    // In the root, where no privilege is needed to find it; elsewhere it cannot be found.
    btrfs(&["subvolume", "snapshot", "-r"], &["containers/c1", "containers/c1/srv/late"]);
    btrfs(&["subvolume", "snapshot", "-r"], &["containers/c1", "elsewhere"]);
    let mut volume = open();
    let snapshots = volume.snapshots().unwrap();
    let names: Vec<_> = snapshots.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["./srv/late (foreign)", "snap0"]);
    assert_eq!(snapshots[0].owner, SnapshotOwner::Foreign);

    let report = Rebuild::new(image(&new())).snapshots(SnapshotPolicy::Purge).run(&mut volume).unwrap();
    assert!(report.warnings.is_empty(), "{report}");
    assert!(containers.join("c1/new").exists() && folder.join("elsewhere/old").exists());
    let left: Vec<_> = fs::read_dir(&containers).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["c1"], "with user_subvol_rm_allowed: {may_destroy}");
    assert_eq!(fs::read_dir(folder.join("containers-snapshots/c1")).unwrap().count(), 0);
    assert!(recover(&mut volume, &soon()).unwrap().actions.is_empty());
    assert!(volume.usage(UsageDetail::Full).unwrap().used.is_some());
    assert_eq!(volume.reclaiming().unwrap(), None);
    // What only root may do says so.
    let error = volume.quota().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    assert!(error.remedy().unwrap().contains("root"), "{}", error.report());
    let error = Rebuild::new(image(&new())).size(ByteSize::gib(1)).run(&mut volume).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    assert!(containers.join("c1/new").exists());
}

/// Runs this program's test `name` again through `wrapper`, on a btrfs with these mount options.
fn again(name: &str, options: &str, wrapper: &[&str]) {
    let fs = need!(LoopFs::new(Kind::Btrfs, 128));
    run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(fs.path())).unwrap();
    let folder = fs.path().join("home");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(USER), Some(USER)).unwrap();
    // Whoever it is may not be able to reach the build folder.
    let reachable = tempfile::tempdir().unwrap();
    let exe = reachable.path().join("exe");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    for path in [fs.path(), fs.path().parent().unwrap().to_owned(), reachable.path().to_owned(), exe.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let user = USER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).args(wrapper).arg(&exe);
    command.args(["--exact", name, "--nocapture"]).env(MARKER, &folder).env("TMPDIR", &folder);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare:") {
        return need!(Err(said));
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn asked() -> Option<std::path::PathBuf> {
    std::env::var_os(MARKER).map(Into::into)
}

#[test]
fn a_user_who_may_destroy_subvolumes() {
    match asked() {
        Some(folder) => as_user(&folder, true),
        None => again("unprivileged::a_user_who_may_destroy_subvolumes", "user_subvol_rm_allowed", &[]),
    }
}

#[test]
fn a_user_who_may_not() {
    match asked() {
        Some(folder) => as_user(&folder, false),
        None => again("unprivileged::a_user_who_may_not", "noatime", &[]),
    }
}

#[test]
fn root_in_a_user_namespace() {
    match asked() {
        Some(folder) => as_user(&folder, true),
        None => {
            let wrapper = ["unshare", "--user", "--map-root-user"];
            again("unprivileged::root_in_a_user_namespace", "user_subvol_rm_allowed", &wrapper);
        }
    }
}
