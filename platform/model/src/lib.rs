//! The OML types, their JSON Schema, and spans.
