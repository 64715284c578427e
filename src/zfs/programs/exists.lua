-- Whether there is a dataset or a snapshot of a name.
args = ...
if zfs.exists(args.name) then
  return { is = true }
end
return {}
