//! Patterns for names: `*` stands for any characters, `?` for one, everything else for itself.

use regex::Regex;

/// A list of patterns of which one must match the whole name.
#[derive(Clone, Debug)]
pub struct Names(Vec<(String, Regex)>);

// === impl Names ===

impl Names {
    /// The patterns; `Err` names the first that cannot be used.
    ///
    /// # Errors
    /// A pattern is empty or too large to be compiled.
    pub fn new(patterns: Vec<String>) -> Result<Self, String> {
        let compiled = patterns.into_iter().map(|pattern| {
            if pattern.is_empty() {
                return Err("an empty pattern matches nothing: leave the option out".to_owned());
            }
            let regex =
                Regex::new(&translate(&pattern)).map_err(|e| format!("{pattern:?} is too long: {e}"))?;
            Ok((pattern, regex))
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// True where one of the patterns is the whole of `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(_, regex)| regex.is_match(name))
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(|(text, _)| text).eq(other.0.iter().map(|(text, _)| text))
    }
}

impl Eq for Names {}

fn translate(pattern: &str) -> String {
    let mut out = String::from("^(?s:");
    for c in pattern.chars() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out.push_str(")$");
    out
}

#[cfg(test)]
mod tests {
    use super::Names;

    fn has(pattern: &str, name: &str) -> bool {
        Names::new(vec![pattern.to_owned()]).expect("a pattern").has(name)
    }

    #[test]
    fn a_pattern_is_the_whole_name() {
        assert!(has("web-*", "web-1") && has("web-*", "web-") && !has("web-*", "my-web-1"));
        assert!(has("?b", "ab") && !has("?b", "b") && !has("?b", "aab"));
        assert!(has("a.b", "a.b") && !has("a.b", "axb") && !has("a", "a\n"));
        assert!(has("*", "") && has("*", "any\nthing"));
        assert!(Names::new(vec!["x".to_owned(), String::new()]).is_err());
    }
}
