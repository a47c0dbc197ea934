//! The capabilities a host gives to guests.
