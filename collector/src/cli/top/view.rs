//! Draws the state into a buffer of any size. What does not fit is left out; nothing here can fail.

use ratatui_core::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{
    super::cells::{UNKNOWN, age, counted, size},
    columns::{self, Column, GAP, Tone, cut, fit},
    figures::Row,
    keys::HELP,
    pane::Pane,
    state::State,
};

/// Fewest lines that a table keeps when a pane is open: its head and three rows.
const TABLE: u16 = 4;

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Colours are wanted (https://no-color.org).
    pub(super) colour: bool,
}

/// Something that lines are written into, from the top.
struct Page<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    look: Look,
}

// === impl Look ===

impl Look {
    fn tone(self, tone: Tone) -> Style {
        match (tone, self.colour) {
            (Tone::Plain, _) => Style::new(),
            (Tone::Warning, true) => Style::new().fg(Color::Yellow),
            (Tone::Fault, true) => Style::new().fg(Color::Red),
            (Tone::Warning | Tone::Fault, false) => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

// === impl Page ===

impl Page<'_> {
    /// Writes at a place of the area; what is beyond it is cut off.
    fn put(&mut self, x: usize, y: u16, text: &str, style: Style) {
        let (Ok(x), true) = (u16::try_from(x), y < self.area.height) else { return };
        if x < self.area.width {
            let (left, top) = (self.area.x.saturating_add(x), self.area.y.saturating_add(y));
            self.buffer.set_stringn(left, top, text, usize::from(self.area.width - x), style);
        }
    }

    /// A whole line in one style.
    fn line(&mut self, y: u16, text: &str, style: Style) {
        if y < self.area.height {
            let line = Rect { y: self.area.y.saturating_add(y), height: 1, ..self.area };
            self.buffer.set_style(line, style);
            self.put(0, y, text, style);
        }
    }

    fn width(&self) -> usize {
        usize::from(self.area.width)
    }
}

/// Draws everything; `now_ns` is Unix time.
pub(super) fn draw(state: &mut State, now_ns: u64, look: Look, buffer: &mut Buffer) {
    let area = buffer.area;
    let height = |lines: u16, at: u16| Rect { y: area.y.saturating_add(at), height: lines, ..area };
    let foot = area.height.saturating_sub(1);
    head(state, now_ns, &mut Page { area: height(2.min(area.height), 0), look, buffer: &mut *buffer });
    let body = foot.saturating_sub(2);
    let table_lines = match &state.pane {
        Some(_) => (body / 2).max(TABLE).min(body),
        None => body,
    };
    table(state, &mut Page { area: height(table_lines, 2), look, buffer: &mut *buffer });
    if let Some(shown) = &mut state.pane {
        let area = height(body - table_lines, 2 + table_lines);
        pane(shown, &mut Page { area, look, buffer: &mut *buffer });
    }
    if state.help {
        help(&mut Page { area: height(body, 2), look, buffer: &mut *buffer });
    }
    if area.height > 2 {
        footer(state, &mut Page { area: height(1, foot), look, buffer: &mut *buffer });
    }
}

fn head(state: &State, now_ns: u64, page: &mut Page<'_>) {
    let (running, ended) = state.counts();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let wrappers = counted(state.wrappers, "wrapper");
    let mut first = format!("shimtap {}  {wrappers}  {running} running", state.version);
    if ended > 0 {
        first += &format!(", {ended} ended");
    }
    let [bytes, lines, gaps] = state.output();
    let shown = |figure: Option<u64>| figure.map_or_else(|| UNKNOWN.to_owned(), size);
    let lines = lines.map_or_else(|| UNKNOWN.to_owned(), |n| n.to_string());
    first += &format!("  logs {}/s {lines} lines/s  gaps {}", shown(bytes), shown(gaps));
    page.put(0, 0, &first, bold);
    let old = now_ns.saturating_sub(state.time_ns) / 1_000_000_000;
    if let Some(fault) = &state.fault {
        page.line(1, &format!("{} old: {fault}", age(old)), page.look.tone(Tone::Fault));
        return;
    }
    let what = if state.pods { "pods" } else { "containers" };
    let way = if state.reverse { ", the least first" } else { "" };
    let mut second = format!("{what} by {}{way}", state.sort.label());
    if !state.filter.is_empty() {
        second += &format!(", with \"{}\"", state.filter);
    }
    if state.paused {
        second += &format!(", paused for {}", age(old));
    }
    page.put(0, 1, &second, Style::new());
}

fn table(state: &mut State, page: &mut Page<'_>) {
    let all = if state.pods { columns::PODS } else { columns::CONTAINERS };
    let rows = state.rows();
    let all = &columns::of_rows(all, &rows);
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| all.iter().map(|column| (column.cell)(row)).collect()).collect();
    let wanted: Vec<usize> = all.iter().enumerate().map(|(at, column)| widest(column, at, &cells)).collect();
    let fitting = fit(all, &wanted, page.width());
    let selected = state.selected(&rows);
    let room = usize::from(page.area.height.saturating_sub(1));
    let first = window(state.first, selected, rows.len(), room);

    page.line(0, "", page.look.bar());
    let mut x = 0;
    for (_, column, width) in &fitting {
        let mut style = page.look.bar();
        if column.sort == Some(state.sort) {
            style = style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
        }
        page.put(x, 0, &aligned(column, column.head, *width), style);
        x += width + GAP;
    }
    for (at, (row, cells)) in rows.iter().zip(&cells).enumerate().skip(first).take(room) {
        let Ok(y) = u16::try_from(at - first + 1) else { break };
        draw_row(row, cells, &fitting, at == selected, y, page);
    }
    if rows.is_empty() {
        page.put(0, 1, nothing(state), Style::new());
    }
    (state.first, state.room) = (first, room);
}

fn draw_row(
    row: &Row,
    cells: &[String],
    fitting: &[(usize, &Column, usize)],
    selected: bool,
    y: u16,
    page: &mut Page<'_>,
) {
    let mut base = Style::new();
    if !row.is_running {
        base = base.add_modifier(Modifier::DIM);
    }
    if selected {
        base = base.add_modifier(Modifier::REVERSED);
    }
    page.line(y, "", base);
    let mut x = 0;
    for (at, column, width) in fitting {
        let cell = cells.get(*at).map(String::as_str).unwrap_or_default();
        let tone = page.look.tone((column.tone)(row));
        page.put(x, y, &aligned(column, cell, *width), base.patch(tone));
        x += width + GAP;
    }
}

fn nothing(state: &State) -> &'static str {
    if state.filter.is_empty() {
        "nothing runs behind a wrapper here: `shimtap doctor` says why not"
    } else {
        "nothing has that in its names (Esc forgets the filter)"
    }
}

fn widest(column: &Column, at: usize, cells: &[Vec<String>]) -> usize {
    let cells = cells.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
    cells.chain([column.head.len()]).max().unwrap_or_default()
}

fn aligned(column: &Column, text: &str, width: usize) -> String {
    let text = cut(text, width);
    if column.least.is_some() { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

/// The first row that is drawn, so that the selected one is seen and as little as possible moves.
fn window(first: usize, selected: usize, rows: usize, room: usize) -> usize {
    let first = first.min(rows.saturating_sub(room));
    if selected < first { selected } else { first.max((selected + 1).saturating_sub(room)) }
}

fn pane(pane: &mut Pane, page: &mut Page<'_>) {
    let mut title = format!("logs of {}", pane.title);
    if pane.back > 0 {
        title += &format!(", {} lines further down (End)", pane.back);
    }
    match &pane.end {
        Some(end) => title += &format!(": {end}"),
        None if pane.lines.is_empty() => title += ": none yet",
        None => {}
    }
    if pane.focus {
        title += "  [keys move here]";
    }
    page.line(0, &title, page.look.bar());
    let room = usize::from(page.area.height.saturating_sub(1));
    pane.back = pane.back.min(pane.lines.len().saturating_sub(room));
    let end = pane.lines.len() - pane.back;
    for (line, y) in pane.lines.range(end.saturating_sub(room)..end).zip(1..) {
        let mut head = format!("{} ", line.time);
        if pane.of_pod {
            head += &format!("{} ", line.whose);
        }
        let from = head.chars().count();
        page.put(0, y, &head, Style::new().add_modifier(Modifier::DIM));
        let tone = if line.is_stderr { Tone::Warning } else { Tone::Plain };
        page.put(from, y, &line.text, page.look.tone(tone));
    }
}

fn help(page: &mut Page<'_>) {
    let area = page.area;
    (0..area.height).for_each(|y| page.line(y, &" ".repeat(page.width()), Style::reset()));
    for ((keys, what, _), y) in HELP.iter().zip(0..) {
        page.put(2, y, keys, Style::new().add_modifier(Modifier::BOLD));
        page.put(12, y, what, Style::new());
    }
    let y = u16::try_from(HELP.len() + 1).unwrap_or(u16::MAX);
    page.put(
        2,
        y,
        "- is what is not known. CPU% is of one core. docs/top.md says what each column is.",
        Style::new(),
    );
}

fn footer(state: &State, page: &mut Page<'_>) {
    if state.typing {
        page.line(
            0,
            &format!("filter: {}_  (Enter keeps it, Esc forgets it)", state.filter),
            page.look.bar(),
        );
        return;
    }
    let mut x = 0;
    for (keys, what, _) in HELP.iter().filter(|(_, _, shown)| *shown) {
        if x + keys.len() + what.len() + 1 > page.width() {
            break;
        }
        page.put(x, 0, keys, page.look.bar());
        page.put(x + keys.len() + 1, 0, what, Style::new());
        x += keys.len() + what.len() + 3;
    }
}

#[cfg(test)]
mod tests;
