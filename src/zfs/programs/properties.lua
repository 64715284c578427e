-- What was set on a dataset, whether it is mounted by itself, and its bookmarks.
args = ...
local name = args.name
local native, user = {}, {}
for _, property in ipairs(zfs.list.system_properties(name)) do
  local value, source = zfs.get_prop(name, property)
  if value ~= nil and (source == name or source == "$recvd") then
    native[property] = { value = value, source = source }
  end
end
for property, value, source in zfs.list.user_properties(name) do
  if source == name or source == "$recvd" then
    user[property] = { value = value, source = source }
  end
end
local bookmarks = {}
if zfs.list.bookmarks then
  for bookmark in zfs.list.bookmarks(name) do
    bookmarks[bookmark] = true
  end
end
local mountpoint, canmount = zfs.get_prop(name, "mountpoint"), zfs.get_prop(name, "canmount")
return { native = native, user = user, bookmarks = bookmarks, mountpoint = mountpoint, canmount = canmount }
