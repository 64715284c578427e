//! Who keeps a directory busy: mounts, processes, loop devices, swap files.
//!
//! A process or a mount may see the directory under another path, in a mount namespace of its own. So the directory is first located within
//! its file system (device and path), and every namespace's mount table tells under which paths that place shows there.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};

use super::call::FileId;
use super::mounts::{self, Mount, below, join, unescape};
use super::walk::{Order, Walk};
use crate::error::{Error, Result};
use crate::text::Escaped;
use crate::volume::Holder;

const OPERATION: &str = "find out who uses the volume";
/// More are counted, not named.
const MAX_NAMED: usize = 100;
/// A process with more open files than this is looked at no further.
const MAX_FILES: usize = 1 << 16;
/// So many processes are worth a thread of their own to look at them, and no more threads than this.
const FEW: usize = 8;
const MAX_THREADS: usize = 4;

/// Who keeps the directory `name` of `parent` busy. Mounts come first, then processes, devices and swap files.
///
/// What the caller may not see is left out, and processes that end meanwhile are no error. A directory that does not exist has no holders.
pub(crate) fn find(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<Holder>> {
    let failed = |error: io::Error| Error::io(OPERATION, "cannot read /proc", error).with_remedy("mount /proc");
    let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(OPERATION, "cannot look at the live root", error)),
    };
    let own = mounts::own().map_err(failed)?;
    let folder = mounts::path_of(parent).map_err(failed)?;
    let path = join(&folder, name.as_bytes());
    let place = Place::of(parent, &folder, name.as_bytes(), &own);

    let mut found = Found::default();
    found.add_mounts(place.own_mounts_on(&own, &path), None);

    let mut views = place.views(&own);
    views.insert(path);
    let mut namespaces = HashMap::new();
    if let Some(id) = namespace("thread-self") {
        namespaces.insert(id, views.clone());
    }
    let mut processes = Vec::new();
    for pid in process_ids().map_err(failed)? {
        if is_kernel_thread(pid) {
            continue;
        }
        // A process whose namespace is hidden from us hides its links too.
        let Some(id) = namespace(&pid.to_string()) else { continue };
        if let Entry::Vacant(new) = namespaces.entry(id.clone()) {
            // It ended, perhaps: another process of the namespace may show the table.
            let Ok(table) = mounts::read(&format!("/proc/{pid}/mountinfo")) else { continue };
            found.add_mounts(place.mounts_on(&table), Some(pid));
            new.insert(place.views(&table));
        }
        processes.push((pid, id));
    }
    let look = |(pid, id): &(u32, Vec<u8>)| {
        let how = Process::open(*pid)?.how_it_holds(FileId::from(&stat), namespaces.get(id)?, &place.device)?;
        Some(Holder::Process { pid: *pid, command: command(*pid), how })
    };
    in_parts(&processes, look).into_iter().for_each(|process| found.add(process));
    add_devices(&mut found, &views);
    add_swap_files(&mut found, &views);
    Ok(found.finish())
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

/// Where the directory lies, whatever paths lead there.
#[derive(Default)]
struct Place {
    device: Vec<u8>,
    path: Vec<u8>,
}

impl Place {
    fn of(parent: BorrowedFd<'_>, folder: &[u8], name: &[u8], own: &[Mount]) -> Self {
        let located = || {
            let id = mounts::of_descriptor(parent).ok()?;
            let mount = own.iter().find(|mount| mount.id == id)?;
            let rest = below(folder, &mount.point)?;
            Some(Place { device: mount.device.clone(), path: join(&join(&mount.root, rest), name) })
        };
        // After a chroot the table may not show the mount: then no device matches, and the path alone has to do.
        located().unwrap_or_default()
    }

    /// The paths under which the directory, or a part of it, shows in a namespace.
    fn views(&self, table: &[Mount]) -> BTreeSet<Vec<u8>> {
        let here = table.iter().filter(|mount| mount.device == self.device);
        here.filter_map(|mount| match below(&self.path, &mount.root) {
            Some(rest) => Some(join(&mount.point, rest)),
            None => below(&mount.root, &self.path).map(|_| mount.point.clone()),
        })
        .collect()
    }

    /// Where in a namespace the directory or a part of it is mounted, or something is mounted on or in it.
    fn mounts_on(&self, table: &[Mount]) -> BTreeSet<Vec<u8>> {
        let by_id: HashMap<u64, &Mount> = table.iter().map(|mount| (mount.id, mount)).collect();
        let mut found = BTreeSet::new();
        for base in table.iter().filter(|mount| mount.device == self.device) {
            if below(&base.root, &self.path).is_some() {
                found.insert(base.point.clone());
            }
            let Some(rest) = below(&self.path, &base.root) else { continue };
            let view = join(&base.point, rest);
            // Only what hangs on this very mount: another may hide it under the same path.
            let on_base = |mount: &&Mount| {
                let mut at = *mount;
                let mut steps = 0;
                while at.id != base.id && below(&at.point, &view).is_some() && steps <= table.len() {
                    let Some(up) = by_id.get(&at.parent) else { return false };
                    at = up;
                    steps += 1;
                }
                at.id == base.id && mount.id != base.id
            };
            found.extend(table.iter().filter(on_base).map(|mount| mount.point.clone()));
        }
        found
    }

    /// The same in our own namespace, where the directory has this path, and whatever hangs on or below that.
    fn own_mounts_on(&self, own: &[Mount], path: &[u8]) -> BTreeSet<Vec<u8>> {
        let mut points = self.mounts_on(own);
        points.extend(own.iter().filter(|mount| below(&mount.point, path).is_some()).map(|mount| mount.point.clone()));
        points
    }
}

/// The mount tables of all namespaces that the caller may see, as they were at one moment.
#[cfg(feature = "btrfs")]
#[derive(Debug)]
pub(crate) struct Tables {
    own: Vec<Mount>,
    others: Vec<(u32, Vec<Mount>)>,
}

#[cfg(feature = "btrfs")]
impl Tables {
    pub(crate) fn read() -> Result<Self> {
        let failed = |error: io::Error| Error::io(OPERATION, "cannot read /proc", error).with_remedy("mount /proc");
        let own = mounts::own().map_err(failed)?;
        let mut seen: BTreeSet<_> = namespace("thread-self").into_iter().collect();
        let mut others = Vec::new();
        for pid in process_ids().map_err(failed)? {
            let Some(id) = namespace(&pid.to_string()) else { continue };
            if !seen.contains(&id)
                && let Ok(table) = mounts::read(&format!("/proc/{pid}/mountinfo"))
            {
                seen.insert(id);
                others.push((pid, table));
            }
        }
        Ok(Tables { own, others })
    }

    /// What is mounted on or in the directory `name` of `parent`, and where it or a part of it is mounted elsewhere.
    pub(crate) fn of(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<Holder>> {
        let folder = mounts::path_of(parent).map_err(|error| Error::io(OPERATION, "cannot read /proc", error))?;
        let path = join(&folder, name.as_bytes());
        let place = Place::of(parent, &folder, name.as_bytes(), &self.own);
        Ok(self.found(&place, place.own_mounts_on(&self.own, &path)))
    }

    /// The same for a path from the top of the file system that `fd` is on, whether a mount shows it or not.
    pub(crate) fn of_path(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Vec<Holder> {
        let id = mounts::of_descriptor(fd).ok();
        let Some(mount) = self.own.iter().find(|mount| Some(mount.id) == id) else { return Vec::new() };
        let place = Place { device: mount.device.clone(), path: path.to_owned() };
        self.found(&place, place.mounts_on(&self.own))
    }

    fn found(&self, place: &Place, own: BTreeSet<Vec<u8>>) -> Vec<Holder> {
        let mut found = Found::default();
        found.add_mounts(own, None);
        for (pid, table) in &self.others {
            found.add_mounts(place.mounts_on(table), Some(*pid));
        }
        found.finish()
    }
}

/// The holders so far.
#[derive(Default)]
struct Found {
    named: Vec<Holder>,
    more: usize,
}

impl Found {
    fn add(&mut self, holder: Holder) {
        if self.named.len() < MAX_NAMED {
            self.named.push(holder);
        } else {
            self.more += 1;
        }
    }

    fn add_mounts(&mut self, points: BTreeSet<Vec<u8>>, namespace_of: Option<u32>) {
        for point in points {
            self.add(Holder::Mount { path: Escaped(&point).to_string(), namespace_of });
        }
    }

    fn finish(mut self) -> Vec<Holder> {
        if self.more > 0 {
            self.named.push(Holder::Other(format!("{} more", self.more)));
        }
        self.named
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

/// What a link reads as. Of those in `/proc` that says enough, and costs much less than to look at what they lead to.
fn link<P: ?Sized + NixPath>(dir: BorrowedFd<'_>, path: &P) -> Option<Vec<u8>> {
    readlinkat(dir, path).ok().map(OsString::into_vec)
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

fn command(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    Escaped(name.strip_suffix(b"\n").unwrap_or(&name)).to_string()
}

/// A process, by its directory in `/proc`.
struct Process(OwnedFd);

impl Process {
    /// `None` for one that has ended.
    fn open(pid: u32) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(format!("/proc/{pid}").as_str(), flags, Mode::empty()).ok().map(Process)
    }

    fn link(&self, name: &CStr) -> Option<Vec<u8>> {
        link(self.0.as_fd(), name)
    }

    /// The most telling way in which the process holds the directory.
    fn how_it_holds(&self, top: FileId, views: &BTreeSet<Vec<u8>>, device: &[u8]) -> Option<String> {
        let inside = |path: &[u8]| views.iter().find_map(|view| Some(below(path, view)?.to_owned()));
        let said = |what: &str, rest: &[u8]| {
            if rest.is_empty() { what.to_owned() } else { format!("{what} {}", Escaped(rest)) }
        };
        for (name, what) in [(c"root", "root directory"), (c"cwd", "working directory")] {
            let path = self.link(name)?;
            if let Some(rest) = inside(&path) {
                return Some(said(what, &rest));
            }
            // Under a path that no mount table explains: by a mount that was detached, or after a chroot in another namespace.
            let directory = fstatat(&self.0, name, AtFlags::empty());
            if directory.is_ok_and(|directory| FileId::from(&directory) == top) {
                return Some(what.to_owned());
            }
        }
        if let Some(rest) = self.link(c"exe").and_then(|path| inside(&path)) {
            return Some(said("executable", &rest));
        }
        if let Some(rest) = self.open_file(inside) {
            return Some(said("open file", &rest));
        }
        let maps = openat(&self.0, c"maps", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        super::maps::find(maps.into(), device, inside).map(|rest| said("mapped file", &rest))
    }

    fn open_file(&self, inside: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let files = openat(&self.0, c"fd", flags, Mode::empty()).ok()?;
        let mut walk = Walk::new(files, c"fd", Order::Listed).ok()?;
        for _ in 0..MAX_FILES {
            walk.advance().ok()??;
            if let Some(rest) = link(walk.dir().ok()?, walk.name()).and_then(|path| inside(&path)) {
                return Some(rest);
            }
        }
        None
    }
}

fn add_devices(found: &mut Found, views: &BTreeSet<Vec<u8>>) {
    let mut devices: Vec<_> = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    devices.sort();
    for device in devices.iter().filter(|device| device.as_bytes().starts_with(b"loop")) {
        let path = std::path::Path::new("/sys/block").join(device).join("loop/backing_file");
        let Ok(file) = fs::read(path) else { continue };
        let file = file.strip_suffix(b"\n").unwrap_or(&file);
        if views.iter().any(|view| below(file, view).is_some()) {
            let device = format!("/dev/{}", Escaped::from(device.as_os_str()));
            found.add(Holder::Device { device, file: Escaped(file).to_string() });
        }
    }
}

fn add_swap_files(found: &mut Found, views: &BTreeSet<Vec<u8>>) {
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    for file in swaps.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ' || byte == b'\t').next()) {
        let file = unescape(file);
        if views.iter().any(|view| below(&file, view).is_some()) {
            found.add(Holder::Other(format!("swap file {}", Escaped(&file))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::File;
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    fn mount(id: u64, parent: u64, device: &str, root: &str, point: &str) -> Mount {
        let [device, root, point] = [device, root, point].map(|field| field.as_bytes().to_vec());
        Mount { id, parent, device, root, point }
    }

    fn points(set: BTreeSet<Vec<u8>>) -> Vec<String> {
        set.into_iter().map(|point| String::from_utf8(point).unwrap()).collect()
    }

    #[test]
    fn a_namespace_shows_the_directory_where_its_mounts_say() {
        let place = Place { device: b"8:1".to_vec(), path: b"/pool/c1".to_vec() };
        let host = [
            mount(1, 0, "8:0", "/", "/"),
            mount(2, 1, "8:1", "/", "/srv"),
            mount(3, 1, "8:1", "/pool/c10", "/mnt/other"),
            mount(4, 2, "8:1", "/pool/c1/etc", "/srv/etc-of-c1"),
            mount(5, 2, "0:9", "/", "/srv/pool/c1/tmp"),
            mount(6, 2, "0:9", "/", "/srv/pool/c10/tmp"),
        ];
        assert_eq!(points(place.views(&host)), ["/srv/etc-of-c1", "/srv/pool/c1"]);
        assert_eq!(points(place.mounts_on(&host)), ["/srv/etc-of-c1", "/srv/pool/c1/tmp"]);
        // A container whose root is the directory, with a /proc of its own.
        let container = [mount(1, 0, "8:1", "/pool/c1", "/"), mount(2, 1, "0:4", "/", "/proc")];
        assert_eq!(points(place.views(&container)), ["/"]);
        assert_eq!(points(place.mounts_on(&container)), ["/", "/proc"]);
        // The same paths on another file system are another directory, and so is what hides it.
        let stranger = [mount(1, 0, "8:2", "/", "/"), mount(2, 1, "8:2", "/pool/c1", "/srv/pool/c1")];
        assert!(place.views(&stranger).is_empty() && place.mounts_on(&stranger).is_empty());
        let hidden = [mount(1, 0, "8:1", "/", "/"), mount(2, 1, "0:9", "/", "/pool"), mount(3, 2, "0:8", "/", "/pool/c1")];
        assert!(place.mounts_on(&hidden).is_empty());
    }

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
