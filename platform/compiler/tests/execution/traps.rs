//! Traps name the action and the node they came from, as a host reads it.
//!
//! The reader is the host's own source. A count of looks at the host's clock stands for its time.

use crate::harness::{App, build, sources};

#[allow(unreachable_pub, reason = "the source of the host is shared as it is")]
#[path = "../../../../host/engine/src/origin.rs"]
mod origin;

const MODEL: &str = r#"
app: T
actions:
  Grow:
    inputs: { Text: { type: Text, mandatory: true } }
    outputs: { Out: Text }
    flow:
      - if: Length(Text) >= 0
        then:
          - assign: { Out: Text + Text + Text + Text + Text + Text + Text + Text + Text + Text + Text + Text }
            name: Double
          - assign: { Out: Out + Out + Out + Out + Out + Out + Out + Out + Out + Out + Out + Out }
            name: Again
  Deep:
    inputs: { N: Integer, Wide: Text }
    outputs: { Out: Integer }
    flow:
      - if: N > 0
        name: IsMore
        then:
          - call: Deep
            name: Deeper
            with: { N: N - 1, Wide: Wide }
          - assign: { Out: Deeper.Out + 1 }
rest:
  A:
    methods:
      Bomb:
        verb: POST
        flow:
          - call: Grow
            with: { Text: 'FormatText("x", 100000, 100000, True, "y")' }
      Loop:
        inputs: { Numbers: Integer List }
        verb: POST
        locals: { I: Integer }
        flow:
          - assign: { I: 1 }
          - for_each: Numbers
            name: Outer
            as: N
            do:
              - for_each: Numbers # inner
                name: Inner
                as: M
                do:
                  - switch:
                      - when: M > 1
                        do: [ { assign: { I: M }, name: Follow } ]
          - assign: { I: I + 1 }
      Deep:
        verb: POST
        flow:
          - call: Deep
            name: First
            with: { N: 3 }
"#;

/// What runs when a method traps.
#[track_caller]
fn origin(method: &str, body: &str, memory_bytes: usize, ticks: Option<u64>) -> origin::Origin {
    let app = App::limited(&build(&sources(MODEL)), memory_bytes, ticks).unwrap();
    let trap = app.attempt("POST", &format!("/T/rest/A/{method}"), body).expect_err("it traps");
    origin::of(&trap).unwrap_or_else(|| panic!("no origin: {trap:?}"))
}

fn numbers(count: usize) -> String {
    format!("[{}]", vec!["2"; count].join(","))
}

/// The line of the model that has a text, as an origin names it.
fn place(of: &str) -> String {
    let line = MODEL.lines().position(|line| line.contains(of)).expect("the model has it");
    format!("app.yaml:{}", line + 1)
}

#[test]
fn a_lack_of_memory_names_the_node_that_asked_for_more() {
    let origin = origin("Bomb", "", 8 << 20, None);
    assert_eq!((origin.action.as_str(), origin.node.as_str()), ("Grow", "Again"));
    assert_eq!(origin.place, place("Out + Out"));
}

#[test]
fn a_deadline_names_a_node_of_the_loop_that_ran() {
    let origin = origin("Loop", &numbers(1_000), 64 << 20, Some(100_000));
    assert_eq!(origin.action, "A.Loop");
    let nodes = [("Inner", "for_each: Numbers # inner"), ("Switch", "switch:"), ("Follow", "name: Follow")];
    let known = nodes.iter().any(|(node, line)| origin.node == *node && origin.place == place(line));
    assert!(known, "{origin:?}");
}

#[test]
fn wherever_an_app_runs_dry_its_node_is_known() {
    let mut app = App::limited(&build(&sources(MODEL)), 64 << 20, Some(0)).unwrap();
    let mut seen: Vec<String> = Vec::new();
    for ticks in 0.. {
        app.ticks = Some(ticks);
        let Err(trap) = app.attempt("POST", "/T/rest/A/Deep", "") else { break };
        let Some(origin) = origin::of(&trap) else { continue };
        let shown = format!("{}/{}", origin.action, origin.node);
        if !seen.contains(&shown) {
            seen.push(shown);
        }
    }
    // A method that is being entered has neither a node yet nor one that called it.
    seen.sort();
    assert_eq!(seen, ["A.Deep/", "A.Deep/First", "Deep/Deeper"]);
}
