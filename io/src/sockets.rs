//! Making sockets, and the one receive option that pays: SO_RCVLOWAT.
//!
//! Owns: the socket options of every connection, made by us or accepted. It must never wait for the network.
//!
//! Why the low-water mark: without it the kernel wakes the receiver for every few segments; with it a 1 MiB receive
//! costs two or three wakes, a third less CPU. Why it is dangerous: a mark above what is still to come
//! never fires, and the connection stands still until its timeout. So the invariant of every large receive is
//! `low water <= bytes missing`, and the engine, not the kernel, resumes a partial one with a new mark.

use crate::gather::Gather;
use crate::operation::SystemError;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The highest mark. Above it receive and copy no longer overlap with the sender, and a socket buffer
/// that did not grow yet is full before the mark is reached.
pub(crate) const LOW_WATER_BYTES_MAX: u32 = 512 << 10;

/// Receives below this use a mark of 1: a system call to set the mark costs as much as the wakes it saves.
pub(crate) const LOW_WATER_RECEIVE_BYTES_MIN: u32 = 128 << 10;

/// Connections the kernel keeps for a listener until they are accepted; it cuts this to net.core.somaxconn (4,096). A
/// longer queue only holds peers that will have given up when their turn comes.
pub(crate) const LISTEN_BACKLOG_MAX: i32 = 1024;

/// A TCP socket for `address`, not connected yet.
pub(crate) fn create(
    address: SocketAddr,
    receive_buffer_bytes: Option<u32>,
    flags: SocketFlags,
) -> Result<OwnedFd, SystemError> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags | SocketFlags::CLOEXEC,
        Some(ipproto::TCP),
    )?;
    // Requests are small and each is waited for: Nagle would hold them back for a round trip.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(bytes) = receive_buffer_bytes {
        set_receive_buffer(socket.as_fd(), bytes as usize)?;
    }
    Ok(socket)
}

/// A TCP socket that listens on `address`, and the address it really has.
pub(crate) fn listen(address: SocketAddr, flags: SocketFlags) -> Result<(OwnedFd, SocketAddr), SystemError> {
    // No fixed receive buffer: an accepted socket would inherit it, and who connects to us sends small requests.
    let socket = create(address, None, flags)?;
    // A restart must not wait a minute for the connections of the life before to leave TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, LISTEN_BACKLOG_MAX)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// Makes an accepted socket like a connected one; answers its peer. Fails when the peer is gone already.
pub(crate) fn welcome(socket: BorrowedFd<'_>) -> Result<SocketAddr, SystemError> {
    sockopt::set_tcp_nodelay(socket, true)?;
    let peer = rustix::net::getpeername(socket)?.ok_or(SystemError::CONNECTION_RESET)?;
    Ok(SocketAddr::try_from(peer)?)
}

/// One sendmsg that does not wait.
pub(crate) fn send_gather(socket: BorrowedFd<'_>, gather: &Gather) -> Result<usize, Errno> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is borrowed for the call; the header's spans are lent for as long as the gather lives.
    let result = unsafe { libc::sendmsg(socket.as_raw_fd(), gather.header(), flags) };
    usize::try_from(result)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// A fixed buffer switches autotuning off, and without privilege it is silently cut to net.core.rmem_max (208 KiB by
/// default), far below what autotuning would reach. So it is set only where it really takes.
fn set_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> Result<(), SystemError> {
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_ok() {
        return Ok(());
    }
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").ok();
    if limit.and_then(|text| text.trim().parse::<usize>().ok()).is_some_and(|limit| limit >= bytes) {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    Ok(())
}

/// The mark a receive with `missing` bytes to go should have, given the one that is set. Keeps the one that
/// is set while it is good enough: each change is a system call.
pub(crate) fn low_water(missing: u32, fill: bool, set: u32) -> u32 {
    if !fill || missing < LOW_WATER_RECEIVE_BYTES_MIN {
        return 1;
    }
    let wanted = missing.min(LOW_WATER_BYTES_MAX);
    if set <= missing && set >= wanted / 2 { set } else { wanted }
}

/// Sets SO_RCVLOWAT. The kernel cuts it to half of the largest receive buffer.
pub(crate) fn set_low_water(socket: BorrowedFd<'_>, bytes: u32) -> Result<(), SystemError> {
    let value = bytes as libc::c_int;
    // SAFETY: the descriptor is borrowed for the call; the pointer and length describe `value`, which lives through it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(SystemError::from_std(&std::io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_never_exceeds_what_is_missing() {
        for set in [1, 1000, LOW_WATER_RECEIVE_BYTES_MIN, LOW_WATER_BYTES_MAX] {
            for missing in [1, 100, 128 << 10, 200 << 10, 512 << 10, 1 << 20, u32::MAX] {
                for fill in [true, false] {
                    assert!(low_water(missing, fill, set) <= missing, "{missing} {fill} {set}");
                }
            }
        }
    }

    #[test]
    fn a_good_enough_mark_is_kept() {
        assert_eq!(low_water(1 << 20, true, 1), LOW_WATER_BYTES_MAX);
        assert_eq!(low_water(1 << 20, true, LOW_WATER_BYTES_MAX), LOW_WATER_BYTES_MAX);
        assert_eq!(low_water(1 << 20, true, LOW_WATER_BYTES_MAX / 2), LOW_WATER_BYTES_MAX / 2);
        assert_eq!(low_water(300 << 10, true, LOW_WATER_BYTES_MAX), 300 << 10);
        assert_eq!(low_water(61, true, LOW_WATER_BYTES_MAX), 1);
        assert_eq!(low_water(1 << 20, false, LOW_WATER_BYTES_MAX), 1);
    }

    #[test]
    fn a_socket_takes_its_options() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let socket = create(address, Some(64 << 10), SocketFlags::empty()).unwrap();
        assert!(sockopt::tcp_nodelay(&socket).unwrap());
        assert!(sockopt::socket_recv_buffer_size(&socket).unwrap() >= 64 << 10);
        set_low_water(socket.as_fd(), 1000).unwrap();
    }

    #[test]
    fn a_listener_tells_its_port_and_an_accepted_socket_takes_its_options() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listener, address) = listen(any, SocketFlags::empty()).unwrap();
        assert_ne!(address.port(), 0);
        let peer = std::net::TcpStream::connect(address).unwrap();
        let accepted = rustix::net::accept(&listener).unwrap();
        sockopt::set_tcp_nodelay(&accepted, false).unwrap();
        assert_eq!(welcome(accepted.as_fd()).unwrap(), peer.local_addr().unwrap());
        assert!(sockopt::tcp_nodelay(&accepted).unwrap());
        assert_eq!(listen(address, SocketFlags::empty()).unwrap_err(), SystemError::ADDRESS_IN_USE);
    }
}
