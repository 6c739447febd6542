//! Threads, configuration, the shard loop and the command line of twinlog.
