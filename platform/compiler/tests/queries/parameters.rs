//! What an aggregate binds: as many values as its text has parameters.

use super::statements;

#[test]
fn a_total_that_nobody_reads_leaves_no_value_behind() {
    let flow = r#"
- aggregate: Order
  name: Found
  group_by: { Customer: Order.CustomerId }
  totals: { Number: count, Gross: { sum: Order.Total * 1.2 }, Plain: { sum: Order.Total } }
  where: Order.Number > N
- assign: { Out.Number: 'If(Found.List.Empty, 0, Found.List[0].Number)' }
"#;
    insta::assert_snapshot!(statements(flow), @r#"query: SELECT count(*), sum(("Order"."Total" * $2::numeric))::numeric FROM "Order" WHERE ("Order"."Number" > $1::int4) GROUP BY "Order"."CustomerId" ORDER BY "Order"."CustomerId" [int32(7), decimal("1.2")]"#);
    let flow = r#"
- aggregate: Order
  name: Found
  totals: { Number: count, Gross: { sum: Order.Total * 1.2 } }
- assign: { Out.Number: Found.List.Length }
"#;
    insta::assert_snapshot!(statements(flow), @r#"query: SELECT sum(("Order"."Total" * $1::numeric))::numeric FROM "Order" [decimal("1.2")]"#);
}
