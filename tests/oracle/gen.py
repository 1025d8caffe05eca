# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations, on names that mostly exist."""

import os
import stat

import ops
import sysc
from layers import ODD_NAMES, PLAIN_NAMES, UIDS, acl, capability, dec, enc, old_time, symlink_target

SLOTS = 6

WEIGHTS = {
    "create": 8, "open": 10, "tmpfile": 2, "opendir": 3,
    "hread": 4, "hwrite": 5, "happend": 2, "hmmap": 2, "hmap": 2, "hmapread": 3, "htruncate": 2, "hstat": 4, "hchmod": 1,
    "hchown": 1, "hutimens": 1, "hfsync": 1, "hfallocate": 3, "hseek": 3, "hcopy": 3, "hsetxattr": 1, "hgetxattr": 1,
    "hlink": 2, "hclose": 5, "hreaddir": 4, "hrewind": 1, "hdontneed": 2, "hflags": 1,
    "truncate": 3, "write": 5, "append": 3, "read": 4, "mmapwrite": 3,
    "mkdir": 7, "rmdir": 6, "unlink": 8, "rename": 14, "link": 6, "symlink": 4, "mknod": 3, "readlink": 1, "rmtree": 2,
    "copytree": 1, "chmod": 4, "chown": 3, "utimens": 4, "setxattr": 5, "getxattr": 2, "listxattr": 2, "removexattr": 2,
    "stat": 3, "readdir": 3, "access": 2, "flags": 1, "statfs": 1, "shrink": 1, "syncfs": 0.5,
}


class OpGen:
    def __init__(self, rng, mode, extra=()):
        self.rng = rng
        self.privilege = mode
        self.extra = extra
        self.names = {b"": stat.S_IFDIR}
        self.slots = {}
        self.recent = []
        self.pool = rng.sample(PLAIN_NAMES, 8) + rng.sample(ODD_NAMES, 4)
        self.kinds = list(WEIGHTS)
        # Each seed likes some operations more than others.
        self.weights = [WEIGHTS[k] * rng.choice((0.3, 1, 1, 1, 3)) for k in self.kinds]
        self.unprivileged = rng.choice((0, 0.05, 0.3))

    # What exists, as side A shows it.

    def learn(self, view):
        self.names = {p: e["type"] for p, e in view.items() if "type" in e}

    def note(self, side, op, result):
        """Look again at the names that OP was about."""
        if op[0] == "rename" and result[0] == "ok":
            self._moved(enc(op[2]), enc(op[3]), op[4])
        for rel in ops.paths(op):
            raw = enc(rel)
            try:
                st = os.lstat(side.path(rel))
                self.names[raw] = stat.S_IFMT(st.st_mode)
                self.recent = self.recent[-15:] + [raw]
            except OSError:
                self.names.pop(raw, None)
        if op[0] in ("rmtree", "copytree"):
            self._forget_missing(side)
        if result[0] == "ok" and op[0] in ("open", "tmpfile", "opendir"):
            self.slots[op[2]] = {"open": "f", "tmpfile": "t", "opendir": "d"}[op[0]]
        elif op[0] == "hclose":
            self.slots.pop(op[2], None)

    def _moved(self, old, new, flags):
        moved = {}
        for a, b in ((old, new), (new, old)):
            for path in list(self.names):
                if path.startswith(a + b"/"):
                    moved[b + path[len(a):]] = self.names.pop(path)
            if not flags & sysc.RENAME_EXCHANGE:
                break
        self.names.update(moved)

    def _forget_missing(self, side):
        for path in list(self.names):
            try:
                os.lstat(side.path(dec(path)))
            except OSError:
                self.names.pop(path)

    # Picking.

    def pick(self, *types):
        rng = self.rng
        if rng.random() < 0.3:
            good = [p for p in self.recent if self.names.get(p) in types]
            if good:
                return rng.choice(good)
        good = [p for p, t in self.names.items() if t in types and (p or len(self.names) < 3)]
        return rng.choice(good) if good else b"a"

    def pick_dir(self):
        return b"" if self.rng.random() < 0.15 else self.pick(stat.S_IFDIR)

    def any(self):
        """Any existing name; now and then one that is not, or one behind a symlink or a file."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.02:
            return b""
        if roll < 0.82:
            names = [p for p in self.names if p]
            if rng.random() < 0.3 and self.recent:
                names = [p for p in self.recent if p in self.names and p] or names
            return rng.choice(names) if names else b"a"
        if roll < 0.92:
            return self.new()
        if roll < 0.96:
            return self.pick(stat.S_IFLNK, stat.S_IFREG) + b"/" + rng.choice(self.pool)
        return b"missing/" + rng.choice(self.pool)

    def new(self):
        """A name in an existing directory, likely a free one."""
        rng = self.rng
        parent = self.pick_dir()
        name = rng.choice(self.pool)
        if rng.random() < 0.01:
            name = rng.choice((b"N" * 256, b".", b".."))
        path = (parent + b"/" if parent else b"") + name
        return path if len(path) < 2500 else name

    def file(self):
        return self.pick(stat.S_IFREG) if self.rng.random() < 0.85 else self.any()

    def old_or_new(self):
        return self.any() if self.rng.random() < 0.35 else self.new()

    # Values.

    def mode(self):
        rng = self.rng
        return rng.choice((0o644, 0o600, 0o755, 0o700, 0o444, 0, 0o777, 0o4755, 0o2755, 0o1777, rng.randrange(0o10000)))

    def size(self):
        rng = self.rng
        return rng.choice((0, 0, 1, 5, 100, 4095, 4096, 4097, 8192, 12000, 70000, rng.randrange(300000)))

    def offset(self):
        rng = self.rng
        return rng.choice((0, 0, 1, 10, 4096, 4095, 8192, rng.randrange(20000), rng.randrange(250000)))

    def length(self):
        return self.rng.choice((1, 10, 100, 4096, 5000, 4097, 30000))

    def pattern(self):
        return self.rng.randrange(1 << 30)

    def times(self):
        rng = self.rng
        out = []
        for _ in range(2):
            roll = rng.randrange(6)
            if roll == 0:
                out += [0, sysc.UTIME_OMIT]
            elif roll == 1:
                out += [0, sysc.UTIME_NOW]
            else:
                out += list(divmod(old_time(rng), 10**9))
        return out

    def xattr(self):
        """A name and a value."""
        rng = self.rng
        roll = rng.randrange(20)
        value = rng.randbytes(rng.choice((0, 1, 10, 100, 1500))).hex()
        if roll < 10:
            return "user.o%d" % rng.randrange(5), value
        if roll < 12:
            return "trusted.o%d" % rng.randrange(3), value
        if roll < 15:
            return "system.posix_acl_access", acl(rng).hex()
        if roll < 17:
            return "system.posix_acl_default", acl(rng).hex()
        if roll < 18:
            return "security.capability", capability(rng).hex()
        if roll < 19 and "escape" in self.extra:
            prefix = "trusted" if self.privilege == "root" else "user"
            return prefix + ".overlay." + rng.choice(("opaque", "redirect", "o1", "whiteout")), value
        return rng.choice(("user.", "nosuch.x", "user." + "n" * 250, "user." + "n" * 251, "system.o", "o", "security.o")), value

    def slot(self, kinds="ft"):
        good = [s for s, k in self.slots.items() if k in kinds]
        return self.rng.choice(good) if good else None

    def uid(self):
        return self.rng.choice((1000, 1000, 1001)) if self.rng.random() < self.unprivileged else 0

    def next(self):
        while True:
            kind = self.rng.choices(self.kinds, self.weights)[0]
            args = getattr(self, "gen_" + kind, lambda: None)()
            if args is not None:
                uid = self.uid() if kind not in ("hmap", "hclose", "hmapread", "shrink", "syncfs") else 0
                return [kind, uid] + [dec(a) if isinstance(a, bytes) else a for a in args]

    # One for each operation.

    def gen_create(self):
        return [self.new(), self.mode(), self.size(), self.pattern()]

    def gen_open(self):
        rng = self.rng
        flags = rng.choice((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        for bit, chance in ((os.O_CREAT, 0.3), (os.O_EXCL, 0.1), (os.O_TRUNC, 0.15), (os.O_APPEND, 0.1), (os.O_NOFOLLOW, 0.1),
                            (os.O_DIRECTORY, 0.02)):
            if rng.random() < chance:
                flags |= bit
        return [rng.randrange(SLOTS), self.new() if rng.random() < 0.2 else self.file(), flags, self.mode()]

    def gen_tmpfile(self):
        flags = self.rng.choice((os.O_RDWR, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_EXCL))
        return [self.rng.randrange(SLOTS), self.pick_dir(), flags, self.mode()]

    def gen_opendir(self):
        return [self.rng.randrange(SLOTS), self.pick_dir()]

    def _handle(self, *args):
        slot = self.slot()
        return None if slot is None else [slot] + list(args)

    def gen_hread(self):
        return self._handle(self.offset(), self.rng.choice((1, 100, 4096, 100000)))

    def gen_hwrite(self):
        return self._handle(self.offset(), self.length(), self.pattern())

    def gen_happend(self):
        return self._handle(self.length(), self.pattern())

    gen_hmmap = gen_hwrite

    def gen_hmap(self):
        return self._handle()

    gen_hmapread = gen_hstat = gen_hfsync = gen_hdontneed = gen_hmap

    def gen_hclose(self):
        slot = self.slot("ftd")
        return None if slot is None else [slot]

    def gen_htruncate(self):
        return self._handle(self.size())

    def gen_hchmod(self):
        return self._handle(self.mode())

    def owners(self):
        return self.rng.choice([(u, g) for u in UIDS + (-1,) for g in UIDS + (-1,)])

    def gen_hchown(self):
        return self._handle(*self.owners())

    def gen_hutimens(self):
        return self._handle(self.times())

    def gen_hfallocate(self):
        keep, punch, zero = sysc.FALLOC_KEEP_SIZE, sysc.FALLOC_PUNCH, sysc.FALLOC_ZERO
        return self._handle(self.rng.choice((0, 0, keep, keep | punch, zero, zero | keep, punch)), self.offset(),
                            self.rng.choice((0, 1, 100, 4096, 10000, 50000)))

    def gen_hseek(self):
        return self._handle(self.offset(), self.rng.choice((os.SEEK_DATA, os.SEEK_HOLE)))

    def gen_hcopy(self):
        a, b = self.slot(), self.slot()
        return None if a is None else [a, b, self.offset(), self.offset(), self.length()]

    def gen_hsetxattr(self):
        return self._handle(*self.xattr(), self.rng.choice((0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE)))

    def gen_hgetxattr(self):
        return self._handle(self.xattr()[0])

    def gen_hlink(self):
        slot = self.slot("t") if self.rng.random() < 0.8 else self.slot()
        return None if slot is None else [slot, self.new()]

    def gen_hreaddir(self):
        slot = self.slot("d")
        return None if slot is None else [slot, self.rng.choice((1, 1, 2, 100))]

    def gen_hrewind(self):
        slot = self.slot("d")
        return None if slot is None else [slot]

    def _flags(self):
        choice = [(0, 0), (ops.FS_NOATIME, 0), (0, ops.FS_NOATIME)]
        if "immutable" in self.extra:
            choice += [(ops.FS_APPEND, 0), (ops.FS_IMMUTABLE, 0)]
            choice += [(0, ops.FS_APPEND | ops.FS_IMMUTABLE)] * 4
        return list(self.rng.choice(choice))

    def gen_hflags(self):
        return self._handle(*self._flags())

    def gen_flags(self):
        return [self.pick(stat.S_IFREG, stat.S_IFDIR)] + self._flags()

    def gen_truncate(self):
        return [self.file(), self.size()]

    def gen_write(self):
        return [self.file(), self.offset(), self.length(), self.pattern()]

    gen_mmapwrite = gen_write

    def gen_append(self):
        return [self.file(), self.length(), self.pattern()]

    def gen_read(self):
        return [self.file()]

    def gen_mkdir(self):
        return [self.old_or_new() if self.rng.random() < 0.3 else self.new(), self.mode()]

    def gen_rmdir(self):
        return [self.pick(stat.S_IFDIR) if self.rng.random() < 0.85 else self.any()]

    def gen_unlink(self):
        return [self.any()]

    def gen_rename(self):
        rng = self.rng
        kinds = (0, 0, 0, sysc.RENAME_NOREPLACE, sysc.RENAME_EXCHANGE, sysc.RENAME_EXCHANGE)
        flags = rng.choice(kinds)
        if rng.random() < 0.01:
            flags = rng.choice((3, 8))
        old = self.pick(stat.S_IFDIR) if rng.random() < 0.4 else self.any()
        if flags == sysc.RENAME_EXCHANGE or rng.random() < 0.35:
            new = self.any()
        else:
            new = self.new()
        return [old, new, flags]

    def gen_link(self):
        return [self.file(), self.new()]

    def gen_symlink(self):
        return [self.new(), symlink_target(self.rng, self.pool)]

    def gen_mknod(self):
        rng = self.rng
        kind = rng.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK))
        dev = 0
        if kind == stat.S_IFCHR:
            dev = rng.choice((0, os.makedev(1, 3), os.makedev(1, 5)))
        elif kind == stat.S_IFBLK:
            dev = os.makedev(240, 17)
        return [self.new(), kind | self.mode() & 0o777, dev]

    def gen_readlink(self):
        return [self.pick(stat.S_IFLNK)]

    def gen_rmtree(self):
        return [self.pick(stat.S_IFDIR) or b"a"]

    def gen_copytree(self):
        return [self.pick(stat.S_IFDIR), self.new()]

    def gen_chmod(self):
        return [self.any(), self.mode()]

    def gen_chown(self):
        return [self.any(), *self.owners(), self.rng.randrange(2)]

    def gen_utimens(self):
        return [self.any(), self.times(), self.rng.randrange(2)]

    def gen_setxattr(self):
        return [self.any(), *self.xattr(), self.rng.choice((0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE)), self.rng.randrange(2)]

    def gen_getxattr(self):
        return [self.any(), self.xattr()[0], self.rng.randrange(2)]

    gen_removexattr = gen_getxattr

    def gen_listxattr(self):
        return [self.any()]

    gen_stat = gen_listxattr

    def gen_readdir(self):
        return [self.pick_dir()]

    def gen_access(self):
        return [self.any(), self.rng.choice((0, 1, 2, 4, 6))]

    def gen_statfs(self):
        return [self.any()]

    def gen_shrink(self):
        return []

    gen_syncfs = gen_shrink
