//! Compiles an OML model to a component.
