-- Whether nobody holds a dataset, in any mount namespace: a mount, even one that no path leads to any more, would keep it from being destroyed. So
-- would a snapshot, and then this cannot tell.
args = ...
if not zfs.exists(args.name) or zfs.check.destroy(args.name) == 0 then
  return { unheld = true }
end
return {}
