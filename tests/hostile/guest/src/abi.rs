//! Handles, pointers and texts that no binding would pass: the host's functions, called below them.
//!
//! - `well`: makes, uses and drops a handle as one should.
//! - `dropped`, `twice`: a handle that was given up, used and given up again.
//! - `other`: a handle of another type.
//! - `guessed/<handle>`: a number that nobody gave.
//! - `parent`: gives up what something else still depends on.
//! - `pointer`, `length`: a text outside of memory.
//! - `text/<hex>`: bytes that are no UTF-8, as a text.

use wasip2::http::types::{Fields, OutgoingResponse, ResponseOutparam};

use crate::{bytes, respond};

#[link(wasm_import_module = "wasi:http/types@0.2.12")]
unsafe extern "C" {
    #[link_name = "[constructor]fields"]
    fn make_fields() -> i32;
    #[link_name = "[resource-drop]fields"]
    fn drop_fields(fields: i32);
    #[link_name = "[method]fields.has"]
    fn has(fields: i32, name: *mut u8, length: usize) -> i32;
}

#[link(wasm_import_module = "wasi:clocks/monotonic-clock@0.2.12")]
unsafe extern "C" {
    #[link_name = "subscribe-duration"]
    fn subscribe(nanoseconds: i64) -> i32;
}

pub(crate) fn run(attack: &[&str], out: ResponseOutparam) {
    let mut name = *b"x-a";
    // SAFETY: the host must not believe any of it. It touches this memory within its bounds, or ends the guest.
    let said = unsafe {
        let fields = make_fields();
        match attack {
            ["well"] => {
                let has = has(fields, name.as_mut_ptr(), name.len());
                drop_fields(fields);
                format!("has {has}\n")
            }
            ["dropped"] => {
                drop_fields(fields);
                format!("has {}\n", has(fields, name.as_mut_ptr(), name.len()))
            }
            ["twice"] => {
                drop_fields(fields);
                drop_fields(fields);
                "dropped twice\n".to_owned()
            }
            ["other"] => {
                drop_fields(subscribe(0));
                "dropped a pollable as fields\n".to_owned()
            }
            ["guessed", handle] => {
                let handle = handle.parse::<i64>().expect("a number");
                #[expect(clippy::cast_possible_truncation, reason = "the bits are what counts")]
                let has = has(handle as i32, name.as_mut_ptr(), name.len());
                format!("has {has}\n")
            }
            ["parent"] => {
                let response = OutgoingResponse::new(Fields::new());
                let body = response.body().expect("it is taken once");
                let stream = body.write().expect("it is taken once");
                drop(body); // before its stream
                drop(stream);
                "dropped\n".to_owned()
            }
            ["pointer"] => format!("has {}\n", has(fields, std::ptr::without_provenance_mut(0xffff_fff0), 8)),
            ["length"] => format!("has {}\n", has(fields, name.as_mut_ptr(), 0xffff_ffff)),
            ["text", hex] => {
                let mut bytes = bytes(hex);
                format!("has {}\n", has(fields, bytes.as_mut_ptr(), bytes.len()))
            }
            _ => "well, dropped, twice, other, guessed, parent, pointer, length, text\n".to_owned(),
        }
    };
    respond(out, &said);
}
