-- The user properties of a dataset or a snapshot, wherever they come from.
args = ...
local found = {}
for property, value in zfs.list.user_properties(args.name) do
  found[property] = value
end
return found
