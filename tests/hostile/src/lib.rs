//! Tools to attack a running installation with.
