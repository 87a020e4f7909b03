//! Names of this host's block devices, for samples that give only numbers.
//!
//! Never asked for a container that this host's cgroups do not show: a VM's numbers mean the VM's devices.

use std::{fs, path::Path};

use super::sample::Device;

/// The device as a label value: `/dev/sda`, or `8:0` where no name is known.
pub(super) fn label(device: &Device, host_visible: bool) -> String {
    if !device.name.is_empty() {
        return device.name.clone();
    }
    let numbers = format!("{}:{}", device.major, device.minor);
    host_visible.then(|| name(&numbers)).flatten().unwrap_or(numbers)
}

/// The kernel's name for a device number of this host.
fn name(numbers: &str) -> Option<String> {
    let link = fs::read_link(Path::new("/sys/dev/block").join(numbers)).ok()?;
    Some(format!("/dev/{}", link.file_name()?.to_str()?))
}
