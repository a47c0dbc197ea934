//! Expressions: text to tree, with the place of every token in the file.
//!
//! Precedence, high to low, is ODC's: unary minus, NOT, `* /`, `+ -`, `< > <= >=`, `= <>`, AND, OR.
//! Invariant: a broken expression yields one problem and [`ExprKind::Broken`]; no tree is higher than
//! [`LEVELS_MAX`].

use crate::ast::{Binary, Expr, ExprKind, Name, Unary};
use crate::problem::Problems;
use crate::sources::Span;
use crate::yaml::Scalar;

/// Parentheses in parentheses, signs in a row and operators in a row beyond this are refused, so that
/// reading stays on its stack.
const DEPTH_MAX: u32 = 100;
/// Levels of the tree beyond this are refused, so that every later stage stays on its stack. A row of
/// operators nests to the left as deep as it is long, and its operands may be rows again.
const LEVELS_MAX: u32 = 200;

pub(crate) fn read(scalar: &Scalar, span: Span, problems: &mut Problems<'_>) -> Expr {
    let tokens = match tokens(scalar, span) {
        Ok(tokens) => tokens,
        Err((at, message)) => {
            problems.error("OML0201", at, message);
            return Expr { span, kind: ExprKind::Broken };
        }
    };
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
    let whole = parser.expression(0).and_then(|tall| {
        let rest = parser.peek();
        if *rest == Token::End {
            Ok(tall.expr)
        } else {
            Err((parser.span(), format!("unexpected {}", rest.shown())))
        }
    });
    match whole {
        Ok(expr) => expr,
        Err((at, message)) => {
            problems.error("OML0201", at, message);
            Expr { span, kind: ExprKind::Broken }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(String),
    Text(String),
    Moment(String),
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Token::Number(n) => format!("`{n}`"),
            Token::Text(_) => "a text".into(),
            Token::Moment(_) => "a date".into(),
            Token::Word(w) => format!("`{w}`"),
            Token::Symbol(s) => format!("`{s}`"),
            Token::End => "end of the expression".into(),
        }
    }
}

type Refused = (Span, String);

/// An expression and the levels of its tree.
struct Tall {
    expr: Expr,
    levels: u32,
}

impl Tall {
    fn leaf(expr: Expr) -> Tall {
        Tall { expr, levels: 1 }
    }

    /// One level above others, the highest of which has `inner`.
    fn above(inner: u32, span: Span, kind: ExprKind) -> Result<Tall, Refused> {
        if inner >= LEVELS_MAX {
            return Err((
                span,
                format!("nested deeper than {LEVELS_MAX} levels; compute a part of it before"),
            ));
        }
        Ok(Tall { expr: Expr { span, kind }, levels: inner + 1 })
    }
}

const SYMBOLS: [&str; 17] =
    ["<=", ">=", "<>", "!=", "+", "-", "*", "/", "<", ">", "=", "(", ")", "[", "]", ",", "."];

fn tokens(scalar: &Scalar, whole: Span) -> Result<Vec<(Token, Span)>, Refused> {
    let chars: Vec<char> = scalar.text.chars().collect();
    let place = |at: usize| scalar.places.get(at).copied();
    let span = |from: usize, to: usize| {
        let start = place(from).unwrap_or_else(|| scalar.places.last().map_or(whole.start, |p| p + 1));
        let end = to.checked_sub(1).and_then(place).map_or(start + 1, |p| p + 1);
        Span { file: whole.file, start, end: end.max(start + 1) }
    };
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let from = at;
        let c = chars[at];
        let token = if c.is_whitespace() {
            at += 1;
            continue;
        } else if c.is_ascii_digit() {
            while at < chars.len()
                && (chars[at].is_ascii_digit()
                    || (chars[at] == '.' && chars.get(at + 1).is_some_and(char::is_ascii_digit)))
            {
                at += 1;
            }
            Token::Number(chars[from..at].iter().collect())
        } else if c.is_alphabetic() || c == '_' {
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            Token::Word(chars[from..at].iter().collect())
        } else if c == '"' || c == '#' {
            let mut text = String::new();
            at += 1;
            loop {
                match chars.get(at) {
                    None => {
                        return Err((
                            span(from, from + 1),
                            if c == '"' { "the text does not end" } else { "the date does not end" }.into(),
                        ));
                    }
                    Some(q) if *q == c && c == '"' && chars.get(at + 1) == Some(&'"') => {
                        text.push('"');
                        at += 2;
                    }
                    Some(q) if *q == c => break,
                    Some(other) => {
                        text.push(*other);
                        at += 1;
                    }
                }
            }
            at += 1;
            if c == '"' { Token::Text(text) } else { Token::Moment(text) }
        } else {
            let rest: String = chars[at..(at + 2).min(chars.len())].iter().collect();
            let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) else {
                return Err((span(from, from + 1), format!("`{c}` means nothing here")));
            };
            at += symbol.len();
            Token::Symbol(symbol)
        };
        out.push((token, span(from, at)));
    }
    out.push((Token::End, span(chars.len(), chars.len())));
    Ok(out)
}

struct Parser<'t> {
    tokens: &'t [(Token, Span)],
    at: usize,
    depth: u32,
}

impl Parser<'_> {
    fn expression(&mut self, floor: u8) -> Result<Tall, Refused> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err((self.span(), format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let mut left = self.unary()?;
        let mut links = 0;
        while let Some((op, strength)) = self.operator().filter(|(_, s)| *s >= floor) {
            // A chain of operators nests to the left as deep as it is long.
            links += 1;
            if links > DEPTH_MAX {
                return Err((self.span(), format!("more than {DEPTH_MAX} operators in a row")));
            }
            let at = self.span();
            self.at += 1;
            let right = self.expression(strength + 1)?;
            let (span, inner) = (join(left.expr.span, right.expr.span), left.levels.max(right.levels));
            let kind = ExprKind::Binary(op, at, Box::new(left.expr), Box::new(right.expr));
            left = Tall::above(inner, span, kind)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operator(&self) -> Option<(Binary, u8)> {
        let word = match self.peek() {
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::Word(word) => word.to_ascii_lowercase(),
            Token::Number(_) | Token::Text(_) | Token::Moment(_) | Token::End => return None,
        };
        Some(match word.as_str() {
            "*" => (Binary::Multiply, 6),
            "/" => (Binary::Divide, 6),
            "+" => (Binary::Add, 5),
            "-" => (Binary::Subtract, 5),
            "<" => (Binary::Less, 4),
            "<=" => (Binary::LessEqual, 4),
            ">" => (Binary::Greater, 4),
            ">=" => (Binary::GreaterEqual, 4),
            "like" => (Binary::Like, 4),
            "=" => (Binary::Equal, 3),
            "<>" | "!=" => (Binary::NotEqual, 3),
            "and" => (Binary::And, 2),
            "or" => (Binary::Or, 1),
            _ => return None,
        })
    }

    fn unary(&mut self) -> Result<Tall, Refused> {
        let start = self.span();
        match self.peek().clone() {
            Token::Symbol("-") => {
                self.at += 1;
                self.deeper(|p| p.unary()).and_then(|operand| prefix(Unary::Minus, start, operand))
            }
            Token::Word(w) if w.eq_ignore_ascii_case("not") => {
                self.at += 1;
                // NOT binds looser than a sign and tighter than `*`, so `not A = B` negates A.
                self.deeper(|p| p.unary()).and_then(|operand| prefix(Unary::Not, start, operand))
            }
            Token::Number(_)
            | Token::Text(_)
            | Token::Moment(_)
            | Token::Word(_)
            | Token::Symbol(_)
            | Token::End => self.postfix(),
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Refused>) -> Result<T, Refused> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err((self.span(), format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let out = read(self);
        self.depth -= 1;
        out
    }

    fn postfix(&mut self) -> Result<Tall, Refused> {
        let mut expr = self.primary()?;
        let mut links = 0;
        loop {
            links += 1;
            if links > DEPTH_MAX {
                return Err((self.span(), format!("more than {DEPTH_MAX} members in a row")));
            }
            match self.peek() {
                Token::Symbol(".") => {
                    self.at += 1;
                    let span = self.span();
                    let Token::Word(word) = self.next() else {
                        return Err((span, "a name must follow the dot".into()));
                    };
                    if let (ExprKind::Name(library), Token::Symbol("(")) = (&expr.expr.kind, self.peek()) {
                        let text = format!("{library}.{word}");
                        expr = self.call(Name { text, span: join(expr.expr.span, span) })?;
                        continue;
                    }
                    let name = Name { text: word, span };
                    let whole = join(expr.expr.span, span);
                    expr = Tall::above(expr.levels, whole, ExprKind::Member(Box::new(expr.expr), name))?;
                }
                Token::Symbol("[") => {
                    self.at += 1;
                    let index = self.expression(0)?;
                    let end = self.expect("]")?;
                    let (whole, inner) = (join(expr.expr.span, end), expr.levels.max(index.levels));
                    let kind = ExprKind::Item(Box::new(expr.expr), Box::new(index.expr));
                    expr = Tall::above(inner, whole, kind)?;
                }
                Token::Symbol(_)
                | Token::Number(_)
                | Token::Text(_)
                | Token::Moment(_)
                | Token::Word(_)
                | Token::End => return Ok(expr),
            }
        }
    }

    fn primary(&mut self) -> Result<Tall, Refused> {
        let span = self.span();
        let kind = match self.next() {
            Token::Number(n) => ExprKind::Number(n),
            Token::Text(t) => ExprKind::Text(t),
            Token::Moment(m) => ExprKind::Moment(m),
            Token::Word(word) if *self.peek() == Token::Symbol("(") => {
                return self.call(Name { text: word, span });
            }
            Token::Word(word) => ExprKind::Name(word),
            Token::Symbol("(") => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                return Ok(inner);
            }
            other @ (Token::Symbol(_) | Token::End) => {
                return Err((span, format!("expected a value, found {}", other.shown())));
            }
        };
        Ok(Tall::leaf(Expr { span, kind }))
    }

    /// The call of a function, or of a library's function; its name has been read.
    fn call(&mut self, name: Name) -> Result<Tall, Refused> {
        self.at += 1;
        let (mut arguments, mut inner) = (Vec::new(), 0);
        while *self.peek() != Token::Symbol(")") {
            if !arguments.is_empty() {
                self.expect(",")?;
            }
            let argument = self.expression(0)?;
            inner = inner.max(argument.levels);
            arguments.push(argument.expr);
        }
        let end = self.expect(")")?;
        Tall::above(inner, join(name.span, end), ExprKind::Call(name, arguments))
    }

    fn expect(&mut self, symbol: &'static str) -> Result<Span, Refused> {
        let span = self.span();
        let found = self.next();
        if found == Token::Symbol(symbol) {
            return Ok(span);
        }
        Err((span, format!("expected `{symbol}`, found {}", found.shown())))
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn span(&self) -> Span {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }
}

fn prefix(op: Unary, start: Span, operand: Tall) -> Result<Tall, Refused> {
    let span = join(start, operand.expr.span);
    Tall::above(operand.levels, span, ExprKind::Unary(op, Box::new(operand.expr)))
}

fn join(a: Span, b: Span) -> Span {
    Span { file: a.file, start: a.start, end: b.end }
}
