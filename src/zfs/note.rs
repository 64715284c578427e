//! User properties in which this library notes what belongs to a dataset and has no better place.

/// On every dataset that this library made, or that is an old root on its way out: a stranger's is never touched.
pub(super) const MADE: &str = "reroot:made";
/// The value of `canmount` that a dataset has when it is live; until then nobody mounts it by itself.
pub(super) const CANMOUNT: &str = "reroot:canmount";
/// The properties that can be chosen only when a dataset is made, as `zfs get` told them.
pub(super) const FORM: &str = "reroot:form";
/// The `refquota` that is there because a clone's `quota` does not count what it shares. One of another size was set by someone since.
pub(super) const LIMIT: &str = "reroot:limit";
/// On the snapshot that keeps an old root: the GUID of the dataset that it was taken of. A copy that was received has another.
pub(super) const OF: &str = "reroot:of";
/// On the same: its limits.
pub(super) const QUOTA: &str = "reroot:quota";
pub(super) const REFQUOTA: &str = "reroot:refquota";
/// On a base: when it was used, in seconds since 1970.
pub(super) const USED: &str = "reroot:used";
/// On the dataset of the bases: their memo.
pub(super) const MEMO: &str = "reroot:memo";

/// What the names of all of them begin with.
pub(super) const PREFIX: &str = "reroot:";
