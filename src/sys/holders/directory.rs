//! Who keeps one directory busy.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat, fstatat};

use super::namespaces::Namespaces;
use super::place::Place;
use super::process::{Target, holding, link};
use super::{Found, OPERATION, failed, in_kernel};
use crate::error::{Error, Result};
use crate::sys::call::FileId;
use crate::sys::mounts::{self, Device, Mount, below, join};
use crate::text::Escaped;
use crate::volume::Holder;

/// Who keeps the directory `name` of `parent` busy. Mounts and overlays come first, then processes, devices and swap files.
///
/// What the caller may not see is left out, and processes that end meanwhile are no error. A directory that does not exist has no holders.
pub(crate) fn find(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<Holder>> {
    let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(OPERATION, "cannot look at the live root", error)),
    };
    let namespaces = Namespaces::read()?;
    let own = namespaces.own();
    let folder = mounts::path_of(parent).map_err(failed)?;
    let path = join(&folder, name.as_bytes());
    let place = Place::of(parent, &folder, name.as_bytes(), own);
    let (top, device) = (FileId::from(&stat), mounts::numbers(&place.device, 10));

    let mut found = Found::default();
    let mut seen = Vec::new();
    let mut overlays = BTreeSet::new();
    for namespace in &namespaces.all {
        let mut views = place.views(&namespace.mounts);
        if namespace.of.is_none() {
            found.add_mounts(place.own_mounts_on(own, &path), None);
            views.insert(path.clone());
        } else {
            found.add_mounts(place.mounts_on(&namespace.mounts), namespace.of);
        }
        let directory = Directory { top, views, device };
        // Other namespaces may have copies of the same.
        for overlay in namespace.mounts.iter().filter(|mount| directory.is_layer_of(mount, namespace.of)) {
            if overlays.insert(overlay.device.as_slice()) {
                let (point, of) = (Escaped(&overlay.point), namespace.of);
                let whose = of.map(|pid| format!(" in the mount namespace of process {pid}")).unwrap_or_default();
                found.add(Holder::Other(format!("the overlay on {point}{whose}, of which it is a layer")));
            }
        }
        seen.push(directory);
    }
    holding(&seen, &namespaces.processes).into_iter().for_each(|process| found.add(process));
    let inside = |file: &[u8]| seen.first().is_some_and(|own| own.inside(file).is_some());
    in_kernel::add_devices(&mut found, |_, file| inside(file));
    in_kernel::add_swap_files(&mut found, inside);
    Ok(found.finish())
}

/// The directory as one namespace shows it.
struct Directory {
    top: FileId,
    views: BTreeSet<Vec<u8>>,
    device: Option<Device>,
}

impl Directory {
    fn inside(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.views.iter().find_map(|view| Some(below(path, view)?.to_owned()))
    }

    /// Whether an overlay of this namespace has it, or a folder in it, as a layer. Nobody can tell where a relative path leads.
    fn is_layer_of(&self, mount: &Mount, namespace_of: Option<u32>) -> bool {
        let mut paths = mount.layers.iter().filter(|layer| layer.starts_with(b"/"));
        paths.any(|layer| self.inside(layer).is_some() || self.is_at(layer, namespace_of))
    }

    /// Whether a path leads to it, by symbolic links or in other ways.
    fn is_at(&self, path: &[u8], namespace_of: Option<u32>) -> bool {
        let process = namespace_of.map_or_else(|| "thread-self".to_owned(), |pid| pid.to_string());
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let root = open(format!("/proc/{process}/root").as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let at = root.and_then(|root| openat2(&root, OsStr::from_bytes(path), how)).and_then(fstat);
        at.is_ok_and(|at| FileId::from(&at) == self.top)
    }
}

impl Target for Directory {
    fn file(&self, dir: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
        self.inside(&link(dir, name)?)
    }

    fn directory(&self, dir: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
        self.file(dir, name).or_else(|| {
            // Under a path that no mount table explains: by a mount that was detached, or after a chroot in another namespace.
            let directory = fstatat(dir, name, AtFlags::empty()).ok()?;
            (FileId::from(&directory) == self.top).then(Vec::new)
        })
    }

    fn devices(&self) -> &[Device] {
        self.device.as_slice()
    }

    fn mapped(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.inside(path)
    }

    fn counts_files(&self, _: u32) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::command;
    use super::*;

    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    /// A child that is ended and reaped whatever the test does.
    struct Reaped(Child);

    impl Drop for Reaped {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn holders(pool: &Path) -> Vec<Holder> {
        find(File::open(pool).unwrap().as_fd(), OsStr::new("c1")).unwrap()
    }

    fn pool() -> tempfile::TempDir {
        let pool = tempfile::tempdir().unwrap();
        for dir in ["c1/sub", "c10"] {
            fs::create_dir_all(pool.path().join(dir)).unwrap();
        }
        pool
    }

    fn sleeper(command: &mut Command) -> Reaped {
        Reaped(command.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn how(pool: &Path, child: &Reaped) -> Option<String> {
        holders(pool).into_iter().find_map(|holder| match holder {
            Holder::Process { pid, how, .. } if pid == child.0.id() => Some(how),
            _ => None,
        })
    }

    #[test]
    fn processes_are_named_with_how_they_hold() {
        let pool = pool();
        let pool = pool.path();
        assert_eq!(holders(pool), []);
        let neighbour = sleeper(Command::new("sleep").current_dir(pool.join("c10")));
        assert_eq!(how(pool, &neighbour), None);
        let top = sleeper(Command::new("sleep").current_dir(pool.join("c1")));
        assert_eq!(how(pool, &top).unwrap(), "working directory");
        let sub = sleeper(Command::new("sleep").current_dir(pool.join("c1/sub")));
        assert_eq!(how(pool, &sub).unwrap(), "working directory sub");
        fs::copy("/bin/sleep", pool.join("c1/own\nsleep")).unwrap();
        let exe = sleeper(&mut Command::new(pool.join("c1/own\nsleep")));
        assert_eq!(how(pool, &exe).unwrap(), "executable own\\nsleep");
        let command = holders(pool).iter().find_map(|holder| match holder {
            Holder::Process { pid, command, .. } if *pid == exe.0.id() => Some(command.clone()),
            _ => None,
        });
        assert_eq!(command.unwrap(), "own\\nsleep");
        assert_eq!(holders(pool).len(), 3);
    }

    #[test]
    fn the_callers_own_files_count_and_the_librarys_do_not() {
        let pool = pool();
        let pool = pool.path();
        let path = pool.join("c1/sub/file");
        let file = File::create(&path).unwrap();
        let me = std::process::id();
        let expected = |how: &str| Holder::Process { pid: me, command: command(std::process::id()), how: how.to_owned() };
        assert_eq!(holders(pool), [expected("open file sub/file")]);
        fs::remove_file(&path).unwrap();
        assert_eq!(holders(pool), [expected("open file sub/file (deleted)")]);
        drop(file);
        assert_eq!(holders(pool), []);
        // A mapping outlives the descriptor.
        fs::write(&path, "mapped").unwrap();
        let file = File::open(&path).unwrap();
        let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: a new mapping that nothing reads, at an address the kernel chooses.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), 4096, read, private, std::os::fd::AsRawFd::as_raw_fd(&file), 0) };
        assert_ne!(map, libc::MAP_FAILED);
        drop(file);
        assert_eq!(holders(pool), [expected("mapped file sub/file")]);
        // SAFETY: the mapping made above, which nothing refers to.
        assert_eq!(unsafe { libc::munmap(map, 4096) }, 0);
        assert_eq!(holders(pool), []);
        assert_eq!(find(File::open(pool).unwrap().as_fd(), OsStr::new("none")).unwrap(), []);
    }
}
