//! What an aggregate binds: as many values as its text has parameters.

use super::{Answer, run, statements};

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
    insta::assert_snapshot!(statements(flow), @r#"query: SELECT count(*), sum(round("Order"."Total" * $2::numeric, 8))::numeric FROM "Order" WHERE ("Order"."Number" > $1::int4) GROUP BY "Order"."CustomerId" ORDER BY "Order"."CustomerId" [int32(7), decimal("1.2")]"#);
    let flow = r#"
- aggregate: Order
  name: Found
  totals: { Number: count, Gross: { sum: Order.Total * 1.2 } }
- assign: { Out.Number: Found.List.Length }
"#;
    insta::assert_snapshot!(statements(flow), @r#"query: SELECT sum(round("Order"."Total" * $1::numeric, 8))::numeric FROM "Order" [decimal("1.2")]"#);
}

#[test]
fn a_value_is_computed_only_where_the_app_would_compute_it() {
    // `Os` is empty: what a condition before it says decides whether its element is looked for.
    let cases = [
        ("Os.Empty or Order.Number = Os[0].Number", "boolean(true), int32(0)"),
        ("not Os.Empty and Order.Number = Os[0].Number", "boolean(false), int32(0)"),
        (
            "Order.Total > 1 or Os.Empty or Order.Number = Os[0].Number",
            "decimal(\"1\"), boolean(true), int32(0)",
        ),
        (
            "Os.Empty or (Os[0].Total > 1 or Order.Number = Os[1].Number)",
            "boolean(true), boolean(false), int32(0)",
        ),
        ("Os.Empty or Os[0].Total > 1 or Order.Number = Os[1].Number", "boolean(true), int32(0)"),
        (
            "Order.Number = If(Os.Empty, Order.Number + N, Order.Number + Os[0].Number)",
            "boolean(true), int32(7), int32(0)",
        ),
        (
            "Order.Number = If(Os.Empty, If(N = 7, Order.Number, Order.Number * N), Order.Number + Twice(Os[0].Number))",
            "boolean(true), boolean(true), int32(7), int32(0)",
        ),
        ("Os.Empty or Order.PlacedOn = Os[0].PlacedOn", "boolean(true), date(-25567)"),
        ("Os.Empty or Order.Total = Os[0].Total", "boolean(true), decimal(\"0\")"),
        ("Os.Empty or Order.CustomerId = Os[0].CustomerId", "boolean(true), null"),
        ("Os.Empty or Index(Cs[0].Name, \"x\") = Order.Number", "boolean(true), int32(0)"),
        ("[ not Os.Empty, 'Order.Number = Os[0].Number' ]", "boolean(false), int32(0)"),
    ];
    let list = |(n, (filter, _)): (usize, &(&str, &str))| {
        let filter = if filter.starts_with('[') { (*filter).to_owned() } else { format!("'{filter}'") };
        format!("- list: Order\n  name: Found{n}\n  where: {filter}\n  max: 5\n")
    };
    let flow: String = cases.iter().enumerate().map(list).collect();
    let (reply, seen) = run(&flow, cases.map(|_| Answer::Rows(vec![])));
    assert_eq!((reply.status, seen.len()), (200, cases.len()), "{}", reply.body);
    for ((filter, bound), seen) in cases.iter().zip(seen) {
        let (_, values) = seen.split_once(" [").unwrap();
        assert_eq!(values, format!("{bound}, int32(5)]"), "{filter}");
    }
}

#[test]
fn a_value_that_the_app_would_compute_still_raises() {
    for filter in ["N = 8 or Order.Number = Os[0].Number", "Order.Number = Os[0].Number or N = 7"] {
        let (reply, seen) =
            run(&format!("- list: Order\n  name: Found\n  where: '{filter}'\n  max: 5\n"), []);
        assert!(reply.body.contains("out of range"), "{}", reply.body);
        assert!(seen.iter().all(|seen| seen == "rollback"), "{seen:?}");
    }
}
