use crossterm::event::KeyCode::{Backspace, Char, Down, End, Enter, Esc, Home, Tab, Up};

use super::*;
use crate::{
    admin::{PsContainer, TopContainer, TopSample},
    cli::top::pane::Line,
};

pub(in crate::cli::top) fn container(pod: &str, name: &str, cpu: u64) -> TopContainer {
    let about = PsContainer {
        containerd_namespace: "k8s.io".into(),
        namespace: Some("shop".into()),
        pod: Some(pod.into()),
        container: Some(name.into()),
        id: format!("id-of-{name}"),
        state: "running".into(),
        ..PsContainer::default()
    };
    let sample = |time_ns, cpu_ns| Some(TopSample { time_ns, cpu_ns: Some(cpu_ns), ..TopSample::default() });
    TopContainer {
        about,
        role: "pod_container".into(),
        earlier: sample(1, 0),
        newest: sample(1_000_000_001, cpu),
        ..TopContainer::default()
    }
}

pub(in crate::cli::top) fn answer(containers: Vec<TopContainer>) -> Top {
    Top { version: "9.9.9".into(), time_ns: 2_000_000_000, wrappers: 1, containers }
}

fn state() -> State {
    let mut state = State { room: 10, ..State::default() };
    state.take(&answer(vec![
        container("web", "nginx", 5),
        container("web", "sidecar", 9),
        container("db", "pg", 7),
    ]));
    state
}

fn names(state: &State) -> String {
    let rows = state.rows();
    rows.iter().map(|row| row.container.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ")
}

fn hit(state: &mut State, code: KeyCode) -> Action {
    state.key(&KeyEvent::new(code, KeyModifiers::NONE))
}

fn write(state: &mut State, text: &str) {
    text.chars().for_each(|one| drop(hit(state, Char(one))));
}

fn selected(state: &State) -> String {
    let rows = state.rows();
    rows[state.selected(&rows)].container.clone().unwrap_or_default()
}

#[test]
fn rows_are_sorted_and_filtered() {
    let mut state = state();
    assert_eq!(names(&state), "sidecar pg nginx");
    hit(&mut state, Char('r'));
    assert_eq!(names(&state), "nginx pg sidecar");
    hit(&mut state, Char('S'));
    assert_eq!((state.sort, names(&state).as_str()), (Sort::Name, "sidecar nginx pg"));
    hit(&mut state, Char('/'));
    write(&mut state, "WEq");
    assert!(state.typing, "q is text here");
    assert_eq!(names(&state), "");
    hit(&mut state, Backspace);
    assert_eq!((state.filter.as_str(), names(&state).as_str()), ("we", "sidecar nginx"));
    hit(&mut state, Enter);
    assert!(!state.typing && state.pane.is_none(), "Enter only ends the typing");
    hit(&mut state, Esc);
    assert_eq!(names(&state), "sidecar nginx pg");
}

#[test]
fn the_selected_one_stays_selected_when_its_place_changes() {
    let mut state = state();
    assert_eq!(selected(&state), "sidecar");
    hit(&mut state, Down);
    assert_eq!(selected(&state), "pg");
    state.take(&answer(vec![
        container("web", "nginx", 5),
        container("web", "sidecar", 9),
        container("db", "pg", 99),
    ]));
    assert_eq!((names(&state).as_str(), selected(&state).as_str()), ("pg sidecar nginx", "pg"));
    hit(&mut state, End);
    hit(&mut state, Down);
    assert_eq!(selected(&state), "nginx");
    hit(&mut state, Home);
    hit(&mut state, Up);
    assert_eq!(selected(&state), "pg");
    // It is gone: the first one is there.
    state.take(&answer(vec![container("web", "nginx", 5)]));
    assert_eq!(selected(&state), "nginx");
    state.take(&answer(vec![]));
    hit(&mut state, Down);
    assert_eq!(hit(&mut state, Enter), Action::None);
}

#[test]
fn those_that_ended_are_hidden_until_wanted() {
    let mut state = state();
    let mut ended = container("web", "job", 1);
    ended.about.state = "exited".into();
    ended.about.exit_status = Some(3);
    ended.newest = None;
    state.take(&answer(vec![container("web", "nginx", 5), ended]));
    assert_eq!((names(&state).as_str(), state.counts()), ("nginx", (1, 1)));
    hit(&mut state, Char('a'));
    assert_eq!(names(&state), "nginx job");
    assert_eq!(state.rows()[1].state, "exited(3)");
}

#[test]
fn a_pane_follows_one_row_and_goes() {
    let mut state = state();
    let Action::Follow(number, Lines(asked)) = hit(&mut state, Enter) else { panic!("no pane") };
    let has = |key: &str, value: &str| asked.iter().any(|(its, text)| *its == key && text == value);
    assert!(has("container", "id-of-sidecar") && has("follow", "1") && has("namespace", "shop"), "{asked:?}");
    state.pane.as_mut().expect("a pane").push(vec![Line::default(); 30]);
    hit(&mut state, Tab);
    hit(&mut state, Up);
    assert_eq!((state.pane.as_ref().map(|pane| pane.back), selected(&state).as_str()), (Some(1), "sidecar"));
    hit(&mut state, Tab);
    hit(&mut state, Down);
    let Action::Follow(other, _) = hit(&mut state, Enter) else { panic!("no other pane") };
    assert!(other > number, "lines that come late for the first are told apart");
    assert_eq!(hit(&mut state, Enter), Action::Unfollow);
    hit(&mut state, Char('p'));
    let Action::Follow(_, Lines(asked)) = hit(&mut state, Enter) else { panic!("no pane of a pod") };
    assert!(asked.contains(&("pod", "web".to_owned())) && !asked.iter().any(|(key, _)| *key == "container"));
    assert_eq!(hit(&mut state, Esc), Action::Unfollow);
    assert!(state.pane.is_none());
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut state = state();
    hit(&mut state, Char(' '));
    state.fault = Some("away".into());
    state.take(&answer(vec![]));
    assert_eq!((names(&state).as_str(), &state.fault), ("sidecar pg nginx", &None));
    hit(&mut state, Char(' '));
    state.take(&answer(vec![]));
    assert_eq!(names(&state), "");
}

#[test]
fn the_end_is_one_key_away() {
    for code in [Char('q'), Char('c')] {
        let mut state = state();
        let modifiers = if code == Char('c') { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
        assert_eq!(state.key(&KeyEvent::new(code, modifiers)), Action::Quit);
        hit(&mut state, Char('?'));
        assert!(state.help);
        assert_eq!(state.key(&KeyEvent::new(code, modifiers)), Action::Quit);
    }
    let mut state = state();
    hit(&mut state, Char('/'));
    assert_eq!(state.key(&KeyEvent::new(Char('c'), KeyModifiers::CONTROL)), Action::Quit);
}
