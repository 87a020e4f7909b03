//! A wrapped pod whose shim passes for Kata's, as a collector is told of it; and such a shim for a real containerd.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use anyhow::{Context, Result, bail};
use containerd_shim_protos::{
    cgroups::metrics::{BlkIOEntry, Metrics},
    protobuf::Message,
};

use super::{
    lab::Lab,
    pod::Pod,
    wrapped::{STANDIN, WRAPPER, binary, wrapped_as},
};
use crate::standin::{
    kata::{Profile, guest::Guest},
    script::Script,
};

/// A pod behind the wrapper whose shim passes for `shim`, under the path where kata-deploy installs that one; the wrapper
/// attaches to the collector at `collector`.
///
/// # Errors
/// As [`wrapped_as`], and where the shim's place cannot be made.
pub fn wrapped_as_kata(id: &str, shim: Profile, script: &Script, collector: &Path) -> Result<Pod> {
    wrapped_as(id, script, |lab| {
        let below = if shim == Profile::Rust { "opt/kata/runtime-rs/bin" } else { "opt/kata/bin" };
        let dir = lab.dir().join(below);
        fs::create_dir_all(&dir).context("a folder for the shim")?;
        let path = dir.join("containerd-shim-kata-v2");
        symlink(binary(STANDIN)?, &path).context("a shim of that name")?;
        lab.wrap(WRAPPER, &path)?;
        lab.env.push((Profile::KEY.to_owned(), shim.word().to_owned()));
        lab.env.push(("SHIMTAP_COLLECTOR".to_owned(), collector.display().to_string()));
        Ok(())
    })
}

/// A shim for containerd, in `dir`: the stand-in as `shim`, every container with this guest, and with this environment more.
/// Gives the lines for `shim.toml` by which it stands behind the wrapper, whichever of its names containerd knows.
///
/// # Errors
/// A file cannot be written.
pub fn for_containerd(dir: &Path, shim: Profile, guest: &Guest, more: &[(&str, &str)]) -> Result<String> {
    let path = dir.join("containerd-shim-like-kata");
    let home = dir.join("standin");
    fs::create_dir_all(&home).context("the stand-in's folder")?;
    let guest = serde_json::to_string(guest).context("the guest")?;
    let told = [(Profile::KEY, shim.word()), (Guest::KEY, &guest)];
    let mut script = format!("#!/bin/sh\nexport STANDIN_DIR='{}'", home.display());
    for (key, value) in told.iter().chain(more) {
        script += &format!(" {key}='{value}'");
    }
    script += &format!("\nexec {} \"$@\"\n", binary(STANDIN)?.display());
    fs::write(&path, script).context("write the shim")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")?;
    let names = ["containerd-shim-tap-v2", "containerd-shim-runc-v2"];
    let lines = names.iter().map(|name| format!("\"{name}\" = \"{}\"\n", path.display()));
    Ok(format!("[inner]\n{}", lines.collect::<String>()))
}

/// Makes the shims of a lab pass for `shim`, and its wrappers mend the Stats of those that `whose` (the option's value in
/// `shim.toml`) names.
///
/// # Errors
/// As [`Lab::reconfigure`].
pub fn repairing(lab: &mut Lab, shim: Profile, whose: &str) -> Result<()> {
    lab.env.push((Profile::KEY.to_owned(), shim.word().to_owned()));
    lab.reconfigure("deaths = 0\n", &format!("deaths = 0\n[stats]\nrepair = {whose}\n"))
}

/// The message of a shim that sends the first version's, as containerd is to have it: by hand, from the decoded message.
///
/// # Errors
/// It sends another, or none.
pub fn mended(shim: Profile, guest: &Guest) -> Result<Metrics> {
    let Some(sent) = shim.stats(guest)?.filter(|any| any.type_url.ends_with("v1.Metrics")) else {
        bail!("{} sends no message of the first version", shim.word());
    };
    let mut right = Metrics::parse_from_bytes(&sent.value).context("the shim's message")?;
    let memory = right.memory.as_mut().context("memory")?;
    memory.total_inactive_file = memory.inactive_file;
    let blkio = right.blkio.as_mut().context("block IO")?;
    for row in std::mem::take(&mut blkio.io_service_bytes_recursive) {
        let name = match row.op.as_str() {
            "rios" => "read",
            "wios" => "write",
            "dios" => "discard",
            _ => {
                blkio.io_service_bytes_recursive.push(row);
                continue;
            }
        };
        let row = BlkIOEntry { op: name.to_owned(), ..row };
        blkio.io_serviced_recursive.push(row);
    }
    Ok(right)
}
