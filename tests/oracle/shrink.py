# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a failing case short: delta debugging over its operations, then over the entries of its lower layers."""

import os
import time

import layers
import ops
import runner


class Shrinker:
    def __init__(self, case, result, scratch, budget, say=None):
        self.case = dict(case, ops=list(result["ops"]))
        self.category = result["diff"]["category"]
        self.best = result
        self.scratch = scratch
        self.end = time.monotonic() + budget
        self.tries = 0
        self.say = say or (lambda text: None)

    def fails(self, **change):
        """Does the case, changed so, show the same difference? If yes it becomes the case."""
        if time.monotonic() > self.end:
            return False
        self.tries += 1
        case = dict(self.case, **change)
        base = "%s/t%d" % (self.scratch, self.tries)
        result = runner.run_case(case, base, 20)
        runner.remove(base)
        if result["ok"] or result["diff"]["category"] != self.category:
            return False
        # What came after the difference was not run.
        case["ops"] = result["ops"]
        self.case, self.best = case, result
        return True

    def reduce(self, key):
        """Leave out ever smaller parts of the list KEY as long as it still fails."""
        size = max(len(self.case[key]) // 2, 1)
        while size and time.monotonic() < self.end:
            changed = False
            at = len(self.case[key])
            while at > 0:
                at = min(at, len(self.case[key]))
                rest = self.case[key][:max(at - size, 0)] + self.case[key][at:]
                if len(rest) < len(self.case[key]) and self.fails(**{key: rest}):
                    changed = True
                at -= size
            if not changed or size > len(self.case[key]):
                size = 0 if size == 1 else size // 2

    def simplify(self):
        for i in range(len(self.case["ops"]) - 1, -1, -1):
            if i < len(self.case["ops"]) and self.case["ops"][i][1]:
                changed = [list(op) for op in self.case["ops"]]
                changed[i][1] = 0
                self.fails(ops=changed)
        if self.case["options"]:
            self.fails(options="")
        for key, value in (("stepcheck", False), ("switch", False)):
            if self.case[key] != value:
                self.fails(**{key: value})
        self.fewer_layers()

    def fewer_layers(self):
        for layer in range(self.case["lowers"] - 1, -1, -1):
            if self.case["lowers"] > 1 and not any(e[1] == layer for e in self.case["spec"]):
                spec = [e[:1] + [e[1] - (e[1] > layer)] + e[2:] for e in self.case["spec"]]
                self.fails(spec=spec, lowers=self.case["lowers"] - 1)

    def run(self):
        os.mkdir(self.scratch, 0o755)
        if not self.fails():
            self.say("the replay of this seed does not fail again; not shrunk")
            return self.case, self.best
        self.reduce("ops")
        self.reduce("spec")
        self.reduce("ops")
        self.simplify()
        return self.case, self.best


def script(case, result):
    """Lines that a person can follow."""
    yield "mode %s, options %s, %d lower%s (lower0 is the uppermost)" % (
        case["mode"], case["options"] or "none", case["lowers"], "" if case["lowers"] == 1 else "s")
    for entry in case["spec"]:
        yield layers.describe(entry)
    yield "mount"
    for op in result["ops"]:
        yield ops.describe(op)
    yield "=> " + result["diff"]["lines"][0]
    yield from result["diff"]["lines"][1:]
    for line in result.get("log", [])[-8:]:
        yield "log: " + line
