-- What bears the names of a volume, and the snapshot that keeps the old root while a new one is made within it.
args = ...
local found = {}
for slot, name in pairs(args.names) do
  if zfs.exists(name) then
    local it = { guid = zfs.get_prop(name, "guid"), type = zfs.get_prop(name, "type"), ours = {} }
    for property, value, source in zfs.list.user_properties(name) do
      if source == name and string.sub(property, 1, 7) == "reroot:" then
        it.ours[property] = value
      end
    end
    for _ in zfs.list.children(name) do
      it.children = true
      break
    end
    found[slot] = it
  end
end
if zfs.exists(args.safety) then
  found.safety = { guid = zfs.get_prop(args.safety, "guid") }
  for property, value in zfs.list.user_properties(args.safety) do
    if property == "reroot:of" then
      found.safety.of = value
    end
  end
end
return found
