//! Bases that cannot be made, used or removed, and what is left then: a base that is whole, or none.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::bases::{Stand, all, no_wait, stand};
use crate::base::{BaseOptions, BaseState, Bases, CollectPolicy, Kept, KeptBase, Verdict};
use crate::base_name::BaseName;
use crate::conformance::bench::{
    Bench, Check, NAME, NONE, Outcome, ensure, new_tree, old_tree, points, soon, stage, stage_partly, tar, when_counted,
};
use crate::conformance::fault::{Fault, Faulty};
use crate::conformance::tree::Tree;
use crate::conformance::{CaseOutcome::*, Factory, Failure};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Outcome as State, Result, Space};
use crate::image::Image;
use crate::progress::{CancelToken, Event, Phase, Progress};
use crate::rebuild::{Rebuild, Strategy};
use crate::size::ByteSize;
use crate::volume::{BasePool, Cloning, RebuildableVolume, Removal, Slot, StageSpec, UsageDetail, VolumeId};

pub(super) fn unusable_images_make_no_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let whole = tar(&new_tree())?;
    let cut = stand.bench.file(&whole[..whole.len() / 2])?;
    let wrong = Sha256::from_bytes([7; 32]);
    let cut_name = stand.bases.name_of(&Image::open(&cut)?, &BaseOptions::new())?;
    // Also where a kill has left a part of one.
    for unfinished in [false, true] {
        if unfinished {
            for name in [&cut_name, &BaseName::new(wrong)] {
                let mut volume = stand.bench.pool.bases()?.volume(name)?;
                let _lock = volume.lock(&soon())?;
                stage_partly(&mut *volume)?;
            }
        }
        let images = [
            (Image::open(&cut)?, ErrorKind::InvalidImage),
            (Image::open(&stand.image)?.with_sha256(wrong), ErrorKind::DigestMismatch),
            (Image::from_reader(io::Cursor::new(whole.clone()), "stream"), ErrorKind::Unsupported),
            (Image::empty(), ErrorKind::InvalidInput),
        ];
        for (image, kind) in images {
            let Err(error) = stand.bases.ensure(image, &BaseOptions::new()) else {
                return Err(Failure::new(format!("expected {kind}, and a base was made")));
            };
            ensure!(error.kind() == kind, "expected {kind}, got {}", error.report());
            let whole = matches!(error.outcome(), State::Untouched | State::RolledBack);
            ensure!(whole, "no volume lost its root, and it says: {}", error.report());
        }
        stand.expect_bases(&[]).map_err(|failure| failure.during(format!("unfinished before: {unfinished}")))?;
    }
    stand.bench.expect_names(NONE)?;
    Ok(Passed)
}

/// What a kill leaves of a base.
#[derive(Debug, Clone, Copy)]
enum Unfinished {
    /// It was being filled.
    Partly,
    /// It was complete, and had not got its name.
    Sealed,
    /// It was being removed, entry by entry, and its root directory had been made removable.
    Removed,
}

fn leave(volume: &mut dyn RebuildableVolume, state: Unfinished) -> Check {
    let _lock = volume.lock(&soon())?;
    match state {
        Unfinished::Partly => stage_partly(volume)?,
        Unfinished::Sealed => stage(volume, &new_tree())?,
        Unfinished::Removed => {
            let mut part = Tree::new();
            part.root().mode = 0o700;
            stage(volume, &part)?;
            volume.rename(Slot::Staged, Slot::Retired)?;
        }
    }
    Ok(())
}

pub(super) fn unfinished_bases_are_made(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let pool = stand.bench.pool.bases()?;
    let name = stand.name();
    let mut states = vec![Unfinished::Partly, Unfinished::Sealed];
    // Elsewhere what has the retired name is whole.
    if pool.volume(&name)?.capabilities().removal == Removal::Gradual {
        states.push(Unfinished::Removed);
    }
    for state in states {
        for made in [true, false] {
            let case = || -> Check {
                leave(&mut *pool.volume(&name)?, state)?;
                let infos = stand.bases.list()?;
                let unfinished = matches!(&infos[..], [info] if info.name == name && info.state == BaseState::Unfinished);
                ensure!(unfinished, "the list says {infos:?}");
                ensure!(stand.bases.find(&name, &no_wait())?.is_none(), "it is found although it is unfinished");
                let verified = stand.bases.verify(&name, &CancelToken::new());
                ensure!(
                    verified.is_err_and(|error| error.kind() == ErrorKind::NotFound),
                    "it is verified although it is unfinished"
                );
                if made {
                    stand.ensure()?;
                    stand.expect_bases(&[&name])?;
                    Rebuild::from_base(&stand.ensure()?).run(&mut *stand.bench.volume()?)?;
                    stand.bench.expect_only(&new_tree())?;
                }
                // Lately used or not, what is unfinished goes.
                let policy = CollectPolicy::unused_for(Duration::from_secs(3600));
                let policy = if made { all() } else { policy };
                let collect = || stand.bases.collect(&policy, &CancelToken::new());
                let mut collected = collect()?;
                if let [KeptBase { why: Kept::Failed(error), .. }] = &collected.kept[..] {
                    ensure!(made && stand.release(error, &[NAME])?, "it could not be removed: {collected}");
                    collected = collect()?;
                }
                ensure!(collected.removed == [name.clone()], "it collected {collected}");
                stand.expect_bases(&[])
            };
            case().map_err(|failure| failure.during(format!("{state:?}, made: {made}")))?;
        }
    }
    Ok(Passed)
}

pub(super) fn staging_a_base_that_is_none(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    stand.bench.fill(NAME, &old_tree())?;
    let mut volume = stand.bench.volume()?;
    let instant = volume.capabilities().cloning == Cloning::Instant;
    let base = stand.ensure()?;
    let there = base.id().clone();
    let gone = stand.bench.pool.bases()?.volume(&BaseName::new(Sha256::from_bytes([7; 32])))?.id();
    let bases = [there.clone(), gone, VolumeId::new("no-such-backend", there.name())];
    for (number, base) in bases.into_iter().enumerate() {
        if number == 0 && instant {
            continue;
        }
        let _lock = volume.lock(&soon())?;
        volume.capture()?;
        let spec = StageSpec::new().with_base(base.clone());
        let checked = if instant { Some(volume.check_spec(&spec).is_err()) } else { None };
        ensure!(checked != Some(false), "the check before anything is changed lets {base} pass");
        let Err(error) = volume.stage(&spec) else { return Err(Failure::new(format!("a root was staged from {base}"))) };
        let right = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported);
        ensure!(right, "{base}: {}", error.report());
        volume.discard(Slot::Staged)?;
    }
    drop(base);
    stand.bench.expect_only(&old_tree())?;
    Ok(Passed)
}

/// A tree of some MiB that no file system can compress.
fn large_tree() -> Tree {
    let mut tree = new_tree();
    for part in 0..16 {
        tree.file(format!("var/part-{part}"), super::failures::noise(1 << 20));
    }
    tree
}

pub(super) fn a_base_larger_than_the_volume(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    // A device has to hold a file system.
    let of_device = stand.bench.volume()?.capabilities().sizing.is_of_device();
    let (small, large) = (ByteSize::mib(if of_device { 32 } else { 4 }), ByteSize::gib(1));
    let image = stand.bench.image(&old_tree())?;
    if let Err(error) = Rebuild::new(image).size(small).run(&mut *stand.bench.volume()?) {
        let reasons = [ErrorKind::Unsupported, ErrorKind::TooSmall];
        ensure!(reasons.contains(&error.kind()), "a size is no reason for {}", error.report());
        return Ok(NotApplicable(format!("no such size: {}", error.message())));
    }
    let image = stand.bench.file(&tar(&large_tree())?)?;
    let rebuild = |strategy| -> Result<Rebuild> {
        let base = stand.bases.ensure(Image::open(&image)?, &BaseOptions::new())?;
        Ok(Rebuild::from_base(&base).strategy(strategy))
    };
    // Where what is shared does not count, it fits.
    let mut fits = 0;
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        match rebuild(strategy)?.run(&mut *stand.bench.volume()?) {
            Ok(_) => {
                fits += 1;
                stand.bench.expect_only(&large_tree())?;
                stand.bench.fill(NAME, &old_tree())?;
            }
            Err(error) => {
                ensure!(error.kind() == ErrorKind::NoSpace(Space::Quota), "it failed for another reason: {}", error.report());
                let whole = matches!(error.outcome(), State::Untouched | State::RolledBack);
                ensure!(whole && error.remedy().is_some(), "{strategy:?} says: {}", error.report());
            }
        }
        stand.bench.expect_only(&old_tree())?;
        ensure!(stand.bench.volume()?.usage(UsageDetail::Free)?.size == Some(small), "the limit is another");
    }
    ensure!(fits == 0 || fits == 2, "it fits by one strategy and not by the other");
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let report = rebuild(strategy)?.max_size(large).run(&mut *stand.bench.volume()?)?;
        stand.bench.expect_only(&large_tree())?;
        let size = stand.bench.volume()?.usage(UsageDetail::Free)?.size;
        ensure!(report.grown.is_none() || report.grown == size, "it was grown to {:?}, and has {size:?}", report.grown);
        ensure!(report.grown.is_some() != (fits > 0), "{strategy:?} has grown it to {:?}", report.grown);
        if strategy == Strategy::Swap && fits == 0 {
            // A volume that is large enough now is not grown again: back to a small one.
            let mut volume = stand.bench.volume()?;
            let _lock = volume.lock(&soon())?;
            volume.rename(Slot::Live, Slot::Retired)?;
            volume.discard(Slot::Retired)?;
            drop(_lock);
            Rebuild::new(stand.bench.image(&old_tree())?).size(small).run(&mut *volume)?;
        }
    }
    Ok(Passed)
}

/// Sets the token when a phase begins.
struct CancelAt(Phase, CancelToken);

impl Progress for CancelAt {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Phase(phase) if *phase == self.0) {
            self.1.cancel();
        }
    }
}

pub(super) fn cancelling_from_a_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let at = |phase| {
        let token = CancelToken::new();
        (Arc::new(CancelAt(phase, token.clone())), token)
    };
    for phase in [Phase::Check, Phase::Recover, Phase::Plan, Phase::Stage, Phase::Fill, Phase::Seal] {
        let (progress, token) = at(phase);
        let options = BaseOptions::new().with_progress(progress).with_cancel(token);
        let Err(error) = stand.bases.ensure(Image::open(&stand.image)?, &options) else {
            return Err(Failure::new(format!("cancelled in the phase {phase}, and a base was made")));
        };
        ensure!(error.kind() == ErrorKind::Cancelled, "cancelled in the phase {phase}: {}", error.report());
        stand.expect_bases(&[]).map_err(|failure| failure.during(format!("cancelled in the phase {phase}")))?;
    }
    stand.bench.fill(NAME, &old_tree())?;
    for phase in [Phase::Recover, Phase::Plan, Phase::Stage, Phase::Seal, Phase::Commit] {
        let (progress, token) = at(phase);
        let rebuild = Rebuild::from_base(&stand.ensure()?).progress(progress).cancel(token);
        match (rebuild.run(&mut *stand.bench.volume()?), phase) {
            (Ok(_), Phase::Commit) => stand.bench.expect_only(&new_tree())?,
            (Err(error), _) if error.kind() == ErrorKind::Cancelled && phase != Phase::Commit => {
                let whole = matches!(error.outcome(), State::Untouched | State::RolledBack);
                ensure!(whole, "cancelled in the phase {phase}: {}", error.report());
                stand.bench.expect_only(&old_tree())?;
            }
            (result, _) => return Err(Failure::new(format!("cancelled in the phase {phase}: {result:?}"))),
        }
    }
    stand.expect_bases(&[&stand.name()])?;
    Ok(Passed)
}

pub(super) fn a_full_pool_makes_no_base(factory: &dyn Factory) -> Outcome {
    let bench = match Bench::confined(factory)? {
        Ok(bench) => bench,
        Err(why) => return Ok(NotApplicable(why)),
    };
    let bases = match bench.bases()? {
        Ok(bases) => bases,
        Err(why) => return Ok(NotApplicable(why)),
    };
    let image = bench.file(&tar(&large_tree())?)?;
    let limited = match bench.pool.limit_space(ByteSize::mib(6)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(NotApplicable(error.message().to_owned())),
        limited => limited?,
    };
    let ensure_base = || bases.ensure(Image::open(&image)?, &BaseOptions::new());
    let Err(error) = ensure_base() else { return Err(Failure::new("the base fits a full pool")) };
    ensure!(
        matches!(error.kind(), ErrorKind::NoSpace(_) | ErrorKind::TooSmall),
        "it failed for another reason: {}",
        error.report()
    );
    ensure!(bases.list()?.is_empty(), "there is a base: {:?}", bases.list()?);
    bench.expect_names(NONE)?;
    drop(limited);
    let name = when_counted(ensure_base)?.name().clone();
    let verdict = bases.verify(&name, &CancelToken::new())?;
    ensure!(verdict == Verdict::Intact, "{verdict}");
    bench.expect_names(NONE)?;
    Ok(Passed)
}

/// Does something to the bases of a pool, once without a fault and then with one at each point, and demands a base that is whole or none.
fn every_point(stand: &Stand, prepare: &dyn Fn() -> Check, job: &dyn Fn(&Bases) -> Result<()>) -> Check {
    let name = stand.name();
    prepare()?;
    let pool = Arc::new(Faulty::new(stand.bench.pool.bases()?));
    job(&Bases::new(Arc::clone(&pool)))?;
    let calls = pool.calls();
    for point in points(&calls) {
        prepare()?;
        let faulty = Faulty::new(stand.bench.pool.bases()?).with_fault(point, Fault::Error(ErrorKind::Io));
        let pool: Arc<Faulty<Box<dyn BasePool>>> = Arc::new(faulty);
        let result = job(&Bases::new(Arc::clone(&pool)));
        let check = || -> Check {
            ensure!(pool.fired(), "the run took another way");
            let infos = stand.bases.list()?;
            ensure!(infos.len() <= 1, "the list says {infos:?}");
            if infos.iter().any(|info| info.state == BaseState::Complete) {
                let verdict = stand.bases.verify(&name, &CancelToken::new())?;
                ensure!(verdict == Verdict::Intact, "{verdict}");
            }
            // The next one simply works, and so does its end.
            stand.ensure().map_err(|error: Error| Failure::from(error).during("the next base"))?;
            stand.expect_bases(&[&name]).map_err(|failure| failure.during("the next base"))?;
            stand.bases.remove(&name, &no_wait())?;
            stand.expect_bases(&[])
        };
        check().map_err(|failure| {
            let calls: Vec<_> = pool.calls().iter().map(ToString::to_string).collect();
            let result = result.as_ref().map_or_else(|error| error.report().to_string(), |()| "success".into());
            failure.during(format!("an error {point}; it said: {result}\n  calls: {}\n  ", calls.join(", ")))
        })?;
    }
    Ok(())
}

pub(super) fn errors_in_making_a_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let prepare = || -> Check { Ok(stand.bases.remove(&stand.name(), &no_wait()).map(drop)?) };
    every_point(&stand, &prepare, &|bases| bases.ensure(Image::open(&stand.image)?, &BaseOptions::new()).map(drop))?;
    Ok(Passed)
}

pub(super) fn errors_in_removing_a_base(factory: &dyn Factory) -> Outcome {
    let stand = stand!(factory);
    let prepare = || -> Check { Ok(stand.ensure().map(drop)?) };
    every_point(&stand, &prepare, &|bases| bases.collect(&all(), &CancelToken::new()).map(drop))?;
    Ok(Passed)
}
