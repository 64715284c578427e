//! Locks of volumes, in the cluster: one object holds them for all volumes of a namespace, each under the name of its image.
//!
//! Whoever holds one watches the object. A host that dies is missed by the cluster within half a minute, and takes no notice of a question until then;
//! its lock is broken when its watch is gone, and only after the cluster has shut it out: should it come back, it can change nothing.
//! A process that died on this host is known at once.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

use super::cluster::CephCluster;
use super::name::ImageName;
use super::trash::OBJECT as TRASH;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;
use crate::sys::ceph::{Failed, Locker, Mode, Pool, Watch, WatchId};
use crate::text::Escaped;
use crate::volume::{VolumeId, VolumeLock};

/// Holds the locks, and what [`notes`](super::notes) there are.
pub(super) const OBJECT: &str = "reroot.locks";

const OPERATION: &str = "lock the volume";
const FIRST_STEP: Duration = Duration::from_millis(10);
const LAST_STEP: Duration = Duration::from_millis(500);
/// How often a lock is asked for that nobody holds.
const TRIES: u32 = 100;
/// How long those who watch may take to say that they do.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a client stays shut out whose lock was broken: longer than anybody sleeps who would go on with what he was about.
pub(super) const SHUT_OUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A cookie that is known to be in use until it is dropped.
struct Cookie {
    text: String,
    all: Arc<Mutex<BTreeSet<String>>>,
}

impl Cookie {
    fn new(text: String, cluster: &CephCluster) -> Cookie {
        let all = Arc::clone(cluster.locks());
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone());
        Cookie { text, all }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.text);
    }
}

/// A lock that is held, and given back when it is dropped.
struct Held {
    pool: Pool,
    name: String,
    cookie: Cookie,
    watch: Arc<Watch>,
}

/// The lock that a volume holds, as long as it does.
#[derive(Debug, Default)]
pub(super) struct Holding(Mutex<Weak<Watch>>);

impl Holding {
    /// Whether others still see that the lock is held; where none is, nobody relies on it.
    pub(super) fn check(&self) -> Result<(), Failed> {
        let watch = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        watch.map_or(Ok(()), |watch| watch.check().map(drop))
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // One that is not given back is taken by the next: its watch is gone.
        if let Err(_error) = self.pool.unlock(OBJECT, &self.name, &self.cookie.text) {
            crate::trace::warning!(lock = %self.name, error = %_error, "the lock stays in the cluster until the next one breaks it");
        }
    }
}

/// Takes the lock of the image for one holder, and has `holding` know of it.
pub(super) fn take(cluster: &CephCluster, pool: &Pool, name: &ImageName, holding: &Holding, wait: &Wait) -> Result<VolumeLock> {
    let held = acquire(cluster, pool, name, Mode::Exclusive, wait)?;
    *holding.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&held.watch);
    Ok(VolumeLock::new(held))
}

/// Takes the lock of the image for one of many holders.
pub(super) fn share(cluster: &CephCluster, pool: &Pool, name: &ImageName, wait: &Wait) -> Result<VolumeLock> {
    let held = acquire(cluster, pool, name, Mode::Shared, wait)?;
    // They are in nobody's way, but for who wants the lock alone.
    let dead = |holder: &Locker| Owner::of(&holder.cookie).is_some_and(|owner| owner.has_died_here());
    for holder in
        pool.lockers(OBJECT, name.image()).map(|lockers| lockers.held).unwrap_or_default().iter().filter(|holder| dead(holder))
    {
        let _ = break_lock(pool, name.image(), holder, Left::Nothing);
    }
    Ok(VolumeLock::new(held))
}

fn acquire(cluster: &CephCluster, pool: &Pool, name: &ImageName, mode: Mode, wait: &Wait) -> Result<Held> {
    let add = |error: Error| error.with_context("volume", VolumeId::new("ceph", name.to_string()));
    let failed = |error: Failed| add(cluster.failed(error, OPERATION, "the cluster does not give the lock"));
    let watch = watch(pool).map_err(failed)?;
    let cookie = Cookie::new(Owner::this_process(watch.id().cookie).cookie(), cluster);
    let (image, mut step, mut tries) = (name.image(), FIRST_STEP, 0);
    loop {
        match pool.lock(OBJECT, image, &cookie.text, "reroot", mode) {
            Ok(()) => return Ok(Held { pool: pool.clone(), name: image.to_owned(), cookie, watch: Arc::new(watch) }),
            Err(error) if error.errno == Errno::EBUSY => {}
            Err(error) => {
                // It may have been done all the same.
                let _ = pool.unlock(OBJECT, image, &cookie.text);
                return Err(failed(error));
            }
        }
        let holders = pool.lockers(OBJECT, image).map_err(failed)?.held;
        let mut living = Vec::new();
        for holder in holders {
            match left_of(cluster, pool, &holder).map_err(failed)? {
                Left::All => living.push(holder),
                // Who gives it back does so before its watch ends: it was only asked too late.
                left if is_held_by(pool, image, &holder).map_err(failed)? => {
                    break_lock(pool, image, &holder, left).map_err(failed)?;
                }
                _ => {}
            }
        }
        match living.first() {
            Some(first) if !wait.pause(OPERATION, step)? => return Err(add(held_by(first))),
            Some(_) => {}
            // It was given back or broken just now.
            None if tries < TRIES => {
                tries += 1;
                std::thread::sleep(FIRST_STEP);
            }
            None => {
                let error = Error::new(ErrorKind::Locked, OPERATION, "the lock cannot be had, and nobody holds it");
                return Err(add(error).with_remedy("try again; see who holds it: rados lock info reroot.locks IMAGE"));
            }
        }
        step = (step * 2).min(LAST_STEP);
    }
}

/// Watches the object, which the first lock of a namespace makes; and with it that of the trash, which could not be made in a pool that is full.
fn watch(pool: &Pool) -> Result<Watch, Failed> {
    match pool.watch(OBJECT) {
        Err(error) if error.errno == Errno::ENOENT => {
            pool.set_omap(OBJECT, &[])?;
            pool.set_omap(TRASH, &[])?;
            pool.watch(OBJECT)
        }
        watch => watch,
    }
}

fn held_by(holder: &Locker) -> Error {
    let who = match Owner::of(&holder.cookie) {
        Some(owner) => format!("process {} on host {} ({})", owner.pid, Escaped(owner.host.as_bytes()), holder.address),
        None => format!("{} ({})", Escaped(holder.client.as_bytes()), Escaped(holder.address.as_bytes())),
    };
    Error::new(ErrorKind::Locked, OPERATION, format!("another rebuild or recovery of it runs: {who}"))
        .with_remedy("wait for it to end; the lock of a host that died is taken over within a minute")
}

/// What is left of who held a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It lives, or may.
    All,
    /// It lives, and does not hold this lock: when it gave it back, the cluster did not answer.
    Client,
    Nothing,
}

fn left_of(cluster: &CephCluster, pool: &Pool, holder: &Locker) -> Result<Left, Failed> {
    let Some(owner) = Owner::of(&holder.cookie) else { return Ok(Left::All) };
    if owner.has_died_here() {
        return Ok(Left::Nothing);
    }
    // A client that cannot be read is taken for one that lives.
    let Some(client) = holder.client.strip_prefix("client.").and_then(|number| number.parse::<u64>().ok()) else {
        return Ok(Left::All);
    };
    // Of this very connection it is known without asking.
    if client == pool.instance() && !cluster.locks().lock().unwrap_or_else(PoisonError::into_inner).contains(&holder.cookie) {
        return Ok(Left::Client);
    }
    let answers = pool.notify(OBJECT, ANSWER)?;
    if answers.all().any(|watch| *watch == WatchId { client, cookie: owner.watch }) {
        return Ok(Left::All);
    }
    Ok(if answers.answered.iter().any(|watch| watch.client == client) { Left::Client } else { Left::Nothing })
}

fn is_held_by(pool: &Pool, image: &str, holder: &Locker) -> Result<bool, Failed> {
    let held = pool.lockers(OBJECT, image)?.held;
    Ok(held.iter().any(|now| now.client == holder.client && now.cookie == holder.cookie))
}

fn break_lock(pool: &Pool, image: &str, holder: &Locker, left: Left) -> Result<(), Failed> {
    if left == Left::Nothing {
        pool.blocklist(&holder.address, SHUT_OUT)?;
    }
    match pool.break_lock(OBJECT, image, &holder.client, &holder.cookie) {
        Err(error) if error.errno == Errno::ENOENT => Ok(()),
        broken => broken,
    }
}

/// Who holds a lock, as its cookie tells.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    /// Of this time that the host was started.
    boot: String,
    /// The namespace of process ids, by its inode.
    namespace: String,
    pid: u32,
    /// When the process began, in ticks since the host did: process ids come again.
    began: String,
    /// The watch that goes with this lock.
    watch: u64,
    /// When it was asked for, in nanoseconds since the host was started: the numbers of watches come again.
    asked: i64,
    host: String,
}

impl Owner {
    fn this_process(watch: u64) -> Owner {
        let pid = std::process::id();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let asked = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.num_nanoseconds());
        Owner { boot: boot(), namespace: namespace(), pid, began: began(pid).unwrap_or_default(), watch, asked, host }
    }

    /// As it is written: words with blanks between.
    fn cookie(&self) -> String {
        let Owner { boot, namespace, pid, began, watch, asked, host } = self;
        format!("{boot} {namespace} {pid} {began} {watch} {asked} {host}")
    }

    fn of(cookie: &str) -> Option<Owner> {
        let mut words = cookie.splitn(7, ' ');
        let mut next = || words.next().map(str::to_owned);
        let (boot, namespace, pid, began) = (next()?, next()?, next()?.parse().ok()?, next()?);
        let (watch, asked) = (next()?.parse().ok()?, next()?.parse().ok()?);
        Some(Owner { boot, namespace, pid, began, watch, asked, host: next()? })
    }

    /// Whether it ran on this host and is gone: only where its number means the same here.
    fn has_died_here(&self) -> bool {
        let here = !self.boot.is_empty() && !self.namespace.is_empty() && !self.began.is_empty();
        here && self.boot == boot() && self.namespace == namespace() && began(self.pid).as_deref() != Ok(&self.began)
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// When a process began; an empty text if there is none. One that has ended and was not waited for has ended.
///
/// # Errors
/// If that cannot be told.
fn began(pid: u32) -> Result<String, ()> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(String::new()),
        Err(_) => return Err(()),
    };
    // The name before may hold anything.
    let mut fields = stat.rsplit_once(')').ok_or(())?.1.split_whitespace();
    match fields.next() {
        Some("Z" | "X") => Ok(String::new()),
        Some(_) => fields.nth(18).map(str::to_owned).ok_or(()),
        None => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_tells_whose_process_it_was() {
        let me = Owner::this_process(94_030_521);
        assert!(!me.began.is_empty() && !me.boot.is_empty());
        assert_eq!(Owner::of(&me.cookie()).unwrap(), me);
        assert!(!me.has_died_here());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = Owner { pid: child.id(), began: "1".into(), ..Owner::this_process(1) };
        assert!(gone.has_died_here());
        child.wait().unwrap();
        assert!(gone.has_died_here());
        // What another host says of its own processes means nothing here.
        assert!(!Owner { boot: "x".into(), ..Owner::this_process(1) }.has_died_here());
        assert!(Owner::of("x").is_none() && Owner::of("").is_none());
    }
}
