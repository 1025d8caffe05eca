#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The power fails: the upper's file system lies on a disk that remembers every write and every flush (tests/faults/disk.c),
and is made again as it was at each flush, and with some of the writes that came after it, in any order. Whatever of that is
mounted shows, through ours and through the kernel's overlay, the state before a step or the one after it, and what was
fsynced is there; workdir is clean, and the lower is untouched.

While the steps are done the file system commits names and attributes before every change that the daemon makes, but not the
data: that is when a file without its data would be seen.

OV_POWERLOSS_ALL=1 takes all flushes, in some minutes; OV_POWERLOSS_ROUNDS=N tries so many choices of the writes after each;
OV_CHANGE=NAME takes only the change of that name; OV_POWERLOSS_FS=ext4,xfs,btrfs names the file systems.
"""

import random

from faults import *
import ovtest

ALL = bool(os.environ.get("OV_POWERLOSS_ALL"))
ROUNDS = int(os.environ.get("OV_POWERLOSS_ROUNDS", 1))
ONLY = os.environ.get("OV_CHANGE", "")
WRITE, FLUSH, MARK = 1, 2, 3
SECTOR = 4096  # so much of a write, and no less, is on the disk or is not
BTRFS_IOC_START_SYNC, BTRFS_IOC_WAIT_SYNC = 0x80089418, 0x40089416

# name: size of the disk, how it is made, how it is mounted
FILE_SYSTEMS = {
    "ext4": (16 << 20, ["mkfs.ext4", "-q", "-F", "-m0", "-b4096", "-E", "nodiscard"], ""),
    "xfs": (300 << 20, ["mkfs.xfs", "-q", "-f", "-K"], ""),
    "btrfs": (128 << 20, ["mkfs.btrfs", "-q", "-f", "-K"], ""),
}


def disk_program():
    prog = built("disk")
    if not prog:
        skip("tests/faults/disk is not built (make tests/faults/disk)")
    return prog


def read_log(path):
    """[(kind, offset, data)]"""
    log, at, out = read(path), 0, []
    while at < len(log):
        kind, length, offset = struct.unpack_from("=IIQ", log, at)
        out.append((kind, offset, log[at + 16:at + 16 + length]))
        at += 16 + length
    return out


def sync_plan(change, before, after):
    """What has to be fsynced so that AFTER is there: files and directories. None: that cannot be done."""
    files, dirs = set(), set()
    names_move = set(before) != set(after) or change.name.startswith(("rename", "link", "index"))
    for name in set(before) | set(after):
        a, b = before.get(name), after.get(name)
        if a == b:
            continue
        if a is None or b is None or a["type"] != b["type"] or names_move:
            dirs.add(os.path.dirname(name))
        if b is None:
            continue
        if b["type"] == "dir":
            dirs.add(name)
        elif b["type"] == "file":
            files.add(name)
        elif a is not None and not names_move:
            return None
    return files, {d for d in dirs if d == "" or d in after}


class Recorder(Layers):
    """Layers with the upper on such a disk."""

    def __init__(self, fs):
        super().__init__()
        self.fs = fs
        size, mkfs, self.fs_options = FILE_SYSTEMS[fs]
        need(mkfs[0])
        self.disk_program = disk_program()
        self.template, self.image, self.log = (os.path.join(self.base, n) for n in ("template", "image", "disk-log"))
        self.server, self.disk = self._mkdir("server"), self._mkdir("disk")
        self.upper, self.work = os.path.join(self.disk, "upper"), os.path.join(self.disk, "work")
        with open(self.template, "wb") as f:
            f.truncate(size)
        run(*mkfs, self.template)
        self.mount_disk(self.template)
        os.mkdir(self.upper)
        os.mkdir(self.work)
        touch(os.path.join(self.disk, "pulse"))
        umount2(self.disk)

    def mount_disk(self, image):
        p = run("mount", "-t", self.fs, "-o", ",".join(filter(None, ("loop", self.fs_options))), image, self.disk, check=False)
        if p.returncode:
            if image == self.template:
                skip("%s cannot be mounted here: %s" % (self.fs, p.stderr.strip()))
            raise Failed("%s cannot be mounted: %s" % (image, p.stderr))

    def mark(self, text):
        write(os.path.join(self.server, "mark"), text)

    def commit(self):
        """As the daemon does before each change."""
        fd = os.open(os.path.join(self.disk, "pulse"), os.O_RDWR)
        try:
            transid = fcntl.ioctl(fd, BTRFS_IOC_START_SYNC, bytes(8))
            fcntl.ioctl(fd, BTRFS_IOC_WAIT_SYNC, transid)
        except OSError:
            os.fchmod(fd, 0o644)
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync(self, change, before, after):
        """fsync what the step changed; False where that is not possible."""
        plan = sync_plan(change, before, after)
        if plan is None or "fsync=0" in self.opts:
            return False
        for name in sorted(plan[0]) + sorted(plan[1]):
            fd = os.open(self.m(name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        return True

    def prepared(self, change):
        """As fresh(), with upper and work on the disk."""
        self.program = faulty_program()
        self.env = dict(os.environ, OV_FAULT_PAGE=self.page.path, OV_FAULT_PULSE=os.path.join(self.disk, "pulse"),
                        **(change.env or {}))
        for call, error in (change.missing or {}).items():
            self.page.fail(error, sticky=True, only=call)
        self.mount(change.opts)
        self.page.rest()
        for step in change.prep:
            step(self)

    def record(self, change):
        """Do the steps of CHANGE on the disk. The states, and the log from there on with self.image as it was before it."""
        run("cp", "--sparse=always", "--reflink=auto", self.template, self.image)
        run(self.disk_program, self.image, self.log, self.server)
        self.mount_disk(os.path.join(self.server, "disk"))
        self.prepared(change)
        fd = os.open(self.disk, os.O_RDONLY)
        syncfs(fd)
        os.close(fd)
        states = [self.view()]
        self.mark("start")
        self.page.pulse(True)
        for n, step in enumerate(change.steps):
            self.mark("begin %d" % (n + 1))
            step(self)
            states.append(self.view())
            if self.sync(change, states[-2], states[-1]):
                self.mark("synced %d" % (n + 1))
            else:
                self.commit()
        self.page.pulse(False)
        self.umount()
        umount2(self.disk)
        umount2(self.server)
        run("cp", "--sparse=always", "--reflink=auto", self.template, self.image)
        log = read_log(self.log)
        os.unlink(self.log)
        start = log.index((MARK, 0, b"start"))
        with open(self.image, "r+b", buffering=0) as f:
            for kind, offset, data in log[:start]:
                if kind == WRITE:
                    os.pwrite(f.fileno(), data, offset)
        return states, log[start:]


def moments(log):
    """Of each flush: (number, writes since the one before, writes that come after it, steps certain, steps begun before it,
    steps begun before the next)."""
    groups, begun, certain = [([], 0, 0)], 0, 0
    for kind, offset, data in log:
        if kind == WRITE:
            groups[-1][0].append((offset, data))
        elif kind == MARK and data.startswith(b"begin"):
            begun = int(data.split()[1])
        elif kind == MARK and data.startswith(b"synced"):
            certain = int(data.split()[1])
        if kind == FLUSH:
            groups.append(([], begun, certain))
        else:
            groups[-1] = (groups[-1][0], begun, certain)
    before = []
    for n in range(1, len(groups)):
        before += groups[n - 1][0]
        if before:
            yield n, before, groups[n][0], groups[n - 1][2], groups[n - 1][1], groups[n][1]
            before = []


def some_of(writes, seed):
    """Of what the disk had not been told to keep, some is there."""
    rnd = random.Random(seed)
    pieces = [(o + i, d[i:i + SECTOR]) for o, d in writes for i in range(0, len(d), SECTOR)]
    return [p for p in pieces if rnd.random() < 0.5]


def put(path, writes):
    with open(path, "r+b", buffering=0) as f:
        for offset, data in writes:
            os.pwrite(f.fileno(), data, offset)


def which(change, view, states, certain, begun, what):
    if view == states[certain]:
        return certain
    for n in range(certain, begun + 1):
        if change.same(view, states[n], n < begun) or (n > certain and change.halfway(view, states[n])):
            return n
    raise Failed("%s: none of the states %d to %d\n  %s\n  %s" % (
        what, certain, begun, "\n  ".join(same_diff(view, states[certain], "now", "first")),
        "\n  ".join(same_diff(view, states[begun], "now", "last"))))


def look_ours(ov, change):
    ov.plainly(change)
    eq(names(ov.w("work")), [], "workdir after the mount")
    view = ov.view()
    ov.umount()
    return view


def look_kernel(ov, change):
    if not change.kernel:
        return None
    with ov.by_kernel(change.opts.replace("fsync=0", "").strip(",")) as mnt:
        return ov.view(mnt)


def check(ov, change, image, states, certain, begun, what, kernel_first):
    """Mount IMAGE and look with both. An error of a mount or a read counts as a failure like any other."""
    ov.mount_disk(image)
    seen = set()
    try:
        for look in [look_kernel, look_ours][::1 if kernel_first else -1]:
            try:
                view = look(ov, change)
            except OSError as e:
                raise Failed("%s: %s: %s" % (what, look.__name__, e)) from e
            if view is not None:
                seen.add(which(change, view, states, certain, begun, "%s: %s" % (what, look.__name__)))
        eq(len(seen), 1, what + ": states seen by ours and by the kernel")
    finally:
        for path in (ov.mnt, ov.base + "/kernel-view"):
            if is_mounted(path):
                umount2(path, MNT_DETACH)
        ov.mounted = False
        ov.wait_daemon()
        umount2(ov.disk)


def images(ov, change, log, every):
    """(what, path, certain, begun) of each moment that is looked at: one of EVERY as it was at the flush, one with more."""
    image, trial = ov.image, ov.image + "-trial"
    seed = zlib.crc32((change.name + ov.fs).encode())
    for k, (n, before, after, certain, begun, begun_next) in enumerate(moments(log)):
        put(image, before)
        for more in range(1 + ROUNDS):
            if (more and not after) or (2 * k + more + seed) % every:
                continue
            run("cp", "--sparse=always", "--reflink=auto", image, trial)
            if more:
                put(trial, some_of(after, seed + n + 1000 * more))
            what = "%s on %s, flush %d%s" % (change.name, ov.fs, n, " and some writes after it (%d)" % more if more else "")
            yield what, trial, certain, begun_next if more else begun


class Tally:
    def __init__(self):
        self.images = self.flushes = self.writes = 0
        self.bad = []


def lose_power(ov, change, tally, every):
    states, log = ov.record(change)
    tally.flushes += sum(kind == FLUSH for kind, _, _ in log)
    tally.writes += sum(kind == WRITE for kind, _, _ in log)
    for what, image, certain, begun in images(ov, change, log, every):
        tally.images += 1
        try:
            check(ov, change, image, states, certain, begun, what, tally.images % 2)
        except Failed as e:
            tally.bad.append(str(e))


def file_systems():
    return [fs for fs in os.environ.get("OV_POWERLOSS_FS", "ext4").split(",") if fs]


def sweep(part, nparts):
    tally, todo = Tally(), [c for c in changes() if ONLY in ("", c.name)][part::nparts]
    for fs in file_systems():
        with Recorder(fs) as ov:
            for change in todo:
                lose_power(ov, change, tally, 1 if ALL else 8)
            ov.check_lower()
    print("%d images of %d flushes, %d writes, %d changes" % (tally.images, tally.flushes, tally.writes, len(todo)))
    if tally.bad:
        raise Failed("%d of %d:\n%s" % (len(tally.bad), tally.images, "\n".join(tally.bad)))


for _part in range(4):
    def go(part=_part):
        sweep(part, 4)
    go.__name__ = "test_at_every_flush_%d_of_4" % (_part + 1)
    go.__doc__ = "The power fails at a flush, and a bit later, in each change."
    test(timeout=1500 if ALL else 300, modes=("root",), only_ours="it needs a program that can be told to commit")(go)


@test(modes=("root",), timeout=120, only_ours="it needs a program that can be told to commit")
def test_without_fsync_it_shows():
    """The same with fsync=0, which promises nothing: files without their data are seen, so this test can fail."""
    tally = Tally()
    with Recorder("ext4") as ov:
        lose_power(ov, Change("chmod", lambda o: os.chmod(o.m("f"), 0o600), opts="fsync=0"), tally, 1)
        ov.check_lower()
    print("%d of %d images are torn" % (len(tally.bad), tally.images))
    ok(tally.bad, "no torn file in %d images" % tally.images)
    for text in tally.bad:
        ok("f: sha256" in text or "f: size" in text, text)


@test(modes=("root",), only_ours="it loses power under a volatile mount")
def test_volatile_is_refused():
    """After a volatile mount that lost power the next mount is refused, and says what to do."""
    with Recorder("ext4") as ov:
        run("cp", "--sparse=always", ov.template, ov.image)
        run(ov.disk_program, ov.image, ov.log, ov.server)
        ov.mount_disk(os.path.join(ov.server, "disk"))
        ov.prepared(Change("volatile", opts="volatile"))
        os.chmod(ov.m("f"), 0o600)
        ov.commit()
        ov.mark("here")
        ov.umount()
        umount2(ov.disk)
        umount2(ov.server)
        log = read_log(ov.log)
        run("cp", "--sparse=always", ov.template, ov.image)
        put(ov.image, [(o, d) for kind, o, d in log[:log.index((MARK, 0, b"here"))] if kind == WRITE])
        ov.mount_disk(ov.image)
        plain = Change("plain")
        for opts in ("", "volatile"):
            try:
                ov.plainly(Change("plain", opts=opts))
            except MountError as e:
                ok("work/incompat/volatile" in e.text, e.text)
            else:
                raise Failed("mounted with '%s'" % opts)
        shutil.rmtree(ov.w("work/incompat"))
        ov.plainly(plain)
        eq(lstat(ov.m("f")).st_mode & 0o777, 0o600)
        ov.umount()
        umount2(ov.disk)


if __name__ == "__main__":
    main()
