//! `[metrics]`: the listener for Prometheus and health probes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    option::{Choice, Heading, Number, Text},
    section::{At, Document},
};
use crate::closed::closed;

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

/// Bounds of what is exposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series of one exposition.
    pub series: u64,
    /// Bytes of a label's value.
    pub label_value_bytes: usize,
    /// Block devices of a container.
    pub devices: usize,
    /// Interfaces of a pod.
    pub interfaces: usize,
}

/// As it stands in the file, or is without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Address and port.
    pub listen: SocketAddr,
    /// What `/metrics/cadvisor` shows when the request does not say.
    pub cadvisor_scope: Scope,
    /// How old a page may be that is given again.
    pub page_age: Duration,
    /// What is exposed at most.
    pub limits: Limits,
}

const LISTEN: Text = Text {
    key: "listen",
    says: "Address for /metrics, /metrics/cadvisor, /healthz and /readyz.",
    default: "127.0.0.1:9851",
};
const CADVISOR_SCOPE: Choice<Scope> = Choice {
    key: "cadvisor_scope",
    says: "What /metrics/cadvisor shows when the request does not say: containers in VMs, or all.",
    default: Scope::All,
};

const PAGE_AGE_MS: Number = Number {
    key: "page_age_ms",
    says: "A page that was made within this time is given again, so that many scrapers cost no more than one. 0: each is made anew.",
    range: 0..=60_000,
    default: 1_000,
};
const MAX_SERIES: Number = Number {
    key: "max_series",
    says: "Series of one exposition. What this and the next three cut is counted in shimtap_metrics_cut_total.",
    range: 1_000..=10_000_000,
    default: 200_000,
};
const MAX_LABEL_VALUE_BYTES: Number = Number {
    key: "max_label_value_bytes",
    says: "Bytes of a label's value; longer ones end in a number made of the whole. Azure's managed Prometheus takes 1023.",
    range: 64..=16_384,
    default: 1_023,
};
const MAX_DEVICES: Number =
    Number { key: "max_devices", says: "Block devices of a container.", range: 1..=1_024, default: 32 };
const MAX_INTERFACES: Number =
    Number { key: "max_interfaces", says: "Interfaces of a pod.", range: 1..=256, default: 32 };

pub(super) const HEADING: Heading = Heading {
    name: "metrics",
    says: "",
    is_comment: false,
    options: &[
        &LISTEN,
        &CADVISOR_SCOPE,
        &PAGE_AGE_MS,
        &MAX_SERIES,
        &MAX_LABEL_VALUE_BYTES,
        &MAX_DEVICES,
        &MAX_INTERFACES,
    ],
};

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            series: MAX_SERIES.default,
            label_value_bytes: size(MAX_LABEL_VALUE_BYTES.default),
            devices: size(MAX_DEVICES.default),
            interfaces: size(MAX_INTERFACES.default),
        }
    }
}

/// Numbers of options here are far below what any machine can address.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn read(document: &mut Document<'_>) -> Self {
        let mut section = document.section(&HEADING);
        let At { line, value } = section.text(&LISTEN);
        let listen = value.parse().unwrap_or_else(|_| {
            let message = "must be an IP address and a port, as \"127.0.0.1:9851\" or \"[::]:9851\"";
            section.refuse(line, LISTEN.key, message);
            // Nothing of a file with a fault is used.
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
        });
        let metrics = Self {
            listen,
            cadvisor_scope: section.choice(&CADVISOR_SCOPE),
            page_age: section.millis(&PAGE_AGE_MS),
            limits: Limits {
                series: section.whole(&MAX_SERIES),
                label_value_bytes: size(section.whole(&MAX_LABEL_VALUE_BYTES)),
                devices: size(section.whole(&MAX_DEVICES)),
                interfaces: size(section.whole(&MAX_INTERFACES)),
            },
        };
        section.finish();
        metrics
    }
}
