//! `[metrics]`: the listener for Prometheus and health probes.

use std::net::{Ipv4Addr, SocketAddr};

use super::{fault::Faults, section::At, section::Document};
use crate::closed::{Closed, closed};

closed! {
    /// Which containers `/metrics/cadvisor` shows.
    pub enum Scope {
        /// Only those that the host's cgroups cannot show, so that nothing doubles beside the kubelet.
        Vm => "vm",
        /// All.
        All => "all",
    }
}

closed! {
    /// Which families `/metrics/cadvisor` shows.
    pub enum Profile {
        /// All.
        Full => "full",
        /// Those of Azure's minimal ingestion profile.
        Minimal => "minimal",
    }
}

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Address and port.
    pub listen: SocketAddr,
    /// What `/metrics/cadvisor` shows when the request does not say.
    pub cadvisor_scope: Scope,
}

/// As the file has it.
#[derive(Default)]
pub(super) struct Raw {
    listen: Option<At<String>>,
    cadvisor_scope: Option<At<String>>,
}

// === impl Scope ===

impl Scope {
    /// The scope of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.name() == name)
    }
}

// === impl Profile ===

impl Profile {
    /// The profile of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|profile| profile.name() == name)
    }
}

// === impl Raw ===

impl Raw {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let Some(mut section) = document.section("metrics") else { return Self::default() };
        let raw = Self { listen: section.string("listen"), cadvisor_scope: section.string("cadvisor_scope") };
        section.finish();
        raw
    }

    pub(super) fn resolve(self, faults: &mut Faults) -> Metrics {
        let mut listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9851));
        if let Some(At { line, value }) = self.listen {
            match value.parse() {
                Ok(address) => listen = address,
                Err(_) => faults.push(
                    Some(line),
                    "metrics.listen",
                    "must be an IP address and a port, as \"127.0.0.1:9851\" or \"[::]:9851\"",
                ),
            }
        }
        let mut cadvisor_scope = Scope::All;
        if let Some(At { line, value }) = self.cadvisor_scope {
            match Scope::named(&value) {
                Some(scope) => cadvisor_scope = scope,
                None => faults.push(Some(line), "metrics.cadvisor_scope", "must be \"vm\" or \"all\""),
            }
        }
        Metrics { listen, cadvisor_scope }
    }
}
