//! The machine: qemu with the node's disk and a payload, emulated, without a network.
//!
//! The node's disk is opened in a way that throws away what the guest writes. The machine ends when the guest switches it
//! off, when its kernel panics, or when its time is over; then it is killed by its pid.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Base;
use super::base::administrator;
use crate::rig::run::run;

/// A node that can be booted.
#[derive(Debug)]
pub struct Machine<'a> {
    base: &'a Base,
    payload: &'a Path,
    kept: Option<&'a Path>,
}

impl<'a> Machine<'a> {
    /// A machine with the node's disk and `payload` as its second one.
    pub fn new(base: &'a Base, payload: &'a Path) -> Machine<'a> {
        Machine { base, payload, kept: None }
    }

    /// With a third disk, which keeps what the guest writes to it.
    pub fn with_disk(self, kept: &'a Path) -> Machine<'a> {
        Machine { kept: Some(kept), ..self }
    }

    /// qemu, whose guest runs its plan and whose report and console go to `dir`.
    pub(super) fn for_plan(&self, dir: &Path) -> Command {
        // What units say is the only witness where the plan does not come to its end.
        let mut qemu = self.command("shimtap.plan systemd.journald.forward_to_console=1");
        let console = dir.join("console.log");
        qemu.args(["-display", "none", "-serial"]).arg(format!("file:{}", console.display()));
        qemu.arg("-chardev").arg(format!("file,id=report,path={}", dir.join("report.log").display()));
        qemu
    }

    /// Boots it, lets the guest run its plan, and returns what the guest wrote on the port for it, however far it came. In
    /// `dir` stay `report.log` and `console.log`.
    pub fn run(&self, dir: &Path, limit: Duration) -> Result<String> {
        let (report, console) = (dir.join("report.log"), dir.join("console.log"));
        let ended = run(self.for_plan(dir), limit);
        let read = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\r', "")
        };
        let text = read(&report);
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
        };
        let context = || format!("report:\n{}\nconsole:\n{}", tail(&text), tail(&read(&console)));
        ended.with_context(context)?.ok().context("qemu (package qemu-system-x86)").with_context(context)?;
        Ok(text)
    }

    /// Becomes the machine, with its console on this terminal and root logged in. Returns only where that fails.
    pub fn become_shell(&self) -> std::io::Error {
        let mut qemu = self.command("");
        qemu.args(["-display", "none", "-serial", "mon:stdio", "-chardev", "null,id=report"]);
        qemu.exec()
    }

    fn command(&self, words: &str) -> Command {
        let mut qemu = administrator("qemu-system-x86_64");
        // Hardware that would make it faster is seldom there where tests are run, and sometimes broken where it seems to be.
        qemu.args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
        ]);
        qemu.args(["-nodefaults", "-no-reboot", "-nic", "none"]);
        qemu.arg("-kernel").arg(&self.base.kernel).arg("-initrd").arg(&self.base.initrd);
        // On a busy host an emulated timer may be late, which a booting kernel takes for a broken one and panics, and a unit may take
        // minutes to start.
        let patient = "no_timer_check systemd.default_timeout_start_sec=600";
        qemu.arg("-append").arg(format!("root=/dev/vda rw console=ttyS0 quiet panic=-1 {patient} {words}"));
        let disk = |path: &Path| format!("file={},if=virtio,format=raw,snapshot=on", path.display());
        qemu.arg("-drive").arg(disk(&self.base.disk)).arg("-drive").arg(disk(self.payload));
        if let Some(kept) = self.kept {
            qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw", kept.display()));
        }
        qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        qemu.args(["-device", "virtserialport,chardev=report,name=report"]);
        qemu
    }
}
