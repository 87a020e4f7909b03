//! Every option with its default and what it means, as a file that says nothing new: `shimtap check --defaults`, and the
//! middle of docs/configuration.md.

use super::{HEADINGS, option::Heading, rule};

/// Columns of a line of comment.
const WIDTH: usize = 118;

/// All sections as TOML. Those that have an effect by being there stand in comments.
#[must_use]
pub fn defaults() -> String {
    let tables = HEADINGS.iter().map(|heading| section(heading, &format!("[{}]", heading.name)));
    let rule = section(&rule::HEADING, &format!("[[{}]]", rule::HEADING.name));
    tables.chain([rule]).collect::<Vec<_>>().join("\n")
}

/// `title` is its name in its brackets.
fn section(heading: &Heading, title: &str) -> String {
    let mut out = String::new();
    comment(&mut out, heading.says);
    // What is commented out starts with `#` alone, what it means with `# `: taking the former away leaves a file.
    let mark = if heading.is_comment { "#" } else { "" };
    out.push_str(&format!("{mark}{title}\n"));
    for option in heading.options {
        comment(&mut out, &option.says());
        for line in option.line().lines() {
            out.push_str(&format!("{mark}{line}\n"));
        }
    }
    out
}

/// In lines of at most [`WIDTH`] columns.
fn comment(out: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() + 3 > WIDTH {
            out.push_str(&format!("#{line}\n"));
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    if !line.is_empty() {
        out.push_str(&format!("#{line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, env, fs, path::Path};

    use super::*;
    use crate::config::Config;

    /// Each line of `page` that is commented out, as it would stand there.
    fn taken_in(page: &str, sections: &[&str]) -> String {
        let mut out = String::new();
        let mut is_wanted = false;
        for line in page.lines() {
            let bare = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
            if let Some(name) = bare.strip_prefix('[') {
                is_wanted = sections.contains(&name.trim_end_matches(']'));
            }
            if is_wanted {
                out.push_str(&format!("{bare}\n"));
            }
        }
        out
    }

    fn parse(text: &str) -> Config {
        Config::parse(Path::new("c.toml"), text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
    }

    #[test]
    fn the_defaults_that_are_shown_are_those_that_hold() {
        let shown: BTreeSet<&str> = HEADINGS.iter().map(|heading| heading.name).collect();
        assert_eq!(shown.len(), HEADINGS.len(), "each section once");
        let all = defaults();
        assert!(all.lines().all(|line| line.len() <= WIDTH), "{all}");
        assert_eq!(parse(&all), parse(""));
    }

    #[test]
    fn what_stands_in_comments_may_stand_there() {
        let all = defaults();
        let sinks = [&["file"][..], &["stdout"], &["otlp", "otlp.headers", "otlp.tls"], &["node", "file"]];
        for parts in sinks {
            // What a header's example names is not set here.
            let alone = taken_in(&all, parts).replace("api-key = { env = \"API_KEY\" }", "");
            assert!(alone.lines().filter(|line| line.contains(" = ")).count() >= 1, "{alone}");
            assert_eq!(parse(&alone).sinks.len(), 1, "{parts:?}");
        }
    }

    #[test]
    fn what_is_shown_of_a_rule_may_stand_in_one() {
        let all = defaults();
        assert!(all.contains("\n#[[rule]]\n"), "{all}");
        // The two do not go together.
        for without in ["sinks", "annotations"] {
            let options = rule::HEADING.options.iter().filter(|option| option.key() != without);
            let lines: String = options.map(|option| format!("{}\n", option.line())).collect();
            assert!(lines.lines().all(|line| all.contains(&format!("\n#{line}\n"))), "{all}");
            let config = parse(&format!("[[rule]]\n{lines}[file]\npath = \"/var/log/x\"\n"));
            assert_eq!(config.rules.len(), 1);
        }
    }

    #[test]
    fn the_file_that_is_shown_lies_where_the_packaged_unit_lets_us_write() {
        let unit = include_str!("../../../packaging/systemd/shimtap.service");
        let folder = unit.lines().find_map(|line| line.strip_prefix("LogsDirectory=")).expect("a folder");
        let shown = format!("\n#path = \"/var/log/{folder}/");
        assert!(defaults().contains(&shown), "{shown:?} is not in {}", defaults());
    }

    #[test]
    fn what_pages_show_of_the_file_may_stand_in_it() {
        let pages = [include_str!("../../../README.md"), include_str!("../../../docs/quickstart.md")];
        let blocks: Vec<&str> = pages
            .iter()
            .flat_map(|page| page.split("```toml\n").skip(1))
            .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
            .filter(|block| block.starts_with("# /etc/shimtap/collector.toml\n"))
            .collect();
        assert!(blocks.len() > 3, "{blocks:?}");
        let all: Vec<Config> = blocks.iter().map(|block| parse(block)).collect();
        // What their Prometheus needs of them.
        assert!(all.iter().any(|config| config.metrics.listen.ip().is_unspecified()));
    }

    /// `UPDATE=1 cargo test -p shimtap` writes the page anew.
    #[test]
    fn the_page_is_what_the_options_say() {
        let frame = include_str!("configuration.md.in");
        let (head, tail) = frame.split_once("@OPTIONS@\n").expect("a place for the options");
        let made = format!("{head}{}{tail}", defaults());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, &made).expect("docs/configuration.md is writable");
        }
        let have = fs::read_to_string(&path).expect("docs/configuration.md");
        assert!(have == made, "docs/configuration.md is stale: run this test with UPDATE=1");
    }
}
