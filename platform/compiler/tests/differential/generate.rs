//! Random programs that the compiler must take: every expression is made for the type that is wanted there.
//!
//! Most of what a program does succeeds, so that runs go deep: lists are indexed where they may have the element,
//! numbers are small, and now and then they are not. Flows are in [`super::flows`].
//! Invariant: the same seed gives the same program.

use num_bigint::BigInt;

use super::builtins::{Arg, BUILTINS};
use super::program::*;
use super::values::*;

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Whether something of so many percent happens.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn between(&mut self, first: i64, last: i64) -> i64 {
        first + (self.next() % (last - first + 1) as u64) as i64
    }
}

/// The types of single values that attributes and variables have.
pub(crate) const BASIC: [Ty; 12] = [
    Ty::Bool,
    Ty::Int,
    Ty::Long,
    Ty::Dec,
    Ty::Text,
    Ty::Email,
    Ty::Phone,
    Ty::Date,
    Ty::Time,
    Ty::DateTime,
    Ty::Bytes,
    Ty::Id,
];
/// The types of lists of single values.
const LISTED: [Ty; 6] = [Ty::Int, Ty::Long, Ty::Dec, Ty::Text, Ty::Date, Ty::DateTime];

const WORDS: [&str; 22] = [
    "",
    "a",
    "b",
    "A",
    "Ä",
    "äb",
    "straße",
    "STRASSE",
    "Café x",
    "cafe",
    "œuvre",
    "x'y",
    "q\"t",
    "<&>",
    "back\\slash",
    " pad ",
    "Σ",
    "ёж",
    "🦀",
    "e\u{301}",
    "7",
    "2024-02-29",
];

/// A value of a type of single values, as variables get it from outside.
pub(crate) fn value(random: &mut Random, ty: &Ty) -> Value {
    match ty {
        Ty::Bool => Value::Bool(random.percent(50)),
        Ty::Int => Value::Int(match random.below(12) {
            0 => i32::MAX,
            1 => i32::MIN,
            2 => -1,
            3 => random.next() as i32,
            _ => random.between(-5, 20) as i32,
        }),
        Ty::Long => Value::Long(match random.below(12) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => i64::from(i32::MAX) + 1,
            3 => random.next() as i64,
            _ => random.between(-5, 2000),
        }),
        Ty::Dec => Value::Dec(match random.below(14) {
            0 => BigInt::from(2).pow(96) * unit(),
            1 => -(BigInt::from(2).pow(96) * unit()),
            2 => BigInt::from(1),
            3 => BigInt::from(random.next()) * BigInt::from(random.next()) / 8,
            4 => BigInt::from(random.next() as i64),
            5 => BigInt::from(random.between(-40, 40)) * unit() / 2,
            _ => BigInt::from(random.between(-100_000, 1_000_000)) * unit() / 1000,
        })
        .clamped(),
        Ty::Text => {
            let words: Vec<&str> = (0..random.below(3)).map(|_| *random.pick(&WORDS)).collect();
            Value::text(&words.concat())
        }
        Ty::Email => {
            Value::text(random.pick::<&str>(&["", "ann@example.org", "Bob@Example.org", "a.b+c@d-e.org"]))
        }
        Ty::Phone => Value::text(random.pick::<&str>(&["", "+43 1 2345", "555"])),
        Ty::Date => Value::Date(match random.below(10) {
            0 => 0,
            1 => days() - 1,
            2 => random.between(0, days() - 1),
            _ => date_of(2024, 1, 31).unwrap_or(0) + random.between(0, 60),
        }),
        Ty::Time => Value::Time(if random.percent(20) { 0 } else { random.between(0, DAY - 1) }),
        Ty::DateTime => {
            let Value::Date(date) = value(random, &Ty::Date) else { panic!("a date") };
            let Value::Time(time) = value(random, &Ty::Time) else { panic!("a time") };
            Value::DateTime(date * DAY + time)
        }
        Ty::Bytes => {
            let count = random.below(6);
            Value::Bytes((0..count).map(|_| random.next() as u8).collect())
        }
        Ty::Id | Ty::AnyId => Value::Id(random.between(0, 3)),
        Ty::Rec(_) | Ty::List(_) => panic!("{ty:?} has parts"),
    }
}

impl Value {
    fn clamped(self) -> Value {
        match self {
            Value::Dec(v) if !fits(&v) => Value::Dec(v % unit()),
            other => other,
        }
    }
}

/// A JSON document of a type, with all that JSON lets a client write differently.
pub(crate) fn json(random: &mut Random, ty: &Ty, structures: &[Structure]) -> String {
    let space = |random: &mut Random| if random.percent(5) { "  " } else { "" };
    match ty {
        _ if random.percent(4) => "null".to_owned(),
        Ty::List(of) => {
            let count = *random.pick(&[0, 1, 2, 3, 3, 5, 8]);
            let parts: Vec<String> =
                (0..count).map(|_| json(random, of, structures) + space(random)).collect();
            format!("[{}{}]", space(random), parts.join(","))
        }
        Ty::Rec(of) => {
            let mut pairs = Vec::new();
            for field in &structures[*of].fields {
                if random.percent(85) {
                    let value = json(random, &field.ty, structures);
                    pairs.push(format!("{}\"{}\":{}{value}", space(random), field.name, space(random)));
                }
            }
            if random.percent(8) {
                pairs.push("\"Unknown\":{\"a\":[1,{}],\"b\":null}".to_owned());
            }
            if random.percent(20) {
                pairs.reverse();
            }
            format!("{{{}{}}}", pairs.join(","), space(random))
        }
        Ty::Text if random.percent(10) => "\"\\u00e9\\ud83e\\udd80\\/\\n\"".to_owned(),
        Ty::Dec if random.percent(10) => {
            (*random.pick(&["1e2", "-1.5E+1", "25e-2", "0.50", "0.123456785", "-1e-30"])).to_owned()
        }
        Ty::DateTime if random.percent(10) => "\"2024-02-29T23:30:00-01:30\"".to_owned(),
        basic => to_json(&value(random, basic), basic, structures, true),
    }
}

/// What an action is made in.
pub(crate) struct Maker<'r> {
    pub(crate) random: &'r mut Random,
    pub(crate) structures: Vec<Structure>,
    /// The actions that it may call.
    pub(crate) actions: Vec<Action>,
    pub(crate) vars: Vec<Var>,
    /// What can be read here.
    pub(crate) visible: Vec<usize>,
    /// Texts that `json_serialize` made, with the types.
    pub(crate) serialized: Vec<(usize, Ty)>,
    pub(crate) loops: usize,
    pub(crate) names: usize,
    /// Nodes that may still be made.
    pub(crate) fuel: usize,
    /// In a loop that is to leave nothing behind: single values are assigned, and no list grows.
    pub(crate) lean: bool,
    /// The variables `Big` and `Scratch` of an action that makes much garbage.
    pub(crate) big: Option<(usize, usize)>,
}

fn expr(ty: &Ty, kind: Kind) -> Expr {
    Expr { ty: ty.clone(), kind }
}

pub(crate) fn literal(ty: &Ty, value: Value) -> Expr {
    expr(ty, Kind::Literal(value))
}

pub(crate) fn number(value: i32) -> Expr {
    literal(&Ty::Int, Value::Int(value))
}

pub(crate) fn converted(value: Expr, ty: &Ty) -> Expr {
    if value.ty == *ty { value } else { expr(ty, Kind::Convert(Box::new(value))) }
}

/// What becomes a type without being asked.
fn sources(ty: &Ty) -> &'static [Ty] {
    match ty {
        Ty::Int => &[Ty::Bool, Ty::Dec],
        Ty::Long => &[Ty::Bool, Ty::Int, Ty::Int, Ty::Dec],
        Ty::Dec => &[Ty::Bool, Ty::Int, Ty::Long],
        Ty::Text => &[Ty::Bool, Ty::Int, Ty::Long, Ty::Dec, Ty::Id, Ty::Email, Ty::Phone],
        Ty::Email | Ty::Phone => {
            &[Ty::Text, Ty::Bool, Ty::Int, Ty::Long, Ty::Dec, Ty::Id, Ty::Date, Ty::Time, Ty::DateTime]
        }
        Ty::Date => &[Ty::DateTime],
        Ty::DateTime => &[Ty::Date, Ty::Text, Ty::Time],
        Ty::Id => &[Ty::AnyId],
        Ty::Bool | Ty::Time | Ty::Bytes | Ty::AnyId | Ty::Rec(_) | Ty::List(_) => &[],
    }
}

/// The type in which two values meet; both are what they are without being converted.
fn common(a: &Ty, b: &Ty) -> Ty {
    let rank = |ty: &Ty| [Ty::Int, Ty::Long, Ty::Dec].iter().position(|number| number == ty);
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (a, b) if a.is_text() && b.is_text() => Ty::Text,
        (Ty::Date, Ty::DateTime) | (Ty::DateTime, Ty::Date) => Ty::DateTime,
        (Ty::AnyId, _) => b.clone(),
        (_, Ty::AnyId) => a.clone(),
        (a, b) => {
            if rank(a) >= rank(b) {
                a.clone()
            } else {
                b.clone()
            }
        }
    }
}

impl Maker<'_> {
    /// An expression where a type is expected: conversions happen.
    pub(crate) fn expression(&mut self, ty: &Ty, depth: usize) -> Expr {
        let from = sources(ty);
        let rare = matches!(ty, Ty::Int); // a Decimal may not fit
        if !from.is_empty() && self.random.percent(if rare { 5 } else { 20 }) {
            let from = self.random.pick(from).clone();
            return converted(self.natural(&from, depth), ty);
        }
        self.natural(ty, depth)
    }

    /// An expression that has the type by itself.
    pub(crate) fn natural(&mut self, ty: &Ty, depth: usize) -> Expr {
        if depth == 0 || self.random.percent(25) {
            return self.leaf(ty);
        }
        let depth = depth - 1;
        match self.random.below(10) {
            0 => {
                let condition = self.natural(&Ty::Bool, depth);
                let (then, otherwise) = if *ty == Ty::Dec && self.random.percent(40) {
                    let other = self.random.pick(&[Ty::Int, Ty::Long]).clone();
                    (converted(self.natural(&other, depth), ty), self.natural(ty, depth))
                } else {
                    (self.natural(ty, depth), self.natural(ty, depth))
                };
                expr(ty, Kind::If(Box::new(condition), Box::new(then), Box::new(otherwise)))
            }
            1 => {
                let inner = self.natural(ty, depth);
                expr(ty, Kind::Parens(Box::new(inner)))
            }
            2 if self.random.percent(30) => self.part(ty, depth),
            2 => self.invoke(ty, depth),
            3..=5 => self.operator(ty, depth),
            _ => self.builtin(ty, depth),
        }
    }

    /// A part of a record or list that is no variable.
    fn part(&mut self, ty: &Ty, depth: usize) -> Expr {
        let list = Ty::list(ty.clone());
        if self.random.percent(30) && types(&self.structures).contains(&list) {
            let list = self.natural(&list, depth);
            return expr(ty, Kind::Item(Box::new(list), Box::new(number(0))));
        }
        let all = self.structures.iter().enumerate();
        let fields =
            all.flat_map(|(of, s)| s.fields.iter().enumerate().map(move |(at, f)| (of, at, f.ty.clone())));
        let found: Vec<_> = fields.filter(|(_, _, field)| field == ty).collect();
        if found.is_empty() {
            return self.leaf(ty);
        }
        let (of, at, _) = self.random.pick(&found).clone();
        let record = self.natural(&Ty::Rec(of), depth);
        expr(ty, Kind::Field(Box::new(record), at))
    }

    fn operator(&mut self, ty: &Ty, depth: usize) -> Expr {
        match ty {
            Ty::Int | Ty::Long | Ty::Dec if self.random.percent(15) => {
                let of = self.natural(ty, depth);
                expr(ty, Kind::Minus(Box::new(of)))
            }
            Ty::Int | Ty::Long => {
                let op = *self.random.pick(&[Op::Add, Op::Subtract, Op::Add, Op::Subtract, Op::Multiply]);
                let narrow = if *ty == Ty::Long && self.random.percent(50) { Ty::Int } else { ty.clone() };
                self.both(op, ty, ty.clone(), narrow, depth)
            }
            Ty::Dec => {
                let op = *self.random.pick(&[Op::Add, Op::Subtract, Op::Multiply, Op::Divide]);
                let other = self.random.pick(&[Ty::Int, Ty::Long, Ty::Dec]).clone();
                let first =
                    if op == Op::Divide { self.random.pick(&[Ty::Int, Ty::Dec]).clone() } else { Ty::Dec };
                self.both(op, ty, first, other, depth)
            }
            Ty::Text => {
                let first = self.random.pick(&[Ty::Text, Ty::Text, Ty::Email, Ty::Phone]).clone();
                let mut others = sources(&Ty::Text).to_vec();
                others.extend([Ty::Text, Ty::Text, Ty::Text]);
                let other = self.random.pick(&others).clone();
                self.both(Op::Join, ty, first, other, depth)
            }
            Ty::Bool => match self.random.below(6) {
                0 => {
                    let of = self.natural(ty, depth);
                    expr(ty, Kind::Not(Box::new(of)))
                }
                1 | 2 => {
                    let op = *self.random.pick(&[Op::And, Op::Or]);
                    let (left, right) = (self.natural(ty, depth), self.natural(ty, depth));
                    expr(ty, Kind::Binary(op, Box::new(left), Box::new(right)))
                }
                _ => self.comparison(depth),
            },
            _ => self.leaf(ty),
        }
    }

    /// An operator over two values that meet in a type, in either order.
    fn both(&mut self, op: Op, ty: &Ty, first: Ty, other: Ty, depth: usize) -> Expr {
        let mut left = converted(self.natural(&first, depth), ty);
        let mut right = converted(self.natural(&other, depth), ty);
        if self.random.percent(50) {
            std::mem::swap(&mut left, &mut right);
        }
        expr(ty, Kind::Binary(op, Box::new(left), Box::new(right)))
    }

    fn comparison(&mut self, depth: usize) -> Expr {
        let numbers = [Ty::Int, Ty::Long, Ty::Dec];
        let texts = [Ty::Text, Ty::Text, Ty::Email, Ty::Phone];
        let dates = [Ty::Date, Ty::DateTime];
        let ordered = [Op::Less, Op::LessEqual, Op::Greater, Op::GreaterEqual, Op::Equal, Op::NotEqual];
        let equal = [Op::Equal, Op::NotEqual];
        let records: Vec<Ty> = (0..self.structures.len()).map(Ty::Rec).collect();
        let (ops, kinds): (&[Op], &[Ty]) = match self.random.below(10) {
            0..=2 => (&ordered, &numbers),
            3..=5 => (&ordered, &texts),
            6 => (&ordered, &dates),
            7 => (&ordered, &[Ty::Time]),
            8 => (&equal, &[Ty::Id, Ty::AnyId]),
            _ if self.random.percent(50) => (&equal, &[Ty::Bool]),
            _ => (&equal, &records),
        };
        let op = *self.random.pick(ops);
        let a = self.random.pick(kinds).clone();
        let b = if matches!(a, Ty::Rec(_)) { a.clone() } else { self.random.pick(kinds).clone() };
        let both = common(&a, &b);
        let left = converted(self.natural(&a, depth), &both);
        let right = converted(self.natural(&b, depth), &both);
        expr(&Ty::Bool, Kind::Binary(op, Box::new(left), Box::new(right)))
    }

    fn builtin(&mut self, ty: &Ty, depth: usize) -> Expr {
        let found: Vec<_> = BUILTINS.iter().filter(|builtin| builtin.result == *ty).collect();
        if found.is_empty() {
            return self.leaf(ty);
        }
        let builtin = *self.random.pick(&found);
        let count = builtin.required + self.random.below(builtin.args.len() - builtin.required + 1);
        let arguments = builtin.args[..count].iter().map(|arg| match arg {
            Arg::Of(ty) if *ty == Ty::Int => self.small(depth),
            Arg::Of(ty) => self.expression(ty, depth),
            Arg::Between(first, last) => number(self.random.between((*first).into(), (*last).into()) as i32),
            Arg::Texts(_) if self.random.percent(20) => self.expression(&Ty::Text, depth),
            Arg::Texts(texts) | Arg::Only(texts) => {
                literal(&Ty::Text, Value::text(self.random.pick::<&str>(texts)))
            }
        });
        let arguments = arguments.collect();
        expr(ty, Kind::Builtin(builtin, arguments))
    }

    /// An Integer that is small as a rule: a count, a place.
    fn small(&mut self, depth: usize) -> Expr {
        if self.random.percent(60) {
            number(self.random.below(12) as i32)
        } else {
            self.expression(&Ty::Int, depth)
        }
    }

    fn invoke(&mut self, ty: &Ty, depth: usize) -> Expr {
        let fits = |action: &Action| action.function && action.vars[action.inputs].ty == *ty;
        let found: Vec<usize> = (0..self.actions.len()).filter(|at| fits(&self.actions[*at])).collect();
        if found.is_empty() {
            return self.leaf(ty);
        }
        let function = *self.random.pick(&found);
        let inputs: Vec<Var> = self.actions[function].vars[..self.actions[function].inputs].to_vec();
        let needed = inputs.iter().rposition(|input| input.mandatory).map_or(0, |at| at + 1);
        let count = needed + self.random.below(inputs.len() - needed + 1);
        let arguments =
            inputs[..count].iter().map(|input| self.expression(&input.ty, depth.min(1))).collect();
        expr(ty, Kind::Invoke(function, arguments))
    }

    /// A variable, a part of one, or a literal.
    fn leaf(&mut self, ty: &Ty) -> Expr {
        let has_literal = !matches!(ty, Ty::Email | Ty::Phone | Ty::Rec(_) | Ty::List(_));
        if !(has_literal && self.random.percent(35)) {
            for _ in 0..12 {
                if let Some(found) = self.path(ty, true) {
                    return found;
                }
            }
        }
        match ty {
            // A minus in front makes a literal negative, so that the number itself is never.
            Ty::Int => number(match self.random.below(30) {
                0 => i32::MAX,
                1 => 65_536,
                _ => self.random.below(10) as i32,
            }),
            Ty::Long => {
                let far = i64::from(i32::MAX) + 1 + self.random.below(1000) as i64;
                literal(ty, Value::Long(if self.random.percent(10) { i64::MAX } else { far }))
            }
            Ty::Dec => {
                let Value::Dec(v) = value(self.random, ty) else { panic!("a decimal") };
                literal(ty, Value::Dec(if v < BigInt::ZERO { -v } else { v }))
            }
            Ty::Bool | Ty::Text | Ty::Date | Ty::Time => literal(ty, value(self.random, ty)),
            Ty::DateTime => {
                let Value::DateTime(v) = value(self.random, ty) else { panic!("a moment") };
                literal(ty, Value::DateTime(v))
            }
            Ty::Bytes => literal(ty, Value::Bytes([].into())),
            Ty::AnyId => literal(ty, Value::Id(0)),
            // Every type has a variable.
            Ty::Id | Ty::Email | Ty::Phone | Ty::Rec(_) | Ty::List(_) => loop {
                let var = *self.random.pick(&self.visible);
                if self.vars[var].ty == *ty {
                    return expr(ty, Kind::Var(var));
                }
            },
        }
    }

    /// A random way from a variable to something of a type; a place when it is not only read.
    pub(crate) fn path(&mut self, ty: &Ty, read: bool) -> Option<Expr> {
        let exact: Vec<usize> =
            self.visible.iter().copied().filter(|var| self.vars[*var].ty == *ty).collect();
        if !exact.is_empty() && self.random.percent(40) {
            return Some(expr(ty, Kind::Var(*self.random.pick(&exact))));
        }
        let var = *self.random.pick(&self.visible);
        let mut at = expr(&self.vars[var].ty, Kind::Var(var));
        loop {
            let is_list = matches!(at.ty, Ty::List(_));
            if at.ty == *ty && !(is_list && self.random.percent(30)) {
                return Some(at);
            }
            if read && is_list && *ty == Ty::Int {
                return Some(expr(ty, Kind::Length(Box::new(at))));
            }
            if read && is_list && *ty == Ty::Bool {
                return Some(expr(ty, Kind::Empty(Box::new(at))));
            }
            at = match at.ty.clone() {
                Ty::Rec(of) => {
                    let field = self.random.below(self.structures[of].fields.len());
                    let ty = self.structures[of].fields[field].ty.clone();
                    expr(&ty, Kind::Field(Box::new(at), field))
                }
                // Behind the end it raises, so few are tried.
                Ty::List(of) if self.random.percent(15) => {
                    let index = if self.random.percent(70) {
                        number(self.random.below(2) as i32)
                    } else {
                        self.expression(&Ty::Int, 1)
                    };
                    expr(&of, Kind::Item(Box::new(at), Box::new(index)))
                }
                _ => return None,
            };
        }
    }
}

/// The types that variables have, of which each action has one.
pub(crate) fn types(structures: &[Structure]) -> Vec<Ty> {
    let mut types = BASIC.to_vec();
    types.extend((0..structures.len()).flat_map(|at| [Ty::Rec(at), Ty::list(Ty::Rec(at))]));
    types.extend(LISTED.map(Ty::list));
    types
}

/// The structures of a program: the first has all that clients send, the others are random.
pub(crate) fn structures(random: &mut Random) -> Vec<Structure> {
    let mut structures: Vec<Structure> = Vec::new();
    for at in 0..3 + random.below(3) {
        let count = if at == 0 { BASIC.len() } else { 1 + random.below(5) };
        let mut fields = Vec::new();
        let all = types(&structures);
        for field in 0..count {
            let ty = if at == 0 { BASIC.get(field) } else { None };
            let ty = ty.unwrap_or_else(|| random.pick(&all)).clone();
            let default = (random.percent(15)).then(|| default(random, &ty)).flatten();
            fields.push(Field { name: format!("F{field}"), ty, default });
        }
        structures.push(Structure { name: format!("S{at}"), fields });
    }
    // A list of each kind, so that loops have something to run over.
    let all = types(&structures);
    let lists = all.iter().filter(|ty| matches!(ty, Ty::List(_))).cloned();
    let others = (0..3).map(|_| random.pick(&all).clone());
    let parts: Vec<Ty> = [Ty::Rec(0)].into_iter().chain(lists).chain(others).collect();
    let fields = parts.into_iter().enumerate();
    let fields = fields.map(|(at, ty)| Field { name: format!("F{at}"), ty, default: None }).collect();
    structures.push(Structure { name: "Input".into(), fields });
    structures
}

/// A default as it is declared, of the types that have one.
pub(crate) fn default(random: &mut Random, ty: &Ty) -> Option<(String, Value)> {
    let value = match ty {
        Ty::Bool | Ty::Int | Ty::Long | Ty::Dec | Ty::Date | Ty::Time | Ty::Text => value(random, ty),
        _ => return None,
    };
    let written = match &value {
        Value::Text(text) => text.to_string(),
        Value::Date(v) => date_text(*v),
        Value::Time(v) => time_text(*v),
        Value::Bool(v) => if *v { "True" } else { "False" }.to_owned(),
        other => to_json(other, ty, &[], true),
    };
    Some((written, value))
}
