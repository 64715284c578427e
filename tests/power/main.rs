//! Power that is lost at every flush of a rebuild, and disks that fail at every step of it: the old root or the new one, whole, and nothing else.
//!
//! It needs a kernel with device-mapper and disks that it may break: `tests/lab/run lvm --test power`, or with `zfs` too. `REROOT_FAULT_TRIALS=long`
//! tries all of it instead of a part, and `REROOT_SEED` repeats the random choices of a run.

#[path = "../common/mod.rs"]
mod common;

#[allow(dead_code, reason = "what is said by names is of use here too")]
#[path = "../crash/child.rs"]
mod child;
#[cfg(feature = "zfs")]
#[allow(dead_code, reason = "the place of the crash tests is another one")]
#[path = "../crash/datasets.rs"]
mod datasets;
#[cfg(feature = "ceph")]
#[allow(dead_code, reason = "the same")]
#[path = "../crash/images.rs"]
mod images;
#[allow(dead_code, reason = "the same")]
#[path = "../crash/place.rs"]
mod place;
#[allow(dead_code, reason = "processes are not killed here")]
#[path = "../crash/random.rs"]
mod random;
#[allow(dead_code, reason = "the same")]
#[path = "../crash/stand.rs"]
mod stand;
#[allow(dead_code, reason = "the place of the crash tests is another one")]
#[path = "../crash/volumes.rs"]
mod volumes;

mod disks;
mod effort;
mod errors;
mod ground;
mod loss;
mod record;
mod small;
mod space;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use reroot::Strategy;
use reroot::filesystem::FilesystemKind;
use reroot::volume::Commit;

use child::Job;
use common::ledger::Ledger;
use common::loopfs::Kind;
use common::pools::{Backend, Layout, Quotas};
use errors::Way;
use ground::{Ground, Group, Mount, Zpool};
use loss::Others;

const RENAMES: Job = Job::Rebuild(Strategy::Swap, Commit::TwoRenames);
const FROM_BASE: Job = Job::FromBase(Strategy::Swap, Commit::Exchange);

type Jobs = Vec<(&'static str, Job)>;
type Make = fn() -> Result<Box<dyn Ground>, String>;
type Run = Box<dyn Fn(&dyn Ground, &mut Ledger) -> Result<(), String> + Send>;

fn thin() -> Result<Box<dyn Ground>, String> {
    Ok(Box::new(Group(Layout::Thin(FilesystemKind::Ext4))))
}

fn thick() -> Result<Box<dyn Ground>, String> {
    Ok(Box::new(Group(Layout::Thick(FilesystemKind::Ext4))))
}

/// What is rebuilt, on what, and how.
fn plans() -> Vec<(&'static str, Make, Jobs)> {
    fn mount(backend: Backend, kind: Kind) -> Result<Box<dyn Ground>, String> {
        Ok(Box::new(Mount::new(backend, kind)?))
    }
    let folders = || {
        vec![
            ("swap_by_exchange", Job::SWAP),
            ("swap_by_two_renames", RENAMES),
            ("in_place", Job::IN_PLACE),
            ("from_base", FROM_BASE),
        ]
    };
    let volumes = || vec![("swap", RENAMES), ("in_place", Job::IN_PLACE), ("from_base", FROM_BASE)];
    let mut plans: Vec<(&'static str, Make, Jobs)> = vec![
        ("dir::ext4", || mount(Backend::Dir, Kind::Ext4), folders()),
        ("dir::xfs", || mount(Backend::Dir, Kind::Xfs), folders()),
        ("dir::btrfs", || mount(Backend::Dir, Kind::Btrfs), folders()),
        ("btrfs", || mount(Backend::Btrfs(Quotas::Off), Kind::Btrfs), folders()),
        ("lvm::ext4", thin, volumes()),
        ("lvm::xfs", || Ok(Box::new(Group(Layout::Thin(FilesystemKind::Xfs)))), volumes()),
        ("lvm::btrfs", || Ok(Box::new(Group(Layout::Thin(FilesystemKind::Btrfs)))), volumes()),
    ];
    let datasets = [volumes(), vec![("within", Job::Within), ("purging", Job::Purging)]].concat();
    plans.push(("zfs", || Ok(Box::new(Zpool)), datasets));
    plans
}

/// What runs out where, and in which rebuilds.
fn shortages() -> Vec<(&'static str, Make, &'static str, Job, &'static str)> {
    let classes = |place: &str| -> &'static [&'static str] {
        match place {
            "dir::ext4" => &["no_space", "no_inodes"],
            "dir::xfs" => &["no_space", "no_inodes", "project_quota", "project_inodes"],
            "dir::btrfs" => &["no_space"],
            "btrfs" => &["no_space", "qgroup"],
            "lvm::ext4" => &["thin_data", "thin_metadata"],
            "lvm::thick" => &["group_full"],
            "zfs" => &["no_space", "quota", "refquota"],
            _ => &[],
        }
    };
    let mut all = Vec::new();
    let more = [("lvm::thick", thick as Make, vec![("swap", RENAMES), ("in_place", Job::IN_PLACE)])];
    for (place, make, jobs) in plans().into_iter().chain(more) {
        // What purges makes room.
        let wanted = jobs.into_iter().filter(|(name, _)| *name != "purging");
        for (name, job) in wanted {
            all.extend(classes(place).iter().map(|class| (place, make, name, job, *class)));
        }
    }
    all
}

/// Why a trial cannot run here, if it may be left out.
fn why_not(name: &str) -> Option<&'static str> {
    if std::env::var_os("REROOT_LAB").is_none() {
        return Some("there are no disks to break: run tests/lab/run lvm --test power");
    }
    // The kernel does not come back from it, and with it the guest: a pool whose metadata cannot be read.
    if ["zfs::disk::all_fails", "zfs::disk::reads_fail", "zfs::disk::vanishes"].iter().any(|fatal| name.starts_with(fatal)) {
        return Some("ZFS, whose metadata cannot be read, does not let go of the guest's only processor");
    }
    let has_zfs = std::path::Path::new("/sys/module/zfs").exists();
    (name.starts_with("zfs") && !has_zfs).then_some("this guest is without ZFS: run tests/lab/run zfs --test power")
}

fn main() {
    if let Some(status) = child::run_if_asked() {
        std::process::exit(status);
    }
    let mut arguments = Arguments::from_args();
    // There is one pair of disks.
    arguments.test_threads = Some(1);
    let seed = random::seed();
    let mut trials = Vec::new();
    let mut trial = |place: &'static str, make: Make, class: &str, name: &str, run: Run| {
        let fault = format!("{}, {name}", class.rsplit("::").next().unwrap_or(class)).replace('_', " ");
        let name = format!("{place}::{class}::{name}");
        if !effort::is_tried(&name) {
            return;
        }
        trials.push(Trial::ignorable_test(name.clone(), move || {
            if let Some(why) = why_not(&name) {
                return Ok(Completion::ignored_with(why));
            }
            let begun = std::time::Instant::now();
            let mut ledger = Ledger::new(&fault, place);
            let done = make().and_then(|ground| run(&*ground, &mut ledger));
            println!("  {name}: {} trials in {:.1?}", ledger.times(), begun.elapsed());
            done.map(|()| Completion::Completed).map_err(Failed::from)
        }));
    };
    for (place, make, jobs) in plans() {
        for (name, job) in jobs.iter().copied() {
            let run = move |ground: &dyn Ground, ledger: &mut Ledger| loss::lose_power(ground, job, Others::Nothing, seed, ledger);
            trial(place, make, "power_loss", name, Box::new(run));
        }
        for (name, job) in jobs.iter().copied() {
            let run = move |ground: &dyn Ground, ledger: &mut Ledger| loss::lose_power(ground, job, Others::Sync, seed, ledger);
            trial(place, make, "power_loss_amid_syncs", name, Box::new(run));
        }
        for (name, job) in jobs.iter().copied() {
            for way in Way::ALL {
                let run = move |ground: &dyn Ground, ledger: &mut Ledger| errors::fail(ground, job, way, ledger);
                trial(place, make, &format!("disk::{}", way.name()), name, Box::new(run));
            }
        }
    }
    for (place, make, name, job, class) in shortages() {
        let run = move |ground: &dyn Ground, ledger: &mut Ledger| {
            let shortage = ground.shortages().into_iter().find(|shortage| shortage.name == class);
            space::run_out(ground, job, &shortage.ok_or("there is no such shortage")?, ledger)
        };
        trial(place, make, &format!("space::{class}"), name, Box::new(run));
    }
    for (place, make) in [("lvm::ext4", thin as Make), ("lvm::thick", thick)] {
        for (name, strategy) in [("swap", Strategy::Swap), ("in_place", Strategy::InPlace)] {
            let job = Job::Rebuild(strategy, Commit::TwoRenames);
            let run = move |ground: &dyn Ground, ledger: &mut Ledger| small::outgrow(ground, job, strategy, ledger);
            trial(place, make, "space::too_small", name, Box::new(run));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("seed {seed} (REROOT_SEED repeats it)");
    conclusion.exit();
}
