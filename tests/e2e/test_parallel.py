#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Many processes at once: nothing is lost or torn, and the view is the same after a remount and in the kernel's overlay."""

import random
import threading

from ovtest import *

WORKERS = 6
SECONDS = 4     # of work: a bound, not a measure
PLACES = ("low", "both", "up", "low/deep/er")


def crowd(n, fn, *args):
    """FN(worker, *args) in N processes at once; their results. The first error of one is the test's."""
    ready, pipes, pids = os.pipe(), [], []
    for w in range(n):
        r, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready[1])
            os.read(ready[0], 1)   # ends when the parent closes its end: all begin together
            result = (False, "died")
            try:
                result = (True, fn(w, *args))
            except BaseException:
                result = (False, traceback.format_exc())
            finally:
                with os.fdopen(out, "wb") as f:
                    pickle.dump(result, f)
                os._exit(0)
        os.close(out)
        pipes.append(r)
        pids.append(pid)
    os.close(ready[0])
    os.close(ready[1])
    results = []
    for r in pipes:
        with os.fdopen(r, "rb") as f:
            results.append(pickle.load(f))
    for pid in pids:
        os.waitpid(pid, 0)
    for good, value in results:
        ok(good, value) if good else fail(value)
    return [value for _, value in results]


def fail(text):
    raise Failed("in a worker:\n" + text[-3000:])


def until(seconds=SECONDS, rounds=100000):
    """Rounds 0, 1, ... until the time is over."""
    end = time.monotonic() + seconds
    for i in range(rounds):
        if time.monotonic() > end:
            return
        yield i


def view(path):
    return tree_snapshot(path, times=False)


def same_ever_after(ov, kernel_opts=""):
    """What is seen now is seen after a remount and by the kernel, and nothing is left in the work directory."""
    now = view(ov.mnt)
    ov.remount()
    assert_same(now, view(ov.mnt), "before", "after remount")
    ov.umount()
    left = [n for n in names(ov.w("work")) if not stat.S_ISCHR(lstat(ov.w("work", n)).st_mode)]  # a shared whiteout
    eq(left, [], "in workdir/work")
    if is_root_mode() or not kernel_opts:   # user xattrs are no redirects and metacopies for the kernel
        with ov.by_kernel(kernel_opts) as k:
            assert_same(now, view(k), "ours", "kernel")
    return now


def attempt(codes, fn, *args, **kw):
    """True if it succeeded, False for an expected error."""
    try:
        fn(*args, **kw)
        return True
    except OSError as e:
        if e.errno in codes:
            return False
        raise


# --- each its own names, all in the same directories

class Worker:
    """Random operations on names of its own; MODEL is what must be there: path -> content, or list of its links."""

    def __init__(self, w, top, own, seed=0):
        self.w, self.top, self.rnd, self.n = w, top, random.Random(w * 1000 + seed), 0
        self.model = dict(own)       # path -> key of content
        self.data = {p: bytearray(own[p].encode()) for p in own}
        self.model = {p: p for p in own}
        self.dirs = []

    def path(self, p):
        return os.path.join(self.top, p)

    def fresh(self):
        self.n += 1
        return "%s/w%d-%d" % (self.rnd.choice(PLACES), self.w, self.n)

    def pick(self):
        return self.rnd.choice(sorted(self.model)) if self.model else None

    def step(self):
        op = self.rnd.choice((self.create, self.create, self.write, self.write, self.append, self.rename, self.rename,
                              self.rename_over, self.unlink, self.link, self.truncate, self.mapped, self.chmod,
                              self.folder, self.symlink, self.exchange, self.check))
        op()

    def create(self):
        p = self.fresh()
        data = b"%d " % self.n * self.rnd.choice((0, 1, 1000))
        write(self.path(p), data)
        self.model[p], self.data[p] = p, bytearray(data)

    def symlink(self):
        p = self.fresh()
        os.symlink("none-of-%d" % self.n, self.path(p))
        eq(os.readlink(self.path(p)), "none-of-%d" % self.n)
        os.unlink(self.path(p))

    def write(self):
        if p := self.pick():
            d, at = self.data[self.model[p]], self.rnd.randrange(5000)
            piece = b"<%d.%d>" % (self.w, self.n)
            fd = os.open(self.path(p), os.O_WRONLY)
            os.pwrite(fd, piece, at)
            os.close(fd)
            if len(d) < at:
                d.extend(bytes(at - len(d)))
            d[at:at + len(piece)] = piece

    def append(self):
        if p := self.pick():
            append(self.path(p), b"+%d" % self.w)
            self.data[self.model[p]] += b"+%d" % self.w

    def truncate(self):
        if p := self.pick():
            n, d = self.rnd.randrange(3000), self.data[self.model[p]]
            os.truncate(self.path(p), n)
            d[:] = (d + bytes(max(n - len(d), 0)))[:n]

    def mapped(self):
        p = self.pick()
        if p and self.data[self.model[p]]:
            fd = os.open(self.path(p), os.O_RDWR)
            with mmap.mmap(fd, 0) as m:
                at = self.rnd.randrange(len(m))
                m[at] = 64 + self.w
            os.close(fd)
            self.data[self.model[p]][at] = 64 + self.w

    def rename(self):
        if p := self.pick():
            to = self.fresh()
            os.rename(self.path(p), self.path(to))
            self.model[to] = self.model.pop(p)

    def rename_over(self):
        a, b = self.pick(), self.pick()
        if a and self.model[a] != self.model[b]:
            os.rename(self.path(a), self.path(b))
            self.model[b] = self.model.pop(a)

    def exchange(self):
        a, b = self.pick(), self.pick()
        if a and a != b:
            renameat2(self.path(a), self.path(b), RENAME_EXCHANGE)
            self.model[a], self.model[b] = self.model[b], self.model[a]

    def unlink(self):
        if p := self.pick():
            os.unlink(self.path(p))
            fails(errno.ENOENT, os.lstat, self.path(p))
            del self.model[p]

    def link(self):
        if p := self.pick():
            to = self.fresh()
            os.link(self.path(p), self.path(to))
            self.model[to] = self.model[p]

    def chmod(self):
        if p := self.pick():
            mode = self.rnd.choice((0o600, 0o640, 0o755))
            os.chmod(self.path(p), mode)
            eq(stat.S_IMODE(lstat(self.path(p)).st_mode), mode)

    def folder(self):
        p = self.fresh()
        os.mkdir(self.path(p))
        write(self.path(p) + "/in", b"in")
        to = self.fresh()
        os.rename(self.path(p), self.path(to))
        eq(names(self.path(to)), ["in"])
        eq(read(self.path(to) + "/in"), b"in")
        os.unlink(self.path(to) + "/in")
        os.rmdir(self.path(to))

    def check(self):
        if p := self.pick():
            eq(read(self.path(p)), bytes(self.data[self.model[p]]), p)

    def result(self):
        return {p: hashlib.sha256(self.data[k]).hexdigest() for p, k in self.model.items()}


def own_names(opts="", kernel_opts=""):
    lower, upper, own = {}, {}, {w: {} for w in range(WORKERS)}
    for place in PLACES:
        for w in range(WORKERS):
            for i in range(12):
                p = "%s/o%d-%d" % (place, w, i)
                into = upper if place == "up" or (place == "both" and i % 2) else lower
                own[w][p] = "%s " % p * (i * 40)
                into[p] = File(own[w][p])

    def work(w):
        worker = Worker(w, ov.mnt, own[w])
        for _ in until():
            worker.step()
        return worker.result()

    with Overlay(lower, upper, opts=opts, mount=False) as ov:
        if opts and not is_root_mode() and IS_KERNEL:
            skip("needs privilege in the kernel")
        ov.mount()
        before = tree_snapshot(ov.lowers[0])
        want = {}
        for part in crowd(WORKERS, work):
            want.update(part)
        for _ in range(2):
            got = {p: a["sha256"] for p, a in view(ov.mnt).items() if a["type"] == "file"}
            eq(sorted(set(want) - set(got)), [], "lost")
            eq(sorted(set(got) - set(want)), [], "too many")
            eq({p: (got[p], want[p]) for p in want if got[p] != want[p]}, {}, "content")
            ov.remount()
        same_ever_after(ov, kernel_opts)
        assert_same(before, tree_snapshot(ov.lowers[0]), "lower before", "lower after")


@test
def test_own_names_in_shared_directories():
    own_names()


@test
def test_own_names_with_metacopy_and_redirects():
    own_names("metacopy=on,redirect_dir=on", "metacopy=on,redirect_dir=on")


@test(only_ours="options of ours")
def test_own_names_with_two_threads_and_no_writeback():
    own_names("max_threads=2,writeback=0")


# --- all the same names

@test
def test_renames_lose_nothing():
    """Tokens are moved and exchanged among the same places by all: each is there once in the end."""
    def slot(i):
        return "%s/slot%d" % (PLACES[i % len(PLACES)], i // len(PLACES))
    lower = {slot(i): "token %d" % i for i in range(0, 40, 2)}
    lower["up/x"] = ""

    def work(w):
        rnd, done = random.Random(w), 0
        for _ in until():
            a, b = (ov.m(slot(rnd.randrange(80))) for _ in "ab")
            flags = rnd.choice((RENAME_NOREPLACE, RENAME_NOREPLACE, RENAME_EXCHANGE))
            if a != b:
                done += attempt((errno.ENOENT, errno.EEXIST), renameat2, a, b, flags)
        return done

    with Overlay(lower, {"both/x": "", "up/y": ""}) as ov:
        ok(sum(crowd(WORKERS, work)) > 50, "hardly anything was moved")
        now = same_ever_after(ov)
        ov.mount()
        got = sorted(read(ov.m(p)).decode() for p in now if "slot" in p)
        eq(got, sorted("token %d" % i for i in range(0, 40, 2)))


@test
def test_renames_of_directories_lose_nothing():
    def slot(i):
        return "%s/slot%d" % (PLACES[i % len(PLACES)], i // len(PLACES))
    lower = {slot(i): Folder({"in%d" % i: "token %d" % i, "sub": {"f": "%d" % i}}) for i in range(16)}

    def work(w):
        rnd = random.Random(w)
        for n in until():
            a, b = (ov.m(slot(rnd.randrange(24))) for _ in "ab")
            if a != b:
                attempt((errno.ENOENT, errno.EEXIST), renameat2, a, b, rnd.choice((RENAME_NOREPLACE, RENAME_EXCHANGE)))
            attempt((errno.ENOENT,), append, os.path.join(a, "sub/f"), "")
            attempt((errno.ENOENT,), os.chmod, os.path.join(b, "sub"), 0o755)
            attempt((errno.ENOENT,), os.listdir, b)

    with Overlay(lower, {"up/y": ""}, mount=False) as ov:
        if IS_KERNEL and not is_root_mode():
            skip("needs privilege in the kernel")
        ov.mount("redirect_dir=on")
        crowd(WORKERS, work)
        now = same_ever_after(ov, "redirect_dir=on")
        ov.mount()
        tokens = [p for p in now if "/in" in p]
        eq(sorted(read(ov.m(p)).decode() for p in tokens), sorted("token %d" % i for i in range(16)))
        for p in tokens:
            eq(read(ov.m(os.path.dirname(p), "sub/f")).decode(), p.rsplit("in", 1)[1], "what belongs together")


@test
def test_one_name_made_and_removed_by_all():
    """Exclusive creation: one wins each time, and what it made is there until it removes it."""
    kinds = {"file": (touch, os.unlink), "dir": (os.mkdir, os.rmdir),
             "link": (lambda p: os.symlink("x", p), os.unlink), "fifo": (os.mkfifo, os.unlink)}

    def work(w):
        rnd, won = random.Random(w), 0
        for n in until():
            p = ov.m(rnd.choice(PLACES), "name%d" % rnd.randrange(3))
            kind = rnd.choice(sorted(kinds))
            if kind == "file":
                made = attempt((errno.EEXIST,), lambda: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
            else:
                made = attempt((errno.EEXIST,), kinds[kind][0], p)
            if made:
                won += 1
                eq(stat.S_IFMT(lstat(p).st_mode), {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK,
                                                   "fifo": stat.S_IFIFO}[kind])
                kinds[kind][1](p)
        return won

    with Overlay({"%s/name%d" % (p, i): "lower" for p in PLACES for i in range(2)}, {"up/x": "", "both/x": ""}) as ov:
        for p in PLACES:
            for i in range(2):
                os.unlink(ov.m(p, "name%d" % i))
        ok(min(crowd(WORKERS, work)) > 0, "some worker never won")
        now = same_ever_after(ov)
        eq([p for p in now if "name" in p], [])


@test
def test_files_made_in_directories_that_others_remove():
    """A file that was made holds its directory until it is removed again."""
    def work(w):
        rnd, made = random.Random(w), 0
        for n in until():
            d = ov.m(rnd.choice(PLACES), "dir%d" % rnd.randrange(2))
            if w % 2:
                attempt((errno.EEXIST,), os.mkdir, d)
                attempt((errno.ENOENT, errno.ENOTEMPTY), os.rmdir, d)
            elif attempt((errno.ENOENT,), write, d + "/f%d" % w, "%d" % n):
                made += 1
                eq(read(d + "/f%d" % w), b"%d" % n)
                os.unlink(d + "/f%d" % w)
        return made

    lower = {"%s/dir%d" % (p, i): {"low": "x"} for p in PLACES for i in range(2)}
    with Overlay(lower, {"up/x": "", "both/x": ""}) as ov:
        for p in PLACES:
            for i in range(2):
                os.unlink(ov.m(p, "dir%d/low" % i))
        crowd(WORKERS, work)
        now = same_ever_after(ov)
        eq([p for p, a in now.items() if a["type"] == "file"], ["both/x", "up/x"])


@test
def test_hard_links_made_and_removed():
    def work(w):
        rnd, mine = random.Random(w), []
        for n in until():
            if mine and rnd.random() < 0.45:
                os.unlink(mine.pop(rnd.randrange(len(mine))))
            else:
                p = ov.m(rnd.choice(PLACES), "l%d-%d" % (w, n))
                os.link(ov.m(rnd.choice(("up/first", "both/second"))), p)
                mine.append(p)
            if mine:
                ok(lstat(mine[-1]).st_nlink >= 2, "link count")
                append(mine[-1], "%d" % w)
            if n > 300:
                break
        return mine

    with Overlay({"both/second": "s", "low/x": "", "low/deep/er/x": ""}, {"up/first": "f"}) as ov:
        mine = sum(crowd(WORKERS, work), [])
        if IS_KERNEL and not is_root_mode():
            skip("the kernel's overlay needs privilege for the number of a link")
        by_ino = {}
        for p in mine + [ov.m("up/first"), ov.m("both/second")]:
            by_ino.setdefault(lstat(p).st_ino, []).append(p)
        eq(len(by_ino), 2)
        for group in by_ino.values():
            eq({lstat(p).st_nlink for p in group}, {len(group)})
            eq(len({read(p) for p in group}), 1)
        same_ever_after(ov)


# --- copy-up

@test
def test_copy_up_of_the_same_files_in_every_way():
    """All change the same lower files at once, each something else of them: every change is there."""
    files = ["low/deep/er/down/f%d" % i for i in range(30)]

    def work(w):
        for f in files:
            p = ov.m(f)
            if w == 0:
                os.chmod(p, 0o600)
            elif w == 1:
                setx(p, "user.mark", b"w1")
            elif w == 2:
                os.utime(p, ns=(10**18, 10**18))
            elif w == 3:
                os.link(p, p + ".link")
            elif w == 4:
                fd = os.open(p, os.O_RDWR)
                with mmap.mmap(fd, 0) as m:
                    m[0:2] = b"04"
                os.close(fd)
            else:
                fd = os.open(p, os.O_WRONLY)
                os.pwrite(fd, b"%02d" % w, 10000 * (w - 4))
                os.close(fd)

    with Overlay({f: File(b"q" * 70000, xattrs={"user.own": b"o"}) for f in files}) as ov:
        crowd(8, work)
        data = bytearray(b"q" * 70000)
        data[0:2] = b"04"
        for w in (5, 6, 7):
            data[10000 * (w - 4):10000 * (w - 4) + 2] = b"%02d" % w
        for _ in range(2):
            for f in files:
                eq(read(ov.m(f)), bytes(data), f)
                st = lstat(ov.m(f))
                eq((stat.S_IMODE(st.st_mode), st.st_nlink), (0o600, 2), f)
                eq((getx(ov.m(f), "user.mark"), getx(ov.m(f), "user.own")), (b"w1", b"o"), f)
                if IS_OURS:   # the kernel's overlay needs privilege for the number of a link
                    eq(lstat(ov.m(f + ".link")).st_ino, st.st_ino)
            ov.remount()
        same_ever_after(ov)


@test
def test_copy_up_while_renamed_and_removed():
    """Data is written through open files while their names move and go."""
    files = ["both/f%d" % i for i in range(24)]

    def work(w):
        if w == 0:
            for f in files:
                attempt((errno.ENOENT,), os.rename, ov.m(f), ov.m(f) + ".moved")
        elif w == 1:
            for f in files[::3]:
                for n in (f, f + ".moved"):
                    attempt((errno.ENOENT,), os.unlink, ov.m(n))
        else:
            for fd in fds:
                os.pwrite(fd, b"%d" % w, 50000 * (w - 1))
                os.fchmod(fd, 0o640)
            for i, fd in enumerate(fds):
                eq(os.pread(fd, 1, 50000 * (w - 1)), b"%d" % w, files[i])

    for opts in ("", "metacopy=on,redirect_dir=on"):
        if opts and IS_KERNEL and not is_root_mode():
            continue
        with Overlay({f: File(b"q" * 200000) for f in files}, opts=opts) as ov:
            fds = [os.open(ov.m(f), os.O_RDWR) for f in files]
            crowd(5, work)
            want = bytearray(b"q" * 200000)
            for w in (2, 3, 4):
                want[50000 * (w - 1)] = ord("%d" % w)
            for i, fd in enumerate(fds):
                eq(os.pread(fd, 300000, 0), bytes(want), files[i])
                os.close(fd)
            for n in names(ov.m("both")):
                eq(read(ov.m("both", n)), bytes(want), n)
            same_ever_after(ov, opts)


@test
def test_files_unlinked_while_others_write():
    """Each generation of a name is a file of its own for those that have it open."""
    def work(w):
        rnd = random.Random(w)
        for n in until():
            p = ov.m(rnd.choice(PLACES), "gen")
            try:
                fd = os.open(p, os.O_RDWR)
            except FileNotFoundError:
                attempt((errno.EEXIST,), lambda: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
                continue
            try:
                os.pwrite(fd, b"%04d" % (n % 10000), 100 * w)
                if rnd.random() < 0.5:
                    attempt((errno.ENOENT,), os.unlink, p)
                eq(os.pread(fd, 4, 100 * w), b"%04d" % (n % 10000))
                eq(stat.S_ISREG(os.fstat(fd).st_mode), True)
            finally:
                os.close(fd)

    with Overlay({p + "/gen": "lower" for p in PLACES}, {"up/x": "", "both/x": ""}) as ov:
        crowd(WORKERS, work)
        same_ever_after(ov)


@test
def test_shared_mappings_while_the_file_grows_and_shrinks():
    """Counters in a shared mapping are exact while others truncate the file behind them."""
    def work(w):
        rnd = random.Random(w)
        for name in ("low/m", "up/m"):
            fd = os.open(ov.m(name), os.O_RDWR)
            if w >= 4:
                for n in until(1.5):
                    os.ftruncate(fd, 8192 + rnd.randrange(100000))
                    os.pwrite(fd, b"tail", 200000 + rnd.randrange(1000))
                os.close(fd)
                continue
            with mmap.mmap(fd, 8192) as m:
                for n in range(2000):
                    v = struct.unpack_from("<I", m, 2048 * w)[0]
                    eq(v, n, "worker %d" % w)
                    struct.pack_into("<I", m, 2048 * w, v + 1)
                    if n % 500 == 0:
                        m.flush()
            os.close(fd)

    with Overlay({"low/m": File(bytes(8192))}, {"up/m": File(bytes(8192))}) as ov:
        crowd(6, work)
        for _ in range(2):
            for name in ("low/m", "up/m"):
                data = read(ov.m(name))
                eq([struct.unpack_from("<I", data, 2048 * w)[0] for w in range(4)], [2000] * 4, name)
            ov.remount()
        same_ever_after(ov)


@test
def test_appends_to_lower_files_lose_nothing():
    def work(w):
        for n in range(60):
            for f in ("low/log", "both/log", "up/log"):
                fd = os.open(ov.m(f), os.O_WRONLY | os.O_APPEND)
                os.write(fd, b"%d:%d\n" % (w, n))
                os.close(fd)

    with Overlay({"low/log": "", "both/log": ""}, {"both/x": "", "up/log": ""}) as ov:
        crowd(WORKERS, work)
        want = sorted("%d:%d" % (w, n) for w in range(WORKERS) for n in range(60))
        for f in ("low/log", "both/log", "up/log"):
            eq(sorted(read(ov.m(f)).decode().split()), want, f)
        same_ever_after(ov)


# --- listings

def churn(w, ov, end):
    """Create, rename, remove and copy up among names that begin with "c"; until END is over."""
    rnd = random.Random(w)
    while time.monotonic() < end:
        p = ov.m("d", "c%d-%d" % (w, rnd.randrange(40)))
        if attempt((errno.EEXIST, errno.EISDIR), os.mkdir if rnd.random() < 0.2 else touch, p):
            if rnd.random() < 0.5 and attempt((errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY), os.rename, p, p + ".r"):
                p += ".r"
            if rnd.random() < 0.8:
                (os.rmdir if os.path.isdir(p) else os.unlink)(p)
        attempt((errno.ENOENT,), os.unlink, ov.m("d", "clow%d" % rnd.randrange(2000)))
        attempt((errno.ENOENT, errno.EEXIST), renameat2, ov.m("d", "clow%d" % rnd.randrange(2000)), p + ".x",
                RENAME_NOREPLACE)
        os.chmod(ov.m("d", "a%04d" % rnd.randrange(1500)), 0o600)


def churned():
    """A merged directory with names that stay, "a..." and "b...", and names that will go."""
    low = {"d/a%04d" % i: "" for i in range(1500)}
    low.update({"d/clow%d" % i: "" for i in range(2000)})
    return Overlay([{"d/b%04d" % i: "" for i in range(500)}, low], {"d/u%04d" % i: "" for i in range(300)})


STAY = {"a%04d" % i for i in range(1500)} | {"b%04d" % i for i in range(500)} | {"u%04d" % i for i in range(300)}


@test
def test_listings_during_heavy_change():
    """Names that nobody touches appear exactly once in each listing; nothing appears twice in one of an own descriptor."""
    def work(w, end):
        if w < 3:
            churn(w, ov, end)
            return 0
        rounds = 0
        while time.monotonic() < end:
            with Dir(ov.m("d")) as d:
                got = [n for n, _, _ in d]
            stay = [n for n in got if n[0] in "abu"]
            eq(len(stay), len(set(stay)), "a name twice")
            eq(sorted(STAY - set(stay)), [], "lost")
            eq(sorted(set(stay) - STAY), [], "names from nowhere")
            rounds += 1
        return rounds

    with churned() as ov:
        ok(sum(crowd(6, work, time.monotonic() + SECONDS)) > 2, "no listing was finished")
        same_ever_after(ov)


@test(not_kernel="the kernel's overlay rebuilds its list, and an offset in it is a place, not a name")
def test_positions_hold_during_heavy_change():
    """seekdir to a position of before leads to the same untouched name, from another descriptor too."""
    def work(w, end):
        if w < 3:
            churn(w, ov, end)
            return 0
        rounds, rnd = 0, random.Random(w)
        while time.monotonic() < end or not rounds:
            with Dir(ov.m("d")) as d:
                order, pos = [], []
                while (at := d.tell()) is not None and (e := d.read()):
                    if e[0] in STAY:
                        order.append(e[0])
                        pos.append(at)
            eq(len(order), len(STAY))
            with Dir(ov.m("d")) as d:
                for i in rnd.sample(range(len(order)), 25) + [0, len(order) - 1]:
                    d.seek(pos[i])
                    got = next(n for n, _, _ in d if n in STAY)
                    eq(got, order[i], "after seek")
                d.seek(pos[700])
                eq([n for n, _, _ in d if n in STAY], order[700:])
            rounds += 1
        return rounds

    with churned() as ov:
        crowd(5, work, time.monotonic() + SECONDS)
        same_ever_after(ov)


@test
def test_trees_made_and_deleted_beside_each_other():
    """cp -a and rm -rf of the same lower tree by several, each to a place of its own."""
    need("cp")
    lower = {"src": {"d%d" % i: {"s%d" % j: {"f%d" % k: "%d %d %d" % (i, j, k) for k in range(3)} for j in range(4)}
                     for i in range(5)}}
    for w in range(4):
        lower["old%d" % w] = lower["src"]

    def work(w):
        for n in until(SECONDS, 4):
            run("cp", "-a", ov.m("src"), ov.m("copy%d" % w))
            assert_same(src, tree_snapshot(ov.m("copy%d" % w)), "source", "copy")
            shutil.rmtree(ov.m("copy%d" % w))
            if w < 4 and not n:
                shutil.rmtree(ov.m("old%d" % w))
        run("cp", "-a", ov.m("src"), ov.m("last%d" % w))

    with Overlay(lower) as ov:
        src = tree_snapshot(ov.m("src"))
        crowd(WORKERS, work)
        for w in range(WORKERS):
            assert_same(src, tree_snapshot(ov.m("last%d" % w)), "source", "last copy")
        eq(names(ov.mnt), sorted(["last%d" % w for w in range(WORKERS)] + ["src"]))
        same_ever_after(ov)


@test
def test_threads_of_one_process():
    """One process with many threads: all file descriptors are shared."""
    errors = []
    with Overlay({"low/f%d" % i: File(b"l" * 5000) for i in range(20)}, {"up/f%d" % i: "u" for i in range(20)}) as ov:
        fds = [os.open(ov.m(d, "f%d" % i), os.O_RDWR) for d in ("low", "up") for i in range(20)]

        def go(t):
            rnd = random.Random(t)
            try:
                for n in until(2):
                    fd = rnd.choice(fds)
                    os.pwrite(fd, b"%d" % t * 8, 8 * t)
                    eq(os.pread(fd, 8, 8 * t), b"%d" % t * 8)
                    os.fchmod(fd, 0o600)
                    p = ov.m("low", "t%d" % t)
                    write(p, "x")
                    os.rename(p, ov.m("up", "t%d" % t))
                    os.unlink(ov.m("up", "t%d" % t))
            except BaseException:
                errors.append(traceback.format_exc())
        ts = [threading.Thread(target=go, args=(t,)) for t in range(8)]
        [t.start() for t in ts]
        [t.join() for t in ts]
        [os.close(fd) for fd in fds]
        eq(errors, [])
        eq(names(ov.m("low")) + names(ov.m("up")), sorted("f%d" % i for i in range(20)) * 2)
        same_ever_after(ov)


def daemon_affinities():
    """The CPUs that each thread of the program may use."""
    return [os.sched_getaffinity(int(os.path.basename(t))) for t in daemon_threads()]


def changing_cpus(base, rounds):
    """Many small changes, each round on the next CPU that we may use."""
    cpus = sorted(os.sched_getaffinity(0))
    for r in range(rounds):
        os.sched_setaffinity(0, {cpus[r % len(cpus)]})
        for i in range(60):
            p = "%s/%d-%d" % (base, r, i)
            write(p, str(i))
            os.rename(p, p + "+")
            eq(read(p + "+"), b"%d" % i)
            if i % 2:
                os.unlink(p + "+")
    os.sched_setaffinity(0, cpus)


@test(only_ours="it has no daemon")
def test_clients_that_change_their_cpu():
    """The daemon follows: alone, side by side, and when it is told not to."""
    mine = os.sched_getaffinity(0)
    for opts in ("client_cpu=1,poll=0", "client_cpu=1", "client_cpu=0"):
        with Overlay({"low/f": "f"}, opts=opts) as ov:
            for w in range(3):
                os.mkdir(ov.m("d%d" % w))
            changing_cpus(ov.m("d0"), 20)
            crowd(2, lambda w: changing_cpus(ov.m("d%d" % (w + 1)), 10))
            changing_cpus(ov.m("d1"), 20)
            sets = daemon_affinities()
            ok(len(sets) >= 2, sets)
            for s in sets:  # where it was, or on one of them
                ok(s == mine or (opts != "client_cpu=0" and len(s) == 1 and s <= mine), (opts, sets))
            eq([len(names(ov.m("d%d" % w))) for w in range(3)], [600, 600, 300])
            same_ever_after(ov)


@test(only_ours="it has no daemon", tries=3)
def test_clients_side_by_side():
    """While several clients ask, threads read their requests beside each other; for one client one thread does."""
    def ask(w, first, many):
        for n in range(first, first + many):
            fails(errno.ENOENT, os.lstat, ov.m("d%d" % w, "none%d" % n))

    def beside():
        return state(ov.mnt).get("side-by-side", 0)
    if len(os.sched_getaffinity(0)) < 2:
        skip("there is one CPU")
    for opts in ("", "client_cpu=0", "client_cpu=0,poll=0"):
        with Overlay({"d%d/f" % w: "f" for w in range(3)}, opts=opts) as ov:
            ask(0, 0, 1000)
            eq(beside(), 0)
            crowd(3, lambda w: ask(w, 1000, 2000))
            together = beside()
            ok(together > 300, (opts, together))
            ask(0, 3000, 500)
            alone = beside()
            ok(alone - together < 200, (opts, together, alone))
            ask(0, 3500, 1000)
            eq(beside(), alone)
    with Overlay({"d%d/f" % w: "f" for w in range(3)}, opts="max_threads=1") as ov:
        crowd(3, lambda w: ask(w, 0, 500))
        eq(beside(), 0)


def forest(dirs):
    """Directories with others in them, whose files begin with "a", which nobody touches, and "c", of two layers."""
    def layer(k):
        return {"%s/%s%d%d" % (d, c, k, n): c * (n + 1) for d in places for c in "ac" for n in range(4)}
    places = ["d%03d" % n + below for n in range(dirs) for below in ("", "/in", "/in/in")]
    return places, [layer(0), layer(1)]


def walk(top):
    """{path: (mode, size)} of all files, directories in the order of their listings."""
    out, todo = {}, [""]
    while todo:
        d = todo.pop()
        with Dir(os.path.join(top, d)) as listing:
            found = [n for n, _, _ in listing if n not in (".", "..")]
        dirs = []
        for n in found:
            try:
                st = os.lstat(os.path.join(top, d, n))
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(st.st_mode):
                dirs.append(os.path.join(d, n))
            else:
                out[os.path.join(d, n)] = (stat.S_IMODE(st.st_mode), st.st_size)
        todo += reversed(dirs)
    return out


@test(only_ours="it has no daemon", tries=3)
def test_directories_are_read_ahead_of_a_walk():
    def ahead(what="directories"):
        return state(ov.mnt)[what + "-ahead"]
    if len(os.sched_getaffinity(0)) < 2:
        skip("there is one CPU")
    places, layers = forest(30)
    want = {p: (0o644, len(text)) for layer in layers for p, text in layer.items()}
    with Overlay(layers) as ov:
        for opts in ("readdir_ahead=0", "max_threads=1", "threaded=0", "index=on", "uring=1", ""):
            ov.remount(opts)
            for d in range(3):
                os.listdir(ov.m("d%03d/in/in" % d))
            eq(ahead(), 0)   # that is no walk
            seen = walk(ov.mnt)
            eq(seen, want)
            eq(ahead("files"), 0)
            for p in seen:   # in the order of the listings
                eq(len(read(ov.m(p))), want[p][1])
            if opts in ("readdir_ahead=0", "max_threads=1", "threaded=0"):
                eq((ahead(), ahead("files")), (0, 0))
            else:
                ok(ahead() > 10 and ahead("files") > 10, (opts, ahead(), ahead("files")))
        same_ever_after(ov)


@test
def test_walks_beside_changes():
    """What is read ahead is not shown if it has changed meanwhile."""
    def change(rnd):
        for _ in until():
            c = [ov.m(rnd.choice(places), "c%d%d" % (rnd.randrange(2), rnd.randrange(4))) for _ in range(3)]
            attempt((errno.ENOENT,), os.unlink, c[0])
            attempt((errno.ENOENT,), os.chmod, c[1], 0o600)
            attempt((errno.ENOENT,), os.rename, c[1], c[2])
            if rnd.random() < 0.5:
                attempt((errno.EEXIST,), touch, c[0])

    def work(w):
        if w < 2:
            change(random.Random(w))
            return
        seen = walk(ov.mnt)
        eq({p: v for p, v in seen.items() if "/a" in p}, stay)

    places, layers = forest(30)
    stay = {p: (0o644, len(text)) for layer in layers for p, text in layer.items() if "/a" in p}
    for opts in ("index=off", "index=on"):
        with Overlay(layers, opts=opts) as ov:
            crowd(4, work)
            same_ever_after(ov)


@test(only_ours="it has no daemon")
def test_clients_that_leave_their_cpu():
    """Replies of every kind and size come from another thread, and are what they are without."""
    big, total = random.Random(7).randbytes(300000), 0
    with Overlay({"low/f": File(big), "low/s": Sym("x" * 4000), "low/d": {"n%03d" % n: "" for n in range(500)}}) as ov:
        write(ov.m("me"), "me")
        os.setxattr(ov.m("me"), "user.big", big[:3000])
        for n in range(30):
            leave_cpus(ov.mnt, ov.m("me"))
            before = posted(ov.mnt)
            if is_root_mode():
                drop_caches()
            eq((read(ov.m("low/f")), os.readlink(ov.m("low/s")), len(names(ov.m("low/d")))), (big, "x" * 4000, 500))
            eq((os.getxattr(ov.m("me"), "user.big"), os.listxattr(ov.m("me"))), (big[:3000], ["user.big"]))
            fails(errno.ENOENT, os.stat, ov.m("none"))
            fails(errno.EEXIST, os.mkdir, ov.m("low"))
            fails(errno.ENODATA, os.getxattr, ov.m("me"), "user.none")
            with open(ov.m("w%d" % n), "wb") as f:
                f.write(big)
            with open(ov.m("w%d" % n), "rb") as f:
                eq((f.read(), os.fstat(f.fileno()).st_size), (big, len(big)))
            os.unlink(ov.m("w%d" % n))
            total += posted(ov.mnt) - before
        ok(total > 0, "none was posted")
        same_ever_after(ov)
    with Overlay({"f": "f"}, opts="client_cpu=0") as ov:
        changing_cpus(ov.mnt, 10)
        eq(posted(ov.mnt), 0)


@test
def test_clients_that_end():
    """Processes end, or become others, with files open and mapped that they have changed, while the daemon may look where they are."""
    with Overlay({"low/f": "f"}) as ov:
        cpus = sorted(os.sched_getaffinity(0))
        with open(ov.m("map"), "w+b") as f:
            f.truncate(65536)
            m = mmap.mmap(f.fileno(), 65536)
        for n in range(400):
            pid = os.fork()
            if pid == 0:
                os.sched_setaffinity(0, {cpus[n // 2 % len(cpus)]})
                for k in range(0, 65536, 4096):
                    m[k] = n % 251
                for fd in [os.open(ov.m("w%d-%d" % (n, k)), os.O_WRONLY | os.O_CREAT) for k in range(n % 10)]:
                    os.write(fd, b"%d" % n * 5000)
                if n % 2:  # which closes them one after the other
                    os.execv("/bin/true", ["true"])
                os._exit(0)
            eq(os.waitpid(pid, 0)[1], 0)
            eq(m[::4096], bytes([n % 251]) * 16)
        m.close()
        eq(read(ov.m("map")), (bytes([399 % 251]) + bytes(4095)) * 16)
        for n in range(400):
            for k in range(n % 10):
                eq(read(ov.m("w%d-%d" % (n, k))), b"%d" % n * 5000)


if __name__ == "__main__":
    main()
