#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Hard links and inode numbers."""

from ovtest import *

LINKED = {"a": "x", "b": Hardlink("a"), "d/c": Hardlink("a"), "single": "s"}


def ino(p):
    return lstat(p).st_ino


def nlink(p):
    return lstat(p).st_nlink


@test
def test_lower_hard_links_are_shown():
    with Overlay(LINKED) as ov:
        for n in ("a", "b", "d/c"):
            eq(nlink(ov.m(n)), 3, n)
        eq(len({ino(ov.m(n)) for n in ("a", "b", "d/c")}), 1)
        ok(ino(ov.m("single")) != ino(ov.m("a")))


@test
def test_copy_up_breaks_a_lower_link_in_the_view_as_on_disk():
    with Overlay(LINKED) as ov:
        for n in ("a", "b", "d/c"):
            read(ov.m(n))
        append(ov.m("a"), "y")
        for when in ("at once", "after remount"):
            eq([read(ov.m(n)) for n in ("a", "b", "d/c")], [b"xy", b"x", b"x"], when)
            eq(nlink(ov.m("a")), 1, when)
            ok(nlink(ov.m("b")) in (2, 3), when)
            eq(len(names(ov.upper)), 1, when)
            ov.remount()


@test
def test_broken_links_do_not_look_linked():
    """Whoever finds hard links by number (tar, rsync, image commit) must not find one where the contents differ."""
    with Overlay(LINKED) as ov:
        append(ov.m("a"), "y")
        for when in ("at once", "after remount"):
            a, b = lstat(ov.m("a")), lstat(ov.m("b"))
            ok(a.st_nlink == 1 or a.st_ino != b.st_ino, "%s: %d/%d and %d/%d" % (
                when, a.st_ino, a.st_nlink, b.st_ino, b.st_nlink))
            ov.remount()


@test
def test_metadata_copy_up_breaks_it_too():
    with Overlay(LINKED) as ov:
        os.chmod(ov.m("b"), 0o600)
        for when in ("at once", "after remount"):
            eq([oct(stat.S_IMODE(lstat(ov.m(n)).st_mode)) for n in ("a", "b", "d/c")],
               [oct(0o644), oct(0o600), oct(0o644)], when)
            ov.remount()


@test
def test_each_alias_copied_up_by_itself():
    with Overlay(LINKED) as ov:
        for n in ("a", "b", "d/c"):
            append(ov.m(n), n)
        for _ in range(2):
            eq([read(ov.m(n)) for n in ("a", "b", "d/c")], [b"xa", b"xb", b"xd/c"])
            eq([nlink(ov.m(n)) for n in ("a", "b", "d/c")], [1, 1, 1])
            ov.remount()


@test
def test_open_fd_of_an_alias_keeps_its_content():
    with Overlay(LINKED) as ov:
        fd = os.open(ov.m("b"), os.O_RDWR)
        append(ov.m("a"), "y")
        eq(os.pread(fd, 10, 0), b"x")
        os.pwrite(fd, b"z", 1)
        os.close(fd)
        eq((read(ov.m("a")), read(ov.m("b")), read(ov.m("d/c"))), (b"xy", b"xz", b"x"))


@test
def test_unlink_of_an_alias():
    with Overlay(LINKED) as ov:
        os.unlink(ov.m("a"))
        eq((read(ov.m("b")), read(ov.m("d/c"))), (b"x", b"x"))
        ok(exists(ov.l("a")))
        append(ov.m("b"), "y")
        ov.remount()
        eq((names(ov.mnt), read(ov.m("b")), read(ov.m("d/c"))), (["b", "d", "single"], b"xy", b"x"))


@test
def test_link_to_a_lower_file():
    with Overlay({"f": "x", "d": {}}) as ov:
        n = ino(ov.m("f"))
        os.link(ov.m("f"), ov.m("d/g"))
        for _ in range(2):
            eq((nlink(ov.m("f")), nlink(ov.m("d/g"))), (2, 2))
            append(ov.m("d/g"), "y")
            eq(read(ov.m("f")), read(ov.m("d/g")))
            if not (IS_KERNEL and not is_root_mode()):
                eq((ino(ov.m("f")), ino(ov.m("d/g"))), (n, n))
            ov.remount()
        eq(ino(ov.u("f")), ino(ov.u("d/g")), "linked on disk")
        eq(read(ov.m("f")), b"xyy")


@test
def test_name_found_after_the_known_one_is_gone():
    """An open file whose name is removed is the same file as another name of it that is looked up only then."""
    with Overlay({}) as ov:
        os.mkdir(ov.m("d"))
        write(ov.m("a"), "1")
        os.link(ov.m("a"), ov.m("d/b"))
        ov.remount()
        fd = os.open(ov.m("a"), os.O_RDWR)
        os.unlink(ov.m("a"))
        eq(nlink(ov.m("d/b")), 1)
        os.pwrite(fd, b"22", 0)
        eq(read(ov.m("d/b")), b"22")
        os.link(ov.m("d/b"), ov.m("c"))
        eq((os.fstat(fd).st_nlink, nlink(ov.m("c"))), (2, 2))
        os.unlink(ov.m("d/b"))
        os.pwrite(fd, b"333", 0)
        eq(read(ov.m("c")), b"333")
        os.close(fd)
        os.rename(ov.m("c"), ov.m("d/e"))
        eq(read(ov.m("d/e")), b"333")


@test
def test_links_of_new_files():
    with Overlay({}) as ov:
        write(ov.m("a"), "1")
        os.mkdir(ov.m("d"))
        for i, n in enumerate(("b", "d/c", "e")):
            os.link(ov.m("a"), ov.m(n))
            eq([nlink(ov.m(x)) for x in ["a", "b", "d/c", "e"][:i + 2]], [i + 2] * (i + 2))
        fd = os.open(ov.m("b"), os.O_RDWR)
        os.unlink(ov.m("a"))
        eq([nlink(ov.m(x)) for x in ("b", "d/c", "e")], [3] * 3)
        eq(os.fstat(fd).st_nlink, 3)
        os.chmod(ov.m("d/c"), 0o600)
        eq(oct(os.fstat(fd).st_mode & 0o777), oct(0o600))
        os.write(fd, b"22")
        eq(read(ov.m("e")), b"22")
        os.unlink(ov.m("b"))
        os.rename(ov.m("e"), ov.m("f"))
        eq(os.fstat(fd).st_nlink, 2)
        os.unlink(ov.m("d/c"))
        eq(os.fstat(fd).st_nlink, 1)
        os.unlink(ov.m("f"))
        eq(os.fstat(fd).st_nlink, 0)
        os.close(fd)


@test
def test_links_come_and_go_while_others_ask():
    """Each name that goes is one less, also when somebody is told the link count in the same moment: it never becomes 0."""
    def link_and_unlink(w):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            os.link(ov.m("d/first"), ov.m("d%d/l" % w))
            os.unlink(ov.m("d%d/l" % w))

    def replace(w):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            os.link(ov.m("d/first"), ov.m("d%d/l" % w))
            write(ov.m("d%d/new" % w), "")
            os.rename(ov.m("d%d/new" % w), ov.m("d%d/l" % w))
            os.unlink(ov.m("d%d/l" % w))

    def ask(w):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            os.close(os.open(ov.m("d/first"), os.O_RDONLY))  # after that the kernel asks us
            ok(1 <= lstat(ov.m("d/first")).st_nlink <= 4, "link count")

    with Overlay({"d0": {}, "d1": {}}, {"d": {"first": "f"}, "d2": {}}) as ov:
        pids = []
        for w, fn in enumerate((link_and_unlink, link_and_unlink, replace, ask, ask)):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    fn(w)
                    code = 0
                except OSError as e:
                    code = e.errno
                finally:
                    os._exit(code)
            pids.append(pid)
        eq([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], [0] * len(pids), "errno of each")
        eq(lstat(ov.m("d/first")).st_nlink, 1)


@test
def test_links_in_upper_share_everything():
    with Overlay({}, {"a": "1", "b": Hardlink("a")}) as ov:
        a, b = os.open(ov.m("a"), os.O_RDWR), os.open(ov.m("b"), os.O_RDWR)
        os.pwrite(a, b"via a", 0)
        eq(os.pread(b, 10, 0), b"via a")
        os.pwrite(b, b"via b and longer", 0)
        eq(os.pread(a, 100, 0), b"via b and longer")
        eq(lstat(ov.m("a")).st_size, 16)
        fcntl.flock(a, fcntl.LOCK_EX)
        fails(errno.EAGAIN, fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.chmod(ov.m("a"), 0o600)
        eq(oct(lstat(ov.m("b")).st_mode & 0o777), oct(0o600))
        setx(ov.m("b"), "user.x", "y")
        eq(getx(ov.m("a"), "user.x"), b"y")
        os.truncate(ov.m("b"), 3)
        eq(lstat(ov.m("a")).st_size, 3)
        eq(ino(ov.m("a")), ino(ov.m("b")))
        os.close(a)
        os.close(b)


@test
def test_other_link_of_an_open_file_whose_name_went():
    """Names that were not looked up before the first one went, two of them and one."""
    def up(root):
        for d in ("a", "b", "c"):
            os.mkdir(os.path.join(root, d))
        for n, others in (("three", ("b/three", "c/three")), ("two", ("b/two",))):
            write(os.path.join(root, "a", n), "data")
            for o in others:
                os.link(os.path.join(root, "a", n), os.path.join(root, o))
        write(os.path.join(root, "new"), "new")

    for gone in (os.unlink, lambda p: os.rename(os.path.join(os.path.dirname(p), "../new"), p)):
        for n, others in (("three", ("b/three", "c/three")), ("two", ("b/two",))):
            with Overlay({}, up) as ov:
                fd = os.open(ov.m("a", n), os.O_RDWR)
                gone(ov.m("a", n))
                eq(os.fstat(fd).st_nlink, len(others))
                for o in others:
                    eq(read(ov.m(o)), b"data", o)
                    eq(lstat(ov.m(o)).st_ino, os.fstat(fd).st_ino)
                os.pwrite(fd, b"DATA", 0)
                eq([read(ov.m(o)) for o in others], [b"DATA"] * len(others), "one file still")
                os.chmod(ov.m(others[0]), 0o600)
                eq(stat.S_IMODE(os.fstat(fd).st_mode), 0o600)
                os.link(ov.m(others[0]), ov.m("linked"))
                os.rename(ov.m(others[0]), ov.m("a/moved"))
                for o in ("a/moved", "linked") + others[1:]:
                    eq(read(ov.m(o)), b"DATA", o)
                for o in ("a/moved", "linked") + others[1:]:
                    os.unlink(ov.m(o))
                eq(os.pread(fd, 9, 0), b"DATA")
                eq(os.fstat(fd).st_nlink, 0)
                os.close(fd)


@test
def test_link_count_falls_when_an_alias_is_overwritten():
    with Overlay({}, {"a": "1", "b": Hardlink("a"), "c": "2"}) as ov:
        eq(nlink(ov.m("b")), 2)
        os.rename(ov.m("c"), ov.m("a"))
        eq((nlink(ov.m("b")), nlink(ov.m("a"))), (1, 1))
        eq((read(ov.m("a")), read(ov.m("b"))), (b"2", b"1"))


@test
def test_link_refusals():
    with Overlay({"f": "x", "g": "y", "d": {}}) as ov:
        fails(errno.EEXIST, os.link, ov.m("f"), ov.m("g"))
        fails(errno.EPERM, os.link, ov.m("d"), ov.m("e"))
        fails(errno.ENOENT, os.link, ov.m("none"), ov.m("e"))
        fails(errno.ENOENT, os.link, ov.m("f"), ov.m("none/e"))
        fd = os.open(ov.m("f"), os.O_RDONLY)
        os.unlink(ov.m("f"))
        fails(errno.ENOENT, link_fd, fd, ov.m("again"))
        os.close(fd)
        eq(names(ov.mnt), ["d", "g"])


@test
def test_link_to_a_symlink_and_a_fifo():
    with Overlay({"s": Sym("t"), "p": Fifo()}) as ov:
        linkat(AT_FDCWD, ov.m("s"), AT_FDCWD, ov.m("s2"), 0)
        os.link(ov.m("p"), ov.m("p2"))
        for _ in range(2):
            eq(os.readlink(ov.m("s2")), "t")
            eq((nlink(ov.m("s")), nlink(ov.m("p2"))), (2, 2))
            ov.remount()


@test
def test_link_over_a_whiteout():
    with Overlay({"f": "x", "gone": "y"}) as ov:
        os.unlink(ov.m("gone"))
        os.link(ov.m("f"), ov.m("gone"))
        for _ in range(2):
            eq((read(ov.m("gone")), nlink(ov.m("f"))), (b"x", 2))
            ov.remount()


@test(ids=True)
def test_link_by_another_user():
    with Overlay({"f": File("x", mode=0o666, uid=1000), "d": Folder({}, mode=0o777)}) as ov:
        as_user(1000, 1000, os.link, ov.m("f"), ov.m("d/mine"))
        eq((lstat(ov.m("d/mine")).st_uid, nlink(ov.m("f"))), (1000, 2))


@test
def test_inode_number_survives_copy_up():
    spec = {"f": "x", "d": {"g": "y"}, "s": Sym("t"), "p": Fifo()}
    with Overlay(spec) as ov:
        before = {n: ino(ov.m(n)) for n in ("f", "d", "d/g", "s", "p")}
        O_PATH = 0o10000000  # held, since symlinks and fifos carry no user xattr to remember the number in
        held = [os.open(ov.m(n), O_PATH | os.O_NOFOLLOW) for n in before]
        append(ov.m("f"), "!")
        os.chmod(ov.m("d/g"), 0o600)
        os.chmod(ov.m("d"), 0o700)
        os.utime(ov.m("s"), follow_symlinks=False)
        os.chmod(ov.m("p"), 0o600)
        eq({n: ino(ov.m(n)) for n in before}, before)
        for fd in held:
            os.close(fd)


@test
def test_inode_number_survives_copy_up_and_remount():
    if IS_KERNEL and not is_root_mode():
        skip("the kernel cannot decode the origin there")
    spec = {"f": "x", "d": {"g": "y"}, "s": Sym("t"), "p": Fifo()}
    with Overlay([spec, {"d": {"h": "z"}}]) as ov:
        every = ["f", "d", "d/g", "d/h"]
        if is_root_mode():
            every += ["s", "p"]  # which carry no user xattrs to remember it in
        before = {n: ino(ov.m(n)) for n in every}
        append(ov.m("f"), "!")
        os.chmod(ov.m("d/g"), 0o600)
        append(ov.m("d/h"), "!")
        os.utime(ov.m("s"), follow_symlinks=False)
        os.chmod(ov.m("p"), 0o600)
        for _ in range(3):
            ov.remount()
            eq({n: ino(ov.m(n)) for n in before}, before)


@test
def test_inode_number_of_new_files_survives_remount():
    with Overlay({}) as ov:
        write(ov.m("f"), "x")
        os.mkdir(ov.m("d"))
        os.symlink("t", ov.m("s"))
        before = {n: ino(ov.m(n)) for n in "fds"}
        ov.remount()
        eq({n: ino(ov.m(n)) for n in "fds"}, before)


@test
def test_inode_numbers_are_the_layers_own_on_one_file_system():
    with Overlay({"f": "x", "s": Sym("y"), "d": {"g": ""}}) as ov:
        for n in ("f", "s", "d/g"):
            eq(ino(ov.m(n)), ino(ov.l(n)), n)


@test
def test_inode_numbers_differ():
    with Overlay([{"d%d" % i: {"f%d" % j: str(j) for j in range(20)} for i in range(5)}] * 2) as ov:
        for i in range(5):
            append(ov.m("d%d/f3" % i), "!")
            write(ov.m("d%d/new" % i), "!")
        seen = {}
        for p, a in tree_snapshot(ov.mnt, ino=True).items():
            ok(a["ino"] not in seen, "%s and %s" % (p, seen.get(a["ino"])))
            seen[a["ino"]] = p


@test
def test_one_device_for_all():
    with Overlay([{"f": "x", "d": {"g": ""}}, {"h": "", "d": {"i": ""}}]) as ov:
        write(ov.m("n"), "")
        devs = {n: lstat(ov.m(n)).st_dev for n in ("", "f", "d", "d/g", "h", "d/i", "n")}
        eq(len(set(devs.values())), 1, devs)


@test(modes=("root",))
def test_layers_on_two_file_systems_do_not_collide():
    """The same numbers in two tmpfs."""
    with Overlay([{}, {}], mount=False) as ov:
        for i in range(2):
            mount("tmpfs", ov.l(i=i), "tmpfs", 0, None)
            for j in range(30):
                write(ov.l("l%d-%d" % (i, j), i=i), str(j))
        ov.mount("xino=on")
        seen, before = {}, {}
        for n in names(ov.mnt):
            st = lstat(ov.m(n))
            key = st.st_dev, st.st_ino
            ok(key not in seen, "%s and %s have number %r" % (n, seen.get(key), key))
            seen[key] = n
            before[n] = key
        for n in before:
            append(ov.m(n), "!")
            eq((lstat(ov.m(n)).st_dev, lstat(ov.m(n)).st_ino), before[n], "after copy-up of " + n)
        with Dir(ov.mnt) as d:
            for n, i, _ in d:
                if n not in (".", ".."):
                    eq(i, before[n][1], n)
        ov.umount()
        for i in range(2):
            umount2(ov.l(i=i))


@test
def test_tar_of_links_holds_one_copy():
    need("tar")
    with Overlay({"a": File(b"z" * 200000), "b": Hardlink("a"), "c": Hardlink("a")}) as ov:
        p = subprocess.run(["tar", "-C", ov.mnt, "-c", "."], stdout=subprocess.PIPE, check=True)
        ok(len(p.stdout) < 300000, len(p.stdout))


@test
def test_cp_a_and_rm_of_linked_tree():
    with Overlay(LINKED) as ov:
        run("cp", "-a", ov.m("a"), ov.m("b"), ov.m("d"), ov.m("single"), ov._mkdir("out"))
        eq(nlink(ov.base + "/out/a"), 3)
        for n in ("a", "b", "d/c"):
            os.unlink(ov.m(n))
        os.rmdir(ov.m("d"))
        eq(names(ov.mnt), ["single"])
        ov.remount()
        eq(names(ov.mnt), ["single"])


if __name__ == "__main__":
    main()
