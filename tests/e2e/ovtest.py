#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""End-to-end tests of an overlay on real mounts: the runner, and what the tests need to talk to the kernel.

A test file imports this module, marks functions with @test(...), and ends with `main()`. Each test runs in
processes of its own, in a mount and a pid namespace of its own, so that a hang or a crash is one failed test and
no mount or daemon outlives it. A test runs once in each of its modes:

  root     as root, privileged (trusted xattrs, device nodes)
  userns   as root of a user namespace with ids 0..65535 mapped (as rootless containers)

Output is TAP. Environment:

  OV_TARGET   ours (default) | kernel (mount -t overlay, the reference) | path of another mount program
  OV_PROG     the fuse-overlay to test, where it is not found beside the build
  OV_SCRATCH  a directory on a real file system for the layers (default: /var/tmp, else the working directory)
  OV_MODES    modes to run, comma-separated
  OV_KEEP     set: leave the directories of failed tests
  OV_OPTS     options added to every mount

usage: test_FILE.py [-m MODE] [-k SUBSTRING] [-l] [-v]; ovtest.py runs every test file beside it.
"""

import argparse
import contextlib
import ctypes
import encodings.idna  # noqa: F401  (loaded early: the interpreter's own files may be out of reach in a user namespace)
import errno
import fcntl
import glob
import hashlib
import importlib
import linecache
import mmap  # noqa: F401
import os
import pickle
import pwd
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import traceback

MODES = ("root", "userns")
SUBID_BASE, SUBID_COUNT = 100000, 65536
HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.environ.get("OV_TARGET", "ours")
IS_KERNEL = TARGET == "kernel"
IS_OURS = TARGET == "ours"
STATS_XATTR = "user.fuse-overlay.stats"

# ---------------------------------------------------------------------------------------------------------------
# System calls that the standard library lacks

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x400, 0x1000
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE = 1, 2, 8
FALLOC_FL_ZERO_RANGE, FALLOC_FL_INSERT_RANGE = 16, 32
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x80086601, 0x40086602, 0x801c581f, 0x401c5820
FS_APPEND_FL, FS_IMMUTABLE_FL, FS_NODUMP_FL, FS_NOATIME_FL = 0x20, 0x10, 0x40, 0x80
FUSE_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC = 0x65735546, 0x794c7630


def _bytes(p):
    return None if p is None else os.fsencode(p)


def _check(r, *names):
    if r == -1:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e), *names[:1])
    return r


def renameat2(old, new, flags=0):
    return _check(libc.renameat2(AT_FDCWD, _bytes(old), AT_FDCWD, _bytes(new), flags), old)


def linkat(olddir, old, newdir, new, flags=0):
    return _check(libc.linkat(olddir, _bytes(old), newdir, _bytes(new), flags), new)


def link_fd(fd, new):
    """Give the O_TMPFILE behind FD a name."""
    return linkat(AT_FDCWD, "/proc/self/fd/%d" % fd, AT_FDCWD, new, AT_SYMLINK_FOLLOW)


def fallocate(fd, mode, offset, length):
    return _check(libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def syncfs(fd):
    return _check(libc.syncfs(fd))


def mount(source, target, fstype, flags=0, data=None):
    args = _bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(flags), _bytes(data)
    return _check(libc.mount(*args), target)


def umount2(target, flags=0):
    return _check(libc.umount2(_bytes(target), flags), target)


class Statx:
    """The fields of statx(2) that os.stat does not give."""

    def __init__(self, path, mask=0xfff, flags=AT_SYMLINK_NOFOLLOW):
        buf = ctypes.create_string_buffer(256)
        _check(libc.statx(AT_FDCWD, _bytes(path), flags, mask, buf), path)
        self.mask, self.blksize, self.attributes = struct.unpack_from("=IIQ", buf, 0)
        self.attributes_mask = struct.unpack_from("=Q", buf, 56)[0]
        sec, nsec = struct.unpack_from("=qI", buf, 80)
        self.btime_ns = sec * 10**9 + nsec
        self.has_btime = bool(self.mask & 0x800)


class Statfs:
    def __init__(self, path):
        buf = ctypes.create_string_buffer(256)
        _check(libc.statfs(_bytes(path), buf), path)
        self.type, self.bsize, self.blocks, self.bfree, self.bavail, self.files, self.ffree = \
            struct.unpack_from("=7q", buf, 0)
        self.namelen = struct.unpack_from("=q", buf, 64)[0]


def getxattr_once(path, name, size=65536):
    """One getxattr(2), where os.getxattr makes several."""
    buf = ctypes.create_string_buffer(size)
    libc.getxattr.restype = ctypes.c_ssize_t
    n = _check(libc.getxattr(_bytes(path), name.encode(), buf, ctypes.c_size_t(size)), path)
    return buf.raw[:n]


def get_flags(fd_or_path):
    """FS_IOC_GETFLAGS."""
    return _with_fd(fd_or_path, lambda fd: struct.unpack("i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, b"\0" * 4) [:4])[0])


def set_flags(fd_or_path, flags):
    _with_fd(fd_or_path, lambda fd: fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("i", flags)))


def _with_fd(x, fn):
    if isinstance(x, int):
        return fn(x)
    fd = os.open(x, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return fn(fd)
    finally:
        os.close(fd)


class Dirent(ctypes.Structure):
    _fields_ = [("d_ino", ctypes.c_uint64), ("d_off", ctypes.c_int64), ("d_reclen", ctypes.c_uint16),
                ("d_type", ctypes.c_uint8), ("d_name", ctypes.c_char * 256)]


class Dir:
    """opendir(3) with telldir and seekdir; iterating gives (name, d_ino, d_type)."""

    def __init__(self, path):
        libc.opendir.restype = ctypes.c_void_p
        libc.readdir.restype = ctypes.POINTER(Dirent)
        libc.telldir.restype = ctypes.c_long
        ctypes.set_errno(0)
        self.d = libc.opendir(_bytes(path))
        if not self.d:
            _check(-1, path)
        self.d = ctypes.c_void_p(self.d)

    def read(self):
        ctypes.set_errno(0)
        e = libc.readdir(self.d)
        if not e:
            if ctypes.get_errno():
                _check(-1)
            return None
        c = e.contents
        return os.fsdecode(c.d_name), c.d_ino, c.d_type

    def __iter__(self):
        while (e := self.read()) is not None:
            yield e

    def tell(self):
        return libc.telldir(self.d)

    def seek(self, pos):
        libc.seekdir(self.d, ctypes.c_long(pos))

    def rewind(self):
        libc.rewinddir(self.d)

    def fd(self):
        return libc.dirfd(self.d)

    def close(self):
        if self.d:
            libc.closedir(self.d)
        self.d = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


# ---------------------------------------------------------------------------------------------------------------
# Registration, skipping, asserting

class Skip(Exception):
    pass


class Failed(AssertionError):
    pass


class MountError(OSError):
    def __init__(self, rc, text):
        super().__init__(errno.EIO, "mount failed, rc %s: %s" % (rc, text))
        self.rc, self.text = rc, text


_tests = []


class _Test:
    def __init__(self, fn, modes, timeout, not_kernel, only_ours, ids, tries):
        self.fn, self.modes, self.timeout = fn, modes, timeout
        self.not_kernel, self.only_ours, self.ids, self.tries = not_kernel, only_ours, ids, tries
        self.name = fn.__name__.removeprefix("test_")
        self.doc = (fn.__doc__ or "").strip().split("\n")[0]


def test(fn=None, *, modes=MODES, timeout=60, not_kernel=None, only_ours=None, ids=False, tries=1):
    """Register a test. NOT_KERNEL, ONLY_OURS: the reason why it says nothing about the kernel's overlay, or about
    any program but ours. IDS: it needs more than one id in the user namespace. TRIES: it passes
    if one of so many tries does, for what anyone on the machine may disturb (by dropping caches, say)."""
    def deco(f):
        _tests.append(_Test(f, tuple(modes), timeout, not_kernel, only_ours, ids, tries))
        return f
    return deco(fn) if fn else deco


def skip(reason):
    raise Skip(reason)


def _short(x):
    text = repr(x)
    return text if len(text) <= 300 else "%s... (%d characters)" % (text[:300], len(text))


def eq(got, want, what=""):
    if got != want:
        at = ""
        if isinstance(got, bytes) and isinstance(want, bytes) and len(got) + len(want) > 100:
            i = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            at = " (%d and %d bytes, first difference at %d)" % (len(got), len(want), i)
            got, want = got[max(i - 8, 0):i + 24], want[max(i - 8, 0):i + 24]
        raise Failed("%sgot %s, want %s%s" % (what and what + ": ", _short(got), _short(want), at))


def ok(cond, what="condition does not hold"):
    if not cond:
        raise Failed(_short(what))


def fails(code, fn, *args, **kw):
    """FN must fail with the errno CODE (or one of several)."""
    codes = code if isinstance(code, (tuple, list, set)) else (code,)
    want = "/".join(errno.errorcode[c] for c in codes)
    try:
        r = fn(*args, **kw)
    except OSError as e:
        if e.errno not in codes:
            raise Failed("%s%s: got %s, want %s" % (getattr(fn, "__name__", fn), _short(args),
                                                    errno.errorcode.get(e.errno, e.errno), want)) from e
        return e
    raise Failed("%s%s: succeeded (%s), want %s" % (getattr(fn, "__name__", fn), _short(args), _short(r), want))


MODE = None        # the mode this test process runs in
SINGLE_ID = False  # only one id is mapped
_scratch = None    # this test's directory


def is_root_mode():
    return MODE == "root"


def xattr_prefix():
    """Of the overlay's private xattrs, as this mode may write them."""
    return "trusted.overlay." if is_root_mode() else "user.overlay."


# ---------------------------------------------------------------------------------------------------------------
# Small file helpers

def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data, mode="wb"):
    with open(path, mode) as f:
        f.write(data.encode() if isinstance(data, str) else data)


def append(path, data):
    write(path, data, "ab")


def touch(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def lstat(path):
    return os.lstat(path)


def exists(path):
    return os.path.lexists(path)


def names(path):
    return sorted(os.listdir(path))


def getx(path, name):
    """xattr value or None."""
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as e:
        if e.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def setx(path, name, value, flags=0):
    os.setxattr(path, name, value.encode() if isinstance(value, str) else value, flags, follow_symlinks=False)


def listx(path):
    return sorted(os.listxattr(path, follow_symlinks=False))


def run(*argv, check=True, stdin=None, cwd=None, env=None, timeout=50):
    """Run a program; gives CompletedProcess with text output."""
    p = subprocess.run(list(argv), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
                       env=env, timeout=timeout)
    if check and p.returncode:
        raise Failed("%r: rc %d\n%s%s" % (argv, p.returncode, p.stdout, p.stderr))
    return p


def need(*programs):
    for p in programs:
        if not shutil.which(p):
            skip("%s is not installed" % p)


def in_child(fn, *args, timeout=30):
    """Run FN in a forked child; its value, or its exception, comes back."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.close(r)
            try:
                out = (True, fn(*args))
            except BaseException as e:  # noqa: B902
                if isinstance(e, OSError):
                    e = OSError(e.errno, e.strerror, e.filename)
                out = (False, e)
            with os.fdopen(w, "wb") as f:
                try:
                    pickle.dump(out, f)
                except Exception:
                    pickle.dump((False, Failed(repr(out))), f)
        except BaseException:
            code = 99
        finally:
            os._exit(code)
    os.close(w)
    data = b""
    end = time.monotonic() + timeout
    with os.fdopen(r, "rb", buffering=0) as f:
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([f], [], [], left)[0]:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise Failed("child did not finish in %d s" % timeout)
            got = f.read(65536)
            if not got:
                break
            data += got
    _, status = os.waitpid(pid, 0)
    if not data:
        raise Failed("child died, status %#x" % status)
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


def as_user(uid, gid, fn, *args, groups=()):
    """Run FN with another identity; without privilege if uid is not 0."""
    if SINGLE_ID:
        skip("only one id is mapped")

    def go():
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return fn(*args)
    return in_child(go)


def drop_caches():
    """Root only: throw away clean page cache, dentries and inodes."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


# ---------------------------------------------------------------------------------------------------------------
# Populating layers

class Node:
    """What populate() makes of a name. kind: file dir symlink fifo sock chr blk whiteout link."""

    def __init__(self, kind, data=None, mode=None, uid=None, gid=None, xattrs=None, mtime=None, opaque=None, rdev=0):
        self.kind, self.data, self.mode, self.uid, self.gid = kind, data, mode, uid, gid
        self.xattrs, self.mtime, self.rdev = dict(xattrs or {}), mtime, rdev
        if opaque:
            self.xattrs["OVL.opaque"] = opaque if isinstance(opaque, str) else "y"


def File(data="", **kw):
    return Node("file", data, **kw)


def Folder(entries=None, **kw):
    return Node("dir", entries or {}, **kw)


def Opaque(entries=None, **kw):
    return Node("dir", entries or {}, opaque="y", **kw)


def Sym(target, **kw):
    return Node("symlink", target, **kw)


def Fifo(**kw):
    return Node("fifo", **kw)


def Sock(**kw):
    return Node("sock", **kw)


def Chr(major, minor, **kw):
    return Node("chr", rdev=os.makedev(major, minor), **kw)


def Blk(major, minor, **kw):
    return Node("blk", rdev=os.makedev(major, minor), **kw)


def Whiteout():
    """The kernel's: a 0/0 character device."""
    return Node("chr", rdev=0, mode=0)


def Hardlink(to):
    """Another name of TO, a path from the root of the layer, made before."""
    return Node("link", to)


def populate(root, spec, _top=None):
    """Make SPEC (a dict of names, a callable that gets the path, or None) below the directory ROOT."""
    top = _top or root
    if spec is None:
        return
    if callable(spec):
        spec(root)
        return
    for name, what in spec.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(what, (str, bytes)):
            what = File(what)
        elif isinstance(what, dict) or what is None:
            what = Folder(what)
        _make(path, what, top)


def _make(path, n, top):
    if n.kind == "file":
        write(path, n.data)
    elif n.kind == "dir":
        if not os.path.isdir(path):
            os.mkdir(path)
        populate(path, n.data, top)
    elif n.kind == "symlink":
        os.symlink(n.data, path)
    elif n.kind == "link":
        os.link(os.path.join(top, n.data), path)
        return
    else:
        t = {"fifo": stat.S_IFIFO, "sock": stat.S_IFSOCK, "chr": stat.S_IFCHR, "blk": stat.S_IFBLK}[n.kind]
        os.mknod(path, t | 0o644, n.rdev)
    if n.uid is not None or n.gid is not None:
        os.lchown(path, -1 if n.uid is None else n.uid, -1 if n.gid is None else n.gid)
    if n.kind != "symlink":
        os.chmod(path, n.mode if n.mode is not None else 0o755 if n.kind == "dir" else 0o644)
    for k, v in n.xattrs.items():
        setx(path, k.replace("OVL.", xattr_prefix()), v)
    if n.mtime is not None:
        os.utime(path, ns=(n.mtime, n.mtime), follow_symlinks=False)


# ---------------------------------------------------------------------------------------------------------------
# The overlay under test

def find_program():
    if TARGET not in ("ours", "kernel"):
        return shutil.which(TARGET) or TARGET
    prog = os.environ.get("OV_PROG")
    if prog:
        return os.path.abspath(shutil.which(prog) or prog)
    bases = [os.environ.get("OV_BUILDDIR"), ".", "..", "../..", os.path.join(HERE, "../..")]
    for b in filter(None, bases):
        for d in ("", "src"):
            p = os.path.abspath(os.path.join(b, d, "fuse-overlay"))
            if os.path.isfile(p) and os.access(p, os.X_OK):
                return p
    return None


_program = find_program()


def program():
    if not _program:
        skip("fuse-overlay is not built (set OV_PROG)")
    return _program


def daemon_threads():
    """/proc/PID/task/TID of all processes of the program: other tests' are in other pid namespaces."""
    exe, tids = os.path.realpath(program()), []
    for p in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(p + "/exe") == exe:
                tids += glob.glob(p + "/task/*")
    return tids


_children_file = "/proc/thread-self/children"


def _children():
    try:
        with open(_children_file) as f:
            return set(map(int, f.read().split()))
    except OSError:
        return None


def children_of(pid):
    """Of a process with one thread."""
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return list(map(int, f.read().split()))
    except OSError:
        return []


def process_state(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def is_mounted(path):
    path = os.path.realpath(path)
    with open("/proc/self/mountinfo") as f:
        return any(line.split()[4].replace("\\040", " ") == path for line in f)


def mount_info(path):
    """(options, fstype, source, super options) of the topmost mount at PATH, or None."""
    path, found = os.path.realpath(path), None
    with open("/proc/self/mountinfo") as f:
        for line in f:
            left, right = line.rstrip("\n").split(" - ", 1)
            fields = left.split(" ")
            if fields[4].replace("\\040", " ") == path:
                fstype, source, sup = right.split(" ", 2)
                found = fields[5], fstype, source, sup
    return found


_KERNEL_FLAGS = {"ro": MS_RDONLY, "noatime": MS_NOATIME, "nodev": MS_NODEV, "nosuid": MS_NOSUID, "noexec": MS_NOEXEC,
                 "rw": 0, "dev": 0, "suid": 0, "exec": 0}


def escape(path):
    """PATH as it stands in lowerdir=."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def lowerdir(lowers, ndata=0):
    """The lowerdir= option; the last NDATA are data-only."""
    e = list(map(escape, lowers))
    return "lowerdir=" + ":".join(e[:len(e) - ndata]) + "".join("::" + x for x in e[len(e) - ndata:])


def kernel_mount(mnt, lowers, upper=None, work=None, opts="", ndata=0):
    data, flags = [lowerdir(lowers, ndata)], 0
    if upper:
        data += ["upperdir=" + escape(upper), "workdir=" + escape(work)]
    for o in filter(None, opts.split(",")):
        if o in _KERNEL_FLAGS:
            flags |= _KERNEL_FLAGS[o]
        else:
            data.append(o)
    if not is_root_mode() and "userxattr" not in data:
        data.append("userxattr")
    mount("overlay", mnt, "overlay", flags, ",".join(data))


class Overlay:
    """Layers in a fresh directory and an overlay mounted on them.

    LOWERS: a list, uppermost first, of what populate() takes (a single dict is one lower). UPPER likewise, False
    for a read-only overlay. OPTS: further mount options. MOUNT False: only make the directories.
    """

    def __init__(self, lowers=None, upper=None, opts="", mount=True, program=None, kernel=None, env=None, ndata=0):
        self.ndata = ndata
        self.base = tempfile.mkdtemp(prefix="ov.", dir=_scratch)
        os.chmod(self.base, 0o755)
        if lowers is None or isinstance(lowers, dict) or callable(lowers):
            lowers = [lowers]
        self.lowers = []
        self.mnt = self._mkdir("merged")
        for i, spec in reversed(list(enumerate(lowers))):
            path = self._mkdir("lower%d" % i)
            populate(path, spec)
            self.lowers.insert(0, path)
        self.upper = self.work = None
        if upper is not False:
            self.upper, self.work = self._mkdir("upper"), self._mkdir("work")
            populate(self.upper, upper)
        self.opts = opts
        self.kernel = IS_KERNEL if kernel is None else kernel
        self.program = program
        self.env = env
        self.output = ""
        self.daemons = set()
        self.mounted = False
        self._want_mount = mount

    def _mkdir(self, name):
        path = os.path.join(self.base, name)
        os.mkdir(path)
        os.chmod(path, 0o755)
        return path

    # paths

    def m(self, *p):
        return os.path.join(self.mnt, *p)

    def u(self, *p):
        return os.path.join(self.upper, *p)

    def w(self, *p):
        return os.path.join(self.work, *p)

    def l(self, *p, i=0):  # noqa: E743
        return os.path.join(self.lowers[i], *p)

    # mounting

    def __enter__(self):
        if self._want_mount:
            try:
                self.mount()
            except BaseException:
                self.cleanup()
                raise
        return self

    def __exit__(self, *exc):
        if self.mounted and exc[0] is None:
            self.umount()
        self.cleanup()

    def option_string(self, opts=None):
        o = [lowerdir(self.lowers, self.ndata)]
        if self.upper:
            o += ["upperdir=" + escape(self.upper), "workdir=" + escape(self.work)]
        return ",".join(filter(None, o + [self.opts if opts is None else opts, os.environ.get("OV_OPTS")]))

    def command(self, opts=None):
        """The command that mounts, for tests that want to run it themselves."""
        prog = self.program or program()
        return [prog, "-o", self.option_string(opts), self.mnt]

    def mount(self, opts=None, argv=None, cwd=None, quiet=False):
        """QUIET: the output is not looked at, for an ARGV that keeps it open."""
        if opts is not None:
            self.opts = opts
        if self.kernel:
            kernel_mount(self.mnt, self.lowers, self.upper, self.work, self.opts, self.ndata)
        else:
            if not os.access("/dev/fuse", os.R_OK | os.W_OK):
                skip("/dev/fuse cannot be opened")
            before = _children()
            p = subprocess.run(argv or self.command(), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, timeout=30, env=self.env, cwd=cwd)
            self.output = p.stdout or ""
            if p.returncode:
                raise MountError(p.returncode, self.output.strip())
            if not is_mounted(self.mnt):
                raise MountError(0, "rc 0, but nothing is mounted: " + self.output.strip())
            after = _children()
            if before is not None and after is not None:
                self.daemons = after - before
        self.mounted = True
        return self

    def wait_daemon(self, seconds=10):
        """After an unmount: the daemon must end."""
        end = time.monotonic() + seconds
        while self.daemons:
            for pid in list(self.daemons):
                try:
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        self.daemons.discard(pid)
                except ChildProcessError:
                    self.daemons.discard(pid)
            if self.daemons and time.monotonic() > end:
                raise Failed("the daemon still runs %d s after the unmount" % seconds)
            time.sleep(0.005)

    def umount(self, wait=True):
        for attempt in range(50):
            try:
                umount2(self.mnt)
                break
            except OSError as e:
                if e.errno != errno.EBUSY or attempt == 49:
                    raise
                time.sleep(0.02)
        self.mounted = False
        if wait:
            self.wait_daemon()

    def mount_or_skip(self, opts, *words):
        """Mount with an option that may not be there yet: refused, or a warning that has one of WORDS, is a skip."""
        try:
            self.mount(opts)
        except (MountError, OSError) as e:
            if isinstance(e, Failed):
                raise
            skip("not to be had here: %s" % (getattr(e, "text", None) or e))
        for w in words:
            for line in self.output.splitlines():
                if w in line:
                    skip("no effect yet: " + line)
        return self

    def remount(self, opts=None, **change):
        """Unmount and mount again, with attributes (lowers, upper, work, kernel, program) replaced."""
        if self.mounted:
            self.umount()
        for k, v in change.items():
            ok(hasattr(self, k), "no attribute " + k)
            setattr(self, k, v)
        return self.mount(opts)

    def remount_ro(self, opts=None):
        """As a read-only overlay without upper directory: upper on top of the lowers."""
        return self.remount(opts, lowers=[self.upper] + self.lowers, upper=None, work=None)

    def stack_up(self, opts=None):
        """The upper becomes the uppermost lower, with a new upper over it: the next image layer."""
        if self.mounted:
            self.umount()
        n = len(self.lowers)
        self.lowers.insert(0, self.upper)
        self.upper, self.work = self._mkdir("upper-over%d" % n), self._mkdir("work-over%d" % n)
        return self.mount(opts)

    @contextlib.contextmanager
    def by_kernel(self, opts="", ro=False):
        """Kernel overlayfs on the same directories (ours unmounted); gives the path of the view."""
        if self.mounted:
            self.umount()
        mnt = self._mkdir("kernel-view") if not exists(self.base + "/kernel-view") else self.base + "/kernel-view"
        try:
            if ro or not self.upper:
                lowers = ([self.upper] if self.upper else []) + self.lowers
                if len(lowers) == 1:
                    lowers.append(self._mkdir("empty") if not exists(self.base + "/empty") else self.base + "/empty")
                kernel_mount(mnt, lowers, opts=opts, ndata=self.ndata)
            else:
                kernel_mount(mnt, self.lowers, self.upper, self.work, opts, self.ndata)
        except OSError as e:
            if e.errno in (errno.ENODEV, errno.EPERM):
                skip("kernel overlayfs cannot be mounted here: " + e.strerror)
            raise
        try:
            yield mnt
        finally:
            umount2(mnt, MNT_DETACH)

    def kill_daemon(self, sig=signal.SIGKILL):
        """SIG to the daemon; SIGKILL to its worker, too, which would live on."""
        for pid in self.daemons:
            workers = children_of(pid) if sig == signal.SIGKILL else []
            os.kill(pid, sig)
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, sig)

    def worker(self):
        """The process that serves: the child of the supervisor. One that has just died is waited for."""
        eq(len(self.daemons), 1, "daemons")
        for _ in range(500):
            found = children_of(next(iter(self.daemons)))
            if len(found) == 1 and process_state(found[0]) not in "ZX":
                return found[0]
            time.sleep(0.01)
        raise Failed("no worker")

    def kill_worker(self, sig=signal.SIGKILL):
        pid = self.worker()
        os.kill(pid, sig)
        return pid

    def cleanup(self):
        for path in _mounts_below(self.base):
            force_umount(path)
        with contextlib.suppress(OSError):
            self.kill_daemon()
        for pid in self.daemons:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
        self.daemons = set()
        if not os.environ.get("OV_KEEP"):
            remove_tree(self.base)


def _mounts_below(path):
    path, found = os.path.realpath(path), []
    with open("/proc/self/mountinfo") as f:
        for line in f:
            p = line.split()[4].replace("\\040", " ")
            if p.startswith(path + "/"):
                found.append(p)
    return found[::-1]


def force_umount(path):
    for how in (lambda: umount2(path), lambda: umount2(path, MNT_DETACH),
                lambda: subprocess.run(["fusermount3", "-uz", path], check=True, stderr=subprocess.DEVNULL)):
        try:
            how()
            return
        except (OSError, subprocess.SubprocessError):
            continue


def remove_tree(path):
    def onerror(fn, p, exc):
        with contextlib.suppress(OSError):
            if not os.path.islink(p):
                with contextlib.suppress(OSError):
                    set_flags(p if os.path.isdir(p) or os.path.isfile(p) else os.path.dirname(p), 0)
                os.chmod(p, 0o700)
            if p != path:
                os.chmod(os.path.dirname(p), 0o700)
            if fn in (os.unlink, os.rmdir):
                fn(p)
            elif os.path.isdir(p):
                shutil.rmtree(p, ignore_errors=True)
    shutil.rmtree(path, onerror=onerror)
    if exists(path):
        shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------------
# Comparing trees

_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
          stat.S_IFSOCK: "sock", stat.S_IFCHR: "chr", stat.S_IFBLK: "blk"}


def tree_snapshot(path, xattrs=True, hashes=True, times=True, nlink=True, ino=False, dir_times=True, hide_xattrs=()):
    """{relative path: {attribute: value}} of everything below and including PATH. Sizes and link counts of
    directories are left out, since they are the file system's own affair."""
    out = {}

    def visit(p, rel):
        st = os.lstat(p)
        kind = _TYPES[stat.S_IFMT(st.st_mode)]
        a = {"type": kind, "mode": oct(stat.S_IMODE(st.st_mode)), "uid": st.st_uid, "gid": st.st_gid}
        if kind != "dir":
            if nlink:
                a["nlink"] = st.st_nlink
            a["size"] = st.st_size
        if kind in ("chr", "blk"):
            a["rdev"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
        if kind == "symlink":
            a["target"] = os.readlink(p)
        if times and (kind != "dir" or dir_times):
            a["mtime"] = st.st_mtime_ns
        if ino:
            a["ino"] = st.st_ino
        if xattrs:
            for name in listx(p):
                if not name.startswith(tuple(hide_xattrs) or ("\0",)):
                    a["x:" + name] = getx(p, name)
        if kind == "file" and hashes:
            a["sha256"] = hash_file(p)
        out[rel] = a
        if kind == "dir":
            for name in names(p):
                visit(os.path.join(p, name), os.path.join(rel, name) if rel != "." else name)
    visit(path, ".")
    return out


def hash_file(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def same_diff(a, b, left="left", right="right"):
    lines = []
    for p in sorted(set(a) | set(b)):
        if p not in b:
            lines.append("only in %s: %s (%s)" % (left, p, a[p]["type"]))
        elif p not in a:
            lines.append("only in %s: %s (%s)" % (right, p, b[p]["type"]))
        elif a[p] != b[p]:
            for k in sorted(set(a[p]) | set(b[p])):
                va, vb = a[p].get(k), b[p].get(k)
                if va != vb:
                    lines.append("%s: %s: %s %r, %s %r" % (p, k, left, va, right, vb))
    return lines


def assert_same(a, b, left="left", right="right"):
    lines = same_diff(a, b, left, right)
    if lines:
        more = ["... and %d more" % (len(lines) - 40)] if len(lines) > 40 else []
        raise Failed("trees differ:\n" + "\n".join(lines[:40] + more))


# ---------------------------------------------------------------------------------------------------------------
# Counting messages

def messages(mnt):
    """Requests by opcode that the daemon has answered on MNT. Asking costs one GETXATTR, see Count."""
    try:
        text = getxattr_once(mnt, STATS_XATTR).decode()
    except OSError as e:
        if e.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM) and not IS_OURS:
            skip("no message statistics on this target")
        raise
    out = {}
    for line in text.splitlines():
        if line.strip():
            op, n = line.split()
            if op.isupper():
                out[op] = int(n)
    return out


def state(mnt):
    """What the daemon says that it has done and holds: layer-probes, inodes, open-fds and so on."""
    text = getxattr_once(mnt, STATS_XATTR).decode()
    return {k: int(v) for k, v in (line.split() for line in text.splitlines()) if not k.isupper()}


def posted(mnt):
    """Replies that were left to the thread which keeps clients on their CPU."""
    return state(mnt).get("posted-replies", 0)


def leave_cpus(mnt, path):
    """Be a client that leaves the CPU where it is served, until replies are posted; more of them mostly are."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        skip("there is one CPU")
    before, end = posted(mnt), time.monotonic() + 20
    while posted(mnt) == before:
        ok(time.monotonic() < end, "no reply was posted")
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            for n in range(20):
                os.chmod(path, 0o600 | n % 8)
    os.sched_setaffinity(0, cpus)


class Count:
    """with Count(mnt) as c: ...; afterwards c["LOOKUP"] is the number of such messages, c.all the dict of those
    not zero, c.total their sum. FORGET is left out: it is no round trip."""

    def __init__(self, mnt):
        self.mnt = mnt
        self.all = {}

    def __enter__(self):
        messages(self.mnt)
        self.before = messages(self.mnt)
        return self

    def __exit__(self, *exc):
        if exc[0]:
            return
        after = messages(self.mnt)
        after["GETXATTR"] = after.get("GETXATTR", 0) - 1
        self.all = {k: v - self.before.get(k, 0) for k, v in after.items() if v != self.before.get(k, 0)
                    and k not in ("FORGET", "BATCH_FORGET")}
        self.total = sum(self.all.values())

    def __getitem__(self, op):
        return self.all.get(op, 0)


# ---------------------------------------------------------------------------------------------------------------
# The runner

_BAD_SCRATCH = ("tmpfs", "ramfs", "overlay", "fuse", "aufs")


def _fstype(path):
    path, best = os.path.realpath(path), ("", "")
    with open("/proc/self/mountinfo") as f:
        for line in f:
            left, right = line.split(" - ", 1)
            mp = left.split(" ")[4]
            if (path == mp or path.startswith(mp.rstrip("/") + "/")) and len(mp) >= len(best[0]):
                best = (mp, right.split(" ")[0])
    return best[1]


def _scratch_root():
    given = os.environ.get("OV_SCRATCH")
    if given:
        os.makedirs(given, exist_ok=True)
        return os.path.realpath(given)
    for d in ("/var/tmp", os.getcwd(), "/tmp"):
        if os.access(d, os.W_OK) and not _fstype(d).startswith(_BAD_SCRATCH):
            return d
    return "/var/tmp"


class _Setup:
    """What the parent does to a child that has unshared a user namespace."""

    @staticmethod
    def _sub_range(file, user):
        with contextlib.suppress(OSError), open(file) as f:
            for line in f:
                parts = line.strip().split(":")
                if len(parts) == 3 and parts[0] in (user, str(os.getuid())) and int(parts[2]) >= SUBID_COUNT:
                    return int(parts[1])
        return None

    @classmethod
    def map_ids(cls, pid):
        """True if the whole range is mapped, False if only one id."""
        if os.geteuid() == 0:
            for f in ("uid_map", "gid_map"):
                with open("/proc/%d/%s" % (pid, f), "w") as out:
                    out.write("0 %d %d" % (SUBID_BASE, SUBID_COUNT))
            return True
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
        u, g = cls._sub_range("/etc/subuid", user), cls._sub_range("/etc/subgid", user)
        if u and g and shutil.which("newuidmap"):
            one = [str(x) for x in (pid, 0)]
            r = subprocess.run(["newuidmap", *one, str(os.getuid()), "1", "1", str(u), str(SUBID_COUNT - 1)])
            r2 = subprocess.run(["newgidmap", *one, str(os.getgid()), "1", "1", str(g), str(SUBID_COUNT - 1)])
            if r.returncode == 0 and r2.returncode == 0:
                return True
        with open("/proc/%d/setgroups" % pid, "w") as out:
            out.write("deny")
        for f, i in (("uid_map", os.getuid()), ("gid_map", os.getgid())):
            with open("/proc/%d/%s" % (pid, f), "w") as out:
                out.write("0 %d 1" % i)
        return False


def _open_dev_fuse(scratch):
    """Where /dev/fuse is for root alone, give the test one that everybody may open, as most systems have it."""
    with contextlib.suppress(OSError):
        st = os.stat("/dev/fuse")
        if st.st_mode & 0o006 == 0o006:
            return
        _check(libc.unshare(CLONE_NEWNS))
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        node = os.path.join(scratch, "dev-fuse")
        os.mknod(node, stat.S_IFCHR | 0o666, st.st_rdev)
        os.chmod(node, 0o666)
        mount(node, "/dev/fuse", None, MS_BIND)


def _enter_namespaces(mode, scratch, ask, answer):
    flags = CLONE_NEWNS | CLONE_NEWPID | (CLONE_NEWUSER if mode == "userns" else 0)
    if mode == "userns" and os.geteuid() == 0:
        _open_dev_fuse(scratch)
    _check(libc.unshare(flags))
    single = False
    if mode == "userns":
        os.write(ask, b"m")
        got = os.read(answer, 1)
        if got not in b"fs" or not got:
            raise Skip("ids cannot be mapped")
        single = got == b"s"
        os.setresgid(0, 0, 0)
        if not single:
            os.setgroups([])
        os.setresuid(0, 0, 0)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    return single


def _own_proc():
    with contextlib.suppress(OSError):
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _copy_program(scratch):
    """The daemon must be reachable for the ids of a user namespace."""
    global _program
    if not _program or not os.path.isfile(_program):
        return
    with open(_program, "rb") as f:
        if f.read(2) == b"#!":
            return
    to = os.path.join(scratch, "bin")
    os.makedirs(to, exist_ok=True)
    to = os.path.join(to, os.path.basename(_program))
    shutil.copy(_program, to)
    os.chmod(to, 0o755)
    _program = to


def _run_one(t, mode, scratch, out):
    """In the test's own process, pid 1 of its pid namespace."""
    if mode == "userns":
        # a process executed inside, as any shell in a namespace is: this one, forked, nobody may look at or enter
        subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    global MODE, _scratch
    MODE, _scratch = mode, scratch
    os.umask(0o022)
    os.chdir("/")
    try:
        if mode == "userns":
            _copy_program(scratch)
        t.fn()
        result = ("pass", "")
    except Skip as e:
        result = ("skip", str(e))
    except Failed as e:
        where = traceback.extract_tb(e.__traceback__)
        at = [f for f in where if os.path.basename(f.filename) != "ovtest.py"] or where
        result = ("fail", "%s\n%s" % (e, "\n".join("at %s:%d: %s" % (os.path.basename(f.filename), f.lineno, f.line)
                                                   for f in at)))
    except BaseException:
        result = ("fail", traceback.format_exc())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os.write(out, pickle.dumps(result))


def _child(t, mode, scratch, log, out, ask, answer):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    runner = os.getppid()
    fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    try:
        global SINGLE_ID
        SINGLE_ID = _enter_namespaces(mode, scratch, ask, answer)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != runner:
            return
        if SINGLE_ID and t.ids:
            raise Skip("only one id is mapped")
    except Skip as e:
        os.write(out, pickle.dumps(("skip", str(e))))
        return
    except OSError as e:
        os.write(out, pickle.dumps(("skip", "no namespaces here: %s" % e)))
        return
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _own_proc()
            _run_one(t, mode, scratch, out)
        finally:
            os._exit(0)
    os.close(out)
    os.waitpid(pid, 0)


def _collect(t, mode, scratch):
    """Run one test; (verdict, text)."""
    r_out, w_out = os.pipe()
    r_ask, w_ask = os.pipe()
    r_ans, w_ans = os.pipe()
    log = scratch + ".log"
    pid = os.fork()
    if pid == 0:
        try:
            for fd in (r_out, r_ask, w_ans):
                os.close(fd)
            _child(t, mode, scratch, log, w_out, w_ask, r_ans)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    for fd in (w_out, w_ask, r_ans):
        os.close(fd)
    data, verdict, end, asks = b"", None, time.monotonic() + t.timeout, [r_ask]
    while verdict is None:
        left = end - time.monotonic()
        ready = select.select([r_out] + asks, [], [], max(left, 0))[0]
        if not ready:
            verdict = ("fail", "no result after %d s: killed" % t.timeout)
        elif r_ask in ready:
            if os.read(r_ask, 1):
                try:
                    full = _Setup.map_ids(pid)
                    os.write(w_ans, b"f" if full else b"s")
                except OSError:
                    os.write(w_ans, b"x")
            asks = []
        else:
            got = os.read(r_out, 65536)
            data += got
            if not got:
                verdict = pickle.loads(data) if data else ("fail", "the test process died")
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for fd in (r_out, r_ask, w_ans):
        os.close(fd)
    text = verdict[1]
    if verdict[0] == "fail":
        with contextlib.suppress(OSError), open(log, errors="replace") as f:
            tail = f.read()[-4000:].strip()
            if tail:
                text += "\noutput:\n" + tail
    with contextlib.suppress(OSError):
        os.unlink(log)
    return verdict[0], text


def _one(t, mode, root):
    if mode == "root" and os.geteuid() != 0:
        return "skip", "needs root"
    if IS_KERNEL and t.not_kernel:
        return "skip", "not for the kernel's overlay: " + t.not_kernel
    if not IS_OURS and t.only_ours:
        return "skip", "about fuse-overlay only: " + t.only_ours
    if IS_KERNEL and t.only_ours:
        return "skip", "about fuse-overlay only: " + t.only_ours
    scratch = tempfile.mkdtemp(prefix="ovtest.", dir=root)
    os.chmod(scratch, 0o755)
    if mode == "userns" and os.geteuid() == 0:
        os.chown(scratch, SUBID_BASE, SUBID_BASE)
    try:
        return _collect(t, mode, scratch)
    finally:
        if not os.environ.get("OV_KEEP"):
            for attempt in range(20):
                remove_tree(scratch)
                if not exists(scratch):
                    break
                time.sleep(0.05)


def main(argv=None):
    ap = argparse.ArgumentParser()
    ap.add_argument("-m", "--mode", action="append", choices=MODES)
    ap.add_argument("-k", "--only", action="append", help="tests whose name contains this")
    ap.add_argument("-l", "--list", action="store_true")
    ap.add_argument("-v", "--verbose", action="store_true", help="show the time each test takes")
    args = ap.parse_args(argv)
    env_modes = os.environ.get("OV_MODES")
    modes = args.mode or (env_modes.split(",") if env_modes else MODES)
    mine = sys.modules[__name__]._tests
    chosen = [(t, m) for t in mine for m in t.modes if m in modes
              and (not args.only or any(k in t.name for k in args.only))]
    if args.list:
        for t, m in chosen:
            print("%s [%s]: %s" % (t.name, m, t.doc))
        return 0
    for mod in {t.fn.__module__ for t in mine}:  # tracebacks without reading sources inside a namespace
        linecache.getlines(sys.modules[mod].__file__)
    root = _scratch_root()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("1..%d" % len(chosen), flush=True)
    counts = {"pass": 0, "fail": 0, "skip": 0}
    for i, (t, m) in enumerate(chosen, 1):
        start = time.monotonic()
        for _ in range(t.tries):
            verdict, text = _one(t, m, root)
            if verdict != "fail":
                break
        counts[verdict] += 1
        line = "%sok %d - %s [%s]" % ("not " if verdict == "fail" else "", i, t.name, m)
        if verdict == "skip":
            line += " # SKIP " + " ".join(text.split())
        print(line, flush=True)
        if verdict == "fail":
            print("# " + t.doc)
            for ln in text.splitlines():
                print("# " + ln)
        if args.verbose:
            print("# %.2f s" % (time.monotonic() - start))
        sys.stdout.flush()
    print("# target %s: %d passed, %d failed, %d skipped" % (TARGET, counts["pass"], counts["fail"], counts["skip"]))
    sys.exit(1 if counts["fail"] else 0)


def run_all():
    sys.path.insert(0, HERE)
    for f in sorted(glob.glob(os.path.join(HERE, "test_*.py"))):
        importlib.import_module(os.path.basename(f)[:-3])
    main()


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    import ovtest
    ovtest.run_all()
