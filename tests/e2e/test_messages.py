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
