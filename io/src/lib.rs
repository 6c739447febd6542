//! The kernel does it: io_uring and epoll engines, buffers, files, cores. All unsafe code lives here.
