//! What the trait asks of each method, called directly.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::conformance::bench::{Bench, Check, LIVE, NAME, NONE, Outcome, ensure, new_tree, old_tree, soon, stage, stage_partly};
use crate::conformance::tree::Tree;
use crate::conformance::{CaseOutcome::*, Factory, Failure};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::rebuild::Rebuild;
use crate::record::{ImageRecord, Origin};
use crate::size::ByteSize;
use crate::volume::{
    Commit, Names, RebuildableVolume, RootMetadata, Sizing, Slot, Snapshot, SnapshotOwner, StageSpec, Tidied, UsageDetail,
};

pub(super) fn identity_is_stable(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let (a, b, other) = (bench.volume()?, bench.volume()?, bench.pool.volume("c10")?);
    ensure!(a.id() == b.id(), "two handles to one volume are {} and {}", a.id(), b.id());
    ensure!(a.id() != other.id(), "two volumes are both {}", a.id());
    ensure!(a.id().scheme() == factory.scheme(), "the scheme is {}, not {}", a.id().scheme(), factory.scheme());
    let before = (a.id(), a.capabilities());
    bench.fill(NAME, &new_tree())?;
    ensure!((a.id(), a.capabilities()) == before, "identity or capabilities changed when the volume was made");
    Ok(Passed)
}

pub(super) fn a_volume_that_does_not_exist_is_seen_so(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    // A neighbour whose name begins alike is another volume.
    bench.fill("c10", &old_tree())?;
    let mut volume = bench.volume()?;
    ensure!(volume.names()? == NONE, "the names are {}", volume.names()?);
    ensure!(volume.holders()?.is_empty(), "it has holders");
    ensure!(volume.snapshots()?.is_empty(), "it has snapshots");
    ensure!(volume.record()?.is_none(), "it has a record");
    ensure!(volume.usage(UsageDetail::Free)?.free > ByteSize::ZERO, "its pool has no space");
    volume.usage(UsageDetail::Full)?;
    volume.capture()?;
    ensure!(volume.tidy()? == Tidied::Nothing, "there was something to tidy");
    bench.expect_names(NONE)?;
    Ok(Passed)
}

pub(super) fn identities_follow_their_roots(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let mut volume = bench.volume()?;
    for slot in [Slot::Live, Slot::Staged, Slot::Retired] {
        ensure!(volume.identity(slot)?.is_none(), "a {slot} that does not exist has an identity");
    }
    bench.fill(NAME, &old_tree())?;
    let lock = volume.lock(&soon())?;
    let old = volume.identity(Slot::Live)?;
    ensure!(old.is_some() && old == bench.volume()?.identity(Slot::Live)?, "two handles see {old:?} and another one");
    stage(&mut *volume, &new_tree())?;
    let new = volume.identity(Slot::Staged)?;
    ensure!(new.is_some() && new != old, "the staged root is {new:?}, and the live one {old:?}");
    match volume.exchange() {
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        result => {
            result?;
            let swapped = (volume.identity(Slot::Live)?, volume.identity(Slot::Staged)?);
            ensure!(swapped == (new.clone(), old.clone()), "after an exchange they are {swapped:?}");
            volume.exchange()?;
        }
    }
    volume.rename(Slot::Live, Slot::Retired)?;
    volume.rename(Slot::Staged, Slot::Live)?;
    let renamed = (volume.identity(Slot::Live)?, volume.identity(Slot::Retired)?);
    ensure!(renamed == (new, old), "after the renames they are {renamed:?}");
    volume.discard(Slot::Retired)?;
    drop(lock);
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn looking_changes_nothing(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let volume = bench.volume()?;
    ensure!(volume.names()? == LIVE, "the names are {}", volume.names()?);
    let holders: Vec<_> = volume.holders()?.iter().map(ToString::to_string).collect();
    ensure!(holders.is_empty(), "it has holders: {}", holders.join(", "));
    ensure!(volume.snapshots()?.is_empty(), "it has snapshots");
    ensure!(volume.record()?.is_some(), "it has no record");
    let (brief, full) = (volume.usage(UsageDetail::Free)?, volume.usage(UsageDetail::Full)?);
    ensure!(brief.free > ByteSize::ZERO && full.free > ByteSize::ZERO, "its pool has no space: {brief:?}, {full:?}");
    bench.expect_only(&old_tree())?;
    Ok(Passed)
}

pub(super) fn the_lock_excludes(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let (first, second) = (bench.volume()?, bench.volume()?);
    let at_once = || Wait::new(Duration::ZERO, CancelToken::new());
    let refused = |volume: &dyn RebuildableVolume| match volume.lock(&at_once()).map(drop) {
        Err(error) if error.kind() == ErrorKind::Locked => Check::Ok(()),
        other => Err(Failure::new(format!("locked twice: {other:?}"))),
    };
    let lock = first.lock(&at_once())?;
    refused(&*second)?;
    std::thread::scope(|scope| {
        scope.spawn(|| refused(&*bench.volume()?)).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let other = bench.pool.volume("c10")?.lock(&at_once())?;
    drop(other);
    let start = Instant::now();
    let late = second.lock(&Wait::new(Duration::from_millis(60), CancelToken::new())).map(drop);
    ensure!(late.is_err_and(|error| error.kind() == ErrorKind::Locked), "a wait that ended gave a lock or another error");
    ensure!(start.elapsed() >= Duration::from_millis(50), "it did not wait: {:?}", start.elapsed());
    drop(lock);
    drop(second.lock(&at_once())?);
    drop(first.lock(&at_once())?);
    bench.expect_names(NONE)?;
    Ok(Passed)
}

pub(super) fn waiting_for_the_lock_heeds_the_token(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let _lock = bench.volume()?.lock(&soon())?;
    let cancel = CancelToken::new();
    let wait = Wait::new(Duration::from_secs(20), cancel.clone());
    let second = bench.volume()?;
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        });
        second.lock(&wait).map(drop)
    });
    ensure!(result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled), "the wait ended with {result:?}");
    Ok(Passed)
}

pub(super) fn staging_is_beside_the_live_root(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let _lock = volume.lock(&soon())?;
    volume.capture()?;
    let dir = volume.stage(&StageSpec::new())?;
    let staged = Names { staged: true, ..LIVE };
    ensure!(volume.names()? == staged, "after stage the names are {}", volume.names()?);
    let stat = nix::sys::stat::fstat(&dir).map_err(|errno| Error::io("examine the staged root", "fstat failed", errno))?;
    ensure!(stat.st_mode & 0o077 == 0, "others may enter the staged root: mode {:04o}", stat.st_mode & 0o7777);
    let entries = crate::conformance::manifest::Manifest::of_fd(dir.as_fd())?;
    ensure!(entries.len() == 1, "the staged root is not empty:\n{entries}");
    ensure!(entries.root().xattrs.iter().all(|(name, _)| !name.to_bytes().starts_with(b"system.posix_acl")), "it has an ACL");
    drop(dir);
    bench.expect(NAME, &old_tree().manifest())?;

    // A staged root that exists is neither taken nor touched.
    volume.discard(Slot::Staged)?;
    stage(&mut *volume, &new_tree())?;
    let again = volume.stage(&StageSpec::new()).map(drop);
    ensure!(again.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists), "staged twice: {again:?}");
    ensure!(volume.names()? == staged, "after a second stage the names are {}", volume.names()?);
    let actual = bench.manifest(NAME, Slot::Staged)?;
    let expected = new_tree().manifest().with_root(old_tree().manifest().root().clone());
    ensure!(actual == expected, "the staged root is not as expected:\n{}", expected.diff(&actual));
    volume.discard(Slot::Staged)?;
    drop(_lock);
    bench.expect_only(&old_tree())?;
    Ok(Passed)
}

pub(super) fn sealing_stores_the_record(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    let before = volume.record()?;
    volume.capture()?;
    drop(volume.stage(&StageSpec::new())?);
    let record = ImageRecord::new(Origin::File("/images/with space\n%41/é".into()))
        .with_digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse()?)
        .with_strip("rootfs".as_ref());
    volume.seal(&record, RootMetadata::Keep)?;
    ensure!(volume.record()? == before, "the record of the live root changed before the commit");
    volume.rename(Slot::Live, Slot::Retired)?;
    volume.rename(Slot::Staged, Slot::Live)?;
    ensure!(volume.record()?.as_ref() == Some(&record), "the record is {:?}, not {record:?}", volume.record()?);
    ensure!(bench.volume()?.record()?.as_ref() == Some(&record), "another handle does not see the record");
    volume.discard(Slot::Retired)?;
    drop(lock);
    bench.expect_names(LIVE)?;
    Ok(Passed)
}

pub(super) fn renaming_never_replaces(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    stage(&mut *volume, &new_tree())?;
    let refused = |result: Result<()>, kind| match result {
        Err(error) if error.kind() == kind => Check::Ok(()),
        other => Err(Failure::new(format!("expected {kind}, got {other:?}"))),
    };
    refused(volume.rename(Slot::Staged, Slot::Live), ErrorKind::AlreadyExists)?;
    refused(volume.rename(Slot::Live, Slot::Staged), ErrorKind::AlreadyExists)?;
    refused(volume.rename(Slot::Retired, Slot::Live), ErrorKind::NotFound).or_else(|_| {
        // Which of the two obstacles is named is the backend's choice.
        refused(volume.rename(Slot::Retired, Slot::Live), ErrorKind::AlreadyExists)
    })?;
    bench.expect(NAME, &old_tree().manifest())?;
    volume.rename(Slot::Live, Slot::Retired)?;
    ensure!(volume.names()? == Names { live: false, staged: true, retired: true }, "the names are {}", volume.names()?);
    refused(volume.rename(Slot::Live, Slot::Retired), ErrorKind::NotFound)
        .or_else(|_| refused(volume.rename(Slot::Live, Slot::Retired), ErrorKind::AlreadyExists))?;
    volume.rename(Slot::Staged, Slot::Live)?;
    bench.expect(NAME, &new_tree().manifest())?;
    let retired = bench.manifest(NAME, Slot::Retired)?;
    ensure!(retired == old_tree().manifest(), "the retired root changed:\n{}", old_tree().manifest().diff(&retired));
    volume.discard(Slot::Retired)?;
    drop(lock);
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn exchanging_is_whole_or_refused(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    stage(&mut *volume, &new_tree())?;
    let result = volume.exchange();
    ensure!(volume.names()? == Names { staged: true, ..LIVE }, "the names are {}", volume.names()?);
    let (live, staged) = match &result {
        Ok(()) => (new_tree(), old_tree()),
        Err(error) if error.kind() == ErrorKind::Unsupported => (old_tree(), new_tree()),
        Err(error) => return Err(Failure::new(error.report().to_string())),
    };
    bench.expect(NAME, &live.manifest())?;
    let actual = bench.manifest(NAME, Slot::Staged)?;
    ensure!(actual == staged.manifest(), "the other root is not as expected:\n{}", staged.manifest().diff(&actual));
    volume.discard(Slot::Staged)?;
    drop(lock);
    bench.expect_only(&live)?;
    match (result, volume.capabilities().commit) {
        (Ok(()), Commit::TwoRenames) => Err(Failure::new("it can exchange and says that it renames twice")),
        (Err(error), _) => Ok(NotApplicable(error.message().to_owned())),
        (Ok(()), _) => Ok(Passed),
    }
}

pub(super) fn discarding_is_idempotent(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    for slot in [Slot::Staged, Slot::Retired] {
        volume.discard(slot)?;
    }
    stage_partly(&mut *volume)?;
    volume.discard(Slot::Staged)?;
    volume.discard(Slot::Staged)?;
    stage(&mut *volume, &new_tree())?;
    volume.rename(Slot::Live, Slot::Retired)?;
    volume.rename(Slot::Staged, Slot::Live)?;
    volume.discard(Slot::Retired)?;
    volume.discard(Slot::Retired)?;
    drop(lock);
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn discarding_stays_inside(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let canary = bench.scratch().join("canary");
    let failed = |error| Error::io("set up the case", "cannot write in the temporary directory", error);
    fs::create_dir(&canary).map_err(failed)?;
    fs::write(canary.join("alive"), "alive").map_err(failed)?;
    let mut tree = Tree::new();
    tree.symlink("absolute", &canary);
    tree.symlink("locked/absolute", &canary);
    tree.symlink("relative", "../c1");
    tree.symlink("up", "..");
    tree.directory("locked").mode = 0;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    stage(&mut *volume, &tree)?;
    volume.discard(Slot::Staged)?;
    drop(lock);
    ensure!(canary.join("alive").exists(), "a symbolic link was followed out of the root");
    bench.expect_only(&old_tree())?;
    Ok(Passed)
}

pub(super) fn capturing_forgets(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let mut strict = old_tree();
    strict.root().mode = 0o700;
    bench.fill(NAME, &strict)?;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    volume.capture()?;
    volume.rename(Slot::Live, Slot::Retired)?;
    volume.discard(Slot::Retired)?;
    // Without a live root nothing is kept, and the image's root is left as it is.
    volume.capture()?;
    stage(&mut *volume, &new_tree())?;
    volume.rename(Slot::Staged, Slot::Live)?;
    drop(lock);
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn growing_is_honest(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let Some(why) = grow_a_staged_root(&bench)? else { return Ok(Passed) };
    // It may be that only what has a size can grow.
    match Rebuild::new(bench.image(&old_tree())?).size(ByteSize::gib(1)).run(&mut *bench.volume()?) {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(NotApplicable(why)),
        sized => sized?,
    };
    match grow_a_staged_root(&bench)? {
        None => Ok(Passed),
        Some(why) => Err(Failure::new(format!("what has a size does not grow: {why}"))),
    }
}

/// Demands that a staged root grows, or that this is refused as it must be; returns why, where only an attempt can prove it.
fn grow_a_staged_root(bench: &Bench) -> Check<Option<String>> {
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    stage_partly(&mut *volume)?;
    let size = volume.usage(UsageDetail::Free)?.size.unwrap_or_default();
    let asked = size.saturating_add(ByteSize::mib(64));
    let mut refused = None;
    match (volume.grow(asked), volume.capabilities().sizing) {
        (Err(error), Sizing::Unsized) if error.kind() == ErrorKind::Unsupported => {}
        (grown, Sizing::Unsized) => return Err(Failure::new(format!("a volume without a size grew: {grown:?}"))),
        // Quotas that are off, for instance.
        (Err(error), _) if error.kind() == ErrorKind::Unsupported => refused = Some(error.message().to_owned()),
        (grown, _) => {
            let got = grown?;
            ensure!(got >= asked, "it grew to {got}, and {asked} were asked for");
            let same = volume.grow(size)?;
            ensure!(same >= asked, "it shrank to {same}");
        }
    }
    volume.discard(Slot::Staged)?;
    drop(lock);
    bench.expect_only(&old_tree())?;
    Ok(refused)
}

pub(super) fn purging_what_is_gone(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    volume.purge(&[])?;
    volume.purge(&[Snapshot::new("never-was", SnapshotOwner::Manager)])?;
    drop(lock);
    bench.expect_only(&old_tree())?;
    Ok(Passed)
}

pub(super) fn tidying_nothing(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut volume = bench.volume()?;
    let lock = volume.lock(&soon())?;
    ensure!(volume.tidy()? == Tidied::Nothing, "there was something to tidy");
    drop(lock);
    bench.expect_only(&old_tree())?;
    Ok(Passed)
}
