//! What an item costs, by how many there are: it has to stay the same. `cargo bench --all-features --bench linear` prints the table.
//!
//! Archives and trees are in memory, so that nothing but the unpacking and the kernel shows.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use reroot::unpack::{NoHooks, UnpackOptions, unpack};
use tar::{Builder, EntryType, Header};

type Failure = Box<dyn std::error::Error>;
type Archive = Builder<Vec<u8>>;

/// Writes an archive of so many items, and returns how many entries it has.
type Make = fn(usize, &mut Archive) -> Result<u64, Failure>;

/// Each is run so often; the best one counts, for what disturbs can only add.
const ROUNDS: usize = 3;

const CASES: &[(&str, &str, Make, &[usize])] = &[
    ("empty files", "file", files, &[10_000, 100_000, 1_000_000]),
    ("hard links to one file", "link", links, &[1_000, 10_000, 100_000]),
    ("directories inside each other, of which only the last has an entry", "level", implied, &[100, 1_000, 2_000]),
    ("directories inside each other, each with an entry, which names all above it", "level", nested, &[100, 1_000, 2_000]),
    ("attributes of each of 1,000 files", "attribute", attributes, &[1, 10, 100]),
];

/// So many towers of directories, for one alone is done too soon to be measured.
const TOWERS: usize = 10;
const FILES: usize = 1_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    println!("In {}, the best of {ROUNDS}.\n", place.display());
    println!(
        "| what | how many | seconds | processor s | processor µs each | against the fewest |\n| --- | --- | --- | --- | --- | --- |"
    );
    for &(what, item, make, counts) in CASES {
        let mut first = None;
        for &count in counts {
            let mut archive = Builder::new(Vec::new());
            let entries = make(count, &mut archive)?;
            let archive = archive.into_inner()?;
            let (mut wall, mut processor) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..ROUNDS {
                let took = once(&archive, entries, &place)?;
                (wall, processor) = (wall.min(took.0), processor.min(took.1));
            }
            let items = match item {
                "level" => count * TOWERS,
                "attribute" => count * FILES,
                _ => count,
            };
            let each = processor / items as f64 * 1e6;
            let ratio = each / *first.get_or_insert(each);
            println!("| {what} | {count} | {wall:.3} | {processor:.3} | {each:.2} | {ratio:.2} |");
        }
    }
    Ok(())
}

/// Seconds that the unpacking takes, and of how much processor time.
fn once(archive: &[u8], entries: u64, place: &Path) -> Result<(f64, f64), Failure> {
    let folder = tempfile::Builder::new().prefix("reroot-linear-").tempdir_in(place)?;
    let root = File::open(folder.path())?;
    let (start, before) = (Instant::now(), processor()?);
    let unpacked = unpack(archive, std::os::fd::AsFd::as_fd(&root), &UnpackOptions::new(), &mut NoHooks)?;
    let took = (start.elapsed().as_secs_f64(), processor()? - before);
    if unpacked.tally.entries != entries || !unpacked.losses.is_empty() {
        return Err(format!("{} entries of {entries}; {}", unpacked.tally.entries, unpacked.losses).into());
    }
    // By the tool: the standard library needs a descriptor for each level.
    let removed = std::process::Command::new("rm").arg("-rf").arg(folder.path()).status()?;
    if removed.success() { Ok(took) } else { Err("rm failed".into()) }
}

/// Seconds of processor time that this process used so far.
fn processor() -> Result<f64, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
}

fn header(kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(nix::unistd::geteuid().as_raw().into());
    header.set_gid(nix::unistd::getegid().as_raw().into());
    header.set_mtime(1_700_000_000);
    header.set_size(0);
    header
}

fn append(archive: &mut Archive, kind: EntryType, path: &str) -> Result<(), Failure> {
    Ok(archive.append_data(&mut header(kind), path, &b""[..])?)
}

fn files(count: usize, archive: &mut Archive) -> Result<u64, Failure> {
    let mut entries = 0;
    for number in 0..count {
        if number % 1000 == 0 {
            append(archive, EntryType::Directory, &format!("{}", number / 1000))?;
            entries += 1;
        }
        append(archive, EntryType::Regular, &format!("{}/{number}", number / 1000))?;
        entries += 1;
    }
    Ok(entries)
}

fn links(count: usize, archive: &mut Archive) -> Result<u64, Failure> {
    append(archive, EntryType::Regular, "first")?;
    for number in 0..count {
        archive.append_link(&mut header(EntryType::Link), format!("{number}"), "first")?;
    }
    Ok(count as u64 + 1)
}

/// The names of a tower of directories, whose path fits into the kernel's 4,096 bytes.
fn tower(number: usize, depth: usize) -> String {
    let mut path = format!("{number}");
    path.push_str(&"/d".repeat(depth - 1));
    path
}

fn implied(depth: usize, archive: &mut Archive) -> Result<u64, Failure> {
    for number in 0..TOWERS {
        append(archive, EntryType::Directory, &tower(number, depth))?;
    }
    Ok(TOWERS as u64)
}

fn nested(depth: usize, archive: &mut Archive) -> Result<u64, Failure> {
    for number in 0..TOWERS {
        for depth in 1..=depth {
            append(archive, EntryType::Directory, &tower(number, depth))?;
        }
    }
    Ok((TOWERS * depth) as u64)
}

fn attributes(count: usize, archive: &mut Archive) -> Result<u64, Failure> {
    let names: Vec<String> = (0..count).map(|number| format!("SCHILY.xattr.user.number-{number}")).collect();
    for number in 0..FILES {
        archive.append_pax_extensions(names.iter().map(|name| (name.as_str(), &b"some sixteen byte"[..])))?;
        append(archive, EntryType::Regular, &format!("{number}"))?;
    }
    Ok(FILES as u64)
}
