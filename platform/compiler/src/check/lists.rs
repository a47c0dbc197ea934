//! List actions: what they take, and what they give.

use super::Checker;
use crate::ast::{self, Expr, ListAction, Name, Search};
use crate::types::*;

impl Checker<'_, '_> {
    pub(super) fn list_action(
        &mut self,
        node: &ast::Node,
        list: &Expr,
        action: &ListAction,
    ) -> (String, TNodeKind) {
        let changes = !matches!(action, ListAction::Search { .. } | ListAction::Copy { .. });
        let list = if changes { self.place(list) } else { self.expression(list) };
        let of = self.element_of(&list, "OML0202", |shown| format!("a list is needed here, not {shown}"));
        let (name, kind) = match action {
            ListAction::Append(element) => {
                let edit = TListEdit::Append(self.expect(element, &of));
                ("ListAppend", TNodeKind::ListEdit { list, edit })
            }
            ListAction::AppendAll(other) => {
                let edit = TListEdit::AppendAll(self.expect(other, &list.ty));
                ("ListAppendAll", TNodeKind::ListEdit { list, edit })
            }
            ListAction::Insert { element, at } => {
                let (element, at) = (self.expect(element, &of), self.expect(at, &Type::Integer));
                ("ListInsert", TNodeKind::ListEdit { list, edit: TListEdit::Insert { element, at } })
            }
            ListAction::Remove { at } => {
                let at = self.expect(at, &Type::Integer);
                ("ListRemove", TNodeKind::ListEdit { list, edit: TListEdit::Remove { at } })
            }
            ListAction::Clear => ("ListClear", TNodeKind::ListEdit { list, edit: TListEdit::Clear }),
            ListAction::Sort { by } => {
                let by = self.sort_keys(by, &of, &list);
                ("ListSort", TNodeKind::ListSort { list, by })
            }
            ListAction::Search { search, element, condition } => {
                let element = self.element(element, of);
                let condition = self.expect(condition, &Type::Boolean);
                self.forget(element);
                let (default, output) = match search {
                    Search::Filter => ("ListFilter", ("List", list.ty.clone())),
                    Search::Any => ("ListAny", ("Result", Type::Boolean)),
                    Search::All => ("ListAll", ("Result", Type::Boolean)),
                    Search::IndexOf => ("ListIndexOf", ("Position", Type::Integer)),
                };
                let out = self.outputs(node, default, &[output])[0];
                (default, TNodeKind::ListSearch { list, search: *search, element, condition, out })
            }
            ListAction::Copy { distinct } => {
                let default = if *distinct { "ListDistinct" } else { "ListDuplicate" };
                let out = self.outputs(node, default, &[("List", list.ty.clone())])[0];
                (default, TNodeKind::ListCopy { list, distinct: *distinct, out })
            }
        };
        (name.to_owned(), kind)
    }

    /// Records are sorted by attributes, other elements as they are: `asc` or `desc`.
    fn sort_keys(&mut self, by: &[(Name, bool)], of: &Type, list: &TExpr) -> Vec<SortKey> {
        let Type::Record(record) = *of else {
            let descending = match by {
                [] => false,
                [(word, _)] if word.text.eq_ignore_ascii_case("asc") => false,
                [(word, _)] if word.text.eq_ignore_ascii_case("desc") => true,
                [(word, _), ..] => {
                    let message = format!("{} has no attributes to sort by", self.named.shown(of));
                    self.problems.error_hint(
                        "OML0104",
                        word.span,
                        message,
                        Some("write `by: asc` or `by: desc`".into()),
                    );
                    false
                }
            };
            return vec![SortKey { attribute: None, descending }];
        };
        if by.is_empty() {
            let message = format!("`list_sort` needs `by` for a list of {}", self.named.shown(of));
            self.problems.error("OML0005", list.span, message);
        }
        let mut keys = Vec::new();
        for (name, descending) in by {
            let Some(index) = self.attribute(record, name) else { continue };
            keys.push(SortKey { attribute: Some(index), descending: *descending });
        }
        keys
    }
}
