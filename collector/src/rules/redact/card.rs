//! Numbers of payment cards among other digits: a time stands before them, an expiry date or a check value behind.

use std::ops::{Range, RangeInclusive};

/// Digits enough for one, in groups with a blank or a dash between them.
pub(super) const DIGITS: &str = r"(?-u:\b)[0-9](?:[ -]?[0-9]){12,}(?-u:\b)";

/// Digits of a card's number (ISO/IEC 7812-1).
const LENGTHS: RangeInclusive<usize> = 13..=19;
/// In so many groups one is printed at most.
const GROUPS: usize = 5;

/// What of such digits has the check digit of a card: a group by itself, groups as cards have them, or all together. Where two
/// overlap it is both, since which is the card nobody can tell.
pub(super) fn within(digits: &[u8]) -> Vec<Range<usize>> {
    let groups = groups(digits);
    let all = groups.as_slice();
    let from = |at: usize| (1..=GROUPS).filter_map(move |count| all.get(at..at.checked_add(count)?));
    let printed = (1..all.len()).flat_map(from).filter(|groups| is_printed_so(groups));
    // Of what stands first any groups.
    from(0).chain(printed).chain([all]).filter_map(|groups| card(digits, groups)).collect()
}

fn groups(digits: &[u8]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, _) in digits.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
        let behind = at.saturating_add(1);
        match groups.last_mut().filter(|group| group.end == at) {
            Some(group) => group.end = behind,
            None => groups.push(at..behind),
        }
    }
    groups
}

/// 4-4-4-4, 4-6-5 and their like, 6-13, 8-8, or no groups at all.
fn is_printed_so(groups: &[Range<usize>]) -> bool {
    match groups {
        [_] => true,
        [first, _] => first.len() >= 4,
        [first, inner @ .., last] => {
            first.len() == 4 && inner.iter().all(|group| (3..=6).contains(&group.len())) && last.len() <= 6
        }
        [] => false,
    }
}

/// Where these groups are, if they are a card's number.
fn card(digits: &[u8], groups: &[Range<usize>]) -> Option<Range<usize>> {
    let place = groups.first()?.start..groups.last()?.end;
    let count = groups.iter().fold(0usize, |sum, group| sum.saturating_add(group.len()));
    (LENGTHS.contains(&count) && luhn(digits.get(place.clone())?)).then_some(place)
}

/// The check digit of payment cards (ISO/IEC 7812-1, annex B); what lies between the digits is passed over.
fn luhn(digits: &[u8]) -> bool {
    let digits = digits.iter().rev().filter(|b| b.is_ascii_digit()).map(|b| u32::from(b - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(n, digit)| match (n % 2, digit * 2) {
            (0, _) => digit,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        })
        .sum();
    sum.is_multiple_of(10)
}
