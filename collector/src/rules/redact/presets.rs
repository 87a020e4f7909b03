//! Patterns that stand ready under a name (docs/configuration.md). A search for any of them takes time linear in the line.

use std::ops::Range;

use super::card;

/// The parts of a find that go.
pub(super) type Within = fn(&[u8]) -> Vec<Range<usize>>;

/// One of them.
pub(super) struct Preset {
    pub(super) name: &'static str,
    pub(super) pattern: &'static str,
    /// What of a find goes, where only a look at it can tell.
    pub(super) within: Option<Within>,
}

pub(super) const PRESETS: [Preset; 8] = [
    Preset {
        name: "email",
        pattern: r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+",
        within: None,
    },
    Preset {
        name: "ipv4",
        pattern: r"(?-u:\b)(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(?-u:\b)",
        within: None,
    },
    Preset { name: "credit_card", pattern: card::DIGITS, within: Some(card::within) },
    Preset {
        name: "authorization",
        pattern: r"(?i-u)\b(?:bearer|basic)[ \t]+(?P<secret>[a-z0-9._~+/=-]{8,})",
        within: None,
    },
    Preset {
        name: "jwt",
        pattern: r"(?-u:\b)eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*",
        within: None,
    },
    Preset { name: "aws_access_key", pattern: r"(?-u:\b)(?:AKIA|ASIA)[A-Z0-9]{16}(?-u:\b)", within: None },
    // A value ends with the quotes that it began with, or with the line. Behind a backslash quotes are part of a text that stands in
    // quotes itself, as JSON within JSON does.
    Preset {
        name: "password",
        pattern: concat!(
            r"(?i-u)(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key)",
            r#"\\?["']?[ \t]*[:=][ \t]*(?:"#,
            r#"\\"(?P<secret>(?:[^"\\]|\\{3}"|\\[^"])+)"#,
            r#"|"(?P<secret2>(?:[^"\\]|\\.)+)"#,
            r"|'(?P<secret3>(?:[^'\\]|\\.)+)",
            r#"|(?P<secret4>(?:[^\s"',;&\\]|\\[^"'])+))"#
        ),
        within: None,
    },
    Preset { name: "url_password", pattern: r"(?-u)://[^/\s:@]*:(?P<secret>[^/\s@]+)@", within: None },
];

#[cfg(test)]
mod tests {
    use super::super::tests::without;

    #[test]
    fn presets_find_what_they_are_for_and_leave_the_rest() {
        let cases = [
            ("email", "to: jo.e+x@mail.example.org!", "to: [redacted:email]!"),
            ("email", "a@b, user@host", "a@b, user@host"),
            ("ipv4", "from 10.0.0.255:80", "from [redacted:ipv4]:80"),
            ("ipv4", "version 1.2.3 or 1.2.3.999", "version 1.2.3 or 1.2.3.999"),
            (
                "authorization",
                "Authorization: Bearer abcDEF123~x=",
                "Authorization: Bearer [redacted:authorization]",
            ),
            ("jwt", "t=eyJhbGci.eyJzdWIi.c2ln", "t=[redacted:jwt]"),
            ("aws_access_key", "AKIAIOSFODNN7EXAMPLE", "[redacted:aws_access_key]"),
            ("password", "db_password=hunter2&x=1", "db_password=[redacted:password]&x=1"),
            ("password", r#"{"apiKey": "a b", "n":1}"#, r#"{"apiKey": "[redacted:password]", "n":1}"#),
            ("password", "PASSWORD: 'it is'", "PASSWORD: '[redacted:password]'"),
            ("password", "the password is long", "the password is long"),
            ("password", r#"{"token":"ab\"cd ef","n":1}"#, r#"{"token":"[redacted:password]","n":1}"#),
            ("password", r#""token":"its line was cut"#, r#""token":"[redacted:password]"#),
            (
                "password",
                r#"{"m":"{\"password\":\"hunter2\",\"n\":1}"}"#,
                r#"{"m":"{\"password\":\"[redacted:password]\",\"n\":1}"}"#,
            ),
            (
                "password",
                r#"\"secret\": \"a\\\"b\\c\", \"n\":1"#,
                r#"\"secret\": \"[redacted:password]\", \"n\":1"#,
            ),
            ("password", r#"{"m":"{\"token\":\"\",\"n\":1}"}"#, r#"{"m":"{\"token\":\"\",\"n\":1}"}"#),
            ("password", r#"\"login password=x\y\" ok"#, r#"\"login password=[redacted:password]\" ok"#),
            ("url_password", "amqp://u:p%40ss@host/v", "amqp://u:[redacted:url_password]@host/v"),
        ];
        for (preset, line, expected) in cases {
            assert_eq!(without(&[preset], line), expected, "{preset}");
        }
    }

    #[test]
    fn a_card_is_found_whatever_digits_stand_beside_it() {
        for card in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "5500-0000-0000-0004",
            "3782 822463 10005",
            "378282246310005",
            "6304 0000 0000 0000 000",
            "622126 0000000000001",
            "41111111 11111111",
        ] {
            for (before, after) in [
                ("", "."),
                ("card ", " 12/27 123"),
                ("", " 09/28"),
                ("2026-01-02 ", ""),
                ("2026-01-02T02:12:41 ", " 1234"),
                ("order 7 of 12 ", " 3 x"),
            ] {
                let line = without(&["credit_card"], &format!("{before}{card}{after}"));
                // Digits beside it may have the check digit together with some of its own.
                let is_whole = card.split([' ', '-']).all(|group| !line.contains(group));
                assert!(
                    is_whole && line.contains("[redacted:credit_card]"),
                    "{before}{card}{after} is {line}"
                );
            }
        }
    }

    #[test]
    fn what_has_no_check_digit_is_no_card() {
        for line in
            ["order 4111111111111112", "4111 1111 1111 1112", "12345678901234567890123", "1 2 3 4 5 6 7 8"]
        {
            assert_eq!(without(&["credit_card"], line), line);
        }
    }
}
