//! Expressions to typed code: one value on the Wasm stack, or a branch out when something was raised.
//!
//! Comparison, logic and integers are Wasm's own instructions, with a look at the overflow behind each; decimals
//! and text are calls.

use wasm_encoder::{BlockType, Instruction, ValType};

use super::{Generator, load, slot_at, word};
use crate::ast::Binary;
use crate::types::*;

impl Generator<'_, '_> {
    /// A value that nobody else holds: records and lists are copied.
    pub(super) fn owned(&mut self, value: &TExpr) {
        self.expression(value);
        if let Type::Record(record) = value.ty
            && let fields = &self.shared.named.records[record].fields
            && !fields.iter().any(|field| matches!(field.ty, Type::Record(_) | Type::List(_)))
        {
            self.address(fields.len() as u32 * 8);
            self.call("rt_copy_flat");
        } else if matches!(value.ty, Type::Record(_) | Type::List(_)) {
            let descriptor = self.shared.descriptor(&value.ty);
            self.address(descriptor);
            self.call("rt_copy");
        }
    }

    pub(super) fn expression(&mut self, expr: &TExpr) {
        match &expr.kind {
            // Errors end before here, and queries become SQL.
            TKind::Broken | TKind::Attribute(..) | TKind::Calculated(_) => {
                self.code.push(Instruction::Unreachable);
            }
            TKind::Constant(constant) => self.constant(constant),
            TKind::Null => self.code.push(Instruction::I64Const(0)),
            TKind::Local(variable) => {
                self.code.push(Instruction::LocalGet(*variable as u32));
                self.seal(*variable); // somebody else may hold it from here on
            }
            TKind::Field(record, index) => {
                self.expression(record);
                self.code.push(load(&expr.ty, *index));
            }
            TKind::Setting(index) => {
                let setting = &self.shared.named.settings[*index];
                let slot = self.shared.slot(setting.default.as_ref(), &setting.ty);
                let (name, default) = (self.shared.data.text(&setting.name), self.shared.data.words(&slot));
                let descriptor = self.shared.descriptor(&setting.ty);
                self.address(name);
                self.address(descriptor);
                self.address(default);
                self.call("rt_setting");
                self.code.push(load(&expr.ty, 0));
            }
            TKind::Item(list, index) => {
                self.slot_of(list, index);
                self.code.push(load(&expr.ty, 0));
            }
            TKind::Length(list) => {
                self.expression(list);
                self.code.push(Instruction::I32Load(slot_at(0))); // 0 at 0, where no list is
            }
            TKind::Negate(operand) => {
                let is_long = expr.ty == Type::Long;
                // For a decimal the address of zero.
                self.code.push(if is_long { Instruction::I64Const(0) } else { Instruction::I32Const(0) });
                self.expression(operand);
                self.arithmetic(Binary::Subtract, &expr.ty);
            }
            TKind::Not(operand) => {
                self.expression(operand);
                self.code.push(Instruction::I32Eqz);
            }
            TKind::Arithmetic(op, left, right) => {
                self.expression(left);
                self.expression(right);
                self.arithmetic(*op, &expr.ty);
            }
            TKind::Concat(..) => self.concat(expr),
            TKind::Compare(op, left, right) => {
                self.looked_at(left);
                self.looked_at(right);
                self.compare(*op, &left.ty);
            }
            TKind::Logic(op, left, right) => {
                self.expression(left);
                self.open(Instruction::If(BlockType::Result(ValType::I32)));
                if *op == Binary::And {
                    self.expression(right);
                    self.code.extend([Instruction::Else, Instruction::I32Const(0)]);
                } else {
                    self.code.extend([Instruction::I32Const(1), Instruction::Else]);
                    self.expression(right);
                }
                self.close();
            }
            TKind::Convert(value) => {
                self.expression(value);
                self.convert(&value.ty, &expr.ty);
            }
            TKind::If(condition, then, otherwise) => {
                self.expression(condition);
                self.open(Instruction::If(BlockType::Result(word(&expr.ty))));
                self.expression(then);
                self.code.push(Instruction::Else);
                self.expression(otherwise);
                self.close();
            }
            TKind::Builtin(builtin, arguments) => {
                for argument in arguments {
                    self.looked_at(argument); // a function gives a text of its own
                }
                self.call(builtin.runtime);
            }
            TKind::Invoke(action, arguments) => {
                self.invoke(*action, arguments);
                self.leave_if_raised();
                self.mark_again();
            }
        }
    }

    pub(super) fn constant(&mut self, constant: &Constant) {
        let instruction = match constant {
            Constant::Boolean(v) => Instruction::I32Const(i32::from(*v)),
            Constant::Integer(v) | Constant::Date(v) => Instruction::I32Const(*v),
            Constant::Long(v) | Constant::Time(v) | Constant::DateTime(v) => Instruction::I64Const(*v),
            Constant::Decimal(v) => Instruction::I32Const(self.shared.data.decimal(*v) as i32),
            Constant::Text(v) => Instruction::I32Const(self.shared.data.text(v) as i32),
        };
        self.code.push(instruction);
    }

    /// The address of an element's slot; out of range leaves the action.
    pub(super) fn slot_of(&mut self, list: &TExpr, index: &TExpr) {
        self.expression(list);
        self.expression(index);
        self.call("rt_list_slot");
        self.leave_if_raised();
    }

    /// Check has made both sides one type, and a quotient a decimal.
    fn arithmetic(&mut self, op: Binary, ty: &Type) {
        match (ty, op) {
            (Type::Integer, Binary::Add) => self.integer(Instruction::I64Add),
            (Type::Integer, Binary::Subtract) => self.integer(Instruction::I64Sub),
            (Type::Integer, Binary::Multiply) => self.integer(Instruction::I64Mul),
            (Type::Long, Binary::Add) => self.long(Instruction::I64Add),
            (Type::Long, Binary::Subtract) => self.long(Instruction::I64Sub),
            (Type::Long, Binary::Multiply) => {
                self.call("rt_long_mul");
                self.leave_if_failed();
            }
            (_, Binary::Add) => self.decimal("rt_dec_add"),
            (_, Binary::Subtract) => self.decimal("rt_dec_sub"),
            (_, Binary::Multiply) => self.decimal("rt_dec_mul"),
            (
                _,
                Binary::Divide
                | Binary::Less
                | Binary::LessEqual
                | Binary::Greater
                | Binary::GreaterEqual
                | Binary::Equal
                | Binary::NotEqual
                | Binary::Like
                | Binary::And
                | Binary::Or,
            ) => self.decimal("rt_dec_div"),
        }
    }

    fn decimal(&mut self, call: &str) {
        self.call(call);
        self.leave_if_failed();
    }

    /// An operation on two integers of 32 bits, in 64, where it cannot overflow: the result must fit 32.
    fn integer(&mut self, operation: Instruction<'static>) {
        let (right, wide) = (self.scratch(ValType::I32, 0), self.scratch(ValType::I64, 0));
        let result = self.scratch(ValType::I32, 1);
        self.code.extend([Instruction::LocalSet(right), Instruction::I64ExtendI32S]);
        self.code.extend([Instruction::LocalGet(right), Instruction::I64ExtendI32S, operation]);
        self.code.extend([Instruction::LocalTee(wide), Instruction::I32WrapI64]);
        self.code.extend([Instruction::LocalTee(result), Instruction::I64ExtendI32S]);
        self.code.extend([Instruction::LocalGet(wide), Instruction::I64Ne]);
        self.raise_if(Some("rt_int_overflow"));
        self.code.push(Instruction::LocalGet(result));
    }

    /// A sum or difference of 64 bits. It has overflowed when its sign is that of neither operand; of the negated
    /// right one, in a difference.
    fn long(&mut self, operation: Instruction<'static>) {
        let [left, right, result] = [0, 1, 2].map(|number| self.scratch(ValType::I64, number));
        let is_sum = matches!(operation, Instruction::I64Add);
        self.code.extend([Instruction::LocalSet(right), Instruction::LocalTee(left)]);
        self.code.extend([Instruction::LocalGet(right), operation, Instruction::LocalTee(result)]);
        self.code.extend([Instruction::LocalGet(left), Instruction::I64Xor, Instruction::LocalGet(right)]);
        self.code.push(Instruction::LocalGet(if is_sum { result } else { left }));
        self.code.extend([Instruction::I64Xor, Instruction::I64And]);
        self.code.extend([Instruction::I64Const(0), Instruction::I64LtS]);
        self.raise_if(Some("rt_long_overflow"));
        self.code.push(Instruction::LocalGet(result));
    }

    fn compare(&mut self, op: Binary, ty: &Type) {
        match ty {
            Type::Record(_) => {
                let descriptor = self.shared.descriptor(ty);
                self.address(descriptor);
                self.call("rt_record_cmp");
            }
            Type::Decimal => self.call("rt_dec_cmp"),
            Type::Text | Type::Email | Type::Phone | Type::TextIdentifier(_) => self.call("rt_text_cmp"),
            Type::Unknown
            | Type::Boolean
            | Type::Integer
            | Type::Long
            | Type::Date
            | Type::Time
            | Type::DateTime
            | Type::Binary
            | Type::Identifier(_)
            | Type::List(_) => {
                let wide = word(ty) == ValType::I64;
                self.code.push(if wide { compare64(op) } else { compare32(op) });
                return;
            }
        }
        self.code.push(Instruction::I32Const(0));
        self.code.push(compare32(op));
    }

    fn convert(&mut self, from: &Type, to: &Type) {
        match (from, to) {
            (Type::Boolean | Type::Integer, Type::Long) => self.code.push(Instruction::I64ExtendI32S),
            (Type::Boolean | Type::Integer, Type::Decimal) => {
                self.code.push(Instruction::I64ExtendI32S);
                self.call("rt_dec_from_long");
            }
            (Type::Long, Type::Decimal) => self.call("rt_dec_from_long"),
            (Type::Decimal, Type::Integer) => {
                self.call("rt_dec_trunc_int");
                self.leave_if_raised();
            }
            (Type::Decimal, Type::Long) => {
                self.call("rt_dec_trunc_long");
                self.leave_if_raised();
            }
            (Type::DateTime, Type::Date) => self.call("rt_datetime_to_date"),
            (Type::Date, Type::DateTime) => self.call("rt_date_to_datetime"),
            (Type::Time, Type::DateTime) => self.call("rt_time_to_datetime"),
            (Type::Text, Type::DateTime) => self.call("rt_text_to_datetime"),
            (Type::Boolean, _) if is_text(to) => self.call("rt_bool_to_text"),
            (Type::Integer, _) if is_text(to) => self.call("rt_int_to_text"),
            (Type::Long | Type::Identifier(_), _) if is_text(to) => self.call("rt_long_to_text"),
            (Type::Decimal, _) if is_text(to) => self.call("rt_dec_to_text"),
            (Type::Date, _) if is_text(to) => self.call("rt_date_to_text"),
            (Type::Time, _) if is_text(to) => self.call("rt_time_to_text"),
            (Type::DateTime, _) if is_text(to) => self.call("rt_datetime_to_text"),
            _ => {} // the same word means the same value
        }
    }
}

/// What is no comparison is not asked for.
fn compare32(op: Binary) -> Instruction<'static> {
    match op {
        Binary::Less => Instruction::I32LtS,
        Binary::LessEqual => Instruction::I32LeS,
        Binary::Greater => Instruction::I32GtS,
        Binary::GreaterEqual => Instruction::I32GeS,
        Binary::NotEqual => Instruction::I32Ne,
        Binary::Equal
        | Binary::Add
        | Binary::Subtract
        | Binary::Multiply
        | Binary::Divide
        | Binary::Like
        | Binary::And
        | Binary::Or => Instruction::I32Eq,
    }
}

fn compare64(op: Binary) -> Instruction<'static> {
    match op {
        Binary::Less => Instruction::I64LtS,
        Binary::LessEqual => Instruction::I64LeS,
        Binary::Greater => Instruction::I64GtS,
        Binary::GreaterEqual => Instruction::I64GeS,
        Binary::NotEqual => Instruction::I64Ne,
        Binary::Equal
        | Binary::Add
        | Binary::Subtract
        | Binary::Multiply
        | Binary::Divide
        | Binary::Like
        | Binary::And
        | Binary::Or => Instruction::I64Eq,
    }
}
