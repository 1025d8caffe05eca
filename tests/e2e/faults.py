# SPDX-License-Identifier: GPL-2.0-or-later
"""What test_crash.py and test_faults.py share: the program that can be told to fail, and the changes to try it on.

The program is fuse-overlay with wrappers around its system calls (tests/faults/inject.c). A page of memory shared with
the daemon says which call fails and how, and tells what was called.
"""

import struct
import zlib

from ovtest import *
import ovtest

CHANGES, READS, MEMORY = 1, 2, 4
DIE = -1
TRACE_MAX, NAME_LEN, POINTS_MAX = 2048, 24, 256
AT_TRACE = 32 + 64 + NAME_LEN
AT_REACHED = AT_TRACE + TRACE_MAX * NAME_LEN
AT_PULSE = AT_REACHED + POINTS_MAX
PAGE_SIZE = AT_PULSE + 4


class Page:
    """struct page of tests/faults/inject.c."""

    def __init__(self, path):
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.ftruncate(fd, PAGE_SIZE)
        self.mem = mmap.mmap(fd, PAGE_SIZE)
        os.close(fd)

    def _set(self, armed, classes=0, error=0, at=0, sticky=False, point_at=0, point="", only=""):
        self.mem[0:4] = b"\0\0\0\0"
        self.mem[AT_TRACE:AT_REACHED] = bytes(AT_REACHED - AT_TRACE)
        self.mem[4:AT_TRACE] = struct.pack("=IiIIIII64s24s", classes, error, at, sticky, 0, 0, point_at, point.encode(),
                                           only.encode())
        self.mem[0:4] = struct.pack("=I", armed)

    def watch(self, classes=CHANGES | READS | MEMORY):
        """Count and name the calls from here on."""
        self._set(1, classes)

    def fail(self, error, at=1, sticky=False, classes=CHANGES | READS | MEMORY, only=""):
        """The AT-th call from here on fails with ERROR (DIE: kills the daemon); STICKY: and all after it."""
        self._set(1, classes, error, at, sticky, only=only)

    def die_at(self, point, at=1):
        self._set(1, 0, point_at=at, point=point)

    def is_ahead(self):
        """Has the point of die_at() not been passed often enough yet?"""
        return struct.unpack_from("=I", self.mem, 28)[0] > 0

    def pulse(self, on):
        """The file system that OV_FAULT_PULSE lies on commits before each change what was done before it."""
        self.mem[AT_PULSE:PAGE_SIZE] = struct.pack("=I", on)

    def rest(self):
        """Stop counting and failing; gives how many calls failed."""
        self.mem[0:4] = b"\0\0\0\0"
        self.mem[28:32] = b"\0\0\0\0"
        return struct.unpack_from("=I", self.mem, 24)[0]

    def calls(self):
        """Names of the calls counted, in order."""
        n = min(struct.unpack_from("=I", self.mem, 20)[0], TRACE_MAX)
        return [self.mem[AT_TRACE + i * NAME_LEN:AT_TRACE + (i + 1) * NAME_LEN].rstrip(b"\0").decode() for i in range(n)]

    def reached(self):
        return {i for i in range(POINTS_MAX) if self.mem[AT_REACHED + i]}


def built(name):
    """The path of program NAME of tests/faults, or None."""
    bases = [os.environ.get("OV_BUILDDIR"), os.getcwd(), os.path.dirname(os.environ.get("OV_PROG", ""))]
    found = [p for p in (os.path.join(b, "tests/faults", name) for b in bases if b) if os.path.isfile(p)]
    return found[0] if found else None


def faulty_program():
    """The program with the wrappers, where the ids of a user namespace can reach it."""
    prog = os.environ.get("OV_FAULTS_PROG")
    if not prog and ovtest._program:
        prog = built("fuse-overlay-faults")
    if not prog or not os.access(prog, os.X_OK):
        skip("fuse-overlay-faults is not built (make tests/faults/fuse-overlay-faults)")
    to = os.path.join(ovtest._scratch, "fuse-overlay-faults")
    if not exists(to):
        shutil.copy(prog, to)
        os.chmod(to, 0o755)
    return to


def crash_points():
    return run(faulty_program(), "--crash-points").stdout.split()


# ---------------------------------------------------------------------------------------------------------------
# The changes

OLD = 10 ** 18  # the time of all that is in the lower
NOW = 15 * 10 ** 17  # what is younger than this was made by the test
DATA = bytes(range(256)) * 600  # more than one page, less than what makes it slow


def old(spec):
    """SPEC with its times set back."""
    out = {}
    for name, n in spec.items():
        n = n if isinstance(n, Node) else File(n) if isinstance(n, (str, bytes)) else Folder(n)
        if n.kind == "dir":
            n.data = old(n.data)
        n.mtime = OLD
        out[name] = n
    return out


def lower_spec():
    return old({
        "f": File(DATA, mode=0o640, uid=7, gid=8, xattrs={"user.x": "1", "user.y": "2" * 100}),
        "exe": File("#!", mode=0o4755),
        "small": "small\n",
        "other": "other\n",
        "sym": Sym("f"),
        "fifo": Fifo(mode=0o600),
        "d": Folder({"in": "in d\n", "sub": {"deep": "deep\n"}}, mode=0o750, uid=7, xattrs={"user.d": "d"}),
        "keep": {"one": "1", "two": Sym("one")},
        "gone": {"x": "x", "y": {"z": "z"}},
        "e": {"x": "x"},
        "pub": Folder({"p": "p"}, mode=0o777),
        "h1": "linked\n", "h2": Hardlink("h1"), "hd": {"h3": Hardlink("h1")},
    })


class Change:
    """STEPS are done one after the other; between two of them the view is one of the states that are allowed.
    PREP is done before on a program that does not fail. MISSING: calls that fail while it mounts, so that it takes the
    file system for one that lacks them. KERNEL: the kernel's overlay shows the result the same. BOTH: the old name of a rename
    that takes two steps: it may still be seen beside the new one where the program dies between them. LATE: names of the
    file that is written: where the power fails its data may be lost, but not its time. LOOSE: also where only the daemon
    dies: a metacopy with several names, which only the kernel makes, cannot be replaced as a whole. UNSURE: names of the
    file of which the kernel may show, after an error, what it has in its cache."""

    def __init__(self, name, *steps, prep=(), opts="", modes=MODES, env=None, missing=None, kernel=True, late=(),
                 loose=False, unsure=(), both=None):
        self.name, self.steps, self.prep, self.opts, self.modes = name, steps, prep, opts, modes
        self.env, self.missing, self.kernel, self.late, self.loose = env, missing, kernel, late, loose
        self.unsure, self.both = set(late) | set(unsure), both

    def same(self, view, state, data_lost=False):
        """Is VIEW the STATE? A time may be newer than the data, where that can be lost, but never older."""
        if view == state:
            return True
        late = [n for n in self.late if (self.loose or data_lost) and n in view and view[n]["mtime"] == "now"]
        with_time = {n: {**view[n], "mtime": state[n]["mtime"]} for n in late if n in state}
        return {**view, **with_time} == state

    def halfway(self, view, state):
        """Is VIEW the STATE after a rename of which the old name is still seen?"""
        rest = {n: v for n, v in view.items() if n != self.both}
        return self.both not in state and len(rest) < len(view) and rest == state


def _at(fn, *names):
    return lambda ov: fn(*(ov.m(n) for n in names))


def append_synced(name, data="more"):
    """Behind what the lower has, so that it can be done again; on disk when it returns."""
    def go(ov):
        size = os.path.getsize(ov.l(name)) if exists(ov.l(name)) else 0
        fd = os.open(ov.m(name), os.O_WRONLY)
        try:
            os.pwrite(fd, data.encode(), size)
            os.fsync(fd)
        finally:
            os.close(fd)
    return go


def _create(name, mode=0o644):
    return lambda ov: os.mknod(ov.m(name), stat.S_IFREG | mode)


def _as_other(step):
    """With another fsuid, which makes objects that the daemon has to give away."""
    def go(ov):
        libc.setfsgid(5)
        libc.setfsuid(5)
        try:
            step(ov)
        finally:
            libc.setfsuid(0)
            libc.setfsgid(0)
    return go


def _rename(a, b, flags=0):
    return lambda ov: renameat2(ov.m(a), ov.m(b), flags)


def _tmpfile(ov):
    fd = os.open(ov.m("d"), os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        link_fd(fd, ov.m("d/new"))
    finally:
        os.close(fd)


def _punch(ov):
    fd = os.open(ov.m("f"), os.O_RDWR)
    try:
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192)
    finally:
        os.close(fd)


def _by_kernel(fn):
    """FN(path of the mount) with kernel overlayfs in place of ours."""
    def go(ov):
        with ov.by_kernel(ov.opts) as mnt:
            fn(mnt)
        ov.mount()
    return go


def _look(ov):
    tree_snapshot(ov.mnt)


_chmod = lambda name, mode=0o600: lambda ov: os.chmod(ov.m(name), mode)  # noqa: E731
_unlink = lambda name: _at(os.unlink, name)  # noqa: E731
_rmdir = lambda name: _at(os.rmdir, name)  # noqa: E731
_mkdir = lambda name: lambda ov: os.mkdir(ov.m(name), 0o755)  # noqa: E731
_rmtree = lambda name: _at(shutil.rmtree, name)  # noqa: E731
_truncate = lambda name, size: lambda ov: os.truncate(ov.m(name), size)  # noqa: E731
_symlink = lambda target, name: lambda ov: os.symlink(target, ov.m(name))  # noqa: E731
_link = lambda a, b: _at(os.link, a, b)  # noqa: E731

META, REDIRECT, INDEX = "metacopy=on,redirect_dir=on", "redirect_dir=on", "index=on"
OCI = {"FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT": "1"}
ROOT = ("root",)  # the kernel takes these options from root only, so that there is an oracle
NO_MKNOD = {"mknodat": errno.EPERM}
NO_LINKS = {"linkat": errno.EPERM}
NO_ONE_STEP = {"rename-*": errno.EINVAL}  # neither RENAME_WHITEOUT nor RENAME_EXCHANGE: no upper for the kernel

ALL_CHANGES = [
    # copy-up
    Change("write", append_synced("f"), late=("f",)),
    Change("write-setuid", append_synced("exe"), late=("exe",), modes=ROOT),  # who lacks the privilege loses setuid before
    Change("write-deep", append_synced("d/sub/deep"), late=("d/sub/deep",)),
    Change("write-without-links", append_synced("d/in"), missing=NO_LINKS, late=("d/in",)),
    Change("truncate", _truncate("f", 100), unsure=("f",)),
    Change("chmod", _chmod("f")),
    Change("chown-link", lambda ov: os.lchown(ov.m("sym"), 9, 9)),
    Change("chmod-fifo", _chmod("fifo", 0o611)),
    Change("chmod-dir", _chmod("d", 0o711)),
    Change("setxattr", lambda ov: setx(ov.m("f"), "user.x", "new")),
    Change("utimes", lambda ov: os.utime(ov.m("f"), ns=(OLD + 5, OLD + 5))),
    Change("truncate-indexed", _truncate("h1", 3), opts=INDEX, modes=ROOT, unsure=("h1", "h2", "hd/h3")),
    Change("punch", _punch, unsure=("f",)),
    Change("metacopy", _chmod("f"), opts=META),
    Change("late-data", append_synced("f"), prep=[_chmod("f")], opts=META, late=("f",)),
    Change("late-data-truncate", _truncate("f", 100), prep=[_chmod("f")], opts=META, unsure=("f",)),
    Change("late-data-link", _link("f", "f2"), prep=[_chmod("f")], opts=META),
    Change("late-data-of-links", append_synced("h1"), prep=[_by_kernel(lambda mnt: os.chmod(mnt + "/h1", 0o600))],
           opts=INDEX + "," + META, modes=ROOT, late=("h1", "h2", "hd/h3"), loose=True),
    Change("rename-metacopy", _rename("f", "keep/f"), opts=META),
    Change("permissions-in-xattrs", append_synced("f"), _chmod("f"), _create("n"), opts="xattr_permissions=2", kernel=False, late=("f",)),
    # creation
    Change("create", _create("new"), append_synced("new"), unsure=("new",)),
    Change("create-in-lower-dir", _create("d/sub/new", 0o2640)),
    Change("create-as-other", _as_other(_create("pub/new", 0o6755))),
    Change("create-over-whiteout", _create("small"), prep=[_unlink("small")]),
    Change("mkdir", _mkdir("d/new"), _create("d/new/x")),
    Change("mkdir-as-other", _as_other(_mkdir("pub/new"))),
    Change("mkdir-over-whiteout", _mkdir("gone"), prep=[_rmtree("gone")]),
    Change("symlink", _symlink("t", "new"), _symlink("t", "small"), prep=[_unlink("small")]),
    Change("tmpfile", _tmpfile),
    Change("link", _link("small", "l")),
    Change("link-over-whiteout", _link("f", "small"), prep=[_unlink("small")]),
    # removal; whiteouts as xattrs are for the kernel's lowers only
    Change("unlink-lower", _unlink("small"), _unlink("other")),
    Change("unlink-copied", _unlink("small"), prep=[append_synced("small")]),
    Change("unlink-upper", _unlink("new"), prep=[_create("new")]),
    Change("rmdir-lower", _rmdir("e"), prep=[_unlink("e/x")]),
    Change("rmdir-upper", _rmdir("new"), prep=[_mkdir("new")]),
    Change("rmdir-moved", _rmdir("e2"), prep=[_unlink("e/x"), _rename("e", "e2")], opts=REDIRECT, modes=ROOT),
    Change("oci-unlink", _unlink("small"), _unlink("other"), prep=[append_synced("other")], env=OCI, kernel=False),
    Change("oci-rmdir", _rmdir("e"), prep=[_unlink("e/x")], env=OCI, kernel=False),
    Change("oci-mkdir", _mkdir("gone"), prep=[_rmtree("gone")], env=OCI, kernel=False),
    Change("oci-rename", _rename("small", "n"), _rename("other", "n"), env=OCI, kernel=False),
    Change("xattr-unlink", _unlink("d/in"), _unlink("other"), prep=[append_synced("other")], missing=NO_MKNOD, kernel=False),
    Change("xattr-rename", _rename("small", "n"), missing=NO_MKNOD, kernel=False),
    Change("xattr-rename-over", _rename("small", "f"), missing=NO_MKNOD, kernel=False),
    # no change at all
    Change("look", _look, prep=[_unlink("d/in"), append_synced("keep/one")]),
    # renaming
    Change("rename", _rename("small", "n")),
    Change("rename-without-whiteout", _rename("small", "n"), missing={"rename-whiteout": errno.EINVAL}),
    Change("rename-upper", _rename("new", "n"), _rename("n", "n2"), prep=[_create("new"), _create("n2")]),
    Change("rename-over", _rename("small", "f")),
    Change("rename-two-steps", _rename("small", "n"), missing=NO_ONE_STEP, kernel=False),
    Change("rename-two-steps-over", _rename("small", "f"), missing=NO_ONE_STEP, kernel=False),
    Change("rename-two-steps-over-upper", _rename("small", "f"), prep=[append_synced("f")], missing=NO_ONE_STEP, kernel=False),
    Change("rename-two-steps-over-whiteout", _rename("f", "small"), prep=[_unlink("small")], missing=NO_ONE_STEP, kernel=False),
    Change("rename-new-dir-two-steps", _rename("new", "gone"), prep=[_rmtree("gone"), _mkdir("new")], missing=NO_ONE_STEP, kernel=False),
    Change("mkdir-two-steps", _mkdir("gone"), prep=[_rmtree("gone")], missing=NO_ONE_STEP, kernel=False),
    Change("rename-two-steps-to-oci-name", _rename("small", ".wh.small"), missing=NO_ONE_STEP, kernel=False, both="small"),
    Change("oci-rename-to-oci-name", _rename("small", ".wh.small"), env=OCI, kernel=False, both="small"),
    Change("rmdir-two-steps", _rmdir("e"), prep=[_unlink("e/x")], missing=NO_ONE_STEP, kernel=False),
    Change("oci-rename-name-taken", _rename("small", "n"), prep=[_create(".wh.small")], env=OCI, kernel=False, both="small"),
    Change("rename-across", _rename("d/in", "keep/one")),
    Change("rename-over-whiteout", _rename("f", "small"), prep=[_unlink("small")]),
    Change("rename-exchange", _rename("small", "f", RENAME_EXCHANGE)),
    Change("rename-whiteout", _rename("new", "n", RENAME_WHITEOUT), prep=[_create("new")]),
    Change("rename-new-dir", _rename("new", "gone"), prep=[_rmtree("gone"), _mkdir("new")]),
    Change("rename-dir", _rename("d", "n"), _rename("n", "keep/n"), opts=REDIRECT, modes=ROOT),
    Change("rename-dir-over", _rename("d", "e"), prep=[_unlink("e/x")], opts=REDIRECT, modes=ROOT),
    Change("rename-dir-over-new", _rename("n1", "n2"), prep=[_mkdir("n1"), _mkdir("n2")]),
    Change("rename-dir-over-whiteout", _rename("d", "gone"), prep=[_rmtree("gone")], opts=REDIRECT, modes=ROOT),
    Change("rename-dir-exchange", _rename("d", "keep/one", RENAME_EXCHANGE), opts=REDIRECT, modes=ROOT),
    # hard links of a lower
    Change("index-write", append_synced("h1"), opts=INDEX, modes=ROOT, late=("h1", "h2", "hd/h3")),
    Change("index-chmod", _chmod("hd/h3"), prep=[lambda ov: lstat(ov.m("h1"))], opts=INDEX + "," + META, modes=ROOT),
    Change("index-link", _link("h2", "h4"), opts=INDEX, modes=ROOT),
    Change("index-unlink", _unlink("h1"), _unlink("h2"), _unlink("hd/h3"), opts=INDEX, modes=ROOT),
    Change("index-rename", _rename("h1", "n"), _rename("small", "h2"), opts=INDEX, modes=ROOT),
]


def changes():
    return [c for c in ALL_CHANGES if ovtest.MODE in c.modes]


def sample(change, calls, default):
    """Numbers of the calls that are tried, from 1: one of OV_FAULTS_SAMPLE, others in each change and mode."""
    of = int(os.environ.get("OV_FAULTS_SAMPLE", default))
    first = zlib.crc32((change.name + ovtest.MODE).encode()) % of
    return range(1 + (first if first < len(calls) else first % max(len(calls), 1)), len(calls) + 1, of)


class Layers(Overlay):
    """One lower for all changes, with a fresh upper for each, on the program that can fail."""

    def __init__(self, supervise=False, client_cpu=0):
        super().__init__(lower_spec(), mount=False, program=faulty_program())
        self.supervise, self.client_cpu = supervise, client_cpu
        self.page = Page(os.path.join(self.base, "page"))
        self.plain = ovtest.program()
        self.n = 0
        self.lower_before = tree_snapshot(self.l(), ino=True)

    def option_string(self, opts=None):
        return super().option_string(opts) + ",client_cpu=%d" % self.client_cpu + ("" if self.supervise else ",nosupervise")

    def fresh(self, change):
        """New upper and work directories with CHANGE prepared, mounted; nothing fails yet."""
        self.n += 1
        self.upper, self.work = self._mkdir("u%d" % self.n), self._mkdir("w%d" % self.n)
        self.program = faulty_program()
        self.env = dict(os.environ, OV_FAULT_PAGE=self.page.path, **(change.env or {}))
        for call, error in (change.missing or {}).items():
            self.page.fail(error, sticky=True, only=call)
        self.mount(change.opts)
        self.page.rest()
        for step in change.prep:
            step(self)
        return self

    def plainly(self, change):
        """Mount the same again with the program that is delivered."""
        self.program = self.plain
        self.env = dict(os.environ, **(change.env or {}))
        return self.mount(change.opts)

    def drop(self):
        """Away with the upper; the daemon may be dead."""
        if self.mounted:
            umount2(self.mnt, MNT_DETACH)
            self.mounted = False
        self.wait_daemon()
        remove_tree(self.upper)
        remove_tree(self.work)

    def cleanup_mount(self):
        """After a test that failed half way."""
        self.page.rest()
        for path in ovtest._mounts_below(self.base):
            force_umount(path)
        self.mounted = False
        with contextlib.suppress(OSError):
            self.kill_daemon()
        for pid in self.daemons:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
        self.daemons = set()
        remove_tree(self.upper)
        remove_tree(self.work)

    def view(self, path=None):
        snap = tree_snapshot(path or self.mnt, dir_times=False)
        for a in snap.values():
            if a.get("mtime", 0) > NOW:
                a["mtime"] = "now"
        return snap

    def states(self, change):
        """The view before the first step, and after each, with nothing failing."""
        self.fresh(change)
        out = [self.view()]
        for step in change.steps:
            step(self)
            out.append(self.view())
        self.umount()
        self.plainly(change)
        assert_same(self.view(), out[-1], "after remount", "before")
        self.umount()
        self.drop()
        return out

    def calls(self, change, classes, do):
        """The calls that CHANGE makes when DO(self, change) does it; and the crash points that it passes."""
        self.fresh(change)
        self.page.watch(classes)
        do(self, change)
        calls, points = self.page.calls(), self.page.reached()
        self.page.rest()
        self.umount()
        self.drop()
        return calls, points

    def check_lower(self):
        assert_same(tree_snapshot(self.l(), ino=True), self.lower_before, "lower after", "before")
