//! Containers that write on a node of their own: CRI pods of one container, stopped and let go together, and what each part of
//! the node uses meanwhile.
//!
//! A generator is stopped by SIGSTOP, so that several fleets can stand side by side and take turns. What they wrote is their
//! own word (`pour.rs`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shimtap_tests::rig::Node;
use shimtap_tests::rig::cri::{Pod, Wanted};
use shimtap_tests::rig::patience::{eventually, throughout};
use shimtap_tests::rig::process::{self, Process};

use crate::bed::report_path;
use crate::pour::Poured;
use crate::report::Report;
use crate::spread::float64;
use crate::usage::Usage;

/// The parts of a node that pay for lines.
pub const PARTS: [&str; 4] = ["containerd", "runc shims", "wrappers", "collector"];

/// What all containers of a fleet write together.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Its name, and the beginning of those of its containers.
    pub name: &'static str,
    /// How many.
    pub containers: usize,
    /// Lines per second of each.
    pub rate: usize,
}

/// A node and the pods on it.
#[derive(Debug)]
pub struct Fleet {
    node: Node,
    pods: Vec<(String, Pod)>,
}

/// What one window gave.
#[derive(Debug, Default, Clone)]
pub struct Window {
    /// Cores used by each of [`PARTS`]. Whoever tails files takes the collector's place.
    pub cores: [f64; 4],
    /// Written by the generators.
    pub lines_per_second: f64,
}

/// Pids of each of [`PARTS`].
pub type Parts = [Vec<i32>; 4];

// === impl Load ===

impl Load {
    /// Lines per second of all.
    pub fn asked(&self) -> usize {
        self.containers * self.rate
    }

    /// The name of one.
    pub fn container(&self, number: usize) -> String {
        format!("{}{number}", self.name)
    }
}

// === impl Fleet ===

impl Fleet {
    /// Nobody yet.
    ///
    /// # Errors
    /// CRI does not answer.
    pub fn on(node: Node) -> Result<Fleet> {
        node.cri()?;
        Ok(Fleet { node, pods: Vec::new() })
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Runs one generator of the load, with more words of its own, and waits for its first lines.
    ///
    /// # Errors
    /// The pod does not start, or nothing is written.
    pub fn add(&mut self, load: Load, number: usize, words: &[&str]) -> Result<()> {
        let (name, rate) = (load.container(number), format!("rate={}", load.rate));
        let mut all = vec![rate.as_str()];
        all.extend(words);
        self.run(&name, &all)?;
        let path = report_path(&self.node, &name);
        eventually(Duration::from_secs(30), "its first lines", || Ok(Poured::read(&path).map(drop)))
    }

    /// Runs a generator in a pod of its own, whatever it writes.
    ///
    /// # Errors
    /// The pod does not start.
    pub fn run(&mut self, name: &str, words: &[&str]) -> Result<()> {
        let cri = self.node.cri()?;
        let pod = cri.run_pod(name)?;
        let host = self.node.host_dir();
        let report = format!("report=/host/{name}");
        let mut command = vec!["/host/pour", &report];
        command.extend(words);
        cri.run(&pod, &Wanted { name: "pour", command: &command, host: Some(&host), ..Wanted::default() })?;
        self.pods.push((name.to_owned(), pod));
        Ok(())
    }

    /// Signals all generators of pods whose names begin so.
    fn signal(&self, prefix: &str, with: Signal) -> Result<()> {
        let report = format!("report=/host/{prefix}");
        let is_of = |process: &&Process| process.argv.iter().any(|word| word.starts_with(&report));
        let all = self.node.processes()?;
        for pour in all.iter().filter(|process| process.program() == "pour").filter(is_of) {
            process::signal(pour.pid, with)?;
        }
        Ok(())
    }

    /// Stops all generators.
    ///
    /// # Errors
    /// They cannot be found.
    pub fn pause(&self) -> Result<()> {
        self.signal("", Signal::SIGSTOP)
    }

    /// Stops all generators, and waits until what stands in pipes and rings was worked off.
    ///
    /// # Errors
    /// They cannot be found.
    pub fn stop(&self) -> Result<()> {
        self.pause()?;
        throughout(Duration::from_secs(2), "the load after the window", || Ok(true))
    }

    /// Lets them go, and waits until all of them write.
    ///
    /// # Errors
    /// They cannot be found.
    pub fn go(&self) -> Result<()> {
        self.go_on("")
    }

    /// The same for those of pods whose names begin so.
    ///
    /// # Errors
    /// They cannot be found.
    pub fn go_on(&self, prefix: &str) -> Result<()> {
        self.signal(prefix, Signal::SIGCONT)?;
        throughout(Duration::from_secs(2), "the load before the window", || Ok(true))
    }

    /// Removes pods whose names begin so; their generators die by SIGKILL, stopped as they are.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn clear(&mut self, prefix: &str) -> Result<()> {
        let (gone, kept) =
            std::mem::take(&mut self.pods).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.pods = kept;
        let gone: Vec<(String, Pod)> = gone;
        for (name, pod) in &gone {
            self.node.cri()?.remove_pod(pod).with_context(|| format!("remove pod {name}"))?;
        }
        Ok(())
    }

    /// Lines that all generators of the load have written so far.
    ///
    /// # Errors
    /// One has left no record.
    pub fn poured(&self, load: Load) -> Result<u64> {
        let each = (0..load.containers).map(|number| {
            let path = report_path(&self.node, &load.container(number));
            let poured = Poured::read(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(poured.lines)
        });
        each.sum()
    }

    /// The processes of [`PARTS`]; `collector` is whoever takes the lines.
    ///
    /// # Errors
    /// There is not one containerd.
    pub fn parts(&self, collector: &[i32]) -> Result<Parts> {
        let all = self.node.processes()?;
        let pids =
            |of: &dyn Fn(&&Process) -> bool| all.iter().filter(of).map(|process| process.pid).collect();
        let containerd: Vec<i32> = pids(&|process| process.program() == "containerd");
        ensure!(containerd.len() == 1, "{} containerds on one node", containerd.len());
        let is_ours = |process: &&Process| process.is_role("tap-keeper") || process.is_role("tap-worker");
        let shims = pids(&|process| process.program() == "containerd-shim-runc-v2" && !is_ours(process));
        Ok([containerd, shims, pids(&is_ours), collector.to_vec()])
    }

    /// What `parts` use and the load writes in `secs` seconds. The generators run already.
    ///
    /// # Errors
    /// A generator has left no record.
    pub fn window(&self, load: Load, parts: &Parts, secs: u64) -> Result<Window> {
        let before = parts.each_ref().map(|pids| Usage::of(pids));
        let (lines, start) = (self.poured(load)?, Instant::now());
        throughout(Duration::from_secs(secs), "the window", || Ok(true))?;
        let after = parts.each_ref().map(|pids| Usage::of(pids));
        let (lines, took) = (self.poured(load)? - lines, start.elapsed().as_secs_f64());
        let mut window = Window { lines_per_second: float64(lines) / took, ..Window::default() };
        for ((cores, before), after) in window.cores.iter_mut().zip(before).zip(after) {
            *cores = float64(after.since(before).cpu_ns) / 1e9 / took;
        }
        Ok(window)
    }
}

// === impl Window ===

impl Window {
    /// Cores of all parts.
    pub fn total(&self) -> f64 {
        self.cores.iter().sum()
    }

    /// µs of CPU time per line, of all parts.
    pub fn per_line(&self) -> f64 {
        self.total() / self.lines_per_second * 1e6
    }
}

/// One figure of each window.
pub fn column(windows: &[Window], of: impl Fn(&Window) -> f64) -> Vec<f64> {
    windows.iter().map(of).collect()
}

/// Shows what `name` used, part by part.
///
/// # Errors
/// The report cannot be written.
pub fn show(name: &str, windows: &[Window], report: &mut Report) -> Result<()> {
    report.row(&format!("{name}: lines/s"), "", &column(windows, |window| window.lines_per_second), "")?;
    report.row(&format!("{name}: all"), "cores", &column(windows, Window::total), "")?;
    for (number, part) in PARTS.iter().enumerate() {
        let cores = column(windows, |window| window.cores.get(number).copied().unwrap_or_default());
        if cores.iter().any(|cores| *cores > 0.0) {
            report.row(&format!("  {part}"), "cores", &cores, "")?;
        }
    }
    Ok(())
}
