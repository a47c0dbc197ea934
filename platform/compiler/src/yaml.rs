//! YAML (and with it JSON) as a tree in which every node knows its place.
//!
//! A serde format would lose the positions that expressions inside scalars need, so the tree is built
//! from parser events. Anchors, aliases, tags and several documents are refused: a model says each
//! thing once. Invariant: depth is bounded, so no later stage can be driven off its stack.

use std::collections::BTreeSet;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::problem::Problems;
use crate::sources::{Sources, Span};

/// Deeper nesting is refused, in levels of YAML; a flow of 60 nested ifs is beyond reading.
const DEPTH_MAX: usize = 128;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) shape: Shape,
}

#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Null,
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<(Name, Node)>),
}

/// A scalar with the place of each of its characters.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) quoted: bool,
    pub(crate) places: Vec<u32>,
}

/// A word of the author with its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Name {
    /// Without whose it is: `Ticket` of `Support.Ticket`.
    pub(crate) fn last(&self) -> &str {
        self.text.rsplit('.').next().unwrap_or_default()
    }
}

/// Reads a file; `None` when it is no YAML.
pub(crate) fn read(sources: &Sources, file: usize, problems: &mut Problems<'_>) -> Option<Node> {
    let source = &sources.files[file];
    let mut reader = Reader { file: file as u32, chars: &source.chars, stack: Vec::new(), root: None };
    for event in Parser::new_from_str(&source.text) {
        let outcome = match event {
            Ok((event, span)) => {
                reader.take(event, span.start.index() as u32, span.end.index() as u32, problems)
            }
            // The scanner reads ahead of the events and has a limit of its own behind ours.
            Err(error) if error.info() == "recursion limit exceeded" => {
                Err((error.marker().index() as u32, too_deep()))
            }
            Err(error) => Err((error.marker().index() as u32, error.info().to_owned())),
        };
        if let Err((at, message)) = outcome {
            let span = Span { file: file as u32, start: at, end: at + 1 };
            problems.error("OML0001", span, message);
            return None;
        }
    }
    reader.root
}

fn too_deep() -> String {
    format!("nested deeper than {DEPTH_MAX} levels")
}

struct Reader<'a> {
    file: u32,
    chars: &'a [char],
    stack: Vec<Open>,
    root: Option<Node>,
}

struct Open {
    node: Node,
    key: Option<Name>,
    /// The keys so far: a mapping may have very many.
    keys: BTreeSet<String>,
}

impl Reader<'_> {
    fn take(
        &mut self,
        event: Event<'_>,
        start: u32,
        end: u32,
        problems: &mut Problems<'_>,
    ) -> Result<(), (u32, String)> {
        let span = Span { file: self.file, start, end };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                if self.root.is_some() {
                    return Err((start, "a file holds one document".into()));
                }
            }
            Event::Alias(_) => return Err((start, "aliases are not part of OML".into())),
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    return Err((start, "anchors and tags are not part of OML".into()));
                }
                let quoted = style != ScalarStyle::Plain;
                let node = if !quoted && matches!(&*text, "" | "~" | "null") {
                    Node { span, shape: Shape::Null }
                } else {
                    let places = self.places(&text, style, start, end);
                    let end = places.last().map_or(end, |p| (p + 1 + u32::from(quoted)).min(end.max(p + 1)));
                    let span = Span { file: self.file, start, end };
                    Node { span, shape: Shape::Scalar(Scalar { text: text.into_owned(), quoted, places }) }
                };
                self.add(node, problems)?;
            }
            Event::SequenceStart(..) => self.open(Node { span, shape: Shape::Sequence(Vec::new()) })?,
            Event::MappingStart(..) => self.open(Node { span, shape: Shape::Mapping(Vec::new()) })?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    self.add(open.node, problems)?;
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, node: Node) -> Result<(), (u32, String)> {
        if self.stack.len() >= DEPTH_MAX {
            return Err((node.span.start, too_deep()));
        }
        self.stack.push(Open { node, key: None, keys: BTreeSet::new() });
        Ok(())
    }

    fn add(&mut self, node: Node, problems: &mut Problems<'_>) -> Result<(), (u32, String)> {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.shape {
            Shape::Sequence(items) => items.push(node),
            Shape::Mapping(entries) => match open.key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let Shape::Scalar(Scalar { text, .. }) = node.shape else {
                        return Err((node.span.start, "a key is a word".into()));
                    };
                    if !open.keys.insert(text.clone()) {
                        problems.error("OML0004", node.span, format!("`{text}` is written twice"));
                    }
                    open.key = Some(Name { text, span: node.span });
                }
            },
            Shape::Null | Shape::Scalar(_) => {}
        }
        Ok(())
    }

    /// Where each character of a scalar stands, found by walking its source once. Quotes, indentation and
    /// folded line ends are passed over; an escaped character stands where its escape ends.
    /// Invariant: the walk never goes back, so it takes as many steps as the source has characters.
    fn places(&self, text: &str, style: ScalarStyle, start: u32, end: u32) -> Vec<u32> {
        let last = (end as usize).min(self.chars.len());
        let source = &self.chars[..last];
        let mut at = start as usize;
        let escapes = match style {
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                at += 1;
                style == ScalarStyle::DoubleQuoted
            }
            // The scanner says where a block's text begins, not where its `>` or `|` stands.
            ScalarStyle::Literal | ScalarStyle::Folded => {
                while source.get(at).is_some_and(|c| c.is_whitespace()) {
                    at += 1;
                }
                false
            }
            ScalarStyle::Plain => false,
        };
        let mut places = Vec::with_capacity(text.len());
        for c in text.chars() {
            let mut place = at;
            while let Some(next) = source.get(at) {
                place = at;
                if *next == '\\' && escapes {
                    let (escaped, length) = escape(&source[at + 1..]);
                    at += 1 + length;
                    place = at - 1;
                    if escaped == Some(c) {
                        break;
                    }
                } else if c.is_whitespace() {
                    // A fold is one space, whatever was written.
                    at += usize::from(next.is_whitespace());
                    break;
                } else {
                    at += 1;
                    if *next == c {
                        break;
                    }
                }
            }
            // Two single quotes are one.
            if c == '\'' && style == ScalarStyle::SingleQuoted {
                at += 1;
            }
            places.push(place.min(last.saturating_sub(1)) as u32);
        }
        places
    }
}

/// The character that an escape stands for, none at the end of a line, and how long it is behind its `\`.
fn escape(written: &[char]) -> (Option<char>, usize) {
    let code = |digits: usize| {
        let digits = &written[1..written.len().min(1 + digits)];
        let code =
            digits.iter().filter_map(|digit| digit.to_digit(16)).fold(0, |code, digit| code << 4 | digit);
        (char::from_u32(code), 1 + digits.len())
    };
    let Some(word) = written.first() else { return (None, 0) };
    match word {
        'x' => code(2),
        'u' => code(4),
        'U' => code(8),
        // The indentation of the next line is no part of the text.
        '\n' | '\r' => (None, written.iter().take_while(|c| c.is_whitespace()).count()),
        '0' => (Some('\0'), 1),
        'a' => (Some('\x07'), 1),
        'b' => (Some('\x08'), 1),
        't' => (Some('\t'), 1),
        'n' => (Some('\n'), 1),
        'v' => (Some('\x0b'), 1),
        'f' => (Some('\x0c'), 1),
        'r' => (Some('\r'), 1),
        'e' => (Some('\x1b'), 1),
        'N' => (Some('\u{85}'), 1),
        '_' => (Some('\u{a0}'), 1),
        'L' => (Some('\u{2028}'), 1),
        'P' => (Some('\u{2029}'), 1),
        other => (Some(*other), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands at the places of the scalar that a text is.
    #[track_caller]
    fn stands(source: &str, expected: &str) {
        let sources = Sources::new([("app.yaml".to_owned(), source.to_owned())]);
        let node = read(&sources, 0, &mut Problems::new(&sources)).expect("it is YAML");
        let Shape::Scalar(scalar) = node.shape else { panic!("{source} is a scalar") };
        assert_eq!(scalar.places.len(), scalar.text.chars().count());
        assert!(scalar.places.is_sorted(), "{:?}", scalar.places);
        let at: String = scalar.places.iter().map(|at| sources.files[0].chars[*at as usize]).collect();
        assert_eq!(at, expected, "{source}");
    }

    #[test]
    fn every_character_of_a_scalar_has_its_place() {
        stands("a b", "a b");
        stands("a  b\n   c", "a  b\nc");
        stands("'it''s \"x\" '' '", "it's \"x\" ' ");
        stands("|\n  ab\n    c\n  d\n", "ab\n  c\nd\n");
        stands(">\n  a\n  b\n", "a\nb\n");
    }

    #[test]
    fn an_escaped_character_stands_where_its_escape_ends() {
        stands(r#""a\u00e9\n\x20né\"n""#, "a9n0né\"n");
        stands("\"a \\\n   b\\\r\n  \\  c\"", "a b  c");
        // No character is taken for one that comes later.
        stands(r#""\u00e9x\U000000e9é""#, "9x9é");
    }
}
