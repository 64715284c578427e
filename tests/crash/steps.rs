//! Kills before and after every primitive.

use std::path::Path;

use reroot::Strategy;
use reroot::conformance::fault::{Call, FaultPoint, Primitive, When};
use reroot::volume::Commit;

use super::child::{End, Job, Running};
use super::common::pools::Backend;
use super::stand::{Found, Stand, Table, Which};

pub(crate) const ENTRIES: usize = 100;

pub(crate) fn kill_at_every_step(backend: Backend, job: Job, table: &mut Table) -> Result<(), String> {
    let stand = Stand::new(backend, ENTRIES)?;
    let calls = calls_of(&stand, job)?;
    let points = points(backend, job, &calls);
    let mut live = Some(Which::B);
    for (call, point) in &points {
        let old = match live {
            Some(which) => which,
            None => {
                stand.reset(Which::A)?;
                Which::A
            }
        };
        let found = kill_at(&stand, job, old, *point)
            .and_then(|()| stand.examine(job, old))
            .map_err(|why| format!("killed {point}: {why}"))?;
        table.count(row(call, *point), found);
        live = match found {
            Found::Old => Some(old),
            Found::New => Some(old.other()),
            Found::NoRoot => None,
        };
        // The next rebuild simply works.
        let next = live.map_or(Which::A, Which::other);
        stand.rebuild(job, next).map_err(|why| format!("the next rebuild, after a kill {point}: {why}"))?;
        live = Some(next);
    }
    super::bases::expect_clean(&stand)?;
    let kills = points.len();
    if table.kills() == kills { Ok(()) } else { Err(format!("{} kills, not {kills}", table.kills())) }
}

/// The calls of a run that had to wait for nobody: a process that another test has just started may hold a volume for a moment, and then there is
/// a look for holders that no other run has.
fn calls_of(stand: &Stand, job: Job) -> Result<Vec<Call>, String> {
    for _ in 0..20 {
        stand.reset(Which::A)?;
        let calls = stand.rebuild(job, Which::B)?.calls();
        if !calls.windows(2).any(|pair| pair.iter().all(|call| call.primitive == Primitive::Holders)) {
            return Ok(calls);
        }
    }
    Err("somebody holds the volume time and again".into())
}

/// Before and after each of these calls. On ZFS, LVM and Ceph, where a kill costs a second or more, only after those that change something: whoever just
/// looks leaves the volume to a kill as it was before.
pub(crate) fn points(backend: Backend, job: Job, calls: &[Call]) -> Vec<(Call, FaultPoint)> {
    // A clone may come so soon after the first look for holders that there is no second.
    let sure = |call: &&Call| !matches!(job, Job::FromBase(..)) || call.primitive != Primitive::Holders || call.occurrence == 1;
    let all = calls.iter().filter(sure).flat_map(|call| call.points().map(|point| (call.clone(), point)));
    if !backend.is_slow() {
        return all.collect();
    }
    all.filter(|(call, point)| changes(call.primitive) && point.when == When::After).collect()
}

fn changes(primitive: Primitive) -> bool {
    use Primitive::*;
    matches!(
        primitive,
        Stage | Grow | Seal | Rename | Exchange | Purge | Discard | Tidy | BaseVolume | BaseTouch | BaseForget | BaseSetMemo
    )
}

pub(crate) fn row(call: &Call, point: FaultPoint) -> String {
    format!("{} {call}", point.when)
}

/// Runs the job towards the other root in a child that kills itself at the point.
pub(crate) fn kill_at(stand: &Stand, job: Job, old: Which, point: FaultPoint) -> Result<(), String> {
    stand.prepare(job)?;
    match Running::start(stand.backend, job, &stand.volume_path(), stand.image(old.other()), Some(point))?.end()? {
        (End::Killed, _) => Ok(()),
        (End::Done, _) => Err("the child took another way and ended".into()),
    }
}

/// Kills a rebuild at those steps after which there is something to recover, then the recovery at each of its own.
pub(crate) fn kill_recover_at_every_step(backend: Backend, table: &mut Table) -> Result<(), String> {
    let swap = Job::Rebuild(Strategy::Swap, Commit::Exchange);
    let renames = Job::Rebuild(Strategy::Swap, Commit::TwoRenames);
    let mut situations = vec![
        ("after stage", swap, FaultPoint::new(Primitive::Stage, 1, When::After)),
        ("between the renames", renames, FaultPoint::new(Primitive::Rename, 1, When::After)),
        ("after the renames", renames, FaultPoint::new(Primitive::Rename, 2, When::After)),
        ("in place, old root retired", Job::IN_PLACE, FaultPoint::new(Primitive::Rename, 1, When::After)),
    ];
    let sealed = ("after seal", swap, FaultPoint::new(Primitive::Seal, 1, When::After));
    match backend {
        #[cfg(feature = "ceph")]
        Backend::Ceph(_) => situations.push(sealed),
        #[cfg(feature = "lvm")]
        Backend::Lvm => situations.push(sealed),
        #[cfg(feature = "zfs")]
        Backend::Zfs => situations.push(("within, after seal", Job::Within, FaultPoint::new(Primitive::Seal, 1, When::After))),
        _ => situations.extend([
            sealed,
            ("after exchange", swap, FaultPoint::new(Primitive::Exchange, 1, When::After)),
            ("in place, new root staged", Job::IN_PLACE, FaultPoint::new(Primitive::Seal, 1, When::After)),
        ]),
    }
    let stand = Stand::new(backend, ENTRIES)?;
    for (situation, job, interruption) in situations {
        let interrupt = || -> Result<(), String> {
            stand.reset(Which::A)?;
            kill_at(&stand, job, Which::A, interruption)
        };
        interrupt()?;
        let mut volume = reroot::conformance::fault::Faulty::new(stand.volume(job)?);
        Job::Recover
            .run(&mut volume, &stand.bases()?, Path::new(""), std::sync::Arc::new(super::stand::Silent))
            .map_err(|error| error.report().to_string())?;
        for (_, point) in points(backend, Job::Recover, &volume.calls()) {
            let case = || -> Result<Found, String> {
                interrupt()?;
                kill_at(&stand, Job::Recover, Which::A, point)?;
                stand.examine(job, Which::A)
            };
            let found = case().map_err(|why| format!("killed {situation}, then its recovery {point}: {why}"))?;
            table.count(situation.into(), found);
        }
    }
    Ok(())
}
