// SPDX-License-Identifier: GPL-2.0
//! Commands whose output is passed on as it comes, and read meanwhile.

use std::{
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

/// Runs a command, whose stdout goes to `out` as it comes, and piece by piece to `take`. Returns its
/// exit status as a shell counts.
pub fn run(words: &[String], out: &mut impl Write, mut take: impl FnMut(&[u8])) -> Result<i32> {
    let [program, arguments @ ..] = words else {
        anyhow::bail!("no command given");
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let mut output = child.stdout.take().context("its stdout is a pipe")?;
    let mut bytes = [0; 1 << 16];
    loop {
        let n = match output.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err.into()),
        };
        out.write_all(&bytes[..n]).and_then(|()| out.flush())?;
        take(&bytes[..n]);
    }
    let status = child.wait()?;
    Ok(status.code().unwrap_or(128 + status.signal().unwrap_or(0)))
}
