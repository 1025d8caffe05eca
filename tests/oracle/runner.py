# SPDX-License-Identifier: GPL-2.0-or-later
"""One case: make the layers twice, mount them by two programs, do the same on both, compare."""

import errno
import json
import os
import random
import signal
import subprocess
import time
import traceback

import gen
import known
import layers
import ops
import sysc
import view
from known import Difference
from layers import dec, enc

MAX_LAYERS = 12
KERNEL = "kernel"


def mount_options(case, prog, lowers, upper, work):
    text = "lowerdir=%s,upperdir=%s,workdir=%s" % (":".join(lowers), upper, work)
    if case["options"]:
        text += "," + case["options"]
    if prog == KERNEL:
        return text + (",userxattr" if case["mode"] == "userns" else "")
    if case["program_options"]:
        text += "," + case["program_options"]
    # What the kernel's mount allows by itself.
    return text + (",dev,suid" if case["mode"] == "root" else "")


class Tree:
    """The directories of one side and what mounts them at the moment."""

    def __init__(self, base, case):
        self.base = base
        self.case = case
        self.side = ops.Side(os.path.basename(base), os.fsencode(base) + b"/p/q/mnt")
        self.lowers = ["%s/l%d" % (base, i) for i in range(case["lowers"])]
        self.generation = 0
        self.prog = None
        self.mounted = False
        self.raw = {}

    def upper(self):
        return "%s/u%d" % (self.base, self.generation)

    def work(self):
        return "%s/w%d" % (self.base, self.generation)

    def build(self):
        os.makedirs(self.side.mnt)
        layers.build([enc(p) for p in self.lowers], self.case["spec"], self.case["mode"])
        self.new_upper()
        view.label_inodes([enc(p) for p in self.lowers], self.side.labels)
        self.raw = {p: view.raw(enc(p)) for p in self.lowers}

    def new_upper(self):
        # The root of a mount has the owner and mode of the upper directory.
        os.mkdir(self.upper(), 0o777)
        os.chmod(self.upper(), 0o777)
        os.mkdir(self.work())

    def push(self):
        """The upper becomes the uppermost lower."""
        upper = self.upper()
        self.lowers.insert(0, upper)
        self.raw[upper] = view.raw(enc(upper))
        self.generation += 1
        self.new_upper()

    def mount(self, prog):
        self.prog = prog
        data = mount_options(self.case, prog, self.lowers, self.upper(), self.work())
        if prog == KERNEL:
            sysc.mount(b"oracle", self.side.mnt, b"overlay", 0, data.encode())
        else:
            with open(self.base + ".log", "ab") as log:
                done = subprocess.run([prog, "-o", data, self.side.mnt], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                      timeout=30)
            if done.returncode:
                raise OSError(errno.EIO, "%s returned %d" % (prog, done.returncode))
        self.mounted = True

    def unmount(self):
        self.side.close_all()
        if not self.mounted:
            return
        for _ in range(100):
            try:
                sysc.umount(self.side.mnt)
                break
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
                time.sleep(0.03)
        else:
            raise OSError(errno.EBUSY, "cannot unmount")
        self.mounted = False

    def log_tail(self):
        try:
            with open(self.base + ".log", "rb") as log:
                return log.read()[-1500:].decode("utf-8", "replace").splitlines()
        except OSError:
            return []


def wait_for_daemons(timeout=20):
    """A FUSE daemon ends after its unmount; only then are its upper and work free. False: it does not end."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            time.sleep(0.001)
    return False


class Run:
    def __init__(self, case, base, oplog):
        self.case = case
        self.rng = random.Random("ops %s" % case["seed"])
        self.a = Tree(base + "/A", case)
        self.b = Tree(base + "/B", case)
        self.trees = (self.a, self.b)
        self.swapped = False
        self.oplog = oplog
        self.done = []
        self.seen_known = {}
        self.gen = None
        self.counts = {"ops": 0, "ok": 0, "checks": 0, "mounts": 0}

    # Comparing.

    def differ(self, kind, field, a, b, op=None, path=None, note=None):
        """A difference that nobody knows is raised."""
        ref, ours = (b, a) if self.swapped else (a, b)
        diff = Difference(kind, field, ref, ours, op, path, note)
        diff.options = self.case["options"]
        diff.mode, diff.eager, diff.pushed = self.case["mode"], self.case["eager"], self.a.generation > 0
        diff.program = self.case["program"]
        diff.ghost_directory = lambda rel: self.ghost_directory(self.trees[self.swapped], rel)
        name = known.find(diff)
        if not name and any(word in ":".join(str(c) for c in diff.category()) for word in self.case["ignore"]):
            name = "(ignored) " + diff.kind + " " + field
        if not name:
            raise diff
        self.seen_known[name] = self.seen_known.get(name, 0) + 1
        if name in known.ENDS:
            raise known.End(name)

    @staticmethod
    def ghost_directory(tree, rel):
        """Is there below REL a directory that has no name which can be looked up?"""
        for top, dirs, files in os.walk(tree.side.path(rel)):
            names = dirs + files
            if not any(os.path.lexists(os.path.join(top, n)) for n in names):
                return True
        return False

    def compare(self, kind, path, a, b, op=None, note=None):
        if a is None or b is None or "error" in a or "error" in b or "ghost" in a or "ghost" in b:
            if a != b:
                self.differ(kind, "exists", a, b, op, path, note)
            return
        for field in a.keys() | b.keys():
            if a.get(field) != b.get(field):
                self.differ(kind, field, a.get(field), b.get(field), op, path, note)

    def check(self, note=None):
        self.counts["checks"] += 1
        views = [view.snapshot(t.side.mnt, t.side.start, t.side.labels) for t in self.trees]
        for path in sorted(views[0].keys() | views[1].keys()):
            a, b = views[0].get(path), views[1].get(path)
            if a != b:
                self.compare("view", path, a, b, None, note)
        if self.gen:
            self.gen.learn(views[0])

    # Mounting.

    def mount(self):
        programs = [self.case["reference"], self.case["program"]]
        if self.swapped:
            programs.reverse()
        failed = []
        for tree, prog in zip(self.trees, programs):
            try:
                tree.mount(prog)
                failed.append(None)
            except (OSError, subprocess.TimeoutExpired) as e:
                failed.append("%s: %s" % (os.path.basename(prog), e))
        self.counts["mounts"] += 2
        if any(failed):
            raise Difference("mount", "result", *(reversed(failed) if self.swapped else failed))

    def unmount(self):
        for tree in self.trees:
            tree.unmount()
        if not wait_for_daemons():
            raise Difference("mount", "daemon", "gone", "still there after unmount")
        for tree in self.trees:
            left = self.leftovers(tree)
            if left and tree.prog != KERNEL:
                raise Difference("work", "leftovers", [], left)
        if self.gen:
            self.gen.slots.clear()

    @staticmethod
    def leftovers(tree):
        try:
            return sorted(n for n in os.listdir(tree.work() + "/work") if n != "incompat")
        except OSError:
            return []

    def remount(self, note, switch=False):
        self.unmount()
        self.swapped ^= switch
        self.mount()
        self.check(note)

    def push(self):
        if len(self.a.lowers) >= MAX_LAYERS or "index=on" in self.case["options"]:
            return
        self.unmount()
        for tree in self.trees:
            tree.push()
        self.mount()
        self.check("after the upper became a lower")

    # Steps.

    def touched(self, op):
        """Names that a directory reader may see twice or not at all from now on."""
        for tree in self.trees:
            for handle in tree.side.handles.values():
                if not handle.stable:
                    continue
                if op[0] in ("rmtree", "copytree", "rename"):
                    handle.stable = set() if op[0] != "rename" else handle.stable
                for rel in ops.paths(op):
                    handle.stable.discard(enc(rel).rpartition(b"/")[2])

    def step(self, op):
        name = op[0]
        if name == "check":
            self.check()
        elif name in ("remount", "switch"):
            self.remount("after " + name, name == "switch")
        elif name == "push":
            self.push()
        elif name == "shrink":
            for tree in self.trees:
                self.drop_dentries(tree)
        else:
            self.operation(op)

    @staticmethod
    def drop_dentries(tree):
        """A remount in place makes the kernel forget what is not in use."""
        flags = os.statvfs(tree.side.mnt).f_flag & (sysc.MS_NOSUID | sysc.MS_NODEV | sysc.MS_NOEXEC | sysc.MS_NOATIME)
        try:
            sysc.mount(None, tree.side.mnt, None, sysc.MS_REMOUNT | flags, None)
        except OSError:
            pass

    def operation(self, op):
        self.touched(op)
        results = [ops.run(t.side, op) for t in self.trees]
        self.counts["ops"] += 1
        self.counts["ok"] += results[0][0] == "ok"
        if results[0] != results[1]:
            a, b = (r[1] for r in results)
            if isinstance(a, dict) and isinstance(b, dict):
                self.compare("step", None, a, b, op)
            else:
                self.differ("step", "result", a, b, op)
        if op[0] == "hreaddir" and results[0][0] == "ok":
            self.directory_read(op)
        if self.case["stepcheck"]:
            self.look_again(op)
        if self.gen:
            self.gen.note(self.a.side, op, results[0])

    def look_again(self, op):
        names = set(ops.paths(op))
        names |= {p.rpartition("/")[0] for p in names}
        for rel in names:
            views = [view.one(t.side.path(rel), t.side.start, t.side.labels) for t in self.trees]
            self.compare("after", enc(rel), views[0], views[1], op)
        if "S" in ops.SPEC[op[0]] and op[0] != "hclose" and op[2] in self.a.side.handles:
            stats = [ops.run(t.side, ["hstat", 0, op[2]]) for t in self.trees]
            if stats[0] != stats[1]:
                self.compare("after", b"", *({"error": s[1]} if s[0] != "ok" else s[1] for s in stats), op)

    def directory_read(self, op):
        """Names that nobody touched since opendir come once and only once."""
        problems = []
        for tree in self.trees:
            handle = tree.side.handles[op[2]]
            bad = sorted(n for n in handle.stable or () if handle.seen.count(n) > 1)
            if handle.eof:
                bad += sorted((handle.stable or set()) - set(handle.seen))
            problems.append(bad)
        if problems[0] != problems[1]:
            self.differ("step", "repeated or lost in readdir", *problems, op)

    def do(self, op):
        self.done.append(op)
        self.oplog.write(json.dumps(op) + "\n")
        self.oplog.flush()
        self.step(op)

    # The whole.

    def next_op(self):
        roll = self.rng.random()
        for name, chance in (("check", 0.02), ("remount", 0.01), ("switch", 0.006 if self.case["switch"] else 0),
                             ("push", 0.004)):
            if roll < chance:
                return [name, 0]
            roll -= chance
        return self.gen.next()

    def setup(self):
        start = time.time_ns()
        for tree in self.trees:
            os.makedirs(tree.base)
            tree.build()
            tree.side.start = start
            tree.side.eager = self.case["eager"]
        self.mount()
        self.check("at the start")

    def play(self):
        if self.case["ops"] is None:
            self.gen = gen.OpGen(random.Random("gen %s" % self.case["seed"]), self.case["mode"], self.case["extra"])
        self.setup()
        if self.gen:
            self.check()
            for _ in range(self.case["length"]):
                self.do(self.next_op())
            for name in ["check", "remount"] + (["switch", "switch"] if self.case["switch"] else []):
                self.do([name, 0])
        else:
            for op in self.case["ops"]:
                self.do(op)
        self.unmount()
        self.lowers()

    def lowers(self):
        """Not one byte or time of a lower has changed."""
        for tree in self.trees:
            for path, before in tree.raw.items():
                changes = list(view.raw_changes(before, view.raw(enc(path))))
                if changes:
                    where, field, x, y = changes[0]
                    raise Difference("lower", field, x, y, None, where, "layer %s" % os.path.basename(path))

    def result(self):
        result = {"ok": True, "ops": self.done, "known": self.seen_known, "counts": self.counts}
        try:
            self.play()
        except known.End:
            pass
        except Difference as diff:
            result.update(ok=False, diff=diff.as_dict())
            result["log"] = (self.a if self.swapped else self.b).log_tail()
        except Exception as e:
            lines = traceback.format_exc().splitlines()
            dead = isinstance(e, OSError) and e.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            kind = "the program died" if dead else "the run failed"
            result.update(ok=False, diff={"kind": kind, "category": [kind, type(e).__name__, lines[-1][:60]], "lines": lines})
            result["log"] = (self.a if self.swapped else self.b).log_tail()
        return result

    def clean(self):
        for tree in self.trees:
            try:
                tree.unmount()
            except OSError:
                sysc.umount(tree.side.mnt, sysc.MNT_DETACH)
        end_children()


def end_children():
    """Kill what is left of the daemons that this process started."""
    for _ in range(100):
        try:
            with open("/proc/self/task/%d/children" % os.getpid()) as f:
                pids = [int(p) for p in f.read().split()]
        except OSError:
            return
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _open_fuse(base):
    """/dev/fuse is for everyone on most systems; here it shall be so on all."""
    sysc.mount(b"none", b"/", None, sysc.MS_REC | sysc.MS_PRIVATE, None)
    node = os.fsencode(base) + b"/fuse"
    os.mknod(node, 0o020666, os.makedev(10, 229))
    os.chmod(node, 0o666)
    if os.path.exists("/dev/fuse"):
        sysc.mount(node, b"/dev/fuse", None, sysc.MS_BIND, None)


def _child(case, base, sync, pipe):
    """In a process and a mount namespace of its own: whatever happens, no mount stays behind."""
    userns = case["mode"] == "userns"
    sysc.prctl(sysc.PR_SET_CHILD_SUBREAPER, 1)
    sysc.unshare(sysc.CLONE_NEWNS)
    if userns:
        _open_fuse(base)
        sysc.unshare(sysc.CLONE_NEWNS | sysc.CLONE_NEWUSER)
        os.write(pipe, b"u")
        os.read(sync, 1)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # A changed uid clears this, and it must not stay: /proc/self would belong to somebody else.
    sysc.prctl(4, 1)
    sysc.mount(b"none", b"/", None, sysc.MS_REC | sysc.MS_PRIVATE, None)
    os.umask(0o022)
    with open(base + "/ops.jsonl", "w") as oplog:
        run = Run(case, base, oplog)
        result = run.result()
        run.clean()
    with open(base + "/result.json", "w") as f:
        json.dump(result, f)


USERNS_FIRST, USERNS_COUNT = 100000, 65536


def _map_ids(pid):
    for which in ("uid", "gid"):
        with open("/proc/%d/%s_map" % (pid, which), "w") as f:
            f.write("0 %d %d\n" % (USERNS_FIRST, USERNS_COUNT))


def run_case(case, base, timeout):
    """Run CASE below the new directory BASE, which the caller removes. A dict: ok, ops, diff, known, counts, log."""
    os.mkdir(base, 0o755)
    if case["mode"] == "userns":
        os.chown(base, USERNS_FIRST, USERNS_FIRST)
    sync_r, sync_w = os.pipe()
    pipe_r, pipe_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _child(case, base, sync_r, pipe_w)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sync_r)
    os.close(pipe_w)
    if case["mode"] == "userns" and os.read(pipe_r, 1) == b"u":
        _map_ids(pid)
        os.write(sync_w, b"g")
    os.close(sync_w)
    os.close(pipe_r)
    return _collect(pid, base, timeout)


def _collect(pid, base, timeout):
    end = time.monotonic() + timeout
    pause, status = 0.001, 0
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    else:
        os.kill(pid, signal.SIGKILL)
        end_children()
        return _stuck(base, "the run hangs")
    end_children()
    try:
        with open(base + "/result.json") as f:
            return json.load(f)
    except (OSError, ValueError):
        return _stuck(base, "the run broke off (status %#x)" % status)


def _stuck(base, kind):
    try:
        with open(base + "/ops.jsonl") as f:
            done = [json.loads(line) for line in f]
    except (OSError, ValueError):
        done = []
    lines = [kind] + (["  in: " + ops.describe(done[-1])] if done else [])
    return {"ok": False, "ops": done, "known": {}, "counts": {}, "log": [],
            "diff": {"kind": kind, "category": [kind], "lines": lines}}


def remove(base):
    """Also where a flag protects a file."""
    subprocess.run(["rm", "-rf", base], stderr=subprocess.DEVNULL, check=False)
    if os.path.lexists(base):
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", base], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["rm", "-rf", base], check=False)
