//! Rebuilds a volume from an image: `rebuild [OPTIONS] [IMAGE] VOLUME`.

mod cli;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind as ClapError;
use clap::{CommandFactory, Parser, ValueEnum};
use reroot::base::BaseOptions;
use reroot::{
    BaseName, ByteSize, CancelToken, Dispose, Error, ErrorKind, IdMap, IdShift, Image, Plan, Rebuild, RebuildableVolume, Result,
    Sha256, Strategy, Survey,
};

/// Replaces the root volume of an instance by a fresh copy of an image.
///
/// The new root is made beside the old one and switched to when it is complete: a failure at any moment leaves the old root or the new
/// one, whole.
///
/// IMAGE is a file (a root filesystem as a tarball or a squashfs, an LXD image, an OCI or docker archive), the directory of an OCI image layout, or -
/// for standard input; what it is, it says itself. Without it the volume is rebuilt from the image that it was last rebuilt
/// from. VOLUME is dir:PATH, btrfs:PATH, zfs:DATASET, lvm:GROUP/VOLUME or ceph:POOL/[NAMESPACE/]IMAGE; if it does not exist, it is created.
///
/// Exit status: 0 done; 1 failed, the old root is intact; 2 usage; 3 refused by a policy or a check, nothing was changed; 4 no root
/// remains (only --strategy in-place can).
#[derive(Parser)]
#[command(override_usage = "rebuild [OPTIONS] [IMAGE] VOLUME")]
struct Arguments {
    // Two words, of which the first may be missing, are more than clap can say; the text above does.
    #[arg(required = true, num_args = 1..=2, hide = true)]
    words: Vec<String>,

    /// Make the root an empty directory.
    #[arg(long)]
    empty: bool,

    /// Go through the base of the image: a root made once from it, of which the new root becomes a clone. A missing one is made.
    #[arg(long, conflicts_with = "empty")]
    base: bool,

    /// With --base: the pool where it is kept, like btrfs:/srv/pool. Without it: that of the volume, two folders or datasets up.
    #[arg(long, value_name = "POOL", requires = "base")]
    pool: Option<String>,

    /// Leave the old root to the next rebuild, or to recover.
    #[arg(long)]
    detach: bool,

    /// What becomes of the volume's snapshots.
    #[arg(long, value_enum, default_value_t = cli::Snapshots::Refuse)]
    snapshots: cli::Snapshots,

    /// Make the new root beside the old one, or remove the old one first.
    #[arg(long, value_enum, default_value_t = Order::Swap)]
    strategy: Order,

    /// The volume's size, like 10GiB.
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,

    /// Grow the volume up to this size if the image needs it.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,

    /// Read the image once more before, to know what it needs.
    #[arg(long)]
    survey: bool,

    /// The digest that the image must have.
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sha256>,

    /// Take only what lies below this folder of the image, like rootfs.
    #[arg(long, value_name = "PREFIX")]
    strip: Option<String>,

    /// What the image holds inside.
    #[arg(long, value_name = "LAYOUT", value_parser = ["detect", "root", "lxd", "oci"])]
    layout: Option<String>,

    /// The metadata of an LXD image in two files, of which IMAGE is the root.
    #[arg(long, value_name = "FILE", conflicts_with = "layout")]
    metadata: Option<PathBuf>,

    /// The tag of the image, where there are several in layers.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,

    /// The platform of the image, like linux/arm64, where there are several in layers. Without it: this machine's.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,

    /// Shift the image's owners into this user's subordinate ids, as /etc/subuid and /etc/subgid have them.
    #[arg(long, value_name = "USER")]
    subids: Option<String>,

    /// Wait this many seconds for the volume to become free, and for another rebuild of it to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,

    /// Check everything and show what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object: the report, the plan or the error.
    #[arg(long)]
    json: bool,

    /// Print errors only.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    /// A failure leaves the old root.
    Swap,
    /// Needs the least space.
    InPlace,
}

impl Arguments {
    /// The image, if there is one, and the volume.
    fn words(&self) -> (Option<&str>, &str) {
        match &self.words[..] {
            [image, volume] => (Some(image), volume),
            [volume, ..] => (None, volume),
            [] => (None, ""),
        }
    }

    /// What clap cannot see: whether there is an image.
    fn check(&self) -> Result<(), clap::Error> {
        let mistake = |kind, message: &str| Err(Arguments::command().error(kind, message));
        let of_image = [
            (self.sha256.is_some(), "--sha256"),
            (self.strip.is_some(), "--strip"),
            (self.layout.is_some(), "--layout"),
            (self.metadata.is_some(), "--metadata"),
            (self.tag.is_some(), "--tag"),
            (self.platform.is_some(), "--platform"),
        ];
        let given = of_image.iter().find(|(given, _)| *given);
        match (self.words().0, given) {
            (Some(_), _) if self.empty => mistake(ClapError::ArgumentConflict, "--empty needs no image"),
            (None, Some((_, option))) => mistake(ClapError::MissingRequiredArgument, &format!("{option} needs an image")),
            _ => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = match cli::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    if let Err(mistake) = arguments.check() {
        return cli::mistaken(&mistake);
    }
    let output = cli::Output::new(arguments.json, arguments.quiet);
    match rebuild(&arguments, output) {
        Ok(()) => ExitCode::from(cli::DONE),
        Err(error) => output.fail(&error),
    }
}

fn rebuild(arguments: &Arguments, output: cli::Output) -> Result<()> {
    let cancel = cli::cancel_on_signals().map_err(|error| Error::io("rebuild", "cannot listen to signals", error))?;
    let mut volume = cli::open_volume(arguments.words().1)?;
    let image = open_image(arguments, &*volume)?;
    let bar = Arc::new(cli::Bar::new());
    let patience = Duration::from_secs(arguments.wait.into());
    let shift = match &arguments.subids {
        Some(user) => Some(IdShift::new(subids("/etc/subuid", user)?, subids("/etc/subgid", user)?)),
        None => None,
    };
    let (source, shift, makes_base) = match arguments.base {
        true => {
            let (source, makes_base) = through_base(image, shift, arguments, output, &bar, &cancel)?;
            (source, None, makes_base)
        }
        false => (Rebuild::new(image), shift, None),
    };
    let mut rebuild = source.lock_wait(patience).busy_wait(patience).cancel(cancel);
    rebuild = rebuild.snapshots(arguments.snapshots.policy());
    rebuild = rebuild.strategy(match arguments.strategy {
        Order::Swap => Strategy::Swap,
        Order::InPlace => Strategy::InPlace,
    });
    if let Some(size) = arguments.size {
        rebuild = rebuild.size(size);
    }
    if arguments.survey {
        rebuild = rebuild.survey(Survey::Count);
    }
    if let Some(size) = arguments.max_size {
        rebuild = rebuild.max_size(size);
    }
    if let Some(shift) = shift {
        rebuild = rebuild.shift(shift);
    }
    if arguments.detach {
        rebuild = rebuild.dispose(Dispose::Detach);
    }
    if arguments.dry_run {
        output.show(&Preview { plan: rebuild.plan(&*volume)?, makes_base });
        return Ok(());
    }
    if output == cli::Output::Text {
        rebuild = rebuild.progress(bar.clone());
    }
    let result = rebuild.run(&mut *volume);
    bar.finish();
    output.show(&result?);
    Ok(())
}

/// What a dry run shows.
#[derive(serde::Serialize)]
struct Preview {
    #[serde(flatten)]
    plan: Plan,
    /// The base that would be made first.
    makes_base: Option<BaseName>,
}

impl std::fmt::Display for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(base) = &self.makes_base {
            writeln!(f, "make the base {base}, which is missing, and clone or copy it; without a base it would be:")?;
        }
        self.plan.fmt(f)
    }
}

/// A rebuild from the base of `image`, which is made if there is none; only to look, from the image then, and the base that is missing.
fn through_base(
    image: Image,
    shift: Option<IdShift>,
    arguments: &Arguments,
    output: cli::Output,
    bar: &Arc<cli::Bar>,
    cancel: &CancelToken,
) -> Result<(Rebuild, Option<BaseName>)> {
    let bases = cli::open_pool_of(arguments.pool.as_deref(), arguments.words().1)?;
    let mut options = BaseOptions::default().with_cancel(cancel.clone());
    options.shift.clone_from(&shift);
    if output == cli::Output::Text {
        options = options.with_progress(bar.clone());
    }
    if arguments.dry_run {
        let name = bases.name_of(&image, &options)?;
        return Ok(match (bases.look_at(&name)?, shift) {
            (Some(base), _) => (Rebuild::from_base(&base), None),
            (None, Some(shift)) => (Rebuild::new(image).shift(shift), Some(name)),
            (None, None) => (Rebuild::new(image), Some(name)),
        });
    }
    bases.ensure(image, &options).map(|base| (Rebuild::from_base(&base), None))
}

fn open_image(arguments: &Arguments, volume: &dyn RebuildableVolume) -> Result<Image> {
    let mut image = match arguments.words().0 {
        None if arguments.empty => Image::empty(),
        None => original_image(volume)?,
        Some("-") if arguments.metadata.is_none() => standard_input()?,
        Some(path) => match &arguments.metadata {
            Some(metadata) => Image::lxd_split(metadata, path)?,
            None => Image::open(path)?,
        },
    };
    if let Some(layout) = &arguments.layout {
        image = image.with_layout(layout.parse()?)?;
    }
    image = choose(image, arguments)?;
    if let Some(digest) = arguments.sha256 {
        image = image.with_sha256(digest);
    }
    match &arguments.strip {
        Some(folder) => image.with_strip(folder),
        None => Ok(image),
    }
}

#[cfg(feature = "oci")]
fn choose(mut image: Image, arguments: &Arguments) -> Result<Image> {
    if let Some(tag) = &arguments.tag {
        image = image.with_tag(tag);
    }
    match &arguments.platform {
        Some(platform) => Ok(image.with_platform(platform.parse()?)),
        None => Ok(image),
    }
}

#[cfg(not(feature = "oci"))]
fn choose(image: Image, arguments: &Arguments) -> Result<Image> {
    if arguments.tag.is_none() && arguments.platform.is_none() {
        return Ok(image);
    }
    Err(Error::new(ErrorKind::Unsupported, "choose an image", "this build reads no images in layers")
        .with_remedy("build with the feature oci"))
}

/// The ids that a file gives a user, who is named or numbered.
fn subids(file: &str, user: &str) -> Result<IdMap> {
    let text = std::fs::read_to_string(file).map_err(|error| Error::io("read an id map", "it cannot be read", error));
    let map = text.and_then(|text| IdMap::from_subids(&text, user, user.parse().ok()));
    map.map_err(|error| error.with_context("file", file))
}

fn original_image(volume: &dyn RebuildableVolume) -> Result<Image> {
    let record = volume.record()?.ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "find the original image", "it is not recorded with the volume")
            .with_remedy("name an image")
    });
    Image::from_record(&record.map_err(|error| error.with_context("volume", volume.id()))?)
}

fn standard_input() -> Result<Image> {
    let input = std::io::stdin();
    if input.is_terminal() {
        return Err(Error::new(ErrorKind::InvalidInput, "read the image", "standard input is a terminal")
            .with_remedy("send an image through a pipe"));
    }
    let fd: OwnedFd =
        input.as_fd().try_clone_to_owned().map_err(|error| Error::io("read the image", "standard input is closed", error))?;
    let file = File::from(fd);
    Ok(Image::from_fd(file, "standard input"))
}
