//! Locks on objects, watches that say that their owner is alive, and the blocklist for those that are not.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libc::ssize_t;
use nix::errno::Errno;

use super::answer::{Decoder, Reply, check, string, text};
use super::library::RawCompletion;
use super::patience::{Pointer, within};
use super::{Failed, Pool, whole_seconds};

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lockers {
    /// Means nothing when nobody does.
    pub(crate) mode: Mode,
    pub(crate) held: Vec<Locker>,
}

/// One who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Locker {
    /// Such as `client.4123`.
    pub(crate) client: String,
    pub(crate) cookie: String,
    /// As the blocklist wants it.
    pub(crate) address: String,
}

/// One watch of all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatchId {
    /// The watcher's connection, as [`Pool::instance`] numbers it.
    pub(crate) client: u64,
    /// Which one of its watches.
    pub(crate) cookie: u64,
}

/// Who answered a notification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    pub(crate) answered: Vec<WatchId>,
    pub(crate) silent: Vec<WatchId>,
}

impl Answers {
    /// All that the cluster knows of.
    pub(crate) fn all(&self) -> impl Iterator<Item = &WatchId> {
        self.answered.iter().chain(&self.silent)
    }
}

impl Pool {
    /// Takes a lock, without a limit in time, and makes the object if it is not there. `EBUSY`: somebody else holds it. `EEXIST`: we do,
    /// with this cookie.
    pub(crate) fn lock(&self, object: &str, lock: &str, cookie: &str, description: &str, mode: Mode) -> Result<(), Failed> {
        let call = match mode {
            Mode::Exclusive => "rados_lock_exclusive",
            Mode::Shared => "rados_lock_shared",
        };
        let (object, lock) = (text(call, object)?, text(call, lock)?);
        let (cookie, description) = (text(call, cookie)?, text(call, description)?);
        let (object, lock, cookie, description) = (object.as_ptr(), lock.as_ptr(), cookie.as_ptr(), description.as_ptr());
        // SAFETY: the texts are NUL-terminated; no duration is none.
        let result = unsafe {
            match mode {
                Mode::Exclusive => {
                    (self.rados().rados_lock_exclusive)(self.io(), object, lock, cookie, description, ptr::null_mut(), 0)
                }
                // The tag of all who share it has to be the same.
                Mode::Shared => {
                    let tag = c"".as_ptr();
                    (self.rados().rados_lock_shared)(self.io(), object, lock, cookie, tag, description, ptr::null_mut(), 0)
                }
            }
        };
        check(call, result).map(drop)
    }

    /// `ENOENT`: we do not hold it.
    pub(crate) fn unlock(&self, object: &str, lock: &str, cookie: &str) -> Result<(), Failed> {
        const CALL: &str = "rados_unlock";
        let (object, lock, cookie) = (text(CALL, object)?, text(CALL, lock)?, text(CALL, cookie)?);
        // SAFETY: the texts are NUL-terminated.
        let result = unsafe { (self.rados().rados_unlock)(self.io(), object.as_ptr(), lock.as_ptr(), cookie.as_ptr()) };
        check(CALL, result).map(drop)
    }

    /// Nobody holds a lock on an object that is not there.
    pub(crate) fn lockers(&self, object: &str, lock: &str) -> Result<Lockers, Failed> {
        const CALL: &str = "rados_list_lockers";
        let (object, lock) = (text(CALL, object)?, text(CALL, lock)?);
        let found = Lockers::ask(CALL, |mode, [tag, clients, cookies, addresses], lens| {
            let [tag_len, clients_len, cookies_len, addresses_len] = lens.each_mut().map(ptr::from_mut);
            // SAFETY: the names are NUL-terminated, and the buffers as long as is said.
            unsafe {
                (self.rados().rados_list_lockers)(
                    self.io(),
                    object.as_ptr(),
                    lock.as_ptr(),
                    mode,
                    tag,
                    tag_len,
                    clients,
                    clients_len,
                    cookies,
                    cookies_len,
                    addresses,
                    addresses_len,
                )
            }
        });
        match found {
            Err(Failed { errno: Errno::ENOENT, .. }) => Ok(Lockers { mode: Mode::Exclusive, held: Vec::new() }),
            found => found,
        }
    }

    /// Takes a lock from who holds it. `ENOENT`: that one does not.
    pub(crate) fn break_lock(&self, object: &str, lock: &str, client: &str, cookie: &str) -> Result<(), Failed> {
        const CALL: &str = "rados_break_lock";
        let (object, lock) = (text(CALL, object)?, text(CALL, lock)?);
        let (client, cookie) = (text(CALL, client)?, text(CALL, cookie)?);
        // SAFETY: the texts are NUL-terminated.
        let result = unsafe {
            let call = self.rados().rados_break_lock;
            call(self.io(), object.as_ptr(), lock.as_ptr(), client.as_ptr(), cookie.as_ptr())
        };
        check(CALL, result).map(drop)
    }

    /// Keeps the connection of this address from reading and writing for a time. Once this returns, an OSD knows before it answers us:
    /// what is read then, the other one does not change any more.
    pub(crate) fn blocklist(&self, address: &str, time: Duration) -> Result<(), Failed> {
        const CALL: &str = "rados_blocklist_add";
        let seconds = u32::try_from(whole_seconds(time)).unwrap_or(u32::MAX);
        let (pool, address) = (self.clone(), text(CALL, address)?);
        let add = move || {
            let (rados, address) = (pool.rados(), address.into_raw());
            let result = match rados.rados_blocklist_add.or(rados.rados_blacklist_add) {
                // SAFETY: the address is NUL-terminated.
                Some(add) => unsafe { add(pool.cluster(), address, seconds) },
                None => -(Errno::ENOSYS as c_int),
            };
            // SAFETY: it was given away above, and the call only read it.
            drop(unsafe { CString::from_raw(address) });
            check(CALL, result)?;
            // SAFETY: it is alive.
            check("rados_wait_for_latest_osdmap", unsafe { (rados.rados_wait_for_latest_osdmap)(pool.cluster()) }).map(drop)
        };
        within(self.0.cluster.ending(), add).unwrap_or(Err(Failed { call: CALL, errno: Errno::ETIMEDOUT }))
    }

    /// Watches an object: it answers every notification for as long as this process is alive and connected. One that is not is forgotten
    /// after the cluster's usual time, 30 seconds. `ENOENT`: there is no object.
    pub(crate) fn watch(&self, object: &str) -> Result<Watch, Failed> {
        const CALL: &str = "rados_watch3";
        let target = Box::into_raw(Box::new(Target { pool: self.clone(), object: text(CALL, object)?, broken: AtomicI32::new(0) }));
        let mut cookie = 0;
        // SAFETY: the object's name and the target live until no call comes any more. No timeout is the cluster's own.
        let result = unsafe {
            let watch = self.rados().rados_watch3;
            watch(self.io(), (*target).object.as_ptr(), &raw mut cookie, answer, note_broken, 0, target.cast())
        };
        if let Err(failed) = check(CALL, result) {
            let target = Pointer(target);
            within(self.0.cluster.ending(), move || {
                let target = target;
                // SAFETY: the watch was never there, and once the calls are flushed nobody else has the target.
                unsafe {
                    let pool = (*target.0).pool.clone();
                    (pool.rados().rados_watch_flush)(pool.cluster());
                    drop(Box::from_raw(target.0));
                }
            });
            return Err(failed);
        }
        Ok(Watch { target, cookie })
    }

    /// Asks all who watch an object to answer, and waits for them, in whole seconds. `ENOENT`: there is no object.
    pub(crate) fn notify(&self, object: &str, timeout: Duration) -> Result<Answers, Failed> {
        const CALL: &str = "rados_aio_notify";
        let object = text(CALL, object)?;
        let seconds = whole_seconds(timeout);
        let reply = Arc::new(Expected::default());
        // The library looks after one of them until it has said how the call ended.
        let context = Arc::into_raw(Arc::clone(&reply)).cast_mut();
        let mut completion = ptr::null_mut();
        // SAFETY: the context is what `note_done` expects.
        let made = unsafe { (self.rados().rados_aio_create_completion2)(context.cast(), Some(note_done), &raw mut completion) };
        if let Err(failed) = check(CALL, made) {
            // SAFETY: the library did not take it.
            drop(unsafe { Arc::from_raw(context) });
            return Err(failed);
        }
        // SAFETY: the name is NUL-terminated and nothing is sent; what is written to lives as long as the context.
        let started = unsafe {
            (self.rados().rados_aio_notify)(
                self.io(),
                object.as_ptr(),
                completion,
                ptr::null(),
                0,
                seconds.saturating_mul(1000),
                reply.start.as_ptr(),
                reply.len.as_ptr(),
            )
        };
        // The OSD gives up after `seconds`. It may hang after it has begun, and the library would wait until it is well again.
        let limit = Duration::from_secs(seconds).saturating_add(self.0.cluster.timeout);
        let ended = started == 0 && reply.wait(limit);
        // SAFETY: it is alive.
        let result = if ended { unsafe { (self.rados().rados_aio_get_return_value)(completion) } } else { started };
        // SAFETY: it is ours; the library has one of its own for as long as it needs it.
        unsafe { (self.rados().rados_aio_release)(completion) };
        if !ended {
            if started == 0 {
                self.0.straggler.store(true, Ordering::Release);
            } else {
                // SAFETY: the call that would have ended with this was never begun.
                drop(unsafe { Arc::from_raw(context) });
            }
            return check(CALL, started).and(Err(Failed { call: CALL, errno: Errno::ETIMEDOUT }));
        }
        let bytes = Reply::new(self.rados(), reply.start.load(Ordering::Acquire), reply.len.load(Ordering::Acquire));
        match check(CALL, result) {
            Ok(_) => Answers::decode(bytes.bytes()),
            // Those that did not answer are listed too.
            Err(Failed { errno: Errno::ETIMEDOUT, .. }) if !bytes.bytes().is_empty() => Answers::decode(bytes.bytes()),
            Err(failed) => Err(failed),
        }
    }
}

/// What a notification ends with.
#[derive(Default)]
struct Expected {
    start: AtomicPtr<c_char>,
    len: AtomicUsize,
    done: Mutex<bool>,
    changed: Condvar,
}

impl Expected {
    /// Whether it ended in time.
    fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit.min(Duration::from_secs(1 << 31));
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while !*done {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            done = self.changed.wait_timeout(done, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

extern "C" fn note_done(_completion: *mut RawCompletion, context: *mut c_void) {
    // SAFETY: it is the one that was given away for this call, which comes once.
    let reply = unsafe { Arc::from_raw(context.cast::<Expected>()) };
    *reply.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
    reply.changed.notify_all();
}

impl Answers {
    /// How many of each, and then, of each, the connection, the watch, and what those that answered said.
    fn decode(bytes: &[u8]) -> Result<Self, Failed> {
        let mut answers = Answers::default();
        if bytes.is_empty() {
            return Ok(answers);
        }
        let mut decoder = Decoder::new("rados_aio_notify", bytes);
        for _ in 0..decoder.u32()? {
            answers.answered.push(WatchId { client: decoder.u64()?, cookie: decoder.u64()? });
            decoder.counted()?;
        }
        for _ in 0..decoder.u32()? {
            answers.silent.push(WatchId { client: decoder.u64()?, cookie: decoder.u64()? });
        }
        decoder.end()?;
        Ok(answers)
    }
}

/// A watch on an object, ended when it is dropped.
pub(crate) struct Watch {
    target: *mut Target,
    cookie: u64,
}

/// What the library's threads have of a watch.
struct Target {
    pool: Pool,
    object: CString,
    /// Why it broke; 0 while it has not.
    broken: AtomicI32,
}

// SAFETY: the target is shared with threads of the library anyway: what changes of it is atomic, and the rest is `Sync`.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("object", &self.target().object).finish_non_exhaustive()
    }
}

impl Watch {
    fn target(&self) -> &Target {
        // SAFETY: it lives as long as this.
        unsafe { &*self.target }
    }

    pub(crate) fn id(&self) -> WatchId {
        WatchId { client: self.target().pool.instance(), cookie: self.cookie }
    }

    /// How long ago the OSD last confirmed that it is there. An error says that it is not, and will not be again: `ENOTCONN` mostly.
    pub(crate) fn check(&self) -> Result<Duration, Failed> {
        const CALL: &str = "rados_watch_check";
        let target = self.target();
        check(CALL, -target.broken.load(Ordering::Acquire).saturating_abs())?;
        // SAFETY: the watch is alive.
        let age = check(CALL, unsafe { (target.pool.rados().rados_watch_check)(target.pool.io(), self.cookie) })?;
        Ok(Duration::from_millis(u64::from(age.unsigned_abs())))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let pool = self.target().pool.clone();
        let (target, cookie) = (Pointer(self.target), self.cookie);
        let ended = within(pool.0.cluster.ending(), move || {
            let target = target;
            // SAFETY: the watch is alive, and ended once; when the calls are flushed, none comes any more, and nobody else has the target.
            unsafe {
                let pool = (*target.0).pool.clone();
                let result = check("rados_unwatch2", (pool.rados().rados_unwatch2)(pool.io(), cookie));
                (pool.rados().rados_watch_flush)(pool.cluster());
                drop(Box::from_raw(target.0));
                result
            }
        });
        match ended {
            Some(Ok(_)) => {}
            Some(Err(_failed)) => {
                crate::trace::warning!(error = %_failed, "a watch could not be ended: it ends with the connection")
            }
            None => crate::trace::warning!("a watch does not end in time: it ends with this process"),
        }
    }
}

extern "C" fn answer(target: *mut c_void, notification: u64, watch: u64, _from: u64, _data: *mut c_void, _len: usize) {
    // SAFETY: it lives until no call comes any more.
    let target = unsafe { &*target.cast::<Target>() };
    let pool = &target.pool;
    // SAFETY: all is alive; nothing is said. It is sent, and not waited for.
    unsafe { (pool.rados().rados_notify_ack)(pool.io(), target.object.as_ptr(), notification, watch, ptr::null(), 0) };
}

extern "C" fn note_broken(target: *mut c_void, _watch: u64, error: c_int) {
    // SAFETY: it lives until no call comes any more.
    let target = unsafe { &*target.cast::<Target>() };
    let error = if error == 0 { -(Errno::ENOTCONN as c_int) } else { error };
    target.broken.store(error, Ordering::Release);
}

/// Tag, clients, cookies, addresses.
type Buffers<T> = [T; 4];

impl Lockers {
    /// Asks for a list in four buffers, with longer and longer ones until it fits.
    fn ask(
        call: &'static str,
        mut ask: impl FnMut(*mut c_int, Buffers<*mut c_char>, &mut Buffers<usize>) -> ssize_t,
    ) -> Result<Self, Failed> {
        const ATTEMPTS: u32 = 12;
        const MOST: usize = 1 << 20;
        let mut room = [256, 1024, 1024, 1024];
        for _ in 0..ATTEMPTS {
            let mut buffers: Buffers<Vec<u8>> = room.map(|len| vec![0; len]);
            let mut lens = room;
            let mut exclusive = 0;
            let starts = buffers.each_mut().map(|buffer| buffer.as_mut_ptr().cast());
            let result = ask(&raw mut exclusive, starts, &mut lens);
            match check(call, c_int::try_from(result).unwrap_or(c_int::MAX)) {
                Err(Failed { errno: Errno::ERANGE, .. }) if lens.iter().all(|&len| len < MOST) => {
                    // Some more, for those that come in between.
                    room = std::array::from_fn(|buffer| room[buffer].max(lens[buffer]) + 256);
                }
                count => {
                    let count = usize::try_from(count?).unwrap_or(0);
                    let [_, clients, cookies, addresses] = buffers;
                    let mut held = Vec::new();
                    let mut fields = [clients, cookies, addresses].map(|buffer| texts(buffer).into_iter());
                    for _ in 0..count {
                        let [client, cookie, address] =
                            fields.each_mut().map(|fields| string(call, &fields.next().unwrap_or_default()));
                        held.push(Locker { client: client?, cookie: cookie?, address: plain(&address?).to_owned() });
                    }
                    let mode = if exclusive == 0 { Mode::Shared } else { Mode::Exclusive };
                    return Ok(Lockers { mode, held });
                }
            }
        }
        Err(Failed { call, errno: Errno::E2BIG })
    }
}

/// An address as watchers have it: some calls say which protocol it speaks as well.
fn plain(address: &str) -> &str {
    ["v1:", "v2:", "any:"].iter().find_map(|protocol| address.strip_prefix(protocol)).unwrap_or(address)
}

/// Texts with a NUL behind each.
fn texts(buffer: Vec<u8>) -> Vec<Vec<u8>> {
    buffer.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_osds_write_them() {
        let mut bytes = Vec::new();
        bytes.extend(2u32.to_le_bytes());
        for (client, said) in [(4123u64, &b""[..]), (4124, b"yes")] {
            bytes.extend(client.to_le_bytes());
            bytes.extend(1u64.to_le_bytes());
            bytes.extend(u32::try_from(said.len()).unwrap().to_le_bytes());
            bytes.extend(said);
        }
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(4125u64.to_le_bytes());
        bytes.extend(7u64.to_le_bytes());
        let answers = Answers::decode(&bytes).unwrap();
        let watch = |client, cookie| WatchId { client, cookie };
        assert_eq!(answers, Answers { answered: vec![watch(4123, 1), watch(4124, 1)], silent: vec![watch(4125, 7)] });
        assert_eq!(Answers::decode(&[]).unwrap(), Answers::default());
        for cut in 1..bytes.len() {
            assert_eq!(Answers::decode(&bytes[..cut]).unwrap_err().errno, Errno::EBADMSG, "{cut}");
        }
        bytes.push(0);
        assert_eq!(Answers::decode(&bytes).unwrap_err().errno, Errno::EBADMSG);
        assert_eq!(Answers::decode(&[0xff; 4]).unwrap_err().errno, Errno::EBADMSG);
    }

    #[test]
    fn lockers_are_asked_for_until_they_fit() {
        let clients: String = (0..200).map(|number| format!("client.{number}\0")).collect();
        let write = |start: *mut c_char, bytes: &[u8]| {
            // SAFETY: the caller looked at the length.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().cast(), start, bytes.len()) }
        };
        let mut asked = 0;
        let found = Lockers::ask("test", |mode, [tag, first, second, third], lens| {
            asked += 1;
            let room = *lens;
            *lens = [1, clients.len(), clients.len(), clients.len()];
            if room[1] < clients.len() {
                return -34;
            }
            write(tag, b"\0");
            for start in [first, second, third] {
                write(start, clients.as_bytes());
            }
            // SAFETY: it is given to be written to.
            unsafe { *mode = 1 };
            200
        })
        .unwrap();
        assert_eq!((asked, found.mode, found.held.len()), (2, Mode::Exclusive, 200));
        assert_eq!((&*found.held[199].client, &*found.held[7].cookie), ("client.199", "client.7"));
        let endless = Lockers::ask("test", |_, _, lens| {
            *lens = lens.map(|len| len + 1000);
            -34
        });
        assert_eq!(endless.unwrap_err().errno, Errno::E2BIG);
    }
}
