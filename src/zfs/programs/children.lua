-- The datasets right below another one.
args = ...
local found = {}
if zfs.exists(args.name) then
  for child in zfs.list.children(args.name) do
    found[child] = true
  end
end
return found
