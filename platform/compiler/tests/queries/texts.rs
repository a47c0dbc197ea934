//! How texts compare in the database: a text that comes from no column has to be told.

use super::{Answer, run};

#[test]
fn a_text_compares_as_what_it_is_made_of() {
    // What decides about a text says nothing of how it compares.
    let by_name = r#"If(Customer.Name = "x", "a", "b")"#;
    let told = r#" COLLATE "odeon_text""#;
    let cases = [
        (format!("{by_name} = T"), format!("END){told} = $")),
        (format!("Trim({by_name}) = T"), format!("END)){told} = $")),
        (format!("{by_name} + BooleanToText(Customer.Name = T) = T"), format!("END)){told} = $")),
        (r#"If(Customer.Rating > 1, Customer.Name, "b") + "!" = T"#.to_owned(), "::text) = $".to_owned()),
        (r#"Trim("x" + Customer.Name) = T"#.to_owned(), r#""Name")) = $"#.to_owned()),
    ];
    let list = |(n, (filter, _)): (usize, &(String, String))| {
        format!("- list: Customer\n  name: Found{n}\n  where: '{filter}'\n  max: 5\n")
    };
    let flow: String = cases.iter().enumerate().map(list).collect();
    let (reply, seen) = run(&flow, cases.clone().map(|_| Answer::Rows(vec![])));
    assert_eq!((reply.status, seen.len()), (200, cases.len()), "{}", reply.body);
    for ((filter, sql), seen) in cases.iter().zip(seen) {
        assert!(seen.contains(sql), "{filter}: {sql}: {seen}");
    }
}

#[test]
fn keys_and_totals_are_told_how_they_compare() {
    let flow = r#"
- aggregate: Order
  name: Found
  group_by: { Size: 'If(Order.Total > 1, "a", "A")' }
  totals: { Last: { max: 'If(Order.Total > 1, "b", "B")' } }
  sort: [ Size desc ]
- for_each: Found.List
  as: Row
  do: [ assign: { Out.Text: Row.Size + Row.Last } ]
"#;
    let (_, seen) = run(flow, [Answer::Rows(vec![])]);
    insta::assert_snapshot!(seen[0], @r#"cursor: SELECT (CASE WHEN ("Order"."Total" > $1::numeric) THEN $2::text ELSE $3::text END) COLLATE "odeon_text", max((CASE WHEN ("Order"."Total" > $4::numeric) THEN $5::text ELSE $6::text END) COLLATE "odeon_text") FROM "Order" GROUP BY (CASE WHEN ("Order"."Total" > $1::numeric) THEN $2::text ELSE $3::text END) COLLATE "odeon_text" ORDER BY (CASE WHEN ("Order"."Total" > $1::numeric) THEN $2::text ELSE $3::text END) COLLATE "odeon_text" DESC, (CASE WHEN ("Order"."Total" > $1::numeric) THEN $2::text ELSE $3::text END) COLLATE "odeon_text" [decimal("1"), text("a"), text("A"), decimal("1"), text("b"), text("B")]"#);
}
