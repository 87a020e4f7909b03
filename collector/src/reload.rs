//! Another configuration for a running collector: whole, or not at all.
//!
//! Rules can change while it runs. What else differs needs a restart, and then nothing of the file is taken, so that what
//! runs is always what some file said.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tracing::{error, info};

use crate::{
    config::{Config, ConfigFault},
    rules::Rules,
};

/// What runs, and where it came from.
#[derive(Debug)]
pub struct Reloader {
    path: Option<PathBuf>,
    running: Mutex<Config>,
    rules: watch::Sender<Arc<Rules>>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadFault {
    /// The file cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigFault),
    /// It differs in what cannot be changed.
    #[error("[{}] changed, which needs a restart of the collector", .0.join("], ["))]
    Restart(Vec<&'static str>),
}

// === impl Reloader ===

impl Reloader {
    /// `config`, which came from `path` (`None`: the default one), runs.
    #[must_use]
    pub fn new(path: Option<PathBuf>, config: Config) -> Self {
        let rules = watch::Sender::new(Arc::new(config.rules.clone()));
        Self { path, running: Mutex::new(config), rules }
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
        let new = Config::load(self.path.as_deref())?;
        let fixed = running.sections_unlike(&new);
        if !fixed.is_empty() {
            return Err(ReloadFault::Restart(fixed));
        }
        let rules = Arc::new(new.rules.clone());
        let count = rules.len();
        *running = new;
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
}
