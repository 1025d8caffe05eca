#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""FUSE over io_uring: requests and replies through the rings, what waits and what ends, and doing without."""

import random

from ovtest import *

SWITCH = "/sys/module/fuse/parameters/enable_uring"
SYS_IO_URING_SETUP = 425  # on every architecture
ONLY = "an option of ours"


def offered():
    """Does the kernel offer it to connections that are made now?"""
    try:
        return read(SWITCH).strip() == b"Y"
    except OSError:
        return False


@contextlib.contextmanager
def switched(on):
    """With the kernel's offer made, or not, where this may be said; it is as before at the end."""
    before = None
    with contextlib.suppress(OSError):
        before = read(SWITCH).strip()
        write(SWITCH, "Y" if on else "N")
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                write(SWITCH, before)


def need_uring():
    if not exists(SWITCH):
        skip("this kernel has no FUSE over io_uring (Linux 6.14)")
    if not offered():
        skip("the kernel does not offer FUSE over io_uring, see " + SWITCH)
    if run("cat", "/proc/sys/kernel/io_uring_disabled", check=False).stdout.strip() not in ("", "0"):
        skip("io_uring is disabled here (kernel.io_uring_disabled)")


def by_ring(ov):
    return state(ov.mnt).get("uring-requests", 0)


def Ring(lowers=None, upper=None, opts=""):
    need_uring()
    return Overlay(lowers, upper, ",".join(filter(None, ("uring=1", opts))))


def pattern(n, seed=1):
    return random.Random(seed).randbytes(n)


def rings(pid):
    """One for each thread that serves a CPU."""
    fds = "/proc/%d/fd" % pid
    return sum(os.readlink(os.path.join(fds, n)) == "anon_inode:[io_uring]" for n in os.listdir(fds))


def together(n, fn):
    """FN(worker) in N processes at once."""
    r, w = os.pipe()
    pids = []
    for i in range(n):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(w)
                os.read(r, 1)
                fn(i)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(r)
    os.close(w)
    eq([os.waitpid(pid, 0)[1] for pid in pids], [0] * n, "status of the workers")


@test(only_ours=ONLY)
def test_requests_come_through_the_rings():
    """With uring=1 all but INIT and FORGET comes through io_uring; by default nothing does."""
    with Ring({"d/f%d" % i: "x" for i in range(50)}) as o:
        for i in range(50):
            os.chmod(o.m("d", "f%d" % i), 0o600)
        eq(messages(o.mnt)["SETATTR"], 50)
        m = messages(o.mnt)
        slow = sum(m.get(op, 0) for op in ("INIT", "FORGET", "BATCH_FORGET", "INTERRUPT"))
        eq(by_ring(o) + 1, sum(messages(o.mnt).values()) - slow)
        o.opts = ""
        o.remount()
        eq(names(o.m("d")), names(o.l("d")))
        eq(by_ring(o), 0)


@test
def test_everything():
    """Each kind of request, and the same view after a remount without."""
    need_uring() if IS_OURS else None
    lower = {"low": {"f": "lower\n", "s": Sym("t" * 4000), "gone": "x", "sub": {"deep": "y"}}, "e": {}}
    with Overlay(lower, {"up": "upper"}, "uring=1" if IS_OURS else "") as o:
        eq(os.readlink(o.m("low/s")), "t" * 4000)
        append(o.m("low/f"), "more\n")
        eq(read(o.m("low/f")), b"lower\nmore\n")
        long = "n" * 255
        write(o.m(long), "long")
        os.rename(o.m(long), o.m("e", long))
        fails(errno.ENAMETOOLONG, write, o.m("n" * 256), "")
        os.unlink(o.m("low/gone"))
        shutil.rmtree(o.m("low/sub"))
        os.mkdir(o.m("low/sub"))
        os.link(o.m("up"), o.m("up2"))
        os.symlink("x", o.m("low/sub/link"))
        os.mkfifo(o.m("fifo"))
        setx(o.m("up"), "user.big", b"v" * 3000)
        setx(o.m("up"), "user.none", b"")
        eq(getx(o.m("up"), "user.big"), b"v" * 3000)
        ok("user.none" in listx(o.m("up")))
        os.removexattr(o.m("up"), "user.none")
        fails(errno.ENODATA, os.getxattr, o.m("up"), "user.none")
        os.utime(o.m("up"), ns=(10**18 + 1, 10**18 + 2))
        os.truncate(o.m("up"), 3)
        renameat2(o.m("up"), o.m("low/f"), RENAME_EXCHANGE)
        fails(errno.ENOENT, os.stat, o.m("nothing"))
        fails(errno.ENOTEMPTY, os.rmdir, o.m("e"))
        for i in range(1500):
            touch(o.m("e", "file with a name of some length %d" % i))
        eq(len(names(o.m("e"))), 1501)
        ok(Statfs(o.mnt).blocks > 0)
        with open(o.m("up2"), "r+b") as f:
            os.fsync(f.fileno())
            fallocate(f.fileno(), 0, 0, 100000)
        now = tree_snapshot(o.mnt)
        o.opts = ""
        o.remount()
        assert_same(now, tree_snapshot(o.mnt), "through the rings", "without")


@test(only_ours=ONLY)
def test_big_data():
    """Reads and writes of all sizes, up to what a message holds and above."""
    data = pattern(5 << 20)
    with Ring({"low": data}) as o:
        eq(read(o.m("low")), data)
        write(o.m("new"), data)
        for opts in ("", "writeback=0"):
            o.remount(",".join(filter(None, ("uring=1", opts))))
            eq(read(o.m("new")), data)
            fd = os.open(o.m("new"), os.O_RDWR)
            for at, n in ((0, 1 << 20), (1, (1 << 20) + 1), (4095, 2), ((1 << 20) - 1, 3 << 20), ((5 << 20) - 3, 3)):
                piece = pattern(n, at + n)
                eq(os.pwrite(fd, piece, at), n)
                data = data[:at] + piece + data[at + n:]
                eq(os.pread(fd, n + 10, at), data[at:at + n + 10])
            os.fsync(fd)
            os.close(fd)
        o.remount()
        eq(read(o.m("new")), data)
        fd = os.open(o.m("new"), os.O_RDWR | os.O_DIRECT)
        buf = mmap.mmap(-1, 4 << 20)
        eq(os.preadv(fd, [buf], 4096), 4 << 20)
        eq(buf[:], data[4096:4096 + (4 << 20)])
        eq(os.pwritev(fd, [buf], 0), 4 << 20)
        os.close(fd)
        eq(hashlib.sha256(read(o.u("new"))).digest(), hashlib.sha256(buf[:] + data[4 << 20:]).digest())


@test(only_ours=ONLY)
def test_parallel():
    """More processes than threads, with slow requests (fsync, copy-up) among quick ones."""
    count = 12
    with Ring({"w%d" % w: {"low": pattern(300000, w)} for w in range(count)}) as o:
        def work(w):
            top = o.m("w%d" % w)
            with open(os.path.join(top, "low"), "r+b") as f:
                f.seek(1000)
                f.write(b"changed")
                f.flush()
                os.fsync(f.fileno())
            for i in range(40):
                p = os.path.join(top, "f%d" % i)
                write(p, pattern(5000, w * 1000 + i))
                os.chmod(p, 0o640)
                if i % 8 == 0:
                    with open(p, "rb") as f:
                        os.fsync(f.fileno())
                os.rename(p, p + "x")
                eq(len(names(top)), i + 2)
        together(count, work)
        o.remount("")
        for w in range(count):
            eq(read(o.m("w%d" % w, "low"))[:1010], pattern(300000, w)[:1000] + b"changed" + pattern(300000, w)[1007:1010])
            for i in range(40):
                eq(read(o.m("w%d" % w, "f%dx" % i)), pattern(5000, w * 1000 + i))


@test(only_ours=ONLY)
def test_holes_in_dirty_data():
    """SEEK_HOLE has the data that is not yet written sent first: others must serve while it waits, however many wait."""
    with Ring(opts="uring_depth=2") as o:
        def work(w):
            for i in range(10):
                fd = os.open(o.m("f%d-%d" % (w, i)), os.O_RDWR | os.O_CREAT)
                os.pwrite(fd, b"x" * 65536, 1 << 20)
                at = os.lseek(fd, 0, os.SEEK_DATA)
                ok(at in (0, 1 << 20), "data at %d" % at)       # 0: where the kernel was told to know no holes
                at = os.lseek(fd, 1 << 20, os.SEEK_HOLE)
                eq(at, (1 << 20) + 65536)
                os.close(fd)
        work(99)
        together(10, work)


@test(only_ours=ONLY)
def test_unlinked_while_open():
    with Ring({"f": "lower"}) as o:
        fd = os.open(o.m("f"), os.O_RDWR)
        os.unlink(o.m("f"))
        os.pwrite(fd, b"L", 0)
        os.fsync(fd)
        eq(os.pread(fd, 10, 0), b"Lower")
        eq(os.fstat(fd).st_nlink, 0)
        os.close(fd)


@test(only_ours=ONLY)
def test_forgets_arrive():
    """FORGET does not come through the rings, and late: but it comes."""
    with Ring({"d": {"f%d" % i: "" for i in range(300)}}) as o:
        for n in names(o.m("d")):
            os.stat(o.m("d", n))
        ok(state(o.mnt)["inodes"] > 300)
        shutil.rmtree(o.m("d"))
        end = time.monotonic() + 20
        while state(o.mnt)["inodes"] > 10 and time.monotonic() < end:
            time.sleep(0.02)
        ok(state(o.mnt)["inodes"] <= 10, "inodes %d" % state(o.mnt)["inodes"])


@test(only_ours=ONLY)
def test_threads():
    """uring_depth threads for each CPU that is on, two at least."""
    cpus = os.sysconf("SC_NPROCESSORS_ONLN")
    if cpus != os.sysconf("SC_NPROCESSORS_CONF") or cpus * 5 > 256:
        skip("CPUs that are off, or very many")
    for depth, want in ((2, 2), (5, 5), (0, 2)):
        with Ring(opts="uring_depth=%d" % depth) as o:
            names(o.mnt)
            ok(by_ring(o) > 0)
            eq(rings(*o.daemons), want * cpus, "rings with a depth of %d" % depth)


@test(only_ours=ONLY)
def test_root_of_the_daemon():
    """In the foreground, it ends with status 0 when unmounted, and at SIGTERM."""
    need_uring()
    with Overlay(opts="uring=1", mount=False) as o:
        for how in ("umount", "SIGTERM"):
            p = subprocess.Popen([program(), "-f"] + o.command()[1:], stdin=subprocess.DEVNULL)
            end = time.monotonic() + 20
            while not is_mounted(o.mnt) and time.monotonic() < end:
                time.sleep(0.01)
            write(o.m("f"), how)
            ok(by_ring(o) > 0)
            if how == "umount":
                umount2(o.mnt)
            else:
                p.terminate()
            eq(p.wait(20), 0, how)
            eq(read(o.u("f")), how.encode())


def busy(path):
    """A process that makes requests until they fail; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        i = 0
        while True:
            os.fchmod(fd, 0o600 + (i & 1))
            os.pwrite(fd, b"x" * 4096, (i % 100) * 4096)
            os.fsync(fd)
            i += 1
    except OSError:
        os._exit(0)
    finally:
        os._exit(1)


def all_end(pids, seconds=20):
    """Each ends, by an error: none is left waiting for a reply."""
    end, left = time.monotonic() + seconds, set(pids)
    while left and time.monotonic() < end:
        for pid in list(left):
            got, status = os.waitpid(pid, os.WNOHANG)
            if got:
                eq(status, 0, "status of a client")
                left.discard(pid)
        time.sleep(0.01)
    ok(not left, "%d clients still wait" % len(left))


@test(only_ours=ONLY)
def test_unmount_under_load():
    """SIGTERM under load: detached, all data written, the daemon ends, clients get errors."""
    with Ring() as o:
        pids = [busy(o.m("f%d" % i)) for i in range(6)]
        time.sleep(0.3)
        o.kill_daemon(signal.SIGTERM)
        o.wait_daemon(20)
        all_end(pids)
        o.mounted = False


@test(only_ours=ONLY)
def test_killed_under_load():
    """SIGKILL under load: clients get errors, nobody hangs, and the next mount works."""
    with Ring() as o:
        pids = [busy(o.m("f%d" % i)) for i in range(6)]
        time.sleep(0.3)
        o.kill_daemon()
        o.wait_daemon(20)
        all_end(pids)
        force_umount(o.mnt)
        o.mounted = False
        o.mount()
        eq(len(names(o.mnt)), 6)


@test(only_ours=ONLY, modes=("root",))
def test_aborted_under_load():
    """A connection aborted under load (/sys/fs/fuse): the daemon ends, clients get errors."""
    with Ring() as o:
        dev = os.minor(os.stat(o.mnt).st_dev)
        abort = "/sys/fs/fuse/connections/%d/abort" % dev
        if not exists(abort):
            mount("fusectl", "/sys/fs/fuse/connections", "fusectl")
        pids = [busy(o.m("f%d" % i)) for i in range(6)]
        time.sleep(0.3)
        write(abort, "1")
        all_end(pids)
        force_umount(o.mnt)
        o.mounted = False
        o.wait_daemon(20)


@test(only_ours=ONLY, modes=("root",))
def test_not_offered():
    """Where the kernel does not offer it, uring=1 is a line at log_level=info, and all works as ever."""
    if not exists(SWITCH):
        skip("this kernel has no FUSE over io_uring")
    with switched(False), Overlay({"f": "x"}, opts="uring=1,log_level=info") as o:
        if offered():
            skip("cannot be switched off")
        ok("does not offer" in o.output, o.output)
        append(o.m("f"), "y")
        eq(read(o.m("f")), b"xy")
        eq(by_ring(o), 0)


@test(only_ours=ONLY, modes=("root",))
def test_forbidden():
    """Where io_uring_setup(2) is forbidden, as in many containers, all works as ever."""
    need_uring()
    # load the number; 425: EPERM; else allow
    code = """
import ctypes, os, struct, sys
steps = (0x20, 0, 0, 0), (0x15, 0, 1, %d), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)
filter = b"".join(struct.pack("=HBBI", *s) for s in steps)
buf = ctypes.create_string_buffer(filter)
prog = struct.pack("@HP", 4, ctypes.addressof(buf))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, prog, 0, 0):
    sys.exit("seccomp: errno %%d" %% ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
""" % SYS_IO_URING_SETUP
    with Overlay({"f": "x"}, opts="uring=1,log_level=info", mount=False) as o:
        o.mount(argv=[sys.executable, "-c", code] + o.command())
        ok("not permitted" in o.output, o.output)
        append(o.m("f"), "y")
        eq(read(o.m("f")), b"xy")
        eq(by_ring(o), 0)


def anonymous_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon"))


@test(only_ours=ONLY, modes=("root",), timeout=90)
def test_memory_is_given_back():
    """What big requests and replies have touched does not stay when nothing comes any more."""
    with Ring({"f%d" % i: pattern(8 << 20, i) for i in range(4)}) as o:
        together(4, lambda w: read(o.m("f%d" % w)))
        most = anonymous_kib(*o.daemons)
        end = time.monotonic() + 60
        while anonymous_kib(*o.daemons) > most - 800 and time.monotonic() < end:
            time.sleep(0.1)
        ok(anonymous_kib(*o.daemons) <= most - 800, "%d KiB then, %d now" % (most, anonymous_kib(*o.daemons)))
        eq(read(o.m("f0")), pattern(8 << 20, 0))


@test(only_ours=ONLY)
def test_few_descriptors():
    """At most an eighth of the descriptors goes to rings: fewer threads, and at last none."""
    need_uring()
    cpus = sum(b - a + 1 for a, b in (([int(n) for n in r.split("-")] * 2)[:2] for r in
                                      read("/sys/devices/system/cpu/possible").decode().split(",")))
    for limit, works in ((16 * cpus + 32, True), (16 * cpus - 1, False)):
        with Overlay({"f": "x"}, opts="uring=1,uring_depth=16,log_level=info", mount=False) as o:
            o.mount(argv=["sh", "-c", 'ulimit -n %d; exec "$@"' % limit, "sh"] + o.command())
            append(o.m("f"), "y")
            eq(read(o.m("f")), b"xy")
            eq(by_ring(o) > 0, works, "with %d descriptors" % limit)
            eq("Too many open files" in o.output, not works, o.output)


@test(only_ours=ONLY)
def test_single_thread():
    """One thread cannot serve all queues: -s does without."""
    with Ring({"f": "x"}, opts="threaded=0,log_level=info") as o:
        ok("more than one thread" in o.output, o.output)
        append(o.m("f"), "y")
        eq(read(o.m("f")), b"xy")
        eq(by_ring(o), 0)


if __name__ == "__main__":
    with switched(True):
        sys.exit(main())
