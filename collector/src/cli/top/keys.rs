//! What keys mean. One table for the program and for its help.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for, but while text is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Press {
    /// A row up.
    Up,
    /// A row down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// The first row.
    First,
    /// The last one.
    Last,
    /// Sort by the next figure.
    Sort,
    /// Sort by the one before.
    SortBack,
    /// The other way round.
    Reverse,
    /// Type a filter.
    Filter,
    /// Pods instead of containers, and back.
    Pods,
    /// With those that ended, and without.
    Ended,
    /// Stand still, and go on.
    Pause,
    /// The selected row's output.
    Logs,
    /// Keys move through the output instead of the table, and back.
    Focus,
    /// Away with what was opened last.
    Back,
    /// What keys mean.
    Help,
    /// Draw everything anew.
    Redraw,
    /// Stop, as a shell's job.
    Suspend,
    /// The end.
    Quit,
}

/// Keys by name, what they do, and whether the bottom line has room for it.
pub(super) static HELP: &[(&str, &str, bool)] = &[
    ("Up Down", "select a row (also k j, PgUp PgDn, Home End)", false),
    ("Enter", "logs", true),
    ("Tab", "move through the log instead of the table", false),
    ("s S", "sort", true),
    ("r", "the other way round", false),
    ("/", "filter", true),
    ("p", "pods", true),
    ("a", "ended too", true),
    ("Space", "pause", true),
    ("Esc", "close what was opened last, then forget the filter", false),
    ("?", "help", true),
    ("q", "quit", true),
];

/// What a key asks for; `None` where it means nothing.
pub(super) fn press(key: &KeyEvent) -> Option<Press> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Press::Quit),
            KeyCode::Char('z') => Some(Press::Suspend),
            KeyCode::Char('l') => Some(Press::Redraw),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Up | KeyCode::Char('k') => Press::Up,
        KeyCode::Down | KeyCode::Char('j') => Press::Down,
        KeyCode::PageUp => Press::PageUp,
        KeyCode::PageDown => Press::PageDown,
        KeyCode::Home | KeyCode::Char('g') => Press::First,
        KeyCode::End | KeyCode::Char('G') => Press::Last,
        KeyCode::Char('s') => Press::Sort,
        KeyCode::Char('S') => Press::SortBack,
        KeyCode::Char('r') => Press::Reverse,
        KeyCode::Char('/') => Press::Filter,
        KeyCode::Char('p') => Press::Pods,
        KeyCode::Char('a') => Press::Ended,
        KeyCode::Char(' ') => Press::Pause,
        KeyCode::Enter | KeyCode::Char('l') => Press::Logs,
        KeyCode::Tab => Press::Focus,
        KeyCode::Esc => Press::Back,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Press::Help,
        KeyCode::Char('q') => Press::Quit,
        _ => return None,
    })
}
