//! What the error code of one partition in an AlterPartition answer means for its hand-over.
//!
//! | code | the controller says | what follows |
//! | --- | --- | --- |
//! | 0, 108 | done; with 108 the leadership went | the metadata log is waited for |
//! | 95, 74, 42 | an epoch is old, or we lead no more | the metadata log tells what is so, then again |
//! | 41, 107 | not read that far, or a member is fenced | a pause, then again with who is alive |
//!
//! Any other code is told and tried again: after the first partition went there is no way back.

/// See the file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    /// What was sent is out of date.
    LookAgain,
    /// Nothing new to look at is expected at once.
    Pause,
}

pub(super) const fn judge(code: i16) -> Verdict {
    match code {
        0 | 108 => Verdict::Accepted,
        95 | 74 | 42 => Verdict::LookAgain,
        _ => Verdict::Pause,
    }
}
