-- What decides whether a new dataset can take a live one's place: its children, the keys, what the base holds and the limits.
args = ...
local function key(name)
  if zfs.exists(name) then
    return zfs.get_prop(name, "encryptionroot") or ""
  end
end
local read_only = zfs.exists(args.live) and zfs.get_prop(args.live, "readonly") or "off"
if zfs.exists(args.safety) then
  return { safety = true, read_only = read_only }
end
local found = { read_only = read_only, parent = key(args.parent), children = {} }
if zfs.exists(args.live) then
  found.live = key(args.live)
  found.quota = zfs.get_prop(args.live, "quota")
  found.refquota = zfs.get_prop(args.live, "refquota")
  for child in zfs.list.children(args.live) do
    found.children[child] = true
  end
end
if args.base and zfs.exists(args.base) then
  found.base = key(args.base)
  found.held = zfs.get_prop(args.base, "referenced")
end
return found
