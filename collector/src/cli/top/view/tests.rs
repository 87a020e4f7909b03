use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui_core::{backend::TestBackend, terminal::Terminal};

use super::*;
use crate::{
    admin::PsStream,
    cli::top::{
        pane::Line,
        state::tests::{answer, container},
    },
};

const NOW: u64 = 5_000_000_000;

fn state() -> State {
    let mut state = State::default();
    let mut hungry = container("web-7d9f", "nginx", 1_234_000_000);
    hungry.memory_limit_bytes = Some(100 << 20);
    if let Some(newest) = &mut hungry.newest {
        newest.working_set_bytes = Some(96 << 20);
    }
    hungry.about.streams = vec![PsStream { bytes: 5, gap_bytes: 2_048, ..PsStream::default() }];
    state.take(&answer(vec![hungry, container("web-7d9f", "sidecar", 50_000_000)]));
    state
}

fn drawn(state: &mut State, width: u16, height: u16, colour: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(state, NOW, Look { colour }, frame.buffer_mut())).expect("drawn");
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    cells.chunks(width).map(|line| line.concat().trim_end().to_owned()).collect()
}

fn hit(state: &mut State, code: KeyCode) {
    state.key(&KeyEvent::new(code, KeyModifiers::NONE));
}

#[test]
fn a_wide_terminal_shows_everything() {
    let mut state = state();
    let shown = lines(&drawn(&mut state, 140, 8, true));
    let wanted = [
        "shimtap 9.9.9  1 wrapper  2 running  logs -/s - lines/s  gaps 2.0K",
        "containers by cpu",
        "NAMESPACE  POD       CONTAINER  STATE    AGE   CPU%  THROT%  MEMORY  LIMIT%  READ/S  WRITE/S  LOG/S  LINES/S  GAPS",
        "shop       web-7d9f  nginx      running   2s  123.4       -   96.0M    96.0       -        -      -        -  2.0K",
        "shop       web-7d9f  sidecar    running   2s    5.0       -       -       -       -        -      -        -     -",
        "",
        "",
        "Enter logs  s S sort  / filter  p pods  a ended too  Space pause  ? help  q quit",
    ];
    assert_eq!(shown, wanted);
}

#[test]
fn a_narrow_one_keeps_what_matters() {
    let mut state = state();
    let shown = lines(&drawn(&mut state, 44, 6, true));
    assert_eq!(
        shown[2..5],
        [
            "POD         CONTAINER   CPU%  MEMORY  LOG/S",
            "web-7d9f    nginx      123.4   96.0M      -",
            "web-7d9f    sidecar      5.0       -      -",
        ]
        .map(|line| line.replace("POD         ", "POD       ").replace("web-7d9f    ", "web-7d9f  "))
    );
    for (width, height) in [(1, 1), (7, 3), (20, 2), (3, 40), (300, 1)] {
        drawn(&mut state, width, height, true);
    }
}

#[test]
fn what_hurts_is_seen_with_and_without_colour() {
    let mut state = state();
    let at = |buffer: &Buffer, text: &str| {
        let line = &lines(buffer)[3];
        let x = line.find(text).expect("on the screen");
        buffer[(u16::try_from(x).expect("small"), 3)].clone()
    };
    let red = drawn(&mut state, 140, 8, true);
    assert_eq!(at(&red, "2.0K").fg, Color::Red);
    assert_eq!(at(&red, "123.4").fg, Color::Reset);
    let plain = drawn(&mut state, 140, 8, false);
    assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(at(&plain, "2.0K").modifier.contains(Modifier::BOLD));
    assert!(!at(&plain, "123.4").modifier.contains(Modifier::BOLD));
}

#[test]
fn lines_follow_below_the_table() {
    let mut state = state();
    hit(&mut state, KeyCode::Enter);
    let shown = lines(&drawn(&mut state, 80, 12, true));
    assert_eq!(shown[6], "logs of shop/web-7d9f/nginx: none yet");
    let line = |n: usize| Line { time: "10:00:00.000".into(), text: format!("line {n}"), ..Line::default() };
    if let Some(pane) = &mut state.pane {
        pane.push((0..50).map(line).collect());
        pane.go(true, 10);
    }
    let shown = lines(&drawn(&mut state, 80, 12, true));
    assert_eq!(shown[6], "logs of shop/web-7d9f/nginx, 10 lines further down (End)");
    assert_eq!(shown[7..11], [36, 37, 38, 39].map(|n| format!("10:00:00.000 line {n}")));
}

#[test]
fn a_collector_that_is_away_is_said_and_nothing_is_forgotten() {
    let mut state = state();
    state.fault = Some("asking the collector: refused".into());
    let shown = lines(&drawn(&mut state, 80, 8, true));
    assert_eq!(shown[1], "3s old: asking the collector: refused");
    assert!(shown[3].contains("nginx"));
}

#[test]
fn a_window_follows_the_selected_row() {
    // first, selected, rows, room
    for (before, after) in [
        ((0, 0, 3, 10), 0),
        ((0, 9, 20, 10), 0),
        ((0, 10, 20, 10), 1),
        ((5, 3, 20, 10), 3),
        ((15, 14, 15, 10), 5),
        ((0, 0, 0, 10), 0),
        ((0, 4, 9, 0), 5),
    ] {
        let (first, selected, rows, room) = before;
        assert_eq!(window(first, selected, rows, room), after, "{before:?}");
    }
}

#[test]
fn help_names_every_key() {
    let mut state = state();
    hit(&mut state, KeyCode::Char('?'));
    let shown = lines(&drawn(&mut state, 90, 24, true)).join("\n");
    for (keys, what, _) in HELP {
        assert!(shown.contains(keys) && shown.contains(what), "{keys}: {shown}");
    }
    assert!(!shown.contains("nginx"), "{shown}");
}
