//! Programs that a test makes and runs at once.
//!
//! Never written by this process: whoever forks while the file is open for writing takes the descriptor along until it becomes
//! another image, and until then the kernel refuses to run the file (ETXTBSY). Test threads fork all the time.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Writes an executable script, whole.
pub fn script(path: &Path, text: &str) -> Result<()> {
    let mut writer = Command::new("sh");
    writer.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut writer = writer.spawn().context("run sh")?;
    let mut input = writer.stdin.take().context("its stdin")?;
    input.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    drop(input);
    let ended = writer.wait().context("wait for sh")?;
    ensure!(ended.success(), "writing {}: {ended}", path.display());
    Ok(())
}

/// Copies a program.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let ended = Command::new("cp").arg(from).arg(to).status().context("run cp")?;
    ensure!(ended.success(), "copying {} to {}: {ended}", from.display(), to.display());
    Ok(())
}
