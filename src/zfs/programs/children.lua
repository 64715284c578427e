-- The datasets right below another one, and what each takes.
args = ...
local found = {}
if zfs.exists(args.name) then
  for child in zfs.list.children(args.name) do
    found[child] = zfs.get_prop(child, "used")
  end
end
return found
