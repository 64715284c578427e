-- What a dataset takes and may take, and what is left for another one beside it.
args = ...
local found = {}
if zfs.exists(args.parent) then
  found.free = zfs.get_prop(args.parent, "available")
end
if zfs.exists(args.name) then
  found.used = zfs.get_prop(args.name, "usedbydataset")
  found.quota = zfs.get_prop(args.name, "quota")
  found.refquota = zfs.get_prop(args.name, "refquota")
end
return found
