//! Containers whose stdout names a logger (`binary://`): one that passes on to FIFOs, where it can be judged.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api;

use super::lab::Lab;

/// Copies both of its streams into the FIFOs `<to>-stdout` and `<to>-stderr`.
const PASSES_ON: &str = "#!/bin/sh\ncat <&3 >$2-stdout 3<&- 4<&- 5>&- & cat <&4 >$2-stderr 3<&- 4<&- 5>&- &\n\
                         exec 3<&- 4<&- 5>&-; wait\n";

/// Changes a Create so that it names a logger, which passes on to the FIFOs called `fifos` of this place.
///
/// # Errors
/// The logger cannot be written.
pub fn name_one(lab: &Lab, fifos: &str, create: &mut api::CreateTaskRequest) -> Result<()> {
    let dir = lab.fifo_dir();
    let program = dir.join("logger");
    // Never written while one runs: that would be refused.
    if !program.exists() {
        fs::write(&program, PASSES_ON).context("write the logger")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    }
    create.stdout = format!("binary://{}?to={}", program.display(), dir.join(fifos).display());
    create.stderr.clone_from(&create.stdout);
    Ok(())
}

/// Tells the wrapper of this place that its stand-in starts loggers as the runc shim does, which it believes of that one only.
///
/// # Errors
/// There is not one wrapper to be told.
pub fn is_believed(lab: &Lab) -> Result<()> {
    let mut told = 0;
    for file in fs::read_dir(lab.run_dir().join("s")).context("list the run directory")? {
        let path = file.context("a file of it")?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = fs::read_to_string(&path).context("read the description")?;
            let text = text.replace("\"starts_loggers\": false", "\"starts_loggers\": true");
            told += usize::from(text.contains("\"starts_loggers\": true"));
            fs::write(&path, text).context("write the description")?;
        }
    }
    ensure!(told == 1, "{told} wrappers were told");
    Ok(())
}
