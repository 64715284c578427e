"""Makes one of the corpus's trees in the current directory: trees.py NAME. As root, on a file system with attributes and ACLs."""

import os
import socket
import stat
import struct
import sys

FIRST = 1_000_000_000


def file(name, content=b"x", mode=0o644):
    name = os.fsencode(name)
    with open(name, "wb") as out:
        out.write(content)
    os.chmod(name, mode)


def when(name, seconds, nanoseconds=0):
    time = seconds * 1_000_000_000 + nanoseconds
    os.utime(name, ns=(time, time), follow_symlinks=False)


def xattr(name, attribute, value):
    os.setxattr(name, attribute, value, follow_symlinks=False)


def acl(*entries):
    """Entries of tag, permissions and id in the kernel's form: 1 user, 2 a user, 4 group, 8 a group, 16 mask, 32 others."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def long(length, letter):
    """A path of exactly so many bytes, whose last name is a letter repeated; its directories are made."""
    parts = []
    while length > 120:
        parts.append(letter * 60)
        length -= 61
    parts.append(letter * length)
    os.makedirs("/".join(parts[:-1]) or ".", exist_ok=True)
    return "/".join(parts)


def names():
    for length in (99, 100, 101, 154, 155, 156, 157, 254, 255):
        file("n" * length)
    for length in (98, 99, 100, 101, 154, 155, 156, 157, 253, 254, 255, 256, 257, 258, 300, 511, 512, 513, 700):
        file(long(length, "abcdefghijklmnopqrstuvwxyz"[length % 26]))
        os.makedirs(long(length, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[length % 26]))
    for name in (" ", "  two  spaces ", "-dash", "--help", "trailing.", "..a", "...", "a\nb", "\n", "tab\t", "back\\slash", "\\n", "quote'\"",
                 "*", "?", "[a]", "~", "$HOME", "@LongLink", "PaxHeaders", "=", "a=b", "100%", "%25", "#", ";", "|"):
        file(name)
    for name in ("Grüße", "Gru\u0308ße", "日本語", "\u202egnp.exe", "\U0001f980" * 20, "\u00e9" * 60):
        file(name)
        os.mkdir(name + ".d")
        file(name + ".d/" + name)
    for name in (b"caf\xe9", b"\xff\xfe", b"\x01\x02", b"\x1b[2J", b"\x7f", b"\xc3", b"\xed\xa0\x80", b"\xe9" * 101):
        file(name)
        os.symlink(name, name + b".link")
        os.link(name, name + b".hard")
        os.mkdir(name + b".d")


def links():
    os.mkdir("d")
    file("target")
    for length in (1, 99, 100, 101, 155, 156, 255, 256, 512, 1000):
        os.symlink(("t" * 80 + "/") * (length // 81) + "t" * (length % 81 or 1), "to-%d" % length)
    for number, target in enumerate(("target", "/absolute", "/", ".", "..", "../../..", "missing", "d/", "d//../target", "a\nb", " ", "Grüße", b"\xff\xfe", "\\")):
        os.symlink(target, os.fsencode("link-%d" % number))
    os.symlink("d", "link-to-d")
    os.symlink("target", "hard-linked-link")
    os.link("hard-linked-link", "d/the-same-link", follow_symlinks=False)
    os.link("hard-linked-link", "the-same-link-too", follow_symlinks=False)
    file("several", b"several names")
    for number in range(30):
        os.link("several", "d/several-%d" % number)
    for length in (99, 100, 101, 156, 257, 600):
        path = long(length, "hijklm"[length % 6])
        file(path, b"long")
        os.link(path, "hard-%d" % length)
        os.link("hard-%d" % length, path + "+")
    file("empty", b"")
    os.link("empty", "empty-too")
    os.mkfifo("pipe", 0o600)
    os.link("pipe", "d/pipe-too")
    file(b"odd\xff\n", b"odd")
    os.link(b"odd\xff\n", b"odder\xfe\n")
    os.symlink("x" * 150, "y" * 150)


def metadata():
    for number, owner in enumerate((0, 1, 65534, 65536, 2097151, 2097152, 2**31 - 1, 2**31, 2**32 - 2)):
        file("uid-%d" % number)
        os.chown("uid-%d" % number, owner, 1000)
        file("gid-%d" % number)
        os.chown("gid-%d" % number, 1000, owner)
    os.mkdir("owned")
    os.chown("owned", 3000000, 4000000)
    os.symlink("owned", "owned-link")
    os.chown("owned-link", 123456, 3000000000, follow_symlinks=False)
    for mode in (0, 1, 0o111, 0o222, 0o400, 0o444, 0o600, 0o777, 0o1777, 0o2755, 0o2644, 0o4755, 0o4644, 0o6755, 0o7777, 0o7000):
        file("mode-%04o" % mode, mode=mode)
        os.mkdir("dir-%04o" % mode)
        file("dir-%04o/content" % mode)
        os.mkdir("dir-%04o/deeper" % mode)
        file("dir-%04o/deeper/content" % mode, mode=mode)
        os.chmod("dir-%04o/deeper" % mode, mode)
        os.chmod("dir-%04o" % mode, mode)
    file("setuid-of-another")
    os.chown("setuid-of-another", 4321, 1234)
    os.chmod("setuid-of-another", 0o6755)
    os.mkdir("times")
    for number, time in enumerate((0, 1, -1, -2, -86400, -(2**31), 2**31 - 1, 2**31, 2**32, 8 * 1024**3 - 1, 8 * 1024**3, FIRST)):
        file("times/file-%d" % number)
        when("times/file-%d" % number, time)
        os.mkdir("times/dir-%d" % number)
        when("times/dir-%d" % number, time)
        os.symlink("x", "times/link-%d" % number)
        when("times/link-%d" % number, time)
        os.mkfifo("times/pipe-%d" % number)
        when("times/pipe-%d" % number, time)
    for number, (seconds, nanoseconds) in enumerate(((FIRST, 1), (FIRST, 999_999_999), (FIRST, 500_000_000), (0, 123_456_789))):
        file("times/nano-%d" % number)
        when("times/nano-%d" % number, seconds, nanoseconds)
        os.mkdir("times/nano-dir-%d" % number)
        when("times/nano-dir-%d" % number, seconds, nanoseconds)
    when("times", FIRST, 42)


def fractions():
    """Fractions of a second before 1970, which bsdtar writes wrong."""
    for number, (seconds, nanoseconds) in enumerate(((-1, 999_999_999), (-1, 1), (-2, 250_000_000), (-86400, 750_000_000))):
        file("file-%d" % number)
        when("file-%d" % number, seconds, nanoseconds)
        os.mkdir("dir-%d" % number)
        when("dir-%d" % number, seconds, nanoseconds)


def attributes():
    file("one")
    xattr("one", "user.plain", b"value")
    xattr("one", "user.empty", b"")
    xattr("one", "user.binary", b"\x00\xff\n=\r\n\x00")
    xattr("one", "user." + "n" * 250, b"long name")
    file("large")
    xattr("large", "user.large", bytes(range(256)) * 8)
    file("many")
    for number in range(40):
        xattr("many", "user.%d" % number, b"%d" % number)
    os.mkdir("dir")
    xattr("dir", "user.dir", b"on a directory")
    xattr("dir", "trusted.dir", b"on a directory")
    file("dir/inside")
    xattr("dir/inside", "trusted.thing", b"\x01\x02\x00")
    os.symlink("one", "link")
    xattr("link", "trusted.link", b"on a link")
    os.mkfifo("pipe")
    xattr("pipe", "trusted.pipe", b"on a pipe")
    file("capable", b"#!/bin/sh\n", 0o755)
    xattr("capable", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    file("capable-of-another", b"#!/bin/sh\n", 0o4755)
    os.chown("capable-of-another", 1234, 4321)
    os.chmod("capable-of-another", 0o4755)
    xattr("capable-of-another", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    file("readonly", mode=0o400)
    xattr("readonly", "user.readonly", b"yes")
    file("linked")
    xattr("linked", "user.linked", b"both names")
    os.link("linked", "linked-too")
    when("dir", FIRST, 5)


def attribute_names():
    file("odd")
    xattr("odd", "user.a=b", b"equals")
    xattr("odd", "user.100%", b"percent")
    xattr("odd", "user.%3D", b"escaped")
    xattr("odd", "user.Grüße", b"unicode")
    xattr("odd", "user.with space", b" space ")
    when("odd", FIRST)


def acls():
    """ACLs of numbers that have no name, so that every tool writes numbers."""
    plain = ((1, 7, 0xFFFFFFFF), (2, 7, 70001), (4, 5, 0xFFFFFFFF), (8, 1, 70002), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    file("file", mode=0o750)
    xattr("file", "system.posix_acl_access", acl(*plain))
    file("masked", mode=0o644)
    xattr("masked", "system.posix_acl_access", acl((1, 6, 0xFFFFFFFF), (2, 7, 70003), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)))
    os.mkdir("dir")
    xattr("dir", "system.posix_acl_access", acl(*plain))
    file("before")
    os.mkdir("inherits")
    file("inherits/made-before")
    os.mkdir("inherits/sub")
    xattr("inherits", "system.posix_acl_default", acl(*plain))
    xattr("inherits/sub", "system.posix_acl_default", acl((1, 7, 0xFFFFFFFF), (4, 0, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)))
    file("inherits/sub/plain")
    os.chmod("inherits/sub/plain", 0o640)
    file("owned")
    os.chown("owned", 70004, 70005)
    xattr("owned", "system.posix_acl_access", acl(*plain))
    os.chmod("owned", 0o4750)
    for name in ("dir", "inherits", "inherits/sub"):
        when(name, FIRST, 7)


def holes():
    def sparse(name, size, *pieces):
        with open(name, "wb") as out:
            out.truncate(size)
            for offset, content in pieces:
                out.seek(offset)
                out.write(content)
            out.truncate(size)

    sparse("all-hole", 1 << 20)
    sparse("start", 1 << 20, ((1 << 20) - 5, b"later"))
    sparse("middle", 1 << 20, (0, b"begin"), ((1 << 20) - 3, b"end"))
    sparse("end", 1 << 19, (0, b"begin"))
    sparse("odd-size", 500_001, (300_000, b"x"))
    sparse("four", 1 << 20, *((n << 17, b"%d" % n) for n in range(1, 5)))
    sparse("many", 2 << 20, *((n << 14, b"%d" % n) for n in range(1, 120)))
    sparse("s" * 120, 1 << 20, (1 << 19, b"long name"))
    os.link("many", "many-too")
    file("zeros", bytes(100_000))
    file("dense", b"x" * 4096)


def nodes():
    os.mkfifo("pipe", 0o620)
    for number, (major, minor) in enumerate(((1, 3), (5, 1), (8, 0), (255, 255), (259, 0), (300, 70000), (511, 262143))):
        os.mknod("char-%d" % number, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.mknod("block-%d" % number, stat.S_IFBLK | 0o660, os.makedev(major, minor))
    os.chown("char-0", 0, 5)
    os.chmod("char-0", 0o4620)
    os.link("char-1", "char-1-too")
    when("block-1", FIRST)


def sockets():
    file("before")
    socket.socket(socket.AF_UNIX).bind("socket")
    file("zafter")


def sizes():
    for size in (0, 1, 510, 511, 512, 513, 1023, 1024, 1025, 4096, 10239, 10240, 10241, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1):
        file("size-%d" % size, (b"%08d" % size) * (size // 8) + b"x" * (size % 8))
    with open("big", "wb") as out:
        for block in range(40):
            out.write(bytes((block + n * n) & 0xFF for n in range(256)) * 256)


def shapes():
    file("z-at-the-top")
    os.makedirs("/".join(["deep"] * 150))
    file("/".join(["deep"] * 150) + "/file")
    file("/".join(["deep"] * 75) + "/halfway")
    os.mkdir("wide")
    for number in range(250):
        file("wide/%d" % number, b"")
    os.makedirs("empty/empty/empty")
    for path in ("deep", "deep/deep", "wide", "empty", "empty/empty"):
        when(path, FIRST, 9)


def empty():
    pass


globals()[sys.argv[1]]()
os.chmod(".", 0o751)
when(".", FIRST + 5)
