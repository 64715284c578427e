//! What every caller of the kernel needs.

use nix::errno::Errno;
use nix::sys::stat::FileStat;

/// What names an inode while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl From<&FileStat> for FileId {
    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn from(stat: &FileStat) -> Self {
        FileId { dev: stat.st_dev as u64, ino: stat.st_ino as u64 }
    }
}

/// Calls again what a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
