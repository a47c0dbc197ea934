//! Roles: what a user may be. Who has which lies in a table of the app's schema, so granting one is a statement like
//! others: it takes part in the transaction.
//!
//! Roles and users are compared to the letter, unlike other text. Invariant: every role that is named is declared.

use super::Checker;
use crate::ast::{self, Expr, Name};
use crate::builtins::BUILTINS;
use crate::problem::{Problems, near};
use crate::sources::Span;
use crate::types::*;

const GRANT: [&str; 3] = [
    "INSERT INTO odeon_roles (role, member) SELECT ",
    ", ",
    " WHERE NOT EXISTS (SELECT 1 FROM odeon_roles WHERE role COLLATE \"C\" = ",
];
const REVOKE: &str = "DELETE FROM odeon_roles WHERE role COLLATE \"C\" = ";
const MEMBER: &str = " AND member COLLATE \"C\" = ";

impl Checker<'_, '_> {
    /// Grants a role to a user, or takes it away.
    pub(super) fn role(
        &mut self,
        node: &ast::Node,
        (role, user): (&Name, &Expr),
        granted: bool,
    ) -> (String, TNodeKind) {
        known(role, self.named, self.problems);
        if self.named.roles.iter().any(|known| known.name == role.text && !known.own) {
            let message = format!("who has `{}` is its own app's to say", role.text);
            let hint = "call a service action of that app that grants or revokes it".to_owned();
            self.problems.error_hint("OML0112", role.span, message, Some(hint));
        }
        let user = self.expect(user, &Type::Text);
        let text = |text: &str| StatementPart::Text(text.to_owned());
        let [name, member] = [0, 1].map(StatementPart::Parameter);
        let parts = match granted {
            true => vec![
                text(GRANT[0]),
                name,
                text(GRANT[1]),
                member,
                text(GRANT[2]),
                StatementPart::Parameter(0),
                text(MEMBER),
                StatementPart::Parameter(1),
                text(")"),
            ],
            false => vec![text(REVOKE), name, text(MEMBER), member],
        };
        let parameters = vec![self.text(&role.text, role.span), user];
        let statement = Box::new(SqlStatement { parts, parameters, writes: true });
        let default = format!("{}{}Role", if granted { "Grant" } else { "Revoke" }, role.text);
        let count = self.outputs(node, &default, &[("Count", Type::Long)])[0];
        (default, TNodeKind::Sql { statement, list: None, count })
    }

    /// `Check<Role>Role([user])`, or `<App>.Check<Role>Role([user])`, where there is such a role.
    pub(super) fn check_role(&mut self, function: &str, arguments: &[Expr], span: Span) -> Option<TExpr> {
        let (app, check) = function.rsplit_once('.').map_or(("", function), |(app, check)| (app, check));
        let role = check.strip_prefix("Check")?.strip_suffix("Role")?;
        let role = if app.is_empty() { role.to_owned() } else { format!("{app}.{role}") };
        let role = self.named.roles.iter().find(|known| known.name == role)?.name.clone();
        let builtin = BUILTINS.iter().find(|builtin| builtin.name == "CheckEndUserRole")?;
        let user = match arguments {
            [] => self.text("", span),
            [user] => self.expect(user, &Type::Text),
            _ => return Some(self.wrong_count(format!("{function}([Text])"), arguments.len(), span)),
        };
        let kind = TKind::Builtin(builtin, vec![self.text(&role, span), user]);
        Some(TExpr { ty: Type::Boolean, span, kind })
    }
}

/// Reports a role that nobody declared.
pub(super) fn known(role: &Name, named: &Named, problems: &mut Problems<'_>) {
    if named.roles.iter().all(|known| known.name != role.text) {
        let hint = near(&role.text, named.roles.iter().map(|known| known.name.as_str()))
            .or_else(|| Some("roles are declared under `roles`".to_owned()));
        problems.error_hint("OML0112", role.span, format!("there is no role `{}`", role.text), hint);
    }
}
