//! Pure planning: which host serves which app.
