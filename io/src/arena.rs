//! The one piece of memory that sockets and files of a shard work in.
//!
//! Owns: an anonymous mapping, and the list of the parts that are lent to the kernel. It must never hand out a
//! reference to bytes that the kernel may be writing, nor unmap memory that an operation still points to.
//!
//! ```text
//!   0                    4 KiB aligned, 2 MiB pages where the kernel has them                     bytes()
//!   |------ ours ------|== lent: kernel writes ==|------ ours ------|-- lent: kernel reads --|-- ours --|
//!        bytes            neither bytes nor           bytes              bytes only             bytes
//!        bytes_mut        bytes_mut (asserts)         bytes_mut                                 bytes_mut
//! ```
//!
//! Invariants: a lent span overlaps no span that the kernel writes; a span that the kernel writes overlaps no lent
//! span at all. A [`Loan`] cannot be copied or made elsewhere, so only who lent a span can give it back. The mapping
//! is reference counted: an engine keeps its own count, so the memory outlives its operations even if the
//! `Arena` value is swapped away, and an engine that cannot drain leaks that count on purpose.

use crate::operation::{Span, SystemError};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::sync::Arc;

/// Every file system we know is content with direct I/O aligned to this.
pub const PAGE_BYTES: u64 = 4096;

/// Size of a huge page; arenas are whole numbers of them.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// The mapped memory itself; unmapped when the last count goes.
pub(crate) struct Mapping {
    mapped: *mut c_void,
    mapped_bytes: usize,
    base: *mut u8,
    bytes: u64,
}

// SAFETY: the mapping is plain memory with no tie to a thread; who may touch which byte is the arena's list of loans.
unsafe impl Send for Mapping {}
// SAFETY: a shared `Mapping` gives out addresses only; every access goes through `Arena` or a loan.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `Arena::new`, and the last count is gone, so nobody points into it.
        let unmapped = unsafe { munmap(self.mapped, self.mapped_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// How the kernel uses a lent span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Receive, Read: nobody else may look.
    KernelWrites,
    /// Send, Write: everybody may look, nobody may change.
    KernelReads,
}

/// The right to give one lent span back.
#[derive(Debug)]
#[must_use = "a loan that is dropped locks its span for ever"]
pub struct Loan {
    mapping: usize,
    number: u64,
    span: Span,
    access: Access,
}

impl Loan {
    pub fn span(&self) -> Span {
        self.span
    }
}

struct Lent {
    number: u64,
    span: Span,
}

/// See the file's header.
pub struct Arena {
    mapping: Arc<Mapping>,
    /// Short, unsorted: as long as the operations in flight.
    kernel_writes: Vec<Lent>,
    kernel_reads: Vec<Lent>,
    loans_made: u64,
}

impl Arena {
    /// Maps `bytes` of zeroed memory, rounded up to whole huge pages.
    pub fn new(bytes: u64) -> Result<Arena, SystemError> {
        let bytes =
            bytes.max(1).checked_next_multiple_of(HUGE_PAGE_BYTES).ok_or(SystemError(libc::ENOMEM))?;
        // One huge page more than asked, so that the base can be aligned on every kernel; the rest stays untouched.
        let mapped_bytes = usize::try_from(bytes + HUGE_PAGE_BYTES).map_err(|_| SystemError(libc::ENOMEM))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_bytes, protection, MapFlags::PRIVATE) }?;
        let padding = mapped.cast::<u8>().align_offset(HUGE_PAGE_BYTES as usize);
        assert!(padding < HUGE_PAGE_BYTES as usize);
        let base = mapped.cast::<u8>().wrapping_add(padding);
        // Fewer TLB misses on every copy. A kernel without huge pages refuses, which changes nothing but speed.
        // SAFETY: the advice covers the fresh mapping only and changes no content.
        let _ = unsafe { madvise(base.cast(), bytes as usize, Advice::LinuxHugepage) };
        // Records of others have no place in a core file, where one is allowed; and it would have gigabytes.
        // SAFETY: the advice covers the fresh mapping only and changes no content.
        unsafe { madvise(base.cast(), bytes as usize, Advice::LinuxDontDump) }?;
        Ok(Arena {
            mapping: Arc::new(Mapping { mapped, mapped_bytes, base, bytes }),
            kernel_writes: Vec::with_capacity(64),
            kernel_reads: Vec::with_capacity(64),
            loans_made: 0,
        })
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.mapping.bytes
    }

    /// The bytes of a span that the kernel is not writing.
    pub fn bytes(&self, span: Span) -> &[u8] {
        self.assert_inside(span);
        assert_free(&self.kernel_writes, span, "the kernel writes");
        // SAFETY: in bounds of the mapping that `self` keeps; no `&mut` lives beside `&self`, no loan writes to it.
        unsafe { std::slice::from_raw_parts(self.address(span), span.length as usize) }
    }

    /// The bytes of a span that is not lent at all.
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        self.assert_inside(span);
        assert_free(&self.kernel_writes, span, "the kernel writes");
        assert_free(&self.kernel_reads, span, "the kernel reads");
        // SAFETY: in bounds of the mapping that `self` keeps; `&mut self` is the only way in, and no loan overlaps it.
        unsafe { std::slice::from_raw_parts_mut(self.address(span), span.length as usize) }
    }

    /// Two spans at once, for a copy inside the arena: source, then destination.
    pub fn copy_within(&mut self, from: Span, to: u64) {
        let destination = Span { start: to, length: from.length };
        self.bytes(from);
        self.bytes_mut(destination);
        // SAFETY: both ranges were just checked to be in bounds and ours; `copy` allows them to overlap.
        unsafe { std::ptr::copy(self.address(from), self.address(destination), from.length as usize) }
    }

    /// A span to read from and others to write to at the same moment; none of them may touch another.
    pub fn apart<const WRITTEN: usize>(
        &mut self,
        read: Span,
        written: [Span; WRITTEN],
    ) -> (&[u8], [&mut [u8]; WRITTEN]) {
        self.bytes(read);
        for (index, span) in written.iter().enumerate() {
            self.bytes_mut(*span);
            let touched = written[..index].iter().chain([&read]).find(|other| other.overlaps(*span));
            assert!(touched.is_none(), "{span:?} is written while {touched:?} is in use");
        }
        // SAFETY: in bounds, ours, and apart from each other as just checked; the borrow of `self` keeps all others out.
        let write =
            |span: Span| unsafe { std::slice::from_raw_parts_mut(self.address(span), span.length as usize) };
        // SAFETY: the same.
        let read = unsafe { std::slice::from_raw_parts(self.address(read), read.length as usize) };
        (read, written.map(write))
    }

    /// Marks a span as the kernel's. Only engines call it.
    pub fn lend(&mut self, span: Span, access: Access) -> Loan {
        self.assert_inside(span);
        assert_free(&self.kernel_writes, span, "the kernel writes");
        self.loans_made += 1;
        let lent = Lent { number: self.loans_made, span };
        match access {
            Access::KernelWrites => {
                assert_free(&self.kernel_reads, span, "the kernel reads");
                self.kernel_writes.push(lent);
            }
            Access::KernelReads => self.kernel_reads.push(lent),
        }
        Loan { mapping: self.mapping.base as usize, number: self.loans_made, span, access }
    }

    /// Ends a loan.
    pub fn give_back(&mut self, loan: Loan) {
        assert_eq!(loan.mapping, self.mapping.base as usize, "a loan of another arena");
        let list = match loan.access {
            Access::KernelWrites => &mut self.kernel_writes,
            Access::KernelReads => &mut self.kernel_reads,
        };
        let index = list.iter().position(|lent| lent.number == loan.number);
        list.swap_remove(index.expect("a loan stays listed until it is given back"));
    }

    /// Spans lent at this moment.
    pub fn loans(&self) -> usize {
        self.kernel_writes.len() + self.kernel_reads.len()
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Where a span starts in memory. A pointer, not a reference: using it is the engine's proof to give.
    pub(crate) fn address(&self, span: Span) -> *mut u8 {
        self.mapping.base.wrapping_add(span.start as usize)
    }

    fn assert_inside(&self, span: Span) {
        let end = span.start.checked_add(u64::from(span.length));
        assert!(
            end.is_some_and(|end| end <= self.mapping.bytes),
            "span {span:?} is outside the arena of {} bytes",
            self.mapping.bytes
        );
    }
}

fn assert_free(list: &[Lent], span: Span, who: &str) {
    if let Some(lent) = list.iter().find(|lent| lent.span.overlaps(span)) {
        panic!("{span:?} overlaps {:?}, which {who}", lent.span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn span(start: u64, length: u32) -> Span {
        Span { start, length }
    }

    #[test]
    fn an_arena_is_zeroed_aligned_and_rounded_to_huge_pages() {
        let arena = Arena::new(1).unwrap();
        assert_eq!(arena.size_bytes(), HUGE_PAGE_BYTES);
        assert_eq!(arena.address(span(0, 1)) as u64 % HUGE_PAGE_BYTES, 0);
        assert!(arena.bytes(span(0, HUGE_PAGE_BYTES as u32)).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn bytes_survive_a_loan_that_the_kernel_only_reads() {
        let mut arena = Arena::new(1).unwrap();
        arena.bytes_mut(span(4, 3)).copy_from_slice(b"abc");
        let loan = arena.lend(span(0, 8), Access::KernelReads);
        let second = arena.lend(span(4, 8), Access::KernelReads);
        assert_eq!(arena.bytes(span(4, 3)), b"abc");
        assert!(catch_unwind(AssertUnwindSafe(|| arena.bytes_mut(span(7, 1)).len())).is_err());
        arena.give_back(loan);
        arena.give_back(second);
        arena.copy_within(span(4, 3), 5);
        assert_eq!(arena.bytes(span(4, 4)), b"aabc");
        assert_eq!(arena.loans(), 0);
    }

    #[test]
    fn nobody_looks_at_or_lends_bytes_that_the_kernel_writes() {
        let mut arena = Arena::new(1).unwrap();
        let loan = arena.lend(span(100, 100), Access::KernelWrites);
        assert!(catch_unwind(AssertUnwindSafe(|| arena.bytes(span(199, 1)).len())).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| arena.bytes_mut(span(0, 101)).len())).is_err());
        assert!(
            catch_unwind(AssertUnwindSafe(|| drop(arena.lend(span(150, 1), Access::KernelReads)))).is_err()
        );
        assert_eq!(arena.bytes(span(0, 100)).len(), 100);
        assert_eq!(arena.bytes_mut(span(200, 100)).len(), 100);
        arena.give_back(loan);
        assert_eq!(arena.bytes(span(100, 100)).len(), 100);
    }

    #[test]
    fn spans_that_are_used_together_are_apart() {
        let mut arena = Arena::new(1).unwrap();
        arena.bytes_mut(span(0, 4)).copy_from_slice(b"abcd");
        let loan = arena.lend(span(0, 4), Access::KernelReads);
        let (read, [first, second]) = arena.apart(span(0, 4), [span(4, 4), span(8, 2)]);
        first.copy_from_slice(read);
        second.copy_from_slice(&read[2..]);
        assert_eq!(arena.bytes(span(4, 6)), b"abcdcd");
        for bad in [[span(3, 2), span(8, 1)], [span(4, 4), span(7, 2)]] {
            assert!(catch_unwind(AssertUnwindSafe(|| arena.apart(span(0, 4), bad).0.len())).is_err());
        }
        arena.give_back(loan);
    }

    #[test]
    fn a_span_outside_the_arena_is_never_touched() {
        let arena = Arena::new(1).unwrap();
        for bad in [span(HUGE_PAGE_BYTES, 1), span(HUGE_PAGE_BYTES - 1, 2), span(u64::MAX, 1)] {
            assert!(catch_unwind(AssertUnwindSafe(|| arena.bytes(bad).len())).is_err());
        }
    }

    #[test]
    fn a_loan_cannot_be_given_back_to_another_arena() {
        let (mut first, mut second) = (Arena::new(1).unwrap(), Arena::new(1).unwrap());
        let loan = first.lend(span(0, 1), Access::KernelWrites);
        let _kept = second.lend(span(0, 1), Access::KernelWrites);
        assert!(catch_unwind(AssertUnwindSafe(|| second.give_back(loan))).is_err());
        assert_eq!(second.loans(), 1);
    }
}
