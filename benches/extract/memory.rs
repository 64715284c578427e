//! How much memory an unpacking takes at its peak, as `/usr/bin/time -v` sees it: of the real images, of one file of 10 GiB, and of two
//! million tiny ones.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tar::{Builder, EntryType, Header};

use crate::cases::{Case, Programs};
use crate::loopfs::Kind;
use crate::runs::fresh;

type Failure = Box<dyn std::error::Error>;

/// What the library promises, in MiB: for any image, and where xz decodes in parallel.
const MOST: f64 = 64.0;
const MOST_XZ: f64 = 192.0;

const LARGE: u64 = 10 << 30;
const MANY: u64 = 2_000_000;

pub(crate) fn main(programs: &Programs, images: &[(Case, std::path::PathBuf)], disk: &Path) -> Result<(), Failure> {
    println!("\n### Peak memory\n\n| image | seconds | peak MiB | at most | met |\n| --- | --- | --- | --- | --- |");
    for (case, image) in images {
        let place = fresh(Kind::Tmpfs, case.root)?;
        let root = place.path().join("root");
        fs::create_dir(&root)?;
        let most = if case.file.ends_with(".xz") { MOST_XZ } else { MOST };
        show(&format!("{} {}", case.root.name(), case.file), measure(programs, image, &root)?, most);
    }
    let folder = tempfile::Builder::new().prefix("reroot-memory-").tempdir_in(disk)?;
    let image = folder.path().join("image.tar.zst");
    large(&image)?;
    let root = folder.path().join("large");
    fs::create_dir(&root)?;
    let figures = measure(programs, &image, &root)?;
    if root.join("large").metadata()?.len() != LARGE {
        return Err("the large file is not as large as it has to be".into());
    }
    show("one file of 10 GiB", figures, MOST);
    fs::remove_dir_all(&root)?;
    many(&image)?;
    let root = folder.path().join("many");
    fs::create_dir(&root)?;
    let figures = measure(programs, &image, &root)?;
    let mut found = 0;
    for directory in fs::read_dir(&root)? {
        let directory = directory?.path();
        for file in fs::read_dir(directory)? {
            found += u64::from(file?.metadata()?.size() == 5);
        }
    }
    if found != MANY {
        return Err(format!("{found} tiny files, not {MANY}").into());
    }
    show("2,000,000 files of 5 bytes", figures, MOST);
    Ok(())
}

fn show(what: &str, (seconds, peak): (f64, f64), most: f64) {
    let met = if peak <= most { "yes" } else { "**no**" };
    println!("| {what} | {seconds:.1} | {peak:.1} | {most} | {met} |");
}

/// Seconds and MiB.
fn measure(programs: &Programs, image: &Path, root: &Path) -> Result<(f64, f64), Failure> {
    let start = std::time::Instant::now();
    let output = Command::new("/usr/bin/time").env("LC_ALL", "C").arg("-v").arg(&programs.unpack).args([image, root]).output();
    let output = output.map_err(|error| format!("/usr/bin/time, of the package time: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}: {said}", image.display()).into());
    }
    let peak = said.lines().find_map(|line| line.trim().strip_prefix("Maximum resident set size (kbytes): "));
    let peak: f64 = peak.ok_or("/usr/bin/time says nothing of memory")?.parse()?;
    Ok((start.elapsed().as_secs_f64(), peak / 1024.0))
}

fn archive(image: &Path) -> io::Result<Builder<zstd::stream::write::AutoFinishEncoder<'static, File>>> {
    Ok(Builder::new(zstd::Encoder::new(File::create(image)?, 1)?.auto_finish()))
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header
}

fn large(image: &Path) -> io::Result<()> {
    let mut archive = archive(image)?;
    archive.append_data(&mut header(LARGE), "large", Pattern(0).take(LARGE))?;
    archive.finish()
}

fn many(image: &Path) -> io::Result<()> {
    let mut archive = archive(image)?;
    for number in 0..MANY {
        let path = format!("{}/{number}", number / 1000);
        archive.append_data(&mut header(5), path, &b"tiny\n"[..])?;
    }
    archive.finish()
}

/// Bytes that are no hole and yet take next to nothing when compressed.
struct Pattern(u8);

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *buffer {
            self.0 = self.0.wrapping_add(7);
            *byte = self.0;
        }
        Ok(buffer.len())
    }
}
