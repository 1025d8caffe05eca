#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that serves the mount is killed, and another one goes on: whoever works in the mount does not notice.

The changes of faults.py are each interrupted before every system call that changes something, and at every crash point;
here no step may fail, and what is seen, without a remount, is the state after each step. OV_CHANGE=NAME takes only the
change of that name. Of the calls one of OV_FAULTS_SAMPLE is taken; 1 takes them all, in minutes.
"""

import fcntl
import re
import threading
import traceback

from faults import *

ONLY = os.environ.get("OV_CHANGE", "")
FAULTY = "it needs a program that can be told to die"
OURS = "no other has a worker to be replaced"


def has_resend():
    release = tuple(map(int, re.match(r"(\d+)\.(\d+)", os.uname().release).groups()))
    return release >= (6, 9)


def needs_resend():
    if not has_resend():
        skip("requests are given again by Linux 6.9 and later")


def forget_all():
    """Have the kernel ask again, where that may be had."""
    if is_root_mode():
        drop_caches()


def restarts(ov):
    return state(ov.mnt)["restarts"]


# ---------------------------------------------------------------------------------------------------------------
# At every call


def check_state(change, view, states, n, what):
    ok(change.same(view, states[n], states[max(n - 1, 0)]), "%s\n  %s" % (
        what, "\n  ".join(same_diff(view, states[n], "now", "expected"))))


def go_through(ov, change, states, what):
    """The steps, all of which succeed, and the view after the last one, before and after a remount."""
    for n, step in enumerate(change.steps):
        try:
            step(ov)
        except OSError as e:
            raise Failed("%s: step %d: %r" % (what, n + 1, e))
    died = restarts(ov)
    ov.page.rest()
    check_state(change, ov.view(), states, len(change.steps), what + ": the view")
    ov.umount()
    ov.plainly(change)
    eq(names(ov.w("work")), [], what + ": workdir after the mount")
    check_state(change, ov.view(), states, len(change.steps), what + ": the view after a remount")
    ov.umount()
    ov.drop()
    return died


def all_steps(ov, change):
    for step in change.steps:
        step(ov)


def interrupt_calls(ov, change, states):
    deaths = 0
    for n in sample(change, ov.calls(change, CHANGES, all_steps)[0], 8):
        ov.fresh(change)
        ov.page.fail(DIE, at=n, classes=CHANGES)
        deaths += go_through(ov, change, states, "%s, killed before call %d" % (change.name, n))
    return deaths


def interrupt_points(ov, change, states, points, wanted):
    mine = sorted({points[i] for i in ov.calls(change, 0, all_steps)[1]} & wanted)
    for point in mine:
        ov.fresh(change)
        ov.page.die_at(point)
        ok(go_through(ov, change, states, "%s, killed at %s" % (change.name, point)) > 0, point + " was not reached")
    return set(mine)


def interrupted(part, nparts):
    needs_resend()
    deaths, todo = 0, [c for c in changes() if ONLY in ("", c.name)]
    with Layers(supervise=True) as ov:
        for change in todo[part::nparts]:
            deaths += interrupt_calls(ov, change, ov.states(change))
        ov.check_lower()
    ok(deaths > 0 or ONLY, "no worker died")
    print("%d workers killed" % deaths)


for _part in range(4):
    def go(part=_part):
        interrupted(part, 4)
    go.__name__ = "test_before_every_call_%d_of_4" % (_part + 1)
    go.__doc__ = "Killed before every changing system call of each change."
    test(timeout=300, only_ours=FAULTY)(go)


@test(timeout=300, only_ours=FAULTY)
def test_at_every_crash_point():
    """Killed at each named crash point."""
    needs_resend()
    points = crash_points()
    left = {p for p in points if not p.startswith(("forget.", "post."))}  # passed when the kernel likes
    with Layers(supervise=True) as ov:
        for change in changes():
            if ONLY in ("", change.name):
                left -= interrupt_points(ov, change, ov.states(change), points, left)
        ov.check_lower()
    print("%d crash points" % (len(points) - len(left)))
    if is_root_mode() and not ONLY:
        eq(sorted(left), [], "crash points that no change reaches")


# ---------------------------------------------------------------------------------------------------------------
# What is open stays open


@test(only_ours=OURS)
def test_open_files():
    """Files open for reading and writing, of the lower and the upper, with and without a name."""
    with Overlay({"low": "low", "gone": "gone", "up": "up", "over": "over", "by": "by", "lnk": "lnk"}) as ov:
        append(ov.m("up"), "!")
        fds = {n: os.open(ov.m(n), os.O_RDWR) for n in ("low", "gone", "up", "over", "by", "lnk")}
        write(ov.m("new"), "new")
        fds["new"] = os.open(ov.m("new"), os.O_RDWR)
        write(ov.m("newgone"), "newgone")
        fds["newgone"] = os.open(ov.m("newgone"), os.O_RDWR)
        inos = {n: os.fstat(fd).st_ino for n, fd in fds.items()}
        os.link(ov.m("lnk"), ov.m("lnk2"))
        inos["lnk"] = os.fstat(fds["lnk"]).st_ino
        os.unlink(ov.m("lnk"))
        os.unlink(ov.m("gone"))
        os.unlink(ov.m("newgone"))
        os.rename(ov.m("by"), ov.m("over"))
        ov.kill_worker()
        want = {"low": b"low", "gone": b"gone", "up": b"up!", "over": b"over", "by": b"by", "lnk": b"lnk", "new": b"new",
                "newgone": b"newgone"}
        for n, fd in fds.items():
            forget_all()
            st = os.fstat(fd)
            eq((st.st_ino, st.st_size), (inos[n], len(want[n])), n)
            eq(os.pread(fd, 100, 0), want[n], n)
            os.pwrite(fd, b"+", len(want[n]))
            os.fsync(fd)
            eq(os.fstat(fd).st_nlink, 0 if n in ("gone", "newgone", "over") else 1, "links of " + n)
        ov.kill_worker()
        for n, fd in fds.items():
            posix_fadvise_dontneed(fd)
            eq(os.pread(fd, 100, 0), want[n] + b"+", n)
            os.ftruncate(fd, 1)
            os.close(fd)
        eq(names(ov.mnt), ["lnk2", "low", "new", "over", "up"])
        eq(read(ov.m("over")), b"b")
        eq(restarts(ov), 2)
        eq(names(ov.l()), ["by", "gone", "lnk", "low", "over", "up"])


def posix_fadvise_dontneed(fd):
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@test(only_ours=OURS)
def test_directories():
    """Working directories, also removed ones and of the lower; a listing that is half read."""
    with Overlay({"d": {"%03d" % i: "" for i in range(500)}, "gone": {}, "deep": {"a": {"b": {"c": "c"}}}}) as ov:
        os.mkdir(ov.m("made"))
        fds = {n: os.open(ov.m(n), os.O_RDONLY) for n in ("d", "gone", "deep/a/b", "made")}
        os.rmdir(ov.m("gone"))
        os.rmdir(ov.m("made"))
        with os.scandir(fds["d"]) as it:
            seen = [next(it).name for _ in range(10)]
            ov.kill_worker()
            forget_all()
            seen += [e.name for e in it]
        eq(sorted(seen), ["%03d" % i for i in range(500)], "listing")
        eq(os.listdir(fds["gone"]), [])
        eq(os.listdir(fds["made"]), [])
        fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fds["gone"])
        fd = os.open("c", os.O_WRONLY | os.O_APPEND, dir_fd=fds["deep/a/b"])
        os.write(fd, b"!")
        os.close(fd)
        eq(read(ov.m("deep/a/b/c")), b"c!")
        for fd in fds.values():
            os.fstat(fd)
            os.close(fd)


@test(only_ours=OURS)
def test_mappings():
    """A shared mapping is written to while nobody serves, and reaches the disk."""
    with Overlay({"f": b"a" * 65536}) as ov:
        fd = os.open(ov.m("f"), os.O_RDWR)
        m = mmap.mmap(fd, 65536)
        m[0:1] = b"1"
        ov.kill_worker()
        m[4096:4097] = b"2"
        m.flush()
        ov.kill_worker()
        eq(m[60000:60001], b"a")
        m[60000:60001] = b"3"
        m.close()
        os.close(fd)
        ov.umount()
        data = read(ov.u("f"))
        eq((data[0:1], data[4096:4097], data[60000:60001], len(data)), (b"1", b"2", b"3", 65536))


@test(only_ours=OURS)
def test_locks():
    """flock and POSIX locks are kept."""
    with Overlay({"f": "f"}) as ov:
        a = open(ov.m("f"), "r+")
        fcntl.flock(a, fcntl.LOCK_EX)
        fcntl.lockf(a, fcntl.LOCK_EX)
        ov.kill_worker()

        def other():
            b = open(ov.m("f"), "r+")
            fails(errno.EWOULDBLOCK, fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fails((errno.EAGAIN, errno.EACCES), fcntl.lockf, b, fcntl.LOCK_EX | fcntl.LOCK_NB)

        in_child(other)
        a.close()


@test(only_ours=OURS)
def test_inode_numbers():
    """st_ino and hard links are the same after the restart, over copy-ups before and after it."""
    with Overlay({"a": "a", "b": "b", "l1": "l", "l2": Hardlink("l1"), "s": Sym("a")}) as ov:
        append(ov.m("a"), "+")
        os.chown(ov.m("s"), 1, 1, follow_symlinks=False)
        before = {n: lstat(ov.m(n)).st_ino for n in names(ov.mnt)}
        ov.kill_worker()
        forget_all()
        append(ov.m("b"), "+")
        eq({n: lstat(ov.m(n)).st_ino for n in names(ov.mnt)}, before)


@test(only_ours=OURS)
def test_metacopy_and_index():
    """Files whose data is still in the lower, and names kept together, also when they have lost their name meanwhile."""
    if not is_root_mode():
        skip("redirects are not followed there")
    with Overlay({"d": {"f": "data", "g": "gata"}, "h1": "links", "h2": Hardlink("h1")},
                 opts="metacopy=on,index=on,redirect_dir=on") as ov:
        os.chmod(ov.m("d/f"), 0o600)
        os.chmod(ov.m("d/g"), 0o600)
        os.rename(ov.m("d"), ov.m("moved"))
        f, g = os.open(ov.m("moved/f"), os.O_RDWR), os.open(ov.m("moved/g"), os.O_RDWR)
        os.unlink(ov.m("moved/g"))
        h = os.open(ov.m("h1"), os.O_RDWR)
        os.chmod(ov.m("h1"), 0o600)
        ov.kill_worker()
        forget_all()
        eq((os.pread(f, 10, 0), os.pread(g, 10, 0)), (b"data", b"gata"))
        os.pwrite(h, b"L", 0)
        eq(read(ov.m("h2")), b"Links")
        eq(lstat(ov.m("h1")).st_ino, lstat(ov.m("h2")).st_ino)
        os.pwrite(g, b"G", 0)
        ov.kill_worker()
        posix_fadvise_dontneed(g)
        eq(os.pread(g, 10, 0), b"Gata")
        for fd in (f, g, h):
            os.close(fd)
        eq(read(ov.m("moved/f")), b"data")


@test(only_ours=OURS)
def test_descriptors_do_not_add_up():
    """What a dead worker had open is closed, but for what keeps files without a name."""
    with Overlay({"d%d" % i: {"f%d" % j: "x" for j in range(20)} for i in range(20)}) as ov:
        keep = open(ov.m("keep"), "w")
        os.unlink(ov.m("keep"))
        daemon = next(iter(ov.daemons))
        counts = []
        for _ in range(4):
            for d in range(20):
                for f in range(20):
                    read(ov.m("d%d/f%d" % (d, f)))
            ov.kill_worker()
            forget_all()
            state(ov.mnt)
            counts.append(len(os.listdir("/proc/%d/fd" % daemon)))
        ok(max(counts) - min(counts) < 5, "open after each restart: %r" % counts)
        keep.close()


# ---------------------------------------------------------------------------------------------------------------
# Many deaths


class Killer(threading.Thread):
    """Kills the worker again and again while somebody works in the mount."""

    def __init__(self, ov, pause):
        super().__init__(daemon=True)
        self.ov, self.pause, self.stop, self.kills = ov, pause, threading.Event(), 0

    def run(self):
        while not self.stop.wait(self.pause):
            with contextlib.suppress(ProcessLookupError):
                self.ov.kill_worker()
                self.kills += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.join()


@test(timeout=120, only_ours=OURS)
def test_killed_while_files_come_and_go():
    """Names are made, linked, renamed and removed by four processes; not one call fails, and every name is where it belongs."""
    needs_resend()

    def work(top, k):
        d = top + "/%d" % k
        os.mkdir(d)
        for i in range(150):
            write(d + "/a", "%d" % i)
            os.rename(d + "/a", d + "/b%d" % i)
            os.link(d + "/b%d" % i, d + "/c")
            os.symlink("b%d" % i, d + "/s")
            os.mkdir(d + "/sub")
            renameat2(d + "/sub", d + "/c", RENAME_EXCHANGE)
            eq(read(d + "/s"), b"%d" % i)
            ok(os.path.isdir(d + "/c"))
            os.unlink(d + "/sub")
            os.rmdir(d + "/c")
            os.unlink(d + "/s")
            eq(names(d), sorted("b%d" % j for j in range(i - i % 10, i + 1)))
            if i % 10 == 9:
                for j in range(i - 9, i + 1):
                    os.unlink(d + "/b%d" % j)

    with Overlay({"d": {}}) as ov:
        with Killer(ov, 0.05) as k:
            pids = [start_child(work, ov.m("d"), n) for n in range(4)]
            for pid in pids:
                wait_child(pid)
        ok(k.kills > 3, "killed only %d times" % k.kills)
        print("killed %d times" % k.kills)
        for n in range(4):
            eq(names(ov.m("d/%d" % n)), [])


def start_child(fn, *args):
    pid = os.fork()
    if pid == 0:
        try:
            fn(*args)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def wait_child(pid):
    eq(os.waitpid(pid, 0)[1], 0, "status of a process that works in the mount")


@test(timeout=200, only_ours=OURS)
def test_killed_during_real_work():
    """Killed every 100 ms while tar unpacks, git commits and clones, a compiler compiles and sqlite commits: with right results."""
    needs_resend()
    need("tar", "git", "cc", "sqlite3")
    script = r"""
set -e
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
mkdir un; tar -xf ../tree.tar -C un
git init -q repo; cp -a un/. repo/; cd repo; git add -A; git commit -q -m one; git rm -q -r d1; git commit -q -m two; cd ..
git clone -q repo clone; git -C clone fsck --strict
for i in 1 2 3 4 5 6 7 8; do printf '#include <stdio.h>\nint f%d(void) { return %d; }\n' $i $i >f$i.c; done
for i in 1 2 3 4 5 6 7 8; do cc -O1 -c f$i.c; done
printf 'int f8(void); int main(void) { return f8(); }\n' >main.c; cc -o prog main.c f*.o; set +e; ./prog; test $? = 8; set -e
for i in $(seq 60); do echo "insert into t values($i, hex(randomblob(500)));"; done | sed '1i create table t(a integer, b text);' | sqlite3 db
test "$(sqlite3 db 'select count(*), sum(a) from t; pragma integrity_check' | tr '\n' ' ')" = "60|1830 ok "
rm -rf un
"""
    with Overlay({"base": "x"}) as ov:
        src = os.path.join(ov.base, "tree")
        for d in range(20):
            os.makedirs(src + "/d%d" % d)
            for f in range(40):
                write(src + "/d%d/f%d" % (d, f), ("%d %d\n" % (d, f)) * (f * 10 + 1))
        run("tar", "-C", src, "-cf", ov.m("tree.tar"), ".")
        os.mkdir(ov.m("work"))
        with Killer(ov, 0.1) as k:
            run("sh", "-c", script, cwd=ov.m("work"), timeout=180)
        ok(k.kills > 5, "killed only %d times" % k.kills)
        print("killed %d times" % k.kills)
        shutil.rmtree(src + "/d1")
        ours, theirs = (tree_snapshot(p, times=False, nlink=False) for p in (ov.m("work/clone"), src))
        assert_same({n: a for n, a in ours.items() if n != ".git" and not n.startswith(".git/")}, theirs, "clone", "source")


@test(timeout=60, only_ours=OURS)
def test_killed_during_a_large_copy_up():
    """A copy-up of 64 MiB is begun anew, other requests are served meanwhile."""
    needs_resend()
    with Overlay({"big": os.urandom(1 << 20) * 64, "other": "other"}) as ov:
        want = hash_file(ov.l("big"))
        pid = start_child(append, ov.m("big"), b"end")
        for _ in range(5):
            time.sleep(0.02)
            ov.kill_worker()
            eq(read(ov.m("other")), b"other")
        wait_child(pid)
        eq(lstat(ov.m("big")).st_size, (64 << 20) + 3)
        os.truncate(ov.m("big"), 64 << 20)
        eq(hash_file(ov.m("big")), want)


@test(timeout=90, only_ours=OURS)
def test_killed_while_the_kernel_writes_back():
    """A worker that has asked for dirty data cannot die before that is written, which needs the next worker."""
    needs_resend()

    def work(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        for i in range(400):
            os.pwrite(fd, b"x" * 70000, i * 200000)
            eq(os.lseek(fd, i * 200000, os.SEEK_DATA), i * 200000)
            hole = os.lseek(fd, i * 200000, os.SEEK_HOLE)
            ok(i * 200000 + 70000 <= hole <= (i + 1) * 200000, hole)
        os.close(fd)

    with Overlay({"a": "a"}) as ov:
        with Killer(ov, 0.03) as k:
            pids = [start_child(work, ov.m("f%d" % n)) for n in range(2)]
            for pid in pids:
                wait_child(pid)
        print("killed %d times" % k.kills)


# ---------------------------------------------------------------------------------------------------------------
# What the kernel has forgotten is forgotten

MANY = ["n%03d" % i for i in range(300)]


def forget_unused():
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("2")


def left(ov, want=None):
    """How many inodes the daemon knows when the kernel has forgotten all that it can; soon as many as are WANTED."""
    n = None
    for _ in range(30):
        forget_unused()
        time.sleep(0.02)
        before, n = n, state(ov.mnt)["inodes"]
        if n == want or (want is None and n == before):
            break
    return n


class Many(Layers):
    """A directory with MANY files."""

    def __init__(self, client_cpu=0):
        needs_resend()
        super().__init__(supervise=True, client_cpu=client_cpu)

    def __enter__(self):
        super().__enter__()
        self.fresh(Change("none"))
        os.mkdir(self.m("many"))
        for n in MANY:
            write(self.m("many", n), n)
        drop_caches()
        self.fewest = left(self)
        self.deaths = 0
        return self

    def check_death(self, what):
        """Since the last call one worker has died, and the count of no inode is too high for it."""
        self.deaths += 1
        for _ in range(500):
            if restarts(self) >= self.deaths:
                break
            time.sleep(0.01)
        self.page.rest()
        eq(restarts(self), self.deaths, what + ": deaths")
        eq(left(self, self.fewest), self.fewest, what + ": inodes that are left")

    def check_known(self, what):
        """No inode has a count that is too low: each one is known by the number that the kernel has."""
        for n in MANY:
            eq(read(self.m("many", n)), n.encode(), what)


@test(modes=ROOT, only_ours=FAULTY)
def test_killed_while_it_forgets():
    """What the dead worker was told to forget is forgotten, once."""
    with Many() as ov:
        for point, at in (("forget.read", 1), ("forget.entry", 1), ("forget.entry", 100), ("forget.entry", 250),
                          ("count.noted", 1), ("count.noted", 150), ("count.changed", 1), ("count.changed", 150)):
            what = "%s:%d" % (point, at)
            keep = [open(ov.m("many", n), "rb", buffering=0) for n in MANY[::7]]
            for n in MANY:
                lstat(ov.m("many", n))
            worker = ov.worker()
            ov.page.die_at(point, at)
            os.kill(worker, signal.SIGSTOP)  # so that all comes at once
            while process_state(worker) != "T":
                time.sleep(0.001)
            for _ in range(3):  # what was used lately goes the second time
                forget_unused()
            os.kill(worker, signal.SIGCONT)
            for _ in range(100):  # somebody else may have kept it from being dropped
                if not ov.page.is_ahead():
                    break
                time.sleep(0.02)
                forget_unused()
            for n, f in zip(MANY[::7], keep):
                eq(f.read(), n.encode(), what)
                f.close()
            ov.check_death(what)


@test(modes=ROOT, only_ours=FAULTY)
def test_killed_while_it_lists():
    """All that a listing counts as looked up is counted once, whether the answer was sent or not."""
    with Many() as ov:
        for point, at in [("readdir.reply", 1), ("readdir.reply", 2)] + [("request.answered", n) for n in (1, 2, 3, 4)] + \
                [(p, n) for p in ("count.noted", "count.changed") for n in (1, 2, 100, 250)]:
            what = "%s:%d" % (point, at)
            drop_caches()
            ov.page.die_at(point, at)
            eq(names(ov.m("many")), MANY, what)
            ov.check_known(what)
            ov.check_death(what)


@test(modes=ROOT, only_ours=FAULTY)
def test_killed_while_it_looks_up():
    """The same for what counts one or two inodes: looking up, making, linking, renaming, removing."""

    def work(ov):
        write(ov.m("few/a"), "a")
        write(ov.m("few/b"), "b")
        os.link(ov.m("few/a"), ov.m("few/c"))
        renameat2(ov.m("few/a"), ov.m("few/b"), RENAME_EXCHANGE)
        os.rename(ov.m("few/b"), ov.m("few/a"))
        eq((names(ov.m("few")), read(ov.m("few/a")), read(ov.m("few/c"))), (["a", "c"], b"a", b"a"))
        os.unlink(ov.m("few/a"))
        os.unlink(ov.m("few/c"))

    with Many() as ov:
        os.mkdir(ov.m("few"))
        for point in ("entry.reply", "count.noted", "count.changed", "rename.moved", "rename.exchanged", "request.answered"):
            at = 1
            while True:
                forget_unused()
                ov.page.die_at(point, at)
                work(ov)
                if ov.page.is_ahead():
                    break
                ov.check_death("%s:%d" % (point, at))
                at += 1
            ov.page.rest()
            eq(left(ov, ov.fewest), ov.fewest, point + ": inodes that are left")
            ov.deaths = restarts(ov)  # it may have come to it just now, forgetting
            ok(at > 1, point + " was not reached")


@test(modes=ROOT, only_ours=FAULTY)
def test_killed_while_replies_are_posted():
    """A reply that was left to another thread is sent once, and counts what it tells of once."""

    def work(ov, n):
        path = ov.m("few/%d" % n)
        write(path, "a")
        os.rename(path, path + "+")
        eq((read(path + "+"), names(ov.m("few"))), (b"a", ["%d+" % n]))
        os.unlink(path + "+")

    with Many(client_cpu=1) as ov:
        os.mkdir(ov.m("few"))
        for point in ("post.full", "post.send", "post.sent", "entry.reply", "count.changed"):
            for at in (1, 2, 3, 5, 8):
                what = "%s:%d" % (point, at)
                leave_cpus(ov.mnt, ov.m("many", MANY[0]))
                ov.page.die_at(point, at)
                for n in range(1000):
                    work(ov, n)
                    if not ov.page.is_ahead():
                        break
                    if n % 10 == 9:
                        leave_cpus(ov.mnt, ov.m("many", MANY[0]))
                ov.check_death(what)
        ov.check_known("in the end")


@test(modes=ROOT, timeout=120, only_ours=OURS)
def test_killed_while_all_is_forgotten_again_and_again():
    """At any moment, while directories are listed and all is forgotten: in the end nothing is left, and nothing was lost."""
    needs_resend()

    def go(top, n, end):
        while time.monotonic() < end:
            eq(len(names(top)), 1000)
            for k in range(n, 1000, 2):
                lstat(top + "/%d" % k)
            os.rename(top + "/../r%d" % n, top + "/../x%d" % n)
            os.rename(top + "/../x%d" % n, top + "/../r%d" % n)
            forget_unused()

    with Overlay({"d": {str(k): str(k) for k in range(1000)}, "r0": "", "r1": {}}, opts="redirect_dir=on") as ov:
        fewest = left(ov)
        keep = {k: os.open(ov.m("d", str(k)), os.O_RDONLY) for k in range(0, 1000, 9)}
        with Killer(ov, 0.02) as k:
            pids = [start_child(go, ov.m("d"), n, time.monotonic() + 8) for n in range(2)]
            for pid in pids:
                wait_child(pid)
        print("killed %d times" % k.kills)
        for k, fd in keep.items():
            eq(os.pread(fd, 10, 0), b"%d" % k)
            os.close(fd)
        eq(left(ov, fewest), fewest, "inodes that are left")


# ---------------------------------------------------------------------------------------------------------------
# Limits


@test(timeout=60, only_ours=FAULTY)
def test_deadly_request():
    """A request of which every worker dies is refused in the end; the mount lives."""
    needs_resend()
    with Layers(supervise=True) as ov:
        ov.fresh(Change("none"))
        ov.page.fail(DIE, sticky=True, only="symlinkat")
        fails(errno.EIO, os.symlink, "x", ov.m("s"))
        ov.page.rest()
        ok(1 < restarts(ov) < 30, "%d restarts" % restarts(ov))
        os.symlink("x", ov.m("s"))
        eq(os.readlink(ov.m("s")), "x")
        ov.drop()


@test(only_ours=FAULTY)
def test_without_resend():
    """Where the kernel cannot give requests again, those that were being served fail with EIO; the mount and all that is open
    go on."""
    with Layers(supervise=True) as ov:
        ov.fresh(Change("none", env={"OV_NO_RESEND": "1"}))
        f = open(ov.m("new"), "w+")
        f.write("new")
        f.flush()
        os.unlink(ov.m("new"))
        ov.page.fail(DIE, only="symlinkat")
        fails(errno.EIO, os.symlink, "x", ov.m("s"))
        ov.page.rest()
        os.symlink("x", ov.m("s"))
        ov.page.fail(DIE, only="unlinkat")
        fails(errno.EIO, os.unlink, ov.m("s"))
        ov.page.rest()
        os.unlink(ov.m("s"))
        f.seek(0)
        eq(f.read(), "new")
        f.close()
        eq(read(ov.m("small")), b"small\n")
        eq(restarts(ov), 2)
        ov.drop()


@test(only_ours=OURS)
def test_nosupervise():
    """Without a supervisor there is one process, and the mount ends with it."""
    for opts in ("nosupervise", "supervise=0"):
        with Overlay({"a": "a"}, opts=opts) as ov:
            eq(children_of(next(iter(ov.daemons))), [])
            ov.kill_daemon()
            fails((errno.ENOTCONN, errno.ECONNABORTED), os.listdir, ov.mnt)
            umount2(ov.mnt, MNT_DETACH)
            ov.mounted = False


@test(only_ours=OURS)
def test_supervisor_killed():
    """The worker goes on alone."""
    with Overlay({"a": "a"}) as ov:
        worker = ov.worker()
        os.kill(next(iter(ov.daemons)), signal.SIGKILL)
        ov.wait_daemon()
        eq(read(ov.m("a")), b"a")
        write(ov.m("b"), "b")
        ov.umount()
        for _ in range(500):
            if process_state(worker) in "ZX":
                break
            time.sleep(0.01)
        else:
            raise Failed("the worker does not end with the mount")


@test(only_ours=OURS)
def test_sigterm_while_a_worker_starts():
    """Asked to end just when the worker has died: unmounted all the same."""
    with Overlay({"a": "a"}) as ov:
        ov.kill_worker()
        ov.kill_daemon(signal.SIGTERM)
        ov.wait_daemon()
        ok(not is_mounted(ov.mnt), "still mounted")
        ov.mounted = False


# ---------------------------------------------------------------------------------------------------------------
# Another program


@test(only_ours=OURS)
def test_upgrade():
    """The program is exchanged while files are open in the mount; asked for by --upgrade, and by SIGUSR2."""
    with Overlay({"low": "low", "d": {"x": "x"}, "gone": "gone"}) as ov:
        up, low, gone = open(ov.m("up"), "w+"), open(ov.m("low")), open(ov.m("gone"), "r+")
        nameless = open(ov.m("nameless"), "w+")
        nameless.write("nameless")
        nameless.flush()
        os.unlink(ov.m("nameless"))
        os.unlink(ov.m("gone"))
        cwd = os.open(ov.m("d"), os.O_RDONLY)
        ino = os.fstat(up.fileno()).st_ino
        for n in range(3):
            old_worker = ov.worker()
            run(program(), "--upgrade", ov.mnt)
            eq(state(ov.mnt)["renewals"], n + 1)
            ok(ov.worker() != old_worker, "the same worker")
            forget_all()
            up.write("%d" % n)
            up.flush()
            os.fsync(up.fileno())
            eq(os.fstat(up.fileno()).st_ino, ino)
            eq(os.pread(low.fileno(), 10, 0), b"low")
            eq(os.pread(gone.fileno(), 10, 0), b"gone")
            eq(os.pread(nameless.fileno(), 20, 0), b"nameless")
            eq(os.listdir(cwd), ["x"])
            write(ov.m("n%d" % n), "n")
            ov.kill_worker()
            eq(read(ov.m("n%d" % n)), b"n")
        for n, whom in ((4, lambda: next(iter(ov.daemons))), (5, ov.worker)):  # pkill(1) may send it to either
            os.kill(whom(), signal.SIGUSR2)
            for _ in range(500):
                if state(ov.mnt)["renewals"] == n:
                    break
                time.sleep(0.01)
            eq(state(ov.mnt)["renewals"], n)
        for f in (up, low, gone, nameless):
            f.close()
        os.close(cwd)
        eq(read(ov.m("up")), b"012")
        ov.umount()
        ov.mount()
        eq(names(ov.mnt), ["d", "low", "n0", "n1", "n2", "up"])


@test(only_ours=OURS, tries=3)
def test_reading_ahead_after_an_upgrade_and_after_a_death():
    """The next program reads directories ahead, too; a process that takes over from one that died does without."""
    def walk(top):
        return sum(len(files) for _, _, files in os.walk(ov.m(top)))
    if len(os.sched_getaffinity(0)) < 2:
        skip("there is one CPU")
    with Overlay({"%s/d%d/in%d/f%d" % (t, d, i, f): "" for t in "abc" for d in range(9) for i in range(9) for f in range(9)}) as ov:
        eq(walk("a"), 729)
        ok(state(ov.mnt)["directories-ahead"] > 0, "none at first")
        run(program(), "--upgrade", ov.mnt)
        eq(walk("b"), 729)
        ok(state(ov.mnt)["directories-ahead"] > 0, "none after the upgrade")
        ov.kill_worker()
        eq(walk("c"), 729)
        eq(state(ov.mnt)["directories-ahead"], 0)


@test(only_ours=OURS)
def test_upgrade_under_load():
    """Nothing fails while programs are exchanged."""
    with Overlay({"d": {}}) as ov:
        def work():
            for i in range(300):
                write(ov.m("d/a"), "%d" % i)
                os.rename(ov.m("d/a"), ov.m("d/b"))
                eq(read(ov.m("d/b")), b"%d" % i)

        pid = start_child(work)
        for _ in range(4):
            run(program(), "--upgrade", ov.mnt)
        wait_child(pid)


@test(only_ours=OURS)
def test_upgrade_not_possible():
    """A program that cannot go on is not given the mount; neither is one without a supervisor."""
    with Overlay({"a": "a"}) as ov:
        own = os.path.join(ov.base, "prog")
        shutil.copy(program(), own)
        os.chmod(own, 0o755)
        ov.umount()
        ov.program = own
        ov.mount()
        os.unlink(own)
        os.kill(next(iter(ov.daemons)), signal.SIGUSR2)
        write(own, "#!/bin/sh\necho 0\n")
        os.chmod(own, 0o755)
        os.kill(next(iter(ov.daemons)), signal.SIGUSR2)
        time.sleep(0.2)
        eq(read(ov.m("a")), b"a")
        eq(state(ov.mnt)["renewals"], 0)
    with Overlay({"a": "a"}, opts="nosupervise") as ov:
        r = run(program(), "--upgrade", ov.mnt, check=False)
        eq((r.returncode, "no supervisor" in r.stdout + r.stderr), (1, True))
    with Overlay({"a": "a"}, mount=False) as ov:
        r = run(program(), "--upgrade", ov.mnt, check=False)
        eq((r.returncode, "no mount of ours" in r.stdout + r.stderr), (1, True))


if __name__ == "__main__":
    main()
