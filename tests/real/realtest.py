# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests with real programs share: a Debian system made once with debootstrap and kept as a tar archive, and a
small one of this machine's own programs, made in no time.

Environment, beside ovtest's:

  OV_REAL     set: run with the Debian system, which takes minutes and, the first time, a mirror
  OV_CACHE    where the archive is kept (default: ${XDG_CACHE_HOME:-/var/tmp}/fuse-overlay-tests)
  OV_SUITE    the release to make (default: the host's, else bookworm)
  OV_MIRROR   where to get it from (default: debootstrap's own)
"""

import contextlib
import errno
import fcntl
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import ovtest  # noqa: E402
from ovtest import mount, MS_BIND, need, run, skip, umount2, write  # noqa: E402

PACKAGES = ["ca-certificates", "gcc", "git", "libc6-dev", "libcap2-bin", "make", "python3", "sqlite3"]

# Kept in the archive as files, to be installed by the tests: alternatives, a file capability, setuid and conffiles.
DEBS = ["hello", "iputils-ping", "less", "sudo"]

EXCLUDED = ["./dev/*", "./proc/*", "./sys/*", "./var/cache/apt/*.bin", "./var/lib/apt/lists/*", "./usr/share/doc/*",
            "./usr/share/locale/*", "./usr/share/man/??", "./usr/share/man/??_*"]

ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C",
       "DEBIAN_FRONTEND": "noninteractive"}


def _os_release():
    out = {}
    with contextlib.suppress(OSError), open("/etc/os-release") as f:
        for line in f:
            k, _, v = line.strip().partition("=")
            out[k] = v.strip('"')
    return out


def suite():
    host = _os_release()
    known = host.get("VERSION_CODENAME") if host.get("ID") in ("debian", "ubuntu") else None
    return os.environ.get("OV_SUITE") or known or "bookworm"


def cache_dir():
    return os.environ.get("OV_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "/var/tmp", "fuse-overlay-tests")


def _command(argv, log, **kw):
    """Run ARGV with its output in the file LOG; skip with the last line of it if it fails."""
    with open(log, "a") as out:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **kw)
    if p.returncode:
        with open(log, errors="replace") as f:
            lines = f.read().strip().splitlines() or [""]
        skip("%s: rc %d: %s" % (" ".join(argv[:2]), p.returncode, lines[-1]))


def _make(archive):
    """debootstrap a system, put some packages beside it, pack it."""
    need("debootstrap", "tar")
    if ovtest.MODE != "root":
        skip("no base system in %s, and only root can make it" % cache_dir())
    tmp = tempfile.mkdtemp(prefix="make.", dir=cache_dir())
    root, log = tmp + "/root", tmp + "/log"
    try:
        components = ["--components=main,universe"] if _os_release().get("ID") == "ubuntu" and not os.environ.get("OV_SUITE") else []
        _command(["debootstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES)] + components + [suite(), root] +
                 list(filter(None, [os.environ.get("OV_MIRROR")])), log)
        with contextlib.suppress(OSError):
            shutil.copy("/etc/resolv.conf", root + "/etc/resolv.conf")
        run("chroot", root, "apt-get", "clean", env=ENV)
        _command(["chroot", root, "apt-get", "install", "-y", "--no-install-recommends", "--download-only"] + DEBS, log, env=ENV)
        os.mkdir(root + "/root/debs")
        for name in sorted(os.listdir(root + "/var/cache/apt/archives")):
            if name.endswith(".deb"):
                os.rename("%s/var/cache/apt/archives/%s" % (root, name), "%s/root/debs/%s" % (root, name))
        with contextlib.suppress(OSError):
            umount2(root + "/proc")
        with contextlib.suppress(OSError):
            umount2(root + "/sys")
        _command(["tar", "-C", root, "--numeric-owner", "--one-file-system", "--xattrs"] + ["--exclude=" + e for e in EXCLUDED] +
                 ["-cf", tmp + "/tar", "."], log)
        os.chmod(tmp + "/tar", 0o644)
        os.rename(tmp + "/tar", archive)
    finally:
        ovtest.remove_tree(tmp)


def base_archive():
    """The path of the packed system, made when it is not there."""
    os.makedirs(cache_dir(), exist_ok=True)
    archive = os.path.join(cache_dir(), "debian-%s-%s-1.tar" % (suite(), os.uname().machine))
    if os.path.exists(archive):
        return archive
    try:
        lock = os.open(cache_dir() + "/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as e:
        if e.errno in (errno.EACCES, errno.EROFS):
            skip("no base system in %s, and it is not writable" % cache_dir())
        raise
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(archive):
            _make(archive)
    finally:
        os.close(lock)
    return archive


WITH_DEBIAN = bool(os.environ.get("OV_REAL"))

# The small system has these, and files below directories that the Debian system has too, by number.
PROGRAMS = ["cat", "chmod", "chown", "cmp", "cp", "find", "getcap", "grep", "id", "ln", "ls", "mkdir", "mkfifo", "mv", "readlink", "rm",
            "rmdir", "sed", "setcap", "sh", "sleep", "sort", "stat", "tail", "tar", "touch", "true", "uniq", "wc"]
TREES = {"usr/lib/git-core": 150, "usr/share/perl5/Some/Thing": 60, "usr/share/perl5/Other": 40, "usr/share/zoneinfo/Europe": 100,
         "usr/share/zoneinfo": 50, "etc/default": 3, "root": 0, "tmp": 0, "proc": 0, "sys": 0, "dev": 0, "run": 0, "var/tmp": 0}
FILES = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
         "etc/group": "root:x:0:\nnogroup:x:65534:\n", "etc/issue": "small\n", "etc/debian_version": "none\n",
         "etc/default/useradd": "SHELL=/bin/sh\n", "usr/lib/git-core/git-gc": "gc\n", "usr/lib/git-core/git-add": "add\n"}


def _needed(programs):
    """{path in the small system: path here} of PROGRAMS and the libraries that ldd names."""
    paths = {"usr/bin/" + name: os.path.realpath(shutil.which(name)) for name in programs}
    for line in run("ldd", *sorted(set(paths.values())), check=False).stdout.splitlines():
        found = re.match(r"\s+(?:\S+ => )?(/\S+)(?: \(0x[0-9a-f]+\))?$", line)
        if found:
            paths[found[1][1:] if found[1].startswith("/usr/") else "usr" + found[1]] = os.path.realpath(found[1])
    return paths


def _parents(path):
    while path := os.path.dirname(path):
        yield path


def small_archive(directory):
    """The path of a packed system, made in DIRECTORY."""
    need("ldd", *PROGRAMS)
    paths = _needed(PROGRAMS)
    archive = os.path.join(directory, "small.tar")
    with tarfile.open(archive, "w") as tar:
        def add(kind, name, mode=0o644, data=b"", link=""):
            m = tarfile.TarInfo(name)
            m.type, m.mode, m.mtime, m.size, m.linkname = kind, mode, 1234567890, len(data), link
            tar.addfile(m, io.BytesIO(data))

        def as_root(m):
            m.uid, m.gid, m.uname, m.gname, m.mode = 0, 0, "root", "root", 0o755
            return m

        for top in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            add(tarfile.SYMTYPE, top, 0o777, link="usr/" + top)
        for name in sorted({p for name in [*paths, *FILES, "usr/sbin/", "usr/lib/", *(t + "/" for t in TREES)] for p in _parents(name)}):
            add(tarfile.DIRTYPE, name, 0o1777 if name.endswith("tmp") else 0o755)
        for name, text in FILES.items():
            add(tarfile.REGTYPE, name, data=text.encode())
        for name, number in TREES.items():
            for i in range(number):
                add(tarfile.REGTYPE, "%s/f%d" % (name, i), 0o644 if i % 3 else 0o755, b"%d " % i * (9 * i))
        for name, real in paths.items():
            tar.add(real, name, filter=as_root)
    os.chmod(archive, 0o644)
    return archive


def unpack(to):
    """The system below the directory TO, as a layer."""
    run("tar", "-C", to, "--numeric-owner", "--xattrs", "--same-permissions", "-xf", base_archive(), timeout=300)
    return to


class System(ovtest.Overlay):
    """An overlay with the Debian system as its lower, entered with chroot."""

    def __init__(self, opts=""):
        base_archive()
        super().__init__(unpack, opts=opts, mount=False)
        # Not through chroot's default: names of hosts are not looked up, the tests need no network.
        self.before = ovtest.tree_snapshot(self.lowers[0])
        self._want_mount = True
        self.inside = []

    def enter(self):
        """proc and dev for the programs."""
        self._bind("proc", lambda p: mount("proc", p, "proc", ovtest.MS_NOSUID | ovtest.MS_NODEV | ovtest.MS_NOEXEC))
        self._bind("dev", lambda p: mount("tmpfs", p, "tmpfs", ovtest.MS_NOSUID, "mode=755"))
        for name in ("null", "zero", "full", "random", "urandom", "tty"):
            ovtest.touch(self.m("dev", name))
            self._bind("dev/" + name, lambda p, n=name: mount("/dev/" + n, p, None, MS_BIND))
        os.mkdir(self.m("dev/pts"))
        self._bind("dev/pts", lambda p: mount("devpts", p, "devpts", 0, "newinstance,ptmxmode=0666"))
        for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            os.symlink(target, self.m("dev", name))
        return self

    def _bind(self, where, how):
        how(self.m(where))
        self.inside.append(where)

    def leave(self):
        while self.inside:
            umount2(self.m(self.inside.pop()), ovtest.MNT_DETACH)

    def umount(self, wait=True):
        self.leave()
        super().umount(wait)

    def sh(self, script, timeout=240, **env):
        """Run SCRIPT with sh -e inside; its output. A failure shows it."""
        return run("chroot", self.mnt, "/bin/sh", "-ec", "exec 2>&1\ncd /root\n" + script, timeout=timeout,
                   env=dict(ENV, **env)).stdout

    @staticmethod
    def _is_whiteout(path):
        """One may stay in work, as the source of links."""
        st = os.lstat(path)
        return (stat.S_ISCHR(st.st_mode) and st.st_rdev == 0) or (stat.S_ISREG(st.st_mode) and st.st_size == 0)

    def check(self):
        """The lower has not changed by one byte or time, and the kernel sees what we see."""
        self.leave()
        ours = ovtest.tree_snapshot(self.mnt)
        self.umount()
        ovtest.assert_same(self.before, ovtest.tree_snapshot(self.lowers[0]), "lower before", "lower after")
        ovtest.eq([n for n in os.listdir(self.w("work")) if not self._is_whiteout(self.w("work", n))], [], "left in work")
        with self.by_kernel() as view:
            ovtest.assert_same(ours, ovtest.tree_snapshot(view), "ours", "kernel's")
        self.mount()
        ovtest.assert_same(ours, ovtest.tree_snapshot(self.mnt), "before", "after a remount")


def file_of(path, text, mode=0o644):
    write(path, text)
    os.chmod(path, mode)
