//! Names of this host's block devices, for samples that give only numbers.
//!
//! Never asked for a container that this host's cgroups do not show: a VM's numbers mean the VM's devices. Each name is
//! looked up once per exposition: numbers are given anew when devices come and go.

use std::{collections::HashMap, fs, path::Path};

use super::sample::Device;

/// Names that were looked up.
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: HashMap<(u64, u64), Option<String>>,
}

// === impl Devices ===

impl Devices {
    /// The device as a label value: `/dev/sda`, or `8:0` where no name is known. A guest's name for one is never taken.
    pub(super) fn label(&mut self, device: &Device, host_visible: bool) -> String {
        let numbers = device.numbers();
        if !host_visible {
            return numbers;
        }
        if !device.name.is_empty() {
            return device.name.clone();
        }
        let known = self.known.entry((device.major, device.minor)).or_insert_with(|| name(&numbers));
        known.clone().unwrap_or(numbers)
    }
}

/// The kernel's name for a device number of this host.
fn name(numbers: &str) -> Option<String> {
    let link = fs::read_link(Path::new("/sys/dev/block").join(numbers)).ok()?;
    Some(format!("/dev/{}", link.file_name()?.to_str()?))
}
