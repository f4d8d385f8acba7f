//! Outside programs, run to their end.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What the program printed; an error when it failed.
#[expect(clippy::disallowed_methods, reason = "a tool of the workbench may block and fork")]
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}, {}", args.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
