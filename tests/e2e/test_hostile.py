#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile layers: whatever they hold, nothing outside them is opened, the errors are sane, and the daemon goes on.

Beside the layers of each test lies a tree with a tripwire: inotify tells of every open, read and change in it.
"""

import resource

from ovtest import *

IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_OPEN, IN_CREATE, IN_DELETE, IN_MOVE = 1, 2, 4, 0x20, 0x100, 0x200, 0xc0
IN_NONBLOCK, IN_DONT_FOLLOW = 0o4000, 0x02000000
SECRET = "what lies outside"
REFUSED = (errno.EIO, errno.EINVAL, errno.EPERM, errno.ENAMETOOLONG, errno.ESTALE, errno.ENOENT, errno.ELOOP,
           errno.ENOTDIR, errno.EXDEV, errno.EACCES)
OURS = "how it meets hostile layers"


class Outside:
    """The tree outside and its tripwire. Nothing may follow a symbolic link to it while it is armed."""

    def __init__(self, ov):
        self.top = os.path.join(ov.base, "outside")
        os.mkdir(self.top)
        spec = {"secret": SECRET, "sub": {"secret": SECRET, "deep": {"secret": SECRET, "file": SECRET}},
                "c1": {"c2": {"c3": {"file": SECRET}, "file": SECRET}, "file": SECRET}, "file": SECRET,
                "c2": {"c3": {"file": SECRET}}, "c3": {"file": SECRET}, "empty": {}}
        populate(self.top, spec)
        self.before = tree_snapshot(self.top)
        self.fd = None

    def arm(self):
        self.fd = _check_fd(libc.inotify_init1(IN_NONBLOCK))
        self.paths = {}
        for d, dirs, files in os.walk(self.top):
            for p in [d] + [os.path.join(d, f) for f in files]:
                wd = _check_fd(libc.inotify_add_watch(self.fd, os.fsencode(p), IN_ACCESS | IN_MODIFY | IN_ATTRIB | IN_OPEN |
                                                      IN_CREATE | IN_DELETE | IN_MOVE | IN_DONT_FOLLOW))
                self.paths[wd] = os.path.relpath(p, self.top)
        self.events()   # those of the walk itself
        return self

    def events(self):
        out = set()
        while True:
            try:
                buf = os.read(self.fd, 65536)
            except BlockingIOError:
                return sorted(out)
            at = 0
            while at < len(buf):
                wd, mask, _, length = struct.unpack_from("iIII", buf, at)
                at += 16 + length
                out.add("%s %#x" % (self.paths.get(wd, wd), mask))

    def untouched(self):
        eq(self.events(), [], "the tripwire: outside the layers was opened or changed")
        os.close(self.fd)
        assert_same(self.before, tree_snapshot(self.top), "outside before", "outside after")


def _check_fd(r):
    if r < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    return r


class Hostile(Overlay):
    """An overlay with the tree outside; SPEC may be functions of its path, that give the layers."""

    def __init__(self, lowers=None, upper=None, **kw):
        mount_it = kw.pop("mount", True)
        super().__init__([None] * (len(lowers) if isinstance(lowers, list) else 1), None, mount=False, **kw)
        self.outside = Outside(self)
        specs = lowers if isinstance(lowers, list) else [lowers]
        for path, spec in list(zip(self.lowers, specs)) + ([(self.upper, upper)] if self.upper else []):
            spec = spec(self.outside.top) if callable(spec) else spec
            populate(path, spec)
        self._want_mount = mount_it
        self.outside.arm()

    def mount(self, *args, **kw):
        if kw.get("argv") is None and args[:1] == () and IS_KERNEL and not is_root_mode() and self.opts:
            skip("needs privilege in the kernel")
        return super().mount(*args, **kw)

    def __exit__(self, *exc):
        if exc[0] is None:
            if self.mounted:
                alive(self)
                self.umount()
            self.outside.untouched()
        super().__exit__(*exc)


def alive(ov):
    """The mount answers, and can be written to if it has an upper."""
    os.statvfs(ov.mnt)
    os.listdir(ov.mnt)
    if ov.upper:
        write(ov.m("alive"), "yes")
        eq(read(ov.m("alive")), b"yes")
        os.unlink(ov.m("alive"))


def outcome(fn, *args):
    """The value, or the name of the errno."""
    try:
        return fn(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)


def read_nofollow(p):
    fd = os.open(p, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        data = os.read(fd, 65536)
        ok(SECRET.encode() not in data, "%s: shows what lies outside" % p)
        return data
    finally:
        os.close(fd)


def look(p, depth=40):
    """Everything to be seen at and below P, without following links: {relative path: what}."""
    out = {}

    def visit(path, rel, left):
        st = outcome(os.lstat, path)
        if isinstance(st, str):
            out[rel] = st
        elif stat.S_ISDIR(st.st_mode):
            inside = outcome(names, path)
            out[rel] = "dir" if isinstance(inside, list) else "dir " + inside
            for n in inside if isinstance(inside, list) and left else []:
                visit(os.path.join(path, n), n if rel == "." else os.path.join(rel, n), left - 1)
        elif stat.S_ISREG(st.st_mode):
            data = outcome(read_nofollow, path)
            out[rel] = "file %s" % data
        elif stat.S_ISLNK(st.st_mode):
            out[rel] = "link %s" % outcome(os.readlink, path)
        else:
            out[rel] = "%o" % st.st_mode
    visit(p, ".", depth)
    return out


def assault(p, also=()):
    """Every kind of change of P and below it; refusals are fine, hanging, crashing and any other errno are not."""
    refused = set(REFUSED) | set(also) | {errno.ENOTEMPTY, errno.EISDIR, errno.ENODATA, errno.EOPNOTSUPP, errno.ENXIO,
                                          errno.EEXIST}

    def may(fn, *args, **kw):
        try:
            return fn(*args, **kw)
        except OSError as e:
            if e.errno not in refused:
                raise
    st = may(os.lstat, p)
    if st is None:
        return
    may(os.listxattr, p, follow_symlinks=False)
    if stat.S_ISLNK(st.st_mode):
        may(os.readlink, p)
    if stat.S_ISDIR(st.st_mode):
        for n in may(os.listdir, p) or []:
            assault(os.path.join(p, n), also)
        may(os.mkdir, os.path.join(p, "made"))
        may(write, os.path.join(p, "made", "file"), "x")
    elif stat.S_ISREG(st.st_mode):
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
            fd = may(os.open, p, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            if fd is not None:
                data = may(os.pread, fd, 100000, 0) if not flags & os.O_WRONLY else None
                ok(SECRET.encode() not in (data or b""), "%s: shows what lies outside" % p)
                if flags:
                    may(os.write, fd, b"!")
                    may(os.fchmod, fd, 0o600)
                    may(os.fsync, fd)
                may(os.close, fd)
        may(os.link, p, p + ".link")
    may(os.utime, p, follow_symlinks=False)
    may(os.chown, p, 0, 0, follow_symlinks=False)
    may(os.setxattr, p, "user.new", b"x", follow_symlinks=False)
    may(os.rename, p, p + ".moved")
    may(os.rename, p + ".moved", p)
    if not stat.S_ISDIR(st.st_mode):
        may(os.unlink, p)
    else:
        may(shutil.rmtree, os.path.join(p, "made"), True)
        may(os.rmdir, p)


@test(modes=("root",))
def test_the_tripwire_itself():
    """It must see an open, a read, a change, and a listing."""
    with Overlay({}) as ov:
        for act in (lambda o: read(o.top + "/sub/secret"), lambda o: os.listdir(o.top + "/c1"),
                    lambda o: os.chmod(o.top + "/file", 0o600), lambda o: touch(o.top + "/new"),
                    lambda o: os.close(os.open(o.top + "/sub/deep", os.O_RDONLY))):
            out = Outside(ov).arm()
            act(out)
            try:
                out.untouched()
            except Failed:
                shutil.rmtree(out.top)
                continue
            raise Failed("it saw nothing")


# --- redirects

def bad_redirects(out):
    """Values that lead, or would by a naive join, out of the layer."""
    up = "/".join([".."] * 12)
    return ["..", ".", "", "/", "//", "../outside", "../../outside", "/..", "/../outside", "/a/../../outside", up + out,
            "/" + up + out, out, out + "/sub", "./x", "/./x", "a/b", "a/../../outside", "/lnk", "/lnk/sub", "/rel/sub",
            "lnk", "rel", "/inner/lnk/sub", "/inner/rel/deep", "/a/b/../../../outside", "/a//b", "/a/b/", "//a", "a\0b",
            "/a\0/../outside", "x" * 255, "x" * 256, "/" + "x" * 256, "/" + "/".join(["d"] * 500), "/" + "y/" * 1500 + "z",
            "/file/x", "/fifo", "/dev", "/whiteout", "\n", "/\xff\xfe", "/lnk/../a"]


def below(out):
    return {"lnk": Sym(out), "rel": Sym("../outside"), "a": {"b": {"in-b": ""}}, "file": "plain", "fifo": Fifo(),
            "inner": {"lnk": Sym(out), "rel": Sym("../../outside/sub")}, "d": {}, "outside": {"decoy": "decoy"},
            "x": {"decoy": "decoy"}}


@test(not_kernel="it cannot list a directory with a redirect that it refuses")
def test_redirects_of_directories_stay_inside():
    def top(out):
        return {"t%d" % i: Folder({"own": "own"}, xattrs={"OVL.redirect": os.fsencode(b)})
                for i, b in enumerate(bad_redirects(out))}
    for upper in (False, True):
        lowers = [{"z": ""}, below] if upper else [top, below]
        with Hostile(lowers, top if upper else None, opts="redirect_dir=on") as ov:
            for i, b in enumerate(bad_redirects(ov.outside.top)):
                seen = look(ov.m("t%d" % i))
                ok(seen["."] == "dir" or seen["."].removeprefix("dir ") in {errno.errorcode[e] for e in REFUSED}, seen["."])
                extra = set(seen) - {".", "own"}
                if b not in ("/a//b", "/a/b/", "//a", "/d", "/dev"):   # the kernel is lax with slashes
                    eq(sorted(extra), [], "redirect %r" % b)
                ok(seen.get("own", "file b'own'") == "file b'own'", seen)
                assault(ov.m("t%d" % i))


@test
def test_redirects_of_metacopies_stay_inside():
    def top(out):
        return {"t%d" % i: File("", xattrs={"OVL.metacopy": b"", "OVL.redirect": os.fsencode(b)})
                for i, b in enumerate(bad_redirects(out) + [out + "/secret", "../outside/secret", "/lnk/secret",
                                                            "/inner/lnk/secret", "/lnk", "/rel/secret"])}
    for data in (False, True):
        with Hostile([{"z": ""}, below], top, opts="redirect_dir=on,metacopy=on", ndata=int(data)) as ov:
            for n in names(ov.upper):
                os.truncate(ov.u(n), 100)
            for n in names(ov.upper):
                if n.startswith("t"):
                    got = outcome(read_nofollow, ov.m(n))
                    ok(got in (b"plain", b"plain" + bytes(95)) or isinstance(got, str) and
                       getattr(errno, got) in REFUSED, "%s: %r" % (getx(ov.u(n), xattr_prefix() + "redirect"), got))
                    assault(ov.m(n))


@test
def test_loops_and_chains_of_redirects_end():
    """Directories whose redirects lead to each other, to themselves, to their parents, through many layers."""
    n = 12
    layer = {"a": Folder({"in": ""}, xattrs={"OVL.redirect": b"/b"}),
             "b": Folder({"in": ""}, xattrs={"OVL.redirect": b"/a"}),
             "self": Folder({"in": ""}, xattrs={"OVL.redirect": b"/self"}),
             "rel": Folder({"in": "", "up": Folder({}, xattrs={"OVL.redirect": b"/rel"})}, xattrs={"OVL.redirect": b"rel"}),
             "p": Folder({"q": Folder({"r": Folder({}, xattrs={"OVL.redirect": b"/p"})}, xattrs={"OVL.redirect": b"/p/q/r"})}),
             "m": File("x", xattrs={"OVL.metacopy": b"", "OVL.redirect": b"/m2"}),
             "m2": File("x", xattrs={"OVL.metacopy": b"", "OVL.redirect": b"/m"})}
    with Hostile([layer] * n, opts="redirect_dir=on,metacopy=on") as ov:
        seen = look(ov.mnt, 60)
        for d in ("a", "b", "self", "rel"):
            ok(seen[d] == "dir", "%s: %s" % (d, seen[d]))
            ok(d + "/in" in seen, "%s: %s" % (d, seen))
        ok(max(p.count("/") for p in seen) < 3 * n, "the descent does not end")
        eq((seen["m"], seen["m2"]), ("EIO", "EIO"), "metacopies without data")
        if IS_OURS and is_root_mode():
            ov.umount()
            with ov.by_kernel("redirect_dir=on,metacopy=on") as k:
                eq(look(k, 60), seen, "as the kernel")
            ov.mount()
        for d in names(ov.mnt):
            assault(ov.m(d))


# --- symbolic links in the place of directories

@test
def test_links_below_directories_end_the_merge():
    """Where an upper layer has a directory and a lower one a link to outside, at every component."""
    path = ["c1", "c2", "c3", "file"]

    def deep(parts, leaf):
        return {parts[0]: deep(parts[1:], leaf)} if parts else leaf
    for i in range(4):
        for target in (lambda out: out, lambda out: "../" * (i + 1) + "outside", lambda out: out + "/" + "/".join(path[:i + 1])):
            with Hostile([deep(path[:3], {"own": "own"}),
                          lambda out: deep(path[:i], {path[i]: Sym(target(out))})]) as ov:
                want = {".": "dir", "c1": "dir", "c1/c2": "dir", "c1/c2/c3": "dir", "c1/c2/c3/own": "file b'own'"}
                if i == 3:
                    want["c1/c2/c3/file"] = "link " + target(ov.outside.top)
                eq(look(ov.mnt), want)
                if i < 3:
                    assault(ov.m("c1"))


def swap_cases(out):
    """What stands in the place of a component between lookup and use: maker of it."""
    return {"link": lambda p: os.symlink(out, p), "relative": lambda p: os.symlink(os.path.relpath(out, os.path.dirname(p)), p),
            "fifo": os.mkfifo, "file": lambda p: write(p, "planted"), "gone": lambda p: None,
            "deeper link": lambda p: os.symlink(out + "/c1", p), "loop": lambda p: os.symlink(os.path.basename(p), p)}


def inside(ov, fn, *args):
    """FN in a process for which the mount is all there is: it cannot follow a link to outside itself."""
    def go():
        os.chroot(ov.mnt)
        os.chdir("/")
        return fn(*args)
    return in_child(go)


def use_all(fd):
    """What is below /c1 and open as FD: through what the kernel still knows, and anew."""
    for p in ("/c1", "/c1/c2", "/c1/c2/c3"):
        look(p, 1)
        for name, fn in (("mkdir", os.mkdir), ("write", lambda q: write(q, "x"))):
            got = outcome(fn, os.path.join(p, "new-" + name))
            ok(got is None or getattr(errno, got) in REFUSED + (errno.EEXIST,), "%s in %s: %s" % (name, p, got))
    got = outcome(os.pread, fd, 1000, 0)
    ok(isinstance(got, str) or SECRET.encode() not in got, got)
    for what, act in (("pwrite", lambda: os.pwrite(fd, b"!", 0)), ("fchmod", lambda: os.fchmod(fd, 0o600)),
                      ("fsync", lambda: os.fsync(fd))):
        got = outcome(act)
        ok(not isinstance(got, str) or getattr(errno, got) in REFUSED + (errno.ESPIPE, errno.EISDIR), "%s of the open file: %s" % (what, got))
    assault("/c1", (errno.ESPIPE,))


@test(only_ours=OURS, timeout=240)
def test_things_planted_between_lookup_and_use():
    """Each component of a path, in a lower and in upper, is exchanged under a mount that knows it and has closed its fd."""
    path = ["c1", "c2", "c3", "file"]
    layer = {"c1": {"c2": {"c3": {"file": "mine", "other": "o"}}}, "many": {"d%d" % i: {"f": ""} for i in range(80)}}
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    for place in ("lower", "upper"):
        for i in range(4):
            for what in swap_cases(""):
                resource.setrlimit(resource.RLIMIT_NOFILE, (100, limit[1]))
                with Hostile(layer if place == "lower" else {}, layer if place == "upper" else {},
                             mount=False) as ov:
                    prlimit = ["prlimit", "--nofile=100:100"]
                    ov.mount(argv=prlimit + ov.command() if shutil.which("prlimit") else None)
                    look(ov.m("c1"))
                    fd = os.open(ov.m(*path), os.O_RDWR)
                    look(ov.m("many"))       # evicts the fds on c1 and below
                    victim = os.path.join(ov.lowers[0] if place == "lower" else ov.upper, *path[:i + 1])
                    os.rename(victim, os.path.join(ov.base, "aside"))
                    swap_cases(ov.outside.top)[what](victim)
                    try:
                        inside(ov, use_all, fd)
                    except Failed as e:
                        raise Failed("%s, %s in the place of %s: %s" % (place, what, path[i], e)) from e
                    outcome(os.close, fd)   # what could not be written back is told here


@test(modes=("root",), only_ours=OURS)
def test_a_device_planted_in_a_lower_is_not_opened():
    with Hostile({"f": "mine", "g": "mine"}) as ov:
        lstat(ov.m("f"))
        lstat(ov.m("g"))
        for n in "fg":
            os.unlink(ov.l(n))
        os.mknod(ov.l("f"), 0o666 | stat.S_IFCHR, os.makedev(1, 5))   # zeros without end
        os.mkfifo(ov.l("g"))
        for n in "fg":
            fails(REFUSED + (errno.ESPIPE,), read, ov.m(n))
            fails(REFUSED, append, ov.m(n), "x")
            eq(names(ov.upper), [])


@test(only_ours=OURS, timeout=120)
def test_a_racing_exchange_never_leads_out():
    """A component flips between directory and link all the time while all is used, by one whose own lookups follow no link."""
    with Hostile({"c1": {"c2": {"c3": {"file": "mine"}}, "d": {}}}, {"c1": {"x": ""}}, opts="timeout=0", mount=False) as ov:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        ov.mount()
        pids = []
        for layer in (ov.lowers[0], ov.upper):
            os.symlink(ov.outside.top, os.path.join(layer, "flip"))
            pid = os.fork()
            if pid == 0:
                try:
                    while True:
                        renameat2(layer + "/c1", layer + "/flip", RENAME_EXCHANGE)
                finally:
                    os._exit(0)
            pids.append(pid)
        end = time.monotonic() + 5
        mnt = os.open(ov.mnt, os.O_RDONLY)
        n = 0
        try:
            while time.monotonic() < end:
                for p in ("c1/c2/c3/file", "c1/c2/file", "c1/file", "c1/secret", "c1/sub/secret", "c1/new%d" % n, "c1", "c1/c2"):
                    n += 1
                    flags = os.O_RDWR | (os.O_CREAT if "new" in p else 0) if p.endswith(("file", "secret")) or "new" in p \
                        else os.O_RDONLY
                    fd = outcome(open_without_links, mnt, p, flags)
                    if isinstance(fd, int):
                        got = outcome(os.pread, fd, 1000, 0) if flags & os.O_RDWR else outcome(os.listdir, fd)
                        ok(SECRET.encode() not in got if isinstance(got, bytes) else "secret" not in got, "%s: %s" % (p, got))
                        outcome(os.pwrite, fd, b"!", 0) if flags & os.O_RDWR else None
                        outcome(os.fchmod, fd, 0o700)
                        os.close(fd)
        finally:
            os.close(mnt)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        ok(n > 100)


def open_without_links(dirfd, path, flags):
    """openat2 with RESOLVE_NO_SYMLINKS."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0o644 if flags & os.O_CREAT else 0, 4)
    r = libc.syscall(437, dirfd, os.fsencode(path), how, len(how))
    if r < 0:
        raise OSError(ctypes.get_errno(), "openat2")
    return r


# --- markers

XATTRS = ("opaque", "redirect", "origin", "metacopy", "nlink", "impure", "uuid", "upper", "protattr", "whiteout", "plain")


def wrong_values(name):
    """Values of every length that could be read past, or into too small a buffer."""
    proper = {"origin": b"\0\xfb\x1d\0\x01" + b"u" * 16 + b"12345678", "upper": b"\0\xfb\x1d\4\x01" + b"u" * 16 + b"12345678",
              "metacopy": b"\0\x24\0\x01" + b"d" * 32, "nlink": b"U+1", "opaque": b"y", "impure": b"y", "redirect": b"/a",
              "uuid": b"u" * 16, "protattr": b"ai", "whiteout": b"y", "plain": b"y"}[name]
    out = [proper[:n] for n in range(len(proper))]
    out += [proper + b"\0", proper + b"x", proper * 2, b"\xff" * len(proper), b"\0" * len(proper), b"\0", b"\xff"]
    out += [bytes([c]) * n for n in (16, 33, 255, 256, 257, 1025, 2000) for c in (0x79, 0xff)]
    if name in ("origin", "upper", "metacopy"):
        for at in range(5):
            for v in (0, 1, 8, 0x1c, 0x1e, 0x80, 0xff):
                out.append(proper[:at] + bytes([v]) + proper[at + 1:])
    if name == "nlink":
        out += [b"U+", b"L-", b"U+-1", b"U+99999999999999999999", b"L-2147483649", b"U+2147483648", b"X+1", b"U1", b"U+1 "]
    if name == "opaque":
        out += [b"x", b"X", b"Y", b"n", b"yy", b"xy"]
    return sorted(set(out))


def marked(name, prefix=None):
    """A file and a directory with each of the values."""
    key = (prefix or "OVL.") + name
    spec = {}
    for i, v in enumerate(wrong_values(name)):
        spec["f%03d" % i] = File("data", xattrs={key: v})
        spec["d%03d" % i] = Folder({"in": "in"}, xattrs={key: v})
        spec["e%03d" % i] = File("", xattrs={key: v})
    return spec


def try_marks(name, where, opts):
    spec, low = marked(name), {"a": {"b": ""}}
    for n in list(marked(name)):
        low[n] = {"low": "low"} if n[0] == "d" else "of below"
    lowers = {"lower": [spec, low], "middle": [{"z": ""}, spec, low], "upper": [low], "lowest": [{"a": {}}, spec]}[where]
    with Hostile(lowers, spec if where == "upper" else None, opts=opts) as ov:
        before = tree_snapshot(ov.lowers[-1])
        seen = look(ov.mnt)
        for p, what in seen.items():
            code = what.split()[-1]
            ok(not code.startswith("E") or getattr(errno, code, 0) in REFUSED, "%s: %s" % (p, what))
            if name not in ("redirect", "metacopy"):
                ok(not code.startswith("E"), "%s: %s" % (p, what))
        for n in sorted(spec):
            if exists(ov.m(n)):
                eq([x for x in listx(ov.m(n)) if "overlay." in x], [], "private names show")
        if IS_OURS and is_root_mode():
            ov.umount()
            with ov.by_kernel(opts) as k:
                theirs = look(k)
            ov.mount()
            other = {p: (seen.get(p), theirs.get(p)) for p in set(seen) | set(theirs) if seen.get(p) != theirs.get(p)}
            if name == "redirect":   # refused here what the kernel reads up to a NUL or fails to look up
                other = {p: v for p, v in other.items() if "/" not in p and not v[0].split()[-1].startswith("E")}
            if name == "metacopy":   # refused by both, each after its own checks; a size that is not the data's is anyone's
                other = {p: v for p, v in other.items() if not v[0].startswith("E") and v[0] != "file b''" and
                         not (v[0].startswith("file") and v[1].startswith("file"))}
            if name == "whiteout":   # the kernel lists it and does not find it where no directory is marked opaque=x
                other = {p: v for p, v in other.items() if v != ("file b''", "ENOENT")}
            eq(other, {}, "ours and the kernel's")
        for n in sorted(spec):
            assault(ov.m(n))
        assert_same(before, tree_snapshot(ov.lowers[-1]), "lower before", "lower after")
        ov.remount()
        look(ov.mnt)


def _marks(name):
    def run_all_places():
        for where in ("lower", "middle", "upper", "lowest"):
            for opts in ("", "redirect_dir=on,metacopy=on"):
                if name not in ("redirect", "metacopy", "opaque", "whiteout") and (where == "middle" or not opts):
                    continue   # they mean the same there
                if IS_KERNEL and not is_root_mode():
                    opts = ""
                try_marks(name, where, opts)
    run_all_places.__name__ = "test_wrong_values_of_" + name
    run_all_places.__doc__ = "overlay.%s of every wrong length and value, in every layer, with and without redirects." % name
    theirs = {"redirect": "it cannot list a directory with a redirect that it refuses", "whiteout": "it lists what it hides",
              "metacopy": "it cannot list a directory with a metacopy that it refuses"}
    return test(run_all_places, timeout=300, not_kernel=theirs.get(name))


for _name in XATTRS:
    _marks(_name)


@test(only_ours=OURS)
def test_both_prefixes_of_every_mark_at_once():
    """All marks together, spelled with both prefixes as far as they can be set here."""
    def spec(out):
        made = {}
        for i in range(40):
            xattrs = {}
            for k, name in enumerate(XATTRS):
                values = wrong_values(name)
                v = values[(i * 7 + k) % len(values)][:60]
                xattrs["user.overlay." + name] = v
                if is_root_mode():
                    xattrs["trusted.overlay." + name] = v
            made["d%d" % i] = Folder({"in": ""}, xattrs=xattrs)
            made["f%d" % i] = File("x", xattrs=xattrs)
        return made
    for opts in ("", "redirect_dir=on,metacopy=on", "userxattr"):
        with Hostile([spec, spec], spec, opts=opts) as ov:
            look(ov.mnt)
            for n in names(ov.mnt):
                assault(ov.m(n))


# --- whiteouts, and names that look like them

@test
def test_odd_whiteouts():
    """Whiteouts of any mode hide; nodes that only resemble them do not."""
    low = {n: "below" for n in "abcdefghi"}
    for mode in (0, 0o777, 0o4755, 0o2000, 0o7777, 0o1000):
        top = {"a": Chr(0, 0, mode=mode), "c": Fifo(mode=0), "d": Sock(mode=0), "e": File("", mode=0), "f": Folder({}, mode=0o700)}
        if is_root_mode():
            top.update({"g": Chr(0, 1, mode=mode), "h": Chr(1, 0, mode=mode), "i": Blk(0, 0, mode=mode)})
        if not is_root_mode() and mode == 0o4755:
            top["a"] = Chr(0, 0, mode=mode, uid=5, gid=6)
        for lowers, upper in (([top, low], None), ([low], top)):
            with Hostile(lowers, upper) as ov:
                ok(not exists(ov.m("a")), "mode %o" % mode)
                eq(sorted(set(names(ov.mnt)) ^ set(low)), ["a"])
                eq(stat.S_ISFIFO(lstat(ov.m("c")).st_mode), True)
                eq(lstat(ov.m("e")).st_size, 0)
                if is_root_mode():
                    eq([oct(stat.S_IFMT(lstat(ov.m(n)).st_mode)) for n in "ghi"], ["0o20000", "0o20000", "0o60000"])
                write(ov.m("a"), "new")
                eq(read(ov.m("a")), b"new")
                os.unlink(ov.m("a"))
                ok(not exists(ov.m("a")))


@test(only_ours="the kernel's overlay knows nothing of .wh. files")
def test_names_that_look_like_wh():
    def top(out):
        return {".wh.": "", ".wh..": "", ".wh...": "", ".wh.....": "", ".wh..wh.": "", ".wh..wh..": "", ".wh..wh.aufs": "",
                ".wh.." + "x" * 200: "", ".wh." + "y" * 251: "", ".wh.link": Sym(out), ".wh.fifo": Fifo(), ".wh.dir": {"in": ""},
                ".wh.full": "not empty", ".wh.chr": Chr(0, 0, mode=0), ".wh.odd": File("", mode=0), ".wh.real": "",
                ".wh.nl\n": "", "d": {".wh..wh..opq": Sym(out)}, "e": {".wh..wh..opq": {"x": ""}}, "f": {".wh..wh..opq": "full"},
                "g": {".wh..wh..opq": File("", mode=0)}, "h": {".wh..wh..opq": Fifo()}, ".WH.real2": "", ".whreal3": "",
                "wh.real4": "", "i": {".wh..wh..opq": ""}}
    gone = {"odd", "real", "nl\n"}
    low = {n: {"low": "low"} for n in ("link", "fifo", "dir", "full", "chr", "odd", "real", "nl\n", "real2", "real3", "real4", "d",
                                       "e", "f", "g", "h", "i")}
    for lowers, upper in (([top, low], None), ([low], top), ([{"z": ""}, top, low], {"q": ""})):
        with Hostile(lowers, upper) as ov:
            got = set(names(ov.mnt))
            eq(sorted(gone & got), [], "hidden by empty .wh. files")
            eq(sorted(set(low) - gone - got), [], "not hidden by what is no empty file")
            for d in ("d", "f", "h"):
                ok("low" in names(ov.m(d)), "%s is no opaque directory" % d)
            for d in ("g", "i"):
                ok("low" not in names(ov.m(d)), "%s is one" % d)
            for n in got:
                if n.startswith(".wh."):
                    outcome(os.lstat, ov.m(n))
            for n in gone:
                fails(errno.ENOENT, os.lstat, ov.m(n))
            for n in (".", "..", ".wh.", ".wh..", ".wh...", ".wh..wh..opq"):
                outcome(os.lstat, ov.m(n))
            look(ov.mnt)
            for n in sorted(got):
                assault(ov.m(n))
            for n in (".wh.", ".wh..", ".wh...", ".wh..wh.", ".wh..wh..opq", ".wh..wh..x"):
                p = ov.m(n)
                outcome(os.unlink, p)
                outcome(shutil.rmtree, p)
                for make, remove in ((lambda: write(p, ""), os.unlink), (lambda: os.mkdir(p), os.rmdir)):
                    if outcome(make) is None:
                        ok(exists(p), "made and not there: %r" % n)
                        remove(p)
                        ok(not exists(p), "removed and there: %r" % n)


# --- owner and mode kept in xattrs

STATS = [b"", b":", b"::", b":::", b"0", b"0:0", b"0:0:", b"0:0:9", b"0:0:0755:", b"0:0:0755:fil", b"0:0:0755:filex", b"-1:0:755",
         b"4294967295:0:755", b"4294967296:0:755", b"99999999999999999999:0:755", b"0:0:77777777777", b"0:0:755\0", b"0:0:755\n",
         b"0:0:0755:symlink", b"0:0:0755:dir", b"0:0:0755:file", b"0:0:0755:pipe", b"0:0:0755:socket", b"0:0:0755:block",
         b"0:0:0755:block-8-0", b"0:0:0755:char-1-3", b"0:0:0755:char-0-0", b"0:0:0755:block-8", b"0:0:0755:block-8-",
         b"0:0:0755:block-99999999999-0", b"0:0:0755:char-1-3-5", b"1:2:4755", b"1:2:7777:file", b" 0:0:755", b"0x0:0:755",
         b"0:0:755" + b"0" * 300, b"9" * 1000, b"\xff" * 100, b"\0" * 20, b"5:6:0640:file" + b"\0" * 40]


@test(only_ours=OURS)
def test_stat_overrides_of_every_kind():
    keys = ["user.containers.override_stat", "user.fuseoverlayfs.override_stat"]
    if is_root_mode():
        keys.append("security.fuseoverlayfs.override_stat")
    for key in keys:
        def spec(out):
            made = {}
            for i, v in enumerate(STATS):
                made["f%d" % i] = File("data", xattrs={key: v})
                made["d%d" % i] = Folder({"in": "in"}, xattrs={key: v})
                made["e%d" % i] = File(out + "/secret", xattrs={key: v})
            made["l"] = Sym(out)
            return made
        for opts, upper in (("", None), ("xattr_permissions=2", spec)):
            with Hostile(spec, upper, opts=opts, mount=False) as ov:
                for layer in ov.lowers + [ov.upper]:
                    setx(layer, key, b"0:0:0755")
                ov.mount()
                seen = look(ov.mnt)
                eq([p for p in seen if p.startswith("d") and "/" not in p and not seen[p].startswith("dir")], [],
                   "a directory stays one")
                if "containers" in key and upper is None:
                    st = lstat(ov.m("f%d" % STATS.index(b"1:2:4755")))
                    eq((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)), (1, 2, 0o4755))
                for n in names(ov.mnt):
                    assault(ov.m(n), (errno.EOVERFLOW,))   # an id that is none


# --- ACLs

@test
def test_malformed_acls_are_refused():
    good = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", t, p, i) for t, p, i in
                                           ((1, 7, 2**32 - 1), (2, 5, 3), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1),
                                            (32, 5, 2**32 - 1)))
    bad = [good[:n] for n in range(1, len(good)) if n != 4]
    bad += [good + b"x", struct.pack("<I", 1) + good[4:], struct.pack("<I", 3) + good[4:], b"\xff" * len(good), good + good[4:],
            good[:4] + good[12:], good[:4] + struct.pack("<HHI", 64, 7, 0) + good[4:], b"\0" * 44, b"\xff" * 3000]
    with Hostile({"f": "x", "d": {}}, {"u": "x", "v": {}}) as ov:
        for n in ("f", "d", "u", "v"):
            for kind in ("system.posix_acl_access", "system.posix_acl_default"):
                for v in bad:
                    got = outcome(setx, ov.m(n), kind, v)
                    ok(got in ("EINVAL", "ENOTSUP", "EACCES", "EPERM", "ERANGE", "E2BIG"), "%s %r: %s" % (n, v, got))
            setx(ov.m(n), "system.posix_acl_access", good)
            eq(getx(ov.m(n), "system.posix_acl_access"), good)


# --- work directory, mounts inside, names

@test
def test_hostile_work_directory():
    """Links to outside, deep trees and locked directories among the leftovers: they go, and what they point to stays."""
    def plant(ov, how):
        work = ov.w("work")
        if how == "link":
            os.symlink(ov.outside.top, work)
            return
        if how == "file":
            write(work, "a file")
            return
        os.mkdir(work)
        os.symlink(ov.outside.top, work + "/lnk")
        os.symlink("../../outside", work + "/rel")
        os.symlink(ov.outside.top + "/secret", work + "/whiteout")
        os.symlink(ov.outside.top, work + "/#1")
        os.mkdir(work + "/#2")
        os.symlink(ov.outside.top, work + "/#2/sub")
        write(work + "/#3", "x")
        os.mkdir(work + "/locked")
        write(work + "/locked/f", "x")
        os.chmod(work + "/locked", 0)
        if how == "index":
            os.symlink(ov.outside.top, ov.w("index"))
        if how == "incompat":
            os.symlink(ov.outside.top, work + "/incompat")
    for how in ("plain", "index", "link", "file", "incompat"):
        with Hostile({"f": "x", "d": {"g": "y"}}, mount=False) as ov:
            plant(ov, how)
            try:
                ov.mount()
            except OSError as e:
                if isinstance(e, Failed):
                    raise
                continue   # refused: so be it
            append(ov.m("f"), "y")
            shutil.rmtree(ov.m("d"))
            os.mkdir(ov.m("d"))
            os.rename(ov.m("f"), ov.m("g"))
            eq(names(ov.mnt), ["d", "g"])
            ok(not os.path.islink(ov.w("work")), "the link is still there")


@test(only_ours=OURS)
def test_mounts_inside_layers_are_not_entered():
    """What is mounted inside a layer is not part of it, as for the kernel's overlay."""
    with Hostile([{"mnt": {"own": ""}, "z": ""}, {"mnt": {"low": ""}}], {"m2": {"own2": ""}}, mount=False) as ov:
        mount(ov.outside.top + "/sub", ov.l("mnt"), None, MS_BIND)
        mount(ov.outside.top + "/c1", ov.u("m2"), None, MS_BIND)
        ov.outside.events()   # those of mounting
        try:
            ov.mount()
            eq(names(ov.m("mnt")), ["low", "own"])
            look(ov.mnt)
            for n in ("mnt", "m2"):
                assault(ov.m(n), (errno.EBUSY,))
            ov.umount()
        finally:
            for p in (ov.l("mnt"), ov.u("m2")):
                umount2(p, MNT_DETACH)


@test(only_ours=OURS)
def test_system_calls_name_nothing_outside():
    """The same by another witness: strace sees what every descriptor of the daemon is on."""
    need("strace")

    def top(out):
        made = {"t%d" % i: Folder({"own": ""}, xattrs={"OVL.redirect": os.fsencode(b)}) for i, b in enumerate(bad_redirects(out))}
        made.update({"m%d" % i: File("", xattrs={"OVL.metacopy": b"", "OVL.redirect": os.fsencode(b)})
                     for i, b in enumerate(bad_redirects(out))})
        made["c1"] = {"c2": {"c3": {"file": "mine"}}}
        made["s"] = Sym(out)
        return made
    def clean(out):
        return {k: v for k, v in below(out).items() if k != "outside"}   # the decoy would look like it
    with Hostile([top, clean], top, opts="redirect_dir=on,metacopy=on", mount=False) as ov:
        log = os.path.join(ov.base, "trace")
        calls = "trace=open,openat,openat2,creat,execve,execveat,open_by_handle_at,chdir,openat2,truncate,unlinkat,renameat2"
        argv = ["strace", "-D", "-f", "-y", "-q", "-e", calls, "-o", log]
        if run(*argv, "true", check=False).returncode:
            skip("strace cannot trace here")
        ov.mount(argv=argv + ov.command(), quiet=True)
        look(ov.m("c1"))
        os.rename(ov.l("c1"), ov.base + "/aside")
        os.symlink(ov.outside.top, ov.l("c1"))
        look(ov.mnt)
        for n in names(ov.mnt):
            assault(ov.m(n))
        ov.umount(wait=False)
        for _ in range(100):
            with open(log, errors="replace") as f:
                lines = f.read().splitlines()
            if lines and "exited with" in lines[-1]:
                break
            time.sleep(0.05)
        ok(any("openat2(" in x for x in lines) and len(lines) > 500, "no trace: %d lines" % len(lines))
        bad = [x for x in lines if "outside" in x.rsplit("= ", 1)[-1]]
        eq(bad[:5], [], "descriptors outside")


if __name__ == "__main__":
    main()
