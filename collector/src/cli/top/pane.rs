//! The lines of the selected row, as `shimtap logs --follow` has them.
//!
//! What containers write may be anything: a line is taken apart here, and control characters never reach the terminal.

use std::collections::VecDeque;

use super::figures::{Key, Row};

/// Lines that are kept.
const LINES: usize = 2_000;
/// Characters of a line that are kept: more than any terminal is wide.
const LINE: usize = 1_000;

/// One line of output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Time of day in UTC.
    pub(super) time: String,
    /// Container's name.
    pub(super) whose: String,
    /// It is stderr's.
    pub(super) is_stderr: bool,
    /// What was written, without control characters.
    pub(super) text: String,
}

/// What the pane shows.
#[derive(Debug)]
pub(super) struct Pane {
    /// Whose lines.
    pub(super) key: Key,
    /// Which pane it is: lines for an earlier one come late.
    pub(super) number: u64,
    /// Above it.
    pub(super) title: String,
    /// Of several containers: their names are shown.
    pub(super) of_pod: bool,
    /// The newest last.
    pub(super) lines: VecDeque<Line>,
    /// Lines below the last one that is shown; 0 = it follows.
    pub(super) back: usize,
    /// Why nothing more comes.
    pub(super) end: Option<String>,
    /// Keys move through it.
    pub(super) focus: bool,
}

// === impl Line ===

impl Line {
    /// From a line of `shimtap logs`: time, whose, which output, message.
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = text.splitn(4, ' ');
        let (Some(time), Some(whose), Some(stream), Some(message)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Self { text: plain(text), ..Self::default() };
        };
        let clock = time.split_once('T').map_or(time, |(_, clock)| clock);
        Self {
            time: clock.chars().take(12).collect(),
            whose: plain(whose.rsplit('/').next().unwrap_or_default()),
            is_stderr: stream == "stderr",
            text: plain(message),
        }
    }
}

// === impl Pane ===

impl Pane {
    /// An empty one.
    pub(super) fn new(row: &Row, of_pod: bool, number: u64) -> Self {
        let names = [Some(row.namespace.as_str()), row.pod.as_deref(), row.container.as_deref()];
        let title = names.into_iter().flatten().collect::<Vec<_>>().join("/");
        Self {
            key: row.key.clone(),
            number,
            title: plain(&title),
            of_pod,
            lines: VecDeque::new(),
            back: 0,
            end: None,
            focus: false,
        }
    }

    /// Takes lines in. What somebody looks at stays where it is.
    pub(super) fn push(&mut self, lines: Vec<Line>) {
        if self.back > 0 {
            self.back = self.back.saturating_add(lines.len());
        }
        self.lines.extend(lines);
        let over = self.lines.len().saturating_sub(LINES);
        self.lines.drain(..over);
        self.back = self.back.min(self.lines.len());
    }

    /// Goes up (`older`) or down by so many lines.
    pub(super) fn go(&mut self, older: bool, lines: usize) {
        let back = if older { self.back.saturating_add(lines) } else { self.back.saturating_sub(lines) };
        self.back = back.min(self.lines.len().saturating_sub(1));
    }
}

/// Without control characters and without what a terminal would take for a command: colours that a program writes go with
/// their escape sequence.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(one) = rest.next() {
        match one {
            '\t' => out.push(' '),
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                // ECMA-48: parameters, then one byte from @ to ~.
                while rest.next().is_some_and(|next| !('@'..='~').contains(&next)) {}
            }
            _ if one.is_control() => {}
            _ => out.push(one),
        }
        if out.len() >= LINE {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = Line::parse("2026-11-21T02:12:41.123456789Z ns/pod/web stderr GET /  200");
        let wanted = Line {
            time: "02:12:41.123".into(),
            whose: "web".into(),
            is_stderr: true,
            text: "GET /  200".into(),
        };
        assert_eq!(line, wanted);
        assert_eq!(Line::parse("odd").text, "odd");
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        for (written, shown) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("a\rb\tc\u{7}\u{9b}2J", "ab c2J"),
            ("\u{1b}]0;title\u{7}x", "]0;titlex"),
            ("\u{1b}[2", ""),
            ("\u{1b}", ""),
        ] {
            let text = plain(written);
            assert_eq!(text, shown);
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn what_is_looked_at_stays() {
        let lines = |n| vec![Line::default(); n];
        let mut pane = Pane::new(&Row::default(), false, 0);
        pane.push(lines(10));
        assert_eq!(pane.back, 0);
        pane.go(true, 3);
        pane.push(lines(5));
        assert_eq!((pane.back, pane.lines.len()), (8, 15));
        pane.go(true, 100);
        assert_eq!(pane.back, 14);
        pane.go(false, 100);
        pane.push(lines(LINES));
        assert_eq!((pane.back, pane.lines.len()), (0, LINES));
    }
}
