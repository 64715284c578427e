//! Rebuilds that succeed, and what they leave.

use std::ffi::CStr;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::conformance::bench::{Bench, Check, LIVE, NAME, Outcome, ensure, new_tree, old_tree, tar};
use crate::conformance::tree::Tree;
use crate::conformance::{CaseOutcome::*, Factory};
use crate::digest::Hasher;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::rebuild::{Disposal, Dispose, Rebuild, RecoverAction, Strategy};
use crate::record::Origin;
use crate::sys::xattr::{self, Target};
use crate::volume::Slot;

pub(super) fn a_new_volume_is_created(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let mut tree = new_tree();
    // The volume has no root directory to keep: it gets the image's.
    tree.root().mode = 0o711;
    let report = bench.fill(NAME, &tree)?;
    ensure!(report.old_root == Disposal::None, "the old root that never was: {:?}", report.old_root);
    ensure!(report.recovered.actions.is_empty(), "it recovered {:?}", report.recovered);
    bench.expect_only(&tree)?;
    Ok(Passed)
}

pub(super) fn a_rebuild_replaces_everything(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let report = bench.fill(NAME, &new_tree())?;
    ensure!(report.old_root == Disposal::Removed, "the old root: {:?}", report.old_root);
    ensure!(report.warnings.is_empty(), "warnings: {:?}", report.warnings);
    bench.expect_only(&new_tree())?;
    // And again, from the same image.
    bench.fill(NAME, &new_tree())?;
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn a_rebuild_from_nothing_is_empty(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    Rebuild::new(Image::empty()).run(&mut *volume)?;
    bench.expect_only(&Tree::new())?;
    let record = volume.record()?;
    ensure!(record.as_ref().is_some_and(|record| record.origin == Origin::Empty), "the record is {record:?}");
    let mut fresh = bench.pool.volume("fresh")?;
    Rebuild::new(Image::empty()).run(&mut *fresh)?;
    let manifest = bench.manifest("fresh", Slot::Live)?;
    ensure!(manifest.len() == 1, "a new volume without an image is not empty:\n{manifest}");
    ensure!(manifest.root().mode == 0o755, "its mode is {:04o}", manifest.root().mode);
    bench.expect_names(LIVE)?;
    Ok(Passed)
}

pub(super) fn the_image_is_recorded(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let bytes = tar(&new_tree())?;
    let path = bench.file(&bytes)?;
    let mut hasher = Hasher::new();
    hasher.update(&bytes);
    let digest = hasher.finish();
    let mut volume = bench.volume()?;
    let report = Rebuild::new(Image::open(&path)?.with_sha256(digest)).run(&mut *volume)?;
    let record = volume.record()?;
    ensure!(record.as_ref() == Some(&report.image), "the record is {record:?}, the report says {:?}", report.image);
    ensure!(report.image.origin == Origin::File(path), "the origin is {:?}", report.image.origin);
    ensure!(report.image.digest == Some(digest), "the digest is {:?}, not {digest}", report.image.digest);
    // From its record alone the volume is rebuilt from its original image.
    bench.pool.visit(NAME, Slot::Live, &mut |root| {
        fs::write(root.join("added"), "added").map_err(|error| Error::io("set up the case", "cannot write in the root", error))
    })?;
    Rebuild::new(Image::from_record(&report.image)?).run(&mut *volume)?;
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

/// An ACL in the form the kernel takes: the owner `rwx`, user 1234 `r-x`, the group `r-x`, the mask `r-x`, others nothing.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 0xd2, 4, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5, 0, 255, 255,
    255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// Whether the file system of the live root keeps an attribute; the first that the caller may not set is no obstacle.
fn set_on_root(bench: &Bench, name: &CStr, value: &[u8]) -> Check<bool> {
    let mut kept = false;
    bench.pool.visit(NAME, Slot::Live, &mut |root| {
        let failed = |error| Error::io("set up the case", "cannot set an attribute of the root", error);
        let dir = File::open(root).map_err(failed)?;
        kept = match xattr::set(Target::Fd(dir.as_fd()), name, value) {
            Ok(()) => true,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => false,
            Err(error) => return Err(failed(error)),
        };
        Ok(())
    })?;
    Ok(kept)
}

/// Runs the same rebuild by swap and in place on a root with properties of its own, which have to survive both.
pub(super) fn properties_are_kept(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let root = nix::unistd::geteuid().is_root();
    bench.pool.visit(NAME, Slot::Live, &mut |path| {
        let failed = |error| Error::io("set up the case", "cannot change the root", error);
        if root {
            chown(path, Some(1234), Some(4321)).map_err(failed)?;
        }
        // Set-group-id is what new entries would inherit their group from.
        fs::set_permissions(path, Permissions::from_mode(0o2751)).map_err(failed)
    })?;
    set_on_root(&bench, c"user.note", b"mine\0")?;
    set_on_root(&bench, c"trusted.note", b"root's")?;
    set_on_root(&bench, c"system.posix_acl_access", &ACL)?;
    let kept = bench.manifest(NAME, Slot::Live)?.root().clone();
    let mut image = new_tree();
    // What the image says of its own root does not count.
    image.root().mode = 0o777;
    image.root().mtime = (1, 1);
    image.root().xattrs = vec![(c"user.image".into(), b"x".to_vec())];
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        Rebuild::new(bench.image(&image)?).strategy(strategy).run(&mut *bench.volume()?)?;
        bench.expect(NAME, &image.manifest().with_root(kept.clone())).map_err(|failure| failure.during(format!("{strategy:?}")))?;
    }
    Rebuild::new(Image::empty()).run(&mut *bench.volume()?)?;
    bench.expect(NAME, &Tree::new().manifest().with_root(kept))?;
    bench.expect_names(LIVE)?;
    Ok(Passed)
}

pub(super) fn default_acls_do_not_leak(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    if !set_on_root(&bench, c"system.posix_acl_default", &ACL)? {
        return Ok(NotApplicable("the pool has no POSIX ACLs".into()));
    }
    let kept = bench.manifest(NAME, Slot::Live)?.root().clone();
    bench.fill(NAME, &new_tree())?;
    bench.expect(NAME, &new_tree().manifest().with_root(kept))?;
    bench.expect_names(LIVE)?;
    Ok(Passed)
}

pub(super) fn attributes_and_devices_arrive(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut tree = new_tree();
    if set_on_root(&bench, c"user.note", b"")? {
        tree.file("usr/bin/tool", "tool").xattrs = vec![(c"user.empty".into(), vec![]), (c"user.long".into(), vec![7; 300])];
    }
    if set_on_root(&bench, c"system.posix_acl_access", &ACL)? {
        let dir = tree.directory("srv/acl");
        dir.mode = 0o750;
        dir.xattrs = vec![(c"system.posix_acl_access".into(), ACL.to_vec()), (c"system.posix_acl_default".into(), ACL.to_vec())];
        tree.file("srv/acl/inherits-nothing", "x");
    }
    if nix::unistd::geteuid().is_root() {
        let ping = tree.file("usr/bin/ping", "ping");
        ping.owner = (12345, 54321);
        ping.mode = 0o4755;
        // cap_net_raw+ep, as version 2.
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        tree.file("usr/bin/capable", "x").xattrs = vec![(c"security.capability".into(), capability.to_vec())];
        if may_make_devices(bench.scratch()) {
            tree.character_device("dev/null", 1, 3).mode = 0o666;
        }
    }
    let report = bench.fill(NAME, &tree)?;
    ensure!(report.losses.is_empty(), "not all was kept: {}", report.losses);
    let root = bench.manifest(NAME, Slot::Live)?.root().clone();
    bench.expect(NAME, &tree.manifest().with_root(root))?;
    bench.expect_names(LIVE)?;
    Ok(Passed)
}

fn may_make_devices(folder: &Path) -> bool {
    mknod(&folder.join("null"), SFlag::S_IFCHR, Mode::S_IRUSR, nix::sys::stat::makedev(1, 3)).is_ok()
}

pub(super) fn in_place_replaces_everything(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let report = Rebuild::new(bench.image(&new_tree())?).strategy(Strategy::InPlace).run(&mut *volume)?;
    ensure!(report.warnings.is_empty(), "warnings: {:?}", report.warnings);
    ensure!(volume.record()?.as_ref() == Some(&report.image), "the record is {:?}", volume.record()?);
    bench.expect_only(&new_tree())?;
    Rebuild::new(Image::empty()).strategy(Strategy::InPlace).run(&mut *volume)?;
    bench.expect_only(&Tree::new())?;
    Ok(Passed)
}

pub(super) fn in_place_creates_too(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    Rebuild::new(bench.image(&new_tree())?).strategy(Strategy::InPlace).run(&mut *bench.volume()?)?;
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn detaching_leaves_the_old_root_to_recover(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let report = Rebuild::new(bench.image(&new_tree())?).dispose(Dispose::Detach).run(&mut *volume)?;
    ensure!(report.old_root == Disposal::Left, "the old root: {:?}", report.old_root);
    bench.expect(NAME, &new_tree().manifest())?;
    let names = volume.names()?;
    let (slot, action) = match (names.live, names.staged, names.retired) {
        (true, true, false) => (Slot::Staged, RecoverAction::DiscardStaged),
        (true, false, true) => (Slot::Retired, RecoverAction::DisposeRetired),
        _ => return Err(crate::conformance::Failure::new(format!("the names are {names}"))),
    };
    let left = bench.manifest(NAME, slot)?;
    ensure!(left == old_tree().manifest(), "the old root that was left is not whole:\n{}", old_tree().manifest().diff(&left));
    let recovery = bench.recover()?;
    ensure!(recovery.actions == [action], "recover did {:?}, not {action:?}", recovery.actions);
    bench.expect_only(&new_tree())?;
    // A rebuild takes it along as well.
    Rebuild::new(bench.image(&old_tree())?).dispose(Dispose::Detach).run(&mut *volume)?;
    bench.fill(NAME, &new_tree())?;
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn names_of_many_kinds(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let mut accepted = Vec::new();
    for name in [
        "with space",
        "-dash",
        "--force",
        "new\nline",
        "\u{fc}ml\u{e4}ut",
        "per%cent",
        "semi;colon",
        "$HOME",
        "a'b\"c",
        "c1.staged",
    ] {
        let refused = |result: Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::InvalidInput => Check::Ok(true),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(false),
        };
        if refused(bench.pool.volume(name).map(drop))? {
            continue;
        }
        let case = || -> Check {
            bench.fill(name, &old_tree())?;
            bench.fill(name, &new_tree())?;
            bench.expect(name, &new_tree().manifest())?;
            let names = bench.pool.volume(name)?.names()?;
            ensure!(names == LIVE, "the names are {names}");
            Ok(())
        };
        case().map_err(|failure| failure.during(format!("the name {name:?}")))?;
        accepted.push(name);
    }
    let left = bench.pool.leftovers()?;
    ensure!(left.is_empty(), "left over in the pool: {}", left.join(", "));
    for name in &accepted {
        bench.expect(name, &new_tree().manifest()).map_err(|failure| failure.during(format!("the name {name:?}, in the end")))?;
    }
    if accepted.is_empty() {
        return Ok(NotApplicable("the backend takes none of these names".into()));
    }
    Ok(Passed)
}
