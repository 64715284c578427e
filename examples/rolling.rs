//! Refreshes a group of instances: rebuilds many volumes from one base, a few at a time: `rolling IMAGE VOLUME...`.

mod cli;

use std::fmt;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use reroot::base::BaseOptions;
use reroot::{Base, CancelToken, Dispose, Error, Image, Rebuild, Report, Result};

/// Rebuilds many volumes from one image, by way of its base, which is made first if there is none.
///
/// The volumes are of one pool: dir:PATH, btrfs:PATH, zfs:DATASET, lvm:GROUP/VOLUME or ceph:POOL/[NAMESPACE/]IMAGE. When one cannot be rebuilt, those that have begun go on to their end
/// and no other begins, unless --keep-going is given. Whatever happens, each volume has its old root or its new one, whole.
///
/// Exit status: 0 all are rebuilt; 1 one or more are not; 2 usage.
#[derive(Parser)]
struct Arguments {
    /// The image: a file, or the directory of an OCI image layout.
    image: String,

    /// The volumes.
    #[arg(required = true)]
    volumes: Vec<String>,

    /// How many at a time.
    #[arg(long, short, value_name = "N", default_value = "2")]
    jobs: NonZeroUsize,

    /// Go on with the others when one cannot be rebuilt.
    #[arg(long)]
    keep_going: bool,

    /// What becomes of the volumes' snapshots.
    #[arg(long, value_enum, default_value_t = cli::Snapshots::Refuse)]
    snapshots: cli::Snapshots,

    /// Leave the old roots to the next rebuild, or to recover.
    #[arg(long)]
    detach: bool,

    /// The pool of the bases, like btrfs:/srv/pool. Without it: that of the first volume.
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,

    /// Wait this many seconds for each volume to become free.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,

    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,

    /// Print errors only.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

/// What became of a volume.
#[derive(serde::Serialize)]
struct Done {
    volume: String,
    report: Option<Report>,
    error: Option<Error>,
}

#[derive(serde::Serialize)]
struct Summary {
    rebuilt: usize,
    failed: usize,
    not_begun: usize,
    seconds: f64,
    volumes: Vec<Done>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rebuilt, {} failed, {} not begun, in {:.2} s", self.rebuilt, self.failed, self.not_begun, self.seconds)
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.volume)?;
        if let Some(report) = &self.report {
            write!(f, "rebuilt in {:.3} s", report.elapsed.as_secs_f64())?;
            report.warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))?;
        }
        self.error.iter().try_for_each(|error| write!(f, "failed: {}", error.report()))
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = match cli::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let output = cli::Output::new(arguments.json, arguments.quiet);
    match run(&arguments, output) {
        Ok(summary) => {
            output.show(&summary);
            ExitCode::from(if summary.rebuilt == arguments.volumes.len() { cli::DONE } else { cli::FAILED })
        }
        Err(error) => output.fail(&error),
    }
}

fn run(arguments: &Arguments, output: cli::Output) -> Result<Summary> {
    let begun = Instant::now();
    let cancel = cli::cancel_on_signals().map_err(|error| Error::io("roll", "cannot listen to signals", error))?;
    // There is one at least.
    let first = arguments.volumes.first().map_or("", String::as_str);
    let bases = cli::open_pool_of(arguments.pool.as_deref(), first)?;
    let options = BaseOptions::default().with_cancel(cancel.clone());
    let base = bases.ensure(Image::open(&arguments.image)?, &options)?;

    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    let all = Mutex::new(Vec::new());
    let work = || {
        while let Some(volume) = arguments.volumes.get(next.fetch_add(1, Ordering::Relaxed)) {
            if cancel.is_cancelled() || (!arguments.keep_going && failed.load(Ordering::Relaxed) > 0) {
                break;
            }
            let (report, error) = match rebuild(volume, &base, arguments, &cancel) {
                Ok(report) => (Some(report), None),
                Err(error) => (None, Some(error)),
            };
            failed.fetch_add(usize::from(error.is_some()), Ordering::Relaxed);
            let done = Done { volume: volume.clone(), report, error };
            let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match output {
                cli::Output::Text => {
                    let line = format_args!("[{}/{}] {done}", all.len() + 1, arguments.volumes.len());
                    cli::say(&mut std::io::stdout(), &line);
                }
                cli::Output::Quiet if done.error.is_some() => {
                    cli::say(&mut std::io::stderr(), &format_args!("error: {done}"));
                }
                _ => {}
            }
            all.push(done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.get().min(arguments.volumes.len()) {
            scope.spawn(work);
        }
    });
    let volumes = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let failed = failed.into_inner();
    Ok(Summary {
        rebuilt: volumes.len() - failed,
        failed,
        not_begun: arguments.volumes.len() - volumes.len(),
        seconds: begun.elapsed().as_secs_f64(),
        volumes,
    })
}

fn rebuild(volume: &str, base: &Base, arguments: &Arguments, cancel: &CancelToken) -> Result<Report> {
    let mut volume = cli::open_volume(volume)?;
    let patience = Duration::from_secs(arguments.wait.into());
    Rebuild::from_base(base)
        .snapshots(arguments.snapshots.policy())
        .dispose(if arguments.detach { Dispose::Detach } else { Dispose::Wait })
        .lock_wait(patience)
        .busy_wait(patience)
        .cancel(cancel.clone())
        .run(&mut *volume)
}
