//! The image that the rig's containers run: busybox and our line generator, built on the spot.
//!
//! An OCI layout in a tar, made without network or registry and kept under `target/rig` by the digest of
//! what is in it. Two names: `IMAGE` for containers, `PAUSE` for the sandbox of a pod.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::rig::run::run;
use crate::rig::tools;

/// What containers are made of.
pub const IMAGE: &str = "docker.io/shimtap/rig:1";
/// What sandboxes are made of.
pub const PAUSE: &str = "docker.io/shimtap/pause:1";

const LIMIT: Duration = Duration::from_secs(60);

/// Where it is, once somebody has asked. The digest of what is in it takes a second without optimisation, and two tests of
/// one process must not build the same image at the same time.
static ARCHIVE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Names an image that is ready, where finding it by its content is too slow: in an emulated machine.
pub const READY: &str = "SHIMTAP_RIG_IMAGE";

/// Path of a tar that `ctr images import` takes; built where it is not there yet.
pub fn archive() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(READY) {
        return Ok(PathBuf::from(path));
    }
    let mut known = ARCHIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = known.as_ref().filter(|path| path.is_file()) {
        return Ok(path.clone());
    }
    Ok(known.insert(build()?).clone())
}

fn build() -> Result<PathBuf> {
    let busybox = tools::in_path("busybox").context("busybox is not installed (package busybox-static)")?;
    let speaker = tools::speaker()?;
    let mut digest = Sha256::new();
    for part in [&busybox, &speaker] {
        digest.update(fs::read(part).with_context(|| format!("read {}", part.display()))?);
    }
    let dir = tools::cache_dir().join("images");
    let path = dir.join(format!("{}.tar", hex(&digest.finalize()).get(..16).unwrap_or_default()));
    if path.is_file() {
        return Ok(path);
    }
    let work = dir.join(format!("work-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    tools::forget_old(&dir);
    fill_rootfs(&work.join("rootfs"), &busybox, &speaker)?;
    let layout = work.join("layout");
    write_layout(&work.join("rootfs"), &layout)?;
    let fresh = work.join("image.tar");
    pack(&layout, &fresh)?;
    // Another process may have been quicker; both tars hold the same.
    fs::rename(&fresh, &path).with_context(|| format!("put {}", path.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    Ok(path)
}

fn fill_rootfs(root: &Path, busybox: &Path, speaker: &Path) -> Result<()> {
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "host"] {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("create {dir} in the image"))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("copy busybox")?;
    let mut list = Command::new(busybox);
    list.arg("--list");
    for applet in run(list, LIMIT)?.ok()?.text().lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("link {applet}"))?;
    }
    // Its debug information is ten times its size, and every node imports it.
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(root.join("bin/speaker")).arg(speaker);
    run(strip, LIMIT)?.ok().context("strip the speaker (package binutils)")?;
    // The package `busybox` is linked dynamically, `busybox-static` is not: both do.
    for library in libraries(speaker)?.into_iter().chain(libraries(busybox)?) {
        let inside = root.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(inside.parent().context("a library has no folder")?)?;
        fs::copy(&library, &inside).with_context(|| format!("copy {}", library.display()))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").context("write passwd")?;
    fs::write(root.join("etc/group"), "root:x:0:\n").context("write group")
}

/// The shared libraries and the loader that a dynamically linked program needs; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    command.arg(program);
    let said = run(command, LIMIT)?;
    if said.code != 0 && !said.stderr.contains("not a dynamic executable") {
        bail!("ldd {}: {}", program.display(), said.stderr.trim());
    }
    let text = said.text();
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

fn write_layout(rootfs: &Path, layout: &Path) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).context("create the layout")?;
    let tar = layout.with_extension("layer");
    pack(rootfs, &tar)?;
    let layer = blob(&blobs, &fs::read(&tar).context("read the layer")?)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("images for {other} were never tried"),
    };
    let mut manifests = Vec::new();
    for (name, command) in [(IMAGE, vec!["/bin/sh"]), (PAUSE, vec!["/bin/sleep", "2147483647"])] {
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": command, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        });
        let config = blob(&blobs, &serde_json::to_vec(&config).context("write a config")?)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        });
        let manifest = blob(&blobs, &serde_json::to_vec(&manifest).context("write a manifest")?)?;
        let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        let reference = name.rsplit(':').next().unwrap_or(name);
        if let Some(entry) = entry.as_object_mut() {
            let names =
                json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": reference});
            entry.insert("annotations".to_owned(), names);
            entry.insert("platform".to_owned(), json!({"os": "linux", "architecture": architecture}));
        }
        manifests.push(entry);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(layout.join("index.json"), index.to_string()).context("write the index")?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("write the mark")
}

/// A blob of the layout: what a descriptor says of it.
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.size})
    }
}

fn blob(dir: &Path, bytes: &[u8]) -> Result<Blob> {
    let hash = hex(&Sha256::digest(bytes));
    fs::write(dir.join(&hash), bytes).context("write a blob")?;
    Ok(Blob { digest: format!("sha256:{hash}"), size: bytes.len() })
}

/// Bytes as lower case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A tar of what is in `dir`, the same bytes for the same content.
fn pack(dir: &Path, tar: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf"]);
    command.arg(tar).arg("-C").arg(dir).arg(".");
    run(command, LIMIT)?.ok().with_context(|| format!("pack {}", dir.display()))?;
    Ok(())
}
