//! What a Ceph cluster does for us, through librados and librbd.
//!
//! No call waits for ever: monitors and OSDs that do not answer end it with `ETIMEDOUT` after [`Settings::timeout`], once for each of the
//! requests that it is made of. What needs an image's lock also waits for who has it: until that one hands it over, or, when it is dead,
//! until its watch lapses, 30 seconds. What waits for threads of the libraries has a limit of ours ([`patience`]). Nothing is printed, and no log
//! and no socket is opened.

mod answer;
mod image;
mod images;
mod key;
mod library;
mod locks;
mod objects;
mod patience;
mod progress;
#[cfg(test)]
mod tests;

use std::ffi::{CString, c_char, c_int};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use self::answer::{Reply, check, grown, text};
pub(crate) use self::image::{Child, Image, Mirroring, Shrink, Snap, SnapKind, Watcher};
pub(crate) use self::images::{Access, Deferment, Layout, TrashEntry, Which, features};
use self::library::{Libraries, Rados, RawCluster, RawIo, Rbd};
pub(crate) use self::locks::{Locker, Mode, Watch, WatchId};
use self::patience::{Pointer, within};

/// Which cluster, and who we are to it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `ceph` mostly: the name of its files.
    pub(crate) cluster: String,
    /// `admin`, not `client.admin`.
    pub(crate) user: String,
    /// `None`: `/etc/ceph/CLUSTER.conf`, if there is one.
    pub(crate) config: Option<PathBuf>,
    /// `None`: what the configuration says.
    pub(crate) keyring: Option<PathBuf>,
    /// Addresses. `None`: what the configuration says.
    pub(crate) monitors: Option<String>,
    /// How long a request may take; in whole seconds, and one at least.
    pub(crate) timeout: Duration,
}

/// Why a pool cannot be reached.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The libraries are not there, or lack a function.
    Library(libloading::Error),
    /// The cluster does not answer or does not let us in.
    Refused(Failed),
    /// It has no pool of this name.
    NoPool(String),
    /// The pool has no namespace of this name.
    NoNamespace(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Library(error) => error.fmt(f),
            Unavailable::Refused(failed) => failed.fmt(f),
            Unavailable::NoPool(name) => write!(f, "there is no pool {name}"),
            Unavailable::NoNamespace(name) => write!(f, "the pool has no namespace {name}"),
        }
    }
}

/// A call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) errno: Errno,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.errno)
    }
}

impl std::error::Error for Failed {}

/// A connection, one pool of it, and one namespace of that. Clones share it; it ends when the last of them goes, its watches and images
/// among them.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    io: *mut RawIo,
    /// A notification is still on its way, and will look at `io` when it ends.
    straggler: AtomicBool,
    name: String,
    namespace: String,
    cluster: Cluster,
    rbd: &'static Rbd,
}

// SAFETY: librados and librbd are made for use by several threads at once. What is not, settings of the connection and of `io`, is done
// before anyone else sees them.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.straggler.load(Ordering::Acquire) {
            // Some bytes are lost, and the connection ends all the same.
            return;
        }
        // SAFETY: it is ours, whatever used it holds this, and the connection ends after it.
        unsafe { (self.cluster.rados.rados_ioctx_destroy)(self.io) }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.0.name).field("namespace", &self.0.namespace).finish_non_exhaustive()
    }
}

/// A connection, ended when it is dropped.
struct Cluster {
    raw: *mut RawCluster,
    rados: &'static Rados,
    user: String,
    fsid: String,
    timeout: Duration,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (raw, shutdown) = (Pointer(self.raw), self.rados.rados_shutdown);
        let ended = within(self.ending(), move || {
            let raw = raw;
            // SAFETY: it was created, and nobody else has it.
            unsafe { shutdown(raw.0) }
        });
        if ended.is_none() {
            crate::trace::warning!(user = %self.user, "a connection to the cluster does not end: it is left to the end of this process");
        }
    }
}

/// What keeps the libraries from printing and from leaving files. Those that are younger than 16.2 may be unknown.
const QUIET: [(&str, &str); 11] = [
    ("log_to_stderr", "false"),
    ("err_to_stderr", "false"),
    ("log_to_file", "false"),
    ("log_file", ""),
    ("log_to_syslog", "false"),
    ("err_to_syslog", "false"),
    ("log_to_journald", "false"),
    ("err_to_journald", "false"),
    ("log_to_graylog", "false"),
    ("err_to_graylog", "false"),
    ("admin_socket", ""),
];

impl Cluster {
    fn connect(rados: &'static Rados, settings: &Settings) -> Result<Self, Failed> {
        let name = text("rados_create2", &settings.cluster)?;
        let user = text("rados_create2", &format!("client.{}", settings.user))?;
        let mut raw = ptr::null_mut();
        // SAFETY: the names are NUL-terminated; the pointer is written to.
        check("rados_create2", unsafe { (rados.rados_create2)(&raw mut raw, name.as_ptr(), user.as_ptr(), 0) })?;
        let timeout = Duration::from_secs(whole_seconds(settings.timeout));
        let mut cluster = Cluster { raw, rados, user: settings.user.clone(), fsid: String::new(), timeout };
        // Before the file is read, of which the library may complain.
        cluster.hush()?;
        let usual = PathBuf::from(format!("/etc/ceph/{}.conf", settings.cluster));
        if let Some(path) = settings.config.as_deref().or(usual.exists().then_some(&usual)) {
            let path = path_text("rados_conf_read_file", path)?;
            // SAFETY: the path is NUL-terminated.
            check("rados_conf_read_file", unsafe { (rados.rados_conf_read_file)(raw, path.as_ptr()) })?;
            cluster.hush()?;
        } else if settings.monitors.is_none() {
            // The library would ask the network where they are, and say on the standard error that nobody knows.
            return Err(Failed { call: "rados_conf_read_file", errno: Errno::ENOENT });
        }
        if let Some(path) = &settings.keyring {
            cluster.set("keyring", &path_text("rados_conf_set", path)?)?;
        }
        if let Some(monitors) = &settings.monitors {
            cluster.set("mon_host", &text("rados_conf_set", monitors)?)?;
        }
        // Whole seconds all: with none they wait for ever.
        let seconds = text("rados_conf_set", &timeout.as_secs().to_string())?;
        for option in ["rados_mon_op_timeout", "rados_osd_op_timeout", "client_mount_timeout"] {
            cluster.set(option, &seconds)?;
        }
        // No content goes through here.
        cluster.set("rbd_cache", c"false")?;
        // SAFETY: it was created, and is connected once.
        check("rados_connect", unsafe { (rados.rados_connect)(raw) })?;
        cluster.fsid = cluster.answer("rados_cluster_fsid", rados.rados_cluster_fsid)?;
        Ok(cluster)
    }

    /// How long what waits for threads of the library may take: such a call makes a few requests, and each has its own limit.
    fn ending(&self) -> Duration {
        (self.timeout * 4).max(Duration::from_secs(30))
    }

    fn hush(&self) -> Result<(), Failed> {
        for (option, value) in QUIET {
            match self.set(option, &text("rados_conf_set", value)?) {
                Err(Failed { errno: Errno::ENOENT, .. }) => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn set(&self, option: &str, value: &std::ffi::CStr) -> Result<(), Failed> {
        let option = text("rados_conf_set", option)?;
        // SAFETY: both are NUL-terminated, and copied.
        check("rados_conf_set", unsafe { (self.rados.rados_conf_set)(self.raw, option.as_ptr(), value.as_ptr()) }).map(drop)
    }

    /// What an option is set to, all its variables filled in.
    fn option(&self, option: &str) -> Result<String, Failed> {
        let option = text("rados_conf_get", option)?;
        // SAFETY: the name is NUL-terminated, and the buffer as long as is said.
        grown("rados_conf_get", |buffer, len| unsafe { (self.rados.rados_conf_get)(self.raw, option.as_ptr(), buffer, len) })
    }

    fn answer(
        &self,
        name: &'static str,
        call: unsafe extern "C" fn(*mut RawCluster, *mut c_char, usize) -> c_int,
    ) -> Result<String, Failed> {
        // SAFETY: the buffer is as long as is said.
        grown(name, |buffer, len| unsafe { call(self.raw, buffer, len) })
    }
}

/// Time for a library that counts in seconds and takes none of them for no limit.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).clamp(1, u32::MAX.into())
}

fn path_text(call: &'static str, path: &Path) -> Result<CString, Failed> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Failed { call, errno: Errno::EINVAL })
}

impl Pool {
    /// Connects, and finds the pool and its namespace, which is empty for that without a name.
    pub(crate) fn connect(settings: &Settings, pool: &str, namespace: &str) -> Result<Self, Unavailable> {
        let libraries = Libraries::load().map_err(Unavailable::Library)?;
        let (rados, rbd) = (&libraries.rados, &libraries.rbd);
        let cluster = Cluster::connect(rados, settings).map_err(Unavailable::Refused)?;
        let name = text("rados_ioctx_create", pool).map_err(Unavailable::Refused)?;
        let mut io = ptr::null_mut();
        // SAFETY: the name is NUL-terminated; the pointer is written to.
        let result = check("rados_ioctx_create", unsafe { (rados.rados_ioctx_create)(cluster.raw, name.as_ptr(), &raw mut io) });
        match result {
            Err(Failed { errno: Errno::ENOENT, .. }) => return Err(Unavailable::NoPool(pool.to_owned())),
            result => result.map_err(Unavailable::Refused)?,
        };
        let shared =
            Shared { io, straggler: AtomicBool::new(false), name: pool.to_owned(), namespace: namespace.to_owned(), cluster, rbd };
        if let Some(full_try) = rados.rados_set_pool_full_try {
            // An error when the pool is full, where it would wait until there is room.
            // SAFETY: nobody else has it yet.
            unsafe { full_try(io) }
        }
        if !namespace.is_empty() {
            let name = text("rbd_namespace_exists", namespace).map_err(Unavailable::Refused)?;
            let mut exists = false;
            // SAFETY: the name is NUL-terminated; the answer is written to.
            check("rbd_namespace_exists", unsafe { (rbd.rbd_namespace_exists)(io, name.as_ptr(), &raw mut exists) })
                .map_err(Unavailable::Refused)?;
            if !exists {
                return Err(Unavailable::NoNamespace(namespace.to_owned()));
            }
            // SAFETY: the name is NUL-terminated; nobody else has it yet.
            unsafe { (rados.rados_ioctx_set_namespace)(io, name.as_ptr()) }
        }
        Ok(Pool(Arc::new(shared)))
    }

    fn rados(&self) -> &'static Rados {
        self.0.cluster.rados
    }

    fn rbd(&self) -> &'static Rbd {
        self.0.rbd
    }

    fn io(&self) -> *mut RawIo {
        self.0.io
    }

    fn cluster(&self) -> *mut RawCluster {
        self.0.cluster.raw
    }

    /// Which cluster it is.
    pub(crate) fn fsid(&self) -> String {
        self.0.cluster.fsid.clone()
    }

    pub(crate) fn pool_id(&self) -> i64 {
        // SAFETY: it is alive.
        unsafe { (self.rados().rados_ioctx_get_id)(self.io()) }
    }

    /// This connection's number: locks and watches are those of `client.NUMBER`.
    pub(crate) fn instance(&self) -> u64 {
        // SAFETY: it is alive.
        unsafe { (self.rados().rados_get_instance_id)(self.cluster()) }
    }

    /// This connection's address, as a blocklist wants it.
    pub(crate) fn addresses(&self) -> Result<String, Failed> {
        let mut addresses = ptr::null_mut();
        // SAFETY: the pointer is written to.
        check("rados_getaddrs", unsafe { (self.rados().rados_getaddrs)(self.cluster(), &raw mut addresses) })?;
        // SAFETY: it is NUL-terminated, and freed by the reply.
        let len = if addresses.is_null() { 0 } else { unsafe { libc::strlen(addresses) } };
        Reply::new(self.rados(), addresses, len).into_string("rados_getaddrs")
    }

    pub(crate) fn pool_name_of(&self, id: i64) -> Result<String, Failed> {
        const CALL: &str = "rados_pool_reverse_lookup";
        // SAFETY: the buffer is as long as is said.
        grown(CALL, |buffer, len| unsafe { (self.rados().rados_pool_reverse_lookup)(self.cluster(), id, buffer, len) })
    }

    /// Waits until the callbacks that run now have ended: the library has one thread for them, or one queue.
    fn flush_callbacks(&self) -> Result<(), Failed> {
        const CALL: &str = "rados_aio_flush_async";
        let mut completion = ptr::null_mut();
        // SAFETY: no callback of ours; the pointer is written to.
        let made = unsafe { (self.rados().rados_aio_create_completion2)(ptr::null_mut(), None, &raw mut completion) };
        check(CALL, made)?;
        // SAFETY: both are alive.
        let begun = check(CALL, unsafe { (self.rados().rados_aio_flush_async)(self.io(), completion) });
        if begun.is_ok() {
            // SAFETY: it is alive, and was begun.
            unsafe { (self.rados().rados_aio_wait_for_complete)(completion) };
        }
        // SAFETY: it is alive, and released once.
        unsafe { (self.rados().rados_aio_release)(completion) };
        begun.map(drop)
    }

    /// Runs a command of the monitors, given in JSON, and returns its output.
    pub(crate) fn mon_command(&self, json: &str) -> Result<Vec<u8>, Failed> {
        const CALL: &str = "rados_mon_command";
        let json = text(CALL, json)?;
        let mut command = [json.as_ptr()];
        let (mut out, mut out_len, mut status, mut status_len) = (ptr::null_mut(), 0, ptr::null_mut(), 0);
        // SAFETY: one command, NUL-terminated, and no input; the pointers and lengths are written to.
        let result = unsafe {
            (self.rados().rados_mon_command)(
                self.cluster(),
                command.as_mut_ptr(),
                command.len(),
                ptr::null(),
                0,
                &raw mut out,
                &raw mut out_len,
                &raw mut status,
                &raw mut status_len,
            )
        };
        let out = Reply::new(self.rados(), out, out_len);
        drop(Reply::new(self.rados(), status, status_len));
        check(CALL, result)?;
        Ok(out.bytes().to_vec())
    }
}
