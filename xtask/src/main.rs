//! House rules that a check keeps: crate edges, file size, docs.

fn main() {}
