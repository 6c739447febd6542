//! Several spans sent as one: the list that sendmsg reads.
//!
//! Owns: the loans of the spans and the kernel's description of them. It must stay in its box until the kernel is done:
//! the header points to the list beside it.
//!
//! ```text
//!   Box<Gather>   header ──▶ vectors[0] ──▶ arena: a run of encoded bytes
//!                            vectors[1] ──▶ arena: record bytes, lent to a disk write at the same time
//!                            vectors[2] ──▶ arena: the next run ...
//! ```

use crate::arena::{Arena, Loan};
use crate::operation::GATHER_SPANS_MAX;

/// See the file's header.
pub(crate) struct Gather {
    loans: Vec<Loan>,
    vectors: [libc::iovec; GATHER_SPANS_MAX],
    header: libc::msghdr,
}

impl Gather {
    pub(crate) fn new(arena: &Arena, loans: Vec<Loan>) -> Box<Gather> {
        assert!(
            (1..=GATHER_SPANS_MAX).contains(&loans.len()),
            "a gather of {} spans, allowed are 1 to {GATHER_SPANS_MAX}",
            loans.len()
        );
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut vectors = [nothing; GATHER_SPANS_MAX];
        for (vector, loan) in vectors.iter_mut().zip(&loans) {
            let span = loan.span();
            *vector = libc::iovec { iov_base: arena.address(span).cast(), iov_len: span.length as usize };
        }
        // SAFETY: a message header of zeroes is the empty message: no address, no list, no control data.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let count = loans.len();
        let mut gather = Box::new(Gather { loans, vectors, header });
        gather.header.msg_iov = gather.vectors.as_mut_ptr();
        gather.header.msg_iovlen = count;
        gather
    }

    /// What sendmsg takes; valid as long as the box.
    pub(crate) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    pub(crate) fn into_loans(self) -> Vec<Loan> {
        self.loans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Access;
    use crate::operation::Span;

    #[test]
    fn the_header_describes_the_spans_in_their_order() {
        let mut arena = Arena::new(1).unwrap();
        let spans = [Span { start: 4096, length: 10 }, Span { start: 0, length: 3 }];
        let loans = spans.map(|span| arena.lend(span, Access::KernelReads)).into_iter().collect();
        let gather = Gather::new(&arena, loans);
        assert_eq!(gather.header.msg_iovlen, 2);
        assert_eq!(gather.header.msg_iov.cast_const(), gather.vectors.as_ptr());
        let described = gather.vectors.map(|vector| (vector.iov_base.cast::<u8>(), vector.iov_len));
        assert_eq!(described[0], (arena.address(spans[0]), 10));
        assert_eq!(described[1], (arena.address(spans[1]), 3));
        gather.into_loans().into_iter().for_each(|loan| arena.give_back(loan));
        assert_eq!(arena.loans(), 0);
    }

    #[test]
    #[should_panic(expected = "a gather of 0 spans")]
    fn a_gather_of_nothing_asserts() {
        Gather::new(&Arena::new(1).unwrap(), Vec::new());
    }
}
