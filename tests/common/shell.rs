//! A shell beside a test, for what only another process can do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// A shell that runs lines and answers each.
pub(crate) struct Shell(pub(crate) Child);

impl Shell {
    pub(crate) fn new(before: &[&str]) -> Shell {
        let mut words = before.to_vec();
        words.extend(["sh", "-c", "while IFS= read -r line; do eval \"$line\" && echo done || echo failed; done"]);
        let child = Command::new(words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Shell(child)
    }

    pub(crate) fn run(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{line}");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
