//! What the lab gives to tests of Ceph: a cluster with the pools `rbd` and `data`, of which each test takes a namespace.
//!
//! The cluster is asked by Ceph's own Python binding, in one process beside the tests (`cluster.py`): each command of Ceph starts for half a second and more.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use reroot::ByteSize;
use serde::Deserialize;
use serde_json::{Value, json};

use super::lab::run;
use super::visit::Mounted;

/// Why nothing is tested outside the lab: no cluster of this machine is a place to fill and to break things in.
pub(crate) const NO_CLUSTER: &str = "there is no Ceph cluster: run tests/lab/run ceph";
/// The pool for most.
pub(crate) const POOL: &str = "rbd";
/// One for the data of images whose names are in another.
pub(crate) const DATA_POOL: &str = "data";
/// What the library keeps its locks and notes on, in each namespace.
pub(crate) const LOCKS: &str = "reroot.locks";

/// How many tests are at work; whoever stops parts of the cluster is alone meanwhile.
static AT_WORK: Mutex<u32> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();
const ALONE: u32 = u32::MAX;

/// A test at work, which may end in another thread than it has begun in.
#[derive(Debug)]
struct Turn;

impl Turn {
    fn take(alone: bool) -> Turn {
        let at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |count: &mut u32| if alone { *count > 0 } else { *count == ALONE };
        let mut at_work = ENDED.wait_while(at_work, waits).unwrap_or_else(PoisonError::into_inner);
        *at_work = if alone { ALONE } else { *at_work + 1 };
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        *at_work = if *at_work == ALONE { 0 } else { *at_work - 1 };
        ENDED.notify_all();
    }
}

/// The process that asks the cluster.
#[derive(Debug)]
struct Binding {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Why it is not asked any more.
    given_up: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(String),
}

impl Binding {
    fn start() -> Result<Mutex<Binding>, String> {
        let configured = Path::new("/etc/ceph/ceph.conf").exists();
        if std::env::var_os("REROOT_LAB").is_none() || !configured {
            return Err(NO_CLUSTER.into());
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/cluster.py");
        let mut command = Command::new("python3");
        command.args(["-B", "-W", "ignore", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start python3: {error}"))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("python3 has no pipes".into());
        };
        let mut binding = Binding { child, orders, answers: BufReader::new(answers), given_up: None };
        // It is ready when it says so.
        binding.answer()?;
        Ok(Mutex::new(binding))
    }

    /// Within more than the deadlines of all that an order asks for.
    fn answer(&mut self) -> Result<Value, String> {
        const PATIENCE: i32 = 240;
        // The answer before this one was read whole.
        let mut waited = [PollFd::new(self.answers.get_ref().as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::try_from(PATIENCE * 1000).map_err(|error| error.to_string())?) {
            Ok(0) => {
                let _ = self.child.kill();
                let why = format!("cluster.py has not answered in {PATIENCE} seconds");
                self.given_up = Some(why.clone());
                return Err(why);
            }
            waited => waited.map_err(|error| error.to_string())?,
        };
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        match serde_json::from_str(&line) {
            Ok(Answer::Ok(value)) => Ok(value),
            Ok(Answer::Error(why)) => Err(why),
            Err(_) => Err(format!("cluster.py said {line:?}, {:?}", self.child.try_wait())),
        }
    }
}

fn binding() -> Result<&'static Mutex<Binding>, String> {
    static STARTED: OnceLock<Result<Mutex<Binding>, String>> = OnceLock::new();
    STARTED.get_or_init(Binding::start).as_ref().map_err(Clone::clone)
}

/// Whether there is a cluster; whoever has threads asks before it starts them.
pub(crate) fn cluster() -> Result<(), String> {
    binding().map(drop)
}

/// Has an order of `cluster.py` carried out, with its arguments.
pub(crate) fn ask(order: Value) -> Result<Value, String> {
    let mut binding = binding()?.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(why) = &binding.given_up {
        return Err(why.clone());
    }
    writeln!(binding.orders, "{order}").map_err(|error| error.to_string())?;
    binding.answer()
}

/// What the monitors say to a command, by the words of its description.
pub(crate) fn mon(command: Value) -> Result<Value, String> {
    ask(json!(["mon", command]))
}

/// Runs a command of Ceph, whose words hold no spaces; returns what it said.
pub(crate) fn ceph(words: &str) -> Result<String, String> {
    let mut words = words.split_whitespace();
    run(Command::new(words.next().unwrap_or_default()).args(words))
}

/// What there is to know of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Facts {
    pub(crate) id: String,
    pub(crate) size: u64,
    pub(crate) features: u64,
    pub(crate) object_size: u64,
    pub(crate) stripe: (u64, u64),
    /// Empty if its data is where its name is.
    pub(crate) data_pool: String,
    pub(crate) metadata: BTreeMap<String, String>,
    /// `IMAGE/SNAPSHOT`; empty if it is no clone.
    pub(crate) parent: String,
    pub(crate) snapshots: Vec<String>,
    pub(crate) watchers: Vec<String>,
}

/// A namespace of one test's own, `rbd/NAME`, gone with all that is in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) name: String,
    _turn: Turn,
}

impl Space {
    pub(crate) fn new() -> Result<Space, String> {
        cluster()?;
        Space::made(POOL, Turn::take(false))
    }

    /// For a test that stops what others need too.
    pub(crate) fn alone() -> Result<Space, String> {
        Space::alone_in(POOL)
    }

    pub(crate) fn alone_in(pool: &str) -> Result<Space, String> {
        cluster()?;
        Space::made(pool, Turn::take(true))
    }

    fn made(pool: &str, turn: Turn) -> Result<Space, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let space = Space { name: format!("{pool}/t-{}.{number}", std::process::id()), _turn: turn };
        space.ask("space", &[]).map(|_: Value| space)
    }

    /// An order about what is in the namespace.
    pub(crate) fn ask<T: for<'a> Deserialize<'a>>(&self, order: &str, arguments: &[Value]) -> Result<T, String> {
        let mut line = vec![json!(order), json!(self.name)];
        line.extend_from_slice(arguments);
        serde_json::from_value(ask(Value::Array(line))?).map_err(|error| format!("{order} said what was not expected: {error}"))
    }

    /// The whole name of an image in it.
    pub(crate) fn full(&self, image: &str) -> String {
        format!("{}/{image}", self.name)
    }

    pub(crate) fn images(&self) -> Result<Vec<String>, String> {
        self.ask("names", &[])
    }

    pub(crate) fn facts(&self, image: &str) -> Result<Option<Facts>, String> {
        self.ask("facts", &[json!(image)])
    }

    pub(crate) fn snapshot(&self, image: &str, snapshot: &str) -> Result<(), String> {
        self.ask("snapshot", &[json!(image), json!(snapshot), json!(false)])
    }

    /// The names of what is in the trash.
    pub(crate) fn trash(&self) -> Result<Vec<String>, String> {
        let list: Vec<BTreeMap<String, String>> = self.ask("trash", &[])?;
        Ok(list.into_iter().filter_map(|mut entry| entry.remove("name")).collect())
    }

    /// The devices of this host that show images of it: their numbers and the images' names.
    pub(crate) fn mappings(&self) -> Vec<(u32, String)> {
        mappings()
            .into_iter()
            .filter_map(|(number, name)| Some((number, name.strip_prefix(&self.name)?.strip_prefix('/')?.to_owned())))
            .collect()
    }

    /// What is in it beside images: the trash, what is mapped, who has a lock, notes of the library.
    pub(crate) fn beside(&self) -> Result<Vec<String>, String> {
        let mut found: Vec<_> = self.trash()?.into_iter().map(|name| format!("{name} in the trash")).collect();
        found.extend(self.mappings().into_iter().map(|(number, name)| format!("{name} mapped to /dev/rbd{number}")));
        let locks: BTreeMap<String, u32> = self.ask("lockers", &[json!(LOCKS)])?;
        found.extend(locks.into_keys().map(|name| format!("the lock of {name}")));
        let notes: BTreeMap<String, String> = self.ask("notes", &[json!(LOCKS)])?;
        found.extend(notes.into_iter().filter(|(key, _)| is_passing(key)).map(|(key, value)| format!("the note {key}: {value:?}")));
        found.extend(nbd_devices().into_iter().map(|device| format!("the network block device {device}")));
        Ok(found)
    }
}

/// A pool that is there for one case at a time, and whose space can be limited.
#[derive(Debug)]
pub(crate) struct Confined {
    pub(crate) pool: &'static str,
}

impl Confined {
    pub(crate) fn new() -> Result<Confined, String> {
        const POOL: &str = "confined";
        let pools = mon(json!({"prefix": "osd pool ls"}))?;
        if !pools.as_array().is_some_and(|pools| pools.contains(&json!(POOL))) {
            mon(json!({"prefix": "osd pool create", "pool": POOL, "pg_num": 8}))?;
            mon(json!({"prefix": "osd pool application enable", "pool": POOL, "app": "rbd"}))?;
        }
        Ok(Confined { pool: POOL })
    }

    fn stored(&self) -> Result<u64, String> {
        ask(json!(["stored", self.pool]))?.as_u64().ok_or_else(|| "the cluster does not count".into())
    }

    /// Leaves so much free.
    pub(crate) fn limit(&self, free: ByteSize) -> Result<Limit, String> {
        // The cluster counts every few seconds: until it says the same for that long, what was written or removed is on its way.
        let (mut last, mut same) = (self.stored()?, 0);
        while same < 12 {
            sleep(Duration::from_millis(500));
            let now = self.stored()?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        let limit = Limit { pool: self.pool };
        limit.set(last + free.bytes())?;
        Ok(limit)
    }
}

/// A quota, which goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Limit {
    pool: &'static str,
}

impl Limit {
    fn set(&self, bytes: u64) -> Result<(), String> {
        let quota = json!({"prefix": "osd pool set-quota", "pool": self.pool, "field": "max_bytes", "val": bytes.to_string()});
        mon(quota).map(drop)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(why) = self.set(0) {
            eprintln!("cannot take the quota of {} away: {why}", self.pool);
        }
    }
}

/// Whether a note is of something that is on its way.
fn is_passing(key: &str) -> bool {
    ["made/", "mapped/", "trash/"].iter().any(|kind| key.starts_with(kind))
}

impl Drop for Space {
    fn drop(&mut self) {
        for (number, name) in self.mappings() {
            if let Err(why) = unmap(number) {
                eprintln!("cannot unmap {name}: {why}");
            }
        }
        let gone = self.ask("wipe", &[]).and_then(|_: Value| self.ask::<Value>("remove_space", &[]));
        if let Err(why) = gone
            && !std::thread::panicking()
        {
            eprintln!("cannot remove what a test made: {why}");
        }
    }
}

/// All images that are mapped on this host, as `POOL/NAMESPACE/IMAGE`; of a snapshot with `@SNAPSHOT`.
pub(crate) fn mappings() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/sys/bus/rbd/devices").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok().map(|text| text.trim().to_owned());
            let number = entry.file_name().to_str()?.parse().ok()?;
            let (pool, namespace, name) = (read("pool")?, read("pool_ns")?, read("name")?);
            let snapshot = read("current_snap").filter(|name| name != "-").map(|name| format!("@{name}")).unwrap_or_default();
            let namespace = if namespace.is_empty() { namespace } else { format!("{namespace}/") };
            Some((number, format!("{pool}/{namespace}{name}{snapshot}")))
        })
        .collect()
}

/// The network block devices that somebody serves.
pub(crate) fn nbd_devices() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let is_served =
        |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("nbd") && entry.path().join("pid").exists();
    entries.filter(is_served).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// An image mapped by the kernel, as `rbd map` does it, in a tenth of the time; not any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Mapped {
    number: u32,
}

impl Mapped {
    /// `POOL/NAMESPACE/IMAGE`.
    pub(crate) fn new(image: &str) -> Result<Mapped, String> {
        static HOW: OnceLock<Result<(String, String), String>> = OnceLock::new();
        let how = HOW.get_or_init(|| {
            let how = ask(json!(["mapping"]))?;
            let word = |name: &str| how[name].as_str().unwrap_or_default().to_owned();
            Ok((word("monitors"), word("key")))
        });
        let (monitors, key) = how.as_ref().map_err(Clone::clone)?;
        let parts: Vec<_> = image.split('/').collect();
        let (pool, namespace, name) = match parts[..] {
            [pool, namespace, name] => (pool, format!(",_pool_ns={namespace}"), name),
            [pool, name] => (pool, String::new(), name),
            _ => return Err(format!("{image} is no name of an image")),
        };
        // A rebuild may map it in the same moment, with an option that nobody else sets, or give a number back that is used again at once.
        let config = |number: u32| fs::read_to_string(format!("/sys/bus/rbd/devices/{number}/config_info"));
        let is_ours =
            |(number, name): &(u32, String)| name == image && config(*number).is_ok_and(|text| !text.contains("abort_on_full"));
        let ours = || -> Vec<_> { mappings().into_iter().filter(is_ours).collect() };
        let before = ours();
        // Without a limit what uses the device would wait for ever where the cluster is gone.
        let options = format!("name=admin,secret={key},mount_timeout=60,osd_request_timeout=120{namespace}");
        let line = format!("{monitors} {options} {pool} {name} -");
        fs::write("/sys/bus/rbd/add_single_major", line).map_err(|error| format!("cannot map {image}: {error}"))?;
        let mut after = ours();
        after.retain(|mapping| !before.contains(mapping));
        let (number, _) = after.pop().ok_or_else(|| format!("{image} was mapped and has no device"))?;
        Ok(Mapped { number })
    }

    pub(crate) fn device(&self) -> PathBuf {
        device(self.number)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Err(why) = unmap(self.number) {
            eprintln!("cannot unmap /dev/rbd{}: {why}", self.number);
        }
    }
}

pub(crate) fn device(number: u32) -> PathBuf {
    format!("/dev/rbd{number}").into()
}

/// Unmaps a device. Udev, and a process between its fork and its exec, may have it open for a moment.
pub(crate) fn unmap(number: u32) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..200 {
        match fs::write("/sys/bus/rbd/remove_single_major", number.to_string()) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => last = error.to_string(),
            Err(error) => return Err(error.to_string()),
        }
        sleep(Duration::from_millis(20));
    }
    Err(last)
}

/// The root of a volume, mounted as a manager mounts it, for as long as someone looks at it. What was not mapped is not afterwards.
#[derive(Debug)]
pub(crate) struct Visited {
    // Dropped in this order.
    mounted: Mounted,
    _mapped: Option<Mapped>,
}

impl Visited {
    /// `Ok(None)` if there is no such image.
    pub(crate) fn new(image: &str, folder: &Path) -> Result<Option<Visited>, String> {
        let found = mappings().into_iter().find(|(_, name)| name == image);
        let (device, mapped) = match found {
            Some((number, _)) => (device(number), None),
            None => match Mapped::new(image) {
                Ok(mapped) => (mapped.device(), Some(mapped)),
                Err(why) if why.contains("No such file") => return Ok(None),
                Err(why) => return Err(why),
            },
        };
        let mounted = Mounted::device(&device, folder).map_err(|error| format!("cannot mount {image}: {error}"))?;
        Ok(Some(Visited { mounted, _mapped: mapped }))
    }

    pub(crate) fn path(&self) -> &Path {
        self.mounted.path()
    }
}
