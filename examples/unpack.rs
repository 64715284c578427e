//! Unpacks an image into a directory, without a volume: `unpack IMAGE DIRECTORY`.

mod cli;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use reroot::unpack::{NoHooks, UnpackOptions, Unpacked, Writeback};
use reroot::{CancelToken, Error, Image, Result};

/// Unpacks an image into a directory that exists. What is in it stays, but for what the image replaces.
///
/// Exit status: 0 unpacked; 1 failed, and the directory holds what was unpacked until then, as the message says; 2 usage; 3 refused, as an
/// image that this build does not read, before anything was unpacked.
#[derive(Parser)]
struct Arguments {
    /// The image: any format that this build reads.
    image: PathBuf,

    /// The directory that becomes the root.
    directory: PathBuf,

    /// Return when all of it is on disk.
    #[arg(long)]
    sync: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let opened = open(&arguments.directory).and_then(|root| Ok((root, Image::open(&arguments.image)?)));
    let (root, image) = match opened {
        Ok(opened) => opened,
        Err(error) => return cli::Output::Text.fail(&error),
    };
    match unpack(&arguments, &root, image) {
        Ok(unpacked) if unpacked.losses.is_empty() => ExitCode::SUCCESS,
        Ok(unpacked) => {
            eprintln!("warning: {}", unpacked.losses);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

/// Shows an error of the unpacking. What its report says of a volume is not for a directory.
fn fail(error: &Error) -> ExitCode {
    let mut text = format!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text += &format!(": {source}");
        cause = source.source();
    }
    text += "\n  state:  the directory holds what was unpacked until then";
    if let Some(remedy) = error.remedy() {
        text += &format!("\n  remedy: {remedy}");
    }
    eprintln!("{text}");
    ExitCode::from(cli::FAILED)
}

fn unpack(arguments: &Arguments, root: &File, mut image: Image) -> Result<Unpacked> {
    let patience = Duration::from_secs(60);
    let writeback = if arguments.sync { Writeback::Early } else { Writeback::default() };
    let options = UnpackOptions::new().with_writeback(writeback);
    let (unpacked, _) = image.unpack(root, &options, &mut NoHooks, &CancelToken::new(), patience)?;
    if arguments.sync {
        nix::unistd::syncfs(root).map_err(|errno| Error::io("unpack", "the file system cannot be synced", errno))?;
    }
    Ok(unpacked)
}

fn open(directory: &Path) -> Result<File> {
    File::open(directory).map_err(|error| Error::io("unpack", "the directory cannot be opened", error))
}
