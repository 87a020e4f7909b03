//! What processes have used: CPU time and context switches, over all their threads.
//!
//! CPU comes from `schedstat`, which the scheduler keeps in nanoseconds, not from the ticks of `stat`, in which a
//! thread that runs for 20 µs at a time may not show at all. A process that has ended counts as it was: take
//! windows in which none ends.

use std::fs;
use std::path::PathBuf;

/// Totals since the start of the processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in ns.
    pub cpu_ns: u64,
    /// Voluntary context switches: how often a thread went to sleep, so how often it was woken.
    pub wakeups: u64,
    /// Involuntary ones.
    pub preemptions: u64,
}

impl Usage {
    /// Of all threads of all of these processes.
    pub fn of(pids: &[i32]) -> Usage {
        pids.iter().flat_map(|pid| threads(*pid)).map(|(_, usage)| usage).fold(Usage::default(), Usage::plus)
    }

    /// What was used since `before`.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            wakeups: self.wakeups.saturating_sub(before.wakeups),
            preemptions: self.preemptions.saturating_sub(before.preemptions),
        }
    }

    /// Both together.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            wakeups: self.wakeups + other.wakeups,
            preemptions: self.preemptions + other.preemptions,
        }
    }
}

/// Every thread of a process by its name, with what it has used.
pub fn threads(pid: i32) -> Vec<(String, Usage)> {
    let dir = PathBuf::from(format!("/proc/{pid}/task"));
    let tasks = fs::read_dir(dir).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let at = task.path();
            let name = fs::read_to_string(at.join("comm")).ok()?.trim().to_owned();
            let cpu = fs::read_to_string(at.join("schedstat")).ok()?;
            let status = fs::read_to_string(at.join("status")).ok()?;
            let usage = Usage {
                cpu_ns: cpu.split_whitespace().next()?.parse().ok()?,
                wakeups: field(&status, "voluntary_ctxt_switches:")?,
                preemptions: field(&status, "nonvoluntary_ctxt_switches:")?,
            };
            Some((name, usage))
        })
        .collect()
}

/// The number after `name` at the beginning of a line.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_threads_have_used_something() {
        let pid = i32::try_from(std::process::id()).expect("small");
        let before = Usage::of(&[pid]);
        let mut sum = 0_u64;
        for number in 0..3_000_000_u64 {
            sum = std::hint::black_box(sum ^ number);
        }
        assert!(Usage::of(&[pid]).since(before).cpu_ns > 0, "{sum}");
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(3));
        assert_eq!(field(text, "absent:"), None);
    }
}
