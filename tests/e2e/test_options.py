#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Each mount option has its effect."""

from ovtest import *

FUSE_ONLY = "options of fuse-overlayfs"


def ids(p):
    return lstat(p).st_uid, lstat(p).st_gid


# --- ids

@test(not_kernel=FUSE_ONLY, ids=True)
def test_uidmapping_and_gidmapping():
    low = {"f": File("x", uid=1000, gid=2000), "r": File("y", uid=1001, gid=2001), "out": File("z", uid=5, gid=5)}
    # on disk : shown as : length
    with Overlay(low, opts="uidmapping=1000:0:1:1001:1:100,gidmapping=2000:0:1:2001:1:100") as ov:
        eq(ids(ov.m("f")), (0, 0))
        eq(ids(ov.m("r")), (1, 1))
        eq(ids(ov.m("out")), (65534, 65534))
        write(ov.m("new"), "n")
        eq((ids(ov.m("new")), ids(ov.u("new"))), ((0, 0), (1000, 2000)))
        os.mkdir(ov.m("d"))
        os.symlink("x", ov.m("s"))
        eq((ids(ov.u("d")), ids(ov.u("s"))), ((1000, 2000),) * 2)
        os.chown(ov.m("f"), 50, 60)
        eq((ids(ov.m("f")), ids(ov.u("f"))), ((50, 60), (1050, 2060)))
        append(ov.m("r"), "!")
        eq((ids(ov.m("r")), ids(ov.u("r"))), ((1, 1), (1001, 2001)), "copy-up keeps the owner on disk")
        fails(errno.EINVAL, os.chown, ov.m("new"), 50000, -1)


@test(not_kernel=FUSE_ONLY, ids=True)
def test_mapping_with_a_leading_colon():
    with Overlay({"f": File("x", uid=1000, gid=1000)},
                 opts="uidmapping=:1000:0:1:0:2000:1000,gidmapping=:1000:0:1:0:2000:1000") as ov:
        eq((ids(ov.m("f")), ids(ov.mnt)), ((0, 0), (2000, 2000)))


@test(not_kernel=FUSE_ONLY, ids=True)
def test_mapping_is_what_permissions_count_by():
    with Overlay({"f": File("x", mode=0o600, uid=1000, gid=1000), "d": Folder({}, mode=0o700, uid=1005)},
                 opts="uidmapping=1000:0:100:0:60000:1,gidmapping=1000:0:100:0:60000:1") as ov:
        eq(as_user(5, 5, lambda: write(ov.m("d/mine"), "m")), None)
        eq((ids(ov.m("d/mine")), ids(ov.u("d/mine"))), ((5, 5), (1005, 1005)))
        fails(errno.EACCES, as_user, 6, 6, read, ov.m("f"))


@test(not_kernel=FUSE_ONLY, ids=True)
def test_mapping_of_acls():
    need("setfacl", "getfacl")
    opts = "uidmapping=1000:0:100:0:60000:1,gidmapping=1000:0:100:0:60000:1"
    with Overlay({"f": File("x", uid=1000, gid=1000)}, opts=opts) as ov:
        run("setfacl", "-m", "u:7:rw", ov.m("f"))
        ok("user:7:rw-" in run("getfacl", "-cnp", ov.m("f")).stdout, "in the view")
        if not IS_OURS:
            return
        ok("user:1007:rw-" in run("getfacl", "-cnp", ov.u("f")).stdout, "on disk")
        ov.remount()
        ok("user:7:rw-" in run("getfacl", "-cnp", ov.m("f")).stdout, "in the view")


@test(not_kernel=FUSE_ONLY, ids=True)
def test_squash_to_root():
    with Overlay({"f": File("x", uid=1000, gid=2000), "d": Folder({"g": ""}, uid=7)}, opts="squash_to_root") as ov:
        eq((ids(ov.m("f")), ids(ov.m("d")), ids(ov.m("d/g"))), ((0, 0),) * 3)
        write(ov.m("n"), "")
        eq((ids(ov.m("n")), ids(ov.u("n"))), ((0, 0),) * 2)
        append(ov.m("f"), "!")
        eq(ids(ov.m("f")), (0, 0))
        with Dir(ov.mnt) as d:
            list(d)
        eq(ids(ov.m("f")), (0, 0))


@test(not_kernel=FUSE_ONLY, ids=True)
def test_squash_to_uid_and_gid():
    with Overlay({"f": File("x", uid=1000, gid=2000), "r": ""}, opts="squash_to_uid=7,squash_to_gid=8") as ov:
        eq((ids(ov.m("f")), ids(ov.m("r"))), ((7, 8),) * 2)
        write(ov.m("n"), "")
        eq(ids(ov.m("n")), (7, 8))
        ov.remount()
        eq(ids(ov.m("n")), (7, 8))


# --- what is shown, what is kept

@test(not_kernel=FUSE_ONLY)
def test_static_nlink():
    with Overlay({"d": {"a": {}, "b": {}}}, opts="static_nlink") as ov:
        os.mkdir(ov.m("n"))
        os.mkdir(ov.m("n/sub"))
        eq((lstat(ov.m("d")).st_nlink, lstat(ov.m("n")).st_nlink, lstat(ov.mnt).st_nlink), (1, 1, 1))


@test(not_kernel=FUSE_ONLY)
def test_noacl():
    need("setfacl")
    with Overlay({"f": "x"}, opts="noacl") as ov:
        p = run("setfacl", "-m", "u:1:r", ov.m("f"), check=False)
        ok(p.returncode != 0 and "not supported" in p.stderr.lower(), p.stderr)
        eq(listx(ov.m("f")), [])
        setx(ov.m("f"), "user.a", "b")
        eq(getx(ov.m("f"), "user.a"), b"b")


@test(not_kernel=FUSE_ONLY)
def test_noxattrs():
    with Overlay({"f": File("x", xattrs={"user.a": "b"})}, opts="noxattrs=1") as ov:
        for p in ("f", ""):
            try:
                eq(listx(ov.m(p)), [])
            except OSError as e:
                eq(e.errno, errno.EOPNOTSUPP)
            fails(errno.EOPNOTSUPP, setx, ov.m(p), "user.a", "c")
            eq(getx(ov.m(p), "user.a"), None)


@test(not_kernel=FUSE_ONLY)
def test_noxattrs_0_leaves_them():
    with Overlay({"f": File("x", xattrs={"user.a": "b"})}, opts="noxattrs=0") as ov:
        eq(getx(ov.m("f"), "user.a"), b"b")


def override(p):
    for n in ("user.containers.override_stat", "security.fuseoverlayfs.override_stat",
              "user.fuseoverlayfs.override_stat"):
        v = getx(p, n)
        if v is not None:
            return n, v.rstrip(b"\0").decode().split(":")
    return None, None


def xattr_permissions(level):
    opts = "xattr_permissions=%d" % level
    key = "user.containers.override_stat" if level == 2 else "security.fuseoverlayfs.override_stat"
    with Overlay({}, {}, opts=opts) as ov:
        write(ov.m("f"), "x")
        os.chown(ov.m("f"), 11, 22)
        os.chmod(ov.m("f"), 0o4711)
        os.mkdir(ov.m("d"), 0o1700)
        os.chown(ov.m("d"), 33, 44)
        write(ov.m("d/g"), "y")
        os.symlink("x", ov.m("s"))
        for _ in range(2):
            st = lstat(ov.m("f"))
            eq((oct(stat.S_IMODE(st.st_mode)), st.st_uid, st.st_gid), (oct(0o4711), 11, 22))
            st = lstat(ov.m("d"))
            eq((oct(stat.S_IMODE(st.st_mode)), st.st_uid, st.st_gid), (oct(0o1700), 33, 44))
            eq(os.readlink(ov.m("s")), "x")
            eq([n for n in listx(ov.m("f")) if "override" in n], [], "hidden")
            ov.remount()
        name, v = override(ov.u("f"))
        eq(name, key)
        eq((v[0], v[1], int(v[2], 8)), ("11", "22", 0o4711))
        if len(v) > 3:
            eq(v[3], "file")
        real = lstat(ov.u("f"))
        eq((real.st_uid, real.st_gid), (0, 0), "the real owner stays")
        ok(not real.st_mode & 0o4000, "the real mode gets no setuid")


@test(not_kernel=FUSE_ONLY, ids=True)
def test_xattr_permissions_2():
    xattr_permissions(2)


@test(modes=("root",), not_kernel=FUSE_ONLY, ids=True)
def test_xattr_permissions_1():
    xattr_permissions(1)


@test(not_kernel=FUSE_ONLY, ids=True)
def test_xattr_permissions_keeps_device_nodes():
    if not IS_OURS:
        skip("differs there")
    with Overlay({}, {}, opts="xattr_permissions=2") as ov:
        os.mkfifo(ov.m("p"), 0o640)
        try:
            os.mknod(ov.m("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.mknod(ov.m("loop"), stat.S_IFBLK | 0o660, os.makedev(7, 5))
            devices = True
        except PermissionError:  # the kernel asks for the capability before it asks us
            devices = False
        for _ in range(2):
            ok(stat.S_ISFIFO(lstat(ov.m("p")).st_mode))
            if devices:
                st = lstat(ov.m("null"))
                eq((stat.S_ISCHR(st.st_mode), st.st_rdev), (True, os.makedev(1, 3)))
                st = lstat(ov.m("loop"))
                eq((stat.S_ISBLK(st.st_mode), st.st_rdev), (True, os.makedev(7, 5)))
            ov.remount()
        if devices:
            ok(stat.S_ISREG(lstat(ov.u("null")).st_mode), "a regular file on disk")
            eq(override(ov.u("null"))[1][3], "char-1-3")


@test(not_kernel=FUSE_ONLY, ids=True)
def test_override_stat_of_a_lower_is_detected():
    """Layers as container tools with force_mask leave them."""
    key = "user.containers.override_stat"

    def low(path):
        populate(path, {"f": File("x", mode=0o700, xattrs={key: "12:34:0640:file"}),
                        "su": File("x", mode=0o700, xattrs={key: "0:0:4755"}),
                        "d": Folder({"g": File("", mode=0o700, xattrs={key: "1:1:0600:file"})}, mode=0o700,
                                    xattrs={key: "5:6:1777:dir"}),
                        "c": File("", mode=0o700, xattrs={key: "0:5:0666:char-1-3"}),
                        "b": File("", mode=0o700, xattrs={key: "0:6:0660:block-7-1"}),
                        "p": File("", mode=0o700, xattrs={key: "0:0:0600:pipe"}),
                        "plain": File("", mode=0o604)})
        setx(path, key, "0:0:0755:dir")
    with Overlay(low) as ov:
        def look(n):
            st = lstat(ov.m(n))
            return st.st_uid, st.st_gid, oct(st.st_mode)
        for when in ("lower", "copied up", "remounted"):
            eq(look("f"), (12, 34, oct(0o100640)), when)
            eq(look("su"), (0, 0, oct(0o104755)), when)
            eq(look("d"), (5, 6, oct(0o41777)), when)
            eq(look("d/g"), (1, 1, oct(0o100600)), when)
            if IS_OURS:
                eq(look("c"), (0, 5, oct(0o20666)), when)
                eq(lstat(ov.m("c")).st_rdev, os.makedev(1, 3), when)
                eq(look("b"), (0, 6, oct(0o60660)), when)
                eq(look("p"), (0, 0, oct(0o10600)), when)
            eq(look("plain")[2], oct(0o100604), when)
            eq(listx(ov.m("f")), [], when)
            if when == "lower":
                append(ov.m("f"), "!")
                append(ov.m("d/g"), "!")
            else:
                ov.remount()


@test(not_kernel=FUSE_ONLY, ids=True)
def test_override_stat_malformed_does_no_harm():
    if not IS_OURS:
        skip("differs there")
    key = "user.containers.override_stat"
    bad = ["", ":", "a:b:c", "0:0", "0:0:99999999", "-1:0:0644", "0:0:0644:what", "0:0:0644:char-1", "0" * 300,
           "0:0:0644:file:more", "4294967296:0:0644"]

    def low(path):
        populate(path, {"f%d" % i: File("x", xattrs={key: b}) for i, b in enumerate(bad)})
        setx(path, key, "0:0:0755:dir")
    with Overlay(low) as ov:
        eq(len(names(ov.mnt)), len(bad))
        for n in names(ov.mnt):
            try:
                lstat(ov.m(n))
                read(ov.m(n))
            except OSError as e:
                ok(e.errno in (errno.EIO, errno.EINVAL), "%s: %s" % (n, e))


# --- caching, syncing, marking

@test(not_kernel=FUSE_ONLY)
def test_timeout_0_asks_every_time():
    with Overlay({"f": "x"}, opts="timeout=0") as ov:
        ok(not exists(ov.m("later")))
        eq(lstat(ov.m("f")).st_mode & 0o777, 0o644)
        if not IS_OURS:
            return
        with Count(ov.mnt) as c:
            for _ in range(10):
                lstat(ov.m("f"))
                exists(ov.m("later"))
        ok(c.total >= 15, c.all)


@test(not_kernel=FUSE_ONLY, tries=4)
def test_timeout_runs_out():
    if not IS_OURS:
        skip("counts messages")
    with Overlay({"f": "x"}, opts="timeout=0.3") as ov:
        lstat(ov.m("f"))
        with Count(ov.mnt) as c:
            lstat(ov.m("f"))
        first = c.total
        time.sleep(0.5)
        with Count(ov.mnt) as c:
            lstat(ov.m("f"))
        ok(c.total > first, "%d, then %d messages" % (first, c.total))


def synced(opts):
    """The fsync-like calls of the daemon for a copy-up and an fsync by a program."""
    need("strace")
    with Overlay({"f": "x"}, opts=opts, mount=False) as ov:
        log = ov.base + "/trace"
        argv = ["strace", "-D", "-f", "-qq", "-o", log, "-e", "trace=fsync,fdatasync,syncfs,sync_file_range"]
        try:
            ov.mount(argv=argv + ov.command(), quiet=True)
        except MountError as e:
            skip("strace cannot trace here: " + e.text[:100])
        append(ov.m("f"), "y")
        fd = os.open(ov.m("f"), os.O_RDWR)
        os.write(fd, b"z")
        os.fsync(fd)
        os.close(fd)
        ov.umount()
        time.sleep(0.2)
        return [ln for ln in read(log).decode().split("\n") if "sync" in ln]


@test(not_kernel=FUSE_ONLY)
def test_fsync_0_never_syncs():
    if not IS_OURS:
        skip("traces our calls")
    eq(synced("fsync=0"), [])


@test(not_kernel=FUSE_ONLY)
def test_fsync_is_passed_on_by_default():
    if not IS_OURS:
        skip("traces our calls")
    ok(len(synced("")) >= 2, "one for the copy-up, one for the caller")


@test
def test_volatile_marks_and_refuses():
    if not IS_OURS and not IS_KERNEL:
        skip("no marker there")
    with Overlay({"f": "x"}, opts="volatile") as ov:
        append(ov.m("f"), "y")
        fd = os.open(ov.m("f"), os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
        marker = ov.w("work", "incompat", "volatile")
        ok(exists(marker), "no marker")
        ov.umount()
        ok(exists(marker), "the marker stays")
        for o in ("volatile", ""):
            try:
                ov.mount(o)
                raise Failed("mounted over the marker")
            except MountError as e:
                ok("volatile" in e.text, "says why: " + e.text)
                eq(len(e.text.splitlines()), 1, "one line: " + e.text)
            except OSError as e:
                ok(IS_KERNEL, e)
        shutil.rmtree(ov.w("work", "incompat"))
        ov.mount("volatile")
        eq(read(ov.m("f")), b"xy")


@test(not_kernel=FUSE_ONLY)
def test_volatile_never_syncs():
    if not IS_OURS:
        skip("traces our calls")
    eq(synced("volatile"), [])


@test
def test_ro():
    with Overlay({"f": "x"}, opts="ro") as ov:
        fails(errno.EROFS, append, ov.m("f"), "y")
        fails(errno.EROFS, os.mkdir, ov.m("d"))
        eq(read(ov.m("f")), b"x")
        ok("ro" in mount_info(ov.mnt)[0].split(","), mount_info(ov.mnt))
        eq(names(ov.upper), [])


@test
def test_mount_flags_are_shown_and_work():
    with Overlay({"f": File("#!/bin/sh\n", mode=0o755)}, opts="noexec,nosuid,nodev,noatime") as ov:
        shown = mount_info(ov.mnt)[0].split(",")
        for o in ("noexec", "nosuid", "nodev", "noatime"):
            ok(o in shown, "%s is not in %r" % (o, shown))
        fails(errno.EACCES, subprocess.run, [ov.m("f")])


@test(modes=("root",), not_kernel=FUSE_ONLY)
def test_dev_and_suid():
    with Overlay({}, opts="dev,suid") as ov:
        shown = mount_info(ov.mnt)[0].split(",")
        ok("nodev" not in shown and "nosuid" not in shown, shown)
        os.mknod(ov.m("zero"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
        with open(ov.m("zero"), "rb") as f:
            eq(f.read(2), b"\0\0")


@test
def test_noatime():
    with Overlay({"f": "x"}, opts="noatime") as ov:
        os.utime(ov.m("f"), ns=(5, 5))
        read(ov.m("f"))
        eq(lstat(ov.m("f")).st_atime_ns, 5)


@test(not_kernel=FUSE_ONLY)
def test_type_in_mounts():
    with Overlay({}) as ov:
        if IS_OURS:
            eq(mount_info(ov.mnt)[1], "fuse." + os.path.basename(ov.command()[0]))


@test(not_kernel=FUSE_ONLY)
def test_options_of_its_users_are_accepted():
    for o in ("writeback=0", "writeback=1", "threaded=0", "threaded=1", "fast_ino=1", "max_idle_threads=4",
              "plugins=", "allow_other", "default_permissions", "xattr_permissions=0", "clone_fd", "lazytime",
              "redirect_dir=off", "xino=auto", "fsync=1", "timeout=1.5", "private", "context=\"a:b:c\"",
              "nonsense", "nonsense=1", "auto_unmount", "rw"):
        with Overlay({"f": "x"}, opts=o, mount=False) as ov:
            if not IS_OURS and o.startswith(("rw", "private", "nonsense", "fsync", "xino", "plugins", "context")):
                continue
            if o == "auto_unmount" and not shutil.which("fusermount3"):
                continue
            try:
                ov.mount()
            except MountError as e:
                if o.startswith("context") and not os.path.exists("/sys/fs/selinux"):
                    continue  # the kernel refuses it
                raise Failed("%s: %s" % (o, e.text))
            eq(read(ov.m("f")), b"x", o)
            append(ov.m("f"), "y")
            eq(read(ov.m("f")), b"xy", o)
            if o.startswith("nonsense") and IS_OURS:
                ok("nonsense" in ov.output, "no warning: %r" % ov.output)


@test(not_kernel=FUSE_ONLY)
def test_writeback_0_writes_through():
    if not IS_OURS:
        skip("counts messages")
    with Overlay({}, opts="writeback=0") as ov:
        with open(ov.m("f"), "wb", buffering=0) as f:
            with Count(ov.mnt) as c:
                for _ in range(10):
                    f.write(b"x" * 4096)
            ok(c["WRITE"] >= 10, c.all)
            eq(lstat(ov.u("f")).st_size, 40960)


@test(not_kernel=FUSE_ONLY)
def test_bad_values_are_refused_in_one_line():
    if not IS_OURS:
        skip("differs there")
    for o in ("uidmapping=1:2", "uidmapping=a:b:c", "gidmapping=0:0:0", "squash_to_uid=x", "xattr_permissions=7",
              "redirect_dir=perhaps", "timeout=soon", "uidmapping=0:0:10:5:100:10"):
        with Overlay({}, opts=o, mount=False) as ov:
            try:
                ov.mount()
            except MountError as e:
                ok(e.rc > 0, o)
                eq(len(e.text.splitlines()), 1, "%s: one line, not %r" % (o, e.text))
                ok(o.split("=")[0] in e.text, "%s is not named: %s" % (o, e.text))
            else:
                raise Failed(o + " was accepted")


@test
def test_redirect_dir_off_and_nofollow_give_exdev():
    for o in ("", "redirect_dir=off", "redirect_dir=nofollow", "redirect_dir=follow"):
        if IS_KERNEL and not is_root_mode() and o not in ("", "redirect_dir=nofollow"):
            continue
        if not IS_OURS and not IS_KERNEL and o not in ("", "redirect_dir=off"):
            continue
        with Overlay({"d": {"f": ""}}, opts=o) as ov:
            fails(errno.EXDEV, os.rename, ov.m("d"), ov.m("e"))
            os.mkdir(ov.m("n"))
            os.rename(ov.m("n"), ov.m("o"))
            eq(names(ov.mnt), ["d", "o"])


@test
def test_quick_remounts():
    """As start and stop of a container does: unmount, then mount at once, without waiting for the daemon."""
    with Overlay({"f": "x"}) as ov:
        for i in range(8):
            append(ov.m("f"), str(i))
            ov.umount(wait=False)
            old = ov.daemons
            ov.mount()
            ov.daemons |= old
        eq(read(ov.m("f")), b"x01234567")


if __name__ == "__main__":
    main()
