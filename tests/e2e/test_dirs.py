#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Directory listings: what is in them, their numbers and offsets, and what changes during a listing do."""

from ovtest import *

MANY = 10000


def many(n, tag="f"):
    def make(path):
        for i in range(n):
            os.close(os.open("%s/%s%05d" % (path, tag, i), os.O_CREAT | os.O_WRONLY, 0o644))
    return make


def listing(path):
    with Dir(path) as d:
        return [n for n, _, _ in d]


@test
def test_merged_listing_has_each_name_once():
    with Overlay([{"d": {"a": "0", "both": "0", "up": "0"}}, {"d": {"b": "1", "both": "1"}}, {"d": {"c": "2"}}],
                 {"d": {"up": "u", "new": "u"}}) as ov:
        eq(sorted(listing(ov.m("d"))), [".", "..", "a", "b", "both", "c", "new", "up"])
        eq(read(ov.m("d/both")), b"0")
        eq(read(ov.m("d/up")), b"u")


@test
def test_dot_and_dotdot_everywhere():
    with Overlay({"d": {"e": {}}}) as ov:
        for p in ("", "d", "d/e"):
            got = listing(ov.m(p))
            eq([got.count("."), got.count("..")], [1, 1], p)
        os.mkdir(ov.m("n"))
        eq(sorted(listing(ov.m("n"))), [".", ".."])


@test
def test_dot_and_dotdot_numbers():
    with Overlay({"d": {"e": {}}}) as ov:
        for p, up in (("d", ""), ("d/e", "d")):
            with Dir(ov.m(p)) as d:
                got = {n: i for n, i, _ in d}
            eq(got["."], lstat(ov.m(p)).st_ino, ". of " + p)
            eq(got[".."], lstat(ov.m(up)).st_ino, ".. of " + p)


@test
def test_d_ino_is_st_ino():
    with Overlay([{"d": {"low": "x", "sub": {}, "s": Sym("x"), "touched": "t", "h1": "h", "h2": Hardlink("d/h1")}},
                  {"d": {"sub": {}, "lower1": "y"}}], {"d": {"upper": "z"}}) as ov:
        append(ov.m("d/touched"), "!")
        write(ov.m("d/new"), "n")
        os.mkdir(ov.m("d/newdir"))
        os.rename(ov.m("d/low"), ov.m("d/renamed"))
        for again in range(2):
            for p in ("", "d"):
                with Dir(ov.m(p)) as d:
                    for n, i, _ in d:
                        if n not in (".", ".."):
                            eq(i, lstat(ov.m(p, n)).st_ino, "%s (pass %d)" % (n, again))
            ov.remount()


@test
def test_d_type():
    with Overlay({"f": "x", "d": {}, "s": Sym("f"), "p": Fifo()}) as ov:
        with Dir(ov.mnt) as d:
            got = {n: t for n, _, t in d}
        eq((got["f"], got["d"], got["s"], got["p"]), (8, 4, 10, 1))


@test
def test_whiteouts_are_not_listed():
    with Overlay({"d": {"a": "", "b": "", "c": ""}}) as ov:
        os.unlink(ov.m("d/a"))
        os.rename(ov.m("d/b"), ov.m("d/z"))
        eq(names(ov.m("d")), ["c", "z"])
        ov.remount()
        eq(names(ov.m("d")), ["c", "z"])
        ov.stack_up()
        eq(names(ov.m("d")), ["c", "z"])


@test
def test_link_count_of_directories():
    with Overlay([{"d": {"a": {}, "b": {}}}, {"d": {"c": {}}}]) as ov:
        eq(lstat(ov.m("d")).st_nlink, 1, "merged")
        os.mkdir(ov.m("new"))
        ok(lstat(ov.m("new")).st_nlink in (1, 2), "pure upper")


@test
def test_10000_entries():
    with Overlay([many(MANY, "a"), many(MANY // 2, "b")]) as ov:
        got = listing(ov.mnt)
        eq(len(got), len(set(got)), "no name twice")
        eq(len(got), MANY + MANY // 2 + 2)
        for i in range(0, MANY, 3):
            os.unlink(ov.m("a%05d" % i))
        eq(len(names(ov.mnt)), MANY + MANY // 2 - (MANY + 2) // 3)
        ov.remount()
        eq(len(names(ov.mnt)), MANY + MANY // 2 - (MANY + 2) // 3)


@test
def test_rm_rf_of_10000_entries():
    with Overlay({"d": {}, "e": {}}) as ov:
        many(2000)(ov.m("d"))
        run("rm", "-rf", ov.m("d"))
        eq(names(ov.mnt), ["e"])
    with Overlay(lambda p: (os.mkdir(p + "/d"), many(MANY)(p + "/d"))) as ov:
        run("rm", "-rf", ov.m("d"))
        eq(names(ov.mnt), [])
        ov.remount()
        eq(names(ov.mnt), [])


@test
def test_telldir_seekdir():
    with Overlay([many(3000, "a"), many(500, "b")]) as ov:
        with Dir(ov.mnt) as d:
            order, pos = [], []
            while True:
                at = d.tell()
                e = d.read()
                if e is None:
                    break
                pos.append(at)
                order.append(e[0])
            eq(len(set(pos)), len(pos), "offsets differ")
            for i in list(range(0, len(pos), 97)) + [len(pos) - 1, 0, 1, 2]:
                d.seek(pos[i])
                eq(d.read()[0], order[i], "at %d" % i)
            d.seek(pos[1000])
            eq([n for n, _, _ in d], order[1000:])
            d.rewind()
            eq([n for n, _, _ in d], order)


@test(not_kernel="the kernel's overlay rebuilds its list, and an offset in it is a place, not a name")
def test_telldir_holds_over_changes():
    with Overlay([many(2000, "a"), many(2000, "b")]) as ov:
        with Dir(ov.mnt) as d:
            order, pos = [], []
            while (at := d.tell()) is not None and (e := d.read()):
                pos.append(at)
                order.append(e[0])
            for n in order[100:1500]:
                if n not in (".", ".."):
                    os.unlink(ov.m(n))
            many(500, "n")(ov.mnt)
        with Dir(ov.mnt) as d:
            for i in (0, 50, 1500, 2500, len(pos) - 1):
                d.seek(pos[i])
                rest = {n for n, _, _ in d}
                eq([n for n in order[max(i, 1500):] if n not in rest], [], "lost after seek to %d" % i)
                again = [n for n in order[:min(i, 100)] if n in rest]
                eq(again, [], "repeated after seek to %d" % i)


@test(not_kernel="the kernel's overlay rebuilds its list, and an offset in it is a place, not a name")
def test_telldir_holds_over_copy_up_rename_and_remount():
    """Nothing has to be kept for it: an offset is made of the name."""
    low = [{"d": {"%s%05d" % (c, i): "" for i in range(1500)}} for c in "ab"]
    with Overlay(low, opts="redirect_dir=on") as ov:
        order, pos = [], []
        with Dir(ov.m("d")) as d:
            while (at := d.tell()) is not None and (e := d.read()):
                pos.append(at)
                order.append(e[0])
        path = ov.m("d")

        def check(when):
            with Dir(path) as d:
                for i in (0, 1, 2, 700, 2999, len(pos) - 1, 1):
                    d.seek(pos[i])
                    eq([n for n, _, _ in d], order[i:], "%s, from %d" % (when, i))
        check("at once")
        os.chmod(ov.m("d"), 0o700)
        append(ov.m("d/a00007"), "x")
        check("after copy-up")
        for n in range(500):
            touch(ov.m("d/n%d" % n))
        for n in range(500):
            os.unlink(ov.m("d/n%d" % n))
        check("after others came and went")
        ov.remount()
        check("after remount")
        if is_root_mode():
            os.rename(ov.m("d"), ov.m("e"))
            path = ov.m("e")
            check("after rename")


@test
def test_getdents_from_two_descriptors_is_independent():
    with Overlay([many(1000, "a"), {"b": ""}]) as ov:
        with Dir(ov.mnt) as x, Dir(ov.mnt) as y:
            a = [x.read()[0] for _ in range(500)]
            b = [n for n, _, _ in y]
            a += [n for n, _, _ in x]
            eq(a, b)


def steady_during(ov, change):
    """List while CHANGE(i) goes on; names that nobody touches must appear exactly once."""
    with Dir(ov.mnt) as d:
        got, i = [], 0
        while (e := d.read()):
            got.append(e[0])
            if len(got) % 10 == 0:
                change(i)
                i += 1
    steady = [n for n in got if n.startswith("a")]
    return got, steady


@test
def test_deleting_during_a_listing():
    with Overlay([many(2000, "a"), many(1000, "x")]) as ov:
        def change(i):
            if i < 300:
                os.unlink(ov.m("x%05d" % (i * 3)))
        got, steady = steady_during(ov, change)
        eq(len(steady), 2000)
        eq(len(set(got)), len(got), "no name twice")


@test
def test_creating_during_a_listing():
    with Overlay([many(2000, "a"), {"b": ""}]) as ov:
        got, steady = steady_during(ov, lambda i: touch(ov.m("n%05d" % i)))
        eq(len(steady), 2000)
        eq(len(set(got)), len(got), "no name twice")


@test
def test_renaming_and_copying_up_during_a_listing():
    with Overlay([many(2000, "a"), many(300, "x")]) as ov:
        def change(i):
            if i < 150:
                os.rename(ov.m("x%05d" % i), ov.m("y%05d" % i))
            append(ov.m("a%05d" % i), "up")
        got, steady = steady_during(ov, change)
        eq(len(steady), 2000)
        eq(len(set(steady)), 2000, "no name twice")


@test
def test_heavy_change_by_another_process():
    with Overlay([many(3000, "a"), many(10, "x")]) as ov:
        pid = os.fork()
        if pid == 0:
            try:
                for r in range(100000):
                    p = ov.m("churn%d" % (r % 50))
                    touch(p)
                    os.rename(p, p + ".r")
                    os.unlink(p + ".r")
            finally:
                os._exit(0)
        try:
            for _ in range(5):
                got = [n for n in listing(ov.mnt) if n.startswith(("a", "x"))]
                eq((len(got), len(set(got))), (3010, 3010))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@test
def test_rm_while_reading_as_rm_does():
    with Overlay([many(2500, "a"), many(2500, "b")]) as ov:
        with Dir(ov.mnt) as d:
            for n, _, _ in d:
                if n not in (".", ".."):
                    os.unlink(ov.m(n))
        eq(names(ov.mnt), [])


@test
def test_rewind_shows_changes():
    with Overlay({"d": {"a": "", "b": ""}}) as ov:
        with Dir(ov.m("d")) as d:
            eq(sorted(n for n, _, _ in d), [".", "..", "a", "b"])
            touch(ov.m("d/c"))
            os.unlink(ov.m("d/a"))
            d.rewind()
            eq(sorted(n for n, _, _ in d), [".", "..", "b", "c"])


@test
def test_listing_again_after_each_change():
    with Overlay([{"d": {"a": "", "sub": {}}}, {"d": {"b": ""}}]) as ov:
        want = {"a", "b", "sub"}
        eq(set(names(ov.m("d"))), want)

        def step(fn, *args, add=(), gone=()):
            fn(*args)
            want.update(add)
            want.difference_update(gone)
            eq(set(names(ov.m("d"))), want, fn.__name__)
        step(touch, ov.m("d/f"), add=["f"])
        step(os.mkdir, ov.m("d/g"), add=["g"])
        step(os.symlink, "x", ov.m("d/s"), add=["s"])
        step(os.mkfifo, ov.m("d/p"), add=["p"])
        step(os.link, ov.m("d/a"), ov.m("d/l"), add=["l"])
        step(os.rename, ov.m("d/b"), ov.m("d/c"), add=["c"], gone=["b"])
        step(os.rename, ov.m("d/c"), ov.m("out"), gone=["c"])
        step(os.rename, ov.m("out"), ov.m("d/back"), add=["back"])
        step(os.unlink, ov.m("d/a"), gone=["a"])
        step(os.rmdir, ov.m("d/sub"), gone=["sub"])
        step(touch, ov.m("d/a"), add=["a"])
        step(renameat2, ov.m("d/a"), ov.m("d/g"), RENAME_EXCHANGE)
        ov.remount()
        eq(set(names(ov.m("d"))), want)


@test
def test_listing_of_a_directory_that_is_removed_while_open():
    with Overlay({"d": {"a": "", "b": ""}}) as ov:
        with Dir(ov.m("d")) as d:
            d.read()
            shutil.rmtree(ov.m("d"))
            for _ in d:
                pass
            d.rewind()
            eq([n for n, _, _ in d if n not in (".", "..")], [])


@test
def test_directory_mtime_and_ctime_move():
    with Overlay({"d": Folder({"a": ""}, mtime=10**18)}) as ov:
        eq(lstat(ov.m("d")).st_mtime_ns, 10**18)
        for fn, args in ((touch, (ov.m("d/n"),)), (os.unlink, (ov.m("d/n"),)), (os.mkdir, (ov.m("d/m"),)),
                         (os.rename, (ov.m("d/m"), ov.m("d/k"))), (os.rmdir, (ov.m("d/k"),)),
                         (os.link, (ov.m("d/a"), ov.m("d/l"))), (os.unlink, (ov.m("d/a"),))):
            before = lstat(ov.m("d")).st_mtime_ns
            time.sleep(0.02)
            fn(*args)
            ok(lstat(ov.m("d")).st_mtime_ns > before, "mtime after " + fn.__name__)


@test
def test_chmod_of_an_entry_keeps_directory_mtime():
    with Overlay({"d": Folder({"a": ""}, mtime=10**18)}) as ov:
        os.chmod(ov.m("d/a"), 0o600)
        append(ov.m("d/a"), "x")
        eq(lstat(ov.m("d")).st_mtime_ns, 10**18)
        ov.remount()
        eq(lstat(ov.m("d")).st_mtime_ns, 10**18)


@test
def test_deep_tree():
    deep = "/".join("d%d" % i for i in range(60))
    with Overlay([{deep + "/f": "deep"}, {deep + "/g": "deeper"}]) as ov:
        eq(names(ov.m(deep)), ["f", "g"])
        write(ov.m(deep, "n"), "new")
        os.unlink(ov.m(deep, "f"))
        ov.remount()
        eq(names(ov.m(deep)), ["g", "n"])
        shutil.rmtree(ov.m("d0"))
        eq(names(ov.mnt), [])


@test
def test_find_sees_the_same_as_recursion():
    with Overlay([{"a/b/c": "1", "a/d": "2", "e": Sym("a")}, {"a/b/x": "3", "f/g/h": "4"}]) as ov:
        os.unlink(ov.m("a/d"))
        write(ov.m("f/new"), "")
        got = run("find", ov.mnt, "-printf", "%P\\n").stdout.split("\n")
        eq(sorted(n for n in got if n), sorted(n for n in tree_snapshot(ov.mnt) if n != "."))


@test
def test_twenty_lowers():
    specs = [{"d": {"own%d" % i: str(i), "all": str(i)}, "e%d" % i: "x"} for i in range(20)]
    with Overlay(specs) as ov:
        eq(len(names(ov.m("d"))), 21)
        eq(read(ov.m("d/all")), b"0")
        os.unlink(ov.m("d/all"))
        os.unlink(ov.m("d/own19"))
        ov.remount()
        eq(len(names(ov.m("d"))), 19)
        eq(len(names(ov.mnt)), 21)


@test
def test_a_file_in_the_middle_ends_the_merge():
    with Overlay([{"d": {"top": ""}}, {"d": "a file"}, {"d": {"bottom": ""}}]) as ov:
        eq(names(ov.m("d")), ["top"])
    with Overlay([{"d": "file"}, {"d": {"x": ""}}]) as ov:
        eq(read(ov.m("d")), b"file")


@test
def test_empty_read_only_root():
    with Overlay([{}, {}], upper=False) as ov:
        eq(sorted(listing(ov.mnt)), [".", ".."])


@test
def test_lookup_after_negative_lookup():
    with Overlay({"d": {}}) as ov:
        for n in ("d/x", "y"):
            ok(not exists(ov.m(n)))
            ok(not exists(ov.m(n)))
            touch(ov.m(n))
            ok(exists(ov.m(n)))
            os.unlink(ov.m(n))
            ok(not exists(ov.m(n)))
            os.mkdir(ov.m(n))
            ok(os.path.isdir(ov.m(n)))


if __name__ == "__main__":
    main()
