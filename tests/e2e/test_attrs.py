#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Modes, owners, times, privileges that must fall, ACLs and extended attributes."""

from ovtest import *

XATTR_CREATE, XATTR_REPLACE = 1, 2
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
CAP = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep, version 2
PLACES = ("lower", "upper", "new")


def three(mode=0o644, data="data", **kw):
    """The same file in a lower, in upper, and made in the mount; and so a directory."""
    return _Three({"lower": File(data, mode=mode, **kw), "dlower": Folder({"in": ""}, **kw)},
                  {"upper": File(data, mode=mode, **kw), "dupper": Folder({"in": ""}, **kw)}, mode, data, kw)


class _Three(Overlay):
    def __init__(self, low, up, mode, data, kw):
        super().__init__(low, up)
        self.new = {"new": File(data, mode=mode, **kw), "dnew": Folder({"in": ""}, **kw)}

    def __enter__(self):
        super().__enter__()
        populate(self.mnt, self.new)
        return self


def mode_of(p):
    return oct(stat.S_IMODE(lstat(p).st_mode))


def everywhere(ov, check):
    """CHECK(path, place) now and after a remount."""
    for when in ("", "after remount"):
        for p in PLACES:
            check(ov.m(p), p + " " + when)
        if not when:
            ov.remount()


# --- mode, owner, times

@test
def test_chmod():
    with three() as ov:
        for p in PLACES:
            for mode in (0o600, 0, 0o7777, 0o4711, 0o2755, 0o1644, 0o755):
                os.chmod(ov.m(p), mode)
                eq(mode_of(ov.m(p)), oct(mode), p)
                eq(mode_of(ov.u(p)), oct(mode), p + " in upper")
            os.chmod(ov.m("d" + p), 0o2751)
        everywhere(ov, lambda f, w: eq(mode_of(f), oct(0o755), w))
        eq([mode_of(ov.m("d" + p)) for p in PLACES], [oct(0o2751)] * 3)
        eq(read(ov.m("lower")), b"data")


@test
def test_fchmod_and_chmod_of_an_unreadable_file():
    with three(mode=0o000) as ov:
        for p in PLACES:
            fd = os.open(ov.m(p), os.O_RDONLY)
            os.fchmod(fd, 0o640)
            eq(oct(stat.S_IMODE(os.fstat(fd).st_mode)), oct(0o640))
            os.close(fd)
        everywhere(ov, lambda f, w: eq(mode_of(f), oct(0o640), w))


@test(ids=True)
def test_copy_up_of_a_file_its_owner_may_not_read():
    spec = {"f": File("secret", mode=0o200, uid=1000, gid=1000), "d": Folder({"g": File("x", uid=1000)},
            mode=0o300, uid=1000, gid=1000)}
    with Overlay(spec) as ov:
        as_user(1000, 1000, append, ov.m("f"), "!")
        as_user(1000, 1000, append, ov.m("d/g"), "!")
        as_user(1000, 1000, write, ov.m("d/new"), "!")
        os.chmod(ov.m("f"), 0o600)
        eq(read(ov.m("f")), b"secret!")
        eq(mode_of(ov.m("d")), oct(0o300))


@test(ids=True)
def test_chown():
    with three() as ov:
        for p in PLACES:
            os.chown(ov.m(p), 11, 22)
            os.chown(ov.m("d" + p), 33, -1)
            eq((lstat(ov.u(p)).st_uid, lstat(ov.u(p)).st_gid), (11, 22), p)

        def check(f, w):
            eq((lstat(f).st_uid, lstat(f).st_gid), (11, 22), w)
            d = os.path.join(os.path.dirname(f), "d" + os.path.basename(f))
            eq((lstat(d).st_uid, lstat(d).st_gid), (33, 0), w)
        everywhere(ov, check)


@test(ids=True)
def test_lchown_of_a_symlink():
    with Overlay({"s": Sym("f"), "f": "x"}) as ov:
        os.lchown(ov.m("s"), 5, 6)
        ov.remount()
        eq((lstat(ov.m("s")).st_uid, lstat(ov.m("f")).st_uid), (5, 0))


@test(ids=True)
def test_chown_rules_for_users():
    with Overlay({"f": File("", uid=1000, gid=1000)}) as ov:
        fails(errno.EPERM, as_user, 1000, 1000, os.chown, ov.m("f"), 1001, -1)
        fails(errno.EPERM, as_user, 1000, 1000, os.chown, ov.m("f"), -1, 77)
        as_user(1000, 1000, lambda: os.chown(ov.m("f"), -1, 77), groups=[77])
        eq(lstat(ov.m("f")).st_gid, 77)


@test
def test_utimens_with_nanoseconds():
    with three() as ov:
        for p in PLACES:
            os.utime(ov.m(p), ns=(10**18 + 1, 10**18 + 999999999))
            os.utime(ov.m("d" + p), ns=(7, 9))

        def check(f, w):
            eq((lstat(f).st_atime_ns, lstat(f).st_mtime_ns), (10**18 + 1, 10**18 + 999999999), w)
        everywhere(ov, check)
        eq(lstat(ov.m("dlower")).st_mtime_ns, 9)


def utimensat(path, a, m, flags=0):
    ts = struct.pack("qqqq", *a, *m)
    if libc.utimensat(AT_FDCWD, os.fsencode(path), ts, flags):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


@test
def test_utime_omit_and_now():
    with three(mtime=10**18 + 5) as ov:
        for p in PLACES:
            f = ov.m(p)
            utimensat(f, (5, 6), (0, UTIME_OMIT))
            eq((lstat(f).st_atime_ns, lstat(f).st_mtime_ns), (5 * 10**9 + 6, 10**18 + 5), p + " omit mtime")
            utimensat(f, (0, UTIME_OMIT), (7, 8))
            eq((lstat(f).st_atime_ns, lstat(f).st_mtime_ns), (5 * 10**9 + 6, 7 * 10**9 + 8), p + " omit atime")
            utimensat(f, (0, UTIME_NOW), (0, UTIME_NOW))
            ok(abs(lstat(f).st_mtime - time.time()) < 10, p + " now")
            utimensat(f, (0, UTIME_OMIT), (0, UTIME_OMIT))


@test
def test_times_before_1970_and_after_2038():
    with three() as ov:
        for p in PLACES:
            for t in (-10**9 * 86400, 2**33 * 10**9 + 5):
                os.utime(ov.m(p), ns=(t, t))
                eq(lstat(ov.m(p)).st_mtime_ns, t, p)


@test(ids=True)
def test_utimens_rules_for_users():
    with Overlay({"f": File("", mode=0o666), "g": File("", mode=0o644)}) as ov:
        fails(errno.EPERM, as_user, 1000, 1000, lambda: os.utime(ov.m("f"), ns=(1, 1)))
        as_user(1000, 1000, lambda: os.utime(ov.m("f")))
        fails(errno.EACCES, as_user, 1000, 1000, lambda: os.utime(ov.m("g")))


@test
def test_chown_and_chmod_keep_mtime_and_move_ctime():
    with three(mtime=10**18) as ov:
        for p in PLACES:
            c = lstat(ov.m(p)).st_ctime_ns
            time.sleep(0.01)
            os.chmod(ov.m(p), 0o600)
            os.chown(ov.m(p), 0, 0)
            eq(lstat(ov.m(p)).st_mtime_ns, 10**18, p)
            ok(lstat(ov.m(p)).st_ctime_ns > c, "ctime of " + p)


@test
def test_mtime_set_after_a_write_stays():
    """cp -p and tar: write, utimens, close."""
    with three() as ov:
        for p in PLACES + ("fresh",):
            fd = os.open(ov.m(p), os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"z" * 10000)
            os.utime(fd, ns=(10**18, 10**18 + 7))
            os.close(fd)
            os.sync()
            eq(lstat(ov.m(p)).st_mtime_ns, 10**18 + 7, p)
        ov.remount()
        for p in PLACES + ("fresh",):
            eq(lstat(ov.m(p)).st_mtime_ns, 10**18 + 7, p)


@test
def test_mtime_is_what_the_view_said():
    """However the data came to us, and before or after the time: the next mount shows the time that this one showed."""
    with three() as ov:
        before = {}

        def look(p, how):
            before[p] = (lstat(ov.m(p)).st_mtime_ns, how)

        for n in range(300):  # some of them within one tick of the clock, where the kernel has no new time to send
            write(ov.m("w%d" % n), b"x" * (n * 50))
            look("w%d" % n, "written at once")
        for n, p in enumerate(PLACES + ("w1", "w2")):
            fd = os.open(ov.m(p), os.O_RDWR)
            for k in range(20):
                os.pwrite(fd, b"%d" % k, k * 4096)
                if k % 7 == n:
                    os.fsync(fd)
            os.close(fd)
            look(p, "written in pieces")
        os.truncate(ov.m("w3"), 5)
        look("w3", "truncated")
        fd = os.open(ov.m("w4"), os.O_RDWR)
        os.pwrite(fd, b"dirty", 0)
        fallocate(fd, 0, 0, 100000)
        look("w4", "allocated")
        os.pwrite(fd, b"dirty", 0)
        os.rename(ov.m("w4"), ov.m("moved"))
        look("moved", "renamed")
        del before["w4"]
        os.close(fd)
        look("moved", "renamed")
        fd = os.open(ov.m("w5"), os.O_RDWR)
        with mmap.mmap(fd, 200) as mem:
            mem[:4] = b"mmap"
        os.close(fd)
        os.sync()
        look("w5", "mapped")
        ov.remount()
        for p, (t, how) in before.items():
            eq(lstat(ov.m(p)).st_mtime_ns, t, "%s, %s" % (p, how))


@test
def test_chmod_with_dirty_data():
    with three() as ov:
        for p in PLACES:
            fd = os.open(ov.m(p), os.O_WRONLY)
            os.write(fd, b"q" * 5000)
            os.fchmod(fd, 0o600)
            os.write(fd, b"r")
            eq((os.fstat(fd).st_size, oct(os.fstat(fd).st_mode & 0o7777)), (5001, oct(0o600)))
            os.close(fd)
        everywhere(ov, lambda f, w: eq((lstat(f).st_size, mode_of(f)), (5001, oct(0o600)), w))


# --- setuid, setgid, capabilities fall

@test(ids=True)
def test_write_by_a_user_clears_setuid_and_setgid():
    with three(mode=0o6777) as ov:
        for p in PLACES:
            as_user(1000, 1000, append, ov.m(p), "x")
            eq(mode_of(ov.m(p)), oct(0o777), p)
            eq(mode_of(ov.u(p)), oct(0o777), p + " on disk")
        everywhere(ov, lambda f, w: eq(mode_of(f), oct(0o777), w))


@test(ids=True)
def test_write_by_the_owner_clears_setuid():
    with three(mode=0o4755, uid=1000) as ov:
        for p in PLACES:
            as_user(1000, 1000, append, ov.m(p), "x")
            eq(mode_of(ov.u(p)), oct(0o755), p)
            eq(mode_of(ov.m(p)), oct(0o755), p)


@test
def test_write_by_root_does_to_setuid_what_the_layer_does():
    """Root keeps it; root of a user namespace does not."""
    with three(mode=0o4755) as ov:
        populate(ov.base, {"ref": File("data", mode=0o4755)})
        for f in [ov.base + "/ref"] + [ov.m(p) for p in PLACES]:
            append(f, "x")
            os.truncate(f, 1)
        everywhere(ov, lambda f, w: eq(mode_of(f), mode_of(ov.base + "/ref"), w))


@test(ids=True)
def test_truncate_by_a_user_clears_setuid():
    with three(mode=0o6777) as ov:
        for p in PLACES:
            as_user(1000, 1000, os.truncate, ov.m(p), 2)
            eq(mode_of(ov.m(p)), oct(0o777), p)
            eq(mode_of(ov.u(p)), oct(0o777), p)


@test(ids=True)
def test_o_trunc_by_a_user_clears_setuid():
    with three(mode=0o4777) as ov:
        for p in PLACES:
            as_user(1000, 1000, write, ov.m(p), "new")
            eq(mode_of(ov.m(p)), oct(0o777), p)
            eq(mode_of(ov.u(p)), oct(0o777), p)


@test(ids=True)
def test_fallocate_by_a_user_clears_setuid():
    with three(mode=0o4777) as ov:
        def go(f):
            fd = os.open(f, os.O_RDWR)
            fallocate(fd, 0, 0, 10000)
        for p in PLACES:
            as_user(1000, 1000, go, ov.m(p))
            eq(mode_of(ov.m(p)), oct(0o777), p)


@test(ids=True)
def test_copy_file_range_by_a_user_clears_setuid():
    with three(mode=0o4777) as ov:
        write(ov.m("src"), "source")

        def go(f):
            a, b = os.open(ov.m("src"), os.O_RDONLY), os.open(f, os.O_RDWR)
            os.copy_file_range(a, b, 3, 0, 0)
        for p in PLACES:
            as_user(1000, 1000, go, ov.m(p))
            eq(mode_of(ov.m(p)), oct(0o777), p)


@test(ids=True)
def test_chown_clears_setuid():
    with three(mode=0o6755) as ov:
        for p in PLACES:
            os.chown(ov.m(p), 1000, 1000)
            eq(mode_of(ov.m(p)), oct(0o755), p)
            eq(mode_of(ov.u(p)), oct(0o755), p)


@test(ids=True)
def test_chown_to_nobody_else_is_a_chown():
    """chown(-1, -1) has nothing to set; still it moves the ctime and takes the setuid bit away."""
    def through_fd(f):
        fd = os.open(f, os.O_RDONLY)
        os.fchown(fd, -1, -1)
        os.close(fd)
    for chown in (lambda f: os.chown(f, -1, -1), lambda f: as_user(1000, 1000, os.chown, f, -1, -1), through_fd):
        with three(mode=0o6755, uid=1000, gid=1000) as ov:
            for p in PLACES:
                before = lstat(ov.m(p))
                time.sleep(0.01)
                chown(ov.m(p))
                after = lstat(ov.m(p))
                eq((oct(after.st_mode & 0o7777), after.st_uid, after.st_gid), (oct(0o755), 1000, 1000), p)
                ok(after.st_ctime_ns > before.st_ctime_ns, "ctime of " + p)
                eq(after.st_mtime_ns, before.st_mtime_ns, p)
                eq(mode_of(ov.u(p)), oct(0o755), p)


@test(ids=True)
def test_chown_of_a_directory_to_nobody_else_keeps_its_bits():
    with Overlay({"d": Folder({"f": ""}, mode=0o3775)}) as ov:
        os.chown(ov.m("d"), -1, -1)
        eq(mode_of(ov.m("d")), oct(0o3775))


@test(ids=True)
def test_setgid_without_group_execute_stays():
    """Mandatory locking's old mark: not a privilege."""
    with three(mode=0o2666) as ov:
        for p in PLACES:
            as_user(1000, 0, append, ov.m(p), "x")
            eq(mode_of(ov.m(p)), oct(0o2666), p)


@test(ids=True)
def test_mapped_write_clears_setuid():
    with three(mode=0o4777) as ov:
        def go(f):
            fd = os.open(f, os.O_RDWR)
            m = mmap.mmap(fd, 4)
            m[0] = 1
            m.flush()
            os.pwrite(fd, b"x", 0)
        for p in PLACES:
            as_user(1000, 1000, go, ov.m(p))
            eq(mode_of(ov.m(p)), oct(0o777), p)


@test(ids=True)
def test_chmod_by_a_user_of_another_group_drops_setgid():
    with three(mode=0o755, uid=1000, gid=77) as ov:
        for p in PLACES:
            as_user(1000, 1000, os.chmod, ov.m(p), 0o2755)
            eq(mode_of(ov.m(p)), oct(0o755), p)
            as_user(1000, 77, os.chmod, ov.m(p), 0o2755)
            eq(mode_of(ov.m(p)), oct(0o2755), p)


@test
def test_capability_is_kept_by_copy_up():
    with three() as ov:
        for p in PLACES:
            setx(ov.m(p), "security.capability", CAP)
        ov.stack_up()
        got = {p: getx(ov.m(p), "security.capability") for p in PLACES}
        ok(all(got.values()), got)
        for p in PLACES:
            os.chmod(ov.m(p), 0o700)
        everywhere(ov, lambda f, w: eq(getx(f, "security.capability"), got[os.path.basename(f)], w))


@test
def test_write_clears_a_capability():
    with three() as ov:
        for p in PLACES:
            setx(ov.m(p), "security.capability", CAP)
            append(ov.m(p), "x")
            eq(getx(ov.m(p), "security.capability"), None, p)
            eq(getx(ov.u(p), "security.capability"), None, p + " on disk")


@test
def test_write_to_a_lower_file_with_a_capability():
    with Overlay({"f": "x", "g": "y", "h": "z"}) as ov:
        for n in "fgh":
            setx(ov.m(n), "security.capability", CAP)
        ov.stack_up()
        append(ov.m("f"), "x")
        os.truncate(ov.m("g"), 0)
        os.chown(ov.m("h"), 0, 0)
        for _ in range(2):
            eq([getx(ov.m(n), "security.capability") for n in "fgh"], [None] * 3)
            ov.remount()


@test
def test_capability_can_be_removed():
    with three() as ov:
        for p in PLACES:
            setx(ov.m(p), "security.capability", CAP)
            os.removexattr(ov.m(p), "security.capability")
            eq(getx(ov.m(p), "security.capability"), None)


@test(ids=True)
def test_setuid_program_runs_as_its_owner():
    with Overlay({}) as ov:
        shutil.copy("/usr/bin/id", ov.m("id"))
        os.chown(ov.m("id"), 1234, 1234)
        os.chmod(ov.m("id"), 0o4755)
        ov.stack_up()
        eq(as_user(1000, 1000, lambda: run(ov.m("id"), "-u").stdout), "1234\n")


# --- extended attributes

@test
def test_user_xattrs():
    with three(xattrs={"user.first": "1"}) as ov:
        for p in PLACES + ("dlower", "dupper", "dnew"):
            f = ov.m(p)
            eq(getx(f, "user.first"), b"1", p)
            setx(f, "user.second", b"\0binary\xff", XATTR_CREATE)
            fails(errno.EEXIST, setx, f, "user.second", "x", XATTR_CREATE)
            fails(errno.ENODATA, setx, f, "user.none", "x", XATTR_REPLACE)
            fails(errno.ENODATA, os.getxattr, f, "user.none")
            fails(errno.ENODATA, os.removexattr, f, "user.none")
            setx(f, "user.second", "2", XATTR_REPLACE)
            setx(f, "user.empty", b"")
            os.removexattr(f, "user.first")
            eq(listx(f), ["user.empty", "user.second"], p)
        ov.remount()
        for p in PLACES + ("dlower", "dupper", "dnew"):
            eq({n: getx(ov.m(p), n) for n in listx(ov.m(p))}, {"user.empty": b"", "user.second": b"2"}, p)


@test(modes=("root",))
def test_trusted_and_security_xattrs():
    with three(xattrs={"trusted.first": "1", "security.test": "s"}) as ov:
        for p in PLACES:
            f = ov.m(p)
            eq((getx(f, "trusted.first"), getx(f, "security.test")), (b"1", b"s"), p)
            setx(f, "trusted.second", "2")
            setx(f, "security.other", "o")
            os.removexattr(f, "trusted.first")
        everywhere(ov, lambda f, w: eq([n for n in listx(f) if n != "security.selinux"],
                                       ["security.other", "security.test", "trusted.second"], w))


@test(modes=("root",))
def test_users_do_not_see_trusted_xattrs():
    with three(xattrs={"trusted.first": "1", "user.x": "y"}) as ov:
        for p in PLACES:
            eq(as_user(1000, 1000, listx, ov.m(p)), ["user.x"], p)
            fails((errno.EPERM, errno.ENODATA), as_user, 1000, 1000, os.getxattr, ov.m(p), "trusted.first")


@test(modes=("userns",))
def test_trusted_xattrs_are_refused_in_a_user_namespace():
    with three() as ov:
        for p in PLACES:
            fails(errno.EPERM, setx, ov.m(p), "trusted.x", "y")


@test
def test_xattr_rules():
    with Overlay({"f": "x", "s": Sym("f"), "p": Fifo()}) as ov:
        fails((errno.EPERM, errno.EOPNOTSUPP), setx, ov.m("s"), "user.a", "b")
        fails(errno.EPERM, setx, ov.m("p"), "user.a", "b")
        fails((errno.EOPNOTSUPP, errno.EINVAL), setx, ov.m("f"), "nonamespace", "b")
        fails(errno.ERANGE, setx, ov.m("f"), "user." + "n" * 251, "b")
        fails(errno.E2BIG, setx, ov.m("f"), "user.big", b"x" * 65537)
        setx(ov.m("f"), "user." + "n" * 250, "b")
        fails((errno.ENOSPC, errno.E2BIG), setx, ov.m("f"), "user.big", b"x" * 65536) if \
            _fails_on_layer(ov, 65536) else setx(ov.m("f"), "user.big", b"x" * 65536)


def _fails_on_layer(ov, size):
    try:
        setx(ov.l("f"), "user.probe", b"x" * size)
    except OSError:
        return True
    os.removexattr(ov.l("f"), "user.probe")
    return False


@test
def test_getxattr_sizes():
    with three(xattrs={"user.v": "v" * 1000}) as ov:
        for p in PLACES:
            fails(errno.ERANGE, getxattr_once, ov.m(p), "user.v", 10)
            eq(len(getxattr_once(ov.m(p), "user.v", 1000)), 1000)
            libc.getxattr.restype = ctypes.c_ssize_t
            eq(libc.getxattr(os.fsencode(ov.m(p)), b"user.v", None, ctypes.c_size_t(0)), 1000)
            libc.listxattr.restype = ctypes.c_ssize_t
            eq(libc.listxattr(os.fsencode(ov.m(p)), None, ctypes.c_size_t(0)), len("user.v") + 1)
            fails(errno.ERANGE, lambda: os.strerror(1) if libc.listxattr(
                os.fsencode(ov.m(p)), ctypes.create_string_buffer(3), ctypes.c_size_t(3)) >= 0 else _raise())


def _raise():
    e = ctypes.get_errno()
    raise OSError(e, os.strerror(e))


@test
def test_many_xattrs():
    with Overlay({"f": ""}) as ov:
        want = sorted("user.attribute%03d" % i for i in range(100))
        for n in want:
            setx(ov.m("f"), n, n[-3:])
        eq(listx(ov.m("f")), want)
        ov.stack_up()
        os.chmod(ov.m("f"), 0o600)
        eq(listx(ov.m("f")), want)
        eq(getx(ov.u("f"), want[42]), b"042")


@test
def test_private_xattrs_are_hidden():
    with Overlay({"d": {"f": "x"}, "e": {"g": ""}}) as ov:
        append(ov.m("d/f"), "y")
        shutil.rmtree(ov.m("e"))
        os.mkdir(ov.m("e"))
        for n in ("", "d", "d/f", "e"):
            eq(listx(ov.m(n)), [], n)
            for k in ("origin", "opaque", "impure", "metacopy"):
                eq(getx(ov.m(n), xattr_prefix() + k), None, n + " " + k)
        eq(getx(ov.m("d"), "user.fuseoverlayfs.opaque"), None)


@test(not_kernel="it knows only its own names")
def test_foreign_private_xattrs_are_hidden():
    if not IS_OURS:
        skip("differs there")
    x = {"user.fuseoverlayfs.origin": "/a", "user.overlay.origin": "", "user.containers.override_stat": "0:0:0644",
         "user.shown": "1"}
    with Overlay({"f": File("", xattrs=x)}, mount=False) as ov:
        ov.mount()
        eq(listx(ov.m("f")), ["user.shown"])


@test
def test_overlay_xattrs_of_a_nested_overlay_are_escaped():
    if not IS_OURS and not IS_KERNEL:
        skip("not known there")
    p = xattr_prefix()
    with three() as ov:
        for n in PLACES + ("dlower", "dnew"):
            for k, v in (("opaque", "y"), ("origin", "o"), ("whiteout", "")):
                setx(ov.m(n), p + k, v)
            eq(listx(ov.m(n)), sorted(p + k for k in ("opaque", "origin", "whiteout")), n)
            eq(getx(ov.u(n), p + "overlay.opaque"), b"y", "on disk")
            ok(getx(ov.u(n), p + "opaque") != b"y" or n == "dnew")
        eq(names(ov.m("dlower")), ["in"], "not opaque")
        ov.remount()
        eq(getx(ov.m("lower"), p + "origin"), b"o")
        eq(names(ov.m("dlower")), ["in"])
        os.removexattr(ov.m("lower"), p + "opaque")
        eq(listx(ov.m("lower")), [p + "origin", p + "whiteout"])
        ov.stack_up()
        eq(getx(ov.m("upper"), p + "opaque"), b"y")
        os.chmod(ov.m("upper"), 0o600)
        eq(getx(ov.m("upper"), p + "opaque"), b"y", "after copy-up")
        setx(ov.m("upper"), p + "overlay.deep", "2")
        eq(getx(ov.u("upper"), p + "overlay.overlay.deep"), b"2", "twice nested")


# --- ACLs

def acl(path, *opts):
    out = run("getfacl", "-cpEn", *opts, path).stdout
    return [x for x in out.split("\n") if x]


def need_acl():
    need("setfacl", "getfacl")
    if SINGLE_ID:
        skip("only one id is mapped")


@test(ids=True)
def test_acl_is_kept_and_enforced():
    need_acl()
    with three(mode=0o600) as ov:
        for p in PLACES:
            run("setfacl", "-m", "u:1000:rw,g:77:r", ov.m(p))
            want = ["user::rw-", "user:1000:rw-", "group::---", "group:77:r--", "mask::rw-", "other::---"]
            eq(acl(ov.m(p)), want, p)
            eq(mode_of(ov.m(p)), oct(0o660), p)
            as_user(1000, 1000, append, ov.m(p), "!")
            fails(errno.EACCES, as_user, 1001, 1001, read, ov.m(p))
            eq(as_user(1001, 77, read, ov.m(p)), b"data!")
            fails(errno.EACCES, as_user, 1001, 77, append, ov.m(p), "!")
        everywhere(ov, lambda f, w: eq(acl(f), want, w))


@test(ids=True)
def test_acl_of_a_lower_file_counts_and_survives_copy_up():
    need_acl()

    def low(path):
        populate(path, {"f": File("x", mode=0o600), "d": Folder({"g": "y"}, mode=0o700)})
        run("setfacl", "-m", "u:1000:rw", path + "/f")
        run("setfacl", "-m", "u:1000:rwx,d:u:1000:rwx", path + "/d")
    with Overlay(low) as ov:
        eq(as_user(1000, 1000, read, ov.m("f")), b"x")
        fails(errno.EACCES, as_user, 1001, 1001, read, ov.m("f"))
        before = acl(ov.m("f")), acl(ov.m("d"))
        as_user(1000, 1000, append, ov.m("f"), "y")
        as_user(1000, 1000, write, ov.m("d/n"), "new")
        eq((acl(ov.m("f")), acl(ov.m("d"))), before)
        ov.remount()
        eq((acl(ov.m("f")), acl(ov.m("d"))), before)
        fails(errno.EACCES, as_user, 1001, 1001, read, ov.m("f"))


@test(ids=True)
def test_default_acl_is_inherited():
    need_acl()
    with Overlay({"d": {}}) as ov:
        run("setfacl", "-m", "d:u:1000:rwx,d:g::r-x,d:o::---", ov.m("d"))
        os.umask(0o077)
        write(ov.m("d/f"), "x")
        touch_mode(ov.m("d/exec"), 0o755)
        os.mkdir(ov.m("d/sub"), 0o755)
        write(ov.m("d/sub/g"), "x")
        os.mkfifo(ov.m("d/p"), 0o666)
        os.umask(0o022)
        with tempfile.TemporaryDirectory(dir=ov.base) as ref:
            os.chmod(ref, 0o755)
            run("setfacl", "-m", "d:u:1000:rwx,d:g::r-x,d:o::---", ref)
            os.umask(0o077)
            write(ref + "/f", "x")
            touch_mode(ref + "/exec", 0o755)
            os.mkdir(ref + "/sub", 0o755)
            write(ref + "/sub/g", "x")
            os.mkfifo(ref + "/p", 0o666)
            os.umask(0o022)
            for n in ("f", "exec", "sub", "sub/g", "p"):
                eq(acl(ov.m("d", n)), acl(os.path.join(ref, n)), n)
                eq(mode_of(ov.m("d", n)), mode_of(os.path.join(ref, n)), n)
                eq(acl(ov.u("d", n)), acl(os.path.join(ref, n)), n + " on disk")


def touch_mode(p, mode):
    os.close(os.open(p, os.O_CREAT | os.O_WRONLY, mode))


@test(ids=True)
def test_default_acl_of_a_lower_directory_is_inherited():
    need_acl()

    def low(path):
        os.mkdir(path + "/d")
        run("setfacl", "-m", "d:u:1000:rw", path + "/d")
    with Overlay(low) as ov:
        write(ov.m("d/f"), "x")
        ok("user:1000:rw-" in "\n".join(acl(ov.m("d/f"))), acl(ov.m("d/f")))


@test(ids=True)
def test_acl_removed_and_chmod_changes_the_mask():
    need_acl()
    with three(mode=0o644) as ov:
        for p in PLACES:
            run("setfacl", "-m", "u:1000:rwx", ov.m(p))
            os.chmod(ov.m(p), 0o640)
            ok("mask::r--" in acl(ov.m(p)), acl(ov.m(p)))
            fails(errno.EACCES, as_user, 1000, 1000, append, ov.m(p), "x")
            run("setfacl", "-b", ov.m(p))
            eq(acl(ov.m(p)), ["user::rw-", "group::r--", "other::---"])
            eq([x for x in listx(ov.m(p)) if "acl" in x], [])


@test(ids=True)
def test_minimal_acl_becomes_the_mode():
    need_acl()
    with three(mode=0o644) as ov:
        for p in PLACES:
            run("setfacl", "-m", "u::rwx,g::rx,o::-", ov.m(p))
            eq(mode_of(ov.m(p)), oct(0o750), p)
            eq(mode_of(ov.u(p)), oct(0o750), p + " on disk")


@test(ids=True)
def test_setting_an_acl_by_another_group_drops_setgid():
    need_acl()
    with three(mode=0o2755, uid=1000, gid=77) as ov:
        for p in PLACES:
            as_user(1000, 1000, lambda: run("setfacl", "-m", "u:1001:r", ov.m(p)))
            eq(stat.S_IMODE(lstat(ov.m(p)).st_mode) & 0o2000, 0, p)


@test(ids=True)
def test_only_the_owner_sets_acls():
    need_acl()
    with three() as ov:
        for p in PLACES:
            ok(as_user(1000, 1000, lambda: run("setfacl", "-m", "u:1000:rw", ov.m(p), check=False).returncode))


if __name__ == "__main__":
    main()
