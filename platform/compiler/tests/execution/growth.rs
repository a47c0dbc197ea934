//! What is fast is right as well: texts that grow in place stay values, integers notice every overflow, and loops
//! walk lists that their bodies change.

use crate::harness::{App, Reply, sources};

/// The answer of a method with this flow, for `[1, 2, 3]`.
fn ran(flow: &str) -> Reply {
    let indented = flow.lines().map(|line| format!("          {line}\n")).collect::<String>();
    let app = App::start(&sources(&format!(
        r#"
app: G
actions:
  Longer:
    function: true
    inputs: {{ In: Text }}
    outputs: {{ Out: Text }}
    flow:
      - assign: {{ Out: In }}
      - assign: {{ Out: 'Out + "!"' }}
      - assign: {{ In: 'In + "?"' }}
rest:
  A:
    methods:
      Run:
        verb: POST
        inputs: {{ Numbers: Integer List }}
        outputs: {{ Result: Text }}
        locals: {{ A: Text, B: Text, C: Text, Texts: Text List, I: Integer, L: Long Integer, Kept: Text }}
        flow:
{indented}"#
    )));
    app.send("POST", "/G/rest/A/Run", "[1,2,3]")
}

#[track_caller]
fn gives(flow: &str, expected: &str) {
    let reply = ran(flow);
    assert_eq!((reply.status, reply.body.as_str()), (200, format!("{expected:?}").as_str()));
}

#[test]
fn a_text_that_grows_is_seen_by_nobody_else() {
    gives(
        r#"- assign: { A: 'A + "a"', B: A }
- assign: { A: 'A + "b"', C: A }
- assign: { B: 'B + "c"', A: 'A + "d"' }
- assign: { Result: 'A + " " + B + " " + C' }"#,
        "abd ac ab",
    );
    gives(
        r#"- for_each: Numbers
  as: N
  do:
    - assign: { A: 'A + N' }
    - list_append: Texts
      element: A
- for_each: Texts
  as: T
  do:
    - assign: { Result: 'Result + T + ";"' }"#,
        "1;12;123;",
    );
    gives(
        r#"- assign: { A: 'A + "x"' }
- assign: { B: 'Longer(A) + Longer(A)' }
- assign: { A: 'A + "y" + A + "z" + A' }
- assign: { Result: 'A + " " + B' }"#,
        "xyxzx x!x!",
    );
    gives(
        r#"- assign: { A: 'A + "x"' }
- assign: { B: 'A + ""' }
- assign: { A: 'A + "y"', C: 'If(True, B, A)' }
- assign: { B: 'B + "z"', A: '"" + A' }
- assign: { A: 'A + 1 + 2 + "" + B + -2147483648' }
- assign: { Result: 'A + " " + B + " " + C' }"#,
        "xy12xz-2147483648 xz x",
    );
}

#[test]
fn a_part_that_raises_leaves_the_text_as_it_was() {
    gives(
        r#"- assign: { A: 'A + "kept"' }
- try:
    - assign: { A: 'A + "lost" + Numbers[7]' }
  handlers:
    - exception: All
      do:
        - assign: { A: 'A + "."' }
- assign: { Result: A }"#,
        "kept.",
    );
}

#[test]
fn a_text_grows_over_what_its_loop_frees() {
    // Each round leaves more behind than a loop keeps; the instance has 12 MB.
    gives(
        r#"- assign: { B: 'FormatText("", 50000, 60000, True, "b")' }
- for_each: Numbers
  as: N
  do:
    - for_each: Numbers
      as: M
      do:
        - for_each: Numbers
          as: O
          do:
            - assign: { C: ToUpper(B), A: A + ToLower(C) + N, Kept: 'Kept + M + ","' }
- assign: { Result: 'Length(A) + Substr(A, 50000, 1) + Substr(A, 50001 * 27 - 1, 1) + Kept' }"#,
        "1350027131,1,1,2,2,2,3,3,3,1,1,1,2,2,2,3,3,3,1,1,1,2,2,2,3,3,3,",
    );
}

#[test]
fn integers_notice_what_does_not_fit() {
    for (expression, expected) in [
        ("2147483646 + I", Some("2147483647")),
        ("2147483647 + I", None),
        ("-2147483647 - I", Some("-2147483648")),
        ("0 - 2147483647 - I - I", None),
        ("(46340 * I) * 46340", Some("2147395600")),
        ("(46341 * I) * 46341", None),
        ("-(0 - 2147483647 - I)", None),
        ("(65536 * I) * -32768", Some("-2147483648")),
    ] {
        let reply =
            ran(&format!("- assign: {{ I: I + 1 }}\n- assign: {{ Result: '\"\" + ({expression})' }}"));
        match expected {
            Some(expected) => assert_eq!(reply.body, format!("{expected:?}"), "{expression}"),
            None => assert!(reply.body.contains("Integer overflow"), "{expression}: {}", reply.body),
        }
    }
    for (expression, expected) in [
        ("9223372036854775806 + L", Some("9223372036854775807")),
        ("9223372036854775807 + L", None),
        ("0 - 9223372036854775807 - L", Some("-9223372036854775808")),
        ("0 - 9223372036854775807 - L - L", None),
        ("(3037000499 * L) * 3037000499", Some("9223372030926249001")),
        ("(3037000500 * L) * 3037000500", None),
        ("-(0 - 9223372036854775807 - L)", None),
    ] {
        let reply =
            ran(&format!("- assign: {{ L: L + 1 }}\n- assign: {{ Result: '\"\" + ({expression})' }}"));
        match expected {
            Some(expected) => assert_eq!(reply.body, format!("{expected:?}"), "{expression}"),
            None => assert!(reply.body.contains("Long Integer overflow"), "{expression}: {}", reply.body),
        }
    }
}

#[test]
fn a_loop_follows_a_list_that_its_body_changes() {
    gives(
        r#"- for_each: Numbers
  as: N
  do:
    - if: N < 3
      then:
        - list_append: Numbers
          element: N + 10
    - assign: { Result: 'Result + N + ";"' }
- assign: { Result: 'Result + Numbers.Length' }"#,
        "1;2;3;5",
    );
    let reply = ran("- for_each: Numbers\n  as: N\n  do:\n    - list_remove: Numbers\n      at: 0");
    assert_eq!((reply.status, reply.body.contains("Index 2 is out of range")), (500, true), "{}", reply.body);
}
