//! One command per module.

pub(crate) mod apps;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod logs;
pub(crate) mod new;
pub(crate) mod organization;
pub(crate) mod publish;
pub(crate) mod reference;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod timers;
