#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults found in other user-space overlays, each one tried here; and the stores that they leave, read."""

from ovtest import *
import array

PEER = "/usr/bin/fuse-overlayfs"


@test
def test_writes_never_land_in_the_lower_while_a_reader_is_open():
    with Overlay({"f": File(b"low" * 5000)}) as ov:
        r = os.open(ov.m("f"), os.O_RDONLY)
        os.pread(r, 10, 0)
        w = os.open(ov.m("f"), os.O_RDWR)
        os.pwrite(w, b"UP", 0)
        os.ftruncate(w, 100)
        os.fsync(w)
        eq(read(ov.l("f")), b"low" * 5000)
        eq(read(ov.u("f"))[:4], b"UPwl")
        os.close(r)
        os.close(w)


@test
def test_rm_and_mkdir_at_the_root_stays_empty_after_remount():
    with Overlay([{"d": {"old": "x"}}, {"d": {"older": "y"}}]) as ov:
        shutil.rmtree(ov.m("d"))
        os.mkdir(ov.m("d"))
        for _ in range(2):
            eq(names(ov.m("d")), [])
            ov.remount()
        ov.stack_up()
        eq(names(ov.m("d")), [])


@test
def test_leftovers_in_workdir_do_no_harm():
    """What a killed daemon leaves: files and directories with all likely names."""
    with Overlay({"f": "x" * 100, "d": {"g": "y"}}, mount=False) as ov:
        os.makedirs(ov.w("work"))
        for i in range(20):
            for n in ("%d" % i, "#%x" % i, "tmp%d" % i, "%d.tmp" % i):
                write(ov.w("work", n), "stale tail " * 1000)
            os.mkdir(ov.w("work", "dir%d" % i))
            write(ov.w("work", "dir%d" % i, "x"), "")
        os.mkdir(ov.w("work", "locked"))
        os.chmod(ov.w("work", "locked"), 0)
        ov.mount()
        append(ov.m("f"), "!")
        eq(read(ov.m("f")), b"x" * 100 + b"!")
        for i in range(20):
            os.mkdir(ov.m("n%d" % i))
            write(ov.m("n%d/f" % i), str(i))
        os.unlink(ov.m("d/g"))
        eq(read(ov.u("f")), b"x" * 100 + b"!")
        if IS_OURS or IS_KERNEL:
            left = [n for n in names(ov.w("work")) if not stat.S_ISCHR(lstat(ov.w("work", n)).st_mode)]
            eq(left, [], "emptied at mount")


@test
def test_open_unlinked_file_keeps_working():
    with Overlay({"low": "data", "other": "o"}) as ov:
        write(ov.m("new"), "data")
        for n in ("low", "new"):
            for how in ("unlink", "rename"):
                fd = os.open(ov.m(n), os.O_RDWR)
                if how == "unlink":
                    os.unlink(ov.m(n))
                else:
                    write(ov.m("t"), "t")
                    os.rename(ov.m("t"), ov.m(n))
                eq(os.fstat(fd).st_nlink, 0, n + " " + how)
                os.ftruncate(fd, 2)
                os.fchmod(fd, 0o600)
                os.fchown(fd, 0, 0)
                eq((os.fstat(fd).st_size, oct(os.fstat(fd).st_mode & 0o777)), (2, oct(0o600)))
                eq(os.pread(fd, 10, 0), b"da")
                os.close(fd)
                write(ov.m(n), "data")


@test
def test_exchange_of_two_lower_files():
    with Overlay({"a": "A", "b": "B", "d": {"c": "C"}}) as ov:
        renameat2(ov.m("a"), ov.m("b"), RENAME_EXCHANGE)
        renameat2(ov.m("a"), ov.m("d/c"), RENAME_EXCHANGE)
        for _ in range(2):
            eq((read(ov.m("a")), read(ov.m("b")), read(ov.m("d/c"))), (b"C", b"A", b"B"))
            ov.remount()


@test(ids=True)
def test_setuid_falls_on_write_in_view_and_on_disk():
    with Overlay({"f": File("x", mode=0o4777, uid=5)}) as ov:
        as_user(1000, 1000, append, ov.m("f"), "y")
        eq((oct(lstat(ov.m("f")).st_mode & 0o7777), oct(lstat(ov.u("f")).st_mode & 0o7777)), (oct(0o777),) * 2)


@test
def test_file_flags():
    with Overlay({"f": "x", "d": {}}) as ov:
        try:
            get_flags(ov.l("f"))
        except OSError:
            skip("the layer has none")
        for n in ("f", "d"):
            fl = get_flags(ov.m(n))
            set_flags(ov.m(n), fl | FS_NODUMP_FL)
            ok(get_flags(ov.m(n)) & FS_NODUMP_FL, n)
            fd = os.open(ov.m(n), os.O_RDONLY)
            b = array.array("B", b"\0" * 28)
            fcntl.ioctl(fd, FS_IOC_FSGETXATTR, b, True)
            ok(struct.unpack_from("I", b, 0)[0] & 0x80, "FS_XFLAG_NODUMP by FSGETXATTR")
            os.close(fd)
        ok(not get_flags(ov.l("f")) & FS_NODUMP_FL)


@test(not_kernel="it knows nothing of .wh. files")
def test_oci_whiteout_in_a_middle_layer_below_an_upper_directory():
    with Overlay([{"d": {".wh.a": ""}}, {"d": {"a": {"deep": "x"}}}], {"d": {"a": {"mine": "y"}}}) as ov:
        eq(names(ov.m("d/a")), ["mine"])


@test
def test_creating_a_wh_name():
    with Overlay({"x": "low"}) as ov:
        if not IS_OURS and not IS_KERNEL:
            skip("refused there")
        write(ov.m(".wh.x"), "mine")
        write(ov.m(".wh.nothing"), "")
        for _ in range(2):
            eq(names(ov.mnt), [".wh.nothing", ".wh.x", "x"])
            eq((read(ov.m(".wh.x")), read(ov.m("x"))), (b"mine", b"low"))
            ov.remount()


@test
def test_kernel_overlay_stacks_on_top():
    if IS_KERNEL:
        skip("about the kernel on another program")
    with Overlay({"low": "x", "d": {"g": "z"}}) as ov:
        for n in ("ku", "kw"):
            os.mkdir(ov.m(n))
        top = ov._mkdir("top")
        try:
            kernel_mount(top, [ov.m("d")], ov._mkdir("u2"), ov._mkdir("w2"))
        except OSError as e:
            raise Failed("as a lower of the kernel's: %s" % e)
        eq(read(top + "/g"), b"z")
        append(top + "/g", "!")
        eq(read(top + "/g"), b"z!")
        umount2(top)


@test
def test_kernel_overlay_with_its_upper_on_top():
    """Its upper and work directory inside the mount: it needs d_type, xattrs, whiteouts, tmpfiles."""
    if IS_KERNEL:
        skip("about the kernel on another program")
    with Overlay({"low": {"f": "x", "g": "y"}}) as ov:
        for n in ("u", "w"):
            os.mkdir(ov.m(n))
        top = ov._mkdir("top")
        try:
            kernel_mount(top, [ov.m("low")], ov.m("u"), ov.m("w"))
        except OSError as e:
            if e.errno == errno.EINVAL:
                skip("the kernel takes no upper that revalidates names")
            raise
        os.unlink(top + "/f")
        umount2(top)


@test
def test_one_of_several_lower_links_reads_right_after_remount():
    with Overlay({"a": "one", "b": Hardlink("a"), "c": Hardlink("a")}) as ov:
        read(ov.m("b"))
        append(ov.m("a"), " changed")
        for _ in range(2):
            eq([read(ov.m(n)) for n in "abc"], [b"one changed", b"one", b"one"])
            ov.remount()


@test
def test_stale_pages_never_come_back():
    """A reader from before copy-up, a rewrite, eviction, a read by the old reader, a small write."""
    old, new = b"o" * 65536, b"n" * 65536
    with Overlay({"db": File(old)}) as ov:
        a = os.open(ov.m("db"), os.O_RDONLY)
        eq(os.pread(a, 4096, 0), old[:4096])
        b = os.open(ov.m("db"), os.O_RDWR)
        os.pwrite(b, new, 0)
        os.fsync(b)
        os.posix_fadvise(b, 0, 0, os.POSIX_FADV_DONTNEED)
        if is_root_mode():
            drop_caches()
        eq(os.pread(a, 4096, 8192), new[:4096])
        os.pwrite(b, b"0123456789", 8192)
        os.fsync(b)
        want = new[:8192] + b"0123456789" + new[8202:]
        eq(read(ov.u("db")), want, "upper")
        eq(read(ov.l("db")), old, "lower")
        eq(os.pread(a, 65536, 0), want, "the old reader")
        os.close(a)
        os.close(b)
        ov.remount()
        eq(read(ov.m("db")), want)


def fill(m):
    """A store with all that leaves marks."""
    os.unlink(m + "/gone")
    shutil.rmtree(m + "/redone")
    os.mkdir(m + "/redone")
    write(m + "/redone/new", "n")
    append(m + "/grown", "more")
    os.rename(m + "/from", m + "/to")
    os.unlink(m + "/keep/part")
    write(m + "/keep/added", "a")
    os.symlink("grown", m + "/link")
    os.mkdir(m + "/fresh")
    write(m + "/fresh/x", "x")


STORE = [{"gone": "g", "redone": {"old1": "", "sub": {"deep": ""}}, "grown": "g", "from": "f"},
         {"redone": {"old2": ""}, "keep": {"part": "", "rest": ""}, "gone": "below"}]


def plain(path):
    return tree_snapshot(path, times=False, nlink=False)


def peer():
    if not os.access(PEER, os.X_OK):
        skip("fuse-overlayfs is not installed")


@test
def test_our_store_reads_the_same_in_the_kernel():
    with Overlay(STORE) as ov:
        fill(ov.mnt)
        a = plain(ov.mnt)
        with ov.by_kernel() as k:
            assert_same(a, plain(k), "view", "kernel")
            ok(not any(".wh." in n for n in plain(k)))


@test(only_ours="a store of fuse-overlayfs read by us")
def test_a_store_of_fuse_overlayfs_reads_right():
    peer()
    with Overlay(STORE, program=PEER) as ov:
        fill(ov.mnt)
        a = plain(ov.mnt)
        ov.remount(program=None)
        assert_same(a, plain(ov.mnt), "theirs", "ours")
        ov.stack_up()
        assert_same(a, plain(ov.mnt), "theirs", "ours, as a lower")
        fill_more(ov)
        b = plain(ov.mnt)
        ov.remount()
        assert_same(b, plain(ov.mnt))


def fill_more(ov):
    shutil.rmtree(ov.m("redone"))
    os.mkdir(ov.m("redone"))
    write(ov.m("gone"), "back")
    os.unlink(ov.m("link"))


@test(only_ours="a store of fuse-overlayfs read by us")
def test_a_store_of_fuse_overlayfs_with_wh_files_reads_right():
    peer()
    env = dict(os.environ, FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT="1")
    with Overlay(STORE, program=PEER, env=env) as ov:
        fill(ov.mnt)
        ok(exists(ov.u(".wh.gone")), names(ov.upper))
        a = plain(ov.mnt)
        ov.remount(program=None)
        assert_same(a, plain(ov.mnt), "theirs", "ours")
        write(ov.m("gone"), "back")
        os.unlink(ov.m("keep/rest"))
        os.mkdir(ov.m("from"))
        b = plain(ov.mnt)
        ov.remount()
        assert_same(b, plain(ov.mnt))
        ov.stack_up()
        assert_same(b, plain(ov.mnt))


@test(only_ours="our store read by fuse-overlayfs")
def test_our_store_reads_right_in_fuse_overlayfs():
    peer()
    with Overlay(STORE) as ov:
        fill(ov.mnt)
        a = plain(ov.mnt)
        ov.remount(program=PEER)
        b = plain(ov.mnt)
        for s in (a, b):
            for k in list(s):
                s[k] = {x: v for x, v in s[k].items() if not x.startswith("x:")}
        assert_same(a, b, "ours", "theirs")


@test
def test_dotdot_in_the_root_listing():
    with Overlay({"f": ""}) as ov:
        with Dir(ov.mnt) as d:
            eq(sorted(n for n, _, _ in d), [".", "..", "f"])


@test
def test_unlink_of_a_big_lower_file_copies_nothing():
    def big(p):
        with open(p + "/big", "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 256 << 20)
        os.chmod(p + "/big", 0o644)
    with Overlay(big) as ov:
        before = Statfs(ov.base).bfree * Statfs(ov.base).bsize
        fd = os.open(ov.m("big"), os.O_RDONLY)
        os.unlink(ov.m("big"))
        eq(os.pread(fd, 4, 1 << 20), b"\0" * 4)
        ok(before - Statfs(ov.base).bfree * Statfs(ov.base).bsize < 200 << 20, "space was taken")
        os.close(fd)


@test
def test_truncating_a_big_lower_file_copies_nothing():
    def big(p):
        with open(p + "/big", "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 256 << 20)
    with Overlay(big) as ov:
        write(ov.m("big"), "short")
        ok(lstat(ov.u("big")).st_blocks * 512 < 1 << 20)
        eq(read(ov.m("big")), b"short")


@test
def test_copy_up_of_a_sparse_file_stays_sparse():
    def sparse(p):
        with open(p + "/f", "wb") as f:
            f.truncate(64 << 20)
            f.seek(40 << 20)
            f.write(b"in the middle")
            f.truncate(64 << 20)
    with Overlay(sparse) as ov:
        os.chmod(ov.m("f"), 0o600)
        append(ov.m("f"), "end")
        os.sync()
        ok(lstat(ov.u("f")).st_blocks * 512 < 4 << 20, lstat(ov.u("f")).st_blocks)
        eq(lstat(ov.m("f")).st_size, (64 << 20) + 3)


@test
def test_copy_up_makes_symlinks_whole():
    with Overlay({"s": Sym("target", mtime=10**18)}) as ov:
        os.rename(ov.m("s"), ov.m("t"))
        eq((os.readlink(ov.u("t")), lstat(ov.u("t")).st_mtime_ns), ("target", 10**18))


@test
def test_tmpfile_seek_hole_and_direct():
    with Overlay({"f": File(b"x" * 8192)}) as ov:
        try:
            fd = os.open(ov.mnt, os.O_TMPFILE | os.O_RDWR, 0o600)
            os.close(fd)
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise
            if not IS_OURS:
                raise
        fd = os.open(ov.m("f"), os.O_RDONLY)
        eq(os.lseek(fd, 0, os.SEEK_HOLE), 8192)
        os.close(fd)
        fd = os.open(ov.m("f"), os.O_RDWR | os.O_DIRECT)
        ok(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)
        os.close(fd)


def one_getdents(path):
    """{name: d_type} by a single system call, which no rename on the same directory interrupts."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    buf = ctypes.create_string_buffer(32768)
    n = libc.syscall(217 if os.uname().machine == "x86_64" else 61, fd, buf, 32768)  # getdents64
    os.close(fd)
    out, at = {}, 0
    while at < n:
        reclen, kind = struct.unpack_from("=HB", buf, at + 16)
        name = buf.raw[at + 19:at + reclen].split(b"\0")[0].decode()
        out[name] = kind
        at += reclen
    return {k: v for k, v in out.items() if k not in (".", "..")}


@test
def test_rename_of_a_lower_file_is_one_step_on_disk():
    """The new name and the whiteout of the old one come together: never both names in the view, never none."""
    with Overlay({"a": "x"}) as ov:
        pid = os.fork()
        if pid == 0:
            try:
                for i in range(2000):
                    a, b = ("a", "b") if i % 2 == 0 else ("b", "a")
                    os.rename(ov.m(a), ov.m(b))
            finally:
                os._exit(0)
        seen = set()
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            d = one_getdents(ov.upper)
            seen.add(tuple(sorted(n + (" whiteout" if t == 2 else " file" if t == 8 else " type %d" % t)
                                  for n, t in d.items())))
        good = {(), ("a file",), ("a file", "b whiteout"), ("a whiteout", "b file")}
        eq(seen - good, set(), "states of upper")
        ov.remount()
        eq(len(names(ov.mnt)), 1)


@test
def test_formats_that_they_do_not_know():
    if not IS_OURS and not IS_KERNEL:
        skip("not known there")
    mid = {"d": Folder({"gone": File("", xattrs={"OVL.whiteout": ""})}, xattrs={"OVL.opaque": "x"})}
    with Overlay([{}, mid, {"d": {"gone": "", "kept": ""}}]) as ov:
        eq(names(ov.m("d")), ["kept"])


@test(modes=("root",))
def test_a_metacopy_file_never_reads_as_zeros():
    """One made by the kernel: its data, or an error."""
    if not IS_OURS and not IS_KERNEL:
        skip("not known there")
    with Overlay({"f": File("data" * 3000)}, opts="metacopy=on", kernel=True) as ov:
        os.chmod(ov.m("f"), 0o600)
        ok(getx(ov.u("f"), "trusted.overlay.metacopy") is not None)
        ov.remount("", kernel=IS_KERNEL) if IS_OURS else ov.remount("metacopy=on")
        try:
            eq(read(ov.m("f")), b"data" * 3000)
        except OSError as e:
            ok(e.errno in (errno.EIO, errno.EPERM), e)


@test
def test_fsync_of_one_does_not_hold_up_others():
    """While one process writes and syncs, another goes on (no time is asserted, only that both end)."""
    with Overlay({"f": "x", "g": File(b"y" * (8 << 20))}) as ov:
        def sync():
            for i in range(10):
                fd = os.open(ov.m("g"), os.O_RDWR)
                os.pwrite(fd, os.urandom(1 << 20), i << 19)
                os.fsync(fd)
                os.close(fd)
        pid = os.fork()
        if pid == 0:
            try:
                sync()
            finally:
                os._exit(0)
        n = 0
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            append(ov.m("f"), ".")
            n += 1
        eq(len(read(ov.m("f"))), n + 1)


@test
def test_namelen_and_type():
    with Overlay({}) as ov:
        eq(Statfs(ov.mnt).namelen, Statfs(ov.upper).namelen)
        if IS_OURS:
            eq(mount_info(ov.mnt)[1], "fuse." + os.path.basename(ov.command()[0]))


@test(only_ours="about the daemon")
def test_daemon_killed_leaves_a_store_that_mounts():
    with Overlay({"f": "x", "d": {"g": "y"}}) as ov:
        append(ov.m("f"), "!")
        os.unlink(ov.m("d/g"))
        shutil.rmtree(ov.m("d"))
        os.mkdir(ov.m("d"))
        os.sync()
        ov.kill_daemon()
        umount2(ov.mnt, MNT_DETACH)
        ov.mounted = False
        ov.wait_daemon()
        ov.mount()
        eq((names(ov.mnt), names(ov.m("d")), read(ov.m("f"))), (["d", "f"], [], b"x!"))


if __name__ == "__main__":
    main()
