"""Asks a cluster, and makes what managers make in it, by the Python binding of Ceph: a line of JSON for each order, and one for each answer."""
import json
import struct
import sys

import rados
import rbd

cluster = rados.Rados(conffile="/etc/ceph/ceph.conf", name="client.admin", conf={"rados_osd_op_timeout": "60", "rados_mon_op_timeout": "60", "client_mount_timeout": "60"})
cluster.connect()
images = rbd.RBD()


def place(space):
    pool, _, namespace = space.partition("/")
    ioctx = cluster.open_ioctx(pool)
    ioctx.set_namespace(namespace)
    return ioctx


def image(space, name, **how):
    return rbd.Image(place(space), name, **how)


def mon(command):
    """What the command `ceph` says to these words."""
    status, output, words = cluster.mon_command(json.dumps({"format": "json", **command}), b"")
    if status:
        raise OSError(-status, words or command["prefix"])
    text = output.decode()
    return json.loads(text) if text.strip()[:1] in ("{", "[") else text


def mapping():
    """What the kernel has to be told to map an image."""
    monitors = mon({"prefix": "mon dump"})["mons"]
    addresses = [one["addr"] for each in monitors for one in each["public_addrs"]["addrvec"] if one["type"] == "v1"]
    return {"monitors": ",".join(addresses), "key": mon({"prefix": "auth get-key", "entity": "client.admin"})["key"]}


def stored(pool):
    """What the images of a pool hold, as far as the cluster has counted it, in bytes."""
    return next(one["stats"]["stored"] for one in mon({"prefix": "df"})["pools"] if one["name"] == pool)


def space(name):
    pool, _, namespace = name.partition("/")
    images.namespace_create(cluster.open_ioctx(pool), namespace)


def remove_space(name):
    pool, _, namespace = name.partition("/")
    images.namespace_remove(cluster.open_ioctx(pool), namespace)


def names(space):
    return sorted(images.list(place(space)))


def trash(space):
    return sorted(({"name": one["name"], "id": one["id"]} for one in images.trash_list(place(space))), key=lambda one: one["name"])


def create(space, name, size, features):
    images.create(place(space), name, size, old_format=False, features=features)


def clone(space, parent, snapshot, name, form):
    ioctx = place(space)
    images.clone(ioctx, parent, snapshot, ioctx, name, features=1, clone_format=form)


def rename(space, old, new):
    images.rename(place(space), old, new)


def remove(space, name):
    images.remove(place(space), name)


def discard(space, name, delay):
    images.trash_move(place(space), name, delay)


def snapshot(space, name, snapshot, protected):
    with image(space, name) as it:
        it.create_snap(snapshot)
        if protected:
            it.protect_snap(snapshot)


def remove_snapshot(space, name, snapshot):
    with image(space, name) as it:
        if it.is_protected_snap(snapshot):
            it.unprotect_snap(snapshot)
        it.remove_snap(snapshot)


def set_metadata(space, name, key, value):
    with image(space, name) as it:
        it.metadata_set(key, value)


opened = []


def open(space, name):
    """Keeps an image open, to be written to."""
    opened.append(image(space, name))


def close(space):
    opened.pop().close()


def lock(space, name, cookie):
    with image(space, name) as it:
        it.lock_exclusive(cookie)


def facts(space, name):
    """What is to be known of an image; nothing if there is none."""
    try:
        it = image(space, name, read_only=True)
    except rbd.ImageNotFound:
        return None
    with it:
        ioctx = place(space)
        data = it.data_pool_id()
        try:
            parent = "/".join(it.parent_info()[1:])
        except rbd.ImageNotFound:
            parent = ""
        return {
            "id": it.id(),
            "size": it.size(),
            # That something was done to it once is none of its features.
            "features": it.features() & ~rbd.RBD_FEATURE_OPERATIONS,
            "object_size": it.stat()["obj_size"],
            "stripe": [it.stripe_unit(), it.stripe_count()],
            "data_pool": cluster.pool_reverse_lookup(data) if data != ioctx.get_pool_id() else "",
            "metadata": dict(it.metadata_list()),
            "parent": parent,
            "snapshots": sorted(one["name"] for one in it.list_snaps() if one["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER),
            "watchers": [one["addr"] for one in it.watchers_list()],
        }


def lockers(space, thing):
    """The locks of an object that somebody has, with how many have them."""
    ioctx = place(space)
    try:
        locks = [key[len("lock."):] for key, _ in ioctx.get_xattrs(thing) if key.startswith("lock.")]
    except rados.ObjectNotFound:
        return {}
    found = {}
    for name in locks:
        spelled = name.encode()
        question = struct.pack("<I", len(spelled)) + spelled
        _, answer = ioctx.execute(thing, "lock", "get_info", struct.pack("<BBI", 1, 1, len(question)) + question)
        # The answer begins with the map of those that have it.
        (count,) = struct.unpack_from("<I", answer, 6)
        if count:
            found[name] = count
    return found


def notes(space, thing):
    ioctx = place(space)
    with rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals(operation, "", "", 10000)
        try:
            ioctx.operate_read_op(operation, thing)
            return {key: (value or b"").decode(errors="replace") for key, value in entries}
        except rados.ObjectNotFound:
            return {}


def wipe(space):
    """Removes all that is in a namespace, children before their parents."""
    ioctx = place(space)
    for one in images.trash_list(ioctx):
        images.trash_restore(ioctx, one["id"], "restored-" + one["id"])
    left = images.list(ioctx)
    while left:
        again = []
        for name in left:
            try:
                clear(ioctx, name)
            except (rbd.ImageBusy, rbd.ImageHasSnapshots):
                again.append(name)
        if len(again) == len(left):
            raise rbd.ImageBusy("cannot remove " + ", ".join(left), errno=16)
        left = again


def clear(ioctx, name):
    with rbd.Image(ioctx, name) as it:
        for one in it.list_lockers().get("lockers", []) if it.list_lockers() else []:
            it.break_lock(one[0], one[1])
        for one in it.list_snaps():
            if one["namespace"] != rbd.RBD_SNAP_NAMESPACE_TYPE_USER:
                continue
            if it.is_protected_snap(one["name"]):
                it.unprotect_snap(one["name"])
            it.remove_snap(one["name"])
    images.remove(ioctx, name)


def main():
    orders = dict(globals())
    print(json.dumps({"ok": None}), flush=True)
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        try:
            answer = {"ok": orders[order](*arguments)}
        except Exception as error:  # All of them are the test's to judge.
            answer = {"error": f"{order}: {type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
