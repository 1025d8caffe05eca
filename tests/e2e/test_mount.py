#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line, mounting and unmounting: what is accepted, what is refused and with which words."""

import contextlib
import os
import signal
import stat
import subprocess
import time

import ovtest
from ovtest import (Failed, FUSE_SUPER_MAGIC, Hardlink, MS_BIND, Overlay, Statfs, as_user, eq, exists, fails, is_mounted,
                    is_root_mode, mount, mount_info, names, need, ok, populate, program, read, run, skip, umount2, write)

NOT_KERNEL = "a command line that it does not have"


def test(fn=None, **kw):
    kw.setdefault("not_kernel", NOT_KERNEL)
    return ovtest.test(fn, **kw)


def attempt(argv, **kw):
    """Run a mount command; CompletedProcess with stdout and stderr apart."""
    kw.setdefault("timeout", 20)
    return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)


def refused(p, *words, mnt=None):
    """P must have failed with exactly one line on stderr, in which one of WORDS stands."""
    text = p.stdout + p.stderr
    ok(p.returncode > 0, "rc %d, output: %s" % (p.returncode, text))
    lines = [s for s in p.stderr.splitlines() if s.strip()]
    eq(len(lines), 1, "lines on stderr (%r)" % p.stderr)
    eq(p.stdout, "", "stdout")
    ok(any(w in lines[0] for w in words), "%r names none of %r" % (lines[0], words))
    if mnt:
        ok(not is_mounted(mnt), "refused, and yet mounted")


def wait_for(cond, what, seconds=10):
    end = time.monotonic() + seconds
    while not cond():
        if time.monotonic() > end:
            raise Failed("%s: not within %d s" % (what, seconds))
        time.sleep(0.01)


def the_daemon(o):
    """The process id of O's daemon."""
    eq(len(o.daemons), 1, "daemons")
    return next(iter(o.daemons))


@contextlib.contextmanager
def dirs(lowers=None, upper=None, opts="", **kw):
    """The directories of an overlay, not mounted; whatever a test mounts there is taken away again."""
    o = Overlay(lowers, upper, opts, mount=False, **kw)
    try:
        yield o
    finally:
        o.cleanup()


def mounted(o, argv, **kw):
    """Mount O by ARGV; its output is in o.output."""
    o.mount(argv=argv, **kw)
    eq(Statfs(o.mnt).type, FUSE_SUPER_MAGIC, "statfs magic")
    return o


# ------------------------------------------------------------------------------------------ what is accepted

@test
def test_rw():
    """Lower, upper, work: reads come from below, changes land in upper."""
    with Overlay({"a": "low", "d/b": "b"}) as o:
        eq(read(o.m("a")), b"low")
        write(o.m("n"), "new")
        write(o.m("a"), "changed")
        os.unlink(o.m("d/b"))
        eq(read(o.u("n")), b"new")
        eq(read(o.u("a")), b"changed")
        eq(read(o.l("a")), b"low")
        eq(names(o.m("d")), [])


@test
def test_ro_without_upper():
    """Without upperdir the overlay is read-only."""
    with Overlay([{"a": "top", "d/1": ""}, {"a": "low", "d/2": ""}], upper=False) as o:
        eq(read(o.m("a")), b"top")
        eq(names(o.m("d")), ["1", "2"])
        fails(30, write, o.m("a"), "x")
        fails(30, write, o.m("n"), "x")
        fails(30, os.unlink, o.m("a"))
        fails(30, os.chmod, o.m("a"), 0o600)
        fails(30, os.mkdir, o.m("e"))


@test
def test_ro_single_lower():
    """One lower and nothing else is enough."""
    with Overlay([{"a": "x"}], upper=False) as o:
        eq(read(o.m("a")), b"x")


@test
def test_ro_option():
    """-o ro with an upper: nothing can be changed, and the mount table says ro."""
    with Overlay({"a": "x"}, opts="ro") as o:
        fails(30, write, o.m("a"), "y")
        fails(30, write, o.m("n"), "y")
        options, _, _, sup = mount_info(o.mnt)
        ok("ro" in options.split(",") or "ro" in sup.split(","), "not ro: %s %s" % (options, sup))
        eq(names(o.upper), [])


@test
def test_relative_paths():
    """Every path may be relative to the caller's working directory."""
    with dirs([{"a": "0"}, {"b": "1"}]) as o:
        mounted(o, [program(), "-o", "lowerdir=lower0:./lower1/,upperdir=./upper,workdir=work/../work", "merged"], cwd=o.base)
        eq(names(o.mnt), ["a", "b"])
        write(o.m("n"), "x")
        # The daemon has left the directory, and goes on to find everything.
        os.mkdir(o.m("sub"))
        eq(names(o.upper), ["n", "sub"])
        o.umount()


@test
def test_mountpoint_slash():
    """A mountpoint with slashes at its end, or with a symbolic link in it."""
    with dirs({"a": "x"}) as o:
        mounted(o, o.command()[:-1] + [o.mnt + "//"])
        eq(read(o.m("a")), b"x")
        o.umount()
        os.symlink("merged", o.base + "/link")
        mounted(o, o.command()[:-1] + [o.base + "/link"])
        eq(read(o.m("a")), b"x")
        o.umount()


@test
def test_escapes():
    r"""\: and \, and \\ in paths."""
    with dirs() as o:
        odd = [o.base + "/" + n for n in ("co:lon", "com,ma", "back\\slash", "sp ace", 'quo"te', "bo:th,\\", "equal=s")]
        for i, d in enumerate(odd):
            os.mkdir(d)
            write("%s/f%d" % (d, i), str(i))
        o.lowers = odd
        for name in ("upper", "work"):
            new = "%s/%s:x,y" % (o.base, name)
            os.rename(getattr(o, name), new)
            setattr(o, name, new)
        o.mount()
        eq(names(o.mnt), ["f%d" % i for i in range(len(odd))])
        write(o.m("n"), "new")
        eq(names(o.upper), ["n"])
        o.umount()


@test
def test_odd_mountpoint():
    """A mountpoint with a comma, a colon, a space, a newline in its name needs no escape."""
    with dirs({"a": "x"}) as o:
        for name in ("m,rw,x", "m:y", "m z", "m\\w", "m\nv", "m=u"):
            o.mnt = os.path.join(o.base, name)
            os.mkdir(o.mnt)
            p = attempt(o.command())
            eq(p.returncode, 0, "%r: %s" % (name, p.stderr))
            eq(read(o.m("a")), b"x")
            umount2(o.mnt)


@test
def test_option_shapes():
    """-o A -o B, -oA, options behind the mountpoint, empty items, a repeated harmless option."""
    with dirs({"a": "x"}) as o:
        low, up, work = "lowerdir=" + o.lowers[0], "upperdir=" + o.upper, "workdir=" + o.work
        for argv in (["-o", low, "-o", up, "-o", work, o.mnt], ["-o" + low, "-o" + up + "," + work, o.mnt],
                     [o.mnt, "-o", ",".join((low, up, work))], ["-o", low, o.mnt, "-o", up + "," + work],
                     ["-o", ",,%s,,%s,%s," % (low, up, work), o.mnt],
                     ["-o", ",".join((low, up, work, "noatime", "noatime")), o.mnt],
                     ["overlay", o.mnt, "-o", ",".join((low, up, work))],
                     ["-o", ",".join((low, up, work)), "--", o.mnt]):
            mounted(o, [program()] + argv)
            eq(read(o.m("a")), b"x", repr(argv))
            o.umount()


@test(only_ours="the newer option names")
def test_lowerdir_plus():
    """lowerdir+= adds one layer, with nothing to escape but the comma."""
    with dirs([{"a": "0"}, {"a": "1", "b": "1"}]) as o:
        opts = ["lowerdir+=" + d for d in o.lowers] + ["upperdir=" + o.upper, "workdir=" + o.work]
        mounted(o, [program(), "-o", ",".join(opts), o.mnt])
        eq((read(o.m("a")), read(o.m("b"))), (b"0", b"1"))
        o.umount()


def many_lowers(o, n, pad=0):
    """N layers in o.base/diff, reached by links l/IDn of PAD more letters; the list of relative paths."""
    os.mkdir(o.base + "/l")
    os.mkdir(o.base + "/diff")
    links = []
    for i in range(n):
        os.mkdir("%s/diff/%d" % (o.base, i))
        populate("%s/diff/%d" % (o.base, i), {"f%d" % i: str(i), "top": str(i), "d/e%d" % i: ""})
        links.append("l/" + ("%06d" % i).ljust(26 + pad, "X"))
        os.symlink("../diff/%d" % i, os.path.join(o.base, links[-1]))
    return links


def check_many(o, n):
    eq(read(o.m("top")), b"0")
    eq(len(names(o.mnt)), n + 2)
    eq(len(names(o.m("d"))), n)
    for i in (0, 1, n // 2, n - 1):
        eq(read(o.m("f%d" % i)), str(i).encode())
    os.unlink(o.m("f%d" % (n - 1)))
    write(o.m("d/e0"), "x")
    eq(len(names(o.mnt)), n + 1)


@test
def test_500_lowers():
    """500 lowers through relative symbolic links."""
    with dirs() as o:
        links = many_lowers(o, 500)
        mounted(o, [program(), "-o", "lowerdir=%s,upperdir=upper,workdir=work" % ":".join(links), o.mnt], cwd=o.base)
        check_many(o, 500)
        o.umount()


@test
def test_64k_options():
    """An option string of more than 64 KiB."""
    with dirs() as o:
        links = many_lowers(o, 500, pad=110)
        opts = "lowerdir=%s,upperdir=upper,workdir=work" % ":".join(links)
        ok(len(opts) > 65536)
        mounted(o, [program(), "-o", opts, o.mnt], cwd=o.base)
        check_many(o, 500)
        o.umount()


@test
def test_500_lowers_few_fds():
    """Descriptors allowed: about as many as layers. Nothing may fail for that."""
    with dirs() as o:
        links = many_lowers(o, 500)
        opts = "lowerdir=%s,upperdir=upper,workdir=work" % ":".join(links)
        mounted(o, ["sh", "-c", 'ulimit -n 700; exec "$@"', "sh", program(), "-o", opts, o.mnt], cwd=o.base)
        check_many(o, 500)
        for i in range(40):
            os.makedirs(o.m("x%d/y/z" % i))
            eq(len(names(o.m("d"))), 500)
        o.umount()


@test
def test_lower_is_link_followed_once():
    """A layer given as a symbolic link is followed; a link inside a layer that leads out of it stays a link."""
    with dirs({"a": "x"}) as o:
        os.symlink(o.lowers[0], o.base + "/ll")
        os.symlink("/etc", o.l("out"))
        o.lowers = [o.base + "/ll"]
        o.mount()
        eq(read(o.m("a")), b"x")
        eq(os.readlink(o.m("out")), "/etc")
        o.umount()


@test
def test_unknown_option():
    """An option that nobody knows is a warning line, and the mount comes."""
    with dirs({"a": "x"}, opts="private,no_such_option,other=1") as o:
        p = attempt(o.command())
        eq(p.returncode, 0, p.stderr)
        ok(is_mounted(o.mnt), "not mounted")
        ok("no_such_option" in p.stderr, "no warning that names it: %r" % p.stderr)


@test
def test_kernel_option_names():
    """Names that the kernel's overlay has: taken, or refused by a line with their name; never left out in silence."""
    for opt in ("redirect_dir=off", "redirect_dir=on", "redirect_dir=follow", "redirect_dir=nofollow", "index=off", "index=on",
                "metacopy=off", "metacopy=on", "xino=off", "xino=auto", "xino=on", "userxattr", "volatile", "uuid=null"):
        with dirs({"a": "x"}, opts=opt) as o:
            p = attempt(o.command())
            if p.returncode:
                refused(p, opt.split("=")[0], mnt=o.mnt)
            else:
                eq(read(o.m("a")), b"x", opt)


@test
def test_mount_options_take_effect():
    """nodev, nosuid, noexec, noatime stand in the mount table."""
    for opts, want in (("nodev,nosuid", {"nodev", "nosuid"}), ("noexec", {"noexec"}), ("noatime", {"noatime"})):
        with Overlay({"a": "x"}, opts=opts) as o:
            got = set(mount_info(o.mnt)[0].split(","))
            ok(want <= got, "%s: %r" % (opts, got))


@test(modes=("root",))
def test_defaults_of_root():
    """Root's mounts allow others, setuid and devices, as a container's root file system needs."""
    with Overlay({"a": "x"}) as o:
        options, _, _, sup = mount_info(o.mnt)
        ok("allow_other" in sup and "default_permissions" in sup, sup)
        ok("nosuid" not in options, options)
        eq(as_user(12345, 12345, read, o.m("a")), b"x")


# --------------------------------------------------------------------------------- --help and its like

@test
def test_help():
    """--help and -h: rc 0, text on stdout, nothing else."""
    for arg in ("--help", "-h"):
        p = attempt([program(), arg])
        eq(p.returncode, 0, arg)
        for word in ("lowerdir", "upperdir", "workdir", "uidmapping", "-f"):
            ok(word in p.stdout, "%s does not mention %s" % (arg, word))
        eq(p.stderr, "")


@test
def test_version():
    """--version and -V: rc 0, the name and a number on the first line, nothing on stderr."""
    for arg in ("--version", "-V"):
        p = attempt([program(), arg])
        eq(p.returncode, 0, arg)
        first = p.stdout.splitlines()[0]
        ok("fuse-overlay" in first and any(c.isdigit() for c in first), first)
        eq(p.stderr, "")


def be_visible():
    """The daemon lives in a mount namespace of its own and comes back to unmount through a process that it finds in ours:
    through us. A process that changed its ids, as the runner did, is closed to it until it says otherwise."""
    pr_set_dumpable = 4
    ovtest.libc.prctl(pr_set_dumpable, 1, 0, 0, 0)


@test
def test_foreground():
    """-f stays in the foreground and ends with rc 0 at SIGTERM."""
    be_visible()
    with dirs({"a": "x"}) as o:
        p = subprocess.Popen([program(), "-f"] + o.command()[1:], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for(lambda: is_mounted(o.mnt), "-f mounts")
        eq(read(o.m("a")), b"x")
        eq(p.poll(), None, "ended at once")
        p.send_signal(signal.SIGTERM)
        eq(p.wait(10), 0, "rc")
        ok(not is_mounted(o.mnt), "still mounted")


@test
def test_foreground_umount():
    """-f ends with rc 0 when somebody unmounts."""
    with dirs({"a": "x"}) as o:
        p = subprocess.Popen([program(), "-f"] + o.command()[1:], stdin=subprocess.DEVNULL)
        wait_for(lambda: is_mounted(o.mnt), "-f mounts")
        umount2(o.mnt)
        eq(p.wait(10), 0, "rc")


@test
def test_debug():
    """-d and -o debug stay in the foreground and tell what they do on stderr."""
    be_visible()
    for extra in (["-d"], ["-o", "debug"]):
        with dirs({"a": "x"}) as o:
            with open(o.base + "/err", "w") as err:
                p = subprocess.Popen([program()] + extra + o.command()[1:], stdin=subprocess.DEVNULL, stderr=err,
                                     stdout=err)
            wait_for(lambda: is_mounted(o.mnt), "%s mounts" % extra)
            eq(read(o.m("a")), b"x")
            eq(p.poll(), None, "ended at once")
            p.send_signal(signal.SIGINT)
            p.wait(10)
            ok(len(read(o.base + "/err").splitlines()) > 3, "%s says nothing" % extra)


# ------------------------------------------------------------------------------- what a caller relies on

@test
def test_ready_at_return():
    """rc 0 comes when the mount answers, not before: twenty times."""
    with dirs({"a": "x"}) as o:
        for i in range(20):
            o.mount()
            eq(Statfs(o.mnt).type, FUSE_SUPER_MAGIC)
            eq(names(o.mnt), ["a"])
            o.umount()


@test
def test_pipes_let_go():
    """Callers read our stdout and stderr to their end: the daemon must not hold them."""
    with dirs({"a": "x"}) as o:
        r, w = os.pipe()
        p = subprocess.Popen(o.command(), stdin=subprocess.DEVNULL, stdout=w, stderr=w)
        os.close(w)
        start = time.monotonic()
        with os.fdopen(r) as f:
            out = f.read()
        ok(time.monotonic() - start < 10, "the pipe stayed open")
        eq(p.wait(5), 0, out)
        eq(out, "", "output of a plain mount")


@test
def test_daemon_state():
    """The daemon: 0, 1, 2 on /dev/null, working directory /, a session of its own, no descriptor of the caller's."""
    with dirs({"a": "x"}) as o:
        o.mount(cwd=o.base)
        pid = the_daemon(o)
        for fd in range(3):
            eq(os.readlink("/proc/%d/fd/%d" % (pid, fd)), "/dev/null", "fd %d" % fd)
        eq(os.readlink("/proc/%d/cwd" % pid), "/")
        ok(os.getsid(pid) not in (os.getsid(0), 0), "in the session of its caller")
        ok(os.getpgid(pid) != os.getpgid(0), "in the process group of its caller")
        o.umount()


@test
def test_type_shown():
    """Type and source in the mount table."""
    with dirs({"a": "x"}) as o:
        for name, fsname in (("fuse-overlay", None), ("fuse-overlayfs", None), ("fuse-overlay", "some/name")):
            link = o.base + "/bin-" + name
            os.makedirs(link, exist_ok=True)
            link += "/" + name
            if not exists(link):
                os.symlink(program(), link)
            mounted(o, [link, "-o", o.option_string() + (",fsname=" + fsname if fsname else ""), o.mnt])
            _, fstype, source, _ = mount_info(o.mnt)
            eq(fstype, "fuse." + name)
            if ovtest.IS_OURS:
                eq(source, fsname or name)
            o.umount()


def install(o):
    """Put the program where mount.fuse3 looks for it (it has a PATH of its own), in this namespace only."""
    os.mkdir(o.base + "/bin")
    run("cp", program(), o.base + "/bin/fuse-overlay")
    mount(o.base + "/bin", "/usr/local/bin", None, MS_BIND)


@test
def test_mount_command():
    """mount -t fuse.fuse-overlay, through mount.fuse3."""
    need("mount", "mount.fuse3")
    with dirs([{"a": "x"}, {"b": "y"}]) as o:
        install(o)
        mounted(o, ["mount", "-t", "fuse.fuse-overlay", "overlay", o.mnt, "-o", o.option_string()])
        eq(names(o.mnt), ["a", "b"])
        write(o.m("n"), "x")
        eq(read(o.u("n")), b"x")
        eq(mount_info(o.mnt)[1], "fuse.fuse-overlay")
        run("umount", o.mnt)
        o.mounted = False
        wait_for(lambda: not is_mounted(o.mnt), "umount")
        o.wait_daemon()
        mounted(o, ["mount", "-t", "fuse.fuse-overlay", "overlay", o.mnt, "-o", "ro," + o.option_string()])
        fails(30, write, o.m("n"), "y")
        o.umount()


@test
def test_mount_command_fails():
    """mount(8) passes the failure on."""
    need("mount", "mount.fuse3")
    with dirs({"a": "x"}) as o:
        install(o)
        p = attempt(["mount", "-t", "fuse.fuse-overlay", "overlay", o.mnt, "-o", "lowerdir=/no/such"])
        ok(p.returncode != 0, "rc 0")
        ok("/no/such" in p.stderr, p.stderr)
        ok(not is_mounted(o.mnt), "mounted")


@test
def test_dev_fd_mountpoint():
    """/dev/fd/N: the caller has mounted, and hands over the connection."""
    with dirs({"a": "x"}) as o:
        fd = os.open("/dev/fuse", os.O_RDWR)
        data = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions" % fd
        mount("overlay", o.mnt, "fuse.fuse-overlay", 0, data)
        before = ovtest._children()
        p = attempt(o.command()[:-1] + ["/dev/fd/%d" % fd], pass_fds=[fd])
        os.close(fd)
        eq(p.returncode, 0, p.stderr)
        o.daemons = ovtest._children() - before
        eq(read(o.m("a")), b"x")
        write(o.m("n"), "new")
        eq(read(o.u("n")), b"new")
        o.umount()


# --------------------------------------------------------------------------------------- how it ends

@test
def test_signals():
    """SIGTERM, SIGINT and SIGHUP unmount, and the daemon ends."""
    be_visible()
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with dirs({"a": "x"}) as o:
            o.mount()
            write(o.m("n"), "kept")
            o.kill_daemon(sig)
            wait_for(lambda: not is_mounted(o.mnt), "unmount after %s" % sig.name)
            o.wait_daemon()
            eq(read(o.u("n")), b"kept")
            o.mount()  # nothing is left that says "in use"
            eq(read(o.m("n")), b"kept")
            o.umount()


@test
def test_signal_dirty_pages():
    """What was written but not synced when the signal came is not lost."""
    be_visible()
    with dirs({"a": "x"}) as o:
        o.mount()
        fd = os.open(o.m("a"), os.O_RDWR)
        data = os.urandom(3 << 20)
        os.pwrite(fd, data, 0)
        os.close(fd)
        o.kill_daemon(signal.SIGTERM)
        wait_for(lambda: not is_mounted(o.mnt), "unmount")
        o.wait_daemon()
        ok(read(o.u("a")) == data, "upper lacks data")


@test
def test_signal_while_busy():
    """A signal while a file is open: the mount goes from the table, the daemon ends at the last close at the latest."""
    be_visible()
    with dirs({"a": "x"}) as o:
        o.mount()
        fd = os.open(o.m("a"), os.O_RDONLY)
        o.kill_daemon(signal.SIGTERM)
        wait_for(lambda: not is_mounted(o.mnt), "unmount")
        with contextlib.suppress(OSError):  # the connection may be gone already
            os.close(fd)
        o.wait_daemon()


@test
def test_umount_ends_daemon():
    """umount, lazy umount with an open file: the daemon ends when the last user is gone."""
    with dirs({"a": "x"}) as o:
        o.mount()
        o.umount()
        o.mount()
        fd = os.open(o.m("a"), os.O_RDWR)
        umount2(o.mnt, ovtest.MNT_DETACH)
        os.write(fd, b"late")
        eq(os.pread(fd, 10, 0), b"late")
        os.close(fd)
        o.mounted = False
        o.wait_daemon()
        eq(read(o.u("a")), b"late")


def processes():
    """{pid: state} of all processes of the program under test in this pid namespace."""
    out, name = {}, os.path.basename(program())[:15]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/stat" % pid) as f:
            head, _, tail = f.read().rpartition(")")
            if head.split("(", 1)[1] == name:
                out[int(pid)] = tail.split()[0]
    return out


def worker(o, stop, i):
    """Write, read back and rename in O until the file STOP is there. The pid; its status is 0 if all was well."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.chdir(o.mnt)
        n = 0
        while n < 20 or not exists(stop):
            data = b"%d of %d\n" % (n, i) * 500
            write("w%d" % i, data)
            os.rename("w%d" % i, "done%d" % i)
            if read("done%d" % i) != data:
                raise Failed("read back something else")
            n += 1
        code = 0
    except BaseException:
        ovtest.traceback.print_exc()
    finally:
        os._exit(code)


@test
def test_busy_umount():
    """Under load umount and fusermount3 say that it is busy, and nothing happens to those who work in it."""
    with dirs({"a": "x"}) as o:
        o.mount()
        stop = os.path.join(o.base, "stop")
        pids = [worker(o, stop, i) for i in range(3)]
        wait_for(lambda: all(exists(o.m("done%d" % i)) for i in range(3)), "three at work")
        for _ in range(5):
            fails(ovtest.errno.EBUSY, umount2, o.mnt)
        p = attempt(["umount", o.mnt])
        ok(p.returncode and "busy" in p.stderr, "umount: rc %d, %r" % (p.returncode, p.stderr))
        if ovtest.shutil.which("fusermount3"):
            p = attempt(["fusermount3", "-u", o.mnt])
            ok(p.returncode and ("busy" in p.stderr or "mtab" in p.stderr), "fusermount3: rc %d, %r" % (p.returncode, p.stderr))
        ok(is_mounted(o.mnt), "unmounted")
        write(stop, "")
        for pid in pids:
            eq(os.waitpid(pid, 0)[1], 0, "status of one at work")
        o.umount()
        eq(names(o.u()), ["done0", "done1", "done2"])


@test
def test_lazy_umount_under_load():
    """Who works in it goes on after a lazy unmount; the daemon ends with the last of them, and leaves no process behind."""
    with dirs({"a": "x"}) as o:
        o.mount()
        stop = os.path.join(o.base, "stop")
        pids = [worker(o, stop, i) for i in range(3)]
        wait_for(lambda: all(exists(o.m("done%d" % i)) for i in range(3)), "three at work")
        umount2(o.mnt, ovtest.MNT_DETACH)
        o.mounted = False
        time.sleep(0.2)
        ok(any(state != "Z" for state in processes().values()), "the daemon has gone")
        write(stop, "")
        for pid in pids:
            eq(os.waitpid(pid, 0)[1], 0, "status of one at work")
        o.wait_daemon()
        wait_for(lambda: not processes(), "end of %r" % processes())
        eq(names(o.u()), ["done0", "done1", "done2"])


@test
def test_no_zombies():
    """The command leaves no dead child of its own behind: not when the mount is there, and not when there is none."""
    with dirs({"a": "x"}) as o:
        for _ in range(5):
            o.mount()
            ok("Z" not in processes().values(), "zombies: %r" % processes())
            o.umount()
            eq(processes(), {}, "after the unmount")
        o.work = o.base + "/missing"
        refused(attempt(o.command()), "missing", mnt=o.mnt)
        eq(processes(), {}, "after a mount that failed")


@test
def test_exit_codes():
    """0 for a mount, for help and for the version, 1 for what cannot be done; the same in the foreground."""
    with dirs({"a": "x"}) as o:
        eq(attempt([program(), "--version"]).returncode, 0)
        eq(attempt([program(), "--help"]).returncode, 0)
        eq(attempt([program()]).returncode, 1)
        eq(attempt([program(), "-o", "lowerdir=" + o.l()]).returncode, 1)
        good = o.command()
        for f in ([], ["-f"]):
            eq(attempt(good[:1] + f + ["-o", "lowerdir=" + o.base + "/missing", o.mnt]).returncode, 1, "no lower")
            eq(attempt(good[:1] + f + good[1:-1] + [o.base + "/missing"]).returncode, 1, "no mountpoint")
            eq(attempt(good[:1] + f + ["-o", o.option_string() + ",index=maybe", o.mnt]).returncode, 1, "a bad value")
        ok(not is_mounted(o.mnt), "mounted after all")
        eq(processes(), {}, "what is left")


@test
def test_fusermount_umount():
    """fusermount3 -u ends it, as containers' storage does it."""
    need("fusermount3")
    with Overlay({"a": "x"}) as o:
        p = attempt(["fusermount3", "-u", o.mnt])
        if p.returncode and "mtab" in p.stderr:
            skip("fusermount3 cannot unmount here: " + p.stderr)
        eq(p.returncode, 0, p.stderr)
        o.mounted = False
        o.wait_daemon()
        os.rmdir(o.mnt)


@test
def test_namespace_ends():
    """The last process leaves the mount namespace in which the mount is: the daemon ends, and does not keep it alive."""
    with dirs({"a": "x"}) as o:
        before = ovtest._children()
        p = attempt(["unshare", "-m", "--propagation", "private", "sh", "-c", '"$@" && cat "$M/a"', "sh"] + o.command(),
                    env=dict(os.environ, M=o.mnt))
        eq((p.returncode, p.stdout), (0, "x"), p.stderr)
        ok(not is_mounted(o.mnt), "it shows in the outer namespace")
        o.daemons = ovtest._children() - before
        o.wait_daemon(20)


@test
def test_namespace_shared_by_others():
    """As above, while another process still lives in the namespace: the mount serves on."""
    with dirs({"a": "x"}) as o:
        before = ovtest._children()
        holder = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c",
                                   '"$@" || exit 1; echo ready; read go; cat "$M/a"', "sh"] + o.command(),
                                  env=dict(os.environ, M=o.mnt), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        eq(holder.stdout.readline(), "ready\n")
        time.sleep(2)
        out, _ = holder.communicate("go\n", timeout=10)
        eq((holder.returncode, out), (0, "x"))
        o.daemons = ovtest._children() - before
        o.wait_daemon(20)


# --------------------------------------------------------------------- mountpoints in and over layers

@test
def test_mountpoint_is_layer():
    """The mountpoint is the lower, or the upper directory itself: no hang, and the merged view appears there."""
    with dirs({"a": "x", "d/e": "y"}, {"u": "z"}) as o:
        for mnt in (o.lowers[0], o.upper):
            o.mnt = mnt
            o.mount()
            eq(names(o.mnt), ["a", "d", "u"])
            eq(read(o.m("d/e")), b"y")
            write(o.m("d/n"), "1")
            eq(names(o.m("d")), ["e", "n"])
            os.unlink(o.m("d/n"))
            o.umount()


@test
def test_layers_below_mountpoint():
    """Layers that lie below the mountpoint are covered by the mount, and go on serving."""
    with dirs() as o:
        for name in ("lower", "upper", "work"):
            os.mkdir(os.path.join(o.mnt, name))
        populate(o.m("lower"), {"a": "x", "d/e": "y"})
        opts = "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work".format(o.mnt)
        mounted(o, [program(), "-o", opts, o.mnt])
        eq(names(o.mnt), ["a", "d"])
        write(o.m("d/n"), "1")
        eq(names(o.m("d")), ["e", "n"])
        o.umount()
        eq(names(o.mnt), ["lower", "upper", "work"])


# ------------------------------------------------------------------------------------ what is refused

@test
def test_missing_directories():
    """A directory that is not there: the line has its path."""
    with dirs({"a": "x"}) as o:
        gone = o.base + "/gone"
        base = {"lowerdir": o.lowers[0], "upperdir": o.upper, "workdir": o.work}
        for key in base:
            for path in (gone, o.lowers[0] + "/a"):
                opts = ",".join("%s=%s" % (k, path if k == key else v) for k, v in base.items())
                refused(attempt([program(), "-o", opts, o.mnt]), path, mnt=o.mnt)
        opts = ",".join("%s=%s" % kv for kv in base.items())
        refused(attempt([program(), "-o", opts.replace(o.lowers[0], o.lowers[0] + ":" + gone), o.mnt]), gone, mnt=o.mnt)
        refused(attempt([program(), "-o", opts, gone]), gone)
        refused(attempt([program(), "-o", opts, o.lowers[0] + "/a"]), o.lowers[0] + "/a")


@test
def test_incomplete_command():
    """No mountpoint, no lowerdir, upperdir without workdir and the reverse, no options at all."""
    with dirs({"a": "x"}) as o:
        low, up, work = "lowerdir=" + o.lowers[0], "upperdir=" + o.upper, "workdir=" + o.work
        refused(attempt([program(), "-o", ",".join((low, up, work))]), "mountpoint", "mount point", "MOUNTPOINT")
        refused(attempt([program(), "-o", ",".join((up, work)), o.mnt]), "lowerdir", mnt=o.mnt)
        refused(attempt([program(), o.mnt]), "lowerdir", mnt=o.mnt)
        refused(attempt([program(), "-o", ",".join((low, up)), o.mnt]), "workdir", mnt=o.mnt)
        refused(attempt([program(), "-o", "lowerdir=,%s,%s" % (up, work), o.mnt]), "lowerdir", mnt=o.mnt)
        refused(attempt([program()]), "lowerdir", "mountpoint", "MOUNTPOINT", "usage", "--help")
        refused(attempt([program(), "-o"]), "-o")
        refused(attempt([program(), "--no-such", "-o", low, o.mnt]), "--no-such", mnt=o.mnt)


@test
def test_bad_values():
    """Values that cannot be: the line has the option's name."""
    for opt in ("uidmapping=x", "gidmapping=0:1", "uidmapping=0:0:0", "timeout=soon", "squash_to_uid=me", "xattr_permissions=7",
                "redirect_dir=maybe"):
        with dirs({"a": "x"}, opts=opt) as o:
            refused(attempt(o.command()), opt.split("=")[0], mnt=o.mnt)


@test
def test_work_on_other_file_system():
    """Upper and work must be on one file system."""
    with dirs({"a": "x"}) as o:
        mount("tmpfs", o.work, "tmpfs")
        try:
            refused(attempt(o.command()), o.work, o.upper, mnt=o.mnt)
        finally:
            umount2(o.work)


@test
def test_work_on_other_mount():
    """The same file system mounted twice is not enough: nothing can be renamed from mount to mount."""
    with dirs({"a": "x"}) as o:
        mount(o.work, o.work, None, MS_BIND)
        try:
            refused(attempt(o.command()), o.work, o.upper, mnt=o.mnt)
        finally:
            umount2(o.work)


@test
def test_overlapping_layers():
    """A lower inside upper or work, work inside upper, upper inside work, upper and work the same: refused."""
    with dirs({"a": "x"}) as o:
        for d in (o.u("in"), o.w("in"), o.u("deep/er")):
            os.makedirs(d)
        for low, up, work, word in ((o.u("in"), o.upper, o.work, o.u("in")), (o.u("deep/er"), o.upper, o.work, o.u("deep/er")),
                                    (o.w("in"), o.upper, o.work, o.w("in")), (o.lowers[0], o.upper, o.u("in"), o.u("in")),
                                    (o.lowers[0], o.w("in"), o.work, o.work), (o.lowers[0], o.upper, o.upper, o.upper),
                                    (o.upper, o.upper, o.work, o.upper),
                                    (o.lowers[0] + ":" + o.u("in"), o.upper, o.work, o.u("in"))):
            refused(attempt([program(), "-o", "lowerdir=%s,upperdir=%s,workdir=%s" % (low, up, work), o.mnt]), word,
                    mnt=o.mnt)


@test
def test_upper_in_use():
    """Upper or work of a living mount is refused to a second one, and free when the first is gone."""
    with Overlay({"a": "x"}) as o:
        other, mnt2 = o.base + "/other", o.base + "/mnt2"
        for d in (other, other + "/u", other + "/w", mnt2):
            os.mkdir(d)
        write(o.m("n"), "1")
        for up, work, word in ((o.upper, o.work, o.upper), (o.upper, other + "/w", o.upper), (other + "/u", o.work, o.work)):
            opts = "lowerdir=%s,upperdir=%s,workdir=%s" % (o.lowers[0], up, work)
            refused(attempt([program(), "-o", opts, mnt2]), word, mnt=mnt2)
        eq(read(o.m("n")), b"1")
        write(o.m("n2"), "2")  # the refused ones did no harm
        o.umount()
        o.mnt = mnt2
        o.mount()
        eq(read(o.m("n2")), b"2")


@test
def test_upper_free_after_kill():
    """A daemon that was killed leaves no lock behind."""
    with Overlay({"a": "x"}) as o:
        write(o.m("n"), "1")
        o.kill_daemon()
        umount2(o.mnt, ovtest.MNT_DETACH)
        o.wait_daemon()
        o.mount()
        eq(read(o.m("n")), b"1")


@test
def test_no_dev_fuse():
    """Without /dev/fuse the line says so; with and without /dev/null."""
    with dirs({"a": "x"}) as o:
        for keep_null in (True, False):
            null = os.open("/dev/null", os.O_RDONLY)
            mount("tmpfs", "/dev", "tmpfs")
            try:
                if keep_null:
                    os.close(os.open("/dev/null", os.O_CREAT | os.O_WRONLY, 0o666))
                    mount("/proc/self/fd/%d" % null, "/dev/null", None, MS_BIND)
                p = subprocess.run(o.command(), stdin=null, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   timeout=20)
            finally:
                umount2("/dev", ovtest.MNT_DETACH)
                os.close(null)
            refused(p, "/dev/fuse", mnt=o.mnt)


def plain_user(argv, **kw):
    """ARGV as a user without any capability, whom no setuid program helps."""
    need("setpriv")
    return attempt(["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
                    "--bounding-set=-all"] + argv, **kw)


def open_to_user(o):
    """Give the directories of O to that user."""
    for d in [o.upper, o.work, o.mnt] + o.lowers:
        os.chown(d, 12345, 12345)
    o.program = o.base + "/fuse-overlay"
    run("cp", program(), o.program)
    os.chmod(o.program, 0o755)


@test(ids=True)
def test_no_privilege():
    """A user who may not mount: one line that says what is lacking."""
    with dirs({"a": "x"}) as o:
        open_to_user(o)
        refused(plain_user(o.command()), "mount", "/dev/fuse", "privilege", "permitted", mnt=o.mnt)


@test(modes=("root",))
def test_no_access_to_dev_fuse():
    """A user who may not open /dev/fuse: the line names it."""
    with dirs({"a": "x"}) as o:
        open_to_user(o)
        node = o.base + "/fuse"
        os.mknod(node, stat.S_IFCHR | 0o600, os.stat("/dev/fuse").st_rdev)
        mount(node, "/dev/fuse", None, MS_BIND)
        try:
            refused(plain_user(o.command()), "/dev/fuse", mnt=o.mnt)
        finally:
            umount2("/dev/fuse")


@test(modes=("root",))
def test_ordinary_user():
    """A user without a namespace mounts through fusermount3, where /dev/fuse is open to all."""
    need("setpriv", "fusermount3")
    if not os.stat(ovtest.shutil.which("fusermount3")).st_mode & stat.S_ISUID:
        skip("fusermount3 is not setuid")
    with dirs({"a": "x"}) as o:
        open_to_user(o)
        node = o.base + "/fuse"
        os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
        os.chmod(node, 0o666)
        mount(node, "/dev/fuse", None, MS_BIND)
        # fusermount3 wants a name for the user.
        write(o.base + "/passwd", read("/etc/passwd") + b"ovuser:x:12345:12345::/:/bin/sh\n")
        mount(o.base + "/passwd", "/etc/passwd", None, MS_BIND)
        as_him = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
        try:
            p = attempt(as_him + o.command())
            eq(p.returncode, 0, p.stderr)
            eq(as_user(12345, 12345, read, o.m("a")), b"x")
            as_user(12345, 12345, write, o.m("n"), "1")
            eq(os.stat(o.u("n")).st_uid, 12345)
            p = attempt(as_him + ["fusermount3", "-u", o.mnt])
            eq(p.returncode, 0, p.stderr)
        finally:
            umount2("/dev/fuse", ovtest.MNT_DETACH)
            umount2("/etc/passwd")


@test(modes=("root",))
def test_upper_read_only_file_system():
    """An upper on a read-only file system: refused with a line, not with a mount on which every write fails."""
    with dirs({"a": "x"}) as o:
        mount("tmpfs", o.base + "/upper", "tmpfs")
        for d in ("u", "w"):
            os.mkdir(o.u(d))
        mount(None, o.upper, None, ovtest.MS_REMOUNT | ovtest.MS_RDONLY)
        try:
            opts = "lowerdir=%s,upperdir=%s,workdir=%s" % (o.lowers[0], o.u("u"), o.u("w"))
            refused(attempt([program(), "-o", opts, o.mnt]), o.u("u"), o.u("w"), mnt=o.mnt)
        finally:
            umount2(o.upper)


@test
def test_lower_read_only_file_system():
    """Lowers may be read-only, and hard links in them count."""
    with dirs({}) as o:
        mount("tmpfs", o.lowers[0], "tmpfs")
        populate(o.lowers[0], {"a": "x", "b": Hardlink("a"), "d/e": "y"})
        mount(None, o.lowers[0], None, ovtest.MS_REMOUNT | ovtest.MS_RDONLY | (0 if is_root_mode() else 0))
        o.mount()
        eq(os.stat(o.m("a")).st_nlink, 2)
        write(o.m("d/e"), "z")
        eq(read(o.m("d/e")), b"z")
        os.unlink(o.m("a"))
        eq(names(o.mnt), ["b", "d"])
        o.umount()
        umount2(o.lowers[0])


if __name__ == "__main__":
    ovtest.main()
