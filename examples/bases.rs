//! Lists, verifies, collects and removes the bases of a pool: `bases POOL`.

mod cli;

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use reroot::base::{BaseInfo, BaseState, CollectPolicy, Collected, Kept, References, Verdict};
use reroot::{BaseName, Bases, CancelToken, Error, Result, Wait};

/// Lists the bases of a pool: roots made once from an image, from which volumes are cloned.
///
/// POOL is dir:PATH, btrfs:PATH, zfs:DATASET, lvm:GROUP/POOL or ceph:POOL[/NAMESPACE], like btrfs:/srv/pool for the volume btrfs:/srv/pool/containers/c1.
///
/// Exit status: 0 done; 1 failed, or a base is not what it was or could not be removed; 2 usage; 3 someone holds a base that is to be removed.
#[derive(Parser)]
struct Arguments {
    /// The pool.
    pool: String,

    /// Read every base whole and compare it with what was recorded when it was made.
    #[arg(long, conflicts_with_all = ["collect", "remove"])]
    verify: bool,

    /// Remove the bases that no volume shares and that were not used for this many days, and what is left of unfinished ones.
    #[arg(long, value_name = "DAYS", conflicts_with = "remove")]
    collect: Option<u32>,

    /// With --collect: also those that volumes share, which keep what they share.
    #[arg(long, requires = "collect")]
    shared: bool,

    /// Remove this base, whenever it was used.
    #[arg(long, value_name = "NAME")]
    remove: Option<BaseName>,

    /// Wait this many seconds for whoever holds the base that is to be removed.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,

    /// Print one JSON value: the list, the verdicts, what was collected, or the error.
    #[arg(long)]
    json: bool,

    /// Print errors only.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Answer {
    List(Vec<BaseInfo>),
    Verified(Vec<Verified>),
    Collected(Collected),
    Removed { removed: Option<BaseName> },
}

#[derive(serde::Serialize)]
struct Verified {
    name: BaseName,
    verdict: Option<Verdict>,
    error: Option<Error>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::List(bases) if bases.is_empty() => f.write_str("no bases"),
            Answer::List(bases) => lines(f, bases),
            Answer::Verified(verified) if verified.is_empty() => f.write_str("no bases"),
            Answer::Verified(verified) => lines(f, verified),
            Answer::Collected(collected) => collected.fmt(f),
            Answer::Removed { removed: Some(removed) } => write!(f, "{removed}: removed"),
            Answer::Removed { removed: None } => f.write_str("there was none"),
        }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match (&self.verdict, &self.error) {
            (Some(verdict), _) => verdict.fmt(f),
            (None, Some(error)) => write!(f, "cannot be read: {error}"),
            (None, None) => f.write_str("unfinished"),
        }
    }
}

impl Verified {
    fn is_good(&self) -> bool {
        self.error.is_none() && self.verdict != Some(Verdict::Changed)
    }
}

fn lines<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(at, item)| write!(f, "{}{item}", if at == 0 { "" } else { "\n" }))
}

fn main() -> ExitCode {
    let arguments: Arguments = match cli::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let output = cli::Output::new(arguments.json, arguments.quiet);
    match run(&arguments) {
        Ok(answer) => {
            output.show(&answer);
            let good = match &answer {
                Answer::Verified(verified) => verified.iter().all(Verified::is_good),
                Answer::Collected(collected) => !collected.kept.iter().any(|kept| matches!(kept.why, Kept::Failed(_))),
                _ => true,
            };
            ExitCode::from(if good { cli::DONE } else { cli::FAILED })
        }
        Err(error) => output.fail(&error),
    }
}

fn run(arguments: &Arguments) -> Result<Answer> {
    let cancel = cli::cancel_on_signals().map_err(|error| Error::io("bases", "cannot listen to signals", error))?;
    let bases = cli::open_pool(&arguments.pool)?;
    if arguments.verify {
        return verify(&bases, &cancel).map(Answer::Verified);
    }
    if let Some(days) = arguments.collect {
        let references = if arguments.shared { References::Ignore } else { References::Keep };
        let policy = CollectPolicy::unused_for(Duration::from_secs(u64::from(days) * 86_400)).with_references(references);
        return bases.collect(&policy, &cancel).map(Answer::Collected);
    }
    if let Some(name) = &arguments.remove {
        let existed = bases.remove(name, &Wait::new(Duration::from_secs(arguments.wait.into()), cancel))?;
        return Ok(Answer::Removed { removed: existed.then(|| name.clone()) });
    }
    bases.list().map(Answer::List)
}

/// Reads all bases, also after one that cannot be read.
fn verify(bases: &Bases, cancel: &CancelToken) -> Result<Vec<Verified>> {
    let mut all = Vec::new();
    for info in bases.list()? {
        cancel.check("verify the bases")?;
        let verified = match info.state {
            BaseState::Unfinished => Ok(None),
            _ => bases.verify(&info.name, cancel).map(Some),
        };
        let (verdict, error) = match verified {
            Ok(verdict) => (verdict, None),
            Err(error) => (None, Some(error)),
        };
        all.push(Verified { name: info.name, verdict, error });
    }
    Ok(all)
}
