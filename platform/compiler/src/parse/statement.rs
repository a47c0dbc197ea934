//! The text of an `sql` node: where entities, attributes and parameters stand in it, and what it does.
//!
//! `{Entity}`, `[Attribute]` and `@Parameter` are looked for in what PostgreSQL reads as code only: not in
//! literals, quoted names, dollar-quoted texts and comments. The SQL itself is not parsed; PostgreSQL does that.
//! Invariant: the pieces, put together again, are the text, so nothing of the author's gets lost.

use crate::ast::{Name, SqlPart};
use crate::problem::Problems;
use crate::sources::Span;
use crate::yaml::Scalar;

/// What was read of a statement.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) parts: Vec<SqlPart>,
    pub(super) gives_rows: bool,
    pub(super) writes: bool,
}

/// What a statement does; the first three read.
const VERBS: [&str; 7] = ["SELECT", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE"];
/// A word that says that the statement belongs into the transaction: it changes or locks rows.
const WRITING: [&str; 5] = ["INSERT", "UPDATE", "DELETE", "MERGE", "SHARE"];

pub(super) fn read(scalar: &Scalar, span: Span, problems: &mut Problems<'_>) -> Option<Read> {
    let chars: Vec<char> = scalar.text.chars().collect();
    let mut scanner = Scanner {
        chars: &chars,
        scalar,
        whole: span,
        at: 0,
        plain: 0,
        parts: Vec::new(),
        words: Vec::new(),
        depth: 0,
    };
    if let Err((at, message)) = scanner.statement() {
        problems.error("OML0503", at, message);
        return None;
    }
    let Scanner { parts, words, .. } = scanner;
    // Behind `WITH …` and outside of parentheses stands what the statement does; `(` begins one that reads.
    let is_verb = |word: &&Word| VERBS.contains(&word.text.as_str());
    let verb = match words.first() {
        Some(first) if first.text == "WITH" => {
            Some(words.iter().find(|word| word.depth == 0 && is_verb(word)).unwrap_or(first))
        }
        first => first.filter(|word| word.text == "(" || is_verb(word)),
    };
    let Some(verb) = verb else {
        let at = words.first().map_or(span, |word| word.span);
        let hint = "it is SELECT, INSERT, UPDATE, DELETE or MERGE, maybe behind WITH; tables are the model's";
        let message = "this is no statement that an app may run";
        problems.error_hint("OML0503", at, message, Some(hint.to_owned()));
        return None;
    };
    let reads = !VERBS[3..].contains(&verb.text.as_str());
    let gives_rows = reads || words.iter().any(|word| word.depth == 0 && word.text == "RETURNING");
    let writes = words.iter().any(|word| WRITING.contains(&word.text.as_str()));
    Some(Read { parts, gives_rows, writes })
}

struct Scanner<'s> {
    chars: &'s [char],
    scalar: &'s Scalar,
    whole: Span,
    at: usize,
    /// Where the text begins that is not in a part yet.
    plain: usize,
    parts: Vec<SqlPart>,
    /// The words and opening parentheses of the code.
    words: Vec<Word>,
    /// Parentheses around the place.
    depth: usize,
}

struct Word {
    /// In capitals.
    text: String,
    span: Span,
    depth: usize,
}

type Refused = (Span, String);

impl Scanner<'_> {
    fn statement(&mut self) -> Result<(), Refused> {
        while let Some(c) = self.peek(0) {
            let from = self.at;
            match c {
                '\'' => {
                    let escapes = self.is_escape_prefix();
                    self.quoted('\'', escapes)?;
                }
                '"' => self.quoted('"', false)?,
                '-' if self.peek(1) == Some('-') => {
                    self.skip_while(|c| c != '\n');
                }
                '/' if self.peek(1) == Some('*') => self.comment()?,
                '$' => self.dollar()?,
                '{' => self.entity()?,
                '[' => self.attribute(None),
                '@' if self.peek(1) == Some('@') => self.at += 2,
                '@' if self.peek(1).is_some_and(is_start) => {
                    self.at += 1;
                    let name = self.name();
                    self.part(from, SqlPart::Parameter(name));
                }
                ';' => {
                    self.at += 1;
                    self.skip_while(char::is_whitespace);
                    if self.at < self.chars.len() {
                        return Err((self.span(from, from + 1), "a node runs one statement".into()));
                    }
                    // The end is where the statement ends.
                    self.plain_until(from);
                    self.plain = self.at;
                }
                '(' => {
                    self.at += 1;
                    self.word("(".to_owned(), from);
                    self.depth += 1;
                }
                ')' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                c if is_start(c) => {
                    let word = self.name();
                    self.word(word.text.to_ascii_uppercase(), from);
                }
                // A number is no name: the `e` of `1e5` begins no word.
                c if c.is_ascii_digit() => self.skip_while(|c| is_start(c) || c.is_ascii_digit()),
                _ => self.at += 1,
            }
        }
        self.plain_until(self.at);
        Ok(())
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, test: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&test) {
            self.at += 1;
        }
    }

    fn span(&self, from: usize, to: usize) -> Span {
        let place = |at: usize| self.scalar.places.get(at).copied();
        let start = place(from).unwrap_or(self.whole.start);
        let end = to.checked_sub(1).and_then(place).map_or(start + 1, |p| p + 1);
        Span { end: end.max(start + 1), start, ..self.whole }
    }

    fn plain_until(&mut self, end: usize) {
        if self.plain < end {
            self.parts.push(SqlPart::Text(self.chars[self.plain..end].iter().collect()));
        }
        self.plain = end;
    }

    /// Ends what was plain before `from`, and stands for everything since.
    fn part(&mut self, from: usize, part: SqlPart) {
        self.plain_until(from);
        self.parts.push(part);
        self.plain = self.at;
    }

    fn word(&mut self, text: String, from: usize) {
        self.words.push(Word { text, span: self.span(from, self.at), depth: self.depth });
    }

    fn name(&mut self) -> Name {
        let from = self.at;
        self.skip_while(|c| is_start(c) || c.is_ascii_digit());
        Name { text: self.chars[from..self.at].iter().collect(), span: self.span(from, self.at) }
    }

    /// `E'…'` has escapes.
    fn is_escape_prefix(&self) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map(|at| self.chars[at]);
        matches!(before(1), Some('e' | 'E')) && !before(2).is_some_and(|c| is_start(c) || c.is_ascii_digit())
    }

    /// A doubled quote is a quote.
    fn quoted(&mut self, quote: char, escapes: bool) -> Result<(), Refused> {
        let from = self.at;
        self.at += 1;
        while let Some(c) = self.peek(0) {
            self.at += 1;
            if c == '\\' && escapes {
                self.at += 1;
            } else if c == quote {
                if self.peek(0) != Some(quote) {
                    return Ok(());
                }
                self.at += 1;
            }
        }
        Err((self.span(from, from + 1), format!("the {quote} is not closed")))
    }

    /// Comments nest.
    fn comment(&mut self) -> Result<(), Refused> {
        let from = self.at;
        let mut depth = 0;
        while let (Some(a), Some(b)) = (self.peek(0), self.peek(1)) {
            let step = match (a, b) {
                ('/', '*') => 1,
                ('*', '/') => -1,
                _ => 0,
            };
            depth += step;
            self.at += if step == 0 { 1 } else { 2 };
            if depth == 0 {
                return Ok(());
            }
        }
        Err((self.span(from, from + 2), "the comment is not closed".into()))
    }

    /// `$tag$ … $tag$`; `$1` would be a number that nothing is bound to.
    fn dollar(&mut self) -> Result<(), Refused> {
        let from = self.at;
        if from > 0 && (is_start(self.chars[from - 1]) || self.chars[from - 1].is_ascii_digit()) {
            self.at += 1; // inside a name
            return Ok(());
        }
        self.at += 1;
        if self.peek(0).is_some_and(|c| c.is_ascii_digit()) {
            return Err((self.span(from, from + 2), "parameters have names: write `@Name`".into()));
        }
        self.skip_while(|c| is_start(c) || c.is_ascii_digit());
        if self.peek(0) != Some('$') {
            return Ok(());
        }
        self.at += 1;
        let tag = &self.chars[from..self.at];
        let rest = &self.chars[self.at..];
        match rest.windows(tag.len()).position(|window| window == tag) {
            Some(end) => {
                self.at += end + tag.len();
                Ok(())
            }
            None => Err((self.span(from, self.at), "the dollar-quoted text is not closed".into())),
        }
    }

    /// `{Entity}` or `{App.Entity}`, and an attribute behind it.
    fn entity(&mut self) -> Result<(), Refused> {
        let from = self.at;
        self.at += 1;
        let mut name = self.name();
        if self.peek(0) == Some('.') {
            self.at += 1;
            let own = self.name();
            name = Name { text: format!("{}.{}", name.text, own.text), span: self.span(from + 1, self.at) };
        }
        if name.text.is_empty() || self.peek(0) != Some('}') {
            return Err((self.span(from, from + 1), "an entity is written `{Name}`".into()));
        }
        self.at += 1;
        if self.peek(0) == Some('.') && self.peek(1) == Some('[') {
            let bracket = self.at;
            self.at += 1;
            let attribute = Some(name.clone());
            let parts = self.parts.len();
            self.attribute_from(from, attribute);
            if self.parts.len() > parts {
                return Ok(());
            }
            self.at = bracket;
        }
        self.part(from, SqlPart::Entity(name));
        Ok(())
    }

    /// `[Attribute]`, where it is no index: that stands behind a name or a bracket.
    fn attribute(&mut self, entity: Option<Name>) {
        let before = self.at.checked_sub(1).map(|at| self.chars[at]);
        if before.is_some_and(|c| is_start(c) || c.is_ascii_digit() || matches!(c, ']' | ')' | '"')) {
            self.at += 1;
            return;
        }
        self.attribute_from(self.at, entity);
    }

    fn attribute_from(&mut self, from: usize, entity: Option<Name>) {
        let bracket = self.at;
        self.at += 1;
        let name = self.name();
        if name.text.is_empty() || self.peek(0) != Some(']') {
            self.at = bracket + 1;
            return;
        }
        self.at += 1;
        self.part(from, SqlPart::Attribute(entity, name));
    }
}

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sources;

    fn parts(text: &str) -> String {
        let sources = Sources::new([("a".to_owned(), text.to_owned())]);
        let mut problems = Problems::new(&sources);
        let places = (0..text.chars().count() as u32).collect();
        let scalar = Scalar { text: text.to_owned(), quoted: false, places };
        let read = read(&scalar, Span::default(), &mut problems);
        let Some(read) = read else {
            return problems.into_sorted().iter().map(|p| format!("{}: {}", p.column, p.message)).collect();
        };
        let shown = read.parts.iter().map(|part| match part {
            SqlPart::Text(text) => text.clone(),
            SqlPart::Entity(name) => format!("<E {}>", name.text),
            SqlPart::Attribute(None, name) => format!("<A {}>", name.text),
            SqlPart::Attribute(Some(entity), name) => format!("<A {}.{}>", entity.text, name.text),
            SqlPart::Parameter(name) => format!("<P {}>", name.text),
        });
        let kind = format!("{}{}", u8::from(read.gives_rows), u8::from(read.writes));
        format!("{kind} {}", shown.collect::<String>())
    }

    #[test]
    fn names_are_found_in_code_only() {
        for (text, expected) in [
            ("SELECT {E}.[A], [B] FROM {E} WHERE x=@P;", "10 SELECT <A E.A>, <A B> FROM <E E> WHERE x=<P P>"),
            ("select '{E} @P ''[A]' || E'\\'@P', \"{E}\"", "10 select '{E} @P ''[A]' || E'\\'@P', \"{E}\""),
            (
                "select 1 -- {E} @P\n, @P /* @P /* {E} */ [A] */",
                "10 select 1 -- {E} @P\n, <P P> /* @P /* {E} */ [A] */",
            ),
            ("select $t$ @P {E} $t$, $$'$$, @P", "10 select $t$ @P {E} $t$, $$'$$, <P P>"),
            (
                "select a[1], ARRAY[b], a @> b, a @@ b, o.[A]",
                "10 select a[1], ARRAY[b], a @> b, a @@ b, o.<A A>",
            ),
            ("INSERT INTO {E} ([A]) VALUES (@P)", "01 INSERT INTO <E E> (<A A>) VALUES (<P P>)"),
            ("UPDATE {E} SET [A] = 1 RETURNING [A]", "11 UPDATE <E E> SET <A A> = 1 RETURNING <A A>"),
            ("SELECT [A] FROM {E} FOR UPDATE", "11 SELECT <A A> FROM <E E> FOR UPDATE"),
            ("WITH x AS (SELECT 1) DELETE FROM {E}", "01 WITH x AS (SELECT 1) DELETE FROM <E E>"),
            (
                "WITH x AS (DELETE FROM {E} RETURNING 1) (SELECT 1)",
                "11 WITH x AS (DELETE FROM <E E> RETURNING 1) (SELECT 1)",
            ),
            ("SELECT '", "8: the ' is not closed"),
            ("SELECT /* a", "8: the comment is not closed"),
            ("SELECT {E", "8: an entity is written `{Name}`"),
            ("SELECT $1", "8: parameters have names: write `@Name`"),
            ("SELECT 1; DELETE FROM {E}", "9: a node runs one statement"),
            ("DROP TABLE {E}", "1: this is no statement that an app may run"),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }
}
