//! `shimtap top`: what the node's containers and pods use and write, as it changes, and the output of one of them.
//!
//! It asks the collector over the control socket and looks at nothing else. Where there is no terminal it prints one table.

mod columns;
mod feed;
mod figures;
mod keys;
mod once;
mod order;
mod pane;
mod screen;
mod state;
mod view;

use std::{
    env,
    io::{self, IsTerminal},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use crossterm::event::Event as Seen;
use rustix::process::{Signal, getpid, kill_process};

use super::{
    Exit, args,
    ask::{AskFault, Collector},
};
use crate::{priority, time::now_ns};
use feed::{Event, Feed, look};
pub use order::Sort;
use screen::Screen;
use state::{Action, State};
use view::Look;

/// Between two drawings that nobody asked for: more often than a person sees it is wasted.
const DRAWING: Duration = Duration::from_millis(100);

/// Why it ended.
#[derive(Debug, thiserror::Error)]
enum TopFault {
    #[error(transparent)]
    Ask(#[from] AskFault),
    #[error("using this terminal: {source}; --batch needs none")]
    Terminal { source: io::Error },
    #[error("starting a thread: {source}; is the number of processes limited?")]
    Thread { source: io::Error },
}

/// Shows it until somebody ends it.
pub(super) fn run(args: &args::Top) -> Exit {
    priority::yield_to_workloads();
    let collector = Collector::at(args.at.socket.as_deref());
    let mut state = State::new(args.pods, args.sort, args.filter.as_deref().unwrap_or_default());
    let interval = Duration::from_secs(args.interval);
    let live = !args.batch && is_terminal();
    let ended = look(&collector).map_err(TopFault::from).and_then(|top| {
        state.take(&top);
        if live { show(state, collector, interval) } else { once::print(state, &collector, interval) }
    });
    match ended {
        Ok(()) => {
            if !live && !args.batch {
                eprintln!(
                    "shimtap top: there is no terminal to draw on, so this was one look (--batch asks for that)"
                );
            }
            Exit::Done
        }
        Err(fault) => {
            eprintln!("shimtap top: {fault}");
            Exit::Failed
        }
    }
}

/// One that can be drawn on and that keys come from.
fn is_terminal() -> bool {
    let dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    !dumb && io::stdin().is_terminal() && io::stdout().is_terminal()
}

fn show(state: State, collector: Collector, interval: Duration) -> Result<(), TopFault> {
    let thread = |source| TopFault::Thread { source };
    let (feed, events) = Feed::new(collector);
    // Before the terminal is taken: afterwards a signal would leave it as it is.
    feed.watch_signals().map_err(thread)?;
    let screen = Screen::enter().map_err(|source| TopFault::Terminal { source })?;
    feed.read_terminal().map_err(thread)?;
    feed.ask(interval).map_err(thread)?;
    let look = Look { colour: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    Live { state, feed, screen, look, events }.run().map_err(|source| TopFault::Terminal { source })
}

/// Everything of a live view.
struct Live {
    state: State,
    feed: Feed,
    screen: Screen,
    look: Look,
    events: Receiver<Event>,
}

// === impl Live ===

impl Live {
    fn run(mut self) -> io::Result<()> {
        let mut drawn = Instant::now();
        let mut changed = true;
        loop {
            if changed && drawn.elapsed() >= DRAWING {
                self.draw()?;
                (drawn, changed) = (Instant::now(), false);
            }
            let wait = if changed { DRAWING.saturating_sub(drawn.elapsed()) } else { Duration::MAX };
            match self.events.recv_timeout(wait) {
                Ok(event) => {
                    let at_once = matches!(event, Event::Terminal(_));
                    if !self.take(event)? {
                        return Ok(());
                    }
                    changed = true;
                    if at_once {
                        self.draw()?;
                        (drawn, changed) = (Instant::now(), false);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        let Self { state, screen, look, .. } = self;
        screen.draw(|buffer| view::draw(state, now_ns(), *look, buffer))
    }

    /// False where that was the end.
    fn take(&mut self, event: Event) -> io::Result<bool> {
        match event {
            Event::Answer(Ok(top)) => self.state.take(&top),
            Event::Answer(Err(fault)) => self.state.fault = Some(fault.to_string()),
            Event::Lines(number, lines) => {
                if let Some(pane) = self.state.pane.as_mut().filter(|pane| pane.number == number) {
                    pane.push(lines);
                }
            }
            Event::End(number, why) => {
                if let Some(pane) = self.state.pane.as_mut().filter(|pane| pane.number == number) {
                    pane.end = Some(why);
                }
            }
            Event::Continued => self.screen.lend(|| ())?,
            Event::Terminal(Seen::Key(key)) => {
                let action = self.state.key(&key);
                return self.act(action);
            }
            Event::Terminal(_) => {}
            Event::Unreadable(fault) => return Err(fault),
            Event::Signal => return Ok(false),
        }
        Ok(true)
    }

    fn act(&mut self, action: Action) -> io::Result<bool> {
        match action {
            Action::None => {}
            Action::Follow(number, lines) => self.feed.follow(number, lines)?,
            Action::Unfollow => self.feed.unfollow(),
            Action::Redraw => self.screen.forget()?,
            // What goes on afterwards is the event of that signal.
            Action::Suspend => self.screen.lend(|| {
                // It cannot fail for ourselves, and where it did we would just go on.
                let _ = kill_process(getpid(), Signal::STOP);
            })?,
            Action::Quit => return Ok(false),
        }
        Ok(true)
    }
}
