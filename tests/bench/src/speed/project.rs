//! A project of any size: what a large app looks like, made by rule.
//!
//! At size 1 it has 100 entities, 500 actions of 20 nodes and 200 REST methods. Invariant: it compiles without a
//! problem, and every part of it grows with the size.

use std::fmt::Write as _;

/// Entities at size 1.
const ENTITIES: usize = 100;
/// Actions at size 1.
const ACTIONS: usize = 500;
/// REST methods at size 1.
const METHODS: usize = 200;
/// Of each kind in one file.
const IN_A_FILE: usize = 25;

/// The files of a project that is `tenths` tenths of size 1.
pub(crate) fn files(tenths: usize) -> Vec<(String, String)> {
    let of = |count: usize| count * tenths / 10;
    let (entities, actions, methods) = (of(ENTITIES), of(ACTIONS), of(METHODS));
    let mut files = vec![("app.yaml".to_owned(), "app: Large\n".to_owned())];
    let mut many = |kind: &str, head: &str, count: usize, one: &dyn Fn(usize) -> String| {
        for first in (0..count).step_by(IN_A_FILE) {
            let parts = (first..count.min(first + IN_A_FILE)).map(one);
            files.push((format!("{kind}-{first:05}.yaml"), head.to_owned() + &parts.collect::<String>()));
        }
    };
    many("entities", "entities:\n", entities, &|at| entity(at, entities));
    many("actions", "actions:\n", actions, &|at| action(at, entities));
    many("rest", "rest:\n", methods.div_ceil(IN_A_FILE), &|at| {
        let mut api = format!("  Api{at}:\n    methods:\n");
        for method in at * IN_A_FILE..methods.min((at + 1) * IN_A_FILE) {
            api.push_str(&self::method(method, entities, actions));
        }
        api
    });
    files
}

/// Ten attributes of all kinds; each entity refers to the one before it.
fn entity(at: usize, count: usize) -> String {
    let other = (at + count - 1) % count;
    format!(
        "  Entity{at}:
    attributes:
      Name: {{ type: Text, length: 120, mandatory: true }}
      Code: {{ type: Text, length: 20 }}
      Quantity: Integer
      Weight: Decimal
      Price: Currency
      Total: Currency
      IsOpen: {{ type: Boolean, default: true }}
      OpenedOn: Date
      ChangedAt: Date Time
      Other: Entity{other} Identifier
    indexes:
      ByCode{at}: {{ attributes: [Code] }}
"
    )
}

/// 20 nodes, those inside others counted.
fn action(at: usize, entities: usize) -> String {
    let entity = at % entities;
    let mut text = format!(
        "  Action{at}:
    inputs:
      Id: Entity{entity} Identifier
      Least: {{ type: Currency, default: {at} }}
    outputs:
      Total: Currency
      Said: Text
    locals:
      Count: Integer
      Row: Entity{entity}
    flow:
"
    );
    // 1 to 13: a query, a loop with conditions, a new row.
    write!(
        text,
        "      - list: Entity{entity}
        name: Found
        where: Entity{entity}.Price >= Least and (Entity{entity}.Code = \"C{at}\" or Entity{entity}.IsOpen)
        sort: [OpenedOn desc]
        max: 100
      - for_each: Found.List
        as: Each
        do:
          - if: Each.IsOpen
            then:
              - assign: {{ Total: Total + Each.Price * Each.Quantity, Count: Count + 1 }}
            else:
              - assign: {{ Total: Total - Each.Weight }}
          - assign: {{ Said: 'Said + Each.Name + \", \"' }}
      - if: Count = 0
        then:
          - raise: User
            message: '\"Nothing of {at} costs \" + Least'
      - assign:
          Row.Name: '\"Number \" + Count + \" of {at}\"'
          Row.Total: Total
          Row.ChangedAt: CurrDateTime()
      - create: Entity{entity}
        name: New
        record: Row
      - switch:
          - when: Total > 1000
            do:
              - assign: {{ Said: '\"much\"' }}
          - when: Total > 100
            do:
              - assign: {{ Said: '\"some\"' }}
        else:
          - assign: {{ Said: ToUpper(Said) }}
"
    )
    .expect("a String takes all");
    // 14 to 20: an update that may fail, and a call of another action.
    let called = at.checked_sub(entities);
    let call = match called {
        // Of the same entity, so that the identifier fits.
        Some(called) => {
            format!("call: Action{called}\n            name: Before\n            with: {{ Id: New.Id }}")
        }
        None => format!("log: '\"{at} is a first one\"'"),
    };
    write!(
        text,
        "      - try:
          - get: Entity{entity}
            name: Got
            id: Id
          - assign: {{ Row: Got.Record, Row.Quantity: Got.Record.Quantity + Count }}
          - update: Entity{entity}
            record: Row
          - {call}
        handlers:
          - exception: Database
            do:
              - log: '\"Action {at}: \" + Trim(ExceptionMessage)'
"
    )
    .expect("a String takes all");
    text
}

fn method(at: usize, entities: usize, actions: usize) -> String {
    // Those that the others are called by: everything is reached.
    let action = actions - entities + at % entities;
    let entity = action % entities;
    format!(
        "      Method{at}:
        verb: POST
        path: /Method{at}/{{Id}}
        inputs:
          Id: Entity{entity} Identifier
          Row: Entity{entity}
        outputs:
          Result: Entity{entity}
        flow:
          - call: Action{action}
            name: Done
            with: {{ Id: Id, Least: Row.Price }}
          - assign: {{ Result: Row, Result.Total: Done.Total, Result.Name: Done.Said }}
"
    )
}
