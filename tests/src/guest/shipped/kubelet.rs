//! What stands for the kubelet's cAdvisor on a node without a kubelet: rows of one container as cAdvisor writes them, with the
//! figures of its cgroup files at that moment. Nothing of ours is read for it.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use anyhow::{Context, Result};

use crate::oracle::cgroup;

/// The kubelet's port, as scrape configurations name it, at the node's address: one at which a collector that listens on 127.0.0.1
/// alone does not answer.
pub const ADDRESS: &str = "127.0.0.2:10250";

/// Serves the rows of the container of that name, in the pod of that name, until the process ends.
pub fn serve(pod: &str, container: &str, id: &str, group: &str) -> Result<()> {
    let listener = TcpListener::bind(ADDRESS).context("the kubelet's port")?;
    let labels = format!(
        "container=\"{container}\",id=\"{group}\",image=\"rig\",name=\"{id}\",namespace=\"rig\",pod=\"{pod}\""
    );
    let group = group.to_owned();
    let serve = move || {
        for mut stream in listener.incoming().flatten() {
            let (mut asked, mut byte) = (Vec::new(), [0]);
            while !asked.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                asked.extend(byte);
            }
            let mut page = String::new();
            // The container may be gone, as it may for a kubelet.
            for (name, value) in cgroup::figures(&group).unwrap_or_default() {
                let _ = writeln!(page, "{name}{{{labels}}} {value}");
            }
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{page}", page.len());
        }
    };
    thread::Builder::new().name("kubelet".to_owned()).spawn(serve).context("a thread").map(drop)
}
