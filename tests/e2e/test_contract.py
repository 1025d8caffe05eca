#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The contract of a mount program: each caller's command line and option string, in exactly its shape.

The callers: containers/storage (podman, buildah, CRI-O), buildah's own overlays, containerd's snapshotter through
mount.fuse3, rootless dockerd. And what they do with the mount afterwards: commit, diff, export, unmount.
"""

import contextlib
import errno
import os
import stat
import string
import subprocess

import ovtest
from ovtest import (Chr, eq, Failed, fails, File, Folder, FUSE_SUPER_MAGIC, getx, Hardlink, IS_OURS, is_mounted, is_root_mode,
                    listx, lstat, mount, mount_info, MS_BIND, names, need, ok, Opaque, Overlay, populate, program, read, run, setx,
                    skip, Statfs, Sym, touch, umount2, Whiteout, write, xattr_prefix)

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep


def test(fn=None, **kw):
    kw.setdefault("not_kernel", "a command line that it does not have")
    return ovtest.test(fn, **kw)


class Layer:
    def __init__(self, home, number, parents, spec):
        self.id = ("%x" % (number + 0xabcdef)) * 10 + "0" * 4
        self.dir = os.path.join(home, self.id)
        self.diff, self.work, self.merged = (os.path.join(self.dir, n) for n in ("diff", "work", "merged"))
        self.parents = parents
        for d in (self.dir, self.diff, self.work, self.merged):
            os.mkdir(d)
            os.chmod(d, 0o755)
        self.link = "l/" + "".join(string.ascii_uppercase[(number * 7 + i * 3) % 26] for i in range(24)) + "%02d" % number
        os.symlink("../%s/diff" % self.id, os.path.join(home, self.link))
        populate(self.diff, spec)


class Store(Overlay):
    """graphroot/overlay as containers/storage has it: ID/{diff,work,merged}, l/XXXX -> ../ID/diff. Layers are named
    from the base upwards; every call of the program runs with this directory as its working directory."""

    def __init__(self, *specs, **kw):
        super().__init__(mount=False, **kw)
        self.home = self._mkdir("overlay")
        os.mkdir(self.home + "/l")
        self.layers = []
        for spec in specs:
            self.add(spec)

    def add(self, spec=None):
        layer = Layer(self.home, len(self.layers), self.layers[::-1], spec)
        self.layers.append(layer)
        return layer

    def lower_links(self, layer, absolute=False):
        return [os.path.join(self.home, p.link) if absolute else p.link for p in layer.parents]

    def rw_options(self, layer, extra="", absolute=True):
        lower = ":".join(self.lower_links(layer, absolute))
        upper, work = (layer.diff, layer.work) if absolute else (layer.id + "/diff", layer.id + "/work")
        return "lowerdir=%s,upperdir=%s,workdir=%s%s" % (lower, upper, work, extra)

    def ro_options(self, layer):
        return "lowerdir=" + ":".join([layer.diff] + self.lower_links(layer, absolute=True))

    def call(self, options, target, env=None):
        """PROG -o OPTIONS TARGET; the caller reads both outputs together to their end, then looks at the mount."""
        self.mnt = target
        self.env = env
        self.mount(argv=[self.program or program(), "-o", options, target], cwd=self.home)
        eq(Statfs(target).type, FUSE_SUPER_MAGIC, "statfs magic")
        return self

    def rw(self, layer, extra="", absolute=True):
        return self.call(self.rw_options(layer, extra, absolute), layer.merged)

    def ro(self, layer):
        return self.call(self.ro_options(layer), layer.merged)

    def remove_marker(self, layer):
        """containers/storage does this before each mount."""
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["rm", "-rf", layer.work + "/work/incompat/volatile"], check=True)


BASE = {"bin/sh": File("shell", mode=0o755), "etc/passwd": "root", "etc/old": "1", "var/lib/x": "y", "usr/a": "a",
        "usr/b": Hardlink("usr/a"), "lnk": Sym("etc/passwd")}
MIDDLE = {"etc/new": "2", "etc/old": Whiteout(), "var/lib": Opaque({"z": "zz"})}


def check_base(store, layer):
    eq(names(store.mnt), ["bin", "etc", "lnk", "usr", "var"])
    eq(names(store.m("etc")), ["new", "passwd"])
    eq(names(store.m("var/lib")), ["z"])
    write(store.m("etc/passwd"), "changed")
    os.rename(store.m("etc/new"), store.m("etc/newer"))
    os.unlink(store.m("bin/sh"))
    os.mkdir(store.m("run"))
    eq(names(store.m("etc")), ["newer", "passwd"])
    eq(read(layer.diff + "/etc/passwd"), b"changed")


# --------------------------------------------------------------------------------------------------- podman

@test
def test_podman_rw():
    """podman: absolute links, upper and work, working directory graphroot/overlay."""
    with Store(BASE, MIDDLE, None) as s:
        s.rw(s.layers[2])
        check_base(s, s.layers[2])
        s.umount()


@test
def test_podman_rw_relative():
    """podman with many layers: links and directories relative to its working directory."""
    with Store(BASE, MIDDLE, None) as s:
        s.rw(s.layers[2], absolute=False)
        check_base(s, s.layers[2])
        s.umount()


@test
def test_podman_rw_mountopt():
    """storage.conf's mountopt comes behind the directories."""
    for extra in (",nodev", ",nodev,metacopy=off", ",nodev,fsync=0", ",nodev,noxattrs=0"):
        with Store(BASE, MIDDLE, None) as s:
            s.rw(s.layers[2], extra)
            check_base(s, s.layers[2])
            ok("nodev" in mount_info(s.mnt)[0].split(","), "nodev is not in force")
            s.umount()


@test
def test_podman_empty_environment():
    """Nothing is needed from the environment, not even PATH and HOME."""
    with Store(BASE, MIDDLE, None) as s:
        s.call(s.rw_options(s.layers[2]), s.layers[2].merged, env={})
        check_base(s, s.layers[2])
        s.umount()


@test
def test_podman_volatile():
    """volatile: the marker is written; the caller removes it before the next mount; found there, it is refused."""
    with Store(BASE, MIDDLE, None) as s:
        top = s.layers[2]
        s.remove_marker(top)
        s.rw(top, ",volatile")
        check_base(s, top)
        with open(s.m("f"), "wb") as f:
            f.write(b"x")
            os.fsync(f.fileno())
        s.umount()
        if IS_OURS:
            ok(os.path.isdir(top.work + "/work/incompat/volatile"), "no marker")
            e = fails(errno.EIO, s.rw, top, ",volatile")
            ok("volatile" in e.text and len(e.text.splitlines()) == 1, e.text)
            fails(errno.EIO, s.rw, top)
        s.remove_marker(top)
        s.rw(top, ",volatile")
        eq(read(s.m("f")), b"x")
        s.umount()


@test
def test_podman_ro():
    """podman image mount, diff and commit: the layer itself first, no upper, no work."""
    with Store(BASE, MIDDLE, {"top": "t", "bin/sh": Whiteout()}) as s:
        s.ro(s.layers[2])
        eq(names(s.mnt), ["bin", "etc", "lnk", "top", "usr", "var"])
        eq(names(s.m("bin")), [])
        fails(errno.EROFS, write, s.m("x"), "")
        s.umount()
        s.ro(s.layers[0])  # a base layer: one lower alone
        eq(read(s.m("etc/old")), b"1")
        eq(s.layers[0].parents, [])
        s.umount()


@test
def test_podman_restart():
    """A container is stopped and started: the same directories again, several times."""
    with Store(BASE, MIDDLE, None) as s:
        top = s.layers[2]
        for i in range(5):
            s.rw(top)
            write(s.m("run%d" % i), str(i))
            eq([n for n in names(s.mnt) if n.startswith("run")], ["run%d" % j for j in range(i + 1)])
            s.umount()


@test
def test_podman_context():
    """context="..." with quotes and a comma inside, and an option behind it. Where SELinux is not active the kernel refuses
    the option: it is left out then, with a warning."""
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    with Store(BASE, MIDDLE, None) as s:
        s.rw(s.layers[2], ',context="%s",noatime' % label)
        ok("noatime" in mount_info(s.mnt)[0].split(","), "the option behind context= is lost")
        if os.path.isdir("/sys/fs/selinux") and os.listdir("/sys/fs/selinux"):
            ok(label in mount_info(s.mnt)[3], mount_info(s.mnt)[3])
        elif IS_OURS:
            ok("context" in s.output, "no warning: %r" % s.output)
            eq(len(s.output.splitlines()), 1, "lines")
        check_base(s, s.layers[2])
        s.umount()


# ---------------------------------------------------------------------- podman --userns=keep-id, auto

MAPS = ",uidmapping=:0:1000:1:1:2000:60000,gidmapping=:0:1000:1:1:2000:60000"


def owned(uid, gid, data="x", mode=0o666):
    return File(data, uid=uid, gid=gid, mode=mode)


def owner(path):
    st = lstat(path)
    return st.st_uid, st.st_gid


@test(ids=True)
def test_podman_mappings():
    """uidmapping=:DISK:VIEW:LEN...: a colon in front, all triples joined; ids of the disk show mapped, and back."""
    spec = {"r": owned(0, 0), "u": owned(5, 6), "out": owned(65000, 65000), "d": Folder(uid=5, gid=6, mode=0o777)}
    with Store(spec, None) as s:
        top = s.layers[1]
        os.chmod(top.diff, 0o777)
        s.rw(top, MAPS)
        eq(owner(s.m("r")), (1000, 1000))
        eq(owner(s.m("u")), (2004, 2005))
        eq(owner(s.m("d")), (2004, 2005))
        eq(owner(s.m("out")), (65534, 65534), "an id without a place in the view")
        os.chown(s.m("r"), 2004, 1000)
        eq(owner(top.diff + "/r"), (5, 0), "chown stores the id of the disk")
        eq(owner(s.m("r")), (2004, 1000))
        ovtest.as_user(1000, 1000, write, s.m("mine"), "1")
        eq(owner(s.m("mine")), (1000, 1000))
        eq(owner(top.diff + "/mine"), (0, 0))
        ovtest.as_user(2004, 2005, os.mkdir, s.m("d/sub"))
        eq(owner(top.diff + "/d/sub"), (5, 6))
        eq(owner(top.diff + "/d"), (5, 6), "copied up")
        ovtest.as_user(2004, 2005, write, s.m("u"), "2")
        eq(owner(top.diff + "/u"), (5, 6))
        fails((errno.EACCES, errno.EPERM), ovtest.as_user, 3000, 3000, os.chmod, s.m("u"), 0o600)
        s.umount()
        eq(owner(s.layers[0].diff + "/u"), (5, 6))


@test(ids=True)
def test_podman_mappings_caller_outside():
    """podman itself makes files (etc/hosts, a working directory) as an id that the map does not have: this works."""
    with Store({"etc/x": owned(0, 0)}, None) as s:
        top = s.layers[1]
        s.rw(top, MAPS)
        write(s.m("hosts"), "1")
        os.makedirs(s.m("work/dir"))
        eq(read(s.m("hosts")), b"1")
        eq(owner(s.m("hosts")), (65534, 65534))
        os.chown(s.m("work/dir"), 1000, 1000)
        eq(owner(top.diff + "/work/dir"), (0, 0))
        s.umount()


@test(ids=True)
def test_podman_mappings_readonly():
    """The same with read-only mounts, as commit makes them."""
    with Store({"r": owned(0, 0), "u": owned(5, 6)}, {"n": owned(1, 1)}) as s:
        s.call(s.ro_options(s.layers[1]) + MAPS, s.layers[1].merged)
        eq((owner(s.m("r")), owner(s.m("u")), owner(s.m("n"))), ((1000, 1000), (2004, 2005), (2000, 2000)))
        s.umount()


@test(ids=True)
def test_podman_squash():
    """squash_to_uid, squash_to_gid: everything belongs to that one; chown is accepted, and changes nothing that is seen."""
    with Store({"r": owned(0, 0), "u": owned(5, 6)}, None) as s:
        s.rw(s.layers[1], ",squash_to_uid=2000,squash_to_gid=3000")
        for name in ("r", "u", "."):
            eq(owner(s.m(name)), (2000, 3000), name)
        write(s.m("n"), "1")
        eq(owner(s.m("n")), (2000, 3000))
        os.chown(s.m("n"), 7, 8)
        eq(owner(s.m("n")), (2000, 3000))
        s.umount()


@test(ids=True)
def test_squash_to_root():
    """squash_to_root."""
    with Store({"u": owned(5, 6)}, None) as s:
        s.rw(s.layers[1], ",squash_to_root")
        eq(owner(s.m("u")), (0, 0))
        s.umount()


# -------------------------------------------------------------------------------- force_mask stores

OVERRIDE = "user.containers.override_stat"


def masked(value, data="", **kw):
    """A file as a store with force_mask=700 keeps it."""
    return File(data, mode=0o700, xattrs={OVERRIDE: value}, **kw)


@test(only_ours="1.10 writes another name than it reads")
def test_podman_xattr_permissions():
    """xattr_permissions=2: owner, mode and type live in an xattr, the files themselves are the daemon's, mode 0700."""
    spec = {"f": masked("5:6:0644:file", "data"), "old": masked("7:8:0640", "3 fields"), "su": masked("0:0:4755:file"),
            "fifo": masked("1:2:0600:pipe"), "sock": masked("1:2:0600:socket"), "chr": masked("0:0:0666:char-1-3"),
            "blk": masked("0:0:0660:block-8-1"), "bad": masked("what:is:this"),
            "d": Folder({"in": masked("5:6:0600:file")}, mode=0o700, xattrs={OVERRIDE: "5:6:1777:dir"})}
    with Store(spec, None) as s:
        low, top = s.layers
        for layer in s.layers:
            setx(layer.diff, OVERRIDE, "0:0:0755:dir")
        s.rw(top, ",xattr_permissions=2")

        def shown(name):
            st = lstat(s.m(name))
            return st.st_uid, st.st_gid, oct(st.st_mode)
        want = {"f": (5, 6, "0o100644"), "old": (7, 8, "0o100640"), "su": (0, 0, "0o104755"), "fifo": (1, 2, "0o10600"),
                "sock": (1, 2, "0o140600"), "chr": (0, 0, "0o20666"), "blk": (0, 0, "0o60660"), "d": (5, 6, "0o41777"),
                "d/in": (5, 6, "0o100600")}
        eq({n: shown(n) for n in want}, want)
        eq((os.major(lstat(s.m("chr")).st_rdev), os.minor(lstat(s.m("chr")).st_rdev)), (1, 3))
        eq(lstat(s.m("blk")).st_rdev, os.makedev(8, 1))
        eq([n for n in listx(s.m("f")) if "override" in n or "overlay" in n], [], "hidden xattrs")

        def change():
            write(s.m("n"), "new")
            os.chown(s.m("n"), 11, 12)
            os.mkdir(s.m("nd"))
            os.chmod(s.m("nd"), 0o2775)
            os.mkfifo(s.m("np"), 0o622)
            os.symlink("target", s.m("ns"))
            os.chmod(s.m("f"), 0o600)
            os.chown(s.m("f"), 21, 22)
            ovtest.append(s.m("d/in"), "more")
            setx(s.m("n"), "security.capability", CAPABILITY)
            write(s.m("n"), "new")
            os.chmod(s.m("n"), 0o4711)
        change()
        want.update({"n": (11, 12, "0o104711"), "f": (21, 22, "0o100600")})
        for again in (False, True):
            eq({n: shown(n) for n in want}, want)
            eq(shown("nd")[2], "0o42775")
            eq(shown("np")[2], "0o10600")  # less the umask
            eq(getx(s.m("n"), "security.capability"), None, "the write takes it away")
            eq(os.readlink(s.m("ns")), "target")
            eq(read(s.m("f")), b"data")
            eq(read(s.m("d/in")), b"more")
            s.umount()
            if not again:
                s.rw(top, ",xattr_permissions=2")
        for name in ("n", "f"):
            st = lstat(os.path.join(top.diff, name))
            eq((st.st_uid, st.st_gid, oct(st.st_mode & 0o107600)), (0, 0, "0o100600"), "on disk: " + name)
            ok((getx(os.path.join(top.diff, name), OVERRIDE) or b"").startswith(b"11:12:" if name == "n" else b"21:22:"),
               "no override_stat on " + name)


@test(only_ours="detection a layer")
def test_override_of_lowers_only():
    """Lowers of a masked store, told by the xattr of their roots, without any option: shown as meant. Other layers are not."""
    with Store({"f": masked("5:6:0640:file", "x")}, {"g": masked("5:6:0640:file", "y")}, None) as s:
        setx(s.layers[0].diff, OVERRIDE, "0:0:0755:dir")
        s.rw(s.layers[2])
        eq((owner(s.m("f")), stat.S_IMODE(lstat(s.m("f")).st_mode)), ((5, 6), 0o640))
        eq((owner(s.m("g")), stat.S_IMODE(lstat(s.m("g")).st_mode)), ((0, 0), 0o700))
        s.umount()


# -------------------------------------------------------------------------------------------------- buildah

@test
def test_buildah_overlay():
    """buildah's overlay volumes: `private` behind the directories, a colon in the source escaped."""
    with Overlay({"a": "x"}, mount=False) as o:
        src = o.base + "/vol:ume"
        os.rename(o.lowers[0], src)
        opts = "lowerdir=%s,upperdir=%s,workdir=%s,private" % (src.replace(":", "\\:"), o.upper, o.work)
        p = subprocess.run([program(), "-o", opts, o.mnt], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=20)
        eq(p.returncode, 0, p.stdout)
        eq(read(o.m("a")), b"x")
        write(o.m("b"), "y")
        eq(names(o.upper), ["b"])
        umount2(o.mnt)


@test
def test_buildah_context():
    """The same with a context behind it."""
    with Overlay({"a": "x"}, mount=False) as o:
        o.mount(argv=[program(), "-o", o.option_string() + ',private,context="system_u:object_r:container_file_t:s0:c1,c2"', o.mnt])
        eq(read(o.m("a")), b"x")
        o.umount()


# ----------------------------------------------------------------------- containerd, dockerd, the name

def install_as(o, name):
    """The program where mount.fuse3 and PATH find it as NAME; in this namespace only."""
    os.mkdir(o.base + "/bin")
    run("cp", program(), o.base + "/bin/" + name)
    mount(o.base + "/bin", "/usr/local/bin", None, MS_BIND)


@test
def test_containerd():
    """containerd: mount.fuse3 overlay TARGET -o workdir,upperdir,lowerdir -t fuse-overlayfs; outputs are pipes."""
    need("mount.fuse3")
    with Overlay([{"a": "0"}, {"b": "1"}], mount=False) as o:
        install_as(o, "fuse-overlayfs")
        opts = "workdir=%s,upperdir=%s,lowerdir=%s" % (o.work, o.upper, ":".join(o.lowers))
        o.mount(argv=["mount.fuse3", "overlay", o.mnt, "-o", opts, "-t", "fuse-overlayfs"])
        eq(names(o.mnt), ["a", "b"])
        write(o.m("n"), "x")
        eq(names(o.upper), ["n"])
        eq(mount_info(o.mnt)[1], "fuse.fuse-overlayfs")
        o.umount()


@test
def test_containerd_two_positionals():
    """What mount.fuse3 makes of it: two positionals, the last is the mountpoint; dev, suid at the end."""
    with Overlay([{"a": "0"}, {"b": "1"}], mount=False) as o:
        opts = "workdir=%s,upperdir=%s,lowerdir=%s,dev,suid" % (o.work, o.upper, ":".join(o.lowers))
        o.mount(argv=[program(), "overlay", o.mnt, "-o", opts])
        eq(names(o.mnt), ["a", "b"])
        write(o.m("n"), "x")
        options = mount_info(o.mnt)[0].split(",")
        ok("nosuid" not in options and (not is_root_mode() or "nodev" not in options), options)
        o.umount()


@test
def test_containerd_probe():
    """The snapshotter's probe: a read-only mount of two empty lowers."""
    with Overlay([{}, {}], upper=False, mount=False) as o:
        o.mount(argv=[program(), "overlay", o.mnt, "-o", "lowerdir=" + ":".join(o.lowers)])
        eq(names(o.mnt), [])
        o.umount()


@test
def test_dockerd():
    """rootless dockerd: found as fuse-overlayfs in PATH; unmounted; then the mountpoint is removed."""
    with Overlay([{"a": "0"}, {"b": "1"}], mount=False) as o:
        install_as(o, "fuse-overlayfs")
        opts = "lowerdir=%s,upperdir=%s,workdir=%s" % (":".join(o.lowers), o.upper, o.work)
        o.env = dict(os.environ, PATH="/usr/local/bin:" + os.environ.get("PATH", ""))
        o.mount(argv=["fuse-overlayfs", "-o", opts, "merged"], cwd=o.base)
        eq(mount_info(o.mnt)[1], "fuse.fuse-overlayfs")
        write(o.m("a"), "1")
        o.umount()
        os.rmdir(o.mnt)


@test
def test_podman_info():
    """podman info shows --version."""
    p = subprocess.run([program(), "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, timeout=10, env={}, cwd="/")
    eq(p.returncode, 0)
    ok(p.stdout.strip() and len(p.stdout.splitlines()) < 6, p.stdout)
    if IS_OURS:
        ok(p.stdout.startswith("fuse-overlay"), p.stdout)


# ----------------------------------------------------------------------------------------------- unmounting

@test
def test_unmount_and_rmdir():
    """fusermount3 -u, then rmdir of the mountpoint, with no waiting in between."""
    need("fusermount3")
    with Store(BASE, MIDDLE, None) as s:
        for i in range(5):
            s.rw(s.layers[2])
            write(s.m("n"), str(i))
            run("fusermount3", "-u", s.mnt)
            s.mounted = False
            os.rmdir(s.mnt)
            eq(read(s.layers[2].diff + "/n"), str(i).encode())
            s.wait_daemon()
            os.mkdir(s.mnt)


@test
def test_lazy_detach_and_rename():
    """syncfs, lazy detach, and a rename over the mountpoint at once."""
    with Store(BASE, MIDDLE, None) as s:
        s.rw(s.layers[2])
        write(s.m("n"), "data")
        fd = os.open(s.mnt, os.O_RDONLY)
        ovtest.syncfs(fd)
        os.close(fd)
        umount2(s.mnt, ovtest.MNT_DETACH)
        s.mounted = False
        os.mkdir(s.mnt + ".new")
        os.rename(s.mnt + ".new", s.mnt)
        s.wait_daemon()
        eq(read(s.layers[2].diff + "/n"), b"data")


@test
def test_umount_right_after_mount():
    """Mounted and unmounted at once, again and again, as `podman build` does."""
    with Store(BASE, MIDDLE, None) as s:
        for _ in range(30):
            s.rw(s.layers[2])
            s.umount()


# ------------------------------------------------------------------------- commit, diff, export: the view

def walk(path):
    """What containers' archive walk collects: {name: (type, mode, size, nlink, ino, link, xattrs)}."""
    out = {}

    def visit(p, rel):
        st = os.lstat(p)
        keys = listx(p)
        ok(not [k for k in keys if "overlay" in k or "override" in k], "%s shows %r" % (rel, keys))
        link = os.readlink(p) if stat.S_ISLNK(st.st_mode) else None
        out[rel] = st, link, {k: getx(p, k) for k in keys if k.startswith("user.") or k == "security.capability"}
        if stat.S_ISDIR(st.st_mode):
            for n in names(p):
                visit(os.path.join(p, n), os.path.join(rel, n))
    visit(path, "")
    return out


OCI = {"etc/old": "1", "etc/keep": "2", "dir/a": "a", "dir/b": "b", "usr/x": "x", "gone/deep/f": "f"}
OCI_TOP = {"etc/.wh.old": "", "dir/.wh..wh..opq": "", "dir/c": "c", ".wh.gone": "", "usr/.wh.none": "",
           "usr/y": File("y", xattrs={"user.mine": "1"}), "usr/z": Hardlink("usr/y")}


@test
def test_pulled_layers():
    """Layers as they are unpacked: .wh.NAME and .wh..wh..opq; they hide, and are not seen, in upper and lower."""
    with Store(OCI, OCI_TOP, None) as s:
        for how in ("rw", "ro", "upper"):
            if how == "rw":
                s.rw(s.layers[2])
            elif how == "ro":
                s.ro(s.layers[1])
            else:
                s.rw(s.layers[1])
            w = walk(s.mnt)
            eq(sorted(n for n in w if n), ["dir", "dir/c", "etc", "etc/keep", "usr", "usr/x", "usr/y", "usr/z"], how)
            eq(w["usr/y"][2], {"user.mine": b"1"})
            eq((w["usr/y"][0].st_nlink, w["usr/y"][0].st_ino), (2, w["usr/z"][0].st_ino), how)
            fails(errno.ENOENT, lstat, s.m("etc/old"))
            fails(errno.ENOENT, lstat, s.m("etc/.wh.old"))
            fails(errno.ENOENT, lstat, s.m("dir/.wh..wh..opq"))
            s.umount()


@test
def test_all_kinds_in_all_layers():
    """Kernel's and AUFS's markers, opaque in three spellings, in any layer."""
    user = "user.fuseoverlayfs.opaque"
    base = {"d%d/%s" % (i, n): n for i in range(5) for n in ("a", "b")}
    middle = {"d0": Opaque({"c": ""}), "d1": Folder({"c": ""}, xattrs={user: "y"}), "d2/.wh..wh..opq": "", "d2/c": "",
              "d3/a": Whiteout(), "d4/.wh.a": ""}
    with Store(base, middle, None) as s:
        for how in ("lower", "upper"):
            s.rw(s.layers[2 if how == "lower" else 1])
            eq({d: names(s.m(d)) for d in names(s.mnt)},
               {"d0": ["c"], "d1": ["c"], "d2": ["c"], "d3": ["b"], "d4": ["b"]}, how)
            s.umount()


@test
def test_whiteout_in_middle_below_upper_directory():
    """.wh.d in a middle layer counts although the upper has a directory d."""
    with Store({"d/old": "1"}, {".wh.d": ""}, {"d/new": "2"}) as s:
        s.rw(s.layers[2])
        eq(names(s.m("d")), ["new"])
        s.umount()


@test
def test_commit_walk():
    """A container's changes, then layer and parent mounted read-only: exactly the differences are seen."""
    base = dict(BASE, **{"usr/cap": File("c", mode=0o755), "usr/su": File("s", mode=0o4755), "del/x": "", "del/y": "",
                         "opq/x": "", "opq/y": "", "tofile/x": "", "todir": "f", "chm": "c"})
    with Store(base, None) as s:
        low, top = s.layers
        if is_root_mode():
            setx(low.diff + "/usr/cap", "security.capability", CAPABILITY)
        s.rw(top)
        run("rm", "-rf", s.m("del"), s.m("opq"), s.m("tofile"), s.m("todir"))
        os.mkdir(s.m("opq"))
        write(s.m("opq/new"), "")
        write(s.m("tofile"), "")
        os.makedirs(s.m("todir/sub"))
        os.chmod(s.m("chm"), 0o600)
        write(s.m("new"), "n")
        os.link(s.m("new"), s.m("new2"))
        setx(s.m("new"), "user.mine", "1")
        touch(s.m("usr/su"))
        os.chown(s.m("usr/cap"), 0, 0)
        os.unlink(s.m("usr/b"))
        if is_root_mode():
            setx(s.m("new"), "security.capability", CAPABILITY)
        os.umask(0o022)
        os.mkfifo(s.m("fifo"))
        want = walk(s.mnt)
        s.umount()
        s.ro(low)
        parent = walk(s.mnt)
        s.umount()
        s.ro(top)
        layer = walk(s.mnt)
        s.umount()
        eq(sorted(layer), sorted(want), "the layer alone shows what the container saw")
        gone = sorted(set(parent) - set(layer))
        eq(gone, ["del", "del/x", "del/y", "opq/x", "opq/y", "tofile/x", "usr/b"])
        eq(sorted(set(layer) - set(parent)), ["fifo", "new", "new2", "opq/new", "todir/sub"])
        for name, (st, link, xattrs) in layer.items():
            st0, link0, xattrs0 = want[name]
            eq((name, oct(st.st_mode), link, xattrs), (name, oct(st0.st_mode), link0, xattrs0))
            if not stat.S_ISDIR(st.st_mode):
                eq((name, st.st_size, st.st_nlink, st.st_mtime_ns), (name, st0.st_size, st0.st_nlink, st0.st_mtime_ns))
        eq((layer["new"][0].st_ino, layer["new"][0].st_nlink), (layer["new2"][0].st_ino, 2))
        eq(layer["new"][2].get("user.mine"), b"1")
        if is_root_mode():
            eq(layer["new"][2]["security.capability"], CAPABILITY)
            eq("security.capability" in parent["usr/cap"][2], True)
            # chown takes the capability away, as the kernel does it on any file system.
            eq("security.capability" in layer["usr/cap"][2], "security.capability" in want["usr/cap"][2])


@test(only_ours="theirs refuse or hide the name")
def test_wh_names_are_ordinary():
    """A program in the container makes a file called .wh.x: it is there, after a remount and in the next layer too."""
    with Store({"d/x": "low", "d/y": "low"}, None, None) as s:
        s.rw(s.layers[1])
        write(s.m("d/.wh.x"), "mine")
        touch(s.m("d/.wh.y"))
        write(s.m(".wh..wh..opq"), "")
        write(s.m("tmp"), "moved")
        os.rename(s.m("tmp"), s.m("d/.wh.moved"))
        os.link(s.m("d/.wh.x"), s.m("d/.wh.link"))
        os.symlink("x", s.m("d/.wh.sym"))
        os.mkdir(s.m("d/.wh.dir"))
        want = ["d/" + n for n in sorted((".wh.dir", ".wh.link", ".wh.moved", ".wh.sym", ".wh.x", ".wh.y", "x", "y"))]

        def check(what):
            eq(["d/" + n for n in names(s.m("d"))], want, what)
            eq(read(s.m("d/.wh.x")), b"mine", what)
            eq(read(s.m("d/x")), b"low", what)
            eq(read(s.m("d/.wh.moved")), b"moved", what)
            eq(names(s.mnt), [".wh..wh..opq", "d"], what)
        check("at once")
        s.umount()
        s.rw(s.layers[1])
        check("after a remount")
        s.umount()
        s.rw(s.layers[2])
        check("in the next layer")
        os.unlink(s.m("d/.wh.x"))
        want.remove("d/.wh.x")
        eq(["d/" + n for n in names(s.m("d"))], want)
        s.umount()
        s.ro(s.layers[2])
        eq(["d/" + n for n in names(s.m("d"))], want)
        s.umount()


@test(only_ours="an option of the environment")
def test_store_without_device_whiteouts():
    """FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT: no device is made for a deletion, and it stays deleted."""
    with Store({"a": "1", "d/b": "2", "e/f": "3"}, None, None) as s:
        env = dict(os.environ, FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT="1")
        s.call(s.rw_options(s.layers[1]), s.layers[1].merged, env=env)
        os.unlink(s.m("a"))
        os.unlink(s.m("d/b"))
        run("rm", "-r", s.m("e"))
        os.mkdir(s.m("e"))
        s.umount()
        for path, _, files in os.walk(s.layers[1].diff):
            for n in files:
                ok(not stat.S_ISCHR(lstat(os.path.join(path, n)).st_mode), "a device: " + n)
        for mount_it in (lambda: s.ro(s.layers[1]), lambda: s.rw(s.layers[1]), lambda: s.rw(s.layers[2])):
            mount_it()
            eq((names(s.mnt), names(s.m("d")), names(s.m("e"))), (["d", "e"], [], []))
            s.umount()


@test
def test_upper_becomes_lower():
    """An upper is used as a lower of the next layer without any change, layer upon layer."""
    with Store({"f%d" % i: str(i) for i in range(6)}) as s:
        for i in range(6):
            layer = s.add()
            s.rw(layer)
            eq(names(s.mnt), sorted(["f%d" % j for j in range(i, 6)] + ["g%d" % j for j in range(i)]))
            os.unlink(s.m("f%d" % i))
            write(s.m("g%d" % i), "")
            s.umount()


@test
def test_private_xattrs_do_not_show():
    """No xattr of the overlay, of fuse-overlayfs or of a masked store shows, whoever asks, and none gets into a layer."""
    hidden = {"user.fuseoverlayfs.origin": "x", "user.fuseoverlayfs.opaque": "n", "user.overlay.origin": "",
              "user.containers.override_stat": "0:0:0644"}
    if is_root_mode():
        hidden["trusted.overlay.origin"] = ""
    with Store({"f": File("x", xattrs=dict(hidden, **{"user.seen": "1"})), "d": Folder(xattrs={"user.overlay.impure": "y"})}, None) as s:
        s.rw(s.layers[1])
        for _ in range(2):
            eq([k for k in listx(s.m("f")) if k.startswith(("user.", "trusted."))], ["user.seen"])
            eq([k for k in listx(s.m("d")) if k.startswith(("user.", "trusted."))], [])
            for k in hidden:
                eq(getx(s.m("f"), k), None, k)
            ovtest.append(s.m("f"), "y")  # copied up now
            os.chmod(s.m("d"), 0o700)
        s.umount()
        left = [k for k in listx(s.layers[1].diff + "/f") if k.startswith("user.fuseoverlayfs")]
        eq(left, [], "carried to upper")


@test(modes=("root",))
def test_device_nodes_show_through():
    """A device in a layer is not a whiteout unless it is 0/0."""
    with Store({"null": Chr(1, 3), "gone": "x"}, {"gone": Whiteout(), "zero": Chr(1, 5)}, None) as s:
        s.rw(s.layers[2])
        eq(names(s.mnt), ["null", "zero"])
        eq(lstat(s.m("zero")).st_rdev, os.makedev(1, 5))
        s.umount()


if __name__ == "__main__":
    ovtest.main()
