#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What fails below must come out as an error, and as nothing else: system calls and allocations of the daemon are made to
fail one by one, file systems are full, read-only, or gone, descriptors are few. The caller gets the error, the view is the
one before the change or after it, the daemon lives, and when the fault is gone the change can be made.

OV_CHANGE=NAME takes only that change. Of the calls only a sample is taken: one of OV_FAULTS_SAMPLE; OV_FAULTS_ALL=1 takes
every call with every error, which lasts half an hour.
"""

from faults import *

ONLY = os.environ.get("OV_CHANGE", "")
ALL = bool(os.environ.get("OV_FAULTS_ALL"))
E = errno

ON_CHANGE = (E.ENOSPC, E.EIO, E.EDQUOT, E.EROFS, E.ENOMEM, E.EINTR)
ON_READ = (E.EIO, E.ENOMEM, E.EINTR)
ON_OPEN = (E.EMFILE, E.EIO, E.ENFILE, E.ENOMEM, E.EINTR)
MEMORY_CALLS = ("malloc", "calloc", "realloc", "reallocarray", "strdup")
READ_CALLS = ("statx", "getxattr", "fgetxattr", "lgetxattr", "getxattrat", "listxattr", "flistxattr", "llistxattr", "listxattrat",
              "readlinkat", "name_to_handle_at", "open_by_handle_at", "pread", "getdents64", "ioctl")


def errors_of(call):
    if call in MEMORY_CALLS:
        return (E.ENOMEM,)
    if call == "pthread_create":
        return (E.EAGAIN,)
    if call in READ_CALLS:
        return ON_READ
    return ON_OPEN if call.startswith("open") else ON_CHANGE


def do_steps(ov, change, first=0):
    """(steps done, the error that ended them or None)"""
    for n in range(first, len(change.steps)):
        try:
            change.steps[n](ov)
        except OSError as e:
            return n, e
    return len(change.steps), None


def alive(ov):
    for pid in ov.daemons:
        if os.waitpid(pid, os.WNOHANG)[0]:
            ov.daemons.discard(pid)
            return False
    return True


def without_unsure(change, snap):
    """Of what waits in the kernel's cache nothing is promised after a failed write: size and data are the new ones until they
    are asked for again, and the time is that of the try."""
    hide = ("mtime", "size", "sha256")
    return {n: {k: v for k, v in a.items() if k not in hide} if n in change.unsure else a for n, a in snap.items()}


def state_of(change, ov, states, allowed, what, failed=False):
    try:
        view = ov.view()
    except OSError as e:
        if not failed:
            raise Failed("%s: the view cannot be read: %s" % (what, e)) from e
        view = ov.view()  # the kernel could not write back a time, and told so once, at the next close()
    for n in allowed:
        if view == states[n] or (failed and without_unsure(change, view) == without_unsure(change, states[n])):
            return n
    raise Failed("%s: the view is neither that before nor that after\n  %s\n  %s" % (
        what, "\n  ".join(same_diff(view, states[allowed[0]], "now", "before")),
        "\n  ".join(same_diff(view, states[allowed[-1]], "now", "after"))))


def accepted(change, calls, error):
    """What the caller may get when the last of CALLS fails with ERROR."""
    call = calls[-1]
    more = [E.ENOMEM] if call in MEMORY_CALLS else []
    if error == E.EINTR or "utimensat" in calls[-2:]:
        more.append(E.EIO)  # written back by the kernel, which knows but EIO and ENOSPC
    if "setxattr" in call and "rename" in change.name:
        more.append(E.EXDEV)  # a directory that gets no redirect must be copied, as in the kernel
    if change.name.startswith(("rmdir", "rename-dir")):
        more.append(E.ENOTEMPTY)  # what cannot be looked at is there
    return [error] + more


def inject(ov, change, states, error, at, what):
    """One failure on a fresh mount. False if nothing failed: there are not that many calls."""
    last = len(change.steps)
    ov.fresh(change)
    ov.page.fail(error, at)
    done, e = do_steps(ov, change)
    calls = ov.page.calls()
    hits = ov.page.rest()
    what = "%s, call %d (%s) fails with %s" % (what, at, ", ".join(calls[max(0, at - 3):at]), E.errorcode[error])
    ok(alive(ov), what + ": the daemon died")
    if e:
        ok(e.errno in accepted(change, calls[:at], error), "%s: the caller got %s" % (what, E.errorcode.get(e.errno)))
    now = state_of(change, ov, states, [done, min(done + 1, last)], what, True)
    end, e = do_steps(ov, change, done if change.unsure and e else now)
    eq((end, e), (last, None), what + ": once more, without a fault")
    state_of(change, ov, states, [last], what + ", done once more")
    ov.umount()
    ov.plainly(change)
    eq(names(ov.w("work")), [], what + ": workdir after the mount")
    state_of(change, ov, states, [last], what + ", after remount")
    ov.umount()
    ov.drop()
    return hits


def plan(change, calls):
    """Which errors are tried where: all, or a sample that differs from change to change and from mode to mode."""
    if ALL:
        yield from ((e, i + 1) for i, call in enumerate(calls) for e in errors_of(call))
        return
    for n, at in enumerate(sample(change, calls, 25)):
        errors = errors_of(calls[at - 1])
        yield errors[(n + at + len(calls)) % len(errors)], at


def sweep(part, nparts):
    total, bad = 0, []
    with Layers() as ov:
        for change in [c for c in changes() if ONLY in ("", c.name)][part::nparts]:
            states = ov.states(change)
            for error, at in plan(change, ov.calls(change, CHANGES | READS | MEMORY, do_steps)[0]):
                try:
                    total += inject(ov, change, states, error, at, change.name) > 0
                except Failed as e:
                    bad.append(str(e))
                    ov.cleanup_mount()
        ov.check_lower()
    print("%d failures" % total)
    if bad:
        raise Failed("%d of them:\n%s" % (len(bad), "\n".join(bad)))


for _part in range(4):
    def go(part=_part):
        sweep(part, 4)
    go.__name__ = "test_every_call_%d_of_4" % (_part + 1)
    go.__doc__ = "System calls and allocations fail one by one in each change."
    test(timeout=800, only_ours="it needs a program that can be told to fail")(go)


# ---------------------------------------------------------------------------------------------------------------
# The same, with real file systems

class Foreground(Overlay):
    """The upper on a file system of its own; the daemon's log in a file."""

    def __init__(self, lowers=None, opts="", fs="size=4m", prefix=()):
        super().__init__(lowers, opts=opts, mount=False)
        self.disk = self._mkdir("disk")
        if fs:
            self.make_disk(fs)
        for name in ("upper", "work"):
            os.mkdir(os.path.join(self.disk, name))
        self.upper, self.work = os.path.join(self.disk, "upper"), os.path.join(self.disk, "work")
        self.log = os.path.join(self.base, "log")
        self.prefix = list(prefix)

    def make_disk(self, fs):
        try:
            mount("tmpfs", self.disk, "tmpfs", 0, fs + ",mode=755")
            setx(self.disk, "user.x", "y")
        except OSError as e:
            skip("no tmpfs with xattrs here: %s" % e.strerror)
        os.removexattr(self.disk, "user.x")

    def mount(self, opts=None):
        wait = 'log=$1; mnt=$2; shift 2; "$@" >"$log" 2>&1 & for n in $(seq 200); do mountpoint -q "$mnt" && exit; sleep 0.05; done; exit 1'
        cmd = self.prefix + [ovtest.program(), "-f"] + self.command(opts)[1:]
        return super().mount(opts, argv=["sh", "-c", wait, "sh", self.log, self.mnt] + cmd, quiet=True)

    def logged(self, *words):
        text = read(self.log).decode()
        ok(any(all(w in line for w in words) for line in text.splitlines()), "no line with %r in the log:\n%s" % (words, text))


def fill(directory):
    """Leave no byte free. Gives what is to be removed."""
    path = os.path.join(directory, "filler")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for size in (1 << 20, 1 << 16, 4096):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"x" * size)
    finally:
        os.close(fd)
    return path


FULL_LOWER = {"big": File(b"b" * 600000, mtime=OLD), "small": File("small", mtime=OLD), "d": {"x": "x", "y": "y"}, "e": {}}


def try_change(fn, code):
    """FN fails with CODE, or is done."""
    try:
        fn()
    except OSError as e:
        ok(e.errno in code, repr(e))
        return False
    return True


@test(only_ours="it looks at the log")
def test_full_disk():
    """No space: every change says ENOSPC or is done, data that is there stays, and it goes on when there is space."""
    with Foreground(FULL_LOWER, opts="volatile") as ov:
        ov.mount()
        before = ov_view(ov)
        filler = fill(ov.disk)
        fails(E.ENOSPC, append, ov.m("big"), "more")
        eq(hash_file(ov.m("small")), hash_file(ov.l("small")))
        fails(E.ENOSPC, lambda: append_synced("big")(ov))
        fails(E.ENOSPC, os.chmod, ov.m("big"), 0o600)
        eq(lstat(ov.m("big")).st_mode & 0o777, 0o644)
        try_change(lambda: write(ov.m("new"), b"n" * 10000), (E.ENOSPC,))
        try_change(lambda: os.mkdir(ov.m("d/new")), (E.ENOSPC,))
        removed = try_change(lambda: os.unlink(ov.m("small")), (E.ENOSPC,))
        eq(exists(ov.m("small")), not removed)
        ov.logged("No space left on device", "/big")
        os.unlink(filler)
        append_synced("big")(ov)
        eq(lstat(ov.m("big")).st_size, 600004)
        os.chmod(ov.m("big"), 0o600)
        write(ov.m("new"), b"n" * 10000)
        if not removed:
            os.unlink(ov.m("small"))
        shutil.rmtree(ov.m("d"))
        os.mkdir(ov.m("d"))
        eq(names(ov.mnt), ["big", "d", "e", "new"])
        eq(names(ov.m("d")), [])
        eq(before["e"], ov_view(ov)["e"])
        eq([n for n in names(ov.w("work")) if n[0] == "#"], [], "left in workdir")
        ov.umount()


def ov_view(ov):
    return tree_snapshot(ov.mnt, dir_times=False, times=False)


@test(only_ours="it looks at the log")
def test_few_inodes():
    """No inodes left: as a full disk."""
    with Foreground(FULL_LOWER, fs="size=4m,nr_inodes=20") as ov:
        ov.mount()
        before, n = ov_view(ov), 0
        with contextlib.suppress(OSError):
            while True:
                touch(os.path.join(ov.disk, "f%d" % n))
                n += 1
        fails(E.ENOSPC, touch, ov.m("new"))
        fails(E.ENOSPC, os.mkdir, ov.m("dir"))
        fails(E.ENOSPC, os.chmod, ov.m("small"), 0o600)
        eq(ov_view(ov), before)
        ov.logged("No space left on device", "small")
        for i in range(n):
            os.unlink(os.path.join(ov.disk, "f%d" % i))
        touch(ov.m("new"))
        os.chmod(ov.m("small"), 0o600)
        os.unlink(ov.m("big"))
        eq(names(ov.mnt), ["d", "e", "new", "small"])
        ov.umount()


def on_ext4(fn, size, *options):
    """FN with an upper on an ext4 of SIZE bytes."""
    need("mkfs.ext4")
    with Foreground(fs=None) as ov:
        image = os.path.join(ov.base, "image")
        with open(image, "wb") as f:
            f.truncate(size)
        run("mkfs.ext4", "-q", "-F", "-m0", "-b4096", "-N256", image)
        for name in ("upper", "work"):
            os.rmdir(os.path.join(ov.disk, name))
        if run("mount", "-o", ",".join(("loop",) + options), image, ov.disk, check=False).returncode:
            skip("no loop device here")
        try:
            for name in ("upper", "work"):
                os.mkdir(os.path.join(ov.disk, name))
            fn(ov)
        finally:
            force_umount(ov.mnt)
            ov.mounted = False
            ov.wait_daemon()
            umount2(ov.disk)


@test(modes=("root",), only_ours="it needs a file system that can fill up")
def test_full_ext4():
    """A full ext4, at whose end xattrs and directory blocks fail as well as data."""
    on_ext4(full_ext4, 8 << 20)


def full_ext4(ov):
    populate(ov.l(), {"f%02d" % i: File(bytes([i]) * 4096 * i, mtime=OLD, xattrs={"user.x": "x" * 2000}) for i in range(40)})
    ov.mount("volatile")
    want = ov_view(ov)
    fill(ov.disk)
    done = set()
    for i in range(40):
        name = "f%02d" % i
        if try_change(lambda: os.chmod(ov.m(name), 0o600), (E.ENOSPC,)):  # noqa: B023
            done.add(name)
    ok(len(done) < 40, "nothing failed")
    for name in done:
        want[name]["mode"] = "0o600"
    assert_same(ov_view(ov), want, "now", "wanted")
    os.unlink(os.path.join(ov.disk, "filler"))
    for name in want:
        if name != ".":
            os.chmod(ov.m(name), 0o600)
            want[name]["mode"] = "0o600"
    umount2(ov.mnt)
    ov.mounted = False
    ov.wait_daemon()
    remove_tree(ov.work)
    os.mkdir(ov.work)
    ov.mount("volatile")
    assert_same(ov_view(ov), want, "after remount", "wanted")


@test(modes=("root",), only_ours="it looks at the log")
def test_upper_becomes_read_only():
    """The upper's file system goes read-only after an error of its own: EROFS, and all can still be read."""
    on_ext4(read_only_ext4, 8 << 20, "errors=remount-ro")


def read_only_ext4(ov):
    populate(ov.l(), {"a": "a", "d": {"x": "x"}})
    ov.mount()
    write(ov.m("mine"), "mine")
    append(ov.m("d/x"), "y")
    fd = os.open(ov.mnt, os.O_RDONLY)
    syncfs(fd)
    os.close(fd)
    before = ov_view(ov)
    trigger = "/sys/fs/ext4/%s/trigger_fs_error" % os.path.basename(mount_info(ov.disk)[2])
    if not os.access(trigger, os.W_OK):
        skip("no " + trigger)
    write(trigger, "1")
    for fn in (lambda: touch(ov.m("new")), lambda: os.unlink(ov.m("a")), lambda: os.mkdir(ov.m("d/n")),
               lambda: os.chmod(ov.m("mine"), 0o600), lambda: os.rename(ov.m("a"), ov.m("b")),
               lambda: os.truncate(ov.m("d/x"), 0), lambda: os.link(ov.m("mine"), ov.m("l")), lambda: os.chmod(ov.m("a"), 0o600)):
        fails((E.EROFS, E.EIO), fn)
    eq(ov_view(ov), before)
    ok(alive(ov), "the daemon died")
    ov.logged("Read-only file system", "/a")


@test(modes=("root",), only_ours="it looks at the log")
def test_upper_read_only_and_back():
    """The upper's file system is remounted read-only, and writable again: EROFS in between, and no more."""
    on_ext4(read_only_and_back, 8 << 20)


def read_only_and_back(ov):
    populate(ov.l(), {"a": "a", "b": "b" * 5000, "d": {"x": "x"}, "e": {}})
    ov.mount("redirect_dir=on")
    ov.umount()  # all that is made at the first mount is there
    ov.mount()
    before = ov_view(ov)
    if run("mount", "-o", "remount,ro", ov.disk, check=False).returncode:
        skip("it cannot be remounted read-only")
    changes = [lambda: touch(ov.m("new")), lambda: os.chmod(ov.m("b"), 0o600), lambda: append_synced("a")(ov),
               lambda: os.mkdir(ov.m("d/n")), lambda: os.rename(ov.m("d"), ov.m("moved")), lambda: os.rmdir(ov.m("e")),
               lambda: os.link(ov.m("b"), ov.m("l")), lambda: os.symlink("t", ov.m("s")), lambda: os.truncate(ov.m("b"), 3),
               lambda: setx(ov.m("b"), "user.x", "y"), lambda: os.unlink(ov.m("a"))]
    for fn in changes:
        fails((E.EROFS, E.EIO), fn)
    ok(alive(ov), "the daemon died")
    ov.logged("Read-only file system", ov.l() + ":/b")
    run("mount", "-o", "remount,rw", ov.disk)
    view = ov_view(ov)
    for n in ("a", "b"):  # what waits in the kernel's cache may show until it is asked for again
        view[n] = before[n]
    eq(view, before)
    for fn in changes:
        fn()
    eq(names(ov.mnt), ["b", "l", "moved", "new", "s"])
    after = ov_view(ov)
    ov.umount()
    ov.mount()
    assert_same(ov_view(ov), after, "after remount", "before")


@test(modes=("root",), only_ours="it looks at the log")
def test_quota():
    """A quota that is used up (btrfs knows one without help of the kernel's configuration): EDQUOT, and it goes on afterwards."""
    need("mkfs.btrfs", "btrfs")
    with Foreground(FULL_LOWER, fs=None) as ov:
        image = os.path.join(ov.base, "image")
        with open(image, "wb") as f:
            f.truncate(128 << 20)
        run("mkfs.btrfs", "-q", "-f", image)
        for name in ("upper", "work"):
            os.rmdir(os.path.join(ov.disk, name))
        if run("mount", "-o", "loop", image, ov.disk, check=False).returncode:
            skip("btrfs cannot be mounted here")
        for name in ("upper", "work"):
            os.mkdir(os.path.join(ov.disk, name))
        try:
            quota(ov)
        finally:
            force_umount(ov.mnt)
            ov.mounted = False
            ov.wait_daemon()
            umount2(ov.disk)


def quota(ov):
    if run("btrfs", "quota", "enable", ov.disk, check=False).returncode:
        skip("no quota here")
    run("btrfs", "qgroup", "limit", "1M", ov.disk)
    ov.mount()
    write(os.path.join(ov.disk, "filler"), b"x" * 500000)
    run("sync", "-f", ov.disk)
    before = ov_view(ov)
    fails(E.EDQUOT, os.chmod, ov.m("big"), 0o600)
    fails((E.EDQUOT, E.EIO), lambda: append_synced("big")(ov))
    eq([(n, ov_view(ov)[n]) for n in ("small", "d", "d/x", "e")], [(n, before[n]) for n in ("small", "d", "d/x", "e")])
    eq((lstat(ov.m("big")).st_mode & 0o777, hash_file(ov.l("big"))), (0o644, before["big"]["sha256"]))
    eq(names(ov.u()), [], "in the upper")
    eq([n for n in names(ov.w("work")) if n[0] == "#"], [], "left in workdir")
    ov.logged("Disk quota exceeded", "/big")
    run("btrfs", "qgroup", "limit", "none", ov.disk)
    os.chmod(ov.m("big"), 0o600)
    append_synced("big")(ov)
    eq((lstat(ov.m("big")).st_mode & 0o777, lstat(ov.m("big")).st_size), (0o600, 600004))


@test(only_ours="it needs a program that can be told to fail")
def test_layers_that_go_and_come_back():
    """Nothing of the layers can be read, as when a server does not answer: the error that they give, no hang, and when they can be
    read again all is as it was."""
    with Layers() as ov:
        quiet = Change("quiet")
        ov.fresh(quiet)
        want = ov.view()
        ov.umount()
        for error in (E.ESTALE, E.EIO, E.ENOTCONN, E.ETIMEDOUT, E.EACCES):
            ov.fresh(quiet)
            ov.page.fail(error, sticky=True, classes=READS)
            for fn in (lambda: names(ov.mnt), lambda: lstat(ov.m("f")), lambda: read(ov.m("d/in")),
                       lambda: os.readlink(ov.m("sym")), lambda: os.chmod(ov.m("f"), 0o600),
                       lambda: touch(ov.m("new")), lambda: os.unlink(ov.m("small")),
                       lambda: os.rename(ov.m("other"), ov.m("o2")), lambda: os.rmdir(ov.m("e")), lambda: listx(ov.m("f"))):
                try_change(fn, (error, E.EIO, E.ENOTEMPTY))
            ok(alive(ov), "the daemon died")
            ov.page.rest()
            assert_same(ov.view(), want, "after " + E.errorcode[error], "before")
            os.chmod(ov.m("f"), 0o600)
            os.rename(ov.m("other"), ov.m("o2"))
            eq(read(ov.m("o2")), b"other\n")
            ov.umount()
            ov.drop()


@test(timeout=120, only_ours="the daemon must survive")
def test_interrupted_clients():
    """Clients under a storm of signals, and a daemon that is stopped and let go on: what is done is done once, and right."""
    tree = {"d%d" % i: {"f%d" % j: "x" * 3000 * j for j in range(10)} for i in range(6)}
    with Overlay(tree) as ov:
        stop = start_stopping(ov)
        try:
            for pid in [interrupted(ov, i) for i in range(6)]:
                eq(os.waitpid(pid, 0)[1], 0, "status of a client")
        finally:
            os.kill(stop, signal.SIGKILL)
            os.waitpid(stop, 0)
            ov.kill_daemon(signal.SIGCONT)
        want = {}
        for i in range(6):
            want["d%d" % i] = ["g%d" % j for j in range(10)] + ["l", "n"]
            eq(names(ov.m("d%d" % i)), want["d%d" % i])
            for j in range(10):
                eq(read(ov.m("d%d/g%d" % (i, j))), b"x" * 3000 * j + b"end")
            eq(names(ov.m("d%d/n" % i)), sorted("n%d" % k for k in range(50)))
        ov.umount()
        ov.mount()
        for d, entries in want.items():
            eq(names(ov.m(d)), entries)
        ov.umount()


def start_stopping(ov):
    """A process that stops the daemon, and lets it go on, over and over."""
    pid = os.fork()
    if pid == 0:
        while True:
            ov.kill_daemon(signal.SIGSTOP)
            time.sleep(0.001)
            ov.kill_daemon(signal.SIGCONT)
            time.sleep(0.005)
    return pid


def again(fn, *args):
    """FN, once more whenever a signal came first."""
    while True:
        try:
            return fn(*args)
        except InterruptedError:
            pass


def interrupted(ov, i):
    """A client that works in directory I, with a signal every half millisecond. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        d = ov.m("d%d" % i)
        again(os.mkdir, d + "/n")
        for k in range(50):
            again(os.mkdir, "%s/n/n%d" % (d, k))  # twice would be EEXIST
        for j in range(10):
            fd = again(os.open, "%s/f%d" % (d, j), os.O_WRONLY | os.O_APPEND)
            data = b"end"
            while data:
                data = data[os.write(fd, data):]
            again(os.fsync, fd)
            again(os.close, fd)
            again(os.rename, "%s/f%d" % (d, j), "%s/g%d" % (d, j))
        again(os.link, d + "/g3", d + "/l")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@test(only_ours="the daemon must survive")
def test_lower_unmounted_lazily():
    """A lower's file system is unmounted lazily under the mount: nobody can say what it still shows, but it goes on."""
    with Foreground([{"a": "a"}, {}]) as ov:
        mount("tmpfs", ov.l(i=1), "tmpfs", 0, "size=1m,mode=755")
        populate(ov.l(i=1), {"t": "t", "d": {"x": "x"}})
        ov.mount()
        eq(names(ov.mnt), ["a", "d", "t"])
        umount2(ov.l(i=1), MNT_DETACH)
        for fn in (lambda: read(ov.m("t")), lambda: os.listdir(ov.m("d")), lambda: append(ov.m("t"), "more"),
                   lambda: os.unlink(ov.m("d/x")), lambda: os.rmdir(ov.m("d"))):
            with contextlib.suppress(OSError):
                fn()
        write(ov.m("new"), "new")
        eq(read(ov.m("a")), b"a")
        ok(alive(ov), "the daemon died")
        ov.umount()


@test(timeout=120, only_ours="it limits the daemon")
def test_few_descriptors():
    """64 and 1024 file descriptors: a tree with many more directories and files is walked, copied and removed."""
    tree = {"d%02d" % i: {"e%d" % j: {"f": "%d %d" % (i, j)} for j in range(6)} for i in range(30)}
    for limit in (64, 1024):
        with Foreground([tree, {"d00": {"e0": {"g": "g"}}}], prefix=["prlimit", "--nofile=%d:%d" % (limit, limit)],
                        fs="size=16m") as ov:
            need("prlimit")
            ov.mount()
            eq(len(run("find", ov.mnt).stdout.split()), 1 + 30 + 180 + 181)
            run("cp", "-a", ov.m(), ov.base + "/copy")
            run("cp", "-a", ov.m("d00"), ov.m("d01"), ov.m("d02"), ov.m("d29"))
            run("chmod", "-R", "g+w", ov.mnt)
            fds = [os.open(ov.m("d%02d/e%d/f" % (i, j)), os.O_RDWR) for i in range(30) for j in range(6)]
            for fd in fds:
                os.pwrite(fd, b"X", 0)
            for fd in fds:
                eq(os.pread(fd, 1, 0), b"X")
                os.close(fd)
            run("rm", "-rf", *[ov.m(n) for n in names(ov.mnt)])
            eq(names(ov.mnt), [])
            ok(alive(ov), "the daemon died")
            ov.umount()


@test(modes=("root",), only_ours="it limits the daemon")
def test_unlinked_open_files_beyond_the_descriptors():
    """More deleted open files than the daemon has descriptors to keep them: an error, and it goes on."""
    with Foreground({}, prefix=["prlimit", "--nofile=64:64"], fs="size=16m") as ov:
        need("prlimit")
        ov.mount()
        fds, failed = [], 0
        for i in range(120):
            try:
                fds.append(os.open(ov.m("f%d" % i), os.O_CREAT | os.O_RDWR))
            except OSError as e:
                ok(e.errno in (E.EMFILE, E.ENFILE), repr(e))
                failed += 1
                break
            os.write(fds[-1], b"%d" % i)
            failed += not try_change(lambda: os.unlink(ov.m("f%d" % i)), (E.EMFILE, E.ENFILE))  # noqa: B023
        ok(failed, "nothing failed")
        for fd in fds:
            os.close(fd)
        ok(alive(ov), "the daemon died")
        for n in names(ov.mnt):
            os.unlink(ov.m(n))
        write(ov.m("new"), "new")
        eq((names(ov.mnt), read(ov.m("new"))), (["new"], b"new"))
        ov.umount()


if __name__ == "__main__":
    main()
