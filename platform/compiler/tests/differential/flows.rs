//! Random flows, actions and apps.
//!
//! Invariant: a program ends: actions call those before them, only `Deep` calls itself, and loops run over lists
//! that are as long as they were when the loop began.

use super::builtins::BUILTINS;
use super::generate::*;
use super::program::*;
use super::values::*;

/// Methods of one app: its library is compiled once for all of them.
const METHODS: usize = 24;
/// Of them, those that compute one expression after the other.
const CALCULATING: usize = 8;
/// Expressions of such a method.
const EXPRESSIONS: usize = 25;
/// Actions that they call.
const ACTIONS: usize = 6;
/// Characters in `Big`: more than a loop lets lie about.
const BIG: i32 = 40_000;

/// The place of `Deep` among the actions.
const DEEP: usize = 0;

pub(crate) fn program(seed: u64) -> Program {
    let mut random = Random(seed);
    let structures = structures(&mut random);
    let mut actions = vec![deep()];
    for at in 0..ACTIONS {
        let made = action(&mut random, &structures, &actions, &format!("H{at}"), false);
        actions.push(made);
    }
    let mut methods = Vec::new();
    for at in 0..METHODS {
        let name = format!("M{at}");
        methods.push(if at < CALCULATING {
            calculating(&mut random, &structures, &actions, &name)
        } else {
            action(&mut random, &structures, &actions, &name, true)
        });
    }
    Program { structures, actions, methods }
}

fn var(name: impl Into<String>, ty: &Ty) -> Var {
    Var { name: name.into(), ty: ty.clone(), mandatory: false, default: None }
}

fn read(var: usize, ty: &Ty) -> Expr {
    Expr { ty: ty.clone(), kind: Kind::Var(var) }
}

fn node(kind: NodeKind) -> Node {
    Node { name: None, kind }
}

/// Calls itself as often as it is told.
fn deep() -> Action {
    let int = |kind| Expr { ty: Ty::Int, kind };
    let n = || Box::new(read(0, &Ty::Int));
    let one = || Box::new(number(1));
    let less = int(Kind::Binary(Op::Subtract, n(), one()));
    let more = int(Kind::Binary(Op::Add, Box::new(read(2, &Ty::Int)), one()));
    let condition = Expr { ty: Ty::Bool, kind: Kind::Binary(Op::Greater, n(), Box::new(number(0))) };
    let call = NodeKind::Call { action: DEEP, with: vec![Some(less)], outs: vec![2] };
    let then = vec![
        Node { name: Some("Less".into()), kind: call },
        node(NodeKind::Assign(vec![(read(1, &Ty::Int), more)])),
    ];
    Action {
        name: "Deep".into(),
        function: false,
        inputs: 1,
        outputs: 1,
        locals: 0,
        vars: vec![var("N", &Ty::Int), var("Out", &Ty::Int), var("Less.Out", &Ty::Int)],
        flow: vec![node(NodeKind::If { condition, then, otherwise: Vec::new() })],
        handlers: Vec::new(),
    }
}

fn action(
    random: &mut Random,
    structures: &[Structure],
    actions: &[Action],
    name: &str,
    is_method: bool,
) -> Action {
    let types = types(structures);
    let mut vars = Vec::new();
    let inputs = if is_method { 1 } else { random.below(4) };
    for at in 0..inputs {
        let ty = if is_method { Ty::Rec(structures.len() - 1) } else { random.pick(&types).clone() };
        let mandatory = !is_method && random.percent(40);
        let default = (!mandatory && random.percent(30)).then(|| default(random, &ty)).flatten();
        vars.push(Var { name: format!("In{at}"), ty, mandatory, default });
    }
    let function = !is_method && random.percent(60);
    let is_big = random.percent(if is_method { 40 } else { 0 });
    let mut outputs = if function { 1 } else { 1 + random.below(4) };
    for at in 0..outputs {
        // Clients see what happened in all types; helpers give what expressions want.
        let ty = if is_method || random.percent(40) { random.pick(&types) } else { random.pick(&BASIC[..5]) };
        vars.push(var(format!("Out{at}"), ty));
    }
    for (at, ty) in types.iter().enumerate() {
        let default = random.percent(10).then(|| default(random, ty)).flatten();
        vars.push(Var { default, ..var(format!("L{at}"), ty) });
    }
    let mut locals = types.len();
    if is_big {
        vars.insert(inputs + outputs, var("State", &Ty::list(Ty::Text)));
        outputs += 1;
    }
    let big = is_big.then(|| {
        locals += 2;
        vars.extend([var("Big", &Ty::Text), var("Scratch", &Ty::Text)]);
        (vars.len() - 2, vars.len() - 1)
    });
    let fuel = if is_method { 6 + random.below(20) } else { 2 + random.below(5) };
    let visible = (0..vars.len()).filter(|var| big.is_none_or(|(big, _)| *var != big)).collect();
    let mut maker = Maker {
        random,
        structures: structures.to_vec(),
        actions: actions.to_vec(),
        vars,
        visible,
        serialized: Vec::new(),
        loops: 0,
        names: 0,
        fuel,
        lean: false,
        big,
    };
    let mut flow = Vec::new();
    if let Some((big, _)) = big {
        flow.push(maker.make_big(big));
    }
    while maker.fuel > 0 {
        let made = maker.node(3);
        flow.push(made);
    }
    if let Some((_, scratch)) = big {
        flow.extend(maker.state(inputs + outputs - 1, scratch));
    }
    let handlers = if maker.random.percent(15) { maker.handlers(2) } else { Vec::new() };
    let vars = maker.vars;
    Action { name: name.into(), function, inputs, outputs, locals, vars, flow, handlers }
}

/// A method with many outputs, each of which gets an expression or the message of what that raised.
fn calculating(random: &mut Random, structures: &[Structure], actions: &[Action], name: &str) -> Action {
    let types = types(structures);
    let mut vars = vec![var("In0", &Ty::Rec(structures.len() - 1)), var("Messages", &Ty::list(Ty::Text))];
    let texts = [Ty::Text, Ty::Dec, Ty::Bool, Ty::DateTime];
    for at in 0..EXPRESSIONS {
        let ty = if random.percent(50) { random.pick(&texts) } else { random.pick(&BASIC) };
        vars.push(var(format!("Out{at}"), ty));
    }
    let outputs = vars.len() - 1;
    vars.extend(types.iter().enumerate().map(|(at, ty)| var(format!("L{at}"), ty)));
    let mut maker = Maker {
        random,
        structures: structures.to_vec(),
        actions: actions.to_vec(),
        visible: (0..vars.len()).chain([0, 0, 0, 0, 0]).collect(),
        vars,
        serialized: Vec::new(),
        loops: 0,
        names: 0,
        fuel: 0,
        lean: false,
        big: None,
    };
    let mut flow = Vec::new();
    for out in 2..2 + EXPRESSIONS {
        let ty = maker.vars[out].ty.clone();
        let value = maker.expression(&ty, 4);
        let body = vec![node(NodeKind::Assign(vec![(read(out, &ty), value)]))];
        let message = maker.add("ExceptionMessage".into(), &Ty::Text);
        let append =
            NodeKind::Append { list: read(1, &Ty::list(Ty::Text)), element: read(message, &Ty::Text) };
        let flow_of = vec![node(append)];
        let handler = Handler { exception: Exception::All, log: false, abort: None, message, flow: flow_of };
        flow.push(node(NodeKind::Try { body, handlers: vec![handler] }));
    }
    let (locals, vars) = (types.len(), maker.vars);
    Action {
        name: name.into(),
        function: false,
        inputs: 1,
        outputs,
        locals,
        vars,
        flow,
        handlers: Vec::new(),
    }
}

impl Maker<'_> {
    fn make_big(&mut self, big: usize) -> Node {
        let format = BUILTINS.iter().find(|builtin| builtin.name == "FormatText").expect("it is there");
        let text = |text: &str| literal(&Ty::Text, Value::text(text));
        let left = literal(&Ty::Bool, Value::Bool(true));
        let arguments = vec![text("x"), number(BIG), number(BIG), left, text("é")];
        let value = Expr { ty: Ty::Text, kind: Kind::Builtin(format, arguments) };
        node(NodeKind::Assign(vec![(read(big, &Ty::Text), value)]))
    }

    /// Puts what the variables hold into an output, so that it is seen.
    fn state(&mut self, state: usize, scratch: usize) -> Vec<Node> {
        let shown = |maker: &Self, var: usize| {
            let ty = maker.vars[var].ty.clone();
            ty.is_text() || ty == Ty::Dec
        };
        let singles: Vec<usize> =
            (0..=scratch).filter(|var| *var + 1 != scratch && shown(self, *var)).collect();
        let mut nodes = Vec::new();
        for var in singles {
            let ty = self.vars[var].ty.clone();
            let element = converted(read(var, &ty), &Ty::Text);
            nodes.push(node(NodeKind::Append { list: read(state, &Ty::list(Ty::Text)), element }));
        }
        for var in 0..=scratch {
            if let Ty::Rec(_) = self.vars[var].ty {
                let name = self.name();
                let out = self.add(format!("{name}.JSON"), &Ty::Text);
                let ty = self.vars[var].ty.clone();
                let kind = NodeKind::Serialize { value: read(var, &ty), defaults: false, out };
                nodes.push(Node { name: Some(name), kind });
                let element = read(out, &Ty::Text);
                nodes.push(node(NodeKind::Append { list: read(state, &Ty::list(Ty::Text)), element }));
            }
        }
        nodes
    }

    /// A new variable for an output or an element.
    fn add(&mut self, name: String, ty: &Ty) -> usize {
        self.vars.push(var(name, ty));
        self.vars.len() - 1
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("N{}", self.names)
    }

    fn any_list(&mut self, place: bool) -> Expr {
        loop {
            let ty = self.random.pick(&types(&self.structures)).clone();
            if !matches!(ty, Ty::List(_)) {
                continue;
            }
            if !place && self.random.percent(10) {
                return self.natural(&ty, 1);
            }
            // What the client sent is longer than what a program makes.
            if self.random.percent(50)
                && let Some(Ty::Rec(of)) = self.vars.first().map(|var| var.ty.clone())
                && let Some(field) = self.structures[of].fields.iter().position(|field| field.ty == ty)
            {
                let of = Box::new(read(0, &Ty::Rec(of)));
                return Expr { ty, kind: Kind::Field(of, field) };
            }
            if let Some(found) = self.path(&ty, false) {
                return found;
            }
        }
    }

    fn element_of(list: &Expr) -> Ty {
        let Ty::List(of) = &list.ty else { panic!("a list") };
        (**of).clone()
    }

    /// Whether a loop can keep what a place holds when it frees: it is in a variable of the action, and in no list.
    fn is_kept(&self, place: &Expr) -> bool {
        match &place.kind {
            Kind::Field(of, _) => self.is_kept(of),
            Kind::Var(var) => !self.vars[*var].name.starts_with(['E', 'N']),
            _ => false,
        }
    }

    /// A flow inside a node; what it makes visible stays so. It may end in a jump.
    fn nested(&mut self, depth: usize) -> Vec<Node> {
        let mut flow = Vec::new();
        for _ in 0..self.random.below(4) + usize::from(self.lean) {
            if self.fuel > 0 || self.lean && depth > 0 {
                let made = self.node(depth);
                flow.push(made);
            }
        }
        let end = match self.random.below(20) {
            0 | 1 if self.loops > 0 => NodeKind::Cycle,
            2 if self.loops > 0 => NodeKind::Exit,
            3 if self.random.percent(50) => NodeKind::Return,
            4 | 5 => self.raise(),
            _ => return flow,
        };
        flow.push(node(end));
        flow
    }

    fn raise(&mut self) -> NodeKind {
        let raised = [
            Exception::User,
            Exception::Own(0),
            Exception::Own(1),
            Exception::Security,
            Exception::InvalidLogin,
            Exception::NotRegistered,
        ];
        let exception = *self.random.pick(&raised);
        let message = self.expression(&Ty::Text, 1);
        let status = self.random.percent(25).then(|| 400 + self.random.below(200) as u16);
        NodeKind::Raise { exception, message, status }
    }

    fn handlers(&mut self, depth: usize) -> Vec<Handler> {
        let all = [
            Exception::All,
            Exception::All,
            Exception::User,
            Exception::Own(0),
            Exception::Own(1),
            Exception::Security,
            Exception::InvalidLogin,
            Exception::NotRegistered,
            Exception::Database,
            Exception::Communication,
        ];
        let mut handlers: Vec<Handler> = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let exception = *self.random.pick(&all);
            if handlers.iter().any(|handler| handler.exception == exception) {
                continue;
            }
            // The one of a handler around has the same name, and is not seen from here.
            let is_message = |vars: &[Var], var: usize| vars[var].name == "ExceptionMessage";
            let (hidden, seen) = self.visible.iter().partition(|var| is_message(&self.vars, **var));
            self.visible = seen;
            let message = self.add("ExceptionMessage".into(), &Ty::Text);
            self.visible.push(message);
            let flow = self.nested(depth);
            self.visible.retain(|var| *var != message);
            let hidden: Vec<usize> = hidden;
            self.visible.extend(hidden);
            let abort = self.random.percent(20).then(|| self.random.percent(50));
            handlers.push(Handler { exception, log: self.random.percent(70), abort, message, flow });
        }
        handlers
    }

    fn assign(&mut self) -> NodeKind {
        let mut pairs: Vec<(Expr, Expr)> = Vec::new();
        let mut roots = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            // Mostly single values: what holds nothing is not worth much.
            let single = self.lean || self.random.percent(60);
            let all = types(&self.structures);
            let ty = if single { self.random.pick(&BASIC) } else { self.random.pick(&all) }.clone();
            let odd = self.random.percent(10);
            let fits = |maker: &Self, place: &Expr| !maker.lean || odd || maker.is_kept(place);
            let found = (0..30).find_map(|_| self.path(&ty, false).filter(|place| fits(self, place)));
            let Some(place) = found else { continue };
            let root = root(&place);
            if !roots.contains(&root) {
                roots.push(root);
                let value = self.expression(&ty, 3);
                pairs.push((place, value));
            }
        }
        if pairs.is_empty() { NodeKind::Clear { list: self.any_list(true) } } else { NodeKind::Assign(pairs) }
    }

    pub(crate) fn node(&mut self, depth: usize) -> Node {
        self.fuel = self.fuel.saturating_sub(1);
        let name = self.name();
        let mut named = self.random.percent(10);
        let mut choice = self.random.below(if depth == 0 { 62 } else { 100 });
        if self.lean {
            let kept = [0, 0, 0, 0, 41, 50, 55, 58, 58, 62, 62, 73, 77, 95];
            choice = *self.random.pick(if depth == 0 { &kept[..9] } else { &kept });
        }
        let kind = match choice {
            0..=24 => self.assign(),
            25..=30 => {
                let list = self.any_list(true);
                let element = self.expression(&Self::element_of(&list), 2);
                NodeKind::Append { list, element }
            }
            31..=32 => {
                let list = self.any_list(true);
                let elements = self.expression(&list.ty.clone(), 1);
                NodeKind::AppendAll { list, elements }
            }
            33..=35 => {
                let list = self.any_list(true);
                let element = self.expression(&Self::element_of(&list), 1);
                let at = if self.random.percent(70) { number(0) } else { self.expression(&Ty::Int, 1) };
                NodeKind::Insert { list, element, at }
            }
            36 => NodeKind::Remove { list: self.any_list(true), at: number(self.random.below(2) as i32) },
            37 => NodeKind::Clear { list: self.any_list(true) },
            38..=40 => self.sort(),
            41..=46 => {
                named = true;
                self.search(&name)
            }
            47..=49 => {
                named = true;
                let list = self.any_list(false);
                let out = self.add(format!("{name}.List"), &list.ty.clone());
                self.visible.push(out);
                NodeKind::Copy { distinct: self.random.percent(60), list, out }
            }
            50..=52 => {
                named = true;
                let ty = loop {
                    let ty = self.random.pick(&types(&self.structures)).clone();
                    if matches!(ty, Ty::Rec(_) | Ty::List(_)) {
                        break ty;
                    }
                };
                let value = self.natural(&ty, 1);
                let out = self.add(format!("{name}.JSON"), &Ty::Text);
                self.visible.push(out);
                self.serialized.push((out, ty));
                NodeKind::Serialize { value, defaults: self.random.percent(30), out }
            }
            53..=54 => {
                named = true;
                self.deserialize(&name)
            }
            55..=57 => {
                let message = self.expression(&Ty::Text, 2);
                NodeKind::Log { message, level: ["info", "warning", "error"][self.random.below(3)] }
            }
            58..=61 => {
                named = true;
                self.call(&name)
            }
            62..=72 => {
                let condition = self.natural(&Ty::Bool, 3);
                let (then, otherwise) = (self.nested(depth - 1), self.nested(depth - 1));
                NodeKind::If { condition, then, otherwise }
            }
            73..=76 => {
                let mut cases = Vec::new();
                for _ in 0..1 + self.random.below(3) {
                    let condition = self.natural(&Ty::Bool, 2);
                    cases.push((condition, self.nested(depth - 1)));
                }
                NodeKind::Switch { cases, otherwise: self.nested(depth - 1) }
            }
            77..=90 => self.for_each(depth - 1),
            _ => {
                let body = self.nested(depth - 1);
                NodeKind::Try { body, handlers: self.handlers(depth - 1) }
            }
        };
        Node { name: named.then_some(name), kind }
    }

    fn sort(&mut self) -> NodeKind {
        let list = self.any_list(true);
        let by = match Self::element_of(&list) {
            Ty::Rec(of) => {
                let fields = self.structures[of].fields.iter().enumerate();
                let sortable: Vec<usize> =
                    fields.filter(|(_, f)| f.ty.is_ordered()).map(|(at, _)| at).collect();
                if sortable.is_empty() {
                    return NodeKind::Clear { list };
                }
                let mut keys = Vec::new();
                for _ in 0..1 + self.random.below(2) {
                    keys.push((Some(*self.random.pick(&sortable)), self.random.percent(50)));
                }
                keys
            }
            _ => vec![(None, self.random.percent(50))],
        };
        NodeKind::Sort { list, by }
    }

    fn search(&mut self, name: &str) -> NodeKind {
        let list = self.any_list(false);
        let search = *self.random.pick(&[Search::Filter, Search::Any, Search::All, Search::IndexOf]);
        let element = self.add(format!("E{}", self.vars.len()), &Self::element_of(&list));
        self.visible.extend([element, element, element, element, element]); // likely
        let condition = self.natural(&Ty::Bool, 3);
        self.visible.retain(|var| *var != element);
        let (output, ty) = match search {
            Search::Filter => ("List", list.ty.clone()),
            Search::Any | Search::All => ("Result", Ty::Bool),
            Search::IndexOf => ("Position", Ty::Int),
        };
        let out = self.add(format!("{name}.{output}"), &ty);
        self.visible.push(out);
        NodeKind::Search { search, list, element, condition, out }
    }

    fn deserialize(&mut self, name: &str) -> NodeKind {
        let (text, ty) = if self.serialized.is_empty() || self.random.percent(40) {
            let ty = Ty::Rec(self.random.below(self.structures.len()));
            let ty = if self.random.percent(40) { Ty::list(ty) } else { ty };
            let text = json(self.random, &ty, &self.structures);
            (literal(&Ty::Text, Value::text(&text)), ty)
        } else {
            let (var, ty) = self.random.pick(&self.serialized).clone();
            // What was not made yet is no JSON.
            let read = read(var, &Ty::Text);
            let empty = |text: Expr| Box::new(text);
            let is_empty =
                Kind::Binary(Op::Equal, empty(read.clone()), empty(literal(&Ty::Text, Value::text(""))));
            let is_empty = Expr { ty: Ty::Bool, kind: is_empty };
            let nothing = literal(&Ty::Text, Value::text("null"));
            let kind = Kind::If(Box::new(is_empty), Box::new(nothing), Box::new(read));
            (Expr { ty: Ty::Text, kind }, ty)
        };
        let out = self.add(format!("{name}.Data"), &ty);
        self.visible.push(out);
        NodeKind::Deserialize { text, out }
    }

    fn call(&mut self, name: &str) -> NodeKind {
        let action = self.random.below(self.actions.len());
        let callee = self.actions[action].clone();
        let mut with = Vec::new();
        for input in &callee.vars[..callee.inputs] {
            let given = input.mandatory || self.random.percent(70);
            with.push(given.then(|| match action {
                DEEP => number(*self.random.pick(&[0, 3, 249, 250])),
                _ => self.expression(&input.ty, 2),
            }));
        }
        let mut outs = Vec::new();
        for output in &callee.vars[callee.inputs..callee.inputs + callee.outputs] {
            outs.push(self.add(format!("{name}.{}", output.name), &output.ty));
        }
        self.visible.extend(&outs);
        NodeKind::Call { action, with, outs }
    }

    fn for_each(&mut self, depth: usize) -> NodeKind {
        let list = self.any_list(false);
        let start = self.random.percent(20).then(|| number(self.random.below(3) as i32));
        let max = self.random.percent(20).then(|| self.expression(&Ty::Int, 1));
        let element = self.add(format!("E{}", self.vars.len()), &Self::element_of(&list));
        self.visible.extend([element, element, element]);
        self.loops += 1;
        let (around, seen) = (self.lean, self.visible.len());
        self.lean |= self.big.is_some() && self.random.percent(80);
        let mut body = Vec::new();
        if let Some((big, scratch)) = self.big {
            let text = Box::new(self.expression(&Ty::Text, 1));
            let text = Box::new(converted(*text, &Ty::Text));
            let kind = Kind::Binary(Op::Join, Box::new(read(big, &Ty::Text)), text);
            body.push(node(NodeKind::Assign(vec![(read(scratch, &Ty::Text), Expr { ty: Ty::Text, kind })])));
        }
        body.extend(self.nested(depth));
        self.loops -= 1;
        if self.lean && self.random.percent(90) {
            // What a node of the body gave, and is read behind it, must stay.
            self.visible.truncate(seen);
            self.serialized.retain(|(var, _)| self.visible.contains(var));
        }
        self.lean = around;
        self.visible.retain(|var| *var != element);
        NodeKind::ForEach { list, element, start, max, body }
    }
}

/// The variable that a place is in.
fn root(place: &Expr) -> usize {
    match &place.kind {
        Kind::Var(var) => *var,
        Kind::Field(of, _) | Kind::Item(of, _) => root(of),
        other => panic!("{other:?} is no place"),
    }
}
