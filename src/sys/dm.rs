//! What device-mapper says of a device: asked of the kernel in one call, where a command would take tens of milliseconds. Nothing is changed.
//!
//! See linux/dm-ioctl.h, and `thin-provisioning.rst` of the kernel's documentation for what thin targets say.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::call::retry;

const CONTROL: &str = "/dev/mapper/control";
const NAME: usize = 128;
const UUID: usize = 129;
/// What the answers that are asked for here need, many times over.
const ANSWER: usize = 4096;

const SUSPENDED: u32 = 1 << 1;
const TABLE_EXISTS: u32 = 1 << 5;
/// A pool that is asked does not write its metadata first.
const DO_NOT_FLUSH: u32 = 1 << 11;

/// `struct dm_ioctl`, with room for the answer behind it.
#[repr(C, align(8))]
struct Request {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME],
    uuid: [u8; UUID],
    data: [u8; 7],
    answer: [u8; ANSWER],
}

const HEADER: u32 = (size_of::<Request>() - ANSWER) as u32;
const DEVICE_STATUS: libc::c_ulong = number(7);
const TABLE_STATUS: libc::c_ulong = number(12);

/// `_IOWR(DM_IOCTL, COMMAND, struct dm_ioctl)`.
const fn number(command: libc::c_ulong) -> libc::c_ulong {
    3 << 30 | (HEADER as libc::c_ulong) << 16 | 0xfd << 8 | command
}

/// A device that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) number: libc::dev_t,
    /// How many have it open, mounts among them.
    pub(crate) openers: u32,
    /// What is read or written there waits until it is resumed.
    pub(crate) suspended: bool,
}

/// The space of a thin pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) chunk: u64,
    pub(crate) data_free: u64,
    pub(crate) data_total: u64,
    pub(crate) metadata_free: u64,
    pub(crate) metadata_total: u64,
    pub(crate) mode: Mode,
}

/// What a thin pool still does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Writable,
    OutOfData,
    /// Out of metadata space, or its metadata has to be checked.
    ReadOnly,
    Failed,
}

/// The device of this name; `None` if there is none.
pub(crate) fn state(name: &str) -> io::Result<Option<State>> {
    let Some(request) = ask(DEVICE_STATUS, name)? else { return Ok(None) };
    // A name without a table is a device that is being made or removed.
    if request.flags & TABLE_EXISTS == 0 {
        return Ok(None);
    }
    Ok(Some(State {
        number: wide(request.dev),
        openers: u32::try_from(request.open_count).unwrap_or_default(),
        suspended: request.flags & SUSPENDED != 0,
    }))
}

/// The thin pool that this device is; `None` if there is no such device, or it is none.
pub(crate) fn pool(name: &str) -> io::Result<Option<Pool>> {
    Ok(target(name)?.and_then(|target| parse_pool(&target)))
}

/// How many bytes of a thin volume are mapped; `None` as for [`pool`].
pub(crate) fn mapped(name: &str) -> io::Result<Option<u64>> {
    let Some(target) = target(name)?.filter(|target| target.kind == "thin") else { return Ok(None) };
    let sectors = target.status.split(' ').next().and_then(|sectors| sectors.parse::<u64>().ok());
    Ok(sectors.map(|sectors| sectors.saturating_mul(512)))
}

/// The numbers of devices that the kernel hands out are 32 bits long there.
fn wide(dev: u64) -> libc::dev_t {
    let (major, minor) = (dev >> 8 & 0xfff, dev & 0xff | dev >> 12 & 0xfff00);
    libc::makedev(major as libc::c_uint, minor as libc::c_uint)
}

/// The first target of a device, and what it says.
#[derive(Debug)]
struct Target {
    kind: String,
    sectors: u64,
    status: String,
}

fn target(name: &str) -> io::Result<Option<Target>> {
    let Some(request) = ask(TABLE_STATUS, name)? else { return Ok(None) };
    Ok(if request.target_count == 0 { None } else { parse_target(&request.answer) })
}

/// Reads a `struct dm_target_spec` and the text behind it.
fn parse_target(answer: &[u8]) -> Option<Target> {
    const SPEC: usize = 40;
    const KIND: usize = 24;
    let sectors = u64::from_ne_bytes(answer.get(8..16)?.try_into().ok()?);
    let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next()?).into_owned());
    Some(Target { kind: text(answer.get(KIND..SPEC)?)?, sectors, status: text(answer.get(SPEC..)?)? })
}

fn parse_pool(target: &Target) -> Option<Pool> {
    const METADATA_BLOCK: u64 = 4096;
    if target.kind != "thin-pool" {
        return None;
    }
    let failed = Pool { chunk: 0, data_free: 0, data_total: 0, metadata_free: 0, metadata_total: 0, mode: Mode::Failed };
    let mut words = target.status.split(' ').skip(1);
    let mut fraction = || {
        let (used, total) = words.next()?.split_once('/')?;
        Some((used.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
    };
    let (Some((metadata_used, metadata)), Some((data_used, data))) = (fraction(), fraction()) else { return Some(failed) };
    let chunk = target.sectors.saturating_mul(512).checked_div(data).unwrap_or_default();
    let mode = match words.nth(1) {
        Some("rw") => Mode::Writable,
        Some("out_of_data_space") => Mode::OutOfData,
        Some("ro") => Mode::ReadOnly,
        _ => Mode::Failed,
    };
    Some(Pool {
        chunk,
        data_free: data.saturating_sub(data_used).saturating_mul(chunk),
        data_total: data.saturating_mul(chunk),
        metadata_free: metadata.saturating_sub(metadata_used).saturating_mul(METADATA_BLOCK),
        metadata_total: metadata.saturating_mul(METADATA_BLOCK),
        mode,
    })
}

/// Asks about a device by its name. `None`: there is none, or no device-mapper.
fn ask(command: libc::c_ulong, name: &str) -> io::Result<Option<Box<Request>>> {
    let control = match File::options().read(true).write(true).open(CONTROL) {
        Ok(control) => control,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut request = Box::new(Request {
        version: [4, 0, 0],
        data_size: size_of::<Request>() as u32,
        data_start: HEADER,
        target_count: 0,
        open_count: 0,
        flags: DO_NOT_FLUSH,
        event: 0,
        padding: 0,
        dev: 0,
        name: [0; NAME],
        uuid: [0; UUID],
        data: [0; 7],
        answer: [0; ANSWER],
    });
    // One longer is that of no device; the last byte stays a NUL.
    match request.name.get_mut(..name.len()).filter(|place| place.len() < NAME) {
        Some(place) => place.copy_from_slice(name.as_bytes()),
        None => return Ok(None),
    }
    let done = retry(|| {
        // SAFETY: the kernel reads and writes no more than `data_size` bytes, which is the size of what is lent to it.
        let result = unsafe { libc::ioctl(control.as_raw_fd(), command as _, &raw mut *request) };
        Errno::result(result)
    });
    match done {
        Ok(_) => Ok(Some(request)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_that_the_kernel_expects() {
        assert_eq!((HEADER, DEVICE_STATUS, TABLE_STATUS), (312, 0xc138_fd07, 0xc138_fd0c));
    }

    #[test]
    fn what_pools_say_is_understood() {
        let pool = |status: &str| parse_pool(&Target { kind: "thin-pool".into(), sectors: 8192, status: status.into() }).unwrap();
        let well = pool("1 14/1024 5/64 - rw discard_passdown queue_if_no_space - 1024");
        assert_eq!((well.chunk, well.data_free, well.data_total), (65536, 59 * 65536, 64 * 65536));
        assert_eq!((well.metadata_free, well.metadata_total, well.mode), (1010 * 4096, 1024 * 4096, Mode::Writable));
        let full = pool("1 14/1024 64/64 - out_of_data_space discard_passdown error_if_no_space - 1024");
        assert_eq!((full.data_free, full.mode), (0, Mode::OutOfData));
        assert_eq!(pool("1 1024/1024 5/64 - ro discard_passdown queue_if_no_space needs_check 1024").mode, Mode::ReadOnly);
        assert_eq!(pool("Fail").mode, Mode::Failed);
        let other = Target { kind: "linear".into(), sectors: 8, status: String::new() };
        assert_eq!(parse_pool(&other), None);
    }

    #[test]
    fn targets_are_read_as_the_kernel_writes_them() {
        let mut answer = vec![0; 64];
        answer[8..16].copy_from_slice(&2048u64.to_ne_bytes());
        answer[24..28].copy_from_slice(b"thin");
        answer[40..48].copy_from_slice(b"128 2047");
        let target = parse_target(&answer).unwrap();
        assert_eq!((target.kind.as_str(), target.sectors, target.status.as_str()), ("thin", 2048, "128 2047"));
        assert!(parse_target(&answer[..10]).is_none());
    }

    #[test]
    fn numbers_of_devices_are_widened() {
        assert_eq!(wide(253 << 8 | 7), libc::makedev(253, 7));
        assert_eq!(wide(0x0010_fd01), libc::makedev(253, 0x101));
    }
}
