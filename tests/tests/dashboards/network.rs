//! Networks of pods: one as Kata has it for a VM, with the real interface and the hypervisor's tap that mirrors it; and what the
//! kernel counts of a pod's real interface.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use shimtap_tests::rig::run::{Running, run};

const LIMIT: Duration = Duration::from_secs(60);

/// A network namespace with `eth0`, whose other end is on this host, and with `tap0_kata`; something passes both as long as it is
/// there.
#[derive(Debug)]
pub struct Network {
    _traffic: [Running; 2],
    /// Last: nobody may be in it any more.
    namespace: Namespace,
}

/// A network namespace by its name. Its devices go with it.
#[derive(Debug)]
struct Namespace(String);

/// Bytes received and sent.
pub type Bytes = [f64; 2];

// === impl Network ===

impl Network {
    /// The `n`-th of this process. Names and addresses are the machine's, so they are made of the process's number.
    pub fn make(n: u32) -> Result<Self> {
        let process = std::process::id();
        let name = format!("rig{process}-{n}");
        let veth = format!("rig{process}v{n}");
        let (high, low) = (process / 250 % 50 + 150, process % 250);
        let subnet = |host: u32| format!("10.{high}.{low}.{}", n * 4 + host);
        let (here, there) = (subnet(1), subnet(2));
        ip(&["netns", "add", &name])?;
        let namespace = Namespace(name);
        let name = namespace.0.as_str();
        ip(&["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["addr", "add", &format!("{here}/30"), "dev", &veth])?;
        ip(&["link", "set", &veth, "up"])?;
        let within = |words: &[&str]| ip(&[&["-n", name], words].concat());
        within(&["addr", "add", &format!("{there}/30"), "dev", "eth0"])?;
        within(&["link", "add", "tap0_kata", "type", "veth", "peer", "name", "veth_guest"])?;
        // Who wants an address that nobody has asks the wire for it, again and again.
        within(&["addr", "add", "192.0.2.1/24", "dev", "tap0_kata"])?;
        for device in ["eth0", "tap0_kata", "veth_guest"] {
            within(&["link", "set", device, "up"])?;
        }
        let ping = |address: &str| {
            // busybox's, which every machine has that runs these tests.
            let script =
                format!("while :; do busybox ping -q -c 1 -W 1 {address}; sleep 0.2; done >/dev/null 2>&1");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name, "sh", "-c", &script]);
            Running::start(command).context("ping")
        };
        let traffic = [ping(&here)?, ping("192.0.2.2")?];
        Ok(Self { _traffic: traffic, namespace })
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(fault) = ip(&["netns", "del", &self.0]) {
            eprintln!("{fault:#}");
        }
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(words);
    run(command, LIMIT)?.ok().map(drop).with_context(|| format!("ip {}", words.join(" ")))
}

/// What passed a device of the network that a process is in.
pub fn passed(pid: i32, device: &str) -> Result<Bytes> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).context("read a process's network")?;
    let row = text.lines().find_map(|row| row.trim().strip_prefix(device)?.strip_prefix(':'));
    let row = row.with_context(|| format!("there is no {device}"))?;
    let numbers: Vec<f64> = row.split_whitespace().map_while(|number| number.parse().ok()).collect();
    let column = |n: usize| numbers.get(n).copied().context("a short row");
    Ok([column(0)?, column(8)?])
}

/// A process of a container.
pub fn process_of(id: &str) -> Result<i32> {
    let processes = fs::read_dir("/proc").context("read /proc")?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let its =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(id));
    pids.find(its).with_context(|| format!("no process of {id}"))
}
