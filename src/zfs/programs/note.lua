-- Sets user properties of a dataset, and takes away those that are empty.
args = ...
for property, value in pairs(args.notes) do
  local errno
  if value == "" then
    errno = zfs.sync.inherit(args.name, property)
  else
    errno = zfs.sync.set_prop(args.name, property, value)
  end
  if errno ~= 0 then
    error("cannot set " .. property .. ": error " .. errno)
  end
end
return {}
