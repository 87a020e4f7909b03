//! Whose turn it is where every cycle is wanted: the containers', then ours.
//!
//! Linux keeps a nice value per thread, and a new thread begins with that of its maker: the thread that shall answer
//! a health check must be made before its maker yields. What is refused is left as it is, for a collector that
//! competes is better than none. Beyond a cgroup's border nice says nothing: there the unit's CPUWeight does.

use rustix::process::{getpriority_process, setpriority_process};

/// A thread of this nice value gets about a tenth of the time that one of a container gets beside it in its cgroup.
const NICE: i32 = 10;

/// From here on the calling thread, and those that it makes, come after the containers. Never less nice than before.
pub fn yield_to_workloads() {
    let now = getpriority_process(None).unwrap_or_default();
    if now < NICE {
        // Refused by a filter of system calls, perhaps: then the priority stays.
        let _ = setpriority_process(None, NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_yields_and_its_maker_does_not() {
        let before = getpriority_process(None).expect("our own");
        let yielded = std::thread::spawn(|| {
            yield_to_workloads();
            getpriority_process(None).expect("our own")
        });
        assert_eq!(yielded.join().expect("it ends"), before.max(NICE));
        assert_eq!(getpriority_process(None).expect("our own"), before);
    }
}
