# SPDX-License-Identifier: GPL-2.0-or-later
"""Random lower layers: first a list of plain entries (so that it can be printed and shrunk), then the trees."""

import os
import random
import struct


# Owners; the numbers exist in the user namespace too.
UIDS = (0, 0, 0, 1000, 1001)

PLAIN_NAMES = [b"a", b"b", b"c", b"d", b"e", b"f1", b"g2", b"dir", b"sub", b"x9", b"data.bin", b"lib.so"]
ODD_NAMES = [
    b"with space", b"new\nline", b"\xff\xfe\x80", "\u00e9t\u00e9".encode(), b"-n", b"*", b"#0", b"...", b".hidden",
    b"colon:name", b"comma,name", b"back\\slash", b"%s%n", b"L" * 255, b"\xe2\x82\xac" * 85, b"\x01\x7f", b"work",
    b"index", b"'quote\"", b"$(x)", b"M" * 254 + b"\xff",
]

TYPES = {"d": "directory", "f": "file", "h": "hard link", "l": "symlink", "p": "fifo", "s": "socket",
         "c": "char device", "b": "block device", "w": "whiteout", "x": "xattr whiteout", "big": "big directory"}


def enc(text):
    return text.encode("utf-8", "surrogateescape")


def dec(raw):
    return raw.decode("utf-8", "surrogateescape")


def data(pattern, length):
    return random.Random(pattern).randbytes(length)


def acl(rng):
    """A valid access ACL in its xattr form."""
    entries = [(1, rng.randrange(8), 0xffffffff)]
    users = sorted(rng.sample((0, 1000, 1001), rng.randrange(0, 3)))
    groups = sorted(rng.sample((0, 1000, 1001), rng.randrange(0, 3)))
    entries += [(2, rng.randrange(8), u) for u in users]
    entries.append((4, rng.randrange(8), 0xffffffff))
    entries += [(8, rng.randrange(8), g) for g in groups]
    if users or groups:
        entries.append((16, rng.randrange(8), 0xffffffff))
    entries.append((32, rng.randrange(8), 0xffffffff))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def capability(rng):
    """security.capability, revision 2, as setcap writes it."""
    return struct.pack("<5I", 0x02000000 | rng.randrange(2), 1 << rng.randrange(32), 0, 0, 0)


def old_time(rng):
    """A time long past: comparison knows that nobody's clock made it."""
    return rng.randrange(1_000_000_000, 1_500_000_000) * 1_000_000_000 + rng.randrange(1_000_000_000)


def symlink_target(rng, names):
    """Never more than two '..': the mount point has two parents that belong to its side."""
    kind = rng.randrange(10)
    if kind == 0:
        return b"/nonexistent/target"
    if kind == 1:
        return b"T" * rng.randrange(1, 200)
    if kind == 2:
        return b"../" * rng.randrange(1, 3) + rng.choice(names)
    return b"/".join(rng.choice(names) for _ in range(rng.randrange(1, 3)))


class LayerGen:
    def __init__(self, rng, mode, big=False):
        self.rng = rng
        self.mode = mode
        self.big = big
        self.names = rng.sample(PLAIN_NAMES, 7) + rng.sample(ODD_NAMES, 4)
        self.spec = []

    def pool(self):
        """Directories that the layers share, so that names meet."""
        rng = self.rng
        dirs = [b""]
        for _ in range(rng.randrange(4, 14)):
            parent = rng.choice(dirs)
            path = (parent + b"/" if parent else b"") + rng.choice(self.names)
            if path.count(b"/") < 6 and len(path) < 1500 and path not in dirs:
                dirs.append(path)
        if rng.random() < 0.3:
            path = rng.choice(dirs)
            for _ in range(rng.randrange(8, 25)):
                path = (path + b"/" if path else b"") + rng.choice((b"n", b"m"))
                dirs.append(path)
        return dirs

    def meta(self, special=False):
        rng = self.rng
        mode = rng.choice((0o644, 0o600, 0o755, 0o444, 0o000, 0o640, 0o4755, 0o2755, 0o666, 0o777, rng.randrange(0o7777)))
        return [mode, rng.choice(UIDS), rng.choice(UIDS), old_time(rng)]

    def xattrs(self, kind):
        """User xattrs are for files and directories only."""
        rng = self.rng
        out = {}
        if rng.random() > 0.3:
            return out
        for _ in range(rng.randrange(1, 4)):
            which = rng.randrange(8)
            if which < 4 and kind in "df":
                out["user.o%d" % rng.randrange(5)] = data(rng.randrange(1 << 30), rng.choice((0, 1, 5, 40, 600))).hex()
            elif which == 4 and self.mode == "root":
                out["trusted.o%d" % rng.randrange(3)] = "01" * rng.randrange(1, 9)
            elif which == 5 and kind in "df":
                out["system.posix_acl_access"] = acl(rng).hex()
            elif which == 6 and kind == "d":
                out["system.posix_acl_default"] = acl(rng).hex()
            elif which == 7 and kind == "f":
                out["security.capability"] = capability(rng).hex()
        return out

    def file(self, layer, path):
        rng = self.rng
        kind = rng.randrange(10)
        chunks, size = [], 0
        if kind < 2:
            size = rng.choice((0, 0, 0, 5000))
        elif kind < 7:
            size = rng.choice((1, 10, 100, 4095, 4096, 4097, 9000, 20000))
            chunks = [[0, size, rng.randrange(1 << 30)]]
        elif kind < 9:
            size = rng.choice((70000, 200000, 1 << 20))
            for _ in range(rng.randrange(0, 4)):
                length = rng.choice((1, 4096, 8192, 5000))
                chunks.append([rng.randrange(0, size - length), length, rng.randrange(1 << 30)])
        else:
            size = rng.randrange(100000, 300000)
            chunks = [[0, size, rng.randrange(1 << 30)]]
        self.spec.append(["f", layer, dec(path)] + self.meta() + [self.xattrs("f"), chunks, size])

    def layer(self, layer, dirs, last):
        rng = self.rng
        taken = {b"": "d"}
        files = []
        entries = 0
        for path in dirs:
            parent = path.rpartition(b"/")[0]
            if path and (taken.get(parent) != "d" or rng.random() < 0.25):
                continue
            if path:
                if path in taken:
                    continue
                taken[path] = "d"
            opaque = ""
            if path and rng.random() < 0.12:
                opaque = "y"
            elif rng.random() < 0.08:
                opaque = "x"
            mode, uid, gid, mtime = self.meta()
            mode = rng.choice((0o755, 0o755, 0o755, 0o777, 0o1777, 0o700, 0o2775, mode))
            self.spec.append(["d", layer, dec(path), mode, uid, gid, mtime, self.xattrs("d"), opaque])
            for _ in range(rng.randrange(0, 7)):
                child = (path + b"/" if path else b"") + rng.choice(self.names)
                if child in taken or (child in dirs and rng.random() < 0.7):
                    continue
                kind = self.entry(layer, child, files, opaque, last)
                taken[child] = kind
                entries += 1
        return entries

    def entry(self, layer, path, files, opaque, last):
        rng = self.rng
        roll = rng.randrange(100)
        if opaque == "x" and roll < 40:
            self.spec.append(["x", layer, dec(path)])
            return "x"
        if roll < 55:
            self.file(layer, path)
            files.append(path)
            return "f"
        if roll < 65 and files:
            self.spec.append(["h", layer, dec(path), dec(rng.choice(files))])
            return "h"
        if roll < 75:
            self.spec.append(["l", layer, dec(path), dec(symlink_target(rng, self.names))] + self.meta()[1:])
            return "l"
        if roll < 79:
            self.spec.append([rng.choice("ps"), layer, dec(path)] + self.meta() + [0])
            return "p"
        if roll < 82 and self.mode == "root":
            kind = rng.choice("cb")
            rdev = rng.choice((os.makedev(1, 3), os.makedev(1, 5))) if kind == "c" else os.makedev(240, 17)
            self.spec.append([kind, layer, dec(path)] + self.meta() + [rdev])
            return kind
        if not last:
            self.spec.append(["w", layer, dec(path)])
            return "w"
        self.file(layer, path)
        files.append(path)
        return "f"

    def generate(self, count):
        dirs = self.pool()
        for layer in range(count):
            self.layer(layer, dirs, layer == count - 1)
        if self.big:
            path = self.rng.choice(dirs)
            self.spec.append(["big", self.rng.randrange(count), dec((path + b"/" if path else b"") + b"many"),
                              self.rng.choice((300, 1000, 3000, 10000))])
        self.drop_lone_xattr_whiteouts()
        return self.spec

    def drop_lone_xattr_whiteouts(self):
        """
        Most of those in a directory without one below it: the kernel lists them, and does not remove such a directory
        (known.py: ghost-whiteouts, rmdir-ghosts).
        """
        dirs = [(e[1], e[2]) for e in self.spec if e[0] == "d"]
        self.spec = [e for e in self.spec if e[0] != "x" or self.rng.random() < 0.1 or
                     any(layer > e[1] and path == e[2].rpartition("/")[0] for layer, path in dirs)]


def _set_xattrs(path, xattrs):
    for name, value in xattrs.items():
        os.setxattr(path, name, bytes.fromhex(value), follow_symlinks=False)


def _own(path, mode, uid, gid, mtime):
    os.chown(path, uid, gid, follow_symlinks=False)
    if mode is not None:
        os.chmod(path, mode)
    os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


def _make_file(path, entry):
    _, _, _, mode, uid, gid, mtime, xattrs, chunks, size = entry
    with open(path, "xb") as f:
        for off, length, pattern in chunks:
            f.seek(off)
            f.write(data(pattern, length))
        f.truncate(size)
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    # After chown, which would take the capability away; an ACL changes the mode, alike on both sides.
    _set_xattrs(path, xattrs)
    os.utime(path, ns=(mtime, mtime))


def _make_big(path, count):
    os.makedirs(path, exist_ok=True)
    for i in range(count):
        name = path + b"/" + (b"entry%05d" % i if i % 7 else b"entry%05d" % i + b"_" * (i % 200))
        if i % 50 == 0:
            os.mkdir(name)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
        os.utime(name, ns=(10**18 + i, 10**18 + i))
    os.utime(path, ns=(10**18, 10**18))


def _make(root, entry, prefix, dirs):
    kind, path = entry[0], root + b"/" + enc(entry[2])
    if kind == "d":
        if entry[2]:
            os.mkdir(path)
        dirs.append((path, entry))
    elif kind == "f":
        _make_file(path, entry)
    elif kind == "h":
        os.link(root + b"/" + enc(entry[3]), path, follow_symlinks=False)
    elif kind == "l":
        os.symlink(enc(entry[3]), path)
        _own(path, None, *entry[4:7])
    elif kind == "p":
        os.mkfifo(path)
        _own(path, *entry[3:7])
    elif kind == "s":
        # bind() takes 108 bytes: go by a short relative name, mknod makes a socket node as well.
        os.mknod(path, 0o140644)
        _own(path, *entry[3:7])
    elif kind in "cb":
        os.mknod(path, (0o020000 if kind == "c" else 0o060000) | 0o600, entry[7])
        _own(path, *entry[3:7])
    elif kind == "w":
        os.mknod(path, 0o020000, 0)
    elif kind == "x":
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        os.setxattr(path, prefix + "whiteout", b"y")
    else:
        _make_big(path, entry[3])


def build(roots, spec, mode):
    """Make the trees of SPEC in ROOTS. An entry whose parent is gone (shrinking) is left out."""
    prefix = "trusted.overlay." if mode == "root" else "user.overlay."
    dirs = []
    for root in roots:
        os.mkdir(root)
    for entry in spec:
        try:
            _make(roots[entry[1]], entry, prefix, dirs)
        except (FileNotFoundError, NotADirectoryError):
            continue
    for path, entry in reversed(dirs):
        _, _, _, perm, uid, gid, mtime, xattrs, opaque = entry
        os.chown(path, uid, gid)
        os.chmod(path, perm)
        _set_xattrs(path, xattrs)
        if opaque:
            os.setxattr(path, prefix + "opaque", opaque.encode())
    for path, entry in reversed(dirs):
        os.utime(path, ns=(entry[6], entry[6]))


def shown(path):
    """A path for a person; a kept case has it whole."""
    parts = [repr(p)[2:-1] if len(p) <= 40 else repr(p[:8])[2:-1] + "..(%d bytes)" % len(p) for p in enc(path).split(b"/")]
    return '"%s"' % "/".join(parts)


def describe(entry):
    """One readable line."""
    kind, layer, path = entry[:3]
    text = "lower%d: %s %s" % (layer, TYPES[kind], shown(path))
    if kind == "d":
        text += " mode=%#o owner=%d:%d" % tuple(entry[3:6])
        if entry[8]:
            text += " opaque=%s" % entry[8]
    elif kind == "f":
        text += " mode=%#o owner=%d:%d size=%d" % (entry[3], entry[4], entry[5], entry[9])
        if entry[8]:
            text += " data=%s" % [(c[0], c[1]) for c in entry[8]]
    elif kind in "hl":
        text += " -> " + shown(entry[3])
    elif kind == "big":
        text += " of %d entries" % entry[3]
    if kind in "df" and entry[7]:
        text += " xattrs=%s" % entry[7]
    return text
