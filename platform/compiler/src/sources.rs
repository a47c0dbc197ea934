//! The text of an app: what the compiler reads, and the only thing it reads.
//!
//! No file system, clock or environment: the caller brings the files. They are kept sorted by path,
//! so that the order in which a folder was listed never reaches the output.

use serde::Serialize;

/// A place in the text: a file and a range of characters in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Which file, by its place in [`Sources`].
    pub file: u32,
    /// First character, counted in characters from the start of the file.
    pub start: u32,
    /// The character behind the last one.
    pub end: u32,
}

/// The files of one app.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub(crate) files: Vec<SourceFile>,
}

#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) chars: Vec<char>,
    /// Where the lines end.
    breaks: Vec<u32>,
}

impl SourceFile {
    fn new(path: String, text: String) -> SourceFile {
        let chars: Vec<char> = text.chars().collect();
        let breaks = chars.iter().zip(0u32..).filter(|(c, _)| **c == '\n').map(|(_, at)| at).collect();
        SourceFile { path, text, chars, breaks }
    }
}

impl Sources {
    /// Takes files as (relative path, text).
    pub fn new(files: impl IntoIterator<Item = (String, String)>) -> Sources {
        let mut files: Vec<SourceFile> =
            files.into_iter().map(|(path, text)| SourceFile::new(path, text)).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Sources { files }
    }

    /// File path, line and column of a span, both counted from 1, and the end on the same line.
    pub(crate) fn position(&self, span: Span) -> (String, u32, u32, u32) {
        let Some(file) = self.files.get(span.file as usize) else { return (String::new(), 1, 1, 1) };
        let start = (span.start as usize).min(file.chars.len());
        let line = file.breaks.partition_point(|at| (*at as usize) < start);
        let line_start = line.checked_sub(1).map_or(0, |before| file.breaks[before] as usize + 1);
        let line_end = file.breaks.get(line).map_or(file.chars.len(), |at| *at as usize);
        let end = (span.end as usize).clamp(start, line_end.max(start));
        let column = (start - line_start) as u32 + 1;
        (file.path.clone(), line as u32 + 1, column, column + (end - start).max(1) as u32)
    }

    /// The file of a span, and its line, counted from 1.
    pub(crate) fn place(&self, span: Span) -> (&str, usize) {
        match self.files.get(span.file as usize) {
            Some(file) => (&file.path, file.breaks.partition_point(|at| *at < span.start) + 1),
            None => ("", 1),
        }
    }

    pub(crate) fn line(&self, path: &str, line: u32) -> Option<&str> {
        let file = self.files.iter().find(|file| file.path == path)?;
        file.text.lines().nth(line as usize - 1)
    }
}
