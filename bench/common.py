# SPDX-License-Identifier: GPL-2.0-or-later
"""What the scripts of bench/ share: a namespace of their own, and what a mount's daemon costs."""

import contextlib
import os
import platform
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "tests", "e2e"))

import ovtest  # noqa: E402

MIB = 1 << 20
COMMAND_TIMEOUT = 180


class Skip(Exception):
    """The workload cannot run here."""


class Wrong(Exception):
    """The workload gave a wrong result."""


def ensure(cond, text):
    if not cond:
        raise Wrong(text)


def command(*argv, cwd=None, env=None, stdin=None, timeout=COMMAND_TIMEOUT):
    """Run a program; its output. A failure raises with its last words."""
    p = subprocess.run(argv, stdin=None if stdin is not None else subprocess.DEVNULL, input=stdin, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, errors="replace", cwd=cwd, timeout=timeout,
                       env=dict(os.environ, LC_ALL="C", **(env or {})))
    if p.returncode:
        last = (p.stderr.strip() or p.stdout.strip()).splitlines()[-1:]
        raise Wrong("%s: status %d %s" % (os.path.basename(argv[0]), p.returncode, " ".join(last)))
    return p.stdout


def build_ops(path, top):
    """The built bench/ops.c: PATH, the one beside this file, or one made in TOP."""
    path = path or os.path.join(HERE, "ops")
    if os.access(path, os.X_OK):
        return os.path.abspath(path)
    out = os.path.join(top, "ops")
    command(os.environ.get("CC", "cc"), "-O2", "-pthread", os.path.join(HERE, "ops.c"), "-o", out)
    return out


def machine():
    mem, os_name = 0, platform.system()
    with contextlib.suppress(OSError), open("/proc/meminfo") as f:
        mem = int(f.readline().split()[1]) // 1024
    with contextlib.suppress(OSError):
        os_name = platform.freedesktop_os_release().get("PRETTY_NAME", os_name)
    return {"cpus": len(os.sched_getaffinity(0)), "memory_mib": mem, "arch": platform.machine(),
            "kernel": platform.release().split("-")[0], "system": os_name}


def version(prog):
    """What PROG says of its own version."""
    p = subprocess.run([prog, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    told = [line.strip() for line in p.stdout.splitlines() if "version" in line and not line.startswith("fusermount")]
    return (told or [os.path.basename(prog)])[0]


def cache_drops():
    """How often somebody made the kernel drop its caches since it started: what is measured meanwhile says nothing."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith(("drop_pagecache", "drop_slab")))
    return 0


# ---------------------------------------------------------------------------------------------------------------
# What a daemon costs: the process that was started and all below it, since a mount may have more than one

def family(pid):
    """PID and its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open("/proc/%s/stat" % name) as f:
                parents[int(name)] = int(f.read().rsplit(")", 1)[1].split()[1])
    found = [pid]
    for p in found:
        found += [c for c, parent in parents.items() if parent == p]
    return found


def cpu_seconds(pid):
    """CPU time of a family, with that of members which ended: their parent has it once it has waited for them."""
    ticks = 0
    for p in family(pid):
        with contextlib.suppress(OSError), open("/proc/%d/stat" % p) as f:
            ticks += sum(map(int, f.read().rsplit(")", 1)[1].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _kib(path, *keys):
    with open(path) as f:
        v = dict(line.split(":", 1) for line in f if ":" in line)
    return [int(v[k].split()[0]) if k in v else 0 for k in keys]


def memory(pid):
    """KiB of a family: its share of what is resident (pages shared among processes count once), and of it the anonymous."""
    pss = anon = 0
    for p in family(pid):
        with contextlib.suppress(OSError):
            a, b = _kib("/proc/%d/smaps_rollup" % p, "Pss", "Pss_Anon")
            pss, anon = pss + a, anon + b
    return pss, anon


class Peak:
    """The most memory that a family used from here on, in KiB: that of each process at its own height, less what they share."""

    def __init__(self, pid):
        self.pid, self.before = pid, memory(pid)[0]
        for p in family(pid):
            with contextlib.suppress(OSError), open("/proc/%d/clear_refs" % p, "w") as f:
                f.write("5")

    def get(self):
        """(peak, now)"""
        now = memory(self.pid)[0]
        high = 0
        for p in family(self.pid):
            with contextlib.suppress(OSError):
                rss, hwm = _kib("/proc/%d/status" % p, "VmRSS", "VmHWM")
                high += max(hwm - rss, 0)
        return max(now + high, self.before), now


# ---------------------------------------------------------------------------------------------------------------
# A namespace of our own, so that no mount outlives the run

def enter_namespace(userns):
    if not userns and os.geteuid() != 0:
        raise SystemExit("bench: needs root, or --userns")
    uid, gid, parent = os.geteuid(), os.getegid(), os.getpid()
    if userns:
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:  # writes the maps once the parent is in its namespace
            os.close(w)
            os.read(r, 1)
            n = 65536 if uid == 0 else 1
            for name, text in (("setgroups", "deny" if n == 1 else "allow"), ("uid_map", "0 %d %d" % (uid, n)), ("gid_map", "0 %d %d" % (gid, n))):
                with open("/proc/%d/%s" % (parent, name), "w") as f:
                    f.write(text)
            os._exit(0)
        os.close(r)
        ovtest._check(ovtest.libc.unshare(ovtest.CLONE_NEWUSER | ovtest.CLONE_NEWNS))
        os.close(w)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("bench: ids cannot be mapped")
        ovtest.MODE = "userns"
    else:
        ovtest._check(ovtest.libc.unshare(ovtest.CLONE_NEWNS))
        ovtest.MODE = "root"
    ovtest.mount(None, "/", None, ovtest.MS_REC | ovtest.MS_PRIVATE)
