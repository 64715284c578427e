//! Programs of others that are missing, fail, are killed, print garbage, do nothing and say that they did, or do it and say that they did not.
//! In the lab only: a mount namespace shows the worker a program of ours under the name of theirs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reroot::Strategy;
use reroot::volume::Commit;

use super::bench::{Bench, NOT_HERE, TOOL_CALLS, Trials};
use super::child::Job;
use super::common::pools::Backend;
use super::common::{Folder, is_long};
use super::others;
use super::worker::{End, Task, Worker};

pub(crate) fn trials(backend: Backend) -> Vec<(&'static str, Trials)> {
    let tools: &'static [&str] = match backend.name() {
        "lvm" => &["lvm", "dmsetup", "mkfs.ext4", "e2fsck", "dumpe2fs", "tune2fs", "resize2fs"],
        "ceph" => &["mkfs.ext4", "e2fsck", "dumpe2fs", "tune2fs", "resize2fs", "modprobe"],
        "zfs" => &["zfs"],
        // These run no programs.
        _ => return Vec::new(),
    };
    FAULTS.iter().map(|fault| (fault.name, Box::new(move || fail(backend, tools, fault)) as Trials)).collect()
}

/// What becomes of a program.
struct Fault {
    name: &'static str,
    title: &'static str,
    /// What a shell does in its place; `$real` is the true one. `None`: it is missing.
    script: Option<&'static str>,
}

const FAULTS: [Fault; 7] = [
    Fault { name: "tools::missing", title: "a tool is missing", script: None },
    Fault { name: "tools::fails", title: "a tool fails", script: Some("echo 'it does not work' >&2; exit 5") },
    Fault { name: "tools::killed", title: "a tool is killed", script: Some("kill -KILL $$") },
    Fault {
        name: "tools::garbage",
        title: "a tool prints garbage and exits with 0",
        script: Some("head -c 5000 /dev/urandom; exit 0"),
    },
    Fault { name: "tools::nothing", title: "a tool exits with 0 and has done nothing", script: Some("exit 0") },
    Fault {
        name: "tools::after",
        title: "a tool does its work and is killed then",
        script: Some("\"$real\" \"$@\"; kill -KILL $$"),
    },
    Fault { name: "tools::hangs", title: "a tool hangs", script: Some("exec sleep 100000") },
];

/// A program in the place of another: from its n-th call on it has the fault, before it is the true one.
struct Fake {
    fake: PathBuf,
    calls: PathBuf,
    tool: PathBuf,
}

impl Fake {
    fn new(folder: &Path, tool: &str, script: Option<&str>, from: usize) -> Result<Option<Fake>, String> {
        let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let Some(path) = places.iter().map(|place| Path::new(place).join(tool)).find(|path| path.exists()) else { return Ok(None) };
        let failed = |error: std::io::Error| error.to_string();
        // A program that is many looks at the name it is called by.
        let real = folder.join("real").join(tool);
        fs::create_dir_all(folder.join("real")).map_err(failed)?;
        if !real.exists() {
            fs::copy(&path, &real).map_err(failed)?;
        }
        let (fake, calls) = (folder.join(format!("fake-{tool}")), folder.join(format!("calls-{tool}")));
        fs::write(&calls, "").map_err(failed)?;
        let (real, count, body) = (real.display(), calls.display(), script.unwrap_or_default());
        let text = format!(
            "#!/bin/sh\nreal='{real}'\nn=$(wc -l < '{count}')\necho >> '{count}'\n[ \"$n\" -ge {from} ] || exec \"$real\" \"$@\"\n{body}\n"
        );
        fs::write(&fake, text).map_err(failed)?;
        // One that cannot be executed is no program.
        let mode = if script.is_some() { 0o755 } else { 0o644 };
        fs::set_permissions(&fake, fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Some(Fake { fake, calls, tool: path }))
    }

    /// How often it was called.
    fn calls(&self) -> usize {
        fs::read_to_string(&self.calls).map_or(0, |text| text.lines().count())
    }
}

fn fail(backend: Backend, tools: &[&str], fault: &Fault) -> Result<(), String> {
    if std::env::var_os("REROOT_LAB").is_none() {
        return Err(format!("{NOT_HERE}programs are replaced in the lab only"));
    }
    let hangs = fault.name == "tools::hangs";
    if hangs && !is_long() {
        return Err(format!("{NOT_HERE}a hanging tool is given up after two minutes, which the long run waits for"));
    }
    let mut bench = Bench::new(fault.title, backend, 20)?;
    others::make_demanding(backend, &bench.stand.volume_path())?;
    let folder = Folder::new(&std::env::temp_dir()).map_err(|error| error.to_string())?;
    // One that is missing is so from the first look. Of those that are called, the first calls have the fault.
    let most = if fault.script.is_none() || hangs { 1 } else { TOOL_CALLS.on(backend) };
    let tasks = [Task::Stream, Task::Job(Job::FromBase(Strategy::Swap, Commit::Exchange))];
    for task in tasks.into_iter().take(if hangs { 1 } else { 2 }) {
        // With nothing wrong: which are called, and how often.
        let mut fakes = Vec::new();
        for tool in tools {
            let sound = Fake::new(folder.path(), tool, Some("exec \"$real\" \"$@\""), 0)?;
            fakes.extend(sound.map(|fake| (*tool, fake)));
        }
        let end = run(&bench, fakes.iter().map(|(_, fake)| fake), task)?;
        bench.stand.examine(task.job(), bench.live)?;
        if end != End::Done {
            return Err(format!("with programs that are as they should be: {end:?}"));
        }
        bench.live = bench.live.other();
        let calls: Vec<_> = fakes.iter().map(|(tool, fake)| (*tool, fake.calls())).collect();
        // Each is waited for, for minutes: one has to do.
        let tried = if hangs { 1 } else { calls.len() };
        for (tool, calls) in calls.into_iter().filter(|(_, calls)| *calls > 0).take(tried) {
            for from in 0..most.min(calls) {
                let Some(fake) = Fake::new(folder.path(), tool, fault.script, from)? else { continue };
                let end = run(&bench, [&fake], task)?;
                let context = |why: String| format!("{tool}, from its call {from} of {}, {task:?}: {why}", fake.calls());
                bench.examine(task, &end).map_err(context)?;
                if matches!(end, End::Killed | End::Aborted) {
                    return Err(context(format!("the rebuild itself was {}", end.told())));
                }
            }
        }
    }
    if bench.ledger.times() == 0 {
        return Err(format!("{NOT_HERE}a rebuild on this backend calls none of these programs: {}", tools.join(", ")));
    }
    Ok(())
}

/// Rebuilds where these programs are the others.
fn run<'a>(bench: &Bench, fakes: impl IntoIterator<Item = &'a Fake>, task: Task) -> Result<End, String> {
    let script = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit; shift 2; done; shift; exec \"$@\"";
    let mut through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"].map(OsStr::new).to_vec();
    for fake in fakes {
        through.extend([fake.fake.as_os_str(), fake.tool.as_os_str()]);
    }
    through.push(OsStr::new("--"));
    Worker::start_as(&bench.stand, task, bench.live.other(), None, &through)?.end()
}
