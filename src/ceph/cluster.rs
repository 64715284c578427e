//! Which cluster, as whom, and how an error of its is told.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::name::Place;
use crate::error::{Error, ErrorKind, Result, Space};
use crate::sys::ceph::{Failed, Pool, Settings, Unavailable};
use crate::text::Escaped;

/// The call that knows the user's key.
const LOGIN: &str = "rados_connect";
/// How long the cluster may take for one answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A Ceph cluster, and the user as whom it is reached: the cluster `ceph` as `client.admin` unless told otherwise.
///
/// Volumes that are opened in clones of one value share one login for each pool, which saves some 50 ms for each but the first. No key is shown
/// or logged.
#[derive(Clone)]
pub struct CephCluster {
    settings: Settings,
    options: String,
    pools: Arc<Mutex<HashMap<Place, Pool>>>,
    /// The cookies of locks that are held over these connections, or asked for: one that is not among them could not be given back.
    locks: Arc<Mutex<BTreeSet<String>>>,
}

impl fmt::Debug for CephCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CephCluster").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Default for CephCluster {
    fn default() -> Self {
        CephCluster::new()
    }
}

impl CephCluster {
    /// The cluster `ceph`, by its configuration `/etc/ceph/ceph.conf`, as `client.admin`. Nothing is reached yet.
    pub fn new() -> Self {
        let settings = Settings {
            cluster: "ceph".to_owned(),
            user: "admin".to_owned(),
            config: None,
            keyring: None,
            monitors: None,
            timeout: DEADLINE,
        };
        CephCluster { settings, options: String::new(), pools: Arc::default(), locks: Arc::default() }
    }

    fn change(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self.pools = Arc::default();
        self
    }

    /// Sets the cluster's name, by which its configuration and keyrings are found: `/etc/ceph/NAME.conf`.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        self.change(|settings| settings.cluster = name.into())
    }

    /// Sets the user, without `client.`. It needs the capabilities `mon 'profile rbd'` and `osd 'profile rbd pool=POOL'`.
    #[must_use]
    pub fn with_user(self, user: impl Into<String>) -> Self {
        self.change(|settings| settings.user = user.into())
    }

    /// Sets the configuration file.
    #[must_use]
    pub fn with_config(self, file: impl Into<PathBuf>) -> Self {
        self.change(|settings| settings.config = Some(file.into()))
    }

    /// Sets the file that holds the user's key.
    #[must_use]
    pub fn with_keyring(self, file: impl Into<PathBuf>) -> Self {
        self.change(|settings| settings.keyring = Some(file.into()))
    }

    /// Sets the monitors' addresses, as the setting `mon_host` has them.
    #[must_use]
    pub fn with_monitors(self, addresses: impl Into<String>) -> Self {
        self.change(|settings| settings.monitors = Some(addresses.into()))
    }

    /// Sets how long the cluster may take for each answer; 30 seconds unless set, and no less than one. It holds for devices that are mapped by this library too: what
    /// was not written by then has failed.
    ///
    /// What librbd and librados wait for within themselves, as for their threads when a connection ends, may take four times as long, and half a minute at least; after that it is
    /// left to the end of the process. librbd waits without a limit for whoever has an image's exclusive lock, lives, and does not hand it over.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        self.change(|settings| settings.timeout = deadline.max(Duration::from_secs(1)))
    }

    /// Adds options for devices of the kernel, as `rbd map --options` takes them, with commas between: `ms_mode=secure`.
    #[must_use]
    pub fn with_map_options(mut self, options: impl Into<String>) -> Self {
        self.options = options.into();
        self
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn map_options(&self) -> &str {
        &self.options
    }

    pub(super) fn deadline(&self) -> Duration {
        self.settings.timeout
    }

    pub(super) fn locks(&self) -> &Arc<Mutex<BTreeSet<String>>> {
        &self.locks
    }

    /// Logs in, unless that was done before.
    pub(super) fn connect(&self, place: &Place, operation: &'static str) -> Result<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(place) {
            return Ok(pool.clone());
        }
        self.check_names(operation)?;
        let pool = Pool::connect(&self.settings, &place.pool, &place.namespace);
        let pool = pool.map_err(|why| self.unavailable(why, place, operation))?;
        pools.insert(place.clone(), pool.clone());
        Ok(pool)
    }

    /// Refuses names that no cluster and no user has: they are parts of the names of files.
    fn check_names(&self, operation: &'static str) -> Result<()> {
        for (what, name) in [("cluster", &self.settings.cluster), ("user", &self.settings.user)] {
            let taken = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(taken) {
                let why = format!("{:?} is not the name of a {what}", Escaped(name.as_bytes()).to_string());
                return Err(Error::new(ErrorKind::InvalidInput, operation, why)
                    .with_remedy("use letters, digits, and of other characters only dots, hyphens and underscores"));
            }
        }
        Ok(())
    }

    /// Has the next volume log in anew: a client that was blocklisted stays so.
    fn forget(&self) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn unavailable(&self, why: Unavailable, place: &Place, operation: &'static str) -> Error {
        let error = match why {
            Unavailable::Library(error) => Error::new(ErrorKind::Unsupported, operation, "the libraries of Ceph cannot be loaded")
                .with_source(error)
                .with_remedy("install ceph-common, or librados2 and librbd1"),
            Unavailable::NoPool(pool) => {
                let why = format!("the cluster has no pool {:?}", Escaped(pool.as_bytes()).to_string());
                Error::new(ErrorKind::NotFound, operation, why).with_remedy("see which there are: ceph osd pool ls")
            }
            Unavailable::NoNamespace(namespace) => {
                let why = format!("the pool has no namespace {:?}", Escaped(namespace.as_bytes()).to_string());
                Error::new(ErrorKind::NotFound, operation, why)
                    .with_remedy(format!("make it: rbd namespace create {}/{namespace}", place.pool))
            }
            Unavailable::Refused(failed) => self.refused(&failed, operation),
        };
        error.with_context("cluster", &self.settings.cluster).with_context("user", format!("client.{}", self.settings.user))
    }

    /// Where the user's key is looked for, for a person.
    fn keyring(&self) -> String {
        let user = &self.settings.user;
        match &self.settings.keyring {
            Some(file) => format!("the key of client.{user} in {}", file.display()),
            None => format!("the key of client.{user} in its keyring"),
        }
    }

    fn refused(&self, failed: &Failed, operation: &'static str) -> Error {
        let error = Error::io(operation, format!("the cluster cannot be reached ({})", failed.call), failed.errno);
        let user = &self.settings.user;
        match failed.errno {
            Errno::ENOENT => {
                let usual = || format!("/etc/ceph/{}.conf", self.settings.cluster);
                let config = self.settings.config.as_ref().map_or_else(usual, |file| file.display().to_string());
                error.with_remedy(format!("see that the configuration {config} and {} are there", self.keyring()))
            }
            Errno::ETIMEDOUT => {
                let reached = "see that the monitors can be reached and agree (ceph -s), and that their addresses are right";
                let allowed = format!("that client.{user} has capabilities for the pool: osd 'profile rbd pool=POOL'");
                error.with_kind(ErrorKind::TimedOut).with_remedy(format!("{reached}; and {allowed}"))
            }
            Errno::EACCES | Errno::EPERM if failed.call != LOGIN => {
                error.with_remedy(format!("client.{user} needs the capabilities: mon 'profile rbd' osd 'profile rbd pool=POOL'"))
            }
            // The last two are for what is in the keyring and no key.
            errno
                if matches!(errno, Errno::EACCES | Errno::EPERM | Errno::EINVAL)
                    || failed.call == LOGIN && matches!(errno, Errno::EIO | Errno::EDOM) =>
            {
                let key = self.keyring();
                error.with_remedy(format!("see that {key} is there, and that it is the cluster's: ceph auth get client.{user}"))
            }
            _ => error.with_remedy("see how the cluster is: ceph -s"),
        }
    }

    /// What a call to the cluster failed with, for a person. `what` was not done.
    pub(super) fn failed(&self, failed: Failed, operation: &'static str, what: impl Into<String>) -> Error {
        let message = what.into();
        let errno = failed.errno;
        let error = Error::io(operation, format!("{message} ({})", failed.call), errno);
        let user = &self.settings.user;
        match errno {
            Errno::ETIMEDOUT => error
                .with_kind(ErrorKind::TimedOut)
                .with_remedy(format!("it gave no answer within {:?}: see how it is: ceph -s", self.settings.timeout)),
            // EBLOCKLISTED is the same number.
            Errno::ESHUTDOWN => {
                self.forget();
                error.with_kind(ErrorKind::PermissionDenied).with_remedy(
                    "the cluster has shut this client out, as it does with one whose lock another host broke: ceph osd blocklist ls; then open the volume anew",
                )
            }
            Errno::EACCES | Errno::EPERM => {
                error.with_remedy(format!("client.{user} needs the capabilities: mon 'profile rbd' osd 'profile rbd pool=POOL'"))
            }
            Errno::ENOSPC => error.with_kind(ErrorKind::NoSpace(Space::Pool)),
            Errno::EDQUOT => error.with_kind(ErrorKind::NoSpace(Space::Quota)),
            _ => error,
        }
    }
}
