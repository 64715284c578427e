//! By what a process may hold a file, as `/proc` tells.

use std::ffi::{CStr, OsString};
use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::NixPath;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::sys::maps;
use crate::sys::mounts::Device;
use crate::sys::walk::{Order, Walk};
use crate::text::Escaped;
use crate::volume::Holder;

/// A process with more open files than this is looked at no further.
const MAX_FILES: usize = 1 << 16;
/// So many processes are worth a thread of their own to look at them, and no more threads than this.
const FEW: usize = 8;
const MAX_THREADS: usize = 4;

/// What processes may hold, as those of one mount namespace see it.
pub(super) trait Target {
    /// What of it a link in `/proc` to a file leads to: a path from its top.
    fn file(&self, dir: BorrowedFd<'_>, link: &CStr) -> Option<Vec<u8>>;
    /// The same for a link to a directory.
    fn directory(&self, dir: BorrowedFd<'_>, link: &CStr) -> Option<Vec<u8>>;
    /// Where files of it lie, if that is known. A path is asked for only of mappings of files there.
    fn devices(&self) -> &[Device];
    /// The same for the path of such a mapping.
    fn mapped(&self, path: &[u8]) -> Option<Vec<u8>>;
    /// Whether the open files of this process count.
    fn counts_files(&self, pid: u32) -> bool;
}

/// The processes that hold what their namespace's target is; `targets` are in the order of the namespaces.
pub(super) fn holding<T: Target + Sync>(targets: &[T], processes: &[(u32, usize)]) -> Vec<Holder> {
    in_parts(processes, |&(pid, place)| {
        let how = Process::open(pid)?.how_it_holds(targets.get(place)?)?;
        Some(Holder::Process { pid, command: command(pid), how })
    })
}

/// What a link reads as. Of those in `/proc` that says enough, and costs much less than to look at what they lead to.
pub(super) fn link<P: ?Sized + NixPath>(dir: BorrowedFd<'_>, path: &P) -> Option<Vec<u8>> {
    readlinkat(dir, path).ok().map(OsString::into_vec)
}

pub(super) fn command(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    Escaped(name.strip_suffix(b"\n").unwrap_or(&name)).to_string()
}

/// A process, by its directory in `/proc`.
struct Process {
    pid: u32,
    dir: OwnedFd,
}

impl Process {
    /// `None` for one that has ended.
    fn open(pid: u32) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(format!("/proc/{pid}").as_str(), flags, Mode::empty()).ok().map(|dir| Process { pid, dir })
    }

    /// The most telling way in which the process holds the target.
    fn how_it_holds(&self, target: &impl Target) -> Option<String> {
        let said = |what: &str, rest: &[u8]| {
            if rest.is_empty() { what.to_owned() } else { format!("{what} {}", Escaped(rest)) }
        };
        for (name, what) in [(c"root", "root directory"), (c"cwd", "working directory")] {
            if let Some(rest) = target.directory(self.dir.as_fd(), name) {
                return Some(said(what, &rest));
            }
        }
        if let Some(rest) = target.file(self.dir.as_fd(), c"exe") {
            return Some(said("executable", &rest));
        }
        if target.counts_files(self.pid)
            && let Some(rest) = self.open_file(target)
        {
            return Some(said("open file", &rest));
        }
        let maps = openat(&self.dir, c"maps", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        maps::find(maps.into(), target.devices(), |path| target.mapped(path)).map(|rest| said("mapped file", &rest))
    }

    fn open_file(&self, target: &impl Target) -> Option<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let files = openat(&self.dir, c"fd", flags, Mode::empty()).ok()?;
        let mut walk = Walk::new(files, c"fd", Order::Listed).ok()?;
        for _ in 0..MAX_FILES {
            walk.advance().ok()??;
            if let Some(rest) = target.file(walk.dir().ok()?, walk.name()) {
                return Some(rest);
            }
        }
        None
    }
}

/// Looks at all items, with a few threads where there are many; what is found comes in the items' order.
fn in_parts<T: Sync, R: Send>(items: &[T], look: impl Fn(&T) -> Option<R> + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS).min(items.len() / FEW);
    if threads < 2 {
        return items.iter().filter_map(look).collect();
    }
    let look_at = |part: &[T]| part.iter().filter_map(&look).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let mut parts = items.chunks(items.len().div_ceil(threads));
        let first = parts.next().unwrap_or_default();
        // What no thread can be had for is done here.
        let begin = |part| std::thread::Builder::new().spawn_scoped(scope, move || look_at(part)).map_err(|_| part);
        let others: Vec<_> = parts.map(begin).collect();
        let mut all = look_at(first);
        for other in others {
            match other {
                Ok(thread) => all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
                Err(part) => all.extend(look_at(part)),
            }
        }
        all
    })
}
