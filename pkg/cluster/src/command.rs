//! Running programs, with errors that say which and why.

use std::process::{Command, Output, Stdio};

use crate::Error;

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a program to its end and gives its standard output; a failure carries its error output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, Error> {
    output(Command::new(program).args(arguments)).map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a prepared command to its end without input.
pub fn output(command: &mut Command) -> Result<Output, Error> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::Command { command: line(command), reason: e.to_string() })?;
    if out.status.success() {
        return Ok(out);
    }
    let reason = match String::from_utf8_lossy(&out.stderr).trim() {
        "" => out.status.to_string(),
        text => text.to_owned(),
    };
    Err(Error::Command { command: line(command), reason })
}

/// Runs a program whose failure means that there was nothing to do.
pub fn try_run(program: &str, arguments: &[&str]) -> bool {
    run(program, arguments).is_ok()
}
