//! Replaces the root volume of an instance by a fresh copy of an image, keeps everything else, and never leaves you with neither the old
//! root nor the new one.
//!
//! `reroot` is for container managers: link it, and `rebuild` is a call that either succeeds or leaves the instance as it was. The
//! managers we know of delete the old root first and create the new one after; a corrupt image, a full pool or a kill in the middle
//! then costs the user the instance. Here the new root is made *beside* the old one, checked, made durable, and switched to in one
//! step; only then does the old one go.
//!
//! ```no_run
//! # #[cfg(all(feature = "dir", feature = "tar"))]
//! # fn main() -> reroot::Result<()> {
//! use reroot::{Image, Rebuild, dir::DirVolume};
//!
//! let mut volume = DirVolume::open("/srv/pool/containers/c1")?;
//! let image = Image::open("debian-13.tar.zst")?;
//! let rebuild = Rebuild::new(image);
//! println!("{}", rebuild.plan(&volume)?);
//! match rebuild.run(&mut volume) {
//!     Ok(report) => println!("{report}"),
//!     // What failed, why, what state the volume is in, what to do.
//!     Err(error) => eprintln!("{}", error.report()),
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "dir", feature = "tar")))]
//! # fn main() {}
//! ```
//!
//! # What it does
//! - [`Rebuild`] replaces a volume's root: [`plan`](Rebuild::plan) shows what it would do, [`run`](Rebuild::run) does it.
//! - [`recover`] brings a volume back to exactly one complete root after a kill or a loss of power. Every rebuild begins with it.
//! - [`RebuildableVolume`] is what a backend implements; a third party can write another one, and run the `conformance` suite on it.
//! - [`Bases`] makes an image into a root once and clones it for every rebuild: by a snapshot on btrfs or LVM, or a clone on ZFS or Ceph, in milliseconds whatever its size.
//! - [`unpack`](mod@unpack) puts a tar stream on disk, faithful, contained and bounded. It is of use without the rest.
//!
//! # What it does not do
//! - It does not start or stop instances: a volume in use is refused, naming who holds it.
//! - It does not fetch images, and does not know registries: it reads a file, a pipe or a reader.
//! - It does not shrink, convert or migrate volumes.
//! - It has no async interface: the work is system calls that block. Give it a thread (`spawn_blocking`).
//! - It does not print, panic on input, exit, or hold global state; it spawns no thread that it does not join, and leaves no process. But where a cluster of
//!   Ceph does not answer, what the kernel goes on waiting for to unmap an image is left to a process, and what hangs in librbd or librados to a thread.
//! - It is for Linux. The `dir` backend and the unpacker need 5.6 or later for `openat2`, and `/proc`.
//! - It holds a lock on a volume for all processes of one machine, and knows nothing of other machines; but on Ceph, where the lock is in the cluster.
//!
//! # The one idea
//! A volume `c1` may exist under three names: `c1`, the live root; `c1.reroot-staged`, the new one while it is made; and
//! `c1.reroot-retired`, the old one on its way out. The staged root is complete and durable before the first rename, so which names exist
//! *is* the state, and there is no journal that could disagree with the disk. [`RecoverAction`] is the whole decision table.
//!
//! # Features
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `dir` | yes | the directory backend, [`dir`](mod@dir) |
//! | `btrfs` | | the btrfs backend, [`btrfs`](mod@btrfs) |
//! | `zfs` | | the ZFS backend, [`zfs`](mod@zfs); the libraries of ZFS are loaded at run time |
//! | `lvm` | | the LVM backend, [`lvm`](mod@lvm), on thin and on thick logical volumes |
//! | `ceph` | | the Ceph backend, [`ceph`](mod@ceph), on RBD images; the libraries of Ceph are loaded at run time |
//! | `tar` | yes | images that are tar streams |
//! | `gzip` | yes | the same, compressed by gzip |
//! | `zstd` | yes | the same, compressed by zstd |
//! | `xz` | | the same, compressed by xz, or as lzma |
//! | `bzip2` | | the same, compressed by bzip2 |
//! | `lz4` | | the same, compressed by lz4 |
//! | `squashfs` | | images that are squashfs files |
//! | `oci` | | images in layers: OCI image layouts and docker archives |
//! | `serde` | | `Serialize` on plans, reports, errors and the values they hold |
//! | `tracing` | | events for every phase and warning, under the target `reroot` |
//! | `conformance` | | the suite that every backend passes, and the manifests that compare two trees |
//!
//! Features are additive, and each compiles alone. None needs a C header, a library or a daemon to be
//! installed; `zstd` and `xz` bring C sources, which need a C compiler.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code, clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::expect_used, clippy::exit)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr))]

#[cfg(not(target_os = "linux"))]
compile_error!("reroot is for Linux");

#[cfg(feature = "tar")]
pub mod base;
mod base_name;
#[cfg(feature = "btrfs")]
pub mod btrfs;
#[cfg(feature = "ceph")]
pub mod ceph;
#[cfg(feature = "conformance")]
pub mod conformance;
mod digest;
#[cfg(feature = "dir")]
pub mod dir;
pub mod error;
#[cfg(any(feature = "ceph", feature = "lvm"))]
pub mod filesystem;
pub mod image;
#[cfg(test)]
#[path = "../tests/common/loopfs.rs"]
mod loopfs;
#[cfg(feature = "lvm")]
pub mod lvm;
mod progress;
#[cfg(any(feature = "btrfs", feature = "ceph", feature = "dir", feature = "lvm", feature = "zfs"))]
mod properties;
pub mod rebuild;
mod record;
#[cfg(any(feature = "ceph", feature = "lvm", feature = "zfs"))]
mod run_lock;
#[cfg(any(feature = "btrfs", feature = "dir"))]
mod siblings;
mod size;
mod sys;
mod text;
mod trace;
#[cfg(feature = "tar")]
pub mod unpack;
pub mod volume;
#[cfg(feature = "zfs")]
pub mod zfs;

#[cfg(feature = "tar")]
#[doc(inline)]
pub use base::{Base, Bases};
pub use base_name::BaseName;
pub use digest::Sha256;
#[doc(inline)]
pub use error::{Error, ErrorKind, Outcome, Result, Space};
#[doc(inline)]
pub use image::Image;
pub use progress::{CancelToken, Event, Phase, Progress, Wait};
#[doc(inline)]
pub use rebuild::{Dispose, Plan, Rebuild, RecoverAction, Recovery, Report, SnapshotPolicy, Strategy, Survey, recover};
pub use record::{Contents, ImageRecord, Origin, Top};
pub use size::ByteSize;
pub use sys::lock::FileLock;
#[cfg(feature = "tar")]
#[doc(inline)]
pub use unpack::{DevicePolicy, IdMap, IdShift, Limits, LossPolicy};
#[doc(inline)]
pub use volume::RebuildableVolume;
