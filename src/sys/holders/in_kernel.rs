//! Files that the kernel itself holds open: behind loop devices, and to swap to.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Found;
use crate::sys::mounts::unescape;
use crate::text::Escaped;
use crate::volume::Holder;

/// Adds the loop devices whose file is `inside`, which is shown the device's name and the file's path.
pub(super) fn add_devices(found: &mut Found, inside: impl Fn(&OsStr, &[u8]) -> bool) {
    let mut devices: Vec<_> = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    devices.sort();
    for device in devices.iter().filter(|device| device.as_bytes().starts_with(b"loop")) {
        let path = Path::new("/sys/block").join(device).join("loop/backing_file");
        let Ok(file) = fs::read(path) else { continue };
        let file = file.strip_suffix(b"\n").unwrap_or(&file);
        if inside(device, file) {
            let device = format!("/dev/{}", Escaped::from(device.as_os_str()));
            found.add(Holder::Device { device, file: Escaped(file).to_string() });
        }
    }
}

pub(super) fn add_swap_files(found: &mut Found, inside: impl Fn(&[u8]) -> bool) {
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    for file in swaps.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ' || byte == b'\t').next()) {
        let file = unescape(file);
        if inside(&file) {
            found.add(Holder::Other(format!("swap file {}", Escaped(&file))));
        }
    }
}
