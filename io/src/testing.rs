//! An allocator for tests that counts: what the calling thread has asked for so far.
//!
//! Only behind the feature `testing`. It must never be the allocator of a program that is shipped, and hands every
//! request on to the system's as it is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Without a destructor and without lazy initialisation: reading it allocates nothing.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// See the file's header. A test binary makes it its `#[global_allocator]`.
pub struct CountingAllocator;

/// Requests of the calling thread for memory, growing and moving included, giving back not.
pub fn allocations_of_this_thread() -> u64 {
    ASKED.get()
}

fn count() {
    ASKED.set(ASKED.get() + 1);
}

// SAFETY: every call goes to the system's allocator with the arguments it came with; counting touches a number
// of the thread's own that needs no memory and cannot panic, because 2^64 requests never come.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the pointer came from the system's allocator, through this one, with this layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from the system's allocator, through this one, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_of_this_thread_is_counted_and_is_the_systems() {
        let layout = Layout::from_size_align(64, 8).unwrap();
        let before = allocations_of_this_thread();
        // SAFETY: the layout is not empty, and each pointer is used only until it is given on or back.
        unsafe {
            let first = CountingAllocator.alloc(layout);
            first.write_bytes(7, 64);
            let larger = CountingAllocator.realloc(first, layout, 128);
            assert_eq!(larger.add(63).read(), 7);
            CountingAllocator.dealloc(larger, Layout::from_size_align(128, 8).unwrap());
        }
        assert_eq!(allocations_of_this_thread() - before, 2);
    }
}
