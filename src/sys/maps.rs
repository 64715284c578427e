//! Which files a process has mapped, [proc_pid_maps(5)](https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html).

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::call::retry;
use super::mounts::{Device, numbers, unescape};

/// How much is read of a text.
const TEXT_MAX: u64 = 8 << 20;
/// How many mappings are asked for.
const MAPPINGS_MAX: usize = 1 << 18;
const PATH_MAX: usize = 4096;

const COVERING_OR_NEXT: u64 = 0x10;
const FILE_BACKED: u64 = 0x20;

/// `struct procmap_query` of linux/fs.h.
#[repr(C)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: Device,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// Shows `inside` the paths of the files that are mapped, and returns its first answer. `maps` is an open file `/proc/PID/maps`.
///
/// Files elsewhere than on one of `devices` are passed over, unless there are none. Where the kernel can be asked for a mapping at a time
/// (Linux 6.11), that costs a fraction of the text.
pub(super) fn find<T>(maps: File, devices: &[Device], inside: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    match ask(maps.as_fd(), devices, &inside) {
        Ok(found) => found,
        Err(Errno::ENOTTY) => find_in_text(maps, devices, inside),
        // The process has ended, or may not be looked at.
        Err(_) => None,
    }
}

fn ask<T>(maps: BorrowedFd<'_>, devices: &[Device], inside: &impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, Errno> {
    let mut path = [0u8; PATH_MAX];
    let mut address = 0;
    for _ in 0..MAPPINGS_MAX {
        let mapping = match query(maps, address, &mut []) {
            Ok(mapping) => mapping,
            Err(Errno::ENOENT) => break,
            Err(error) => return Err(error),
        };
        address = mapping.end;
        // By the device alone: on btrfs two files of it may have the same number, the clones of a base all do.
        if !devices.is_empty() && !devices.contains(&mapping.device) {
            continue;
        }
        let length = match query(maps, mapping.start, &mut path) {
            Ok(named) => named.name_size as usize,
            // Longer than any that could be of use, or gone again.
            Err(Errno::ENOENT | Errno::ENAMETOOLONG | Errno::E2BIG) => continue,
            Err(error) => return Err(error),
        };
        // It counts the NUL.
        if let Some(found) = path.get(..length.saturating_sub(1)).and_then(inside) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The first mapping of a file at `address` or after, with its path if there is room for one.
fn query(maps: BorrowedFd<'_>, address: u64, path: &mut [u8]) -> Result<Query, Errno> {
    let mut query = Query {
        size: size_of::<Query>() as u64,
        flags: COVERING_OR_NEXT | FILE_BACKED,
        address,
        start: 0,
        end: 0,
        vma_flags: 0,
        page_size: 0,
        offset: 0,
        inode: 0,
        device: [0; 2],
        name_size: path.len() as u32,
        build_id_size: 0,
        name: if path.is_empty() { 0 } else { path.as_mut_ptr() as usize as u64 },
        build_id: 0,
    };
    let request = nix::request_code_readwrite!(b'f', 17, size_of::<Query>());
    retry(|| {
        // SAFETY: the request wants a `Query`, which says its own size; the path it points to has room for what it says and lives through the
        // call.
        let result = unsafe { libc::ioctl(maps.as_raw_fd(), request as _, &raw mut query) };
        Errno::result(result)
    })?;
    Ok(query)
}

fn find_in_text<T>(maps: impl Read, devices: &[Device], inside: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    // When the process ends meanwhile, this read and every further one fail.
    let mut lines = BufReader::new(maps.take(TEXT_MAX)).split(b'\n').map_while(Result::ok);
    lines.find_map(|line| {
        // Address, rights, offset, device.
        let device = line.split(|&byte| byte == b' ').nth(3).and_then(|device| numbers(device, 16));
        if !devices.is_empty() && !device.is_some_and(|device| devices.contains(&device)) {
            return None;
        }
        // Paths are the only field that holds a slash.
        let start = line.iter().position(|&byte| byte == b'/')?;
        inside(&unescape(line.get(start..)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_while_it_is_looked_at_is_passed_over() {
        struct Gone;
        impl Read for Gone {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from_raw_os_error(libc::ESRCH))
            }
        }
        let maps = b"00-10 r-xp 0 08:01 1 /srv/c1/bin/sh\n".chain(Gone);
        let inside = |path: &[u8]| path.strip_prefix(b"/srv/c1/").map(<[u8]>::to_vec);
        assert_eq!(find_in_text(maps, &[[8, 1]], inside), Some(b"bin/sh".to_vec()));
        assert_eq!(find_in_text(Gone, &[], inside), None);
    }

    #[test]
    fn files_on_other_devices_are_passed_over() {
        let text = b"00-10 r-xp 0 08:01 1 /srv/a\n10-20 rw-p 0 00:00 0 \n20-30 rw-p 0 00:2a 1 /srv/b (deleted)\n";
        let found = |devices: &[Device]| find_in_text(&text[..], devices, |path| Some(path.to_vec()));
        assert_eq!(found(&[]), Some(b"/srv/a".to_vec()));
        assert_eq!(found(&[[9, 9], [0, 42]]), Some(b"/srv/b (deleted)".to_vec()));
        assert_eq!(found(&[[0, 0]]), None, "what is no file has no path");
    }

    #[test]
    fn the_kernel_says_of_a_mapping_what_its_text_says() {
        let maps = || File::open("/proc/self/maps").unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.as_os_str().as_encoded_bytes();
        let is_program = |path: &[u8]| (path == program).then_some(());
        assert_eq!(find_in_text(maps(), &[], is_program), Some(()));
        let line = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = line.lines().find(|line| line.ends_with(std::str::from_utf8(program).unwrap())).unwrap().to_owned();
        let device = line.split_ascii_whitespace().nth(3).unwrap();
        let device = numbers(device.as_bytes(), 16).unwrap();
        assert_eq!(find_in_text(maps(), &[device], is_program), Some(()));
        match ask(maps().as_fd(), &[device], &is_program) {
            Err(Errno::ENOTTY) => println!("the kernel is older than 6.11: only the text was tried"),
            found => assert_eq!(found, Ok(Some(()))),
        }
        let other = ask(maps().as_fd(), &[[u32::MAX, 0]], &is_program);
        assert!(matches!(other, Err(Errno::ENOTTY) | Ok(None)), "{other:?}");
    }
}
