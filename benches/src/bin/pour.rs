//! The load: lines of one width into stdout, as fast as they go or at a steady pace, one write(2) per batch.
//!
//! It costs as little as can be (the bytes are made once), so that what is measured is the path behind it. A paced
//! generator never runs ahead and catches up after a stall, except when it was stopped by a signal or starved
//! for more than a second: then it goes on from there, so that a bench can pause it.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use shimtap_benches::pour::Poured;
use shimtap_benches::stamp::{self, Writer};

const USAGE: &str = "pour [width=BYTES] [lines=N, 0 for ever] [batch=LINES_PER_WRITE] \
[rate=LINES_PER_SECOND, 0 as fast as possible] [report=FILE] [linger=SECONDS] \
[stamp=b|q|n, each batch begins with who wrote it and when]";
/// How often the record is renewed: often enough for a window of seconds.
const RENEW: Duration = Duration::from_millis(100);
/// A generator this late was paused; it does not catch up.
const PAUSED: Duration = Duration::from_secs(1);

struct Order {
    width: usize,
    lines: u64,
    batch: u64,
    rate: u64,
    report: Option<fs::File>,
    linger: u64,
    stamp: Option<Writer>,
}

fn main() -> ExitCode {
    let order = match parse(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(fault) => {
            eprintln!("{fault}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match pour(&order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(141),
        Err(error) => {
            eprintln!("pour: {error}");
            ExitCode::from(74)
        }
    }
}

fn parse(words: impl Iterator<Item = String>) -> Result<Order, String> {
    let mut order = Order { width: 216, lines: 0, batch: 1, rate: 0, report: None, linger: 0, stamp: None };
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word}: not key=value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word}: {error}"));
        match key {
            "width" => order.width = usize::try_from(number()?.max(1)).map_err(|error| error.to_string())?,
            "lines" => order.lines = number()?,
            "batch" => order.batch = number()?.max(1),
            "rate" => order.rate = number()?,
            "linger" => order.linger = number()?,
            "stamp" => {
                let writer = value.bytes().next().and_then(Writer::of);
                order.stamp = Some(writer.ok_or_else(|| format!("{word}: nobody writes so"))?);
            }
            "report" => {
                let open = fs::File::options().write(true).create(true).truncate(true).open(value);
                order.report = Some(open.map_err(|error| format!("{value}: {error}"))?);
            }
            _ => return Err(format!("{key}: unknown")),
        }
    }
    Ok(order)
}

fn pour(order: &Order) -> io::Result<()> {
    let mut line = vec![b'x'; order.width.saturating_sub(1)];
    line.push(b'\n');
    let mut block = line.repeat(usize::try_from(order.batch).unwrap_or(1));
    let mut out = io::stdout().lock();
    let mut poured = Poured::default();
    let mut pace = Pace::new(order)?;
    let start = Instant::now();
    let mut renewed = start;
    while order.lines == 0 || poured.lines < order.lines {
        let lines = match order.lines {
            0 => order.batch,
            all => order.batch.min(all - poured.lines),
        };
        let length = usize::try_from(lines).unwrap_or(1) * order.width;
        pace.wait();
        if let Some(writer) = order.stamp {
            block.iter_mut().zip(stamp::now(writer)).for_each(|(to, from)| *to = from);
        }
        // A line buffer hands a block that ends in a newline on in one write.
        out.write_all(block.get(..length).unwrap_or(&block))?;
        out.flush()?;
        poured.lines += lines;
        poured.bytes += u64::try_from(length).unwrap_or(0);
        if order.report.is_some() && renewed.elapsed() >= RENEW {
            renewed = Instant::now();
            report(order, &mut poured, start)?;
        }
    }
    poured.done = true;
    report(order, &mut poured, start)?;
    std::thread::sleep(Duration::from_secs(order.linger));
    Ok(())
}

fn report(order: &Order, poured: &mut Poured, start: Instant) -> io::Result<()> {
    poured.took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    match &order.report {
        Some(file) => file.write_all_at(poured.record().as_bytes(), 0),
        None => Ok(()),
    }
}

/// When the next batch is due.
struct Pace {
    every: Duration,
    due: Instant,
}

impl Pace {
    /// Starts at a random point of the period: a hundred generators shall not beat in time.
    fn new(order: &Order) -> io::Result<Pace> {
        let every = match order.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1)
                .mul_f64(f64::from(u32::try_from(order.batch).unwrap_or(u32::MAX)))
                .div_f64(f64::from(u32::try_from(rate).unwrap_or(u32::MAX))),
        };
        let mut random = [0; 2];
        fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let phase = every.mul_f64(f64::from(u16::from_le_bytes(random)) / 65_536.0);
        Ok(Pace { every, due: Instant::now() + phase })
    }

    fn wait(&mut self) {
        if self.every.is_zero() {
            return;
        }
        let now = Instant::now();
        if now < self.due {
            std::thread::sleep(self.due - now);
        } else if now - self.due > PAUSED {
            self.due = now;
        }
        self.due += self.every;
    }
}
