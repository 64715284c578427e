//! The mount namespaces that the caller may see, by the processes in them.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, readlinkat};

use super::failed;
use super::process::link;
use crate::error::Result;
use crate::sys::mounts::{self, Mount};

/// A mount table.
#[derive(Debug)]
pub(super) struct Namespace {
    /// A process in the namespace, unless it is the calling thread's own.
    pub(super) of: Option<u32>,
    pub(super) mounts: Vec<Mount>,
}

/// All mount namespaces and processes that the caller may see, as they were at one moment.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// The calling thread's comes first.
    pub(super) all: Vec<Namespace>,
    /// Each process with the place of its namespace in `all`.
    pub(super) processes: Vec<(u32, usize)>,
}

impl Namespaces {
    pub(super) fn read() -> Result<Self> {
        let mut all = vec![Namespace { of: None, mounts: mounts::own().map_err(failed)? }];
        let mut places: HashMap<_, _> = namespace("thread-self").map(|id| (id, 0)).into_iter().collect();
        let mut processes = Vec::new();
        for pid in process_ids().map_err(failed)? {
            if is_kernel_thread(pid) {
                continue;
            }
            // A process whose namespace is hidden from us hides its links too.
            let Some(id) = namespace(&pid.to_string()) else { continue };
            let place = match places.entry(id) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    // It ended, perhaps: another process of the namespace may show the table.
                    let Ok(mounts) = mounts::read(&format!("/proc/{pid}/mountinfo")) else { continue };
                    all.push(Namespace { of: Some(pid), mounts });
                    *new.insert(all.len() - 1)
                }
            };
            processes.push((pid, place));
        }
        Ok(Namespaces { all, processes })
    }

    pub(super) fn own(&self) -> &[Mount] {
        self.all.first().map_or(&[], |own| own.mounts.as_slice())
    }
}

/// The mount namespace of a process, by a name that is the same for all processes in it.
fn namespace(process: &str) -> Option<Vec<u8>> {
    link(AT_FDCWD, format!("/proc/{process}/ns/mnt").as_str())
}

/// Whether it is a thread of the kernel, which has no program, and neither files nor memory of its own.
fn is_kernel_thread(pid: u32) -> bool {
    readlinkat(AT_FDCWD, format!("/proc/{pid}/exe").as_str()) == Err(Errno::ENOENT)
}

/// All processes, without the kernel's own threads where there is a list of them.
fn process_ids() -> io::Result<BTreeSet<u32>> {
    const KTHREADD: u32 = 2;
    let entries = fs::read_dir("/proc")?;
    let mut ids: BTreeSet<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    if fs::read(format!("/proc/{KTHREADD}/comm")).is_ok_and(|name| name == b"kthreadd\n")
        && let Ok(threads) = fs::read_to_string(format!("/proc/{KTHREADD}/task/{KTHREADD}/children"))
    {
        threads.split_ascii_whitespace().filter_map(|id| id.parse().ok()).for_each(|id| _ = ids.remove(&id));
        ids.remove(&KTHREADD);
    }
    Ok(ids)
}
