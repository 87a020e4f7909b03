//! One look, as a table on stdout: for pipes, for `watch`, and where there is no terminal.

use std::{fmt::Write as _, thread, time::Duration};

use super::{
    super::{ask::Collector, say},
    TopFault, columns,
    feed::look,
    state::State,
};

/// Looks again after `interval`, since what is counted by the collector is only known per second from two looks, and prints.
pub(super) fn print(mut state: State, collector: &Collector, interval: Duration) -> Result<(), TopFault> {
    thread::sleep(interval);
    state.take(&look(collector)?);
    say(&table(&state));
    Ok(())
}

fn table(state: &State) -> String {
    let all = if state.pods { columns::PODS } else { columns::CONTAINERS };
    let shown = state.rows();
    let all = &columns::of_rows(all, &shown);
    let heads = all.iter().map(|column| column.head.to_owned()).collect();
    let mut rows: Vec<Vec<String>> = vec![heads];
    rows.extend(shown.iter().map(|row| all.iter().map(|column| (column.cell)(row)).collect()));
    let widths: Vec<usize> = (0..all.len())
        .map(|at| {
            rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(all).zip(&widths) {
            let _ = match column.least {
                Some(_) => write!(line, "{cell:<width$}  "),
                None => write!(line, "{cell:>width$}  "),
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
