//! Service actions: calling those of other apps of the stage.
//!
//! Inputs and outputs travel as JSON records, so that what one side does not know is passed over and what is missing
//! has its default. The host finds the other app. Its User and Security exceptions come back as what they were.
//! Invariant: the outputs have their defaults when something was raised.

use alloc::format;
use alloc::string::{String, ToString};

use crate::exceptions::{COMMUNICATION, KIND_HEADER, raise, raise_as, raise_of_other};
use crate::http::USER_HEADER;
use crate::json;
use crate::memory::{rd32, rt_alloc, text, wr64};
use crate::outgoing::{Sent, exchange};
use crate::roles;
use crate::values::rt_new_record;

/// Seconds that a call may take, as in ODC.
const CALL_S_MAX: u64 = 100;
/// The other app was not asked: nobody serves it, or it is too busy. An action that ran says how it ended, whatever the
/// status, so that nobody tries again what may have been done.
const NOT_ASKED: [u16; 4] = [421, 502, 503, 504];

/// Calls a service action with a frame of inputs, and gives a record of its outputs.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_call_service(row: u32, inputs: u32) -> u32 {
    let (name, url) = (text(rd32(row)), text(rd32(row + 4)));
    let (input_desc, output_desc) = (rd32(row + 8), rd32(row + 12));
    let outputs = rt_new_record(output_desc);
    let mut body = String::new();
    // A frame is laid out as a record is.
    json::write(&mut body, i64::from(inputs), input_desc, true);
    let mut headers = alloc::vec![("content-type".to_string(), "application/json".to_string())];
    let user = roles::user();
    if !user.is_empty() {
        headers.push((USER_HEADER.to_string(), user));
    }
    let sent = Sent { verb: 1, url, headers: &headers, body: body.as_bytes(), timeout_s: CALL_S_MAX };
    let received = match exchange(&sent) {
        Ok(received) => received,
        Err(why) => {
            raise_as(COMMUNICATION, 502, &format!("{name}: no answer: {why}"));
            return outputs;
        }
    };
    if received.status >= 400 {
        let said = String::from_utf8_lossy(&received.body);
        let status = u32::from(received.status);
        match received.header(KIND_HEADER).and_then(|kind| kind.parse().ok()) {
            Some(kind) => raise_of_other(kind, status, name, &said),
            None if NOT_ASKED.contains(&received.status) => {
                raise_as(COMMUNICATION, 502, &format!("{name}: no answer: {said}"));
            }
            None => raise_of_other(0, status, name, &said),
        }
    } else if !received.body.is_empty() {
        let slot = rt_alloc(8);
        wr64(slot, i64::from(outputs));
        let mut problems = alloc::vec::Vec::new();
        json::read(&received.body, "The outputs", slot, output_desc, &mut problems);
        if !problems.is_empty() {
            raise(500, &format!("{name}: {}", problems.join("; ")));
        }
    }
    outputs
}
