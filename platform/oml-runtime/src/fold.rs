//! How text compares: without case and without accents, as the collation `odeon_text` does in the database. What
//! `LIKE` becomes there is made of these tables.
//!
//! The rule: every character is lowered, loses its accent (Latin, Greek and Cyrillic letters listed
//! below) and combining marks vanish; `ß`, `æ` and `œ` spread to two letters; then code points are
//! compared. ICU's own tables would be larger than the whole runtime. `=` agrees with the database
//! for these scripts; `<` agrees for letters and digits, not for the order among punctuation marks.

use core::cmp::Ordering;

/// Compares two texts by the rule above.
pub fn compare(a: &str, b: &str) -> Ordering {
    folded(a).cmp(folded(b))
}

fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().flat_map(char::to_lowercase).flat_map(|c| {
        let (first, second) = fold(c);
        [first, second].into_iter().flatten()
    })
}

fn fold(c: char) -> (Option<char>, Option<char>) {
    if c < '\u{80}' {
        return (Some(c), None);
    }
    if MARKS.contains(&c) {
        return (None, None);
    }
    if let Some((_, letters)) = SPREAD.iter().find(|(letter, _)| *letter == c) {
        let mut letters = letters.chars();
        return (letters.next(), letters.next());
    }
    (Some(BASES.iter().find(|(_, marked)| marked.contains(c)).map_or(c, |(base, _)| *base)), None)
}

/// Combining marks, which vanish.
pub const MARKS: core::ops::RangeInclusive<char> = '\u{300}'..='\u{36f}';

/// Letters that are two.
pub const SPREAD: &[(char, &str)] = &[('ß', "ss"), ('æ', "ae"), ('ǽ', "ae"), ('œ', "oe")];

/// Letters and what is the same as they are.
pub const BASES: &[(char, &str)] = &[
    ('a', "àáâãäåāăąǎạảấầẩẫậắằẳẵặ"),
    ('c', "çćĉċč"),
    ('d', "ďđ"),
    ('e', "èéêëēĕėęěẹẻẽếềểễệ"),
    ('g', "ĝğġģǧ"),
    ('h', "ĥħ"),
    ('i', "ìíîïĩīĭįıǐịỉ"),
    ('j', "ĵ"),
    ('k', "ķǩ"),
    ('l', "ĺļľŀł"),
    ('n', "ñńņňŉ"),
    ('o', "òóôõöøōŏőǒọỏốồổỗộơớờởỡợ"),
    ('r', "ŕŗř"),
    ('s', "śŝşšșſ"),
    ('t', "ţťŧț"),
    ('u', "ùúûüũūŭůűųǔụủưứừửữự"),
    ('w', "ŵẁẃẅ"),
    ('y', "ýÿŷỳỵỷỹ"),
    ('z', "źżž"),
    ('α', "άἀἁὰᾶ"),
    ('ε', "έἐἑὲ"),
    ('η', "ήἠἡὴῆ"),
    ('ι', "ίϊΐἰἱὶῖ"),
    ('ο', "όὀὁὸ"),
    ('υ', "ύϋΰὐὑὺῦ"),
    ('σ', "ς"),
    ('ω', "ώὠὡὼῶ"),
    ('е', "ёѐ"),
    ('и', "ѝ"),
    ('і', "ї"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_accents_do_not_count() {
        for (a, b) in [
            ("Café", "CAFE"),
            ("cafe\u{301}", "café"),
            ("STRASSE", "straße"),
            ("Ελλάς", "ελλας"),
            ("ЁЖ", "еж"),
            ("Œuvre", "oeuvre"),
            ("", ""),
        ] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
        assert_eq!(compare("a", "B"), Ordering::Less);
        assert_eq!(compare("й", "и"), Ordering::Greater); // a letter of its own, in ICU too
        assert_eq!(compare("ab", "abc"), Ordering::Less);
    }
}
