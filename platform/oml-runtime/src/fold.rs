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
    // Letters of ASCII are folded one by one. A mark behind the last one is no part of it: it vanishes alone.
    let mut at = 0;
    for (one, other) in a.bytes().zip(b.bytes()) {
        if (one | other) >= 0x80 {
            break;
        }
        let order = one.to_ascii_lowercase().cmp(&other.to_ascii_lowercase());
        if order.is_ne() {
            return order;
        }
        at += 1;
    }
    if at == a.len() && at == b.len() {
        return Ordering::Equal;
    }
    // Both begin with so many characters of ASCII, so both can be cut here.
    folded(&a[at..]).cmp(folded(&b[at..]))
}

/// The first sixteen bytes of a text as it compares, the first one highest: what is smaller here is smaller, what is
/// equal here may differ behind.
pub fn beginning(text: &str) -> (u64, u64) {
    let (mut words, mut at) = ([0_u64; 2], 0);
    for c in folded(text) {
        let mut encoded = [0; 4];
        for byte in c.encode_utf8(&mut encoded).bytes() {
            words[at / 8] |= u64::from(byte) << (56 - at % 8 * 8);
            at += 1;
            if at == 16 {
                return (words[0], words[1]);
            }
        }
    }
    (words[0], words[1])
}

fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    // What a character of ASCII becomes needs no table.
    let lower = |c: char| {
        let ascii = c.is_ascii().then(|| c.to_ascii_lowercase());
        ascii.into_iter().chain(ascii.is_none().then(|| c.to_lowercase()).into_iter().flatten())
    };
    text.chars().flat_map(lower).flat_map(|c| {
        let (first, second) = fold(c);
        [first, second].into_iter().flatten()
    })
}

fn fold(c: char) -> (Option<char>, Option<char>) {
    if c < '\u{80}' {
        return (Some(c), None);
    }
    if let Some(base @ 1..) = (c as usize).checked_sub(LATIN_FIRST).and_then(|at| LATIN.get(at)).copied() {
        return (Some(char::from(base)), None);
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

/// Where the Latin letters with accents begin that most texts have.
const LATIN_FIRST: usize = 0xc0;

/// What [`BASES`] says of them, without a search; 0 where it says nothing.
const LATIN: [u8; 0x180 - LATIN_FIRST] = {
    let mut table = [0; 0x180 - LATIN_FIRST];
    let mut row = 0;
    while row < BASES.len() {
        let (base, marked) = (BASES[row].0 as u32, BASES[row].1.as_bytes());
        let mut at = 0;
        while at < marked.len() {
            // These letters are two bytes each; three begin with 0xe0 and more, and their others with less than 0xc0.
            if base < 0x80 && marked[at] >= 0xc3 && marked[at] <= 0xc5 {
                let letter = (marked[at] as usize & 0x1f) << 6 | marked[at + 1] as usize & 0x3f;
                table[letter - LATIN_FIRST] = base as u8;
            }
            at += 1;
        }
        row += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_table_says_what_the_long_one_does() {
        for c in '\u{c0}'..'\u{180}' {
            let said = BASES.iter().find(|(_, marked)| marked.contains(c)).map(|(base, _)| *base as u8);
            assert_eq!(LATIN[c as usize - LATIN_FIRST], said.unwrap_or(0), "{c}");
        }
    }

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
        let words = [
            "",
            "a",
            "A\u{301}",
            "ab",
            "áb",
            "abc",
            "ÄBC",
            "abcdefgh",
            "abcdefghi",
            "ABCDEFGHÏ",
            "ß",
            "ss",
            "z",
            "й",
            "日本",
        ];
        for (a, b) in words.iter().flat_map(|a| words.iter().map(move |b| (*a, *b))) {
            assert_eq!(compare(a, b), folded(a).cmp(folded(b)), "{a} {b}");
            let begin = beginning(a).cmp(&beginning(b));
            assert!(begin.is_eq() || begin == compare(a, b), "{a} {b}");
        }
        assert_eq!(compare("a", "B"), Ordering::Less);
        assert_eq!(compare("й", "и"), Ordering::Greater); // a letter of its own, in ICU too
        assert_eq!(compare("ab", "abc"), Ordering::Less);
    }
}
