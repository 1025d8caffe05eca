#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""rename(2) with every flag, between every kind of source and target."""

from ovtest import *

# kind: (entry of lower, entry of upper, entry made in the mount). A callable gets the path in the mount.
KINDS = {
    "file-lower": ("low file", None, None),
    "file-upper": (None, "upper file", None),
    "file-both": ("hidden", "upper over lower", None),
    "file-copied": ("before", None, lambda p: append(p, " copied up")),
    "file-new": (None, None, lambda p: write(p, "new file")),
    "symlink-lower": (Sym("points/nowhere"), None, None),
    "symlink-new": (None, None, lambda p: os.symlink("new/where", p)),
    "fifo-lower": (Fifo(), None, None),
    "dir-lower": ({"c": "low child", "s/t": "deep"}, None, None),
    "dir-merged": ({"c": "low child"}, {"u": "upper child"}, None),
    "dir-upper": (None, {"u": "upper child", "v": {"w": "deep"}}, None),
    "dir-opaque": ({"c": "hidden"}, None, lambda p: (shutil.rmtree(p), os.mkdir(p), write(p + "/n", "opaque child"))),
    "dir-new": (None, None, lambda p: (os.mkdir(p), write(p + "/n", "new child"))),
    "empty-lower": ({}, None, None),
    "empty-merged": ({"c": "x"}, None, lambda p: os.unlink(p + "/c")),
    "empty-new": (None, None, os.mkdir),
    "nothing": (None, None, None),
    "deleted": ("low file", None, os.unlink),
}
HAS_LOWER = {"dir-lower", "dir-merged", "empty-lower", "empty-merged"}
SOURCES = [k for k in KINDS if k not in ("nothing", "deleted")]


def is_dir(k):
    return k.startswith(("dir", "empty"))


def there(k):
    return k not in ("nothing", "deleted")


def expected(src, dst, flags, redirect):
    """errno, or None for success."""
    if flags & RENAME_NOREPLACE and there(dst):
        return errno.EEXIST
    if flags & RENAME_EXCHANGE:
        if not there(dst):
            return errno.ENOENT
    elif there(dst):
        if is_dir(src) and not is_dir(dst):
            return errno.ENOTDIR
        if is_dir(dst) and not is_dir(src):
            return errno.EISDIR
    if not redirect and src in HAS_LOWER:
        return errno.EXDEV
    if flags & RENAME_EXCHANGE:
        return errno.EXDEV if not redirect and dst in HAS_LOWER else None
    if dst.startswith("dir"):
        return errno.ENOTEMPTY
    return None


def layers(pairs):
    """Directory d<i> for the i-th pair, with `src` and `dst` in it, and the source also in a directory of its own."""
    low, up = {}, {}
    for i, (s, d) in enumerate(pairs):
        for layer, n in ((low, 0), (up, 1)):
            e = {}
            for name, kind in (("src", s), ("dst", d)):
                if KINDS[kind][n] is not None:
                    e[name] = KINDS[kind][n]
            layer["d%d" % i] = e
    return low, up


def shot(path):
    return tree_snapshot(path, times=False, nlink=False) if exists(path) else None


def check_pairs(pairs, flags, opts="", redirect=False):
    low, up = layers(pairs)
    with Overlay(low, up, opts=opts) as ov:
        want = {}
        for i, (s, d) in enumerate(pairs):
            for name, kind in (("src", s), ("dst", d)):
                if KINDS[kind][2]:
                    KINDS[kind][2](ov.m("d%d" % i, name))
        for i, (s, d) in enumerate(pairs):
            a, b = ov.m("d%d/src" % i), ov.m("d%d/dst" % i)
            sa, sb = shot(a), shot(b)
            code = expected(s, d, flags, redirect)
            what = "%s to %s" % (s, d)
            try:
                renameat2(a, b, flags)
                got = None
            except OSError as e:
                got = e.errno
            ok(got == code, "%s: got %s, want %s" % (what, errno.errorcode.get(got), errno.errorcode.get(code)))
            if code is None:
                sa, sb = (sb, sa) if flags & RENAME_EXCHANGE else (None, sa)
            want[i] = what, sa, sb
        verify(ov.mnt, want, "at once")
        ov.remount()
        verify(ov.mnt, want, "after remount")
        if not redirect or is_root_mode():
            with ov.by_kernel("redirect_dir=on" if redirect else "") as k:
                verify(k, want, "seen by the kernel")
            ov.mount()
        ov.stack_up()
        verify(ov.mnt, want, "as a lower")


def verify(root, want, when):
    for i, (what, sa, sb) in want.items():
        for name, w in (("src", sa), ("dst", sb)):
            got = shot(os.path.join(root, "d%d" % i, name))
            if got != w:
                raise Failed("%s, %s: %s is wrong: %s" % (what, when, name, "\n".join(
                    same_diff(w or {}, got or {}, "wanted", "got"))))
        listed = names(os.path.join(root, "d%d" % i))
        eq(listed, sorted(n for n, w in (("src", sa), ("dst", sb)) if w), "%s, %s: listing" % (what, when))


def register(src, flags, label):
    def fn():
        check_pairs([(src, d) for d in KINDS], flags)
    fn.__name__ = "test_%s_of_%s_over_everything" % (label, src.replace("-", "_"))
    test(fn)


for _s in SOURCES:
    register(_s, 0, "rename")
    register(_s, RENAME_NOREPLACE, "noreplace")
    register(_s, RENAME_EXCHANGE, "exchange")


def redirect_wanted():
    if IS_KERNEL and not is_root_mode():
        skip("the kernel refuses redirect_dir=on with userxattr")
    if not IS_KERNEL and not IS_OURS:
        skip("redirect_dir=on is not known there")


@test
def test_redirect_dir_on_moves_directories():
    redirect_wanted()
    srcs = [k for k in KINDS if is_dir(k)]
    check_pairs([(s, d) for s in srcs for d in KINDS], 0, "redirect_dir=on", True)


@test
def test_redirect_dir_on_exchanges_directories():
    redirect_wanted()
    srcs = [k for k in KINDS if is_dir(k)]
    check_pairs([(s, d) for s in srcs for d in KINDS], RENAME_EXCHANGE, "redirect_dir=on", True)


@test
def test_redirect_dir_on_across_directories():
    redirect_wanted()
    with Overlay([{"a/b/c": {"f": "deep", "g": "too"}, "x/y": {}}, {"a/b/c": {"h": "lower still"}}],
                 opts="redirect_dir=on") as ov:
        a = shot(ov.m("a/b/c"))
        os.rename(ov.m("a/b/c"), ov.m("x/y/z"))
        eq(shot(ov.m("x/y/z")), a)
        eq(names(ov.m("a/b")), [])
        os.rename(ov.m("x"), ov.m("a/b/x"))
        eq(shot(ov.m("a/b/x/y/z")), a)
        os.rename(ov.m("a"), ov.m("new"))
        for _ in range(2):
            eq(shot(ov.m("new/b/x/y/z")), a)
            eq(names(ov.mnt), ["new"])
            ov.remount()
        append(ov.m("new/b/x/y/z/h"), "!")
        eq(read(ov.m("new/b/x/y/z/h")), b"lower still!")
        os.mkdir(ov.m("a"))
        eq(names(ov.m("a")), [])
        ov.stack_up()
        eq(names(ov.m("a")), [])
        eq(names(ov.m("new/b/x/y/z")), ["f", "g", "h"])


@test
def test_exdev_is_handled_by_mv():
    with Overlay({"d": {"a": "1", "e": {"f": "2"}}}) as ov:
        fails(errno.EXDEV, os.rename, ov.m("d"), ov.m("n"))
        eq(names(ov.mnt), ["d"])
        run("mv", ov.m("d"), ov.m("n"))
        eq(read(ov.m("n/e/f")), b"2")
        eq(names(ov.mnt), ["n"])
        ov.remount()
        eq(names(ov.mnt), ["n"])


@test
def test_moving_a_file_between_directories():
    with Overlay({"a/f": "low", "b": {}, "a/keep": ""}) as ov:
        os.rename(ov.m("a/f"), ov.m("b/g"))
        eq(read(ov.m("b/g")), b"low")
        eq(names(ov.m("a")), ["keep"])
        os.rename(ov.m("b/g"), ov.m("a/f"))
        eq(read(ov.m("a/f")), b"low")
        ov.remount()
        eq((names(ov.m("a")), names(ov.m("b"))), (["f", "keep"], []))


@test
def test_moving_a_new_directory_over_a_whiteout_makes_it_opaque():
    with Overlay({"d": {"old": "x", "sub/old": "y"}}) as ov:
        shutil.rmtree(ov.m("d"))
        os.mkdir(ov.m("n"))
        os.mkdir(ov.m("n/sub"))
        os.rename(ov.m("n"), ov.m("d"))
        eq(names(ov.m("d")), ["sub"])
        ov.remount()
        eq(names(ov.m("d")), ["sub"])
        eq(names(ov.m("d/sub")), [])


@test
def test_moving_a_new_directory_over_an_emptied_merged_one():
    with Overlay({"d": {"old": "x", "sub/old": "y"}}) as ov:
        shutil.rmtree(ov.m("d/sub"))
        os.unlink(ov.m("d/old"))
        os.mkdir(ov.m("n"))
        os.mkdir(ov.m("n/sub"))
        os.rename(ov.m("n"), ov.m("d"))
        eq((names(ov.m("d")), names(ov.m("d/sub"))), (["sub"], []))
        ov.remount()
        eq((names(ov.m("d")), names(ov.m("d/sub"))), (["sub"], []))


@test
def test_new_directory_moved_into_a_merged_one_hides_nothing_wrongly():
    """A pure directory moved under a parent whose lower has that name whited out, then children made in it."""
    with Overlay({"p": {"n": {"low": "x"}}, "q": {}}) as ov:
        shutil.rmtree(ov.m("p/n"))
        os.mkdir(ov.m("q/n"))
        write(ov.m("q/n/mine"), "m")
        os.rename(ov.m("q/n"), ov.m("p/n"))
        eq(names(ov.m("p/n")), ["mine"])
        ov.remount()
        eq(names(ov.m("p/n")), ["mine"])


@test
def test_rename_to_itself_and_to_a_hard_link():
    with Overlay({"a": "x", "b": Hardlink("a")}) as ov:
        os.rename(ov.m("a"), ov.m("a"))
        write(ov.m("n"), "1")
        os.link(ov.m("n"), ov.m("m"))
        os.rename(ov.m("n"), ov.m("m"))
        eq(names(ov.mnt), ["a", "b", "m", "n"])
        os.rename(ov.m("a"), ov.m("c"))
        eq(names(ov.mnt), ["b", "c", "m", "n"])


@test
def test_directory_into_itself_is_einval():
    with Overlay({"d": {"e": {}}}) as ov:
        os.mkdir(ov.m("n"))
        os.mkdir(ov.m("n/o"))
        fails(errno.EINVAL, os.rename, ov.m("n"), ov.m("n/o/p"))
        fails((errno.EINVAL, errno.ENOTEMPTY), os.rename, ov.m("n/o"), ov.m("n"))
        fails(errno.EINVAL, renameat2, ov.m("n"), ov.m("n/o"), RENAME_EXCHANGE)


@test
def test_bad_flags_are_einval():
    with Overlay({"a": "", "b": ""}) as ov:
        fails(errno.EINVAL, renameat2, ov.m("a"), ov.m("b"), RENAME_NOREPLACE | RENAME_EXCHANGE)
        fails(errno.EINVAL, renameat2, ov.m("a"), ov.m("b"), 128)


@test(not_kernel="it refuses RENAME_WHITEOUT")
def test_rename_whiteout_leaves_nothing_to_see():
    """A whiteout stays on disk under the old name, whether or not a lower has it; the merged view hides it."""
    with Overlay({"a": "low", "d": {"b": "x"}}) as ov:
        write(ov.m("n"), "new")
        os.mkdir(ov.m("nd"))
        write(ov.m("gone"), "")
        os.unlink(ov.m("gone"))
        renameat2(ov.m("a"), ov.m("d/a"), RENAME_WHITEOUT)
        renameat2(ov.m("n"), ov.m("d/n"), RENAME_WHITEOUT)
        renameat2(ov.m("nd"), ov.m("gone"), RENAME_WHITEOUT)
        fails(errno.EEXIST, renameat2, ov.m("d/a"), ov.m("d/n"), RENAME_WHITEOUT | RENAME_NOREPLACE)
        fails(errno.EINVAL, renameat2, ov.m("d/a"), ov.m("d/n"), RENAME_WHITEOUT | RENAME_EXCHANGE)
        if IS_OURS:
            ok(all(stat.S_ISCHR(lstat(ov.u(n)).st_mode) for n in ("a", "n", "nd")), "on disk")
        for _ in range(2):
            eq(names(ov.mnt), ["d", "gone"])
            eq(names(ov.m("d")), ["a", "b", "n"])
            eq(read(ov.m("d/n")), b"new")
            for n in ("a", "n", "nd"):
                fails(errno.ENOENT, lstat, ov.m(n))
            ov.remount()


@test
def test_exchange_of_a_file_and_a_new_directory():
    with Overlay({"f": "file"}) as ov:
        os.mkdir(ov.m("d"))
        write(ov.m("d/x"), "y")
        renameat2(ov.m("f"), ov.m("d"), RENAME_EXCHANGE)
        for _ in range(2):
            eq(read(ov.m("d")), b"file")
            eq(read(ov.m("f/x")), b"y")
            ov.remount()


@test
def test_inode_number_survives_rename():
    with Overlay({"f": "x", "d": {}}) as ov:
        ino = lstat(ov.m("f")).st_ino
        os.rename(ov.m("f"), ov.m("d/g"))
        eq(lstat(ov.m("d/g")).st_ino, ino)
        if IS_KERNEL and not is_root_mode():
            return  # it cannot decode the origin there
        ov.remount()
        eq(lstat(ov.m("d/g")).st_ino, ino)


@test
def test_rename_moves_directory_times_but_not_the_files():
    with Overlay({"a": Folder({"f": File("x", mtime=10**18 + 1)}, mtime=10**18),
                  "b": Folder({}, mtime=10**18)}) as ov:
        os.rename(ov.m("a/f"), ov.m("b/f"))
        eq(lstat(ov.m("b/f")).st_mtime_ns, 10**18 + 1)
        ok(lstat(ov.m("a")).st_mtime_ns > 10**18)
        ok(lstat(ov.m("b")).st_mtime_ns > 10**18)


@test
def test_open_directory_follows_its_rename():
    with Overlay({"x": ""}) as ov:
        os.mkdir(ov.m("d"))
        write(ov.m("d/f"), "1")
        fd = os.open(ov.m("d"), os.O_RDONLY)
        os.rename(ov.m("d"), ov.m("e"))
        eq(os.listdir(fd), ["f"])
        g = os.open("g", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.close(g)
        os.close(fd)
        eq(names(ov.m("e")), ["f", "g"])


@test
def test_many_renames_through_one_name():
    """The way editors and package tools replace files."""
    with Overlay({"f": "0"}) as ov:
        for i in range(1, 300):
            write(ov.m("f.new"), str(i))
            os.rename(ov.m("f.new"), ov.m("f"))
            eq(read(ov.m("f")), str(i).encode())
        eq(names(ov.mnt), ["f"])
        ov.remount()
        eq(read(ov.m("f")), b"299")


@test
def test_concurrent_renames_keep_one_of_each():
    with Overlay({"d%d" % i: {} for i in range(4)}) as ov:
        for i in range(20):
            write(ov.m("d0/f%d" % i), str(i))
        pids = []
        for c in range(4):
            pid = os.fork()
            if pid == 0:
                try:
                    for r in range(200):
                        i = (r * 7 + c * 3) % 20
                        a, b = ov.m("d%d/f%d" % ((r + c) % 4, i)), ov.m("d%d/f%d" % ((r * 3 + c) % 4, i))
                        with contextlib.suppress(FileNotFoundError):
                            os.rename(a, b)
                finally:
                    os._exit(0)
            pids.append(pid)
        [os.waitpid(p, 0) for p in pids]
        found = {}
        for d in range(4):
            for n in names(ov.m("d%d" % d)):
                ok(n not in found, n + " twice")
                found[n] = read(ov.m("d%d" % d, n))
        eq(found, {"f%d" % i: str(i).encode() for i in range(20)})
        a = shot(ov.mnt)
        ov.remount()
        assert_same(a, shot(ov.mnt))


if __name__ == "__main__":
    main()
