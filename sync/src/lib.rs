//! What to do next: the replication machines of a mirror, without I/O and without a clock.
