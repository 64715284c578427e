//! Images as block devices of this host, for as long as this library looks at them or fills them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::CephCluster;
use super::name::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::run_lock;
use crate::sys::ceph::Pool;
use crate::sys::command::Program;
use crate::sys::holders::{self, FileSystem};
use crate::sys::krbd::{self, Mapping as Device, Request};
use crate::sys::lock::FileLock;
use crate::volume::{Holder, VolumeId};

/// How long a device that was just used may stay open by those who look at every device that changes.
const SETTLE: Duration = Duration::from_secs(20);
const SETTLE_STEP: Duration = Duration::from_millis(10);
/// What a program that maps may take besides its waits for the cluster.
const PROGRAM: Duration = Duration::from_secs(20);

/// The option that tells devices of ours from others': what finds the pool full fails at once, instead of waiting until it is not.
const MARK: &str = "abort_on_full";
/// The same, of rbd-nbd: nobody else sets it so.
const NBD_MARK: &str = "--rados-osd-op-timeout";

/// How images become devices of this host while a rebuild looks at them or fills them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Mapping {
    /// By the kernel where it is there and knows all features of the image, else by rbd-nbd.
    #[default]
    Automatic,
    /// By the kernel's client, krbd.
    Kernel,
    /// By rbd-nbd, a program in user space that knows every feature.
    Nbd,
}

/// An image.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) cluster: &'a CephCluster,
    pub(super) pool: &'a Pool,
    pub(super) place: &'a Place,
    pub(super) image: &'a str,
    pub(super) id: &'a str,
}

/// What is to be mapped.
pub(super) struct What<'a> {
    pub(super) of: Target<'a>,
    pub(super) snapshot: Option<&'a str>,
    pub(super) features: u64,
    pub(super) writes: Writes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    Allowed,
    /// The kernel does not even watch such an image.
    Refused,
}

/// A device of ours. Unmapped when it is dropped, if [`unmap`](Self::unmap) was not called.
#[derive(Debug)]
pub(super) struct Mapped {
    node: PathBuf,
    by: By,
    /// How long the cluster may take to answer.
    deadline: Duration,
    /// Tells a device that a killed process left from one that is in use. Goes last.
    lock: FileLock,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum By {
    Kernel(Device),
    Nbd,
    /// It is unmapped.
    Nothing,
}

impl Mapped {
    pub(super) fn node(&self) -> &Path {
        &self.node
    }

    /// The address of the kernel's client.
    pub(super) fn client(&self) -> Option<String> {
        let By::Kernel(device) = &self.by else { return None };
        device.address.clone()
    }

    /// Waits until nobody has the device open, and unmaps it.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], naming who has it open; [`ErrorKind::TimedOut`] if the cluster does not answer: it is unmapped when that does.
    pub(super) fn unmap(mut self, operation: &'static str) -> Result<()> {
        self.end(operation)
    }

    fn end(&mut self, operation: &'static str) -> Result<()> {
        match std::mem::replace(&mut self.by, By::Nothing) {
            By::Kernel(device) => unmap_kernel(device.id, &self.lock, self.deadline, operation),
            By::Nbd => unmap_nbd(&self.node, operation),
            By::Nothing => Ok(()),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Err(_error) = self.end("unmap an image") {
            crate::trace::warning!(device = %self.node.display(), error = %_error, "an image stays mapped");
        }
    }
}

/// The lock that tells whose a mapping is: held by the process that maps, and left by one that is killed.
fn lock_id(target: &Target<'_>) -> VolumeId {
    VolumeId::new("rbd", format!("{}/{}/{}", target.pool.fsid(), target.pool.pool_id(), target.id))
}

/// Maps an image.
pub(super) fn map(what: &What<'_>, how: Mapping, operation: &'static str) -> Result<Mapped> {
    // What a killed process has left is known by the lock that it left, which this would take away.
    release_left(&what.of, operation)?;
    let wait = Wait::new(what.of.cluster.deadline(), CancelToken::new());
    let lock = run_lock::exclusive(&lock_id(&what.of), &wait)?;
    let kernel = || krbd::is_there() || load_module("rbd", operation);
    let (node, by) = match how {
        Mapping::Kernel if !kernel() => {
            return Err(Error::new(ErrorKind::Unsupported, operation, "the kernel has no client of RBD")
                .with_remedy("modprobe rbd, or have rbd-nbd map the image"));
        }
        Mapping::Automatic if !kernel() || what.features & !krbd::features() != 0 => by_nbd(what, operation)?,
        Mapping::Automatic | Mapping::Kernel => by_kernel(what, &lock, operation)?,
        Mapping::Nbd => by_nbd(what, operation)?,
    };
    Ok(Mapped { node, by, deadline: what.of.cluster.deadline(), lock })
}

fn load_module(name: &str, operation: &'static str) -> bool {
    let wait = Wait::new(PROGRAM, CancelToken::new());
    let loaded = Program::find("modprobe", "kmod").and_then(|modprobe| modprobe.command().arg(name).run(operation, &wait));
    loaded.is_ok_and(|done| done.status.success())
}

fn by_kernel(what: &What<'_>, lock: &FileLock, operation: &'static str) -> Result<(PathBuf, By)> {
    let failed = |message: &str, error: std::io::Error| Error::io(operation, message, error).with_context("image", what.of.image);
    let key = what.of.pool.key().map_err(|error| what.of.cluster.failed(error, operation, "cannot find the user's key"))?;
    let unread = || Error::new(ErrorKind::InvalidInput, operation, "the user's key is not in base64");
    let key = key.map(|key| key.decoded().ok_or_else(unread)).transpose()?;
    let (monitors, mut options) = monitors(what, operation)?;
    let seconds = what.of.cluster.deadline().as_secs().max(1);
    options.push_str(&format!(",mount_timeout={seconds},osd_request_timeout={seconds},{MARK}"));
    // A client of its own can be shut out by others, and nobody else with it.
    options.push_str(if what.writes == Writes::Refused { ",ro" } else { ",noshare" });
    let more = what.of.cluster.map_options();
    if !more.is_empty() {
        options.push(',');
        options.push_str(more);
    }
    let request = Request {
        monitors: &monitors,
        user: &what.of.cluster.settings().user,
        key: key.as_deref(),
        options: &options,
        pool: &what.of.place.pool,
        namespace: &what.of.place.namespace,
        image: what.of.image,
        id: what.of.id,
        snapshot: what.snapshot,
    };
    let device = krbd::map(&request, lock.file(), what.of.cluster.deadline() * 2).map_err(|error| {
        let errno = error.raw_os_error();
        let error = failed("the kernel cannot map the image", error);
        match errno {
            Some(libc::ENXIO) => error
                .with_kind(ErrorKind::Unsupported)
                .with_remedy("the kernel does not know a feature of it: see its log; have rbd-nbd map it"),
            Some(libc::ETIMEDOUT) => error
                .with_kind(ErrorKind::TimedOut)
                .with_remedy("see how the cluster is, and whether this host reaches it: ceph -s"),
            Some(libc::ESHUTDOWN) => error
                .with_kind(ErrorKind::PermissionDenied)
                .with_remedy("the cluster has shut this host's kernel out: see ceph osd blocklist ls"),
            Some(libc::ENOENT) => error
                .with_kind(ErrorKind::NotFound)
                .with_remedy("somebody renamed it meanwhile, as a rebuild does at its end: try again"),
            Some(libc::EINVAL) => error.with_remedy("look into the kernel's log, and at the options that images are mapped with"),
            _ => error.with_remedy("look into the kernel's log"),
        }
    })?;
    Ok((device.node(), By::Kernel(device)))
}

/// The monitors' addresses as the kernel takes them, and how it is to talk to them: the cluster knows, whatever its configuration calls them.
fn monitors(what: &What<'_>, operation: &'static str) -> Result<(String, String)> {
    let text = what.of.pool.mon_command(r#"{"prefix":"mon dump","format":"json"}"#);
    let text = text.map_err(|error| what.of.cluster.failed(error, operation, "cannot ask for the addresses of the monitors"))?;
    let map: MonMap = serde_json::from_slice(&text).map_err(|error| {
        Error::new(ErrorKind::Io, operation, "the cluster's list of monitors cannot be read").with_source(error)
    })?;
    let of_kind = |kind: &str| -> Vec<&str> {
        let all = map.mons.iter().flat_map(|mon| &mon.public_addrs.addrvec);
        all.filter(|address| address.kind == kind).map(|address| address.addr.as_str()).collect()
    };
    // The options may decide otherwise.
    let chosen = what.of.cluster.map_options().contains("ms_mode=");
    match (of_kind("v1"), of_kind("v2")) {
        (old, _) if !old.is_empty() && !chosen => Ok((old.join(","), String::new())),
        (_, new) if !new.is_empty() => Ok((new.join(","), if chosen { String::new() } else { ",ms_mode=prefer-crc".to_owned() })),
        (old, _) if !old.is_empty() => Ok((old.join(","), String::new())),
        _ => Err(Error::new(ErrorKind::Unsupported, operation, "no monitor has an address that the kernel could use")),
    }
}

#[derive(serde::Deserialize)]
struct MonMap {
    mons: Vec<Mon>,
}

#[derive(serde::Deserialize)]
struct Mon {
    public_addrs: Addresses,
}

#[derive(serde::Deserialize)]
struct Addresses {
    addrvec: Vec<Address>,
}

#[derive(serde::Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    addr: String,
}

/// Unmaps a device of the kernel, when nobody has it open any more.
fn unmap_kernel(id: u32, lock: &FileLock, deadline: Duration, operation: &'static str) -> Result<()> {
    let tries = (SETTLE.as_millis() / SETTLE_STEP.as_millis()) as u32;
    krbd::unmap(id, lock.file(), (tries, SETTLE_STEP), deadline).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => {
            let device = krbd::mappings().unwrap_or_default().into_iter().find(|device| device.id == id);
            let holders = device.map(|device| holders_of(&device)).unwrap_or_default();
            let who = holders.first().map_or_else(|| "somebody has it open".to_owned(), Holder::to_string);
            Error::new(ErrorKind::Busy, operation, format!("/dev/rbd{id} cannot be unmapped: {who}"))
                .with_remedy(format!("release it, then unmap it: rbd unmap /dev/rbd{id}"))
        }
        Some(libc::ETIMEDOUT) => {
            let why = format!("/dev/rbd{id} is not unmapped yet: the cluster gives no answer within {deadline:?}");
            Error::io(operation, why, error).with_kind(ErrorKind::TimedOut).with_remedy(
                "see how the cluster is: ceph -s; when it answers again the kernel goes on to unmap it; then run recover",
            )
        }
        _ => Error::io(operation, format!("/dev/rbd{id} cannot be unmapped"), error)
            .with_remedy(format!("look into the kernel's log, then unmap it: rbd unmap /dev/rbd{id}")),
    })
}

/// Who has a device open: mounts, processes, what is made of it.
pub(super) fn holders_of(device: &Device) -> Vec<Holder> {
    let Some(number) = device.number() else { return Vec::new() };
    let sources = [device.node().display().to_string()];
    let file_system = FileSystem { fs_type: None, sources: &sources, device: Some(number), block: Some(number) };
    let mut found = holders::of_file_system(&file_system, &[]).unwrap_or_default();
    found.extend(holders::of_block_device(number));
    found
}

fn nbd() -> Result<Program> {
    Program::find("rbd-nbd", "rbd-nbd")
}

fn by_nbd(what: &What<'_>, operation: &'static str) -> Result<(PathBuf, By)> {
    let program = nbd()?;
    if !Path::new("/sys/module/nbd").is_dir() {
        load_module("nbd", operation);
    }
    let settings = what.of.cluster.settings();
    let seconds = settings.timeout.as_secs().max(1);
    let mut command = program.command().args(["--cluster", &settings.cluster, "--id", &settings.user]);
    for (option, file) in [("--conf", &settings.config), ("--keyring", &settings.keyring)] {
        if let Some(file) = file {
            command = command.arg(option).arg(file);
        }
    }
    if let Some(monitors) = &settings.monitors {
        command = command.args(["--mon-host", monitors]);
    }
    for option in [NBD_MARK, "--rados-mon-op-timeout", "--client-mount-timeout"] {
        command = command.args([option, &seconds.to_string()]);
    }
    command = command.args(["map", "--io-timeout", &seconds.to_string()]);
    if what.writes == Writes::Refused {
        command = command.arg("--read-only");
    }
    let spec = spec(what.of.place, what.of.image, what.snapshot);
    let wait = Wait::new(settings.timeout + PROGRAM, CancelToken::new());
    let done = command.arg(&spec).run(operation, &wait)?;
    let said = done.success(operation).map_err(|error| {
        error
            .with_context("image", &spec)
            .with_remedy("see that the kernel has nbd (modprobe nbd), and that the cluster is well: ceph -s")
    })?;
    let node = String::from_utf8_lossy(&said).trim().to_owned();
    if !node.starts_with("/dev/nbd") {
        return Err(Error::new(ErrorKind::Io, operation, format!("rbd-nbd mapped the image, and names no device: {node:?}")));
    }
    Ok((PathBuf::from(node), By::Nbd))
}

fn spec(place: &Place, image: &str, snapshot: Option<&str>) -> String {
    snapshot.map_or_else(|| format!("{place}/{image}"), |snapshot| format!("{place}/{image}@{snapshot}"))
}

fn unmap_nbd(node: &Path, operation: &'static str) -> Result<()> {
    let wait = Wait::new(SETTLE, CancelToken::new());
    let done = nbd()?.command().arg("unmap").arg(node).run(operation, &wait)?;
    // It lets go of a device that is open, and what uses that fails; so none is open by now.
    done.success(operation).map(drop).map_err(|error| error.with_context("device", node.display()))
}

/// What the process behind a device of rbd-nbd was called with.
fn nbd_command(node: &Path) -> Vec<String> {
    let name = node.file_name().unwrap_or_default().to_string_lossy();
    let Ok(pid) = fs::read_to_string(format!("/sys/block/{name}/pid")) else { return Vec::new() };
    let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
    let words = command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    words.collect()
}

/// The devices of rbd-nbd that show an image, as its processes were called.
fn nbd_nodes(cluster: &CephCluster, place: &Place, image: &str) -> Vec<PathBuf> {
    let wanted = spec(place, image, None);
    let shows = |word: &String| {
        let rest = word.strip_prefix(&wanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
    };
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let nodes = names.filter(|name| name.to_string_lossy().starts_with("nbd")).map(|name| Path::new("/dev").join(name));
    let mut found: Vec<_> = nodes
        .filter(|node| {
            let command = nbd_command(node);
            let is_nbd = command.first().is_some_and(|program| program.ends_with("rbd-nbd"));
            is_nbd && command.iter().any(shows) && is_of_cluster(&command, cluster)
        })
        .collect();
    found.sort();
    found
}

/// Whether a program was called for this cluster, as far as its words tell.
fn is_of_cluster(command: &[String], cluster: &CephCluster) -> bool {
    let settings = cluster.settings();
    let value = |option: &str| command.iter().position(|word| word == option).and_then(|at| command.get(at + 1));
    let config = settings.config.as_ref().map(|file| file.display().to_string());
    let same = |found: Option<&String>, ours: Option<&str>| found.is_none_or(|found| ours.is_none_or(|ours| found == ours));
    same(value("--cluster"), Some(&settings.cluster))
        && same(value("--conf"), config.as_deref())
        && same(value("--mon-host"), settings.monitors.as_deref())
}

/// Devices on this host that show an image.
pub(super) struct Shown {
    pub(super) kernel: Vec<Device>,
    pub(super) nbd: Vec<PathBuf>,
}

impl Shown {
    /// Whether only this library maps it, which looks at it for a moment.
    pub(super) fn is_ours(&self) -> bool {
        self.is_any() && self.nbd.is_empty() && self.kernel.iter().all(|device| device.has_option(MARK))
    }

    pub(super) fn is_any(&self) -> bool {
        !(self.kernel.is_empty() && self.nbd.is_empty())
    }
}

pub(super) fn shown(target: &Target<'_>, operation: &'static str) -> Result<Shown> {
    let all = krbd::mappings().map_err(|error| Error::io(operation, "cannot see which images are mapped", error))?;
    let (pool, fsid) = (target.pool.pool_id(), target.pool.fsid());
    let of_image = |device: &Device| device.image == target.id && device.pool == pool && device.fsid == fsid;
    let nbd = nbd_nodes(target.cluster, target.place, target.image);
    Ok(Shown { kernel: all.into_iter().filter(of_image).collect(), nbd })
}

/// Unmaps what a killed process of ours has left mapped of an image that others map too. Nothing is left of one that ended well.
pub(super) fn release_left(target: &Target<'_>, operation: &'static str) -> Result<()> {
    let Some(lock) = run_lock::left_behind(&lock_id(target))? else { return Ok(()) };
    // Only now: what was seen before may be someone else's by this time.
    let all = shown(target, operation)?;
    let kernel = all.kernel.into_iter().filter(|device| device.has_option(MARK)).collect();
    let nbd = all.nbd.into_iter().filter(|node| nbd_command(node).iter().any(|word| word == NBD_MARK)).collect();
    unmap_all(&Shown { kernel, nbd }, &lock, target.cluster.deadline(), operation)
}

/// Unmaps an image that nobody but this library maps.
pub(super) fn release(target: &Target<'_>, operation: &'static str) -> Result<()> {
    // The kernel may still be at what a killed process asked for.
    let wait = Wait::new(target.cluster.deadline(), CancelToken::new());
    let lock = run_lock::exclusive(&lock_id(target), &wait)?;
    unmap_all(&shown(target, operation)?, &lock, target.cluster.deadline(), operation)
}

fn unmap_all(shown: &Shown, lock: &FileLock, deadline: Duration, operation: &'static str) -> Result<()> {
    shown.kernel.iter().try_for_each(|device| unmap_kernel(device.id, lock, deadline, operation))?;
    shown.nbd.iter().try_for_each(|node| unmap_nbd(node, operation))
}
