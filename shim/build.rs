//! Links the wrapper without shared libraries, wherever the linker has glibc as an archive too (docs/adr/0029).
//!
//! Three of its processes begin while a container waits, and a keeper must begin whatever has become of the files of this machine.
//! `-C target-feature=+crt-static` would say the same, but only of a whole build: of macros and of the collector as well.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// What rustc names when it links for glibc, but for the unwinder.
const LIBRARIES: [&str; 6] = ["libc.a", "libm.a", "libpthread.a", "librt.a", "libdl.a", "libutil.a"];

/// rustc names the shared one; these are the same as archives, and what they need.
const UNWINDER: &str = "GROUP ( -lgcc_eh -lgcc -lc )\n";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SHIMTAP_LINK");
    let is = |what: &str, value: &str| env::var(format!("CARGO_CFG_{what}")).is_ok_and(|v| v == value);
    let is_asked = env::var("SHIMTAP_LINK").is_ok_and(|how| how == "shared");
    if is_asked || !is("TARGET_OS", "linux") || !is("TARGET_ENV", "gnu") {
        return Ok(());
    }
    let Some(archives) =
        LIBRARIES.iter().chain(&["libgcc_eh.a"]).map(|name| archive(name)).collect::<Option<Vec<_>>>()
    else {
        println!(
            "cargo::warning=glibc is not here as an archive: the wrapper is linked with shared libraries, and starts slower"
        );
        return Ok(());
    };
    // Where the linker looks first, nothing but archives.
    let first = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("archives");
    let _ = fs::remove_dir_all(&first);
    fs::create_dir_all(&first)?;
    for archive in &archives {
        symlink(archive, first.join(archive.file_name().unwrap_or_default()))?;
    }
    fs::write(first.join("libgcc_s.a"), UNWINDER)?;
    println!("cargo::rustc-link-arg-bins=-L{}", first.display());
    println!("cargo::rustc-link-arg-bins=-static-pie");
    Ok(())
}

/// Where the linker that is going to be used has it.
fn archive(name: &str) -> Option<PathBuf> {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let asked = Command::new(linker).arg(format!("-print-file-name={name}")).output().ok()?;
    let path = String::from_utf8(asked.stdout).ok()?;
    // Without a folder where there is none.
    Some(Path::new(path.trim()).to_owned()).filter(|path| path.is_absolute() && path.exists())
}
