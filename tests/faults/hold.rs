//! Those who hold a root: what they do to begin and to end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::common::pools::Backend;
#[cfg(feature = "ceph")]
use super::others;
use super::others::Shown;

/// A way to hold a root.
pub(crate) struct Hold {
    pub(crate) name: &'static str,
    pub(crate) fault: &'static str,
    by: By,
}

/// Who holds it. Of shells, the commands to begin and to end; `$source` is the root, or what a manager mounts to show it, `$kind` what file system that is,
/// `$file` a file in the root, and `$aside` a folder that is nobody's.
enum By {
    /// A shell in a mount namespace of its own.
    Apart(&'static str, &'static str),
    /// One whose mounts everybody sees.
    #[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
    Here(&'static str, &'static str),
    /// Nobody: it is only mapped.
    #[cfg(feature = "ceph")]
    Mapping,
    /// A client of the cluster that has it open.
    #[cfg(feature = "ceph")]
    Client,
}

const FOLDERS: [Hold; 6] = [
    Hold { name: "busy::cwd", fault: "busy: a process in the root", by: By::Apart("cd \"$source\"", "cd /") },
    Hold { name: "busy::file", fault: "busy: an open file", by: By::Apart("exec 9< \"$source/$file\"", "exec 9<&-") },
    Hold {
        name: "busy::mount",
        fault: "busy: a bind mount in another mount namespace",
        by: By::Apart("mount --bind \"$source\" \"$aside\"", "umount \"$aside\""),
    },
    Hold {
        name: "busy::loop_device",
        fault: "busy: a loop device on a file in the root",
        // The kernel detaches it at the last close, also when the shell is killed.
        by: By::Apart(
            "device=$(losetup --find --show \"$source/$file\" 2> /dev/null) && exec 8< \"$device\" && losetup --detach \"$device\"",
            "exec 8<&-",
        ),
    },
    Hold {
        name: "busy::overlay",
        fault: "busy: the lower layer of an overlay",
        by: By::Apart("mount -t overlay -o \"lowerdir=$source:/usr\" overlay \"$aside\"", "umount \"$aside\""),
    },
    Hold {
        name: "busy::overlay_by_link",
        fault: "busy: the lower layer of an overlay, named by a symbolic link",
        by: By::Apart(
            "ln -s \"$source\" \"$aside.link\" && mount -t overlay -o \"lowerdir=/usr:$aside.link\" overlay \"$aside\"",
            "umount \"$aside\" && rm \"$aside.link\"",
        ),
    },
];

/// Of file systems that are mounted nowhere before.
#[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
const MOUNTED: [Hold; 3] = [
    Hold {
        name: "busy::cwd",
        fault: "busy: mounted, with a process in it",
        by: By::Here("mount -i -t \"$kind\" \"$source\" \"$aside\" && cd \"$aside\"", "cd / && umount \"$aside\""),
    },
    Hold {
        name: "busy::file",
        fault: "busy: a file that is open on what was unmounted",
        by: By::Here(
            "mount -i -t \"$kind\" \"$source\" \"$aside\" && exec 9< \"$aside/$file\" && umount --lazy \"$aside\"",
            "exec 9<&-",
        ),
    },
    Hold {
        name: "busy::mount",
        fault: "busy: mounted in another mount namespace only",
        by: By::Apart("mount -i -t \"$kind\" \"$source\" \"$aside\"", "umount \"$aside\""),
    },
];

#[cfg(any(feature = "ceph", feature = "lvm"))]
const DEVICES: [Hold; 2] = [
    Hold { name: "busy::device", fault: "busy: a process has the device open", by: By::Here("exec 9< \"$source\"", "exec 9<&-") },
    Hold {
        name: "busy::loop_device",
        fault: "busy: a loop device on the device",
        by: By::Here(
            "device=$(losetup --find --show --read-only \"$source\" 2> /dev/null) && exec 8< \"$device\" && losetup --detach \"$device\"",
            "exec 8<&-",
        ),
    },
];

#[cfg(feature = "ceph")]
const IMAGES: [Hold; 2] = [
    Hold { name: "busy::mapping", fault: "busy: mapped on this host", by: By::Mapping },
    Hold { name: "busy::watcher", fault: "busy: a client of the cluster has the image open", by: By::Client },
];

/// The ways to hold a root of a backend.
pub(crate) fn holds(backend: Backend) -> Vec<&'static Hold> {
    match backend {
        #[cfg(feature = "ceph")]
        Backend::Ceph(_) => MOUNTED.iter().chain(&DEVICES).chain(&IMAGES).collect(),
        #[cfg(feature = "lvm")]
        Backend::Lvm => MOUNTED.iter().chain(&DEVICES).collect(),
        #[cfg(feature = "zfs")]
        Backend::Zfs => MOUNTED.iter().collect(),
        _ => FOLDERS.iter().collect(),
    }
}

/// Who holds a root, and lets go, when told to.
pub(crate) struct Holder {
    backend: Backend,
    volume: PathBuf,
    way: Way,
    shown: Option<Shown>,
}

enum Way {
    Shell(Shell),
    #[cfg(feature = "ceph")]
    Mapping,
    #[cfg(feature = "ceph")]
    Client,
}

impl Holder {
    pub(crate) fn new(backend: Backend, hold: &Hold, volume: PathBuf, aside: &Path, file: &str) -> Result<Self, String> {
        let way = match hold.by {
            By::Apart(begin, end) => {
                Way::Shell(Shell::new(&["unshare", "--mount", "--propagation", "private"], begin, end, aside, file)?)
            }
            #[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
            By::Here(begin, end) => Way::Shell(Shell::new(&["env"], begin, end, aside, file)?),
            #[cfg(feature = "ceph")]
            By::Mapping => Way::Mapping,
            #[cfg(feature = "ceph")]
            By::Client => Way::Client,
        };
        Ok(Holder { backend, volume, way, shown: None })
    }

    pub(crate) fn begin(&mut self) -> Result<(), String> {
        match &mut self.way {
            Way::Shell(shell) => {
                let shown = self.shown.insert(Shown::new(self.backend, &self.volume)?);
                shell.order("begin", shown)
            }
            #[cfg(feature = "ceph")]
            Way::Mapping => {
                self.shown = Some(Shown::new(self.backend, &self.volume)?);
                Ok(())
            }
            #[cfg(feature = "ceph")]
            Way::Client => others::open(&self.volume),
        }
    }

    /// All is as if nothing had been.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let shown = self.shown.take();
        match (&mut self.way, shown) {
            (Way::Shell(shell), Some(shown)) => shell.order("end", &shown),
            #[cfg(feature = "ceph")]
            (Way::Mapping, Some(_)) => Ok(()),
            #[cfg(feature = "ceph")]
            (Way::Client, _) => others::close(),
            (_, None) => Err("nothing was held".into()),
        }
    }
}

struct Shell {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Shell {
    fn new(through: &[&str], begin: &str, end: &str, aside: &Path, file: &str) -> Result<Self, String> {
        let script = format!(
            "echo ready; while read -r order && read -r source && read -r kind; do \
             case $order in begin) {begin} ;; end) {end} ;; esac && echo done || echo failed; done"
        );
        let mut command = Command::new(through[0]);
        command.args(&through[1..]).args(["sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("aside", aside).env("file", file);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut shell = Shell { child, answers };
        match shell.answer()?.as_str() {
            "ready" => Ok(shell),
            other => Err(format!("the shell says {other}")),
        }
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        Ok(line.trim().to_owned())
    }

    fn order(&mut self, order: &str, shown: &Shown) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(stdin, "{order}\n{}\n{}", shown.source.display(), shown.kind).map_err(|error| error.to_string())?;
        match self.answer()?.as_str() {
            "done" => Ok(()),
            other => Err(format!("{order}: {other}")),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
