//! The same lines in fjall: `append DIR MESSAGES` takes messages of 303 lines and commits each
//! as a batch with `PersistMode::Buffer` (a completed write(2), as the journal's acknowledgement); `replay DIR`
//! reads them all; `open DIR` opens what is there. Prints seconds,
//! bytes, and seconds of CPU.

use std::{env, process::ExitCode, time::Instant};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

/// Lines of one message of 64 KiB.
const LINES: usize = 303;

fn main() -> ExitCode {
    match run() {
        Ok((seconds, bytes)) => {
            println!("{seconds} {bytes} {}", cpu_seconds());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fjall-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// CPU time of all our threads so far.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ns = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    ns.sum::<f64>() / 1e9
}

fn run() -> Result<(f64, u64), Box<dyn std::error::Error>> {
    let mut words = env::args().skip(1);
    let (what, dir) = (words.next().ok_or("append, replay or open?")?, words.next().ok_or("which folder?")?);
    let start = Instant::now();
    let database = Database::builder(&dir).open()?;
    let lines = database.keyspace("lines", KeyspaceCreateOptions::default)?;
    let mut bytes = 0u64;
    match what.as_str() {
        "append" => {
            let messages: u64 = words.next().ok_or("how many messages?")?.parse()?;
            let text = words.next().ok_or("which line?")?;
            let start = Instant::now();
            for _ in 0..messages {
                let mut batch = database.batch().durability(Some(PersistMode::Buffer));
                for _ in 0..LINES {
                    // A stream and an offset.
                    let mut key = [0u8; 12];
                    key[4..].copy_from_slice(&bytes.to_be_bytes());
                    batch.insert(&lines, key, text.as_bytes());
                    bytes += text.len() as u64;
                }
                batch.commit()?;
            }
            return Ok((start.elapsed().as_secs_f64(), bytes));
        }
        "replay" => {
            let start = Instant::now();
            for pair in lines.iter() {
                bytes += pair.value()?.len() as u64;
            }
            return Ok((start.elapsed().as_secs_f64(), bytes));
        }
        _ => {}
    }
    Ok((start.elapsed().as_secs_f64(), bytes))
}
