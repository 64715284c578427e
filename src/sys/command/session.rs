//! A program that takes one command after the other, and answers each with a JSON document on a pipe of its own.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::de::IgnoredAny;

use super::{Command, Finished, Running, close_others_on_exec, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Wait;

/// The number of the pipe in the program.
const REPORT: libc::c_int = 3;

/// Such a program while it runs. Killed when it is dropped.
pub(crate) struct Session {
    name: &'static str,
    stdin: ChildStdin,
    running: Running,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("program", &self.name).finish_non_exhaustive()
    }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) document: Vec<u8>,
    stderr: Vec<u8>,
}

impl Session {
    /// Starts it, with these in its environment; `report` is the name under which it is told the number of the pipe.
    pub(crate) fn begin(command: Command, report: &str, environment: &[(&str, &str)]) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        let mut prepared = command.prepared();
        prepared.stdin(Stdio::piped()).env(report, REPORT.to_string()).envs(environment.iter().copied());
        let inherited = write.as_raw_fd();
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated or locked. The pipe is open: it is closed on exec.
        unsafe {
            prepared.pre_exec(move || {
                // One that has the number already would stay marked as it is.
                let result =
                    if inherited == REPORT { libc::fcntl(REPORT, libc::F_SETFD, 0) } else { libc::dup2(inherited, REPORT) };
                if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        close_others_on_exec(&mut prepared, REPORT + 1);
        let mut child = prepared.spawn()?;
        drop(write);
        let Some(stdin) = child.stdin.take() else { return Err(io::Error::other("it has no standard input")) };
        Ok(Session { name: command.program.name, stdin, running: Running::new(child, Some(OwnedFd::from(File::from(read))))? })
    }

    /// Has it do one line, and waits for the answer.
    ///
    /// # Errors
    /// After any the program is killed, as a command that runs alone is: [`ErrorKind::TimedOut`], [`ErrorKind::Cancelled`], and [`ErrorKind::Io`] if it ended
    /// without an answer.
    pub(crate) fn ask(&mut self, line: &str, operation: &'static str, wait: &Wait) -> Result<Answer> {
        let answer = self.ask_and_wait(line, operation, wait);
        if answer.is_err() {
            self.running.end();
        }
        answer
    }

    fn ask_and_wait(&mut self, line: &str, operation: &'static str, wait: &Wait) -> Result<Answer> {
        let failed = |error: io::Error| Error::io(operation, format!("cannot have {line} done"), error).with_kind(ErrorKind::Io);
        self.stdin.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        loop {
            let ended = self.running.step().map_err(failed)?;
            if let Some(length) = first_document(&self.running.report.kept).map_err(|error| failed(error.into()))? {
                let rest = self.running.report.kept.split_off(length);
                let document = std::mem::replace(&mut self.running.report.kept, rest);
                // What was said of it was said before.
                self.running.stderr.read().map_err(failed)?;
                self.running.stdout.kept.clear();
                return Ok(Answer { document, stderr: std::mem::take(&mut self.running.stderr.kept) });
            }
            if ended.is_some() {
                let said = shown(&self.running.stderr.kept);
                return Err(Error::new(ErrorKind::Io, operation, format!("{} ended before {line} was done: {said}", self.name)));
            }
            if !wait.pause(operation, Duration::ZERO)? {
                return Err(Error::new(ErrorKind::TimedOut, operation, format!("{line} did not end in time and was killed")));
            }
        }
    }
}

impl Answer {
    /// As if the line had been run by itself, with this exit status.
    pub(crate) fn finished(self, line: String, code: u8) -> Finished {
        let status = ExitStatus::from_raw(i32::from(code) << 8);
        Finished { line, status, stdout: self.document, stderr: shown(&self.stderr) }
    }
}

/// How long the first document in a text is; `None` as long as it is not whole.
fn first_document(text: &[u8]) -> Result<Option<usize>, serde_json::Error> {
    let mut documents = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match documents.next() {
        None => Ok(None),
        Some(Ok(_)) => Ok(Some(documents.byte_offset())),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Program;
    use super::*;

    use crate::progress::CancelToken;

    fn wait(limit: u64) -> Wait {
        Wait::new(Duration::from_millis(limit), CancelToken::new())
    }

    /// A program that answers as LVM's shell does.
    fn session() -> Session {
        let script = "while read -r line; do case $line in sleep) sleep 60 ;; end) exit 3 ;; esac; \
                      echo \"said $line\" >&2; echo prompt; printf '{\"log\": [\\n\"%s\"]}\\n' \"$line\" >&$TEST_FD; done";
        let command = Program::find("sh", "dash").unwrap().command().arg("-c").arg(script);
        Session::begin(command, "TEST_FD", &[("OTHER", "x")]).unwrap()
    }

    #[test]
    fn one_command_after_the_other_is_answered() {
        let mut session = session();
        for line in ["one", "two", "three"] {
            let answer = session.ask(line, "test", &wait(20_000)).unwrap();
            assert_eq!(String::from_utf8(answer.document.clone()).unwrap().trim(), format!("{{\"log\": [\n\"{line}\"]}}"));
            let mut done = answer.finished(line.into(), 5);
            done.hear(b"why\n");
            assert_eq!((done.code(), done.stderr), (Some(5), format!("said {line}; why")));
        }
    }

    #[test]
    fn one_that_ends_or_hangs_is_an_error_and_is_gone() {
        let mut ended = session();
        let error = ended.ask("end", "test", &wait(20_000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.message().contains("ended before end was done"), "{error}");
        let mut hangs = session();
        let pid = hangs.running.child.id();
        assert_eq!(hangs.ask("sleep", "test", &wait(300)).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z")));
        assert!(hangs.ask("more", "test", &wait(300)).is_err());
    }

    #[test]
    fn documents_are_told_from_parts_of_one() {
        assert_eq!(first_document(b" {\"a\": [").unwrap(), None);
        assert_eq!(first_document(b"").unwrap(), None);
        assert_eq!(first_document(b"{\"a\": 1}\n{").unwrap(), Some(8));
        assert!(first_document(b"nonsense").is_err());
    }
}
