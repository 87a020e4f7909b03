//! Another configuration for a running collector: whole, or not at all.
//!
//! Rules can change while it runs. What else differs needs a restart, and then nothing of the file is taken, so that what
//! runs is always what some file said. A file that is gone says nothing, and must not be taken for one without rules: an editor that
//! replaces it removes it for a moment.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tracing::{error, info};

use crate::{
    config::{Config, ConfigFault, DEFAULT_PATH, Loaded},
    rules::Rules,
};

/// What runs, and where it came from.
#[derive(Debug)]
pub struct Reloader {
    file: PathBuf,
    running: Mutex<Running>,
    rules: watch::Sender<Arc<Rules>>,
}

#[derive(Debug)]
struct Running {
    config: Config,
    /// Nobody named the file, and it was not there when this was read.
    may_be_absent: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadFault {
    /// The file cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigFault),
    /// There is none any more.
    #[error(
        "the configuration {} is gone, and what it said last still holds; put it back and reload, or leave an empty file there \
         where nothing is to be said any more", .0.display()
    )]
    Gone(PathBuf),
    /// It differs in what cannot be changed.
    #[error("[{}] changed, which needs a restart of the collector", .0.join("], ["))]
    Restart(Vec<&'static str>),
}

// === impl Reloader ===

impl Reloader {
    /// What was `loaded` from `path` (`None`: the default one) runs.
    #[must_use]
    pub fn new(path: Option<&Path>, loaded: Loaded) -> Self {
        let Loaded { config, was_there } = loaded;
        let rules = watch::Sender::new(Arc::new(config.rules.clone()));
        let running = Running { config, may_be_absent: path.is_none() && !was_there };
        let file = path.unwrap_or_else(|| Path::new(DEFAULT_PATH)).to_owned();
        Self { file, running: Mutex::new(running), rules }
    }

    /// The rules that hold.
    #[must_use]
    pub fn rules(&self) -> watch::Receiver<Arc<Rules>> {
        self.rules.subscribe()
    }

    /// Reads the file again. Says in the log what came of it, and to whoever asked.
    ///
    /// # Errors
    /// The file cannot be used, or needs a restart; then all is as it was.
    pub fn reload(&self) -> Result<usize, ReloadFault> {
        let done = self.try_reload();
        match &done {
            Ok(rules) => info!(rules, "the configuration was read again"),
            Err(fault) => error!("the configuration was read again and not taken: {fault}"),
        }
        done
    }

    fn try_reload(&self) -> Result<usize, ReloadFault> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Loaded { config: new, was_there } =
            Config::load_at(&self.file, running.may_be_absent).map_err(|fault| self.fault(fault))?;
        let fixed = running.config.sections_unlike(&new);
        if !fixed.is_empty() {
            return Err(ReloadFault::Restart(fixed));
        }
        let rules = Arc::new(new.rules.clone());
        let count = rules.len();
        // One that has come is needed from here on.
        *running = Running { config: new, may_be_absent: running.may_be_absent && !was_there };
        // Where nothing differs, nobody need look again.
        self.rules.send_if_modified(|current| {
            let differs = **current != *rules;
            if differs {
                *current = rules;
            }
            differs
        });
        Ok(count)
    }

    fn fault(&self, fault: ConfigFault) -> ReloadFault {
        match fault {
            ConfigFault::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ReloadFault::Gone(self.file.clone())
            }
            fault => fault.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RULE: &str = "[[rule]]\nredact = [\"email\"]\n";

    /// As if the default path were `file`.
    fn started(file: &Path) -> Reloader {
        let loaded = Config::load_at(file, true).expect("without a fault");
        Reloader { file: file.to_owned(), ..Reloader::new(None, loaded) }
    }

    #[test]
    fn a_file_that_is_gone_is_not_one_without_rules() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("collector.toml");
        fs::write(&file, RULE).expect("writable");
        let reloader = started(&file);
        fs::remove_file(&file).expect("it is there");
        let fault = reloader.reload().expect_err("there is no file");
        assert!(matches!(&fault, ReloadFault::Gone(gone) if *gone == file), "{fault}");
        assert_eq!(reloader.rules().borrow().len(), 1);
        // One that says nothing is there, and says so.
        fs::write(&file, "").expect("writable");
        assert_eq!(reloader.reload().expect("a file"), 0);
        fs::remove_file(&file).expect("it is there");
        assert!(matches!(reloader.reload(), Err(ReloadFault::Gone(_))));
    }

    #[test]
    fn a_file_that_never_was_is_not_missed_until_it_comes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("collector.toml");
        let reloader = started(&file);
        assert_eq!(reloader.reload().expect("none is needed"), 0);
        // Not taken: what runs is still what no file said.
        fs::write(&file, format!("[node]\nname = \"other\"\n{RULE}")).expect("writable");
        assert!(matches!(reloader.reload(), Err(ReloadFault::Restart(_))));
        fs::remove_file(&file).expect("it is there");
        assert_eq!(reloader.reload().expect("none is needed"), 0);
        fs::write(&file, RULE).expect("writable");
        assert_eq!(reloader.reload().expect("a file"), 1);
        fs::remove_file(&file).expect("it is there");
        assert!(matches!(reloader.reload(), Err(ReloadFault::Gone(_))));
        assert_eq!(reloader.rules().borrow().len(), 1);
    }
}
