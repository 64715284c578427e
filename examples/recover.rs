//! Brings an interrupted volume back to exactly one complete root: `recover VOLUME`.

mod cli;

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use reroot::{Error, Recovery, Result, Wait, recover};

/// Brings a volume that a rebuild left behind, when it was killed or the power failed, back to exactly one complete root.
///
/// Exit status: 0 the volume has one root, or never existed; 1 failed; 2 usage; 3 another rebuild of it is running; 4 no complete root
/// remains.
#[derive(Parser)]
struct Arguments {
    /// The volume, as dir:PATH, btrfs:PATH, zfs:DATASET, lvm:GROUP/VOLUME or ceph:POOL/[NAMESPACE/]IMAGE.
    volume: String,

    /// Wait this many seconds for a rebuild of the volume to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,

    /// Print one JSON object: what was done, or the error.
    #[arg(long)]
    json: bool,

    /// Print errors only.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

struct Shown<'a>(&'a Recovery);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found: {}", self.0.found)?;
        if self.0.actions.is_empty() {
            write!(f, "\nnothing to do")?;
        }
        self.0.actions.iter().try_for_each(|action| write!(f, "\n{action}"))
    }
}

impl serde::Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = match cli::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let output = cli::Output::new(arguments.json, arguments.quiet);
    match run(&arguments) {
        Ok(recovery) => {
            output.show(&Shown(&recovery));
            ExitCode::from(if recovery.is_without_root() { cli::NO_ROOT } else { cli::DONE })
        }
        Err(error) => output.fail(&error),
    }
}

fn run(arguments: &Arguments) -> Result<Recovery> {
    let cancel = cli::cancel_on_signals().map_err(|error| Error::io("recover", "cannot listen to signals", error))?;
    let mut volume = cli::open_volume(&arguments.volume)?;
    recover(&mut *volume, &Wait::new(Duration::from_secs(arguments.wait.into()), cancel))
}
