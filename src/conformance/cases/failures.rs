//! Rebuilds that fail for reasons of their own: the image, the caller, the pool.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::conformance::bench::{Bench, Check, NAME, Outcome, ensure, new_tree, old_tree, tar};
use crate::conformance::fault::{Fault, FaultPoint, Faulty, Primitive, When};
use crate::conformance::tree::Tree;
use crate::conformance::{CaseOutcome::*, Factory, Failure};
use crate::digest::Sha256;
use crate::error::{ErrorKind, Outcome as State, Result};
use crate::image::Image;
use crate::progress::{CancelToken, Event, Phase, Progress};
use crate::rebuild::{Rebuild, Report, Strategy};
use crate::size::ByteSize;
use crate::volume::Commit;

/// Demands that a rebuild failed with an error for which `right` holds, and that the old root is whole and alone.
fn expect_failed(bench: &Bench, result: Result<Report>, right: impl Fn(ErrorKind) -> bool) -> Check {
    let Err(error) = result else {
        return Err(Failure::new("the rebuild succeeded"));
    };
    ensure!(right(error.kind()), "it failed for another reason: {}", error.report());
    let whole = matches!(error.outcome(), State::Untouched | State::RolledBack);
    ensure!(whole, "it says: {}", error.report());
    bench.expect_only(&old_tree())
}

pub(super) fn unusable_images_change_nothing(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let whole = tar(&new_tree())?;
    let mut corrupt = whole.clone();
    // A header: what is wrong with content, only a digest can tell.
    let blocks = corrupt.chunks_exact_mut(512);
    if let Some(header) = blocks.skip(20).find(|block| block[257..262] == *b"ustar") {
        header.fill(0xa5);
    }
    ensure!(corrupt != whole, "there is no header to make corrupt");
    let mut images = vec![
        ("empty", vec![]),
        ("no tar stream", (0..40_000u32).map(|n| (n * n % 251) as u8).collect()),
        ("without entries", vec![0; 1024]),
        ("corrupt", corrupt),
        ("without an end", whole[..whole.len() - 1024].to_vec()),
    ];
    for part in [512, whole.len() / 3, whole.len() / 2 + 100, whole.len() - 1025] {
        images.push(("truncated", whole[..part].to_vec()));
    }
    for (what, bytes) in images {
        for strategy in [Strategy::Swap, Strategy::InPlace] {
            let run = || Rebuild::new(Image::open(bench.file(&bytes)?)?).strategy(strategy).run(&mut *bench.volume()?);
            expect_failed(&bench, run(), |kind| kind == ErrorKind::InvalidImage)
                .map_err(|failure| failure.during(format!("an image that is {what}, {} bytes, {strategy:?}", bytes.len())))?;
        }
        let stream = Image::from_reader(io::Cursor::new(bytes), "stream");
        expect_failed(&bench, Rebuild::new(stream).run(&mut *bench.volume()?), |kind| kind == ErrorKind::InvalidImage)
            .map_err(|failure| failure.during(format!("a stream that is {what}")))?;
    }
    Ok(Passed)
}

pub(super) fn a_wrong_digest_changes_nothing(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    for strategy in [Strategy::Swap, Strategy::InPlace] {
        let image = bench.image(&new_tree())?.with_sha256(Sha256::from_bytes([7; 32]));
        let result = Rebuild::new(image).strategy(strategy).run(&mut *bench.volume()?);
        expect_failed(&bench, result, |kind| kind == ErrorKind::DigestMismatch)?;
    }
    Ok(Passed)
}

/// Yields bytes, then an error.
struct Failing(io::Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::from_raw_os_error(libc::EIO)),
            length => Ok(length),
        }
    }
}

pub(super) fn a_failing_reader_changes_nothing(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let mut bytes = tar(&new_tree())?;
    bytes.truncate(bytes.len() / 2);
    let image = Image::from_reader(Failing(io::Cursor::new(bytes)), "stream");
    expect_failed(&bench, Rebuild::new(image).run(&mut *bench.volume()?), |kind| kind == ErrorKind::Io)?;
    Ok(Passed)
}

/// Sets the token when a phase begins.
struct CancelAt {
    phase: Phase,
    token: CancelToken,
    reached: AtomicBool,
}

impl Progress for CancelAt {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Phase(phase) if *phase == self.phase) {
            self.reached.store(true, Ordering::Relaxed);
            self.token.cancel();
        }
    }
}

/// Runs a rebuild that is cancelled as the phase begins; `None` if it does not have that phase.
fn cancelled_at(bench: &Bench, phase: Phase, strategy: Strategy) -> Check<Option<Result<Report>>> {
    let token = CancelToken::new();
    let progress = Arc::new(CancelAt { phase, token: token.clone(), reached: AtomicBool::new(false) });
    let rebuild = Rebuild::new(bench.image(&new_tree())?).strategy(strategy).progress(progress.clone()).cancel(token);
    let result = rebuild.run(&mut *bench.volume()?);
    Ok(progress.reached.load(Ordering::Relaxed).then_some(result))
}

pub(super) fn cancelling_a_swap(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    let token = CancelToken::new();
    token.cancel();
    let result = Rebuild::new(bench.image(&new_tree())?).cancel(token).run(&mut *bench.volume()?);
    expect_failed(&bench, result, |kind| kind == ErrorKind::Cancelled)?;
    for phase in [Phase::Recover, Phase::Plan, Phase::Stage, Phase::Fill, Phase::Seal] {
        let case = || -> Check {
            let result = cancelled_at(&bench, phase, Strategy::Swap)?;
            let result = result.ok_or_else(|| Failure::new("it never came"))?;
            expect_failed(&bench, result, |kind| kind == ErrorKind::Cancelled)
        };
        case().map_err(|failure| failure.during(format!("cancelled in the phase {phase}")))?;
    }
    for phase in [Phase::Commit, Phase::Dispose] {
        let case = || -> Check {
            cancelled_at(&bench, phase, Strategy::Swap)?.ok_or_else(|| Failure::new("it never came"))??;
            bench.expect_only(&new_tree())
        };
        case().map_err(|failure| failure.during(format!("cancelled too late, in the phase {phase}")))?;
        bench.fill(NAME, &old_tree())?;
    }
    Ok(Passed)
}

pub(super) fn cancelling_in_place(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    for phase in [Phase::Recover, Phase::Plan, Phase::Check] {
        let case = || -> Check {
            let result = cancelled_at(&bench, phase, Strategy::InPlace)?;
            expect_failed(&bench, result.ok_or_else(|| Failure::new("it never came"))?, |kind| kind == ErrorKind::Cancelled)
        };
        case().map_err(|failure| failure.during(format!("cancelled in the phase {phase}")))?;
    }
    // From here on the old root may be gone: whatever the outcome, it is the one that is said.
    for phase in [Phase::Remove, Phase::Stage, Phase::Fill, Phase::Seal, Phase::Commit] {
        let case = || -> Check {
            let result = cancelled_at(&bench, phase, Strategy::InPlace)?.ok_or_else(|| Failure::new("it never came"))?;
            match result {
                Ok(_) => bench.expect_only(&new_tree())?,
                Err(error) => {
                    ensure!(error.kind() == ErrorKind::Cancelled, "it failed for another reason: {}", error.report());
                    match error.outcome() {
                        State::Untouched | State::RolledBack => bench.expect_only(&old_tree())?,
                        State::NoRoot => ensure!(!bench.volume()?.names()?.live, "it says that no root remains, and there is one"),
                        State::Interrupted => return Err(Failure::new(error.report().to_string())),
                    }
                }
            }
            bench.fill(NAME, &old_tree())?;
            bench.expect_only(&old_tree())
        };
        case().map_err(|failure| failure.during(format!("cancelled in the phase {phase}")))?;
    }
    Ok(Passed)
}

/// Bytes that no file system can compress.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

pub(super) fn a_full_pool_changes_nothing(factory: &dyn Factory) -> Outcome {
    let bench = match Bench::confined(factory)? {
        Ok(bench) => bench,
        Err(why) => return Ok(NotApplicable(why)),
    };
    bench.fill(NAME, &old_tree())?;
    let mut tree = new_tree();
    for part in 0..16 {
        tree.file(format!("var/part-{part}"), noise(1 << 20));
    }
    let limited = match bench.pool.limit_space(ByteSize::mib(6)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(NotApplicable(error.message().to_owned())),
        limited => limited?,
    };
    // A stream does not say how much is to come: the space runs out on the way.
    let stream = Image::from_reader(io::Cursor::new(tar(&tree)?), "stream");
    expect_failed(&bench, Rebuild::new(stream).run(&mut *bench.volume()?), |kind| matches!(kind, ErrorKind::NoSpace(_)))?;
    // A file does, so that it may be refused before.
    let file = Rebuild::new(bench.image(&tree)?);
    expect_failed(&bench, file.run(&mut *bench.volume()?), |kind| matches!(kind, ErrorKind::NoSpace(_) | ErrorKind::TooSmall))?;
    // What fits still works, and so does the large one once there is space.
    bench.fill_when_counted(NAME, &new_tree())?;
    bench.expect_only(&new_tree())?;
    drop(limited);
    bench.fill_when_counted(NAME, &tree)?;
    bench.expect_only(&tree)?;
    Ok(Passed)
}

pub(super) fn a_retry_after_a_failure_works(factory: &dyn Factory) -> Outcome {
    let bench = Bench::new(factory)?;
    let bytes = tar(&new_tree())?;
    let bad = bench.file(&bytes[..bytes.len() / 2])?;
    // Also where there was nothing before.
    for expected in [None, Some(new_tree())] {
        let result = Rebuild::new(Image::open(&bad)?).run(&mut *bench.volume()?);
        ensure!(result.is_err(), "a truncated image was taken");
        match &expected {
            None => bench.expect_names(crate::conformance::bench::NONE)?,
            Some(tree) => bench.expect_only(tree)?,
        }
        bench.fill(NAME, &new_tree())?;
        bench.expect_only(&new_tree())?;
    }
    // One handle serves for both.
    let mut volume = bench.volume()?;
    ensure!(Rebuild::new(Image::open(&bad)?).run(&mut *volume).is_err(), "a truncated image was taken");
    Rebuild::new(Image::empty()).run(&mut *volume)?;
    bench.expect_only(&Tree::new())?;
    Ok(Passed)
}

pub(super) fn an_exchange_that_turns_out_impossible(factory: &dyn Factory) -> Outcome {
    let bench = Bench::with_old(factory)?;
    if bench.volume()?.capabilities().commit != Commit::Exchange {
        return Ok(NotApplicable("the backend renames twice".into()));
    }
    let point = FaultPoint::new(Primitive::Exchange, 1, When::Before);
    let mut volume = Faulty::new(bench.volume()?).with_fault(point, Fault::Error(ErrorKind::Unsupported));
    Rebuild::new(bench.image(&new_tree())?).run(&mut volume)?;
    ensure!(volume.fired(), "it was not exchanged at all");
    bench.expect_only(&new_tree())?;
    Ok(Passed)
}
