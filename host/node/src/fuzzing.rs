//! What fuzz targets try of this host: its own functions, where they meet the bytes of others. For them only; nothing here
//! is kept the same.

pub use crate::desired::{Foreign, Reader};
pub use crate::native::{Absent, Mapped, NativeFiles};
pub use crate::state::FOLDER_NATIVE;
pub use crate::timers::Planned;
