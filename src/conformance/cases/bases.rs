//! Bases: made once, used, verified, collected; and that a root made from one is the root that its image would have given.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::{Base, BaseInfo, BaseOptions, BaseState, Bases, CollectPolicy, Kept, KeptBase, References, Verdict};
use crate::base_name::BaseName;
use crate::conformance::bench::{Bench, Check, LIVE, NAME, NONE, Outcome, ensure, new_tree, old_tree, soon, tar};
use crate::conformance::{CaseOutcome::*, Factory, Failure};
use crate::digest::{Hasher, Sha256};
use crate::error::{Error, ErrorKind, Outcome as State, Result};
use crate::image::Image;
use crate::progress::{CancelToken, Phase, Wait};
use crate::rebuild::{Disposal, Dispose, Made, Rebuild, SnapshotPolicy, Step, Strategy};
use crate::unpack::{IdMap, IdRange, IdShift};
use crate::volume::{Cloning, Slot, SnapshotSupport};

/// An archive may or may not hold the root directory itself, and an unpacking counts what the archive holds.
const ROOT: u64 = 1;

/// What most of these cases begin with.
pub(super) struct Stand {
    pub(super) bench: Bench,
    pub(super) bases: Bases,
    /// An image of [`new_tree`].
    pub(super) image: PathBuf,
    pub(super) digest: Sha256,
}

impl Stand {
    /// An empty pool, or the reason why it can have no bases.
    pub(super) fn new(factory: &dyn Factory) -> Check<Result<Self, String>> {
        let bench = Bench::new(factory)?;
        let bases = match bench.bases()? {
            Ok(bases) => bases,
            Err(why) => return Ok(Err(why)),
        };
        let bytes = tar(&new_tree())?;
        let mut hasher = Hasher::new();
        hasher.update(&bytes);
        Ok(Ok(Stand { image: bench.file(&bytes)?, digest: hasher.finish(), bench, bases }))
    }

    pub(super) fn name(&self) -> BaseName {
        BaseName::new(self.digest)
    }

    pub(super) fn ensure(&self) -> Result<Base> {
        self.bases.ensure(Image::open(&self.image)?, &BaseOptions::new())
    }

    /// Rebuilds a volume from the base of [`new_tree`], which is not held afterwards.
    fn fill(&self, volume: &str) -> Check {
        let rebuild = Rebuild::from_base(&self.ensure()?);
        rebuild.run(&mut *self.bench.pool.volume(volume)?)?;
        Ok(())
    }

    /// Whether the base could not be removed because volumes depend on it. They are then filled otherwise, so that it can.
    pub(super) fn release(&self, error: &Error, volumes: &[&str]) -> Check<bool> {
        if error.kind() != ErrorKind::HasDependents || self.bench.pool.bases()?.clones(&self.name())?.len() != volumes.len() {
            return Ok(false);
        }
        self.expect_bases(&[&self.name()])?;
        for volume in volumes {
            self.bench.expect(volume, &new_tree().manifest())?;
            self.bench.fill(volume, &old_tree())?;
        }
        Ok(true)
    }

    /// Demands that these are the bases, complete, as they were made, and that nothing else is left of any.
    pub(super) fn expect_bases(&self, expected: &[&BaseName]) -> Check {
        let infos = self.bases.list()?;
        let names: Vec<_> = infos.iter().map(|info| &info.name).collect();
        ensure!(names == expected, "the bases are {names:?}, not {expected:?}");
        for info in &infos {
            ensure!(info.state == BaseState::Complete, "{} is {:?}", info.name, info.state);
            let verdict = self.bases.verify(&info.name, &CancelToken::new())?;
            ensure!(verdict == Verdict::Intact, "{}: {verdict}", info.name);
        }
        let left = self.bench.pool.leftovers()?;
        ensure!(left.is_empty(), "left over in the pool: {}", left.join(", "));
        Ok(())
    }
}

/// Begins a case on a stand, or ends it where there are no bases.
macro_rules! stand {
    ($factory:expr) => {
        match $crate::conformance::cases::bases::Stand::new($factory)? {
            Ok(stand) => stand,
            Err(why) => return Ok($crate::conformance::CaseOutcome::NotApplicable(why)),
        }
    };
}
pub(super) use stand;

pub(super) fn no_wait() -> Wait {
    Wait::new(Duration::ZERO, CancelToken::new())
}

/// Removes all that can go.
pub(super) fn all() -> CollectPolicy {
    CollectPolicy::unused_for(Duration::ZERO).with_references(References::Ignore)
}

pub(super) fn looking_for_bases_changes_nothing(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let (bases, name) = (&stand.bases, stand.name());
    let pool = stand.bench.pool.bases()?;
    let found = bases.name_of(&Image::open(&stand.image)?, &BaseOptions::new())?;
    ensure!(found == name, "the base of the image is called {found}, not {name}");
    ensure!(bases.list()?.is_empty(), "there are bases that no one made");
    ensure!(bases.find(&name, &no_wait())?.is_none(), "a base was found that no one made");
    bases.remove(&name, &no_wait())?;
    let collected = bases.collect(&all(), &CancelToken::new())?;
    ensure!(collected.removed.is_empty() && collected.kept.is_empty(), "it collected {collected}");
    let error = match bases.verify(&name, &CancelToken::new()) {
        Err(error) => error,
        Ok(verdict) => return Err(Failure::new(format!("a base that is not there: {verdict}"))),
    };
    ensure!(error.kind() == ErrorKind::NotFound, "to verify it says {}", error.report());
    ensure!(pool.memo()?.is_empty(), "something was remembered");
    ensure!(pool.used(&name)?.is_none() && pool.open(&name)?.is_none(), "there is something of a base that no one made");
    stand.bench.expect_names(NONE)?;
    Ok(Passed)
}

pub(super) fn a_base_is_made_once(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let (bases, name) = (&stand.bases, stand.name());
    let pool = stand.bench.pool.bases()?;
    let base = stand.ensure()?;
    ensure!(*base.name() == name, "it is called {}, not {name}", base.name());
    ensure!(*base.id() == pool.volume(&name)?.id(), "its identity is {}", base.id());
    drop(base);
    stand.expect_bases(&[&name])?;
    let first = pool.volume(&name)?.identity(Slot::Live)?;
    ensure!(first.is_some(), "it has no root");
    // Again, by another handle, by its digest alone, and by its name.
    let other = Bases::new(stand.bench.pool.bases()?);
    other.ensure(Image::open(&stand.image)?, &BaseOptions::new())?;
    let unread = Image::from_reader(std::io::empty(), "unread").with_sha256(stand.digest);
    other.ensure(unread, &BaseOptions::new())?;
    ensure!(other.find(&name, &no_wait())?.is_some(), "it is not found by its name");
    ensure!(pool.volume(&name)?.identity(Slot::Live)? == first, "it was made again");
    let another = stand.bench.image(&old_tree())?;
    let another = bases.ensure(another, &BaseOptions::new())?.name().clone();
    let mut both = [&name, &another];
    both.sort();
    stand.expect_bases(&both)?;
    bases.remove(&name, &no_wait())?;
    stand.expect_bases(&[&another])?;
    ensure!(bases.find(&name, &no_wait())?.is_none(), "it is found although it was removed");
    stand.ensure()?;
    stand.expect_bases(&both)?;
    Ok(Passed)
}

pub(super) fn a_base_gives_the_root_of_its_image(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let mut tree = new_tree();
    tree.root().mode = 0o711;
    tree.root().mtime = (1_500_000_000, 7);
    tree.file("srv/large", vec![42; 300_000]);
    let image = stand.bench.file(&tar(&tree)?)?;
    let base = stand.bases.ensure(Image::open(&image)?, &BaseOptions::new())?;
    // A new volume, and one that has a root.
    stand.bench.fill("c2", &old_tree())?;
    for volume in [NAME, "c2"] {
        let direct = Rebuild::new(Image::open(&image)?).run(&mut *stand.bench.pool.volume("direct")?)?;
        let report = Rebuild::from_base(&base).run(&mut *stand.bench.pool.volume(volume)?)?;
        ensure!(report.warnings.is_empty() && report.losses.is_empty(), "it says: {report}");
        let made = match stand.bench.pool.volume(volume)?.capabilities().cloning {
            Cloning::Instant => Made::Cloned,
            _ => Made::Copied,
        };
        ensure!(report.made == made, "it was {:?}, not {made:?}", report.made);
        let same = report.entries.abs_diff(direct.entries) <= ROOT && report.bytes == direct.bytes;
        ensure!(same, "it counts {} and {}, of the image {} and {}", report.entries, report.bytes, direct.entries, direct.bytes);
        ensure!(report.shared <= report.bytes, "it shares {} of {}", report.shared, report.bytes);
    }
    stand.bench.expect(NAME, &tree.manifest())?;
    let root = old_tree().manifest().root().clone();
    stand.bench.expect("c2", &tree.manifest().with_root(root))?;
    // What is written to a volume does not reach the base, nor another volume.
    stand.bench.pool.visit(NAME, Slot::Live, &mut |path| {
        let failed = |error| Error::io("set up the case", "cannot write in the root", error);
        fs::write(path.join("etc/hostname"), "mine").map_err(failed)?;
        fs::remove_file(path.join("srv/large")).map_err(failed)
    })?;
    let root = old_tree().manifest().root().clone();
    stand.bench.expect("c2", &tree.manifest().with_root(root))?;
    let name = base.name().clone();
    drop(base);
    stand.expect_bases(&[&name])?;
    Ok(Passed)
}

pub(super) fn a_base_is_recorded(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let base = stand.ensure()?;
    let mut volume = stand.bench.volume()?;
    let direct = Rebuild::new(Image::open(&stand.image)?.with_sha256(stand.digest)).run(&mut *volume)?;
    let report = Rebuild::from_base(&base).run(&mut *volume)?;
    let record = volume.record()?;
    ensure!(record.as_ref() == Some(&report.image), "the record is {record:?}, the report says {:?}", report.image);
    ensure!(report.image.base == Some(stand.name()), "the base is recorded as {:?}", report.image.base);
    let rest = (&report.image.origin, report.image.digest);
    ensure!(rest == (&direct.image.origin, direct.image.digest), "of the image it records {rest:?}");
    ensure!(direct.image.base.is_none(), "a rebuild from an image records a base");
    let of_base = base.record();
    ensure!(of_base.base.is_none(), "a base is recorded as made from one");
    let contents = of_base.contents.ok_or_else(|| Failure::new("it is not recorded what the base holds"))?;
    let counted = contents.entries;
    ensure!(counted.abs_diff(direct.entries) <= ROOT, "the base is recorded with {counted} entries, not {}", direct.entries);
    // From its record the volume is rebuilt from the image, and from its base again.
    let image = Image::from_record(&report.image)?;
    ensure!(stand.bases.name_of(&image, &BaseOptions::new())? == stand.name(), "by its record the image has another base");
    Rebuild::new(image).run(&mut *volume)?;
    drop(base);
    stand.bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn properties_are_kept_from_a_base(factory: &dyn Factory) -> Outcome {
    use std::os::unix::fs::{PermissionsExt, chown};
    let stand = stand!(factory);
    stand.bench.fill(NAME, &old_tree())?;
    stand.bench.pool.visit(NAME, Slot::Live, &mut |path| {
        let failed = |error| Error::io("set up the case", "cannot change the root", error);
        if nix::unistd::geteuid().is_root() {
            chown(path, Some(1234), Some(4321)).map_err(failed)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o2751)).map_err(failed)
    })?;
    let kept = stand.bench.manifest(NAME, Slot::Live)?.root().clone();
    let mut tree = new_tree();
    // What the image says of its own root does not count.
    tree.root().mode = 0o777;
    tree.root().mtime = (1, 1);
    let image = stand.bench.file(&tar(&tree)?)?;
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let base = stand.bases.ensure(Image::open(&image)?, &BaseOptions::new())?;
        let report = Rebuild::from_base(&base).strategy(strategy).run(&mut *stand.bench.volume()?)?;
        ensure!(report.warnings.is_empty(), "warnings: {:?}", report.warnings);
        drop(base);
        let expected = tree.manifest().with_root(kept.clone());
        stand.bench.expect(NAME, &expected).map_err(|failure| failure.during(format!("{strategy:?}")))?;
        stand.bench.expect_names(LIVE)?;
    }
    Ok(Passed)
}

pub(super) fn in_place_from_a_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    stand.bench.fill(NAME, &old_tree())?;
    // From a root, and from nothing.
    for volume in [NAME, "c2"] {
        let rebuild = Rebuild::from_base(&stand.ensure()?).strategy(Strategy::InPlace);
        let report = rebuild.run(&mut *stand.bench.pool.volume(volume)?)?;
        ensure!(report.warnings.is_empty(), "warnings: {:?}", report.warnings);
        stand.bench.expect(volume, &new_tree().manifest())?;
    }
    stand.bench.expect_only(&new_tree())?;
    stand.expect_bases(&[&stand.name()])?;
    Ok(Passed)
}

pub(super) fn detaching_from_a_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    stand.bench.fill(NAME, &old_tree())?;
    let rebuild = Rebuild::from_base(&stand.ensure()?).dispose(Dispose::Detach);
    let report = rebuild.run(&mut *stand.bench.volume()?)?;
    ensure!(report.old_root == Disposal::Left, "the old root: {:?}", report.old_root);
    stand.bench.expect(NAME, &new_tree().manifest())?;
    let names = stand.bench.volume()?.names()?;
    let slot = if names.staged { Slot::Staged } else { Slot::Retired };
    let left = stand.bench.manifest(NAME, slot)?;
    ensure!(left == old_tree().manifest(), "the old root that was left is not whole:\n{}", old_tree().manifest().diff(&left));
    // The next rebuild takes it along.
    stand.fill(NAME)?;
    stand.bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn plans_from_a_base_are_what_runs(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    stand.bench.fill(NAME, &old_tree())?;
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let base = stand.ensure()?;
        let rebuild = Rebuild::from_base(&base).strategy(strategy);
        let plan = rebuild.plan(&*stand.bench.volume()?)?;
        ensure!(plan.base.as_ref() == Some(base.id()), "the plan names the base {:?}", plan.base);
        ensure!(plan.image == base.record().origin, "the plan is from {}", plan.image);
        let before = stand.bench.volume()?.identity(Slot::Live)?;
        let cloned = plan.steps.iter().any(|step| matches!(step, Step::Clone(_)));
        let filled = plan.steps.contains(&Step::Fill);
        let instant = stand.bench.volume()?.capabilities().cloning == Cloning::Instant;
        ensure!(cloned == instant && filled != instant, "the plan is {:?}", plan.steps);
        // A clone comes or does not; a copy is read first where the old root goes first.
        let checked = plan.steps.contains(&Step::CheckImage);
        ensure!(checked == (filled && strategy == Strategy::InPlace), "{strategy:?}: the plan is {:?}", plan.steps);
        ensure!(stand.bench.volume()?.identity(Slot::Live)? == before, "the plan has changed the root");
        let report = rebuild.run(&mut *stand.bench.volume()?)?;
        let made = if cloned { Made::Cloned } else { Made::Copied };
        ensure!(report.made == made, "it was planned otherwise, and {:?}", report.made);
        let phases: Vec<_> = report.phases.iter().map(|time| time.phase).collect();
        ensure!(phases.contains(&Phase::Fill) == filled, "the plan is {:?}, and the phases were {phases:?}", plan.steps);
        ensure!(phases.contains(&Phase::Remove) == (strategy == Strategy::InPlace), "{strategy:?} had the phases {phases:?}");
        drop(base);
        stand.bench.expect_only(&new_tree())?;
        stand.bench.fill(NAME, &old_tree())?;
    }
    Ok(Passed)
}

pub(super) fn policies_hold_from_a_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let bench = &stand.bench;
    bench.fill(NAME, &old_tree())?;
    let refused = |rebuild: Rebuild, kind: ErrorKind| -> Check {
        let Err(error) = rebuild.run(&mut *bench.volume()?) else {
            return Err(Failure::new(format!("expected {kind}, and the rebuild ran")));
        };
        ensure!(error.kind() == kind && error.outcome() == State::Untouched, "expected {kind}, got {}", error.report());
        ensure!(error.remedy().is_some(), "a refusal without a remedy: {}", error.report());
        bench.expect_only(&old_tree())
    };
    let map = IdMap::new([IdRange { container: 0, host: 100_000, count: 65_536 }])?;
    let shift = IdShift::new(map.clone(), map);
    // The base is held by the rebuild alone, and so not when that has failed.
    let from_base = || Ok::<_, Error>(Rebuild::from_base(&stand.ensure()?));
    refused(from_base()?.shift(shift), ErrorKind::InvalidInput)?;
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let held = bench.pool.hold(NAME)?;
        refused(from_base()?.strategy(strategy), ErrorKind::Busy)?;
        drop(held);
    }
    match bench.pool.snapshot(NAME, "snap0") {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Passed),
        taken => drop(taken?),
    }
    refused(from_base()?, ErrorKind::HasSnapshots)?;
    let rebuild =
        |policy| -> Result<_> { from_base()?.busy_wait(Duration::from_secs(5)).snapshots(policy).run(&mut *bench.volume()?) };
    if bench.volume()?.capabilities().snapshots != SnapshotSupport::Dependent {
        let report = rebuild(SnapshotPolicy::Keep)?;
        ensure!(report.kept.len() == 1 && report.purged.is_empty(), "it says: {report}");
        ensure!(bench.volume()?.snapshots()?.len() == 1, "the snapshot is gone");
        bench.expect_only(&new_tree())?;
    }
    let report = rebuild(SnapshotPolicy::Purge)?;
    ensure!(report.purged.len() == 1 && report.kept.is_empty(), "it says: {report}");
    ensure!(bench.volume()?.snapshots()?.is_empty(), "the snapshot is still there");
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn a_held_base_is_not_removed(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let name = stand.name();
    let base = stand.ensure()?;
    let copy = base.clone();
    let kept = || -> Check {
        let Err(error) = stand.bases.remove(&name, &no_wait()) else {
            return Err(Failure::new("it was removed although it is held"));
        };
        ensure!(error.kind() == ErrorKind::Locked, "the removal says {}", error.report());
        let collected = stand.bases.collect(&all(), &CancelToken::new())?;
        let busy = matches!(&collected.kept[..], [kept] if kept.name == name && matches!(kept.why, Kept::Busy(_)));
        ensure!(busy && collected.removed.is_empty(), "it collected {collected}");
        let verdict = stand.bases.verify(&name, &CancelToken::new())?;
        ensure!(verdict == Verdict::Intact, "{verdict}");
        ensure!(stand.bases.find(&name, &no_wait())?.is_some(), "a held base cannot be held by another");
        Ok(())
    };
    kept()?;
    // By a rebuild that has not begun, and by one of two values.
    let rebuild = Rebuild::from_base(&base);
    drop(base);
    kept().map_err(|failure| failure.during("held by a copy and a rebuild"))?;
    drop(copy);
    kept().map_err(|failure| failure.during("held by a rebuild"))?;
    rebuild.run(&mut *stand.bench.volume()?)?;
    stand.expect_bases(&[&name])?;
    let mut left = new_tree();
    if let Err(error) = stand.bases.remove(&name, &no_wait()) {
        ensure!(stand.release(&error, &[NAME])?, "no one holds it, and it cannot be removed: {}", error.report());
        stand.bases.remove(&name, &no_wait())?;
        left = old_tree();
    }
    stand.expect_bases(&[])?;
    stand.bench.expect_only(&left)?;
    Ok(Passed)
}

pub(super) fn a_removed_base_leaves_its_volumes(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    for volume in [NAME, "c2"] {
        stand.fill(volume)?;
    }
    let collect = || stand.bases.collect(&all(), &CancelToken::new());
    let mut collected = collect()?;
    for volume in [NAME, "c2"] {
        stand.bench.expect(volume, &new_tree().manifest())?;
    }
    if let [KeptBase { why: Kept::Failed(error), .. }] = &collected.kept[..] {
        ensure!(stand.release(error, &[NAME, "c2"])?, "it could not be removed: {collected}");
        collected = collect()?;
    }
    ensure!(collected.removed == [stand.name()], "it collected {collected}");
    stand.expect_bases(&[])?;
    // They go on as any other.
    stand.bench.fill(NAME, &old_tree())?;
    stand.bench.expect(NAME, &old_tree().manifest())?;
    stand.fill(NAME)?;
    stand.bench.expect_only(&new_tree())?;
    Ok(Passed)
}

pub(super) fn collecting_heeds_its_policy(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let name = stand.name();
    let collect = |policy: CollectPolicy| stand.bases.collect(&policy, &CancelToken::new());
    let info = || -> Check<BaseInfo> { stand.bases.list()?.pop().ok_or_else(|| Failure::new("it is gone")) };
    stand.ensure()?;
    let used = info()?.used.and_then(|used| used.elapsed().ok());
    ensure!(used.is_some_and(|ago| ago < Duration::from_secs(60)), "a base that was just made was last used {used:?} ago");
    let hour = Duration::from_secs(3600);
    for references in [References::Keep, References::Ignore] {
        let collected = collect(CollectPolicy::unused_for(hour).with_references(references))?;
        let recent = matches!(&collected.kept[..], [kept] if kept.name == name && matches!(kept.why, Kept::Recent));
        ensure!(recent && collected.removed.is_empty(), "of one used lately: {collected}");
    }
    stand.fill(NAME)?;
    let clones = info()?.clones;
    let collected = collect(CollectPolicy::unused_for(Duration::ZERO))?;
    match &collected.kept[..] {
        [kept] => {
            ensure!(matches!(kept.why, Kept::Shared(1)), "{collected}");
            ensure!(clones.len() == 1, "it is shared by {clones:?}");
            stand.expect_bases(&[&name])?;
            // One is enough to keep it, and none is not.
            stand.bench.fill(NAME, &old_tree())?;
            ensure!(info()?.clones.is_empty(), "it is still shared by {:?}", info()?.clones);
            let collected = collect(CollectPolicy::unused_for(Duration::ZERO))?;
            ensure!(collected.removed == [name] && collected.kept.is_empty(), "of one that no one shares: {collected}");
        }
        _ => ensure!(clones.is_empty() && collected.removed == [name], "shared by {clones:?}: {collected}"),
    }
    stand.expect_bases(&[])?;
    let cancelled = CancelToken::new();
    cancelled.cancel();
    stand.ensure()?;
    let stopped = stand.bases.collect(&all(), &cancelled).map(drop);
    ensure!(stopped.is_err_and(|error| error.kind() == ErrorKind::Cancelled), "a cancelled collection went on");
    stand.expect_bases(&[&stand.name()])?;
    Ok(Passed)
}

/// What a record says of the contents is what is compared: one of another tree is found out.
pub(super) fn a_changed_base_is_found_out(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let mut changed = new_tree();
    changed.file("etc/hostname", "nEw").mode = 0o600;
    let other = stand.bases.ensure(stand.bench.image(&changed)?, &BaseOptions::new())?;
    let record = stand.ensure()?.record().clone();
    // The right name and record, and the wrong tree.
    let mut volume = stand.bench.pool.bases()?.volume(&stand.name())?;
    stand.bases.remove(&stand.name(), &soon())?;
    {
        let _lock = volume.lock(&soon())?;
        volume.capture()?;
        let dir = volume.stage(&crate::volume::StageSpec::new())?;
        crate::conformance::bench::unpack_into(&dir, &changed)?;
        drop(dir);
        volume.seal(&record, crate::volume::RootMetadata::FromImage)?;
        volume.rename(Slot::Staged, Slot::Live)?;
    }
    drop(other);
    let verdict = stand.bases.verify(&stand.name(), &CancelToken::new())?;
    ensure!(verdict == Verdict::Changed, "{verdict}");
    // As said to whoever finds it: removed, it is made again.
    stand.bases.remove(&stand.name(), &soon())?;
    stand.ensure()?;
    let verdict = stand.bases.verify(&stand.name(), &CancelToken::new())?;
    ensure!(verdict == Verdict::Intact, "made again: {verdict}");
    Ok(Passed)
}

pub(super) fn ten_volumes_of_one_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let names: Vec<_> = (0..10).map(|number| format!("group-{number}")).collect();
    let base = stand.ensure()?;
    let mut results = Vec::new();
    std::thread::scope(|scope| {
        let rebuild = |name: &str| -> Check {
            // Twice: from nothing, and from a root.
            for _ in 0..2 {
                Rebuild::from_base(&base).run(&mut *stand.bench.pool.volume(name)?)?;
            }
            stand.bench.expect(name, &new_tree().manifest())
        };
        let threads: Vec<_> = names.iter().map(|name| scope.spawn(move || rebuild(name))).collect();
        for thread in threads {
            results.push(thread.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked"))));
        }
    });
    results.into_iter().collect::<Check>()?;
    drop(base);
    stand.expect_bases(&[&stand.name()])?;
    Ok(Passed)
}
