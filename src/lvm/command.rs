//! The `lvm` command.
//!
//! While a volume is locked, one process does one subcommand after the other: LVM's own shell, which answers by a report (lvmreport(7)). To start a
//! process takes as long as most of what it is started for. Where there is no such shell, each subcommand is a process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::Deserialize;

use super::report::{FIELDS, Group, parse, parse_disks};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CancelToken, Wait};
use crate::sys::command::{Command, Finished, Program, Session};
use crate::sys::udev;
use crate::volume::VolumeLock;

/// How long one may take: it waits for others that change the same group, and for devices.
const LIMIT: Duration = Duration::from_secs(120);
/// How long the shell may take to begin.
const BEGINNING: Duration = Duration::from_secs(5);
/// How many words the shell takes in a line; `MAX_ARGS` of LVM is one more.
const SHELL_WORDS: usize = 63;
/// Has the shell answer by reports. It comes with LVM.
const PROFILE: &str = "lvmdbusd";
const PROFILE_FILE: &str = "/etc/lvm/profile/lvmdbusd.profile";
/// What success is in a report: `ECMD_PROCESSED`.
const PROCESSED: &str = "1";

/// How long a call of a tool may take.
pub(super) fn limit() -> Wait {
    Wait::new(LIMIT, CancelToken::new())
}

/// The command, by whichever way it is run.
#[derive(Debug, Default)]
pub(super) struct Lvm {
    /// As long as the volume is locked.
    shell: Mutex<Weak<Mutex<Shell>>>,
}

/// The shell of a volume that is locked.
#[derive(Debug, Default)]
enum Shell {
    /// Not begun.
    #[default]
    Idle,
    Running(Session),
    /// There is none here, or it died.
    Unusable,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lvm {
    /// Lets a shell run as long as a lock is held.
    pub(super) fn while_locked(&self, held: VolumeLock) -> VolumeLock {
        let shell = Arc::<Mutex<Shell>>::default();
        *lock(&self.shell) = Arc::downgrade(&shell);
        VolumeLock::new((held, shell))
    }

    /// Runs a subcommand, whatever comes of it.
    pub(super) fn run<S: AsRef<str>>(
        &self,
        subcommand: &str,
        args: impl IntoIterator<Item = S>,
        operation: &'static str,
    ) -> Result<Finished> {
        let args: Vec<S> = args.into_iter().collect();
        let words: Vec<&str> = std::iter::once(subcommand).chain(args.iter().map(AsRef::as_ref)).collect();
        let done = self.by_shell(&words, operation).unwrap_or_else(|| by_itself(&words, operation));
        done.map_err(|error| match error.kind() {
            ErrorKind::TimedOut => error.with_remedy(
                "see what keeps LVM waiting: another LVM command that holds the group's lock, a suspended device (dmsetup info), or udev",
            ),
            _ => error,
        })
    }

    /// Runs a subcommand, which has to succeed.
    pub(super) fn must<S: AsRef<str>>(
        &self,
        subcommand: &str,
        args: impl IntoIterator<Item = S>,
        operation: &'static str,
    ) -> Result<()> {
        self.run(subcommand, args, operation)?.success(operation).map(drop)
    }

    /// Everything there is in a group.
    pub(super) fn report(&self, group: &str, operation: &'static str) -> Result<Group> {
        let ask =
            |subcommand: &str, fields: &str| self.run(subcommand, ["--units", "b", "--nosuffix", "-o", fields, group], operation);
        let read = |done: Finished| {
            parse(&done.success(operation)?)
                .map_err(|error| Error::new(ErrorKind::Io, operation, "cannot make sense of LVM's report").with_source(error))
        };
        let done = ask("lvs", FIELDS)?;
        if !done.status.success() && done.stderr.contains(&format!("Volume group \"{group}\" not found")) {
            return Err(Error::new(ErrorKind::NotFound, operation, format!("there is no volume group {group}"))
                .with_remedy("see which there are: vgs"));
        }
        let found = read(done)?;
        // A group without volumes has no rows.
        if found.volumes.is_empty() { read(ask("vgs", "vg_extent_size,vg_free")?) } else { Ok(found) }
    }

    /// The devices that a group lies on.
    pub(super) fn disks(&self, group: &str, operation: &'static str) -> Result<Vec<PathBuf>> {
        let select = format!("vg_name={group}");
        let done = self.run("pvs", ["-o", "pv_name", "--select", &select], operation)?.success(operation)?;
        parse_disks(&done)
            .map_err(|error| Error::new(ErrorKind::Io, operation, "cannot make sense of LVM's report").with_source(error))
    }

    /// Has the shell do it. `None`: there is none, and nothing was begun.
    fn by_shell(&self, words: &[&str], operation: &'static str) -> Option<Result<Finished>> {
        let shell = lock(&self.shell).upgrade()?;
        let mut shell = lock(&shell);
        if matches!(*shell, Shell::Idle) {
            *shell = begin(operation).map_or(Shell::Unusable, Shell::Running);
        }
        let Shell::Running(session) = &mut *shell else { return None };
        let line = line(words)?;
        let done = ask(session, &line, operation);
        if done.is_err() {
            *shell = Shell::Unusable;
        }
        Some(done)
    }
}

/// Whether a subcommand only tells what there is.
fn is_report(words: &[&str]) -> bool {
    matches!(words.first(), Some(&"lvs" | &"vgs" | &"pvs"))
}

/// The program. Where udev does not run it is told to make and remove the nodes itself: it would wait for ever.
fn command() -> Result<Command> {
    let command = Program::find("lvm", "lvm2")?.command();
    Ok(if udev::listens() { command } else { command.variable("DM_DISABLE_UDEV", "1") })
}

/// Runs a subcommand as a process.
fn by_itself(words: &[&str], operation: &'static str) -> Result<Finished> {
    let command = command()?.args(words);
    if !is_report(words) {
        return command.run(operation, &limit());
    }
    let mut done = command.args(["--reportformat", "json"]).run(operation, &limit())?;
    // Why one failed may be in the report itself.
    if !done.status.success() {
        done.hear(&words_of(&done.stdout));
    }
    Ok(done)
}

/// Starts a shell, and has it show that it answers.
fn begin(operation: &'static str) -> Option<Session> {
    if !Path::new(PROFILE_FILE).exists() {
        return None;
    }
    let command = command().ok()?;
    let environment = [("LVM_COMMAND_PROFILE", PROFILE), ("LVM_SUPPRESS_FD_WARNINGS", "1")];
    let mut session = Session::begin(command, "LVM_REPORT_FD", &environment).ok()?;
    let answer = session.ask("version", operation, &Wait::new(BEGINNING, CancelToken::new())).ok()?;
    code(&answer.document).filter(|code| *code == 0).map(|_| session)
}

fn ask(session: &mut Session, line: &str, operation: &'static str) -> Result<Finished> {
    let answer = session.ask(line, operation, &limit())?;
    let code = code(&answer.document)
        .ok_or_else(|| Error::new(ErrorKind::Io, operation, format!("LVM does not say what came of {line}")))?;
    // Why one failed is in the log that is kept of it, and nowhere else.
    let words = if code == 0 { Vec::new() } else { words_of(&session.ask("lastlog", operation, &limit())?.document) };
    let mut done = answer.finished(format!("lvm {line}"), code);
    done.hear(&words);
    Ok(done)
}

/// A line for the shell; `None` if it would read it otherwise, or has more words than it takes: 63.
fn line(words: &[&str]) -> Option<String> {
    let plain =
        |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.,+/=:".contains(&byte));
    (words.len() <= SHELL_WORDS && words.iter().all(plain)).then(|| words.join(" "))
}

/// The log of a command, or what is shown of it.
#[derive(Deserialize, Default)]
struct Log {
    log: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    log_type: String,
    log_object_type: String,
    log_message: String,
    log_ret_code: String,
}

/// What a command said of its failure, a line each.
fn words_of(document: &[u8]) -> Vec<u8> {
    let document: Log = serde_json::from_slice(document).unwrap_or_default();
    let said = document.log.into_iter().filter(|entry| matches!(entry.log_type.as_str(), "error" | "warn"));
    said.flat_map(|entry| (entry.log_message + "\n").into_bytes()).collect()
}

/// What a command would have exited with, by the log in its answer.
fn code(document: &[u8]) -> Option<u8> {
    let document: Log = serde_json::from_slice(document).ok()?;
    let last = document.log.into_iter().rfind(|entry| entry.log_type == "status" && entry.log_object_type == "cmd")?;
    if last.log_ret_code == PROCESSED { Some(0) } else { last.log_ret_code.parse().ok().filter(|code| *code != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_command_is_in_its_log() {
        let log = |object: &str, code: &str| {
            format!(
                r#"{{"report": [{{"lv": []}}], "log": [{{"log_type":"error", "log_object_type":"lv", "log_message":"no room", "log_ret_code":"0"}},
                {{"log_seq_num":"3", "log_type":"status", "log_object_type":"{object}", "log_message":"x", "log_ret_code":"{code}"}}]}}"#
            )
        };
        assert_eq!(code(log("cmd", "1").as_bytes()), Some(0));
        assert_eq!(code(log("cmd", "5").as_bytes()), Some(5));
        assert_eq!(words_of(log("cmd", "5").as_bytes()), b"no room\n");
        assert_eq!(code(log("lv", "1").as_bytes()), None);
        assert_eq!(code(br#"{"log": []}"#), None);
        assert_eq!(code(b"nonsense"), None);
    }

    #[test]
    fn lines_hold_plain_words_only() {
        assert_eq!(
            line(&["lvremove", "--select", "lv_tags=reroot-made", "vg/c1"]).unwrap(),
            "lvremove --select lv_tags=reroot-made vg/c1"
        );
        for word in ["a b", "a\nb", "a#b", "\"a\"", "a'b", "a\\b", "", "a;b", "ä"] {
            assert_eq!(line(&["lvchange", word]), None, "{word:?}");
        }
        assert!(line(&["x"; SHELL_WORDS]).is_some());
        assert_eq!(line(&["x"; SHELL_WORDS + 1]), None);
    }
}
