//! The terminal: taken over as a whole, and given back as it was, whatever ends us.

use std::{
    io::{self, Stdout, Write},
    panic,
};

use crossterm::{
    cursor, execute, queue,
    style::{Attribute, Color as Paint, Colors, Print, SetAttribute, SetColors},
    terminal::{
        Clear, ClearType as Part, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
        enable_raw_mode, size,
    },
};
use ratatui_core::{
    backend::{Backend, ClearType, WindowSize},
    buffer::{Buffer, Cell},
    layout::{Position, Size},
    style::{Color, Modifier},
    terminal::Terminal,
};

/// The whole terminal, until it is dropped.
pub(super) struct Screen {
    terminal: Terminal<Painter>,
}

/// Writes cells to the terminal.
struct Painter(Stdout);

// === impl Screen ===

impl Screen {
    /// Takes the terminal over. Also a panic gives it back, before it says what it has to say.
    pub(super) fn enter() -> io::Result<Self> {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |why| {
            leave();
            earlier(why);
        }));
        // From here on the drop gives back what was taken, also where the next step fails.
        let screen = Self { terminal: Terminal::new(Painter(io::stdout()))? };
        enter()?;
        Ok(screen)
    }

    /// Draws; only what changed is written.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame.buffer_mut())).map(drop)
    }

    /// Draws everything anew the next time.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }

    /// Gives the terminal back for as long as `meanwhile` takes.
    pub(super) fn lend(&mut self, meanwhile: impl FnOnce()) -> io::Result<()> {
        leave();
        meanwhile();
        enter()?;
        self.forget()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
}

/// Each step for itself: a terminal that is gone is no reason to leave another half done.
fn leave() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

// === impl Painter ===

/// What we draw with, as crossterm names it.
const ATTRIBUTES: [(Modifier, Attribute); 4] = [
    (Modifier::BOLD, Attribute::Bold),
    (Modifier::DIM, Attribute::Dim),
    (Modifier::REVERSED, Attribute::Reverse),
    (Modifier::UNDERLINED, Attribute::Underlined),
];

impl Painter {
    fn style(&mut self, cell: &Cell) -> io::Result<()> {
        queue!(self.0, SetAttribute(Attribute::Reset))?;
        for (modifier, attribute) in ATTRIBUTES {
            if cell.modifier.contains(modifier) {
                queue!(self.0, SetAttribute(attribute))?;
            }
        }
        let colour = match cell.fg {
            Color::Red => Paint::DarkRed,
            Color::Yellow => Paint::DarkYellow,
            _ => return Ok(()),
        };
        queue!(self.0, SetColors(Colors { foreground: Some(colour), background: None }))
    }
}

impl Backend for Painter {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut next = None;
        let mut style = None;
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                queue!(self.0, cursor::MoveTo(x, y))?;
            }
            if style != Some((cell.fg, cell.modifier)) {
                self.style(cell)?;
                style = Some((cell.fg, cell.modifier));
            }
            queue!(self.0, Print(cell.symbol()))?;
            // Behind a wide character the place is not known for sure: the next cell says its own.
            next = cell.symbol().is_ascii().then(|| (x.saturating_add(1), y));
        }
        queue!(self.0, SetAttribute(Attribute::Reset))
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        execute!(self.0, cursor::Hide)
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        execute!(self.0, cursor::Show)
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        cursor::position().map(Position::from)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        execute!(self.0, cursor::MoveTo(x, y))
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, part: ClearType) -> io::Result<()> {
        let part = match part {
            ClearType::All => Part::All,
            ClearType::AfterCursor => Part::FromCursorDown,
            ClearType::BeforeCursor => Part::FromCursorUp,
            ClearType::CurrentLine => Part::CurrentLine,
            ClearType::UntilNewLine => Part::UntilNewLine,
        };
        execute!(self.0, Clear(part))
    }

    fn size(&self) -> io::Result<Size> {
        size().map(Size::from)
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::default() })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
