//! What a cluster does: in the lab, `tests/lab/run ceph --test lib -- sys::ceph::`. Elsewhere these say that they did not run.

mod connection;
mod faults;
mod images;
mod locks;
mod mapped;
mod objects;
mod snapshots;
mod times;

use std::path::Path;
use std::process::Command;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::image::{GroupName, Parent};
use super::images::{TrashSource, features};
use super::locks::{Answers, Lockers};
use super::*;
use crate::progress::{CancelToken, Wait};
use crate::size::ByteSize;

/// Those that break the cluster run alone.
static CLUSTER: RwLock<()> = RwLock::new(());

fn there_is_a_cluster() -> bool {
    let there = std::env::var_os("REROOT_LAB").is_some() && Path::new("/etc/ceph/ceph.conf").exists();
    if !there {
        eprintln!("not tested: there is no cluster of Ceph outside the lab");
    }
    there
}

/// The cluster, beside others that use it; `None` where there is none.
fn cluster() -> Option<RwLockReadGuard<'static, ()>> {
    there_is_a_cluster().then(|| CLUSTER.read().unwrap_or_else(|error| error.into_inner()))
}

/// The cluster, to be broken.
fn whole_cluster() -> Option<RwLockWriteGuard<'static, ()>> {
    there_is_a_cluster().then(|| CLUSTER.write().unwrap_or_else(|error| error.into_inner()))
}

fn settings() -> Settings {
    Settings {
        cluster: "ceph".to_owned(),
        user: "admin".to_owned(),
        config: None,
        keyring: None,
        monitors: None,
        timeout: Duration::from_secs(30),
    }
}

fn pool() -> Pool {
    Pool::connect(&settings(), "rbd", "").unwrap()
}

fn wait() -> Wait {
    Wait::new(Duration::from_secs(120), CancelToken::new())
}

fn layout() -> Layout {
    let features =
        features::LAYERING | features::EXCLUSIVE_LOCK | features::OBJECT_MAP | features::FAST_DIFF | features::DEEP_FLATTEN;
    Layout { features: Some(features), order: Some(22), stripe_unit: 0, stripe_count: 0, data_pool: None }
}

/// An image of 64 MiB.
fn image(pool: &Pool, name: &str) -> Image {
    pool.create(name, ByteSize::mib(64), &layout()).unwrap();
    pool.open(&Which::Name(name), Access::Write).unwrap()
}

/// Runs a command of a shell, which has to go well, and returns what it printed.
fn shell(command: &str) -> String {
    let output = Command::new("bash").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn errno<T: fmt::Debug>(result: Result<T, Failed>) -> Errno {
    result.unwrap_err().errno
}

#[test]
fn without_the_libraries_it_says_so() {
    match Pool::connect(&Settings { timeout: Duration::from_secs(1), ..settings() }, "no such pool", "") {
        Err(Unavailable::Library(error)) => assert!(error.to_string().contains("librados.so.2"), "{error}"),
        Err(Unavailable::NoPool(name)) => assert_eq!(name, "no such pool"),
        // A machine with the libraries, and without a cluster.
        Err(Unavailable::Refused(failed)) => assert_eq!(failed.call, "rados_connect", "{failed}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_shared_may_be() {
    fn shared<T: Send + Sync>() {}
    shared::<Pool>();
    shared::<Watch>();
    shared::<Image>();
    shared::<Failed>();
}

#[test]
fn seconds_are_whole_and_never_none() {
    for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3)] {
        assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
    }
    assert_eq!(whole_seconds(Duration::MAX), u64::from(u32::MAX));
}

#[test]
fn texts_with_a_nul_are_refused() {
    let failed = text("rbd_rename", "a\0b").unwrap_err();
    assert_eq!(failed.to_string(), "rbd_rename: EINVAL: Invalid argument");
}
