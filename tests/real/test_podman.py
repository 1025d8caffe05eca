#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""podman and buildah with mount_program set to fuse-overlay, as root and as an ordinary user.

The base image is made of a few programs of this machine; with OV_REAL=1 it is a Debian system, in which packages are
installed, too. OV_TARGET=kernel is podman without a mount_program, any other program can be set as one likewise.

The user is made for the test alone: /etc/passwd, /etc/subuid and the rest are covered by copies in the test's own mount
namespace, and so are /dev/fuse (where it is for root alone) and /sys/fs/cgroup (where it is not version 2). What podman
keeps outside of its storage (locks in /dev/shm, state in /run) is covered as well. Containers have the host's network
and no cgroup; builds are isolated by chroot. So it runs without systemd, without a network, and inside virtual machines
and containers that allow namespaces.
"""

import contextlib
import difflib
import io
import os
import resource
import shutil
import stat
import sys
import tarfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from realtest import base_archive, cache_dir, file_of, ovtest, small_archive, WITH_DEBIAN  # noqa: E402
from ovtest import eq, Failed, IS_KERNEL, mount, MS_BIND, need, ok, program, read, run, skip, test, write  # noqa: E402

USER, UID = "ovtest", 54321
SUB, COUNT = 1000000, 65536

CONTAINERS_CONF = """[containers]
cgroups = "disabled"
cgroupns = "host"
netns = "host"
default_ulimits = [%s]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "%s"
tmp_dir = "%s"
"""

STORAGE_CONF = """[storage]
driver = "overlay"
runroot = "%s/runroot"
graphroot = "%s/graph"
[storage.options.overlay]
mountopt = "nodev"
"""

CONTAINERFILE = """FROM localhost/base
COPY ctx /ctx
RUN echo one >/one && ln /one /one.link && mkdir -p /d/sub && echo x >/d/sub/x && cp /bin/true /su && chmod 4755 /su && \\
    ln -s one /sym && mkfifo /fifo && cp /bin/true /cap && setcap cap_net_raw+ep /cap && chown 5:6 /su && chmod 6711 /su
RUN rm /etc/issue && rm -r /usr/share/perl5 && echo more >>/etc/passwd && mv /ctx/a /ctx/b && rm -r /ctx/gone
RUN mkdir /usr/share/perl5 && echo only >/usr/share/perl5/only && rm -r /usr/share/zoneinfo && ln -s perl5 /usr/share/zoneinfo
RUN rm -r /d && echo file >/d && echo two >>/one && chown -R 7:8 /etc/default && rm /usr/lib/git-core/git-gc && \\
    mv /usr/lib/git-core /usr/lib/git-moved && mkdir /usr/lib/git-core && touch -d @1000000000 /one
"""

# Last what nobody may see: markers of deleted files.
LOOK = """
for f in /one /one.link /d /ctx/b /usr/share/zoneinfo/only; do echo $f: $(cat $f); done
echo /ctx: $(ls /ctx), /usr/share/perl5: $(ls -A /usr/share/perl5), /usr/lib/git-core: $(ls -A /usr/lib/git-core)
readlink /sym /usr/share/zoneinfo
stat -c '%n %F %a %u:%g %h' /one /one.link /su /fifo /cap /d /etc/default/useradd
stat -c '%n %F %a %u:%g' /usr/lib/git-moved /etc/default
stat -c %Y /one
test -e /etc/issue || echo no issue
ls /usr/lib/git-moved | grep -xe git-add -e git-gc
tail -n 1 /etc/passwd; getcap /cap; /su; /cap
test /one -ef /one.link && echo linked
find / -xdev '(' -name '.wh.*' -o -type c -a '(' -path '/usr/*' -o -path '/etc/*' -o -path '/ctx/*' ')' ')'
"""

# A layer on a layer with a file of two names: only the one that is written changes, as with the kernel's overlay, and the
# other still says 2.
SEEN = """/one: one two
/one.link: one
/d: file
/ctx/b: from a
/usr/share/zoneinfo/only: only
/ctx: b c, /usr/share/perl5: only, /usr/lib/git-core:
one
perl5
/one regular file 644 0:0 1
/one.link regular file 644 0:0 2
/su regular file 6711 5:6 1
/fifo fifo 644 0:0 1
/cap regular file 755 0:0 1
/d regular file 644 0:0 1
/etc/default/useradd regular file 644 7:8 1
/usr/lib/git-moved directory 755 0:0
/etc/default directory 755 7:8
1000000000
no issue
git-add
more
/cap cap_net_raw=ep
"""

SEEN_FLAT = SEEN.replace("/one.link: one", "/one.link: one two").replace("/one regular file 644 0:0 1",
                                                                         "/one regular file 644 0:0 2") + "linked\n"


def used_paths():
    """What the test needs, and must not cover."""
    return ["" if IS_KERNEL else program(), cache_dir(), sys.executable, os.path.abspath(__file__), ovtest._scratch]


def may_cover(path):
    return os.path.isdir(path) and not os.path.islink(path) and not any(p.startswith(path + "/") for p in used_paths())


def short_place(directory):
    """DIRECTORY at a short path: podman allows 50 characters for its runroot."""
    for place in filter(may_cover, ("/mnt", "/media", "/srv", "/opt")):
        mount(directory, place, None, MS_BIND)
        return place
    skip("no directory to cover with the containers' storage")


def prepare_system(base, user):
    """What the machine may lack, or lose, in this test's mount namespace."""
    resolver = os.path.realpath("/etc/resolv.conf")
    names = read(resolver) if os.path.exists(resolver) else b""
    for path in filter(may_cover, ("/run", "/dev/shm", "/var/lib/containers", "/var/lib/cni")):
        mount("tmpfs", path, "tmpfs", ovtest.MS_NOSUID | ovtest.MS_NODEV, "mode=1777" if path == "/dev/shm" else "mode=755")
    if resolver.startswith("/run/") and not os.path.exists(resolver):
        os.makedirs(os.path.dirname(resolver), exist_ok=True)
        write(resolver, names)
    if ovtest._fstype("/sys/fs/cgroup") != "cgroup2":
        with contextlib.suppress(OSError):
            mount("none", "/sys/fs/cgroup", "cgroup2")
    if not IS_KERNEL:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    if user:
        prepare_user(base)


def prepare_user(base):
    if not IS_KERNEL:
        node = os.path.join(base, "dev-fuse")
        os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
        os.chmod(node, 0o666)
        mount(node, "/dev/fuse", None, MS_BIND)
    lines = {"passwd": "%s:x:%d:%d::%s/home:/bin/sh" % (USER, UID, UID, base), "group": "%s:x:%d:" % (USER, UID),
             "subuid": "%s:%d:%d" % (USER, SUB, COUNT), "subgid": "%s:%d:%d" % (USER, SUB, COUNT)}
    for name, line in lines.items():
        if not os.path.exists("/etc/" + name):
            skip("no /etc/%s on this machine" % name)
        copy = os.path.join(base, name)
        old = read("/etc/" + name).decode()
        file_of(copy, "".join(ln + "\n" for ln in old.splitlines() if not ln.startswith(USER + ":")) + line + "\n")
        mount(copy, "/etc/" + name, None, MS_BIND)


class Containers:
    """podman and buildah with a storage of their own below a fresh directory; USER: not as root."""

    def __init__(self, user=False):
        need("podman", "buildah", "crun", "find")
        if run("find", "/dev/null", "-printf", "%P", check=False).returncode:
            skip("find is not GNU's here")
        if user:
            need("newuidmap", "newgidmap", "setpriv")
        self.user = user
        self.base = ovtest.tempfile.mkdtemp(prefix="podman.", dir=ovtest._scratch)
        os.chmod(self.base, 0o755)
        self.archive = base_archive() if WITH_DEBIAN else small_archive(self.base)
        given = None if IS_KERNEL else program()
        self.base = short_place(self.base)
        if not WITH_DEBIAN:
            self.archive = self.base + "/" + os.path.basename(self.archive)
        self.home, self.bin = self.base + "/home", self.base + "/bin"
        for d in (self.home, self.bin, self.home + "/run", self.home + "/tmp"):
            os.mkdir(d)
        self.prog = given and self.bin + "/" + os.path.basename(given)
        if given:
            shutil.copy(given, self.prog)
            os.chmod(self.prog, 0o755)
        try:
            prepare_system(self.base, user)
        except OSError as e:
            skip("not to be had here: %s" % e)
        limits = ", ".join('"%s=%d:%d"' % (n, h, h) for n, h in
                           ((n, resource.getrlimit(r)[1]) for n, r in (("nofile", resource.RLIMIT_NOFILE),
                                                                       ("nproc", resource.RLIMIT_NPROC))) if h > 0)
        file_of(self.home + "/containers.conf", CONTAINERS_CONF % (limits, "crun", self.home + "/run/tmp"))
        file_of(self.home + "/storage.conf", STORAGE_CONF % (self.home, self.home) +
                ('mount_program = "%s"\n' % self.prog if given else ""))
        os.mkdir(self.home + "/build")
        file_of(self.home + "/build/Containerfile", CONTAINERFILE)
        ovtest.populate(self.home + "/build", {"ctx": {"a": "from a\n", "c": "c", "gone": {"x": "", "y": ""}}})
        os.chmod(self.home + "/run", 0o700)
        if user:
            run("chown", "-R", "%d:%d" % (UID, UID), self.home)
        self.env = {"HOME": self.home, "USER": USER if user else "root", "XDG_RUNTIME_DIR": self.home + "/run",
                    "CONTAINERS_STORAGE_CONF": self.home + "/storage.conf", "CONTAINERS_CONF": self.home + "/containers.conf",
                    "BUILDAH_ISOLATION": "chroot", "TMPDIR": self.home + "/tmp", "LC_ALL": "C",
                    "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"}

    def __enter__(self):
        try:
            why = self.try_out()
            if why:
                # Is it us, or is it the machine? It has to work without an overlay.
                alone = self.try_out("--root", self.home + "/vfs", "--runroot", self.home + "/vfsrun", "--storage-driver", "vfs")
                if alone:
                    skip("containers cannot run here: " + alone)
                raise Failed("works with vfs, but here: " + why)
        except BaseException:
            self.__exit__(True)
            raise
        return self

    def try_out(self, *flags):
        """Make the base image, and run a container of it; what does not work, or None."""
        for command in (["info"], ["import", "-q", self.archive, "localhost/base"],
                        ["run", "--rm", "--pull=never", "localhost/base", "true"]):
            p = self.call("podman", *flags, *command, check=False, timeout=300)
            if p.returncode:
                return "podman %s: rc %d: %s" % (command[0], p.returncode, p.stderr.strip()[-500:])
        return None

    def __exit__(self, *exc):
        if self.user:
            self.call("podman", "system", "migrate", check=False)
        for path in ovtest._mounts_below(self.base):
            ovtest.force_umount(path)

    def call(self, *argv, check=True, timeout=200, **kw):
        as_user = ["setpriv", "--reuid=%d" % UID, "--regid=%d" % UID, "--clear-groups", "--inh-caps=-all"] if self.user else []
        return run(*as_user, *argv, check=check, timeout=timeout, env=self.env, cwd=self.home, **kw)

    def podman(self, *argv, **kw):
        return self.call("podman", *argv, **kw).stdout

    def buildah(self, *argv, **kw):
        return self.call("buildah", *argv, **kw).stdout

    def run(self, image, script, *flags, **kw):
        """What SCRIPT, which prints something, says in a container that goes when it ends."""
        for attempt in range(3):
            out = self.podman("run", "--rm", "--pull=never", *flags, "localhost/" + image, "sh", "-ec", script, **kw)
            if out:
                break
            print("no output, status 0: podman has lost it, once more")  # seen once, on a busy machine
        return out

    def inside(self, script, **kw):
        """SCRIPT where the storage's mounts can be seen."""
        return self.call(*(["podman", "unshare"] if self.user else []), "sh", "-ec", script, **kw).stdout


# --------------------------------------------------------------------------------------------------- steps

def same_lines(got, want, what=""):
    """Fail with the lines that differ."""
    if got != want:
        lines = list(difflib.unified_diff(want.splitlines(), got.splitlines(), "wanted", "got", lineterm="", n=0))
        raise Failed("\n".join(filter(None, [what] + lines[:40])))


def the_root_is_ours(c):
    line = c.run("base", "grep ' / ' /proc/self/mounts")
    eq(line.split()[2], "fuse." + os.path.basename(c.prog) if c.prog else "overlay")
    info = c.podman("info", "--format", "{{json .Store}}")
    ok(not c.prog or c.prog in info, info)


def build(c, name, *flags):
    c.podman("build", "--pull-never", "--isolation", "chroot", "-q", *flags, "-t", "localhost/" + name, "build", timeout=300)


def build_and_look(c):
    """In layers, and all in one."""
    build(c, "built")
    same_lines(c.run("built", LOOK), SEEN, "in layers")
    build(c, "flat", "--layers=false")
    same_lines(c.run("flat", LOOK), SEEN_FLAT, "in one layer")


CHANGES = """
echo changed >>/etc/passwd; rm /etc/debian_version; mkdir /new; echo f >/new/f; ln /new/f /new/g; chmod 4711 /new/g
rm -r /usr/share/perl5; mv /one /uno; ln -s uno /one; cp /bin/true /new/cap; setcap cap_net_raw+ep /new/cap
mkdir /usr/share/perl5; touch /usr/share/perl5/fresh; chown 9:10 /new; chmod 700 /d; rm /usr/lib/git-moved/git-add
"""

CHANGED = """A /new
A /new/cap
A /new/f
A /new/g
A /uno
A /usr/share/perl5/fresh
C /d
C /etc
C /etc/passwd
C /one
C /usr
C /usr/lib
C /usr/lib/git-moved
C /usr/share
C /usr/share/perl5
D /etc/debian_version
D /usr/lib/git-moved/git-add
D /usr/share/perl5/only
"""

LOOK_AGAIN = """
tail -n 2 /etc/passwd; test -e /etc/debian_version || echo gone; ls -A /usr/share/perl5; readlink /one; cat /uno
stat -c '%n %F %a %h %u:%g' /new/f /new/g /d; stat -c '%n %a %u:%g' /new; getcap /new/cap
test /new/f -ef /new/g && echo linked
"""

SEEN_AGAIN = """more
changed
gone
fresh
uno
one
two
/new/f regular file 4711 2 0:0
/new/g regular file 4711 2 0:0
/d regular file 700 1 0:0
/new 755 9:10
/new/cap cap_net_raw=ep
linked
"""

# What podman puts into a container.
PODMANS = ("dev", "proc", "sys", "run", "etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/mtab")


def is_podmans(name):
    return any(name == p or name.startswith(p + "/") for p in PODMANS)


def exported(path):
    """{name: (type, mode, owner, group, size or link target)} of a tar archive; all names of a file have its own."""
    seen = {}
    with tarfile.open(path) as t:
        for m in t:
            name = m.name.removeprefix("./").rstrip("/")
            if m.islnk():
                seen[name] = seen[m.linkname.removeprefix("./")]
            else:
                kind = {tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.FIFOTYPE: "p"}.get(m.type, "f" if m.isreg() else "?")
                seen[name] = kind, m.mode & 0o7777, m.uid, m.gid, m.linkname if kind == "l" else m.size if kind == "f" else 0
    return {k: v for k, v in seen.items() if k not in ("", ".") and not is_podmans(k)}


def diff_commit_export(c):
    """A container changes things; diff, commit, export tell so, and no more."""
    c.podman("run", "--name", "one-shot", "--pull=never", "localhost/built", "sh", "-ec", CHANGES)
    got = sorted(ln for ln in c.podman("diff", "one-shot").splitlines() if not is_podmans(ln[3:]))
    want = CHANGED
    if IS_KERNEL:  # podman takes the upper's marks as they are: here one for a directory that was made anew
        want = want.replace("C /usr/share/perl5\n", "").replace("D /usr/share/perl5/only", "D /usr/share/perl5")
    same_lines("\n".join(got) + "\n", want, "podman diff")

    c.podman("commit", "-q", "one-shot", "localhost/committed", timeout=200)
    same_lines(c.run("committed", LOOK_AGAIN), SEEN_AGAIN, "the committed image")

    # Every name in the export is one that is there, with its type, mode, owner and size, and no name is missing.
    listing = c.run("committed", "find / -xdev -mindepth 1 -printf '%P\\t%y\\t%m\\t%U\\t%G\\t%s\\t%l\\n'", "--tmpfs=/tmp")
    inside = {}
    for name, kind, mode, uid, gid, size, target in (ln.split("\t") for ln in listing.splitlines()):
        if not is_podmans(name):
            inside[name] = kind, int(mode, 8), int(uid), int(gid), target if kind == "l" else int(size) if kind == "f" else 0
    c.podman("export", "-o", "export.tar", "one-shot")
    outside = exported(c.home + "/export.tar")
    ok(len(inside) > 200, "find shows %d names only" % len(inside))
    same_lines(*("\n".join("%s %r" % i for i in sorted(what.items())) for what in (outside, inside)), "podman export")
    with tarfile.open(c.home + "/export.tar") as t:
        f, g = (t.getmember(n) for n in ("new/f", "new/g"))
        ok(f.islnk() != g.islnk(), "the hard link is exported as two files")
        caps = t.getmember("new/cap").pax_headers
        ok("SCHILY.xattr.security.capability" in caps, "the file's capability is not exported: %r" % caps)
    os.unlink(c.home + "/export.tar")


def save_and_load(c):
    """An image's layers as they were packed by commit: markers for what was deleted, each file once."""
    c.podman("save", "-q", "-o", "image.tar", "localhost/committed", timeout=200)
    seen = []
    with tarfile.open(c.home + "/image.tar") as t:
        for m in t:
            if not m.name.endswith(".tar"):
                continue
            with tarfile.open(fileobj=io.BytesIO(t.extractfile(m).read())) as layer:
                seen.append({x.name.lstrip("./").rstrip("/") for x in layer})
    seen.sort(key=len)
    all_small = set().union(*seen[:-1])
    for name in ("etc/.wh.issue", "d", "usr/share/perl5/only", "etc/.wh.debian_version", "usr/lib/git-moved/git-add",
                 "usr/share/perl5/fresh"):
        ok(name in all_small, "no layer holds " + name)
    ok("usr/lib/git-core/.wh..wh..opq" in all_small or "usr/lib/git-core/.wh.git-add" in all_small, "git-core is not hidden")
    os.unlink(c.home + "/image.tar")


def long_running(c):
    """start, exec, cp, stop, start. A file that is called as a marker would be is a file."""
    c.podman("run", "-d", "--name", "steady", "--pull=never", "--init=false", "localhost/built", "sleep", "300")
    c.podman("exec", "steady", "sh", "-ec", "echo 1 >/from.exec; rm /su; echo hi >/hi; echo w >/ctx/.wh.c; echo c >>/ctx/c")
    write(c.home + "/tmp/in", "copied")
    os.chmod(c.home + "/tmp/in", 0o644)
    c.podman("cp", "tmp/in", "steady:/in")
    c.podman("cp", "steady:/hi", "tmp/hi")
    eq(read(c.home + "/tmp/hi"), b"hi\n")
    c.podman("stop", "-t", "0", "steady")
    c.podman("start", "steady")
    eq(c.podman("exec", "steady", "sh", "-ec", "cat /from.exec /in; test -e /su || echo gone; cat /ctx/.wh.c /ctx/c; ls -A /ctx"),
       "1\ncopiedgone\nw\ncc\n.wh.c\nb\nc\n")
    c.podman("rm", "-f", "-t", "0", "steady")


def packages(c):
    """Of a Debian system: installed while an image is built; the compiler in a container of it."""
    if not WITH_DEBIAN:
        return
    w = c.buildah("from", "--pull-never", "localhost/base").strip()
    c.buildah("run", w, "sh", "-ec", "dpkg -i /root/debs/*.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }", timeout=300)
    c.buildah("commit", "-q", "--rm", w, "localhost/packages", timeout=300)
    out = c.run("packages", "hello -g ok; stat -c %a /usr/bin/sudo; dpkg --audit; dpkg --verify sudo hello | grep -v /usr/share/ || :; "
                "printf 'int main(void){return 7;}' >x.c; gcc -o x x.c; ./x || echo $?; "
                "dpkg -P hello >/dev/null; test -e /usr/bin/hello || echo purged")
    eq(out, "ok\n4755\n7\npurged\n")


def mapped(c):
    """Other id mappings: they come from the mount, no file of the image is copied or chowned."""
    if not c.prog:
        return
    # With a kernel that can, podman 4.3 maps the lower layers' ids and asks for the same mapping once more, which cannot
    # work with any mount program. It notes in a file what the kernel can.
    for name in ("true", "false"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(c.home + "/runroot/overlay/idmapped-lower-dir-" + name, c.home + "/runroot/overlay/idmapped-lower-dir-false")
    flags = ["--userns=keep-id"] if c.user else ["--uidmap=0:300000:65536", "--gidmap=0:300000:65536"]
    out = c.podman("run", "--name", "shifted", "--pull=never", *flags, "--user=root", "localhost/built", "sh", "-ec",
                   "stat -c '%u:%g' /etc/passwd /su /etc/default/useradd; echo x >/etc/new; chown 3:4 /etc/new; stat -c %u:%g /etc/new; "
                   "echo y >>/etc/passwd")
    eq(out, "0:0\n5:6\n7:8\n3:4\n")
    upper = c.podman("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "shifted").strip()
    files = c.inside("find %s -type f | sed s,%s,," % (upper, upper)).split()
    ok("/etc/new" in files and len(files) < 12, "copied: %r" % files)
    if c.user:
        eq(c.podman("run", "--rm", "--pull=never", *flags, "localhost/built", "id", "-u"), "%d\n" % UID)
    # The image made of it has the ids of the container's inside.
    c.podman("commit", "-q", "shifted", "localhost/mapped")
    eq(c.run("mapped", "stat -c '%u:%g' /etc/new /etc/passwd"), "3:4\n0:0\n")


def overlay_volume(c):
    """-v DIR:/vol:O: buildah's overlay of a directory of the host's, through the mount program."""
    os.mkdir(c.home + "/vol")
    for name in ("a", "b"):
        write(c.home + "/vol/" + name, name)
    run("chown", "-R", "%d:%d" % ((UID, UID) if c.user else (0, 0)), c.home + "/vol")
    eq(c.run("base", "rm /vol/a; echo new >/vol/n; echo more >>/vol/b; ls /vol; cat /vol/b", "-v", c.home + "/vol:/vol:O"),
       "b\nn\nbmore\n")
    eq(ovtest.names(c.home + "/vol"), ["a", "b"])
    eq(read(c.home + "/vol/b"), b"b")


def image_mount(c):
    out = c.inside("m=$(podman image mount localhost/built); cat $m/d; ls $m/usr/share/perl5; touch $m/x 2>/dev/null || echo ro; "
                   "podman image umount localhost/built >/dev/null")
    eq(out, "file\nonly\nro\n")


def with_buildah(c):
    """buildah from, run, copy, config, commit; mount and umount."""
    w = c.buildah("from", "--pull-never", "localhost/built").strip()
    c.buildah("run", w, "sh", "-ec", "rm /one.link; mkdir /bd; echo b >/bd/b")
    c.buildah("copy", w, "build/ctx", "/bd/ctx")
    c.buildah("config", "--cmd", "cat /bd/b", w)
    got = c.inside("m=$(buildah mount %s); ls $m/bd; rm -r $m/bd/ctx/gone; buildah umount %s >/dev/null" % (w, w))
    eq(got, "b\nctx\n")
    c.buildah("commit", "-q", "--rm", w, "localhost/by-buildah")
    eq(c.podman("run", "--rm", "--pull=never", "localhost/by-buildah"), "b\n")
    eq(c.run("by-buildah", "ls /bd/ctx; test -e /one.link || echo gone"), "a\nc\ngone\n")


def remove_everything(c):
    """rm and rmi leave nothing: no mount, no daemon, no layer."""
    for attempt in range(5):  # podman may find /dev/shm of a container that has just ended busy
        p = c.call("podman", "rm", "-af", "-t", "0", check=False)
        if not p.returncode:
            break
        time.sleep(0.5)
    ok(not p.returncode, p.stderr)
    c.buildah("rm", "-a")
    c.podman("rmi", "-af")
    graph = c.podman("info", "--format", "{{.Store.GraphRoot}}").strip()
    eq([n for n in os.listdir(graph + "/overlay") if len(n) == 64], [], "layers left")
    mounts = c.inside("cut -d' ' -f2 /proc/self/mounts").splitlines()
    eq([m for m in mounts if m.startswith(graph + "/overlay/")], [], "mounts left")
    end = time.monotonic() + 10
    while c.prog and daemons(c):
        if time.monotonic() > end:
            raise Failed("daemons left: %r" % daemons(c))
        time.sleep(0.1)


def daemons(c):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink("/proc/%s/exe" % pid).startswith(c.prog):
                found.append(read("/proc/%s/cmdline" % pid).replace(b"\0", b" ")[-200:])
    return found


STEPS = (the_root_is_ours, build_and_look, diff_commit_export, save_and_load, long_running, image_mount, mapped, overlay_volume,
         with_buildah, packages, remove_everything)


def with_init(fn, *args):
    """Run FN in a child, while this process, the first of its pid namespace, reaps orphans as an init does: podman waits
    for its conmon to be gone."""
    report = ovtest._scratch + "/report"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fn(*args)
            code = 0
        except ovtest.Skip as e:
            write(report, str(e))
            code = 2
        except Failed as e:
            write(report, str(e))
        except BaseException:
            write(report, ovtest.traceback.format_exc())
        finally:
            sys.stdout.flush()
            os._exit(code)
    while True:
        got, status = os.wait()
        if got == pid:
            break
    code = os.waitstatus_to_exitcode(status)
    if code == 2:
        skip(read(report).decode())
    if code:
        raise Failed(read(report).decode() if os.path.exists(report) else "the scenario died: %d" % code)


def scenario(user):
    failures = []
    with Containers(user) as c:
        for step in STEPS:
            start = time.monotonic()
            try:
                step(c)
            except (AssertionError, OSError, KeyError, ovtest.subprocess.SubprocessError) as e:
                failures.append("%s: %s" % (step.__name__, e))
                if step is build_and_look:
                    break
            print("%s: %.1f s" % (step.__name__, time.monotonic() - start))
            sys.stdout.flush()
    if failures:
        raise Failed("\n".join(failures))


@test(modes=("root",), timeout=420)
def test_podman_root():
    """As root: import, run, build, run the result, diff, commit, export, save, exec, mappings, volumes, buildah, remove all."""
    with_init(scenario, False)


@test(modes=("root",), timeout=420)
def test_podman_rootless():
    """The same as an ordinary user."""
    with_init(scenario, True)


if __name__ == "__main__":
    ovtest.main()
