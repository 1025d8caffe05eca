#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on disk: written as kernel overlayfs writes it, and every kind of marker read."""

from ovtest import *

NO_OCI = "the kernel's overlay knows nothing of .wh. files"


def X(name):
    return xattr_prefix() + name


def is_whiteout(path):
    if not exists(path):
        return False
    st = lstat(path)
    if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
        return True
    return stat.S_ISREG(st.st_mode) and st.st_size == 0 and getx(path, X("whiteout")) is not None


def marks(path):
    """The overlay's own xattrs of PATH."""
    return {n[len(xattr_prefix()):] for n in listx(path) if n.startswith(xattr_prefix())}


def drop_file_cache(fds):
    for fd in fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def ours_or_kernel():
    if not IS_OURS and not IS_KERNEL:
        skip("writes other markers")


# --- what is written

@test
def test_unlink_writes_a_device_whiteout():
    with Overlay({"f": "x", "d/g": "y", "s": Sym("f")}) as ov:
        for n in ("f", "d/g", "s"):
            os.unlink(ov.m(n))
            st = lstat(ov.u(n))
            ok(stat.S_ISCHR(st.st_mode) and st.st_rdev == 0, "%s is %o" % (n, st.st_mode))
        eq(names(ov.upper), ["d", "f", "s"], "nothing else in upper")
        eq(names(ov.u("d")), ["g"])


@test
def test_rmdir_writes_one_whiteout():
    with Overlay({"d": {"a": "", "b/c": ""}}) as ov:
        shutil.rmtree(ov.m("d"))
        ok(is_whiteout(ov.u("d")))
        eq(names(ov.upper), ["d"])


@test
def test_no_whiteout_for_what_no_lower_has():
    with Overlay({"low": ""}) as ov:
        write(ov.m("f"), "")
        os.unlink(ov.m("f"))
        os.mkdir(ov.m("d"))
        write(ov.m("d/x"), "")
        os.rename(ov.m("d/x"), ov.m("d/y"))
        shutil.rmtree(ov.m("d"))
        eq(names(ov.upper), [])


@test
def test_removed_and_made_again_is_opaque():
    ours_or_kernel()
    with Overlay({"d": {"a": ""}, "top": {"b": ""}}) as ov:
        for d in ("d", "top"):
            shutil.rmtree(ov.m(d))
            os.mkdir(ov.m(d))
            eq(getx(ov.u(d), X("opaque")), b"y", d)
            eq(names(ov.u(d)), [], "no marker file")


@test
def test_new_directory_where_lower_has_none_is_not_opaque_below_merged():
    ours_or_kernel()
    with Overlay({"d": {}}) as ov:
        os.mkdir(ov.m("d/n"))
        ok(getx(ov.u("d/n"), X("opaque")) in (None, b"y"))
        ok(getx(ov.u("d"), X("opaque")) is None, "the copied-up parent must not hide the lower")


@test
def test_copied_up_file_has_an_origin():
    ours_or_kernel()
    with Overlay({"d/f": "x"}) as ov:
        os.chmod(ov.m("d/f"), 0o600)
        for n in ("d", "d/f"):
            o = getx(ov.u(n), X("origin"))
            ok(o is not None, "no origin on " + n)
            if o == b"" and IS_KERNEL and not is_root_mode():
                continue
            eq((o[0], o[1], o[2]), (0, 0xfb, len(o)), "header of " + n)
            ok(o[3] & 4 == 0, "lower, not upper")


@test(only_ours="the kernel is what it is compared with")
def test_origin_is_the_kernels_to_the_byte():
    if not is_root_mode():
        skip("the kernel writes it only where it may decode it")
    with Overlay({"f": "x", "d/g": "y"}) as ov:
        os.chmod(ov.m("f"), 0o600)
        os.chmod(ov.m("d/g"), 0o600)
        mine = {n: getx(ov.u(n), X("origin")) for n in ("f", "d", "d/g")}
        u, w = ov._mkdir("upper-k"), ov._mkdir("work-k")
        ov.remount(kernel=True, upper=u, work=w)
        os.chmod(ov.m("f"), 0o600)
        os.chmod(ov.m("d/g"), 0o600)
        eq({n: getx(ov.u(n), X("origin")) for n in ("f", "d", "d/g")}, mine)


@test
def test_parent_of_a_copied_up_child_is_impure():
    ours_or_kernel()
    with Overlay({"d/f": "x", "e/g": "y"}) as ov:
        os.chmod(ov.m("d/f"), 0o600)
        eq(getx(ov.u("d"), X("impure")), b"y")
        eq(getx(ov.upper, X("impure")), b"y", "the root, which holds a copied-up d")
        os.mkdir(ov.m("n"))
        write(ov.m("n/x"), "")
        eq(getx(ov.u("n"), X("impure")), None, "a new directory with new files")
        os.rename(ov.m("e/g"), ov.m("n/g"))
        eq(getx(ov.u("n"), X("impure")), b"y", "after a copied-up file moved in")


@test
def test_new_files_carry_no_marks():
    ours_or_kernel()
    with Overlay({"low": "x"}) as ov:
        write(ov.m("f"), "x")
        os.symlink("f", ov.m("s"))
        os.mkdir(ov.m("d"))
        write(ov.m("d/g"), "x")
        eq([marks(ov.u(n)) - {"opaque"} for n in ("f", "s", "d", "d/g")], [set()] * 4)


@test
def test_upper_has_the_data_and_nothing_more():
    with Overlay({"a": {"f": "1", "g": "2"}, "b": "3"}) as ov:
        append(ov.m("a/f"), "!")
        write(ov.m("a/n"), "new")
        eq(names(ov.upper), ["a"])
        eq(names(ov.u("a")), ["f", "n"])
        eq(read(ov.u("a/f")), b"1!")


@test
def test_reading_writes_nothing():
    with Overlay([{"a": {"f": "1", "s": Sym("f")}, "b": "3"}, {"a/g": "x"}]) as ov:
        before = tree_snapshot(ov.upper, hide_xattrs=["trusted.", "user."])
        tree_snapshot(ov.mnt)
        os.close(os.open(ov.m("b"), os.O_RDONLY))
        fd = os.open(ov.m("b"), os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.close(fd)
        ov.umount()
        assert_same(before, tree_snapshot(ov.upper, hide_xattrs=["trusted.", "user."]))


@test(not_kernel="the kernel's overlay copies up at open")
def test_opening_for_writing_alone_does_not_copy_up():
    if not IS_OURS:
        skip("others copy up at open")
    with Overlay({"f": "x"}) as ov:
        os.close(os.open(ov.m("f"), os.O_RDWR))
        os.close(os.open(ov.m("f"), os.O_WRONLY | os.O_APPEND))
        ok(not exists(ov.u("f")))


@test
def test_copy_up_keeps_the_metadata():
    spec = {"f": File("x" * 9000, mode=0o4751, uid=12 if not SINGLE_ID else None, gid=34 if not SINGLE_ID else None,
                      xattrs={"user.a": "1", "user.empty": ""}, mtime=10**18 + 123456789),
            "d": Folder({"g": ""}, mode=0o2711, xattrs={"user.d": "2"}, mtime=10**18 + 1),
            "s": Sym("t", mtime=10**18 + 3), "p": Fifo(mode=0o601, mtime=10**18 + 4)}
    with Overlay(spec) as ov:
        before = tree_snapshot(ov.mnt)
        setx(ov.m("f"), "user.new", "n")
        os.utime(ov.m("s"), ns=(5, 10**18 + 3), follow_symlinks=False)
        os.utime(ov.m("p"), ns=(5, 10**18 + 4))
        setx(ov.m("d"), "user.new", "n")
        for x in ("f", "d"):
            before[x]["x:user.new"] = b"n"
        before.pop(".")
        for _ in range(2):
            after = tree_snapshot(ov.mnt)
            after.pop(".")
            assert_same(before, after, "lower", "copied up")
            ov.remount()
        for n in ("f", "d", "s", "p"):
            ok(exists(ov.u(n)), n + " is in upper")


@test
def test_copy_up_of_parents_keeps_their_metadata():
    with Overlay({"a": Folder({"b": Folder({"f": ""}, mode=0o1755, mtime=10**18 + 2, xattrs={"user.b": "v"})},
                              mode=0o711, mtime=10**18 + 1)}) as ov:
        before = tree_snapshot(ov.m("a"))
        os.chmod(ov.m("a/b/f"), 0o600)
        before["b/f"]["mode"] = oct(0o600)
        for _ in range(2):
            assert_same(before, tree_snapshot(ov.m("a")))
            ov.remount()


# --- what is read: kernel kinds

@test
def test_device_whiteout_in_upper_and_middle():
    with Overlay([{"b": Whiteout(), "d": {"y": Whiteout()}, "c": "top"}, {"a": "1", "b": "2", "c": "3",
                                                                        "d": {"x": "", "y": ""}}],
                 {"a": Whiteout()}) as ov:
        eq(names(ov.mnt), ["c", "d"])
        eq(names(ov.m("d")), ["x"])
        for n in ("a", "b", "d/y"):
            fails(errno.ENOENT, lstat, ov.m(n))


@test
def test_whiteout_hides_only_what_is_below():
    with Overlay([{"a": "0"}, {"a": Whiteout()}, {"a": "2", "b": Whiteout()}, {"b": "3"}]) as ov:
        eq(names(ov.mnt), ["a"])
        eq(read(ov.m("a")), b"0")


@test
def test_whiteout_of_odd_mode_and_owner():
    with Overlay([{"a": Chr(0, 0, mode=0o7777, uid=3 if not SINGLE_ID else None), "b": Chr(0, 0, mode=0)},
                  {"a": "", "b": "", "c": ""}]) as ov:
        eq(names(ov.mnt), ["c"])


@test
def test_whiteout_in_the_lowest_layer_is_not_shown():
    with Overlay({"a": Whiteout(), "b": "x", "d": {"w": Whiteout()}}) as ov:
        fails(errno.ENOENT, lstat, ov.m("a"))
        fails(errno.ENOENT, lstat, ov.m("d/w"))
        if not IS_KERNEL:  # it lists a directory of a single layer as it is
            eq(names(ov.m("d")), [])


@test
def test_making_and_removing_over_a_whiteout():
    with Overlay({"a": "low", "d": {"x": ""}}, {"a": Whiteout(), "d": Whiteout()}) as ov:
        write(ov.m("a"), "again")
        os.mkdir(ov.m("d"))
        eq(names(ov.m("d")), [])
        ov.remount()
        eq((read(ov.m("a")), names(ov.m("d"))), (b"again", []))
        os.unlink(ov.m("a"))
        os.rmdir(ov.m("d"))
        eq(names(ov.mnt), [])
        ov.remount()
        eq(names(ov.mnt), [])


@test
def test_opaque_directory_in_upper_and_middle():
    with Overlay([{"m": Opaque({"x": ""}), "n": {"o": Opaque({"1": ""})}}, {"m": {"hid": ""}, "n": {"o": {"2": ""}}}],
                 {"u": Opaque({"y": ""})}) as ov:
        eq(names(ov.m("m")), ["x"])
        eq(names(ov.m("u")), ["y"])
        eq(names(ov.m("n/o")), ["1"])


@test(modes=("userns",), not_kernel="it reads only the prefix of its mount mode")
def test_user_opaque_is_read():
    with Overlay([{"m": Folder({"x": ""}, xattrs={"user.overlay.opaque": "y"})}, {"m": {"hid": ""}}]) as ov:
        eq(names(ov.m("m")), ["x"])


@test(modes=("root",), not_kernel="it reads only the prefix of its mount mode")
def test_user_opaque_is_read_by_root_too():
    """A rootless store looked at by root."""
    with Overlay([{"m": Folder({"x": ""}, xattrs={"user.overlay.opaque": "y"})}, {"m": {"hid": ""}}]) as ov:
        eq(names(ov.m("m")), ["x"])


@test
def test_opaque_with_a_senseless_value_is_not_opaque():
    with Overlay([{"m": Folder({"x": ""}, xattrs={"OVL.opaque": "n"})}, {"m": {"seen": ""}}]) as ov:
        if not IS_OURS and not IS_KERNEL:
            skip("differs there")
        eq(names(ov.m("m")), ["seen", "x"])


@test
def test_xattr_whiteouts_in_a_lower():
    if not IS_OURS and not IS_KERNEL:
        skip("not known there")
    mid = {"d": Folder({"gone": File("", xattrs={"OVL.whiteout": "y"}), "kept": "k", "empty": ""},
                       xattrs={"OVL.opaque": "x"})}
    with Overlay([{}, mid, {"d": {"gone": "g", "low": "l", "empty": "e"}}]) as ov:
        eq(names(ov.m("d")), ["empty", "kept", "low"])
        fails(errno.ENOENT, lstat, ov.m("d/gone"))
        eq(read(ov.m("d/empty")), b"")
        write(ov.m("d/gone"), "new")
        eq(read(ov.m("d/gone")), b"new")
        os.unlink(ov.m("d/gone"))
        ov.remount()
        eq(names(ov.m("d")), ["empty", "kept", "low"])


@test
def test_xattr_whiteout_of_a_directory():
    if not IS_OURS and not IS_KERNEL:
        skip("not known there")
    mid = {"d": Folder({"sub": File("", xattrs={"OVL.whiteout": ""})}, xattrs={"OVL.opaque": "x"})}
    with Overlay([{}, mid, {"d": {"sub": {"x": ""}}}]) as ov:
        eq(names(ov.m("d")), [])
        os.mkdir(ov.m("d/sub"))
        eq(names(ov.m("d/sub")), [])
        ov.remount()
        eq(names(ov.m("d/sub")), [])


@test
def test_redirect_in_a_lower_is_followed():
    if not IS_OURS and not IS_KERNEL:
        skip("not known there")
    if IS_KERNEL and not is_root_mode():
        skip("the kernel refuses redirects with userxattr")
    low = [{"new": Folder({"t": ""}, xattrs={"OVL.redirect": "/old/deep"}), "old": {"deep": Whiteout()},
            "same": {"ren": Folder({"u": ""}, xattrs={"OVL.redirect": "orig"})}},
           {"old": {"deep": {"f": "x"}}, "same": {"orig": {"g": ""}}}]
    with Overlay(low, opts="redirect_dir=follow") as ov:
        eq(names(ov.m("new")), ["f", "t"])
        eq(names(ov.m("same/ren")), ["g", "u"])
        eq(names(ov.m("old")), [])


@test(modes=("userns",), only_ours="the kernel refuses the lookup")
def test_user_redirect_is_not_followed_unasked():
    with Overlay([{"new": Folder({"t": ""}, xattrs={"OVL.redirect": "/old"})}, {"old": {"secret": "x"}}]) as ov:
        try:
            eq(names(ov.m("new")), ["t"])
        except OSError as e:
            ok(e.errno in (errno.EPERM, errno.EIO), e)
        eq(names(ov.m("old")), ["secret"])


@test(only_ours="how it meets hostile layers")
def test_bad_redirects_never_leave_the_layer():
    bad = ["..", "../x", "/..", "/../../etc", "/a/../../etc", "", "/", "a/b", ".", "//x", "x" * 300, "/a//b", "a\0b",
           "/lnk/sub", "/" + "/".join(["d"] * 200)]
    low = {"t%d" % i: Folder({"own": ""}, xattrs={"OVL.redirect": b.encode()}) for i, b in enumerate(bad)}
    with Overlay([low, {"x": {"leak": ""}, "etc": {"leak": ""}, "lnk": Sym("/"), "a": {"b": {"leak": ""}}}],
                 opts="redirect_dir=follow") as ov:
        for i, b in enumerate(bad):
            try:
                got = names(ov.m("t%d" % i))
            except OSError as e:
                ok(e.errno in (errno.EIO, errno.EINVAL, errno.EPERM, errno.ENAMETOOLONG), "%r: %s" % (b, e))
                continue
            eq(got, ["own"], repr(b))
        eq(names(ov.m("x")), ["leak"])


@test(only_ours="how it meets hostile layers")
def test_malformed_marks_do_no_harm():
    low = {}
    for i, v in enumerate([b"", b"\0", b"\0\xfb", b"\0\xfb\xff\0" + b"z" * 300, b"\xff" * 40,
                           b"\0\xfb\x15\0\x01" + b"u" * 16,
                           b"\1\xfb\x1d\0\x01" + b"u" * 24]):
        low["o%d" % i] = File("x", xattrs={"OVL.origin": v})
        low["do%d" % i] = Folder({"in": ""}, xattrs={"OVL.origin": v, "OVL.impure": v, "OVL.opaque": v})
        low["n%d" % i] = File("x", xattrs={"OVL.nlink": v, "OVL.protattr": v, "OVL.uuid": v, "OVL.upper": v})
    with Overlay([{}, {}], low) as ov:
        for n in low:
            if n.startswith("do"):
                eq(names(ov.m(n)), ["in"], n)
                write(ov.m(n, "new"), "")
            else:
                eq(read(ov.m(n)), b"x", n)
                eq(lstat(ov.m(n)).st_nlink, 1)
                append(ov.m(n), "y")
                os.unlink(ov.m(n))


# --- what is read: OCI kinds

@test(not_kernel=NO_OCI)
def test_oci_whiteouts_in_lowers():
    with Overlay([{".wh.f": "", "d": {".wh.g": "", "h": ""}, ".wh.gone": ""},
                  {"f": "low", "d": {"g": "", "i": ""}, "gone": {"x": ""}, "kept": ""}]) as ov:
        eq(names(ov.mnt), ["d", "kept"])
        eq(names(ov.m("d")), ["h", "i"])
        for n in ("f", "d/g", "gone", ".wh.f", "d/.wh.g", ".wh.gone"):
            fails(errno.ENOENT, lstat, ov.m(n))
        write(ov.m("f"), "new")
        os.mkdir(ov.m("gone"))
        eq(names(ov.m("gone")), [])
        ov.remount()
        eq(read(ov.m("f")), b"new")
        eq(names(ov.m("gone")), [])


@test(not_kernel=NO_OCI)
def test_oci_whiteout_and_entry_in_one_layer():
    """Deleted and made again in one image layer: the entry counts, and nothing below merges."""
    with Overlay([{".wh.d": "", "d": {"new": ""}, ".wh.f": "", "f": "new"}, {"d": {"old": ""}, "f": "old"}]) as ov:
        eq(names(ov.mnt), ["d", "f"])
        eq(names(ov.m("d")), ["new"])
        eq(read(ov.m("f")), b"new")


@test(not_kernel=NO_OCI)
def test_oci_whiteout_in_the_middle_below_an_upper_directory():
    with Overlay([{".wh.a": ""}, {"a": {"deep": ""}}], {"a": {"top": ""}}) as ov:
        eq(names(ov.m("a")), ["top"])
        fails(errno.ENOENT, lstat, ov.m("a/deep"))


@test(not_kernel=NO_OCI)
def test_oci_opaque_marker():
    with Overlay([{"d": {".wh..wh..opq": "", "x": ""}}, {"d": {"hid": ""}, "e": ""}]) as ov:
        eq(names(ov.m("d")), ["x"])
        fails(errno.ENOENT, lstat, ov.m("d/.wh..wh..opq"))
        write(ov.m("d/hid"), "mine")
        eq(names(ov.m("d")), ["hid", "x"])
        ov.remount()
        eq(names(ov.m("d")), ["hid", "x"])
        shutil.rmtree(ov.m("d"))
        eq(names(ov.mnt), ["e"])
        ov.remount()
        eq(names(ov.mnt), ["e"])


@test(not_kernel=NO_OCI)
def test_oci_opaque_marker_at_the_root():
    with Overlay([{".wh..wh..opq": "", "x": ""}, {"hid": "", "d": {"y": ""}}]) as ov:
        eq(names(ov.mnt), ["x"])


@test(not_kernel=NO_OCI)
def test_oci_private_names_are_hidden():
    if not IS_OURS:
        skip("differs there")
    with Overlay({".wh..wh.plnk": {}, ".wh..wh.aufs": "", "f": ""}) as ov:
        eq(names(ov.mnt), ["f"])


@test(not_kernel=NO_OCI)
def test_fuse_overlayfs_opaque_is_read():
    with Overlay([{"d": Folder({"x": ""}, xattrs={"user.fuseoverlayfs.opaque": "y"})}, {"d": {"hid": ""}}]) as ov:
        eq(names(ov.m("d")), ["x"])
        eq(listx(ov.m("d")), [])


@test
def test_wh_file_made_by_a_program_is_ordinary():
    if not IS_OURS and not IS_KERNEL:
        skip("refused there")
    with Overlay({"x": "low", "d": {"y": "low"}}) as ov:
        write(ov.m(".wh.x"), "")
        write(ov.m("d/.wh.y"), "")
        write(ov.m(".wh.full"), "content")
        os.mkdir(ov.m(".wh.dir"))
        write(ov.m("d/.wh..wh..opq"), "")
        os.symlink("x", ov.m(".wh.link"))
        want = [".wh.dir", ".wh.full", ".wh.link", ".wh.x", "d", "x"]

        def check(when):
            eq(names(ov.mnt), want, when)
            eq(names(ov.m("d")), [".wh..wh..opq", ".wh.y", "y"], when)
            eq(read(ov.m("x")), b"low", when)
            eq(read(ov.m(".wh.x")), b"", when)
            eq(read(ov.m(".wh.full")), b"content", when)
            eq(listx(ov.m(".wh.x")), [], when)
        check("at once")
        ov.remount()
        check("after remount")
        ov.stack_up()
        check("as a lower")
        append(ov.m(".wh.x"), "")
        os.chmod(ov.m(".wh.x"), 0o600)
        ov.stack_up()
        check("copied up and a lower again")
        os.unlink(ov.m(".wh.x"))
        os.rename(ov.m(".wh.full"), ov.m(".wh.other"))
        ov.remount()
        eq(names(ov.mnt), [".wh.dir", ".wh.link", ".wh.other", "d", "x"])


@test
def test_renaming_to_and_from_a_wh_name():
    if not IS_OURS and not IS_KERNEL:
        skip("refused there")
    with Overlay({"x": "low", "y": "", "z": "low z"}) as ov:
        os.rename(ov.m("y"), ov.m(".wh.x"))
        write(ov.m("n"), "")
        os.link(ov.m("n"), ov.m(".wh.z"))
        for step in ("at once", "after remount", "as lower"):
            eq(names(ov.mnt), [".wh.x", ".wh.z", "n", "x", "z"], step)
            ov.remount() if step == "at once" else ov.stack_up()
        os.rename(ov.m(".wh.x"), ov.m("back"))
        os.unlink(ov.m(".wh.z"))
        ov.remount()
        eq(names(ov.mnt), ["back", "n", "x", "z"])


@test
def test_wh_names_are_seen_alike_by_the_kernel():
    if not IS_OURS and not IS_KERNEL:
        skip("refused there")
    with Overlay({"x": "low", "d": {"y": "low"}}) as ov:
        write(ov.m(".wh.x"), "")
        write(ov.m("d/.wh.y"), "full")
        os.unlink(ov.m("d/y"))
        a = view(ov.mnt)
        with ov.by_kernel() as k:
            assert_same(a, view(k), "view", "kernel")


@test(not_kernel="it is about an environment variable")
def test_oci_whiteouts_are_written_on_request():
    env = dict(os.environ, FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT="1")
    with Overlay({"f": "x", "d": {"g": "", "h": ""}, "e": {"i": ""}, "r": "ren"}, env=env) as ov:
        os.unlink(ov.m("f"))
        os.unlink(ov.m("d/g"))
        shutil.rmtree(ov.m("e"))
        os.mkdir(ov.m("e"))
        os.rename(ov.m("r"), ov.m("s"))
        ok(exists(ov.u(".wh.f")) and exists(ov.u("d/.wh.g")) and exists(ov.u(".wh.r")), names(ov.upper))
        ok(not exists(ov.u("f")), "no device")
        for step in range(3):
            eq(names(ov.mnt), ["d", "e", "s"])
            eq(names(ov.m("d")), ["h"])
            eq(names(ov.m("e")), [])
            ov.remount() if step == 0 else ov.stack_up()
        write(ov.m("f"), "again")
        eq(names(ov.mnt), ["d", "e", "f", "s"])
        ov.remount()
        eq(names(ov.mnt), ["d", "e", "f", "s"])


@test(not_kernel="it is about an environment variable")
def test_what_an_oci_whiteout_cannot_hide():
    """Its name is taken by an ordinary file, or would be too long: an xattr hides it then."""
    env = dict(os.environ, FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT="1")
    long = "n" * 254
    with Overlay({"b": "x", "k": "", "d": {"y": ""}, long: "", "stays": ""}, env=env) as ov:
        for name in ("b", "k"):
            write(ov.m(".wh." + name), "an ordinary file")
        os.mkdir(ov.m(".wh.d"))
        os.unlink(ov.m("k"))
        os.rename(ov.m("b"), ov.m("bb"))
        write(ov.m("d/z"), "")
        shutil.rmtree(ov.m("d"))
        os.unlink(ov.m(long))
        for _ in range(2):
            eq(names(ov.mnt), [".wh.b", ".wh.d", ".wh.k", "bb", "stays"])
            ov.remount()


@test(not_kernel="it is about an environment variable")
def test_directory_moved_over_an_oci_whiteout():
    env = dict(os.environ, FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT="1")
    with Overlay({"a": "", "d": {"e": {"f": ""}}}, env=env, mount=False) as ov:
        feature(ov, "redirect_dir=on", "redirect")
        os.unlink(ov.m("a"))
        os.rename(ov.m("d/e"), ov.m("a"))
        for _ in range(2):
            eq(names(ov.m("a")), ["f"])
            eq(names(ov.m("d")), [])
            ov.remount()


# --- index, metacopy, redirect

def feature(ov, opts, word):
    if not is_root_mode() and IS_KERNEL:
        skip("needs privilege in the kernel")
    if not IS_OURS and not IS_KERNEL:
        skip("not known there")
    return ov.mount_or_skip(opts, word)


@test
def test_redirect_is_written():
    with Overlay({"a": {"d": {"f": ""}}, "b": {}}, mount=False) as ov:
        feature(ov, "redirect_dir=on", "redirect")
        os.rename(ov.m("a/d"), ov.m("a/e"))
        eq(getx(ov.u("a/e"), X("redirect")), b"d")
        os.rename(ov.m("a/e"), ov.m("b/e"))
        eq(getx(ov.u("b/e"), X("redirect")), b"/a/d")
        ok(is_whiteout(ov.u("a/d")))
        eq(names(ov.u("b/e")), [], "nothing is copied")


@test
def test_metacopy_is_written_and_completed():
    with Overlay({"f": File("x" * 100000)}, mount=False) as ov:
        feature(ov, "metacopy=on", "metacopy")
        os.chmod(ov.m("f"), 0o600)
        ok(getx(ov.u("f"), X("metacopy")) is not None, "no metacopy mark")
        eq(lstat(ov.u("f")).st_blocks * 512 < 50000, True, "no data yet")
        eq(lstat(ov.u("f")).st_size, 100000)
        ov.remount()
        eq(read(ov.m("f")), b"x" * 100000)
        eq(stat.S_IMODE(lstat(ov.m("f")).st_mode), 0o600)
        append(ov.m("f"), "y")
        eq(getx(ov.u("f"), X("metacopy")), None)
        eq(read(ov.u("f")), b"x" * 100000 + b"y")
        eq(read(ov.m("f")), b"x" * 100000 + b"y")


@test
def test_metacopy_completed_without_a_name():
    """Data that follows when the file has been unlinked, replaced or moved while it is open."""
    with Overlay({n: "data of " + n for n in ("gone", "over", "moved")}, {"new": "new", "d": {}}, mount=False) as ov:
        feature(ov, "metacopy=on,redirect_dir=on", "metacopy")
        fds = {}
        for n in ("gone", "over", "moved"):
            os.chmod(ov.m(n), 0o600)
            fds[n] = os.open(ov.m(n), os.O_RDWR)
        os.unlink(ov.m("gone"))
        os.rename(ov.m("new"), ov.m("over"))
        os.rename(ov.m("moved"), ov.m("d/moved"))
        for n, fd in fds.items():
            eq(os.pread(fd, 99, 0), b"data of " + n.encode())
            os.pwrite(fd, b"DATA", 0)
            os.fsync(fd)
            eq(os.pread(fd, 99, 0), b"DATA of " + n.encode())
            os.fchmod(fd, 0o640)
            eq(os.fstat(fd).st_nlink, int(n == "moved"), n)
        drop_file_cache(fds.values())
        for n, fd in fds.items():
            eq(os.pread(fd, 99, 0), b"DATA of " + n.encode())
            os.close(fd)
        eq(read(ov.m("over")), b"new")
        eq(read(ov.m("d/moved")), b"DATA of moved")


@test
def test_metacopy_of_a_renamed_file():
    with Overlay({"d": {"f": File("x" * 5000)}, "e": {}}, mount=False) as ov:
        feature(ov, "metacopy=on,redirect_dir=on", "metacopy")
        os.chmod(ov.m("d/f"), 0o600)
        os.rename(ov.m("d/f"), ov.m("e/g"))
        for _ in range(2):
            eq(read(ov.m("e/g")), b"x" * 5000)
            ov.remount()
        eq(getx(ov.u("e/g"), X("redirect")), b"/d/f")


@test
def test_metacopy_that_lost_its_name():
    """An open file with its metadata in the upper and no name: its data is read, and follows at the first write."""
    with Overlay({"d": {"f": "x" * 5000}}, mount=False) as ov:
        feature(ov, "metacopy=on", "metacopy")
        fd = os.open(ov.m("d/f"), os.O_RDWR)
        os.fchmod(fd, 0o600)
        eq(getx(ov.u("d/f"), X("metacopy")), b"")
        shutil.rmtree(ov.m("d"))
        eq(os.pread(fd, 9000, 0), b"x" * 5000)
        eq(os.copy_file_range(fd, fd, 10, 0, 8192), 10)
        os.pwrite(fd, b"y", 0)
        eq(os.pread(fd, 9000, 0), b"y" + b"x" * 4999 + b"\0" * 3192 + b"x" * 10)
        os.close(fd)
        eq(len(read(ov.l("d/f"))), 5000)


@test
def test_index_keeps_hard_links_together():
    with Overlay({"a": "x", "b": Hardlink("a"), "c": Hardlink("a")}, mount=False) as ov:
        feature(ov, "index=on", "index")
        append(ov.m("a"), "y")
        for _ in range(2):
            eq([read(ov.m(n)) for n in "abc"], [b"xy"] * 3)
            eq([lstat(ov.m(n)).st_nlink for n in "abc"], [3] * 3)
            eq(len({lstat(ov.m(n)).st_ino for n in "abc"}), 1)
            ov.remount()
        eq(len(names(ov.w("index"))), 1)
        os.unlink(ov.m("b"))
        eq([lstat(ov.m(n)).st_nlink for n in "ac"], [2] * 2)


@test
def test_data_only_lower():
    meta = {"f": File("", xattrs={"OVL.metacopy": "", "OVL.redirect": "/blob"})}

    def sized(path):
        populate(path, meta)
        os.truncate(path + "/f", 9000)
    with Overlay([sized, {"blob": File("b" * 9000), "hidden": "h"}], upper=False, ndata=1, mount=False) as ov:
        if not IS_OURS and not IS_KERNEL:
            skip("not known there")
        if not is_root_mode() and IS_KERNEL:
            skip("needs privilege in the kernel")
        ov.mount_or_skip("redirect_dir=follow,metacopy=on", "metacopy")
        eq(names(ov.mnt), ["f"])
        eq(read(ov.m("f")), b"b" * 9000)


# --- the kernel and ours on the same directories

def view(path):
    s = tree_snapshot(path)
    return s


def busy(m):
    """Something of everything, on the layers of LAYERS."""
    append(m + "/etc/passwd", "new user\n")
    write(m + "/etc/shadow", "secret")
    os.chmod(m + "/etc/shadow", 0o600)
    os.unlink(m + "/etc/motd")
    os.rename(m + "/etc/hosts", m + "/etc/hosts.old")
    shutil.rmtree(m + "/var/cache")
    os.mkdir(m + "/var/cache")
    write(m + "/var/cache/new", "n")
    shutil.rmtree(m + "/var/log")
    os.symlink("cache", m + "/var/log")
    os.link(m + "/usr/bin/a", m + "/usr/bin/a2")
    os.unlink(m + "/usr/bin/h1")
    append(m + "/usr/bin/h2", "grown")
    setx(m + "/usr/lib", "user.note", "dir")
    setx(m + "/usr/lib/x", "user.note", "file")
    os.mkdir(m + "/home")
    os.mkdir(m + "/home/u")
    write(m + "/home/u/f", "f")
    os.rename(m + "/home/u", m + "/home/v")
    os.mkfifo(m + "/home/p")
    os.utime(m + "/usr/lib/y", ns=(10**18, 10**18 + 5))
    os.truncate(m + "/usr/lib/big", 5)
    renameat2(m + "/usr/bin/b", m + "/usr/bin/c", RENAME_EXCHANGE)
    os.unlink(m + "/opt/only")
    os.rmdir(m + "/opt")
    write(m + "/opt", "a file now")
    os.unlink(m + "/file")
    os.mkdir(m + "/file")


LAYERS = [{"etc": {"passwd": "root\n", "motd": "hi"}, "var": {"cache": {"a": "1"}}, "opt": {"only": ""}},
          {"etc": {"hosts": "127", "motd": "old"}, "var": {"cache": {"b": "2"}, "log": {"l": ""}},
           "usr": {"bin": {"a": File("A", mode=0o755), "b": "B", "c": "C", "h1": "hard", "h2": Hardlink("usr/bin/h1")},
                   "lib": {"x": "", "y": "", "big": "0123456789"}}, "file": "f"}]


@test
def test_the_kernel_sees_what_we_made():
    with Overlay(LAYERS) as ov:
        busy(ov.mnt)
        a = view(ov.mnt)
        ov.remount()
        assert_same(a, view(ov.mnt), "before", "after remount")
        with ov.by_kernel() as k:
            assert_same(a, view(k), "view", "kernel")
        with ov.by_kernel(ro=True) as k:
            assert_same(a, view(k), "view", "kernel, read-only, upper as lower")


@test
def test_we_see_what_the_kernel_made():
    with Overlay(LAYERS, kernel=True) as ov:
        busy(ov.mnt)
        a = view(ov.mnt)
        ov.remount(kernel=IS_KERNEL)
        assert_same(a, view(ov.mnt), "kernel", "view")
        ov.remount_ro()
        assert_same(a, view(ov.mnt), "kernel", "view, read-only, upper as lower")


@test
def test_turns_on_one_upper():
    """We, the kernel, we, the kernel: each changes what the other left."""
    with Overlay(LAYERS) as ov:
        busy(ov.mnt)
        for turn in range(4):
            kernel = IS_KERNEL or turn % 2 == 0
            a = view(ov.mnt)
            ov.remount(kernel=kernel)
            assert_same(a, view(ov.mnt), "before", "after turn %d" % turn)
            m = ov.mnt
            shutil.rmtree(m + "/var")
            os.mkdir(m + "/var")
            os.mkdir(m + "/var/cache")
            write(m + "/var/cache/turn%d" % turn, "t")
            append(m + "/etc/passwd", "turn")
            os.rename(m + "/etc/passwd", m + "/etc/p%d" % turn)
            os.link(m + "/etc/p%d" % turn, m + "/etc/passwd")
            os.unlink(m + "/etc/p%d" % turn)
        eq(names(ov.m("var/cache")), ["turn3"])


@test
def test_we_stack_on_the_kernels_overlay():
    if IS_KERNEL:
        skip("about the kernel below another program")
    with Overlay({"d": {"a": "1", "b": "2"}, "f": "x"}, kernel=True) as below:
        os.unlink(below.m("d/a"))
        with Overlay({}, mount=False) as ov:
            ov.lowers = [below.mnt]
            ov.mount()
            eq(names(ov.m("d")), ["b"])
            append(ov.m("d/b"), "3")
            os.unlink(ov.m("f"))
            ov.remount()
            eq((names(ov.mnt), read(ov.m("d/b"))), (["d"], b"23"))


@test
def test_the_kernels_overlay_stacks_on_us():
    if IS_KERNEL:
        skip("about the kernel on another program")
    with Overlay({"d": {"a": "1", "b": "2"}, "f": "x"}) as below:
        os.unlink(below.m("d/a"))
        with Overlay({}, mount=False, kernel=True) as ov:
            ov.lowers = [below.mnt]
            ov.mount()
            eq(names(ov.m("d")), ["b"])
            append(ov.m("d/b"), "3")
            os.unlink(ov.m("f"))
            ov.remount()
            eq((names(ov.mnt), read(ov.m("d/b"))), (["d"], b"23"))


@test
def test_an_overlay_on_an_overlay_on_an_overlay():
    """Upper and work of the second lie in the first mount, and of the third in the second."""
    if IS_KERNEL:
        skip("the kernel's overlay is no upper for another")
    with Overlay({"f": "x", "d": {"a": ""}}) as one:
        mounts, below = [], one
        try:
            for n in range(2):
                for d in ("u", "w", "m"):
                    os.mkdir(below.m(d))
                ov = Overlay({"f": "x", "d": {"a": ""}}, mount=False)
                shutil.rmtree(ov.upper)
                ov.upper, ov.work = below.m("u"), below.m("w")
                mounts.append(ov)
                ov.mount()
                os.unlink(ov.m("f"))
                shutil.rmtree(ov.m("d"))
                os.mkdir(ov.m("d"))
                write(ov.m("d/new"), "n%d" % n)
                below = ov
            for ov in mounts[::-1]:
                a = tree_snapshot(ov.m("d"))
                ov.umount()
                ov.mount()
                assert_same(a, tree_snapshot(ov.m("d")))
                ok(not exists(ov.m("f")))
                ov.umount()
        finally:
            for ov in mounts[::-1]:
                if ov.mounted:
                    ov.umount()
                ov.cleanup()


if __name__ == "__main__":
    main()
