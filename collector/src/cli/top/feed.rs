//! What comes from outside, each from a thread of its own: answers of the collector, lines of output, keys, signals.
//!
//! Everything goes into one bounded queue, so that a container that writes more than a person can read waits with its lines and
//! fills no memory.

use std::{
    io::{self, BufRead, BufReader},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};

use super::{
    super::ask::{AskFault, Collector},
    pane::Line,
    state::Lines,
};
use crate::admin::Top;

/// Something happened.
pub(super) enum Event {
    /// The collector answered, or did not.
    Answer(Result<Top, AskFault>),
    /// A key, or another size.
    Terminal(crossterm::event::Event),
    /// The terminal cannot be read any more.
    Unreadable(io::Error),
    /// Lines for the pane of that number.
    Lines(u64, Vec<Line>),
    /// No more lines come for it, and why.
    End(u64, String),
    /// We were stopped and go on.
    Continued,
    /// Somebody wants us to end.
    Signal,
}

/// Events that wait: a burst of lines, and still a key is answered at once.
const QUEUE: usize = 64;
/// Lines of one event.
const LINES: usize = 256;

/// Where events come from.
pub(super) struct Feed {
    collector: Collector,
    sender: SyncSender<Event>,
    lines: Arc<Mutex<Following>>,
}

/// Whose lines are wanted.
#[derive(Default)]
struct Following {
    /// The pane's number; 0 = nobody's.
    number: u64,
    /// The connection that they come by, so that it can be ended while nothing comes.
    stream: Option<UnixStream>,
}

// === impl Feed ===

impl Feed {
    /// Nothing comes yet.
    pub(super) fn new(collector: Collector) -> (Self, Receiver<Event>) {
        let (sender, events) = sync_channel(QUEUE);
        (Self { collector, sender, lines: Arc::default() }, events)
    }

    /// Asks the collector again and again, from one interval on.
    pub(super) fn ask(&self, interval: Duration) -> io::Result<()> {
        let (collector, sender) = (self.collector.clone(), self.sender.clone());
        spawn("ask", move || {
            loop {
                thread::sleep(interval);
                if sender.send(Event::Answer(look(&collector))).is_err() {
                    return;
                }
            }
        })
    }

    /// Reads the terminal.
    pub(super) fn read_terminal(&self) -> io::Result<()> {
        let sender = self.sender.clone();
        spawn("keys", move || {
            loop {
                match crossterm::event::read() {
                    Ok(event) if sender.send(Event::Terminal(event)).is_ok() => {}
                    Ok(_) => return,
                    Err(fault) => {
                        let _ = sender.send(Event::Unreadable(fault));
                        return;
                    }
                }
            }
        })
    }

    /// Watches for signals that would end us, and for the one after a stop.
    pub(super) fn watch_signals(&self) -> io::Result<()> {
        let sender = self.sender.clone();
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCONT])?;
        spawn("signals", move || {
            for signal in signals.forever() {
                let event = if signal == SIGCONT { Event::Continued } else { Event::Signal };
                if sender.send(event).is_err() {
                    return;
                }
            }
        })
    }

    /// Fetches lines for a pane, instead of those for an earlier one.
    pub(super) fn follow(&self, number: u64, lines: Lines) -> io::Result<()> {
        self.want(number);
        let (collector, sender, following) =
            (self.collector.clone(), self.sender.clone(), Arc::clone(&self.lines));
        spawn("lines", move || {
            let why = match fetch(&collector, number, &lines, &sender, &following) {
                Ok(()) => "the collector stopped".to_owned(),
                Err(fault) => fault.to_string(),
            };
            let _ = sender.send(Event::End(number, why));
        })
    }

    /// No lines are wanted.
    pub(super) fn unfollow(&self) {
        self.want(0);
    }

    fn want(&self, number: u64) {
        let mut lines = lock(&self.lines);
        lines.number = number;
        if let Some(stream) = lines.stream.take() {
            // Fails only where the other side has ended it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// One answer of the collector.
pub(super) fn look(collector: &Collector) -> Result<Top, AskFault> {
    collector.get("/v1/top").map(|(_, top)| top)
}

fn lock(following: &Mutex<Following>) -> MutexGuard<'_, Following> {
    following.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

fn fetch(
    collector: &Collector,
    number: u64,
    lines: &Lines,
    sender: &SyncSender<Event>,
    following: &Mutex<Following>,
) -> Result<(), AskFault> {
    let mut answer = BufReader::new(collector.stream("/v1/logs", &lines.0)?);
    let ours = answer.get_ref().connection().map_err(|source| collector.unread(source))?;
    {
        let mut following = lock(following);
        if following.number != number {
            return Ok(());
        }
        following.stream = Some(ours);
    }
    let mut text = Vec::new();
    loop {
        let mut some = Vec::new();
        loop {
            text.clear();
            let length = answer.read_until(b'\n', &mut text).map_err(|source| collector.unread(source))?;
            if length == 0 {
                break;
            }
            some.push(Line::parse(String::from_utf8_lossy(&text).trim_end_matches('\n')));
            // What is here already goes together.
            if some.len() >= LINES || !answer.buffer().contains(&b'\n') {
                break;
            }
        }
        if some.is_empty() || sender.send(Event::Lines(number, some)).is_err() {
            return Ok(());
        }
    }
}
