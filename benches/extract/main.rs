//! Unpacks root filesystems by this library and by everyone else, in turns, and prints the ratios side by side. `benches/run` prepares
//! what it needs and starts it.

mod cases;
mod floor;
#[path = "../../tests/common/loopfs.rs"]
mod loopfs;
mod measure;
mod memory;
mod runs;
mod table;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use cases::{Case, Programs, Root};
use loopfs::Kind;
use runs::Runner;

/// Measures unpacking.
#[derive(Parser)]
struct Arguments {
    /// Only the cases whose name holds this, as in development/tar.zst/ext4/syncfs; may be repeated.
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,

    /// Only the contestants whose name holds this, as in reroot or pigz; may be repeated. Ours always runs.
    #[arg(long = "contestant", value_name = "TEXT")]
    contestants: Vec<String>,

    /// How often each contestant runs, after once to warm up.
    #[arg(long, default_value_t = 7)]
    rounds: usize,

    /// Only the small root filesystem on ext4 and tmpfs, three rounds.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,

    /// What the order of the contestants in each round is drawn from.
    #[arg(long)]
    seed: Option<u64>,

    /// Write every figure of every run to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Instead of time, measure memory at its peak: of the images, of a file of 10 GiB, and of two million files.
    #[arg(long)]
    memory: bool,

    /// Where the two of them are unpacked; 20 GiB and 2 million inodes are needed there, for a while.
    #[arg(long, value_name = "DIRECTORY", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target"))]
    disk: PathBuf,

    /// Print the names of the cases and end.
    #[arg(long)]
    list: bool,

    /// As cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match words.iter().map(|word| word.to_str().unwrap_or("")).collect::<Vec<_>>().as_slice() {
        ["measure", ..] => measure::main(&words[1..]).map_err(Into::into),
        ["decode", image, ..] => floor::decode(Path::new(image)),
        ["create", image, directory] => floor::create(Path::new(image), Path::new(directory)),
        ["tar-crate", image, directory] => floor::tar_crate(Path::new(image), Path::new(directory)),
        _ => bench(&Arguments::parse()).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<(), String> {
    let begun = Instant::now();
    let mut cases = cases::all();
    if arguments.quick {
        cases.retain(|case| case.root == Root::Minbase && matches!(case.kind, Kind::Ext4 | Kind::Tmpfs));
    }
    cases.retain(|case| arguments.cases.is_empty() || arguments.cases.iter().any(|text| case.name().contains(text)));
    if cases.is_empty() {
        return Err("no case has such a name: see --list".into());
    }
    if arguments.list {
        cases.iter().for_each(|case| println!("{}", case.name()));
        return Ok(());
    }
    let rounds = if arguments.quick { 3 } else { arguments.rounds.max(1) };
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | begun_at());
    let programs = programs()?;
    let folders = folders(&cases)?;
    own_mounts()?;
    if arguments.memory {
        let mut images: Vec<(Case, PathBuf)> = Vec::new();
        for case in cases {
            let image = folders[case.root.name()].join(case.file);
            if images.iter().all(|(_, known)| *known != image) {
                images.push((case, image));
            }
        }
        return memory::main(&programs, &images, &arguments.disk).map_err(|error| error.to_string());
    }
    println!("{}", table::machine(rounds, seed));
    let mut runner = Runner::new(programs, folders, arguments.contestants.clone(), rounds, seed);
    let mut measured = Vec::new();
    for case in &cases {
        eprintln!("{} ...", case.name());
        let results = runner.case(case)?;
        print!("{}", table::contestants(&results));
        measured.push(results);
        // Whatever ends it, what was measured until then is there.
        if let Some(file) = &arguments.json {
            table::write_json(file, &measured, seed)?;
        }
    }
    println!("{}", table::ratios(&measured));
    println!("Took {:.0} s in all.", begun.elapsed().as_secs_f64());
    Ok(())
}

fn begun_at() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() & 0xfffff)
}

/// This program and the example `unpack`, which lies beside it.
fn programs() -> Result<Programs, String> {
    let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let unpack = this.parent().and_then(Path::parent).map(|built| built.join("examples/unpack"));
    let unpack = unpack.filter(|path| path.is_file()).ok_or("the example unpack is not built: start this by benches/run")?;
    Ok(Programs { unpack, this })
}

/// Where the images lie, made if need be; or where REROOT_ROOTFS and REROOT_ROOTFS_DEVELOPMENT say.
fn folders(cases: &[Case]) -> Result<BTreeMap<&'static str, PathBuf>, String> {
    let mut folders = BTreeMap::new();
    for root in [Root::Minbase, Root::Development] {
        if !cases.iter().any(|case| case.root == root) {
            continue;
        }
        let named = if root == Root::Minbase { "REROOT_ROOTFS" } else { "REROOT_ROOTFS_DEVELOPMENT" };
        if let Some(folder) = std::env::var_os(named) {
            folders.insert(root.name(), folder.into());
            continue;
        }
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rootfs"));
        if root == Root::Development {
            command.arg("--development");
        }
        let output = command.stderr(std::process::Stdio::inherit()).output().map_err(|error| format!("tests/rootfs: {error}"))?;
        if !output.status.success() {
            return Err(format!("there is no {} root filesystem", root.name()));
        }
        folders.insert(root.name(), PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()));
    }
    Ok(folders)
}

/// A mount namespace of our own, with a memory of our own for the file systems in files: what is in them goes with us, however we go.
fn own_mounts() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("cannot have mounts of its own: {errno}; the benchmarks need root"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|errno| format!("cannot make the mounts private: {errno}"))?;
    let tmpfs = Some("tmpfs");
    mount(tmpfs, "/dev/shm", tmpfs, MsFlags::empty(), Some("size=90%"))
        .map_err(|errno| format!("cannot mount on /dev/shm: {errno}"))
}
