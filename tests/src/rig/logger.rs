//! A logger of a container (`binary://`), as `nerdctl` and `ctr run --log-uri` name one: a shell script in a folder of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Node;

/// Makes one: its folder, which it is told as `$2`, and the URI that names it. The script reads its container's streams from
/// descriptors 3 and 4, and closes 5 when it is ready.
pub fn logger(node: &Node, name: &str, script: &str) -> Result<(PathBuf, String)> {
    let dir = node.dir().join(name);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let program = dir.join("logger");
    fs::write(&program, format!("#!/bin/sh{script}"))
        .with_context(|| format!("write {}", program.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    let uri = format!("binary://{}?folder={}", program.display(), dir.display());
    Ok((dir, uri))
}
