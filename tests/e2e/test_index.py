#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""index=on: hard links of a lower survive copy-up and remount; what is in workdir/index is the kernel's."""

from ovtest import *


def X(name):
    return xattr_prefix() + name


LINKED = {"a": "x", "b": Hardlink("a"), "d/c": Hardlink("a"), "single": "s"}
NAMES = ("a", "b", "d/c")
ON = "index=on"

# The kernel's own does without an index in a user namespace.
everywhere = test(modes=("root",) if IS_KERNEL else MODES)


def look(ov, ns=NAMES):
    """Contents, link counts and whether it is one inode."""
    st = [lstat(ov.m(n)) for n in ns]
    return [read(ov.m(n)) for n in ns], [s.st_nlink for s in st], len({s.st_ino for s in st})


def twice(ov, ns, want):
    for when in ("at once", "after remount"):
        eq(look(ov, ns), want, when)
        ov.remount()


def index(ov):
    return [n for n in names(ov.w("index")) if n[0] != "#"]  # the kernel's temporaries


def other_view(ov, ns, want):
    """What the other implementation makes of the same directories."""
    if IS_KERNEL or not is_root_mode():
        return
    ov.umount()
    with ov.by_kernel(ON) as mnt:
        st = [lstat(os.path.join(mnt, n)) for n in ns]
        eq(([read(os.path.join(mnt, n)) for n in ns], [s.st_nlink for s in st], len({s.st_ino for s in st})), want, "the kernel's view")
    ov.mount()


@everywhere
def test_marks_of_the_directories():
    with Overlay({"a": "x"}, opts=ON) as ov:
        ok(getx(ov.upper, X("origin")), "origin of the upper root")
        ok(getx(ov.w("index"), X("upper")), "upper of the index")
        eq(index(ov), [])
        append(ov.m("a"), "y")
        eq(index(ov), [], "a file with one name needs no index")


@everywhere
def test_copy_up_keeps_the_link():
    with Overlay(LINKED, opts=ON) as ov:
        before = look(ov)
        eq(before, ([b"x"] * 3, [3] * 3, 1))
        number = lstat(ov.m("a")).st_ino
        append(ov.m("b"), "y")
        twice(ov, NAMES, ([b"xy"] * 3, [3] * 3, 1))
        eq(lstat(ov.m("d/c")).st_ino, number)
        eq(len(index(ov)), 1)
        # The name that was used must be in the upper, for whoever takes that alone as a layer; ours cannot tell which it was.
        entry = ov.w("index/" + index(ov)[0])
        eq(lstat(ov.u("b")).st_ino, lstat(entry).st_ino)
        value = getx(entry, X("nlink"))
        eq((value[:1], lstat(entry).st_nlink + int(value[1:])), (b"U", 3))
        append(ov.m("d/c"), "z")
        other_view(ov, NAMES, ([b"xyz"] * 3, [3] * 3, 1))
        twice(ov, NAMES, ([b"xyz"] * 3, [3] * 3, 1))


@test(modes=("root",))
def test_truncate_that_fails_cuts_nothing():
    """The copy is in the index before its name can be linked, which then cannot be."""
    with Overlay({"a": "0123456789", "b": Hardlink("a")}, opts=ON) as ov:
        lstat(ov.m("a"))
        set_flags(ov.upper, get_flags(ov.upper) | FS_IMMUTABLE_FL)
        try:
            fails(errno.EPERM, os.truncate, ov.m("a"), 3)
            eq(read(ov.m("a")), b"0123456789")
            eq(read(ov.m("b")), b"0123456789")
        finally:
            set_flags(ov.upper, get_flags(ov.upper) & ~FS_IMMUTABLE_FL)
        ov.remount()
        eq(read(ov.m("a")), b"0123456789")


@everywhere
def test_names_found_after_the_copy_up_are_linked_at_the_next_change():
    with Overlay(LINKED, opts=ON) as ov:
        append(ov.m("a"), "y")
        ov.remount()
        read(ov.m("b"))
        append(ov.m("d/c"), "z")
        eq(lstat(ov.u("d/c")).st_ino, lstat(ov.u("a")).st_ino)
        twice(ov, NAMES, ([b"xyz"] * 3, [3] * 3, 1))


@everywhere
def test_metadata_too():
    with Overlay(LINKED, opts=ON) as ov:
        os.chmod(ov.m("d/c"), 0o640)
        os.utime(ov.m("a"), ns=(10 ** 18, 10 ** 18 + 1))
        for _ in range(2):
            eq([(stat.S_IMODE(lstat(ov.m(n)).st_mode), lstat(ov.m(n)).st_mtime_ns) for n in NAMES], [(0o640, 10 ** 18 + 1)] * 3)
            ov.remount()


@everywhere
def test_open_files_of_all_names_are_one():
    with Overlay(LINKED, opts=ON) as ov:
        ro = os.open(ov.m("d/c"), os.O_RDONLY)
        rw = os.open(ov.m("b"), os.O_RDWR)
        os.pwrite(rw, b"written", 0)
        if IS_OURS:  # the kernel's read-only file stays on the lower
            eq(os.pread(ro, 10, 0), b"written")
        eq(read(ov.m("a")), b"written")
        os.close(ro)
        os.close(rw)


@everywhere
def test_unlink_counts_down():
    """Names go one by one, in the lower only, in both, the last; the index entry goes with it."""
    with Overlay(LINKED, opts=ON) as ov:
        os.unlink(ov.m("a"))
        twice(ov, NAMES[1:], ([b"x"] * 2, [2] * 2, 1))
        eq(len(index(ov)), 1)
        append(ov.m("b"), "y")
        other_view(ov, NAMES[1:], ([b"xy"] * 2, [2] * 2, 1))
        os.unlink(ov.m("b"))
        twice(ov, NAMES[2:], ([b"xy"], [1], 1))
        fd = os.open(ov.m("d/c"), os.O_RDWR)
        os.unlink(ov.m("d/c"))
        eq(os.fstat(fd).st_nlink, 0)
        eq(index(ov), [])
        os.pwrite(fd, b"still", 0)
        eq(os.pread(fd, 10, 0), b"still")
        os.close(fd)
        ov.remount()
        eq((names(ov.mnt), names(ov.m("d")), index(ov)), (["d", "single"], [], []))
        ok(exists(ov.l("a")))


@everywhere
def test_link_and_rename():
    with Overlay(LINKED, opts=ON) as ov:
        os.link(ov.m("b"), ov.m("new"))
        twice(ov, NAMES + ("new",), ([b"x"] * 4, [4] * 4, 1))
        os.rename(ov.m("d/c"), ov.m("moved"))
        twice(ov, ("a", "b", "new", "moved"), ([b"x"] * 4, [4] * 4, 1))
        eq(names(ov.m("d")), [])
        append(ov.m("moved"), "y")
        other_view(ov, ("a", "b", "new", "moved"), ([b"xy"] * 4, [4] * 4, 1))
        os.rename(ov.m("single"), ov.m("a"))  # over one of the names
        twice(ov, ("b", "new", "moved"), ([b"xy"] * 3, [3] * 3, 1))
        eq((read(ov.m("a")), nlink(ov, "a")), (b"s", 1))
        os.rename(ov.m("b"), ov.m("new"))  # names of one file: nothing happens
        twice(ov, ("b", "new", "moved"), ([b"xy"] * 3, [3] * 3, 1))
        for n in ("b", "new", "moved"):
            os.unlink(ov.m(n))
        eq(index(ov), [])


def nlink(ov, name):
    return lstat(ov.m(name)).st_nlink


@everywhere
def test_rename_over_names_that_are_in_the_lower_only():
    with Overlay(dict(LINKED, e="e", f="f"), opts=ON) as ov:
        for n, old in zip(NAMES, ("single", "e", "f")):
            os.rename(ov.m(old), ov.m(n))
        for _ in range(2):
            eq(([read(ov.m(n)) for n in NAMES], [nlink(ov, n) for n in NAMES]), ([b"s", b"e", b"f"], [1] * 3))
            ov.remount()
        eq(index(ov), [])


@everywhere
def test_exchange_of_a_name():
    with Overlay(LINKED, opts=ON) as ov:
        renameat2(ov.m("d/c"), ov.m("single"), RENAME_EXCHANGE)
        append(ov.m("a"), "y")
        twice(ov, ("a", "b", "single"), ([b"xy"] * 3, [3] * 3, 1))
        eq(read(ov.m("d/c")), b"s")


@everywhere
def test_without_trusted_xattrs_only_files_are_kept_together():
    if is_root_mode():
        skip("root has them")
    with Overlay({"s": Sym("t"), "s2": Hardlink("s"), "p": Fifo(), "p2": Hardlink("p")}, opts=ON) as ov:
        os.chmod(ov.m("p"), 0o600)
        os.link(ov.m("s"), ov.m("s3"), follow_symlinks=False)
        os.unlink(ov.m("s2"))
        for _ in range(2):
            eq([stat.S_IMODE(lstat(ov.m(n)).st_mode) for n in ("p", "p2")], [0o600, 0o644])
            eq([os.readlink(ov.m(n)) for n in ("s", "s3")], ["t"] * 2)
            ov.remount()


@everywhere
def test_symlinks_fifos_and_directories():
    if not is_root_mode():
        skip("user.* xattrs, by which entries are counted, exist on files only: the others part as with index=off")
    with Overlay({"s": Sym("t"), "s2": Hardlink("s"), "p": Fifo(), "p2": Hardlink("p"), "d": {"x": "1"}}, opts=ON) as ov:
        for a, b in (("s", "s2"), ("p", "p2")):
            os.utime(ov.m(a), ns=(5, 5), follow_symlinks=False)
            os.link(ov.m(b), ov.m(b + "new"), follow_symlinks=False)
            for _ in range(2):
                eq([(nlink(ov, n), lstat(ov.m(n)).st_mtime_ns) for n in (a, b, b + "new")], [(3, 5)] * 3)
                ov.remount()
        os.chmod(ov.m("d"), 0o700)
        append(ov.m("d/x"), "2")
        eq(len(index(ov)), 2)


@test(modes=("root",))
def test_no_metacopy_into_the_index():
    """A file with several names is copied whole."""
    with Overlay({"a": "x" * 5000, "b": Hardlink("a")}, opts="index=on,metacopy=on,redirect_dir=on") as ov:
        os.chmod(ov.m("b"), 0o600)
        eq(getx(ov.u("b"), X("metacopy")), None)
        eq(read(ov.u("b")), b"x" * 5000)
        twice(ov, tuple("ab"), ([b"x" * 5000] * 2, [2] * 2, 1))


@test(modes=("root",), not_kernel="it is what the kernel does")
def test_metacopy_in_the_index():
    """The kernel makes metacopies of such files, too."""
    opts = "index=on,metacopy=on,redirect_dir=on"
    with Overlay({"a": "x" * 5000, "b": Hardlink("a"), "c": Hardlink("a")}, opts=opts) as ov:
        with ov.by_kernel(opts) as mnt:
            os.chmod(mnt + "/b", 0o600)
        ov.mount()
        for _ in range(2):
            eq([(read(ov.m(n)), stat.S_IMODE(lstat(ov.m(n)).st_mode), nlink(ov, n)) for n in "abc"], [(b"x" * 5000, 0o600, 3)] * 3)
            ov.remount()
        eq(getx(ov.u("b"), X("metacopy")), b"")
        os.rename(ov.m("c"), ov.m("e"))
        for _ in range(2):
            eq([read(ov.m(n)) for n in "abe"], [b"x" * 5000] * 3)
            ov.remount()
        append(ov.m("e"), "y")
        twice(ov, tuple("abe"), ([b"x" * 5000 + b"y"] * 3, [3] * 3, 1))
        eq(getx(ov.u("b"), X("metacopy")), None)


@test(modes=("root",))
def test_what_the_kernel_left_is_read():
    """Copied up, one name removed, one renamed by kernel overlayfs; then ours goes on, then the kernel again."""
    with Overlay(LINKED, opts=ON) as ov:
        ov.umount()
        with ov.by_kernel(ON) as mnt:
            append(mnt + "/a", "k")
            os.unlink(mnt + "/b")
            os.link(mnt + "/d/c", mnt + "/n")
        ov.mount()
        eq(look(ov, ("a", "d/c", "n")), ([b"xk"] * 3, [3] * 3, 1))
        append(ov.m("d/c"), "o")
        os.unlink(ov.m("a"))
        other_view(ov, ("d/c", "n"), ([b"xko"] * 2, [2] * 2, 1))
        ov.umount()
        with ov.by_kernel(ON) as mnt:
            os.unlink(mnt + "/n")
            os.unlink(mnt + "/d/c")
        eq(index(ov), [])
        ov.mount()
        eq(names(ov.m("d")), [])


@test(modes=("root",))
def test_count_relative_to_the_lower():
    """What a crash leaves between the two writes of overlay.nlink when a further name is linked."""
    with Overlay(LINKED, opts=ON) as ov:
        append(ov.m("a"), "y")
        entry = ov.w("index/" + index(ov)[0])
        ov.umount()
        setx(entry, X("nlink"), "L+0")
        ov.mount()
        eq(look(ov), ([b"xy"] * 3, [3] * 3, 1))
        os.unlink(ov.m("b"))
        eq(look(ov, ("a", "d/c")), ([b"xy"] * 2, [2] * 2, 1))


@test(modes=("root",))
def test_entries_without_names_go_at_mount():
    with Overlay(LINKED, opts=ON) as ov:
        append(ov.m("a"), "y")
        for n in NAMES:
            os.unlink(ov.m(n)) if n != "a" else None
        entry = ov.w("index/" + index(ov)[0])
        ov.umount()
        os.unlink(ov.u("a"))  # a crash after the last name went
        os.mknod(ov.u("a"), stat.S_IFCHR, 0)
        eq(getx(entry, X("nlink")), b"U-1")
        ov.mount()
        eq(index(ov), [])
        ok(not exists(ov.m("a")))


@test(modes=("root",))
def test_refused_where_the_directories_do_not_belong_together():
    with Overlay(LINKED, opts=ON) as ov:
        append(ov.m("a"), "y")
        ov.umount()
        origin = getx(ov.upper, X("origin"))
        marked = getx(ov.w("index"), X("upper"))
        setx(ov.upper, X("origin"), marked)
        fails(errno.ESTALE, ov.mount) if IS_KERNEL else refused_mount(ov, "index=off")
        setx(ov.upper, X("origin"), origin)
        setx(ov.w("index"), X("upper"), origin)
        fails(errno.ESTALE, ov.mount) if IS_KERNEL else refused_mount(ov, "index=off")
        setx(ov.w("index"), X("upper"), marked)
        ov.mount()
        eq(look(ov), ([b"xy"] * 3, [3] * 3, 1))


def refused_mount(ov, word):
    try:
        ov.mount()
    except MountError as e:
        ok(word in str(e), str(e))
    else:
        raise Failed("mounted")


@test(modes=("root",))
def test_an_entry_of_another_type_is_an_error():
    with Overlay(LINKED, opts=ON) as ov:
        append(ov.m("a"), "y")
        entry = ov.w("index/" + index(ov)[0])
        ov.umount()
        os.unlink(entry)
        os.mkfifo(entry)
        fails(errno.ENODATA, ov.mount) if IS_KERNEL else refused_mount(ov, "index=off")
        setx(entry, X("origin"), bytes.fromhex(os.path.basename(entry)))
        ov.mount()
        fails(errno.EIO, os.stat, ov.m("b")) if IS_OURS else None
        eq(read(ov.m("single")), b"s")


@everywhere
def test_switched_on_later():
    """An upper made with index=off: the links that are broken stay so, the others are kept."""
    with Overlay(dict(LINKED, e=Hardlink("a"))) as ov:
        append(ov.m("a"), "y")
        ov.opts = ON
        ov.remount()
        append(ov.m("b"), "z")
        eq([read(ov.m(n)) for n in NAMES + ("e",)], [b"xy", b"xz", b"xz", b"xz"])
        ov.remount()
        eq([read(ov.m(n)) for n in NAMES + ("e",)], [b"xy", b"xz", b"xz", b"xz"])


if __name__ == "__main__":
    main()
