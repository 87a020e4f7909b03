//! What is shown and what keys change of it. Knows no terminal, no socket and no clock.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    figures::{History, Key, Look, Row},
    keys::{Press, press},
    order::Sort,
    pane::Pane,
};
use crate::admin::Top;

/// What has to be done outside after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// The pane of that number wants these lines.
    Follow(u64, Lines),
    /// No pane wants lines.
    Unfollow,
    /// Draw everything anew.
    Redraw,
    /// Stop, as a shell's job.
    Suspend,
    /// The end.
    Quit,
}

/// Whose lines, in the words of `/v1/logs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lines(pub(super) Vec<(&'static str, String)>);

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct State {
    history: History,
    look: Look,
    /// Of the newest answer: release, wrappers, Unix ns.
    pub(super) version: String,
    pub(super) wrappers: usize,
    pub(super) time_ns: u64,
    /// Pods instead of containers.
    pub(super) pods: bool,
    /// With those that ended.
    pub(super) ended: bool,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    /// Rows have it in one of their names; lower case.
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    /// Answers are not taken in.
    pub(super) paused: bool,
    /// Why there is no newer answer.
    pub(super) fault: Option<String>,
    pub(super) help: bool,
    pub(super) pane: Option<Pane>,
    panes: u64,
    selected: Option<Key>,
    /// The first row that is drawn.
    pub(super) first: usize,
    /// Rows that the table had room for.
    pub(super) room: usize,
}

// === impl State ===

impl State {
    /// Of which nothing is known yet.
    pub(super) fn new(pods: bool, sort: Sort, filter: &str) -> Self {
        Self { pods, sort, filter: filter.to_lowercase(), ..Self::default() }
    }

    /// Takes an answer in.
    pub(super) fn take(&mut self, top: &Top) {
        self.fault = None;
        if self.paused {
            return;
        }
        self.look = self.history.look(top);
        self.version.clone_from(&top.version);
        (self.wrappers, self.time_ns) = (top.wrappers, top.time_ns);
    }

    /// Rows of containers that run, and that ended.
    pub(super) fn counts(&self) -> (usize, usize) {
        let running = self.look.containers.iter().filter(|row| row.is_running).count();
        (running, self.look.containers.len() - running)
    }

    /// Bytes and lines of output per second and bytes that are missing, of the node; absent where of none is known.
    pub(super) fn output(&self) -> [Option<u64>; 3] {
        let sum = |figure: fn(&Row) -> Option<u64>| {
            self.look.containers.iter().filter_map(figure).reduce(u64::saturating_add)
        };
        [sum(|row| row.log_bytes), sum(|row| row.log_lines), sum(|row| row.gaps)]
    }

    /// Rows as they are shown.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let all = if self.pods { &self.look.pods } else { &self.look.containers };
        let wanted = |row: &&Row| (self.ended || row.is_running) && self.matches(row);
        let mut rows: Vec<&Row> = all.iter().filter(wanted).collect();
        self.sort.apply(&mut rows, self.reverse);
        rows
    }

    /// Which of `rows` is selected: the one that was, else the first.
    pub(super) fn selected(&self, rows: &[&Row]) -> usize {
        let is_it = |key: &Key| rows.iter().position(|row| row.key == *key);
        self.selected.as_ref().and_then(is_it).unwrap_or_default()
    }

    fn matches(&self, row: &Row) -> bool {
        let names = [Some(&row.namespace), row.pod.as_ref(), row.container.as_ref(), row.image.as_ref()];
        let ids = [Some(&row.id), Some(&row.shim), Some(&row.state)];
        let has = |name: &String| name.to_lowercase().contains(&self.filter);
        names.into_iter().chain(ids).flatten().any(has)
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: &KeyEvent) -> Action {
        let pressed = press(key);
        if self.typing && pressed != Some(Press::Suspend) {
            return self.type_key(key, pressed);
        }
        let Some(pressed) = pressed else { return Action::None };
        if self.help && pressed != Press::Quit {
            self.help = false;
            return Action::None;
        }
        match pressed {
            Press::Sort => self.sort = self.sort.step(false),
            Press::SortBack => self.sort = self.sort.step(true),
            Press::Reverse => self.reverse = !self.reverse,
            Press::Filter => self.typing = true,
            Press::Pods => {
                self.pods = !self.pods;
                self.selected = None;
            }
            Press::Ended => self.ended = !self.ended,
            Press::Pause => self.paused = !self.paused,
            Press::Focus => {
                if let Some(pane) = &mut self.pane {
                    pane.focus = !pane.focus;
                }
            }
            Press::Help => self.help = true,
            Press::Logs => return self.open(),
            Press::Back => return self.back(),
            Press::Redraw => return Action::Redraw,
            Press::Suspend => return Action::Suspend,
            Press::Quit => return Action::Quit,
            Press::Up | Press::Down | Press::PageUp | Press::PageDown | Press::First | Press::Last => {
                self.go(pressed);
            }
        }
        Action::None
    }

    fn type_key(&mut self, key: &KeyEvent, pressed: Option<Press>) -> Action {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char('u') if control => self.filter.clear(),
            KeyCode::Char(_) if control && pressed == Some(Press::Quit) => return Action::Quit,
            KeyCode::Char(one) if !control => self.filter.extend(one.to_lowercase()),
            _ => {}
        }
        Action::None
    }

    fn go(&mut self, pressed: Press) {
        let page = self.room.max(1);
        if let Some(pane) = self.pane.as_mut().filter(|pane| pane.focus) {
            match pressed {
                Press::Up => pane.go(true, 1),
                Press::Down => pane.go(false, 1),
                Press::PageUp => pane.go(true, page),
                Press::PageDown => pane.go(false, page),
                Press::First => pane.go(true, usize::MAX),
                _ => pane.go(false, usize::MAX),
            }
            return;
        }
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let at = self.selected(&rows);
        let to = match pressed {
            Press::Up => at.saturating_sub(1),
            Press::Down => at + 1,
            Press::PageUp => at.saturating_sub(page),
            Press::PageDown => at.saturating_add(page),
            Press::First => 0,
            _ => last,
        };
        self.selected = rows.get(to.min(last)).map(|row| row.key.clone());
    }

    /// The selected row's lines; away with them where they are shown already.
    fn open(&mut self) -> Action {
        let rows = self.rows();
        let Some(row) = rows.get(self.selected(&rows)) else { return Action::None };
        if self.pane.as_ref().is_some_and(|pane| pane.key == row.key) {
            self.pane = None;
            return Action::Unfollow;
        }
        let of_pod = self.pods && row.pod.is_some();
        let number = self.panes + 1;
        let pane = Pane::new(row, of_pod, number);
        let lines = lines(row, of_pod);
        self.selected = Some(row.key.clone());
        self.panes = number;
        self.pane = Some(pane);
        Action::Follow(number, lines)
    }

    fn back(&mut self) -> Action {
        if self.pane.take().is_some() {
            return Action::Unfollow;
        }
        self.filter.clear();
        Action::None
    }
}

fn lines(row: &Row, of_pod: bool) -> Lines {
    let mut asked = vec![("follow", "1".to_owned()), ("tail", "200".to_owned())];
    asked.push(("namespace", row.namespace.clone()));
    match row.pod.as_ref().filter(|_| of_pod) {
        Some(pod) => asked.push(("pod", pod.clone())),
        None => asked.push(("container", row.id.clone())),
    }
    Lines(asked)
}

#[cfg(test)]
pub(super) mod tests;
