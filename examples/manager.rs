//! A small container manager that embeds the library: what a real one does around a rebuild, in a page or two.
//!
//! A pool is a folder: `containers/NAME` are the root volumes, `containers-snapshots/NAME/SNAPSHOT` their snapshots (LXD's layout), and
//! `instances/NAME.json` is what a manager knows of an instance and a rebuild keeps.

mod cli;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use reroot::dir::DirVolume;
use reroot::volume::Slot;
use reroot::{CancelToken, Error, ErrorKind, Image, Rebuild, RebuildableVolume, Result, SnapshotPolicy, Wait, recover};
use serde::{Deserialize, Serialize};

/// A small container manager: instances whose root volumes are directories.
#[derive(Parser)]
struct Arguments {
    /// The folder of the pool.
    #[arg(long, default_value = "pool")]
    pool: PathBuf,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make an instance from an image.
    Create { name: String, image: PathBuf },
    /// Show the instances.
    List,
    /// Set a key of an instance's configuration.
    Set { name: String, key: String, value: String },
    /// Run a command in an instance.
    Exec {
        name: String,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Copy an instance's root to a snapshot.
    Snapshot { name: String, snapshot: String },
    /// Replace an instance's root by a fresh copy of an image, by default its own; configuration and snapshots stay.
    Rebuild { name: String, image: Option<PathBuf> },
    /// Remove an instance.
    Delete { name: String },
}

/// What is kept of an instance across a rebuild: everything but its root.
#[derive(Serialize, Deserialize)]
struct Instance {
    image: String,
    config: BTreeMap<String, String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let pool = Pool(arguments.pool);
    match pool.start().and_then(|()| pool.act(arguments.action)) {
        Ok(status) => status,
        Err(error) => cli::Output::Text.fail(&error),
    }
}

struct Pool(PathBuf);

impl Pool {
    /// What a manager does when it starts: every volume that a crash interrupted has one complete root again.
    fn start(&self) -> Result<()> {
        for folder in ["containers", "containers-snapshots", "instances"] {
            fs::create_dir_all(self.0.join(folder)).map_err(|error| failed("open the pool", error))?;
        }
        for name in self.names()? {
            let recovery = recover(&mut self.volume(&name)?, &Wait::new(Duration::from_secs(10), CancelToken::new()))?;
            recovery.actions.iter().for_each(|action| eprintln!("{name}: {action}"));
        }
        Ok(())
    }

    fn act(&self, action: Action) -> Result<ExitCode> {
        match action {
            Action::Create { name, image } => self.create(&name, &image)?,
            Action::List => {
                for name in self.names()? {
                    println!("{name}\t{}", self.load(&name)?.image);
                }
            }
            Action::Set { name, key, value } => {
                let mut instance = self.load(&name)?;
                instance.config.insert(key, value);
                self.save(&name, &instance)?;
            }
            Action::Exec { name, command } => return self.exec(&name, &command),
            Action::Snapshot { name, snapshot } => self.snapshot(&name, &snapshot)?,
            Action::Rebuild { name, image } => self.rebuild(&name, image.as_deref())?,
            Action::Delete { name } => self.delete(&name)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn create(&self, name: &str, image: &Path) -> Result<()> {
        if self.instance(name)?.exists() {
            return Err(Error::new(ErrorKind::AlreadyExists, "create the instance", format!("there is a {name:?} already")));
        }
        self.fill(name, Image::open(image)?)?;
        self.save(name, &Instance { image: image.display().to_string(), config: BTreeMap::new() })
    }

    /// The new root goes live first and the configuration follows: a crash between the two leaves a whole instance whose image is named
    /// by its volume.
    fn rebuild(&self, name: &str, image: Option<&Path>) -> Result<()> {
        let mut instance = self.load(name)?;
        let image = match image {
            Some(path) => {
                instance.image = path.display().to_string();
                Image::open(path)?
            }
            None => {
                let record = self.volume(name)?.record()?;
                Image::from_record(&record.ok_or_else(|| Error::new(ErrorKind::NotFound, "rebuild", "its image is not recorded"))?)?
            }
        };
        self.fill(name, image)?;
        self.save(name, &instance)
    }

    fn fill(&self, name: &str, image: Image) -> Result<()> {
        let cancel = cli::cancel_on_signals().map_err(|error| failed("rebuild", error))?;
        let bar = Arc::new(cli::Bar::new());
        let rebuild = Rebuild::new(image).snapshots(SnapshotPolicy::Keep).progress(bar.clone()).cancel(cancel);
        let report = rebuild.run(&mut self.volume(name)?);
        bar.finish();
        println!("{}", report?);
        Ok(())
    }

    fn exec(&self, name: &str, command: &[String]) -> Result<ExitCode> {
        self.load(name)?;
        let mut chroot = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            chroot.arg("--map-root-user");
        }
        let status =
            chroot.arg("--root").arg(self.root(name)).args(command).status().map_err(|error| failed("run the command", error))?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(cli::FAILED)))
    }

    fn snapshot(&self, name: &str, snapshot: &str) -> Result<()> {
        self.load(name)?;
        check_name(snapshot)?;
        let folder = self.0.join("containers-snapshots").join(name);
        fs::create_dir_all(&folder).map_err(|error| failed("take a snapshot", error))?;
        let copied = Command::new("cp")
            .args(["--archive", "--no-target-directory", "--"])
            .arg(self.root(name))
            .arg(folder.join(snapshot))
            .status();
        match copied.map_err(|error| failed("take a snapshot", error))? {
            status if status.success() => Ok(()),
            status => Err(Error::new(ErrorKind::Io, "take a snapshot", format!("cp ended with {status}"))),
        }
    }

    /// The same three names serve a removal: what bears the retired name is on its way out, whoever finds it.
    fn delete(&self, name: &str) -> Result<()> {
        let mut volume = self.volume(name)?;
        let _lock = volume.lock(&Wait::new(Duration::ZERO, CancelToken::new()))?;
        if volume.names()?.live {
            if let Some(holder) = volume.holders()?.first() {
                return Err(Error::new(ErrorKind::Busy, "delete the instance", format!("it is in use: {holder}")));
            }
            volume.rename(Slot::Live, Slot::Retired)?;
        }
        volume.discard(Slot::Retired)?;
        fs::remove_file(self.instance(name)?).map_err(|error| failed("delete the instance", error))
    }

    fn root(&self, name: &str) -> PathBuf {
        self.0.join("containers").join(name)
    }

    fn volume(&self, name: &str) -> Result<DirVolume> {
        check_name(name)?;
        DirVolume::open(self.root(name))
    }

    fn instance(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.0.join("instances").join(format!("{name}.json")))
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.0.join("instances")).map_err(|error| failed("list the instances", error))?;
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = files.filter_map(|file| Some(file.strip_suffix(".json")?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    fn load(&self, name: &str) -> Result<Instance> {
        let text = fs::read_to_string(self.instance(name)?).map_err(|error| failed("find the instance", error))?;
        serde_json::from_str(&text).map_err(|error| Error::new(ErrorKind::InvalidInput, "read the instance", error.to_string()))
    }

    fn save(&self, name: &str, instance: &Instance) -> Result<()> {
        let path = self.instance(name)?;
        let beside = path.with_extension("new");
        fs::write(&beside, cli::json(instance))
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|error| failed("save the instance", error))
    }
}

fn check_name(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.starts_with('-') || name.len() > 63 || !name.chars().all(legal) {
        return Err(Error::new(ErrorKind::InvalidInput, "read a name", format!("{name:?} is not letters, digits and hyphens")));
    }
    Ok(())
}

fn failed(operation: &'static str, error: std::io::Error) -> Error {
    Error::io(operation, "the pool's folder cannot be used", error)
}
