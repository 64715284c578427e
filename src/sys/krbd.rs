//! The kernel's client of RBD: images as block devices, mapped and unmapped through `/sys/bus/rbd`.
//!
//! See Documentation/ABI/testing/sysfs-bus-rbd in the kernel's sources. The `rbd` command does the same in a process that logs in to the cluster first,
//! and waits for udev.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apart::{self, Late, Write};
use super::kernel_key::Key;

const BUS: &str = "/sys/bus/rbd";
const DEVICES: &str = "/sys/bus/rbd/devices";

/// What an image is mapped by.
pub(crate) struct Request<'a> {
    /// Addresses of monitors with commas between: `10.0.0.1:6789`.
    pub(crate) monitors: &'a str,
    /// Without `client.`.
    pub(crate) user: &'a str,
    /// The user's key, as the cluster hands it out: decoded. `None` in a cluster that asks for none.
    pub(crate) key: Option<&'a [u8]>,
    /// Options of the kernel's, with commas between.
    pub(crate) options: &'a str,
    pub(crate) pool: &'a str,
    /// Empty for the default one.
    pub(crate) namespace: &'a str,
    pub(crate) image: &'a str,
    /// The kernel goes by the name: whose that has to be.
    pub(crate) id: &'a str,
    pub(crate) snapshot: Option<&'a str>,
}

/// An image that is mapped on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) id: u32,
    /// The instance of the client in its cluster: what the cluster calls it among those who watch an image.
    pub(crate) client: u64,
    /// The client's address, as a blocklist wants it.
    pub(crate) address: Option<String>,
    pub(crate) fsid: String,
    pub(crate) pool: i64,
    pub(crate) image: String,
    /// `-` where the image itself is mapped.
    pub(crate) snapshot: String,
    /// What it was mapped with.
    config: String,
}

impl Mapping {
    pub(crate) fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/rbd{}", self.id))
    }

    /// Whether it was mapped with this option.
    pub(crate) fn has_option(&self, option: &str) -> bool {
        self.config.split(' ').nth(1).is_some_and(|options| options.split(',').any(|one| one == option))
    }

    /// The number of its device.
    pub(crate) fn number(&self) -> Option<libc::dev_t> {
        let text = fs::read_to_string(format!("/sys/block/rbd{}/dev", self.id)).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// Whether the kernel has the client.
pub(crate) fn is_there() -> bool {
    Path::new(BUS).is_dir()
}

/// The features of images that the kernel can map, as bits; those of Linux 4.17 if it does not tell.
pub(crate) fn features() -> u64 {
    let text = fs::read_to_string(format!("{BUS}/supported_features")).unwrap_or_default();
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0x85)
}

/// All images that are mapped on this host.
pub(crate) fn mappings() -> io::Result<Vec<Mapping>> {
    let entries = match fs::read_dir(DEVICES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        // One that goes meanwhile is not mapped.
        if let Some(mapping) = entry?.file_name().to_str().and_then(|id| read(id.parse().ok()?)) {
            found.push(mapping);
        }
    }
    found.sort_by_key(|mapping| mapping.id);
    Ok(found)
}

fn read(id: u32) -> Option<Mapping> {
    let value = |name: &str| Some(fs::read_to_string(format!("{DEVICES}/{id}/{name}")).ok()?.trim_end_matches('\n').to_owned());
    Some(Mapping {
        id,
        client: value("client_id")?.strip_prefix("client")?.parse().ok()?,
        address: value("client_addr"),
        fsid: value("cluster_fsid")?,
        pool: value("pool_id")?.parse().ok()?,
        image: value("image_id")?,
        snapshot: value("current_snap")?,
        config: value("config_info")?,
    })
}

/// Maps an image. Most that waits for the cluster ends by the options `mount_timeout` and `osd_request_timeout`; the watch on an image that can be written to does not, and
/// is given up after `limit`. The lock is held for as long as the kernel is at it, also where this process is killed.
///
/// Nobody else may map the same image in the same way at the same time, or one could be taken for the other.
///
/// # Errors
/// Those of the kernel: `ENXIO` for features that it does not know, `EROFS` for one that is locked, `ETIMEDOUT`, and `ENOENT`, also where the name was another image's by then.
pub(crate) fn map(request: &Request<'_>, lock: BorrowedFd<'_>, limit: Duration) -> io::Result<Mapping> {
    let name = format!("client.{}", request.user);
    let key = request.key.map(|key| Key::new("ceph", &name, key)).transpose()?;
    let mut options = format!("name={}", request.user);
    if key.is_some() {
        options.push_str(&format!(",key={name}"));
    }
    if !request.namespace.is_empty() {
        options.push_str(&format!(",_pool_ns={}", request.namespace));
    }
    options.push_str(request.options);
    let (pool, image, snapshot) = (request.pool, request.image, request.snapshot.unwrap_or("-"));
    let config = format!("{} {options} {pool} {image} {snapshot}", request.monitors);
    // A number is used again at once, so others' mappings tell nothing.
    let alike = |mapping: &Mapping| mapping.config == config;
    let before: Vec<u32> = mappings()?.iter().filter(|mapping| alike(mapping)).map(|mapping| mapping.id).collect();
    let file = open("add")?;
    let again = (0, Duration::ZERO);
    apart::write(&Write {
        file: &file,
        text: config.as_bytes(),
        key: key.as_ref(),
        lock: Some(lock),
        limit,
        again,
        late: Late::End,
    })?;
    let mut new = mappings()?.into_iter().filter(|mapping| alike(mapping) && !before.contains(&mapping.id));
    let mapping = new.next().ok_or_else(|| io::Error::other("the kernel mapped it, and shows no device"))?;
    if mapping.image != request.id {
        unmap(mapping.id, lock, again, limit)?;
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    Ok(mapping)
}

/// Unmaps it, and tries again as often, and after so long, while its device is open.
///
/// The kernel gives back its watch and its lock on an image that could be written to, and waits for the cluster without heeding a signal: after `limit` that is left to
/// go on, and is done when the cluster answers.
///
/// # Errors
/// `EBUSY` while its device is open, `ETIMEDOUT` if the cluster does not answer.
pub(crate) fn unmap(id: u32, lock: BorrowedFd<'_>, again: (u32, Duration), limit: Duration) -> io::Result<()> {
    let file = open("remove")?;
    let text = id.to_string();
    match apart::write(&Write { file: &file, text: text.as_bytes(), key: None, lock: Some(lock), limit, again, late: Late::GoOn }) {
        Err(error) => match error.raw_os_error() {
            // It is gone.
            Some(libc::ENOENT | libc::EINVAL) => Ok(()),
            // Another call is at it, and waits.
            Some(libc::EINPROGRESS) => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            _ => Err(error),
        },
        done => done,
    }
}

/// Devices share a major number where the module was told so, which is the default.
fn open(file: &str) -> io::Result<File> {
    let open = |name: &str| File::options().write(true).open(format!("{BUS}/{name}"));
    match open(&format!("{file}_single_major")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(file),
        file => file,
    }
}
