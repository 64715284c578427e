//! Shows what there is to know of a volume before one rebuilds it: `inspect VOLUME`.

mod cli;

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use reroot::volume::{Capabilities, Holder, Names, Snapshot, Usage, UsageDetail, VolumeId};
use reroot::{CancelToken, ErrorKind, ImageRecord, RebuildableVolume, Result, Wait};

/// Shows a volume: whether it exists, what it was filled from, who holds it, its snapshots, its space. Changes nothing.
///
/// Exit status: 0 shown; 1 failed; 2 usage.
#[derive(Parser)]
struct Arguments {
    /// The volume, as dir:PATH, btrfs:PATH, zfs:DATASET, lvm:GROUP/VOLUME or ceph:POOL/[NAMESPACE/]IMAGE.
    volume: String,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Inspection {
    volume: VolumeId,
    names: Names,
    /// Who is at it.
    at_work: Option<String>,
    capabilities: Capabilities,
    image: Option<ImageRecord>,
    holders: Vec<Holder>,
    snapshots: Vec<Snapshot>,
    usage: Usage,
}

fn main() -> ExitCode {
    let arguments: Arguments = match cli::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let output = cli::Output::new(arguments.json, false);
    match cli::open_volume(&arguments.volume).and_then(|volume| inspect(&*volume)) {
        Ok(inspection) => {
            output.show(&inspection);
            ExitCode::from(cli::DONE)
        }
        Err(error) => output.fail(&error),
    }
}

fn inspect(volume: &dyn RebuildableVolume) -> Result<Inspection> {
    let image = match volume.record() {
        // A record that cannot be read is no reason to hide everything else.
        Err(error) if error.kind() == ErrorKind::InvalidInput => None,
        record => record?,
    };
    let names = volume.names()?;
    // Names of an unfinished rebuild mean nothing while somebody works on it.
    let at_work = match volume.lock(&Wait::new(Duration::ZERO, CancelToken::new())) {
        Err(error) if error.kind() == ErrorKind::Locked => Some(error.message().to_owned()),
        _ => None,
    };
    Ok(Inspection {
        volume: volume.id(),
        names,
        at_work,
        capabilities: volume.capabilities(),
        image,
        holders: volume.holders()?,
        snapshots: volume.snapshots()?,
        usage: volume.usage(UsageDetail::Full)?,
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.volume)?;
        let state = match (self.names.live, self.names.staged || self.names.retired) {
            _ if self.at_work.is_some() => format!("being rebuilt or recovered: {}", self.at_work.as_deref().unwrap_or_default()),
            (true, false) => "one complete root".to_owned(),
            (false, false) => "does not exist".to_owned(),
            (_, true) => format!("interrupted ({}): run recover", self.names),
        };
        writeln!(f, "  state:     {state}")?;
        match &self.image {
            Some(record) => {
                let digest = record.digest.map(|digest| format!(", sha256 {digest}")).unwrap_or_default();
                writeln!(f, "  image:     {}{digest}", record.origin)?;
            }
            None => writeln!(f, "  image:     not recorded")?,
        }
        let used = self.usage.used.map_or("unknown".to_owned(), |used| used.to_string());
        write!(f, "  space:     {used} used, {} free in the pool", self.usage.free)?;
        if let Some(size) = self.usage.size {
            write!(f, ", size {size}")?;
        }
        for snapshot in &self.snapshots {
            write!(f, "\n  snapshot:  {snapshot}")?;
        }
        for holder in &self.holders {
            write!(f, "\n  held by:   {holder}")?;
        }
        Ok(())
    }
}
