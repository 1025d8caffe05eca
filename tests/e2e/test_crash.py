#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon is killed at every crash point, and before every system call that changes something: what the next mount
shows, ours and the kernel's, is the state before the step or after it, workdir is clean, and the lower is untouched.

OV_CHANGE=NAME takes only the change of that name. Of the calls one of OV_FAULTS_SAMPLE is taken; 1 takes them all, in minutes.
"""

from faults import *

ONLY = os.environ.get("OV_CHANGE", "")


def chosen(change):
    return ONLY in ("", change.name)


def run_steps(ov, change):
    """Do the steps until the daemon dies; gives how many were done."""
    for n, step in enumerate(change.steps):
        try:
            step(ov)
        except OSError as e:
            ok(e.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EIO, errno.EINTR), "unexpected %r" % e)
            return n
    return len(change.steps)


def which(change, view, states, allowed, what):
    for n in allowed:
        if change.same(view, states[n]) or (n > allowed[0] and change.halfway(view, states[n])):
            return n
    raise Failed("%s: neither before nor after the step\n  %s\n  %s" % (
        what, "\n  ".join(same_diff(view, states[allowed[0]], "now", "before")),
        "\n  ".join(same_diff(view, states[allowed[-1]], "now", "after"))))


def look_ours(ov, change, states, allowed, what):
    ov.plainly(change)
    eq(names(ov.w("work")), [], what + ": workdir after the mount")
    n = which(change, ov.view(), states, allowed, what + ": our view")
    ov.umount()
    return n


def look_kernel(ov, change, states, allowed, what):
    if not change.kernel or (not is_root_mode() and change.opts):
        return None
    try:
        with ov.by_kernel(change.opts) as mnt:
            return which(change, ov.view(mnt), states, allowed, what + ": the kernel's view")
    except Skip:
        return None


def after_crash(ov, change, states, done, what, kernel_first):
    """The daemon died after DONE steps: look with both, in turns first."""
    umount2(ov.mnt, MNT_DETACH)
    ov.mounted = False
    ov.wait_daemon()
    allowed = sorted({min(done, len(states) - 1), min(done + 1, len(states) - 1)})
    looks = [look_ours, look_kernel]
    seen = {look(ov, change, states, allowed, what) for look in (looks[::-1] if kernel_first else looks)} - {None}
    eq(len(seen), 1, what + ": states seen by ours and by the kernel")
    ov.drop()


def every_call(ov, change, states):
    """Die before the first, the second... changing call."""
    kills = 0
    for n in sample(change, ov.calls(change, CHANGES, run_steps)[0], 5):
        ov.fresh(change)
        ov.page.fail(DIE, at=n, classes=CHANGES)
        done = run_steps(ov, change)
        calls = ov.page.calls()
        if not ov.page.rest():
            ov.umount()
            ov.drop()
            break
        what = "%s, killed before call %d (%s)" % (change.name, n, ", ".join(calls[-3:]))
        after_crash(ov, change, states, done, what, n % 2)
        kills += 1
    return kills


def every_point(ov, change, states, points, wanted):
    """Die at those crash points that CHANGE passes, of WANTED."""
    mine = sorted({points[i] for i in ov.calls(change, 0, run_steps)[1]} & wanted)
    for i, point in enumerate(mine):
        ov.fresh(change)
        ov.page.die_at(point)
        done = run_steps(ov, change)
        ov.page.rest()
        after_crash(ov, change, states, done, "%s, killed at %s" % (change.name, point), i % 2)
    return set(mine)


def crash(part, nparts):
    total, todo = 0, [c for c in changes() if chosen(c)]
    with Layers() as ov:
        for change in todo[part::nparts]:
            total += every_call(ov, change, ov.states(change))
        ov.check_lower()
    print("%d kills" % total)


for _part in range(4):
    def go(part=_part):
        crash(part, 4)
    go.__name__ = "test_before_every_call_%d_of_4" % (_part + 1)
    go.__doc__ = "Killed before every changing system call of each change."
    test(timeout=300, only_ours="it needs a program that can be told to die")(go)


@test(timeout=300, only_ours="it needs a program that can be told to die")
def test_at_every_crash_point():
    """Each named crash point is reached, and dying there is harmless."""
    points = crash_points()
    eq(len(points), len(set(points)), "crash points of one name")
    left = {p for p in points if not p.startswith(("forget.", "post."))}  # passed when the kernel likes
    with Layers() as ov:
        for change in changes():
            if chosen(change):
                left -= every_point(ov, change, ov.states(change), points, left)
        ov.check_lower()
    print("%d crash points" % (len(points) - len(left)))
    if is_root_mode() and not ONLY:
        eq(sorted(left), [], "crash points that no change reaches")


@test(only_ours="it needs a program that can be told to die")
def test_environment():
    """OV_CRASH_AT names the point, and how many times it is passed before."""
    for at in ("remove.done", "remove.done:2"):
        with Overlay({"a": "a", "b": "b", "c": "c"}, opts="nosupervise", program=faulty_program(),
                     env=dict(os.environ, OV_CRASH_AT=at)) as ov:
            if ":" in at:
                os.unlink(ov.m("a"))
                fails((errno.ENOTCONN, errno.ECONNABORTED), os.unlink, ov.m("b"))
            else:
                fails((errno.ENOTCONN, errno.ECONNABORTED), os.unlink, ov.m("a"))
            umount2(ov.mnt, MNT_DETACH)
            ov.wait_daemon()
            ov.mount()
            eq(names(ov.mnt), ["c"] if ":" in at else ["b", "c"])
            ov.umount()


if __name__ == "__main__":
    main()
