-- The snapshots of a dataset, with what depends on each.
args = ...
local found = {}
if zfs.exists(args.name) then
  for snapshot in zfs.list.snapshots(args.name) do
    local it = { txg = zfs.get_prop(snapshot, "createtxg"), clones = {}, holds = {} }
    for clone in zfs.list.clones(snapshot) do
      it.clones[clone] = true
    end
    -- Not every version lists them.
    if zfs.list.holds then
      for hold in zfs.list.holds(snapshot) do
        it.holds[hold] = true
      end
    end
    found[snapshot] = it
  end
end
return found
