//! What bytes are: Kafka record batches, segment files and checkpoints, without I/O.
