//! The one HTTP server of this project: hosts, routers and their admin listeners take requests through it.
//!
//! Map: [`limits`] says how much anybody may take, [`server`] accepts and drives connections, [`workers`] are threads for them, [`watch`] sees what a
//! connection does with its time and bytes, [`around`] lets whoever wants to time what is polled, [`turns`] lets ready
//! connections answer before any of them sends, [`body`] wraps bodies on their way in and out, [`peers`] counts connections
//! by address, [`problem`] is the shape of every refusal, [`requests`] counts what was answered, [`descriptors`] are what connections are made of. [`client`] is
//! how its clients among us ask hosts, and [`connect`] how they reach them.
//!
//! What must stay true: whatever a client sends, or does not send, or does not read, costs a bounded amount of memory for
//! a bounded time; nothing here knows apps but by name.

mod around;
pub mod body;
pub mod client;
pub mod connect;
pub mod descriptors;
pub mod limits;
mod peers;
pub mod problem;
pub mod requests;
pub mod server;
mod turns;
mod watch;
mod workers;

pub use around::Around;
pub use body::{ReceiveError, Received, Sending};
pub use limits::Limits;
pub use problem::problem;
pub use server::{Stop, serve, serve_connection, serve_each, serve_on};
pub use watch::Socket;
pub use workers::Workers;
