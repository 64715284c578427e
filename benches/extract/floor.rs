//! What no one can go below: the processor time of decompressing alone, of making the same tree from memory alone, and what the tar crate
//! does for who calls its `unpack`.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::resource::UsageWho;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, futimens, makedev, mkdirat, mknodat, umask, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use tar::EntryType;
use xattr::FileExt;

use crate::measure::{print, used};

type Failure = Box<dyn std::error::Error>;

/// The tar stream in a file, decompressed by the same crates that the library uses.
fn decoder(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(128 << 10, File::open(path)?);
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("zst") => Box::new(zstd::Decoder::with_buffer(file)?),
        Some("gz") => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        #[cfg(feature = "xz")]
        Some("xz") => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file)),
        Some("tar") => Box::new(file),
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "no tar stream that this build decompresses")),
    })
}

/// The mode `decode IMAGE`.
pub(crate) fn decode(image: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let mut decoder = decoder(image)?;
    let mut buffer = vec![0; 1 << 20];
    while decoder.read(&mut buffer)? != 0 {}
    Ok(print(start.elapsed().as_secs_f64(), UsageWho::RUSAGE_SELF, (0.0, 0.0))?)
}

/// The mode `tar-crate IMAGE DIRECTORY`.
pub(crate) fn tar_crate(image: &Path, directory: &Path) -> Result<(), Failure> {
    let mut archive = tar::Archive::new(decoder(image)?);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    Ok(archive.unpack(directory)?)
}

struct Item {
    /// How many directories are above it, the root not counted.
    depth: usize,
    name: PathBuf,
    kind: EntryType,
    mode: Mode,
    owner: (u32, u32),
    time: TimeSpec,
    device: (u32, u32),
    target: PathBuf,
    data: Vec<u8>,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// The mode `create IMAGE DIRECTORY`: all entries are read into memory, and then the tree is made by one thread with the fewest calls we know
/// of. Only the making is measured. ACLs and the holes of sparse files, of which there are a handful, are left out.
pub(crate) fn create(image: &Path, directory: &Path) -> Result<(), Failure> {
    let items = load(image)?;
    let before = used()?;
    let start = Instant::now();
    make(&items, File::open(directory)?.into())?;
    Ok(print(start.elapsed().as_secs_f64(), UsageWho::RUSAGE_SELF, before)?)
}

fn load(image: &Path) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::new();
    let mut archive = tar::Archive::new(decoder(image)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path: PathBuf = entry.path()?.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let Some(name) = path.file_name() else { continue };
        if path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"GNUSparseFile.")) {
            continue;
        }
        let header = entry.header();
        let mut item = Item {
            depth: path.components().count() - 1,
            name: name.into(),
            kind: header.entry_type(),
            mode: Mode::from_bits_truncate(header.mode()?),
            owner: (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?),
            time: TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(0), 0),
            device: (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0)),
            target: entry.link_name()?.map(|target| target.strip_prefix("./").unwrap_or(&target).to_owned()).unwrap_or_default(),
            data: Vec::new(),
            xattrs: Vec::new(),
        };
        for record in entry.pax_extensions()?.into_iter().flatten() {
            // The crate takes a newline in a value for its end; the one file that has such an attribute goes without.
            let Ok(record) = record else { break };
            match record.key()? {
                "mtime" => item.time = time(record.value()?)?,
                "uid" => item.owner.0 = record.value()?.parse()?,
                "gid" => item.owner.1 = record.value()?.parse()?,
                key => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        item.xattrs.push((name.to_owned(), record.value_bytes().to_vec()));
                    }
                }
            }
        }
        entry.read_to_end(&mut item.data)?;
        items.push(item);
    }
    Ok(items)
}

/// `-1.5` as PAX has it.
fn time(text: &str) -> Result<TimeSpec, Failure> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds: i64 = format!("{fraction:0<9}").get(..9).unwrap_or("0").parse()?;
    let seconds: i64 = whole.parse()?;
    let negative = whole.starts_with('-') && nanoseconds > 0;
    Ok(if negative { TimeSpec::new(seconds - 1, 1_000_000_000 - nanoseconds) } else { TimeSpec::new(seconds, nanoseconds) })
}

fn make(items: &[Item], root: OwnedFd) -> Result<(), Failure> {
    umask(Mode::empty());
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // In the order of the archive, which is depth first: the directories above the current entry, the root first.
    let mut above = vec![(root, None)];
    for item in items {
        leave(&mut above, item.depth + 1)?;
        let (parent, _) = above.get(item.depth).ok_or("an entry before its directory")?;
        let name = item.name.as_path();
        let own = (item.owner != (0, 0)).then(|| (Uid::from_raw(item.owner.0), Gid::from_raw(item.owner.1)));
        match item.kind {
            EntryType::Directory => {
                mkdirat(parent, name, item.mode)?;
                let made = openat(parent, name, directory, Mode::empty())?;
                if let Some((uid, gid)) = own {
                    fchown(&made, Some(uid), Some(gid))?;
                }
                let special = Mode::S_ISUID | Mode::S_ISGID | Mode::S_ISVTX;
                if item.mode.intersects(special) {
                    fchmod(&made, item.mode)?;
                }
                let made = File::from(made);
                set_xattrs(&made, item)?;
                above.push((made.into(), Some(item.time)));
                continue;
            }
            EntryType::Symlink => symlinkat(item.target.as_path(), parent, name)?,
            EntryType::Link => {
                linkat(&above[0].0, item.target.as_path(), parent, name, AtFlags::empty())?;
                continue;
            }
            EntryType::Char => {
                mknodat(parent, name, SFlag::S_IFCHR, item.mode, makedev(item.device.0.into(), item.device.1.into()))?
            }
            EntryType::Block => {
                mknodat(parent, name, SFlag::S_IFBLK, item.mode, makedev(item.device.0.into(), item.device.1.into()))?
            }
            EntryType::Fifo => mknodat(parent, name, SFlag::S_IFIFO, item.mode, 0)?,
            _ => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, item.mode)?);
                file.write_all(&item.data)?;
                if let Some((uid, gid)) = own {
                    fchown(&file, Some(uid), Some(gid))?;
                    if item.mode.intersects(Mode::S_ISUID | Mode::S_ISGID) {
                        fchmod(&file, item.mode)?;
                    }
                }
                set_xattrs(&file, item)?;
                futimens(&file, &item.time, &item.time)?;
                continue;
            }
        }
        if let Some((uid, gid)) = own {
            fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        utimensat(parent, name, &item.time, &item.time, UtimensatFlags::NoFollowSymlink)?;
    }
    leave(&mut above, 1)
}

/// Leaves directories until `depth` are left, and gives them their times.
fn leave(above: &mut Vec<(OwnedFd, Option<TimeSpec>)>, depth: usize) -> Result<(), Failure> {
    for (directory, time) in above.drain(depth.min(above.len())..).rev() {
        if let Some(time) = time {
            futimens(directory.as_fd(), &time, &time)?;
        }
    }
    Ok(())
}

fn set_xattrs(file: &File, item: &Item) -> io::Result<()> {
    item.xattrs.iter().try_for_each(|(name, value)| file.set_xattr(name, value))
}
