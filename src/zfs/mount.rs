//! Looking into a dataset: mounted where no path leads, whatever its `mountpoint` says.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::name::c_text;
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::detached::{self, Access};

impl Place {
    /// The top directory of a dataset, or of a snapshot. The mount goes with the last descriptor in it.
    pub(super) fn mount(&self, dataset: &str, access: Access, operation: &'static str) -> Result<OwnedFd> {
        detached::mount(c"zfs", &c_text(dataset), access).map_err(|errno| match errno {
            Errno::EACCES => {
                let error = Error::new(ErrorKind::PermissionDenied, operation, format!("the key of {dataset} is not loaded"));
                self.add_volume(error).with_remedy(format!("load it: zfs load-key {dataset}"))
            }
            Errno::ENOSYS => {
                let error = Error::new(ErrorKind::Unsupported, operation, "the kernel cannot mount what no path leads to");
                self.add_volume(error).with_remedy("Linux 5.2 or later is needed")
            }
            errno => self.failed(operation, format!("cannot mount {dataset}"), errno),
        })
    }
}
