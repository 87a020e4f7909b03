//! What others would pay for the same lines: the peers that the collector's figures are set beside.
//!
//! Two of them. `cat` into a file moves the bytes and makes nothing of them: the floor. serde_json makes the same
//! record of each line and writes it, without offsets to keep, a queue, or an acknowledgement: what a straightforward
//! program does.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use shimtap_tests::rig::eventually;

use crate::spread::float64;
use crate::usage::Usage;

/// Bytes of one write of the serialiser, as the collector's.
const WRITE: usize = 256 << 10;

/// A record as the collector's file has it.
#[derive(Serialize)]
struct Row<'a> {
    time: &'a str,
    time_ns: u64,
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
    image: &'a str,
    container_id: &'a str,
    pod_uid: &'a str,
    sandbox_id: &'a str,
    containerd_namespace: &'a str,
    incarnation: &'a str,
    process: &'a str,
    stream: &'a str,
    offset: Range,
    id: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Range {
    from: u64,
    to: u64,
}

/// CPU seconds that `cat` uses to bring `block`, `times` over, from a pipe into `file`.
pub fn cat(file: &Path, block: &[u8], times: usize) -> Result<f64> {
    let out = fs::File::create(file).with_context(|| format!("create {}", file.display()))?;
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(out).spawn().context("start cat")?;
    let mut into = child.stdin.take().context("cat has a stdin")?;
    for _ in 0..times {
        into.write_all(block).context("feed cat")?;
    }
    let whole = u64::try_from(block.len() * times).context("a length")?;
    let pid = i32::try_from(child.id()).context("a pid")?;
    eventually(Duration::from_secs(30), "cat to write all of it", || {
        Ok((fs::metadata(file).context("look at its file")?.len() == whole).then_some(()))
    })?;
    // Read while it lives.
    let used = Usage::of(&[pid]);
    drop(into);
    let status = child.wait().context("wait for cat")?;
    ensure!(status.success(), "cat ended with {status}");
    fs::remove_file(file).context("remove its file")?;
    Ok(float64(used.cpu_ns) / 1e9)
}

/// CPU seconds that this thread uses to serialise the lines of `block`, `times` over, into `file`.
pub fn serde_json(file: &Path, block: &str, times: usize) -> Result<f64> {
    let mut out = fs::File::create(file).with_context(|| format!("create {}", file.display()))?;
    let id = format!("{:064x}", 1);
    let before = own_cpu_ns()?;
    let (mut text, mut offset) = (Vec::with_capacity(2 * WRITE), 0_u64);
    for _ in 0..times {
        for line in block.lines() {
            let to = offset + u64::try_from(line.len()).context("a length")? + 1;
            let (time_ns, stream) = (1_700_000_000_000_000_000 + offset, "stdout");
            let row = Row {
                time: &format!("2026-11-21T02:12:41.{:09}Z", time_ns % 1_000_000_000),
                time_ns,
                namespace: "production",
                pod: "server-7c5ddbdf54-00000",
                container: "server",
                image: "registry.example/team/server:1.2.3",
                container_id: &id,
                pod_uid: "5d1f2c3a-0b1c-4d2e-8f3a-000000000000",
                sandbox_id: &id,
                containerd_namespace: "k8s.io",
                incarnation: "000000000000004d",
                process: "",
                stream,
                offset: Range { from: offset, to },
                id: &format!("{:016x}-{stream}-{offset}", 77),
                message: line,
            };
            serde_json::to_writer(&mut text, &row).context("serialise a record")?;
            text.push(b'\n');
            if text.len() >= WRITE {
                out.write_all(&text).context("write records")?;
                text.clear();
            }
            offset = to;
        }
    }
    out.write_all(&text).context("write records")?;
    let used = own_cpu_ns()? - before;
    fs::remove_file(file).context("remove the file")?;
    Ok(float64(used) / 1e9)
}

/// CPU time of the calling thread.
fn own_cpu_ns() -> Result<u64> {
    let mut text = String::new();
    let mut file = fs::File::open("/proc/thread-self/schedstat").context("open our own schedstat")?;
    file.read_to_string(&mut text).context("read our own schedstat")?;
    let first = text.split_whitespace().next().context("an empty schedstat")?;
    first.parse().context("a number of ns")
}
