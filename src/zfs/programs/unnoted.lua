-- Whether a dataset can be one that this library has made and not noted yet.
args = ...
local found = {}
if zfs.exists(args.name) then
  found.untouched = true
  found.origin = zfs.get_prop(args.name, "origin")
  found.written = zfs.get_prop(args.name, "written")
  -- The limits come before the note, all else in the same transaction.
  local limits = { quota = true, refquota = true, reservation = true, refreservation = true }
  for _, property in ipairs(zfs.list.system_properties(args.name)) do
    local _, source = zfs.get_prop(args.name, property)
    if (source == args.name or source == "$recvd") and not limits[property] then
      found.untouched = nil
    end
  end
  for _, _, source in zfs.list.user_properties(args.name) do
    if source == args.name or source == "$recvd" then
      found.untouched = nil
      break
    end
  end
  for _ in zfs.list.snapshots(args.name) do
    found.untouched = nil
    break
  end
  for _ in zfs.list.children(args.name) do
    found.untouched = nil
    break
  end
end
return found
