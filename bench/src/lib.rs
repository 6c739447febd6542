//! Measurements: Criterion benches and the end-to-end harness.
