#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How many messages the kernel sends for common work: what is cached needs none. Counts do not drift as times do."""

from ovtest import *

WHY = "it counts its FUSE messages"


def thousand(path):
    for i in range(10):
        os.mkdir("%s/d%d" % (path, i))
        for j in range(100):
            write("%s/d%d/f%d" % (path, i, j), "content of %d\n" % j)


def all_files(top):
    return [os.path.join(d, f) for d, _, files in os.walk(top) for f in files]


def cat(files):
    for f in files:
        fd = os.open(f, os.O_RDONLY)
        while os.read(fd, 65536):
            pass
        os.close(fd)


def asked(ov):
    """Have the kernel find out, once for a mount, that there is no OPEN, OPENDIR, FLUSH, RELEASE and CREATE."""
    write(ov.m(".first"), "x")
    read(ov.m(".first"))
    os.unlink(ov.m(".first"))
    names(ov.mnt)


def none(c, *ops):
    eq({o: c[o] for o in ops}, {o: 0 for o in ops}, "messages (all: %r)" % c.all)


@test(only_ours=WHY, tries=4)
def test_statistics_can_be_read():
    with Overlay({"f": "x"}) as ov:
        eq(read(ov.m("f")), b"x")
        m = messages(ov.mnt)
        ok(m.get("INIT", 1) == 1 and m.get("LOOKUP", 0) >= 1, m)
        eq(listx(ov.mnt), [], "the name is not listed")
        fails(errno.ENODATA, os.getxattr, ov.m("f"), STATS_XATTR)


@test(only_ours=WHY, tries=4)
def test_counting_itself_is_not_counted():
    with Overlay({"f": "x"}) as ov:
        with Count(ov.mnt) as c:
            pass
        eq(c.all, {})


@test(only_ours=WHY, tries=4)
def test_warm_open_read_close_of_1000_files_is_free():
    with Overlay(thousand) as ov:
        files = all_files(ov.mnt)
        eq(len(files), 1000)
        cat(files)
        time.sleep(0.1)  # the listings are dropped, since their files were read, and with them what is known of the directories
        cat(files)
        with Count(ov.mnt) as c:
            cat(files)
        eq(c.all, {})


@test(only_ours=WHY, tries=4)
def test_cold_open_read_close_is_lookup_and_read():
    with Overlay(thousand) as ov:
        asked(ov)
        with Count(ov.mnt) as c:
            cat([ov.m("d%d/f%d" % (i, j)) for i in range(10) for j in range(100)])
        none(c, "OPEN", "RELEASE", "FLUSH", "ACCESS", "GETXATTR", "LISTXATTR")
        ok(c["LOOKUP"] <= 1010, c.all)
        ok(c["READ"] <= 1000, c.all)
        ok(c.total <= 2100, c.all)


@test(only_ours=WHY, tries=4)
def test_warm_find_is_free():
    with Overlay([thousand, {"d3/extra": "", "other/x": ""}]) as ov:
        def find():
            return run("find", ov.mnt, "-printf", "%p %s %T@ %l\\n").stdout
        first = find()
        find()
        with Count(ov.mnt) as c:
            eq(find(), first)
        c.all.pop("STATFS", None)  # find's own question
        eq(c.all, {})


@test(only_ours=WHY, tries=4)
def test_cold_find_looks_nothing_up():
    """READDIRPLUS brings the attributes: no LOOKUP or GETATTR for each file."""
    with Overlay(thousand) as ov:
        asked(ov)
        with Count(ov.mnt) as c:
            run("find", ov.mnt, "-printf", "%p %s\\n")
        none(c, "OPENDIR", "RELEASEDIR")
        ok(c["LOOKUP"] <= 20 and c["GETATTR"] <= 20, c.all)
        ok(c.total <= 80, c.all)


def soon(condition):
    """What the daemon does a moment later."""
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.01)
    return False


def walk_and_read(ov):
    """As tar does: the names of a directory, then each file's attributes and data."""
    for d in sorted(os.listdir(ov.mnt)):
        for f in sorted(os.listdir(ov.m(d))):
            os.stat(ov.m(d, f))
            cat([ov.m(d, f)])


@test(only_ours=WHY, tries=4)
def test_reading_a_tree_again_asks_for_its_directories_not_for_its_files():
    """Closing a file makes the kernel forget part of its attributes; READDIRPLUS brings those of all."""
    with Overlay(thousand) as ov:
        asked(ov)
        walk_and_read(ov)
        for _ in range(2):
            time.sleep(0.1)  # the listings are dropped
            with Count(ov.mnt) as c:
                walk_and_read(ov)
            ok(c["GETATTR"] <= 25 and c["READDIRPLUS"] <= 80, c.all)
            none(c, "READ", "LOOKUP")


@test(only_ours=WHY, tries=4)
def test_listings_whose_files_nobody_asks_for_stay():
    """A few files of a directory that are read are no reason to read its listing again; nor are many for ever."""
    with Overlay(thousand) as ov:
        asked(ov)
        tops = [ov.m(d) for d in sorted(os.listdir(ov.mnt))]
        for d in tops:
            eq(len(names(d)), 100)
            cat([d + "/f%d" % i for i in range(5)])
        time.sleep(0.1)
        with Count(ov.mnt) as c:
            for d in tops:
                eq(len(names(d)), 100)
        none(c, "READDIRPLUS")
        walk_and_read(ov)
        time.sleep(0.1)

        def listing_is_free():
            with Count(ov.mnt) as c:
                for d in tops:
                    eq(len(names(d)), 100)
            return c["READDIRPLUS"] == 0
        ok(not listing_is_free(), "it was not dropped")
        ok(soon(listing_is_free), "it is never kept again")


@test(only_ours=WHY)
def test_listing_a_directory_for_each_few_files_leaves_it_cached():
    """As many as there are in it are read in the end, but never for one listing: to list it each time would be dear."""
    with Overlay({"d": {"f%d" % i: "x" for i in range(400)}}) as ov:
        with Count(ov.mnt) as c:
            eq(len(names(ov.m("d"))), 400)
        whole = c["READDIRPLUS"]
        with Count(ov.mnt) as c:
            for turn in range(200):
                eq(len(names(ov.m("d"))), 400)
                for i in range(5):
                    f = ov.m("d/f%d" % ((5 * turn + i) * 7 % 400))
                    lstat(f)
                    cat([f])
                time.sleep(0.001)
        ok(c["READDIRPLUS"] <= 30 * whole, c.all)


@test(only_ours=WHY)
def test_listings_that_are_not_kept_are_right():
    with Overlay(thousand) as ov:
        walk_and_read(ov)
        time.sleep(0.1)
        for turn in range(6):
            want = {"f%d" % i for i in range(100)}
            write(ov.m("d0/new%d" % turn), "x")
            os.unlink(ov.m("d0/f%d" % turn))
            want = (want | {"new%d" % i for i in range(turn + 1)}) - {"f%d" % i for i in range(turn + 1)}
            with Dir(ov.m("d0")) as d:
                half = [next(iter(d))[0] for _ in range(50)]
                place = d.tell()
                rest = [e[0] for e in d]
                eq(sorted(half + rest), sorted(want | {".", ".."}))
                d.seek(place)
                eq([e[0] for e in d], rest)
                d.rewind()
                eq(sorted(e[0] for e in d), sorted(want | {".", ".."}))
            walk_and_read(ov)
            eq(lstat(ov.m("d0/new%d" % turn)).st_size, 1)


@test(only_ours=WHY, tries=3)
def test_a_listing_whose_last_name_went_is_kept_again():
    with Overlay({"d": {"f%d" % i: "x" for i in range(20)}}) as ov:
        def listed():
            with Count(ov.mnt) as c, Dir(ov.m("d")) as d:
                found = [e[0] for e in d]
            return found, c["READDIRPLUS"]
        for f in listed()[0]:
            if f[0] != ".":
                lstat(ov.m("d", f))
                cat([ov.m("d", f)])
        time.sleep(0.1)
        last = listed()[0][-1]
        os.unlink(ov.m("d", last))
        ok(soon(lambda: listed()[1] == 0), "it is listed anew each time")
        ok(last not in listed()[0])


@test(only_ours=WHY)
def test_readers_see_what_changed_before_they_began():
    """Also in a listing that was not kept, and is read to its end by somebody else meanwhile."""
    for wait in (0, 0.05):
        with Overlay({"d": {"f%d" % i: "x" for i in range(20)}}) as ov:
            want = {"f%d" % i for i in range(20)}
            for f in names(ov.m("d")):
                lstat(ov.m("d", f))
                cat([ov.m("d", f)])
            for turn in range(6):
                time.sleep(wait)
                eq(set(names(ov.m("d"))), want)
                for i in range(8):
                    write(ov.m("d/n%d-%d" % (turn, i)), "")
                gone = sorted(want)[turn]
                os.unlink(ov.m("d", gone))
                want = (want | {"n%d-%d" % (turn, i) for i in range(8)}) - {gone}
                with Dir(ov.m("d")) as d:
                    found = [next(iter(d))[0] for _ in range(5)]
                    eq(set(names(ov.m("d"))), want)
                    place = d.tell()
                    rest = [e[0] for e in d]
                    eq(sorted(found + rest), sorted(want | {".", ".."}))
                    d.seek(place)
                    eq([e[0] for e in d], rest)


@test(only_ours=WHY, tries=4)
def test_warm_stat_of_missing_names_is_free():
    with Overlay(thousand) as ov:
        missing = [ov.m("d%d/none%d" % (i, j)) for i in range(10) for j in range(20)]
        for f in missing:
            ok(not exists(f))
        with Count(ov.mnt) as c:
            for f in missing:
                exists(f)
        eq(c.all, {})


@test(only_ours=WHY, tries=4)
def test_warm_readlink_is_free():
    with Overlay({"s%d" % i: Sym("t%d" % i) for i in range(50)}) as ov:
        links = [ov.m("s%d" % i) for i in range(50)]
        for s in links:
            os.readlink(s)
        with Count(ov.mnt) as c:
            for s in links:
                os.readlink(s)
        eq(c.all, {})


@test(only_ours=WHY, tries=4)
def test_sequential_write_asks_for_no_xattr():
    with Overlay({}) as ov:
        fd = os.open(ov.m("f"), os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, b"x")  # the first one of a file asks for its capability
        with Count(ov.mnt) as c:
            for _ in range(1000):
                os.write(fd, b"x" * 4096)
        none(c, "GETXATTR", "GETATTR", "LOOKUP")
        ok(c.total <= 1000 and c["WRITE"] <= 100, c.all)
        os.close(fd)


@test(only_ours=WHY, tries=4)
def test_writing_into_a_lower_file_asks_for_no_xattr():
    with Overlay({"f": File(b"y" * (1 << 20))}) as ov:
        fd = os.open(ov.m("f"), os.O_RDWR)
        os.pwrite(fd, b"x", 0)
        os.fsync(fd)
        with Count(ov.mnt) as c:
            for i in range(200):
                os.pwrite(fd, b"z" * 4096, i * 4096)
        none(c, "GETXATTR", "GETATTR", "LOOKUP")
        os.close(fd)


@test(only_ours=WHY, tries=4)
def test_create_write_close_takes_few():
    """LOOKUP, MKNOD, WRITE; the file's capability at the first write; the directory's attributes, which the kernel
    drops at each create; and at a tick of the clock between create and write, SETATTR of the times."""
    with Overlay({"d": {}}) as ov:
        asked(ov)
        data = b"q" * 3000
        names(ov.m("d"))
        with Count(ov.mnt) as c:
            for i in range(500):
                fd = os.open(ov.m("d/n%d" % i), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                os.write(fd, data)
                os.close(fd)
        none(c, "OPEN", "RELEASE", "FLUSH", "CREATE")
        for op in ("LOOKUP", "MKNOD", "WRITE", "GETXATTR", "GETATTR", "SETATTR"):
            ok(c[op] <= 501, c.all)
        ok(c.total <= 6 * 500 + 5, c.all)


@test(only_ours=WHY, tries=4)
def test_untar_takes_few():
    need("tar")
    with Overlay({}) as ov:
        asked(ov)
        src = ov._mkdir("src")
        thousand(src)
        run("tar", "-C", src, "-cf", ov.base + "/t.tar", ".")
        with Count(ov.mnt) as c:
            run("tar", "-C", ov.mnt, "-xf", ov.base + "/t.tar")
        none(c, "OPEN", "RELEASE", "FLUSH", "CREATE")
        ok(c.total <= 10 * 1010, c.all)  # tar sets mode, owner and times of each on top


@test(only_ours=WHY, tries=4)
def test_fstat_and_read_of_an_open_file_are_free():
    with Overlay({"f": "x"}) as ov:
        fd = os.open(ov.m("f"), os.O_RDONLY)
        os.read(fd, 1)
        os.fstat(fd)
        with Count(ov.mnt) as c:
            for _ in range(20):
                os.fstat(fd)
                os.lseek(fd, 0, 0)
                os.read(fd, 1)
        eq(c.all, {})
        os.close(fd)


@test(only_ours=WHY, tries=4)
def test_access_and_exec_ask_nothing_when_warm():
    with Overlay({"sh": File("#!/bin/sh\nexit 0\n", mode=0o755)}) as ov:
        subprocess.run([ov.m("sh")], check=True)
        with Count(ov.mnt) as c:
            for _ in range(5):
                os.access(ov.m("sh"), os.X_OK)
                subprocess.run([ov.m("sh")], check=True)
        none(c, "ACCESS", "OPEN", "READ", "LOOKUP", "GETATTR")


@test(only_ours=WHY, tries=4)
def test_warm_reads_and_writes_of_a_mapping_are_free():
    with Overlay({"f": File(b"y" * 65536)}) as ov:
        fd = os.open(ov.m("f"), os.O_RDWR)
        m = mmap.mmap(fd, 65536)
        bytes(m)
        m[0] = 1
        with Count(ov.mnt) as c:
            for i in range(0, 65536, 4096):
                m[i] = 7
            bytes(m)
        ok(c.total <= 1, c.all)
        m.close()
        os.close(fd)


@test(only_ours=WHY, tries=4)
def test_rm_of_new_files_takes_three_each():
    """UNLINK; SETATTR of the time that the kernel gave the inode; the directory's attributes."""
    with Overlay({}) as ov:
        os.mkdir(ov.m("d"))
        for i in range(200):
            touch(ov.m("d/f%d" % i))
        names(ov.m("d"))
        with Count(ov.mnt) as c:
            for i in range(200):
                os.unlink(ov.m("d/f%d" % i))
        ok(c.total <= 3 * 200 + 5, c.all)


@test(only_ours=WHY, tries=4)
def test_ls_l_with_xattrs_asks_no_more_than_needed():
    """A second listing with attributes stays free of LOOKUP and READDIR."""
    with Overlay(thousand) as ov:
        run("ls", "-lR", ov.mnt)
        with Count(ov.mnt) as c:
            run("ls", "-lR", ov.mnt)
        none(c, "LOOKUP", "READDIR", "READDIRPLUS", "READLINK")
        ok(c["GETATTR"] <= 12, c.all)  # directories: their access time


@test(only_ours=WHY, tries=4)
def test_64_layers_cost_no_more_messages():
    with Overlay([{"d/own%d" % i: str(i)} for i in range(64)]) as ov:
        with Count(ov.mnt) as c:
            eq(len(names(ov.m("d"))), 64)
            for i in range(64):
                eq(read(ov.m("d/own%d" % i)), str(i).encode())
        ok(c.total <= 64 * 3 + 10, c.all)  # each Python open() asks by an ioctl whether it is a terminal


# ---- system calls for a message ----

TRANSPORT = ("read", "writev", "poll", "futex", "restart_syscall", "io_uring_enter")
MEMORY = ("brk", "mmap", "munmap", "mprotect", "madvise")


class Calls:
    """with Calls(ov) as c: ...; afterwards c["statx"] is how often the daemon made that call, c.all the dict of them, c.total
    their sum. What brings messages and memory is left out. Calls that this strace does not know are in c.all as syscall_0x..."""

    def __init__(self, ov):
        self.out = ov.base + "/strace"
        self.all = {}

    @staticmethod
    def _traced(tid):
        with open(tid + "/status") as f:
            return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in f)

    def __enter__(self):
        tids = daemon_threads()
        argv = ["strace", "-f", "-qq", "-s0", "-o", self.out]
        for pid in sorted({t.split("/")[2] for t in tids}):
            argv += ["-p", pid]
        self.strace = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while not all(self._traced(t) for t in tids):
            if self.strace.poll() is not None or time.monotonic() > end:
                self._stop()
                skip("strace may not attach to the daemon")
            time.sleep(0.01)
        return self

    def _stop(self):
        if self.strace.poll() is None:
            self.strace.send_signal(signal.SIGINT)
        self.strace.wait(20)

    def __exit__(self, *exc):
        self._stop()
        with open(self.out) as f:
            for line in f:
                name = line.split(None, 1)[1].split("(", 1)[0]
                if name.replace("_", "a").isalnum() and name not in TRANSPORT + MEMORY:
                    self.all[name] = self.all.get(name, 0) + 1
        self.total = sum(self.all.values())

    def __getitem__(self, name):
        return self.all.get(name, 0)


QUIET = "poll=0,client_cpu=0"  # no calls that depend on how busy the machine is
HUNDRED = {"f%d" % i: "content of %d\n" % i for i in range(100)}


def counted_calls(most, spec, before, work, **kw):
    """WORK(ov, i) for i of 0..99 takes at most MOST system calls each, and a few for the directory. The Calls."""
    need("strace")
    with Overlay(spec, opts=QUIET, **kw) as ov:
        asked(ov)
        before(ov)
        with Calls(ov) as c:
            for i in range(100):
                work(ov, i)
        ok(c.total <= most * 100 + 30, c.all)
        return c


@test(only_ours=WHY, modes=["root"], tries=4)
def test_system_calls_of_a_lookup():
    """A statx, and a look for overlay.metacopy; one statx for a name that is nowhere."""
    counted_calls(2, {"d": HUNDRED}, lambda ov: None, lambda ov, i: lstat(ov.m("d/f%d" % i)))
    counted_calls(1, {"d": HUNDRED}, lambda ov: None, lambda ov, i: exists(ov.m("d/none%d" % i)))
    merged = [{"d": {"other": "x"}}, {"d": HUNDRED}]  # one more where it is not
    counted_calls(3, merged, lambda ov: None, lambda ov, i: lstat(ov.m("d/f%d" % i)))
    counted_calls(3, {"d": HUNDRED}, lambda ov: touch(ov.m("d/new")), lambda ov, i: lstat(ov.m("d/f%d" % i)))


@test(only_ours=WHY, modes=["root"], tries=4)
def test_system_calls_of_a_cold_read():
    """Those of the lookup, and open and pread."""
    counted_calls(4, {"d": HUNDRED}, lambda ov: None, lambda ov, i: cat([ov.m("d/f%d" % i)]))


@test(only_ours=WHY, modes=["root"], tries=4)
def test_system_calls_of_a_new_file():
    """LOOKUP and the directory's GETATTR: a statx each; MKNOD: open and statx."""
    counted_calls(4, {}, lambda ov: os.mkdir(ov.m("d")),
                  lambda ov, i: os.close(os.open(ov.m("d/f%d" % i), os.O_CREAT | os.O_EXCL | os.O_WRONLY)))


@test(only_ours=WHY, modes=["root"], tries=4)
def test_system_calls_of_a_written_file():
    """And one for the file's capability, and one for WRITE; if the kernel sends its times, that is two."""
    c = counted_calls(8, {}, lambda ov: os.mkdir(ov.m("d")), lambda ov, i: write(ov.m("d/f%d" % i), "x"))
    ok(c["pwrite64"] == 100 and c["utimensat"] <= 100, c.all)


@test(only_ours=WHY, modes=["root"], tries=4)
def test_system_calls_of_rewriting():
    """A file that is written and written back 100 times."""
    def rewrite(ov, i):
        fd = os.open(ov.m("f"), os.O_WRONLY)
        os.pwrite(fd, b"y%d" % i, 0)
        os.close(fd)
    c = counted_calls(3, {}, lambda ov: write(ov.m("f"), "x" * 100), rewrite)
    ok(c["pwrite64"] <= 101, c.all)


@test(only_ours=WHY, modes=["root"], tries=4)
def test_system_calls_of_unlinking():
    """A lower file: a look at its chattr flags and a link of the whiteout; then the times that the kernel flushes and the
    directory's attributes, a statx each. A new one is opened if it is not, for those who may have it open."""
    def look(ov):
        touch(ov.m("d/first"))  # the directory is in the upper
        for i in range(100):
            lstat(ov.m("d/f%d" % i))

    def fill(ov):
        os.mkdir(ov.m("d"))
        for n, data in HUNDRED.items():
            write(ov.m("d/" + n), data)

    def unlink(ov, i):
        os.unlink(ov.m("d/f%d" % i))
    c = counted_calls(4, {"d": HUNDRED}, look, unlink)
    ok(c["linkat"] <= 102, c.all)
    counted_calls(5, {}, fill, unlink)


@test(only_ours=WHY, modes=["root"], tries=4)
def test_system_calls_of_a_copy_up():
    """A small file, with the lookup before it and the write behind it: 25."""
    counted_calls(26, {"d": HUNDRED}, lambda ov: None, lambda ov, i: append(ov.m("d/f%d" % i), "+"))


@test(only_ours=WHY, modes=["root"], tries=4)
def test_whiteouts_in_a_listing_take_one_look():
    need("strace")
    with Overlay({"d": HUNDRED}, opts=QUIET) as ov:
        asked(ov)
        for i in range(99):
            os.unlink(ov.m("d/f%d" % i))
        with Calls(ov) as c:
            eq(names(ov.m("d")), ["f99"])
        ok(c["statx"] <= 10, c.all)


@test(only_ours=WHY, modes=["root"], tries=4)
def test_noxattrs_spares_the_questions():
    with Overlay({}, opts="noxattrs=1") as ov:
        write(ov.m("f"), "x")
        os.chown(ov.m("f"), 1, 1)
        eq(read(ov.m("f")), b"x")
        fails(errno.EOPNOTSUPP, os.getxattr, ov.m(""), STATS_XATTR)


@test
def test_a_written_file_keeps_its_mtime():
    """The kernel keeps it and need not send it again: what it has sent, or what the file had, is on disk in the end."""
    with Overlay({"low": File("x", mtime=1000)}) as ov:
        write(ov.m("new"), "x")
        write(ov.m("set"), "x")
        seen = {}
        for f in ("new", "set", "low"):
            fd = os.open(ov.m(f), os.O_RDWR)
            os.pwrite(fd, b"1", 0)
            os.fsync(fd)
            os.pwrite(fd, b"22", 0)
            os.link(ov.m(f), ov.m(f + ".link"))  # has the kernel send its times before the data
            os.fchmod(fd, 0o600)
            if f == "set":
                os.utime(fd, (5, 6))
            os.close(fd)
            seen[f] = lstat(ov.m(f)).st_mtime_ns
        eq(seen["set"], 6 * 10 ** 9)
        if not IS_KERNEL and is_root_mode():
            drop_caches()
        eq({f: lstat(ov.m(f)).st_mtime_ns for f in seen}, seen)
        ov.remount()
        eq({f: lstat(ov.m(f)).st_mtime_ns for f in seen}, seen)
        eq({f: read(ov.m(f)) for f in seen}, {f: b"22" for f in seen})


LAYERS = 40


def probes(mnt, work):
    """Names that WORK has looked for in the layers."""
    before = state(mnt)["layer-probes"]
    work()
    return state(mnt)["layer-probes"] - before


@test(only_ours="it counts what it looks for", tries=4)
def test_names_in_many_layers_are_looked_for_where_they_are():
    """After a few lookups, or a listing, in a directory it is known which layer has a name, and which none has."""
    with Overlay([{"d": {"own%d" % i: str(i), "all": str(i)}, "e": {"f%d" % i: str(i)}} for i in range(LAYERS)]) as ov:
        def missing():
            for i in range(500):
                ok(not os.path.lexists(ov.m("d/missing%d" % i)))
        ok(probes(ov.mnt, missing) <= 6 * LAYERS, "missing names")

        def existing():
            for i in range(LAYERS):
                eq(read(ov.m("d/own%d" % i)), str(i).encode())
        ok(probes(ov.mnt, existing) <= LAYERS, "existing names")

        def listed():
            eq(len(names(ov.m("e"))), LAYERS)
            existing_e = [lstat(ov.m("e/f%d" % i)).st_size for i in range(LAYERS)]
            eq(existing_e, [len(str(i)) for i in range(LAYERS)])
        ok(probes(ov.mnt, listed) <= 3 * LAYERS, "a listing, and finding its directory")


@test
def test_names_in_many_layers_follow_changes():
    """What is known of a directory's names stays right when they come, go, move and are copied up."""
    spec = [{"d": {"own%d" % i: str(i), "all": str(i), "gone%d" % i: ""}} for i in range(12)]
    spec[3]["d"]["gone7"] = Whiteout() if is_root_mode() else ""
    with Overlay(spec) as ov:
        for when in ("looked up", "listed"):
            for i in range(8):
                ok(not os.path.lexists(ov.m("d/none%d" % i)))
            fails(errno.ENAMETOOLONG, os.lstat, ov.m("d/" + "n" * 256))
            if when == "listed":
                names(ov.m("d"))
            want = {n: read(ov.m("d/" + n)) for n in names(ov.m("d"))}
            if is_root_mode():
                ok("gone7" not in want)
            eq(want.get("all"), b"0", when)
            write(ov.m("d/new"), "n")
            append(ov.m("d/own5"), "+")
            os.unlink(ov.m("d/own3"))
            os.rename(ov.m("d/own4"), ov.m("d/moved"))
            os.mkdir(ov.m("d/dir"))
            write(ov.m("d/own3"), "again")
            os.unlink(ov.m("d/all"))
            want.update(new=b"n", own5=b"5+", own3=b"again", moved=b"4")
            del want["own4"], want["all"]
            for _ in range(2):
                eq({n: read(ov.m("d/" + n)) for n in names(ov.m("d")) if n != "dir"}, want, when)
                for n in ("own4", "all", "none1"):
                    ok(not os.path.lexists(ov.m("d/" + n)), n)
                if is_root_mode():
                    drop_caches()
            ov.umount()
            for n in names(ov.upper):
                remove_tree(ov.u(n))
            ov.mount()


if __name__ == "__main__":
    main()
