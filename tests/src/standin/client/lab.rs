//! A place of its own for each test: directories, names, environment; and nothing left of it afterwards.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use super::PATIENCE;
use crate::{
    rig::collector::{Collector, Settings, spool_dir},
    standin::{
        journal::{self, Entry, Kind, Verb},
        procs,
        script::{KEY, Script},
    },
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Everything below a directory, sockets and FIFOs included.
#[must_use]
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let entries: Vec<_> = entries.filter_map(Result::ok).collect();
    let below =
        entries.iter().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).flat_map(|e| files(&e.path()));
    below.chain(entries.iter().map(fs::DirEntry::path)).collect()
}

/// Directories and names that no other test has.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    namespace: String,
    /// Environment for the shim binary, later entries first.
    pub env: Vec<(String, String)>,
}

impl Lab {
    /// A fresh place under the temporary directory. Paths are short: a socket's may have 106 bytes.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn new() -> Result<Self> {
        let name = format!("tap-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = env::temp_dir().join(&name);
        for sub in ["inner", "run", "bundles", "fifo"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("making {}/{sub}", dir.display()))?;
        }
        let text = |sub: &str| dir.join(sub).display().to_string();
        let env = vec![
            ("STANDIN_DIR".to_owned(), text("inner")),
            ("SHIMTAP_RUN_DIR".to_owned(), text("run")),
            ("SHIMTAP_COLLECTOR".to_owned(), text("col/collector.sock")),
            ("SHIMTAP_SPOOL_DIR".to_owned(), spool_dir(&name).display().to_string()),
            ("SHIMTAP_CONFIG".to_owned(), text("shim.toml")),
        ];
        Ok(Self { dir, namespace: name, env })
    }

    /// Names the real shim behind the invoked name, as an administrator would in `shim.toml`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn wrap(&self, invoked: &str, inner: &Path) -> Result<()> {
        // A start that ran out of time would leave the pod unwrapped, and the test would be about nothing.
        // Tests kill faster than any fault would; what safe mode does is asked where it is meant.
        let text = format!(
            "[inner]\n\"{invoked}\" = \"{}\"\n[start]\nready_ms = 20000\n[safe_mode]\ndeaths = 0\n",
            inner.display()
        );
        fs::write(self.dir.join("shim.toml"), text).context("shim.toml")
    }

    /// Changes what [`Lab::wrap`] has written.
    ///
    /// # Errors
    /// It is not there, or cannot be written.
    pub fn reconfigure(&self, from: &str, to: &str) -> Result<()> {
        let path = self.dir.join("shim.toml");
        let text = fs::read_to_string(&path).context("shim.toml")?;
        ensure!(text.contains(from), "{from:?} is not in shim.toml");
        fs::write(&path, text.replace(from, to)).context("shim.toml")
    }

    /// No wrapper of this place writes spool files.
    ///
    /// # Errors
    /// As [`Lab::reconfigure`].
    pub fn without_spool(&self) -> Result<()> {
        self.reconfigure("deaths = 0\n", "deaths = 0\n[spool]\nlimit_bytes = 0\n")
    }

    /// Where everything is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where wrappers spool.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        spool_dir(&self.namespace)
    }

    /// Starts a collector for this place.
    ///
    /// # Errors
    /// It does not start.
    pub fn collector(&self) -> Result<Collector> {
        self.collector_told(&Settings::default())
    }

    /// The same, told this.
    ///
    /// # Errors
    /// It does not start.
    pub fn collector_told(&self, settings: &Settings) -> Result<Collector> {
        Collector::start(&self.dir, &self.namespace, settings)
    }

    /// The stand-in's own directory.
    #[must_use]
    pub fn inner_dir(&self) -> PathBuf {
        self.dir.join("inner")
    }

    /// Sockets of its stand-ins, of living and of dead ones.
    #[must_use]
    pub fn inner_sockets(&self) -> Vec<PathBuf> {
        let mut found = files(&self.inner_dir());
        found.retain(|path| path.extension().is_some_and(|e| e == "sock"));
        found
    }

    /// The wrapper's own directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where FIFOs of containerd's side are made.
    #[must_use]
    pub fn fifo_dir(&self) -> PathBuf {
        self.dir.join("fifo")
    }

    /// A namespace that no other test uses.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Makes a bundle: `config.json` with the script, and the sandbox annotation where a pod is named.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn bundle(&self, id: &str, pod: Option<&str>, script: &Script) -> Result<PathBuf> {
        let bundle = self.dir.join("bundles").join(id);
        fs::create_dir_all(bundle.join("rootfs")).context("bundle")?;
        let kind = if pod == Some(id) { "sandbox" } else { "container" };
        let annotations = match pod {
            Some(pod) => serde_json::json!({
                "io.kubernetes.cri.sandbox-id": pod,
                "io.kubernetes.cri.container-type": kind,
            }),
            None => serde_json::json!({}),
        };
        let config = serde_json::json!({"ociVersion": "1.0.2", "annotations": annotations, KEY: script});
        fs::write(bundle.join("config.json"), config.to_string()).context("config.json")?;
        Ok(bundle)
    }

    /// All frames that stand-ins of this place have received.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn requests(&self) -> Result<Vec<Entry>> {
        journal::read(&self.inner_dir(), journal::REQUESTS)
    }

    /// All verbs that stand-ins of this place have run.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn verbs(&self) -> Result<Vec<Verb>> {
        journal::read(&self.inner_dir(), journal::VERBS)
    }

    /// How many requests of this method about this process have arrived.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn count(&self, method: &str, id: &str, exec_id: &str) -> Result<usize> {
        let of_it =
            |e: &&Entry| e.kind == Kind::Request && e.method == method && e.id == id && e.exec_id == exec_id;
        Ok(self.requests()?.iter().filter(of_it).count())
    }

    /// The daemons of the stand-in, by the pid files they leave.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn inner_pids(&self) -> Result<Vec<Pid>> {
        let names = fs::read_dir(self.inner_dir()).context("stand-in's directory")?;
        Ok(names
            .filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".pid")?.parse().ok())
            .map(Pid::from_raw)
            .collect())
    }

    /// Ends every process of this place.
    ///
    /// # Errors
    /// One does not die.
    pub fn end(&self) -> Result<()> {
        // They would leave by themselves, after their time, and make anew what is removed here; there is nobody to wait for
        // them. A `start` that is under way may leave somebody behind, who is found by the next look. A writer that hangs in a
        // disk ends with that.
        let alone = || {
            let mut left = procs::of(&self.namespace).ok()?;
            left.retain(|process| process.state != 'Z');
            left.iter().try_for_each(|process| procs::kill(process.pid)).ok()?;
            left.retain(|process| process.state != 'D');
            left.is_empty().then_some(())
        };
        procs::wait(PATIENCE, || format!("all of {} to end", self.namespace), alone)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("ending {}: {e:#}", self.namespace);
        }
        if env::var_os("SHIMTAP_KEEP").is_none() {
            let _shown_by_tmp = fs::remove_dir_all(&self.dir);
            let _never_made_by_most = fs::remove_dir_all(self.spool_dir());
        }
    }
}
