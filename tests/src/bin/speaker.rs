//! What speaks inside the containers of the tests: lines that are provable from their number, at a chosen
//! pace, on either stream; pipes held open by a grandchild; memory that is eaten; pipes that are asked for;
//! a shim's door that is knocked at.
//!
//! It never retries and never hides a failed write: its exit status is part of what tests compare.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use shimtap_tests::line::{Marked, line, noise};
use shimtap_tests::standin::client::frame::Frame;

const USAGE: &str = "speaker [lines=N] [seed=S] [mark=WORD] [width=W] [rate=LINES_PER_SECOND] [to=out|err|both] \
[batch=LINES_PER_WRITE] [count=FILE] [from=FILE] [until=FILE] [tail=TEXT] [noise=BYTES] [hold=SECONDS] [eat=MIB] [pipes=N] [knock=SOCKET] [sleep=MILLISECONDS] [exit=STATUS]";

#[derive(Debug)]
struct Order {
    lines: u64,
    seed: u64,
    mark: Option<String>,
    width: usize,
    rate: u64,
    to: String,
    batch: u64,
    count: Option<std::fs::File>,
    from: Option<std::path::PathBuf>,
    until: Option<std::path::PathBuf>,
    tail: Option<String>,
    noise: usize,
    hold: Option<String>,
    eat: u64,
    pipes: u64,
    knock: Option<std::path::PathBuf>,
    sleep: u64,
    exit: u8,
}

fn main() -> ExitCode {
    let order = match parse(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(fault) => {
            eprintln!("{fault}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match obey(&order) {
        Ok(()) => ExitCode::from(order.exit),
        // The reader went away: what a shell's pipe would have killed us for.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(141),
        Err(error) => {
            eprintln!("speaker: {error}");
            ExitCode::from(74)
        }
    }
}

fn parse(words: impl Iterator<Item = String>) -> Result<Order, String> {
    let mut order = Order {
        lines: 0,
        seed: 1,
        mark: None,
        width: 64,
        rate: 0,
        to: "out".to_owned(),
        batch: 1,
        count: None,
        from: None,
        until: None,
        tail: None,
        noise: 0,
        hold: None,
        eat: 0,
        pipes: 0,
        knock: None,
        sleep: 0,
        exit: 0,
    };
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word}: not key=value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word}: {error}"));
        match key {
            "lines" => order.lines = number()?,
            "seed" => order.seed = number()?,
            "mark" => order.mark = Some(value.to_owned()),
            "width" => order.width = usize::try_from(number()?).map_err(|error| error.to_string())?,
            "rate" => order.rate = number()?,
            "to" => order.to = value.to_owned(),
            "batch" => order.batch = number()?.max(1),
            "count" => {
                let open = std::fs::File::options().write(true).create(true).truncate(true).open(value);
                order.count = Some(open.map_err(|error| format!("{value}: {error}"))?);
            }
            "from" => order.from = Some(value.into()),
            "until" => order.until = Some(value.into()),
            "tail" => order.tail = Some(value.to_owned()),
            "noise" => order.noise = usize::try_from(number()?).map_err(|error| error.to_string())?,
            "hold" => order.hold = Some(value.to_owned()),
            "eat" => order.eat = number()?,
            "pipes" => order.pipes = number()?,
            "knock" => order.knock = Some(value.into()),
            "sleep" => order.sleep = number()?,
            "exit" => order.exit = u8::try_from(number()?).map_err(|error| error.to_string())?,
            _ => return Err(format!("{key}: unknown")),
        }
    }
    Ok(order)
}

fn obey(order: &Order) -> io::Result<()> {
    if let Some(seconds) = &order.hold {
        // Inherits stdout and stderr and is left behind: the pipe stays open after our exit.
        Command::new("/bin/sleep").arg(seconds).spawn()?;
    }
    if let Some(file) = &order.from {
        while !file.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    speak(order)?;
    if order.noise > 0 {
        write_all(1, &noise(order.seed, order.noise))?;
    }
    if let Some(tail) = &order.tail {
        io::stdout().write_all(tail.as_bytes())?;
        io::stdout().flush()?;
    }
    std::thread::sleep(Duration::from_millis(order.sleep));
    eat(order.eat);
    if order.pipes > 0 {
        println!("{}", whole_pipes(order.pipes)?);
    }
    if let Some(socket) = &order.knock {
        println!("{}", answered(socket)?);
    }
    Ok(())
}

/// Asks a shim something that every shim refuses with an answer; gives the number of bytes that came back. Who is closed the door
/// on may see that as a reset.
fn answered(socket: &Path) -> io::Result<usize> {
    let frame = Frame::request(1, "a.service", "Unheard", Vec::new()).map_err(io::Error::other)?;
    let mut shim = UnixStream::connect(socket)?;
    let mut answer = Vec::new();
    let exchange = shim.write_all(&frame.bytes()).and_then(|()| shim.shutdown(Shutdown::Write));
    match exchange.and_then(|()| shim.read_to_end(&mut answer)) {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
        Err(e) => return Err(e),
    }
    Ok(answer.len())
}

/// Makes up to `most` pipes and says how many had their full 64 KiB: the kernel gives less where the user's account of
/// pipe pages is used up.
fn whole_pipes(most: u64) -> io::Result<u64> {
    const WHOLE: i32 = 64 << 10;
    let mut made = Vec::new();
    for n in 0..most {
        let (reader, writer) = io::pipe()?;
        if fcntl(&reader, FcntlArg::F_GETPIPE_SZ)? < WHOLE {
            return Ok(n);
        }
        made.push((reader, writer));
    }
    Ok(most)
}

fn speak(order: &Order) -> io::Result<()> {
    let start = Instant::now();
    let mut number = 0;
    let is_enough = || order.until.as_ref().is_some_and(|file| file.exists());
    while number < order.lines && !is_enough() {
        let end = (number + order.batch).min(order.lines);
        if order.to != "err" {
            write_all(1, &lines(order, "stdout", number..end))?;
        }
        if order.to != "out" {
            write_all(2, &lines(order, "stderr", number..end))?;
        }
        number = end;
        if let Some(count) = &order.count {
            count.write_all_at(format!("{number:011}").as_bytes(), 0)?;
        }
        if order.rate > 0 {
            let due = Duration::from_secs_f64(seconds(number) / seconds(order.rate));
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(())
}

/// Lines of a numbered tape, which are the same on both outputs, or marked ones, which are not.
fn lines(order: &Order, stream: &str, numbers: Range<u64>) -> Vec<u8> {
    match &order.mark {
        Some(mark) => {
            let marked = Marked { mark, stream, width: order.width };
            numbers.flat_map(|number| marked.line(number)).collect()
        }
        None => numbers.flat_map(|number| line(order.seed, number, order.width)).collect(),
    }
}

/// A number of lines as a float: exact far beyond what a test writes.
fn seconds(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// One write(2) per call: std's line buffer hands a block that ends in a newline on as it is.
fn write_all(stream: u8, bytes: &[u8]) -> io::Result<()> {
    if stream == 1 {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    } else {
        io::stderr().lock().write_all(bytes)
    }
}

/// Touches `mib` MiB, page by page, and keeps them.
fn eat(mib: u64) {
    let mut eaten = Vec::new();
    for _ in 0..mib {
        eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
    std::hint::black_box(&eaten);
}
