//! Whether udev is there: who waits for one that has ended, and has left its socket behind, waits for ever.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::AsRawFd;

const CONTROL: &str = "/run/udev/control";

/// Whether someone listens where udev does, or would begin to.
pub(crate) fn listens() -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let Ok(socket) = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None) else { return false };
    let Ok(address) = UnixAddr::new(CONTROL) else { return false };
    // One that is busy lets its callers wait.
    matches!(connect(socket.as_raw_fd(), &address), Ok(()) | Err(nix::errno::Errno::EAGAIN))
}
