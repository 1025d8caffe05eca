# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of the oracle and the choice of cases."""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time

import known
import layers
import runner
import shrink
import sysc

# Combinations that kernel overlayfs takes; with userxattr it refuses redirect_dir=on and metacopy=on.
OPTION_SETS = {
    "root": ["redirect_dir=off", "redirect_dir=on", "redirect_dir=on,metacopy=on", "index=on", "redirect_dir=on,index=on",
             "redirect_dir=on,metacopy=on,index=on"],
    "userns": [""],
}
DEFAULT_SETS = {"root": ["redirect_dir=off", "redirect_dir=on"], "userns": [""]}


def parse_seeds(text):
    seeds = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        seeds += range(int(first), int(last if dots else first) + 1)
    return seeds


def arguments(argv):
    p = argparse.ArgumentParser(prog="oracle", description="Compare an overlay program with kernel overlayfs, operation by "
                                "operation. Needs root.")
    p.add_argument("--prog", default=os.environ.get("FUSE_OVERLAY", "fuse-overlay"),
                   help="program under test, or 'kernel' to try the oracle itself (default: %(default)s)")
    p.add_argument("--reference", default=runner.KERNEL, help="what it is compared with (default: kernel)")
    p.add_argument("--seeds", default="1..10", type=parse_seeds, help="a..b or a,b,c (default: 1..10)")
    p.add_argument("--ops", default=300, type=int, help="operations a seed (default: %(default)s)")
    p.add_argument("--mode", default="root,userns", help="root, userns or both (default: %(default)s)")
    p.add_argument("--options", action="append", help="mount options for both, e.g. redirect_dir=on; 'all': every set that the "
                   "kernel has, chosen by seed; may be given several times; default: redirect_dir by seed")
    p.add_argument("--program-options", default="", help="mount options for the program alone")
    p.add_argument("--extra", default="", help="also generate: immutable, escape (comma-separated)")
    p.add_argument("--ignore", action="append", default=[], metavar="WORDS", help="go on after differences whose category "
                   "(kind:field:..., as a kept case shows it) has WORDS in it")
    p.add_argument("--no-switch", dest="switch", action="store_false", help="do not swap the programs' directories")
    p.add_argument("--no-shrink", dest="shrink", action="store_false", help="report a failing seed as it is")
    p.add_argument("--shrink", action="store_true", default=True, help="shorten failing seeds (default)")
    p.add_argument("--shrink-time", default=60, type=float, metavar="SEC", help="at most this long for one (default: 60)")
    p.add_argument("--time-limit", default=0, type=float, metavar="SEC", help="start no new seed after this long")
    p.add_argument("--case-timeout", default=60, type=float, metavar="SEC", help="a run that takes longer hangs")
    p.add_argument("--keep", action="store_true", help="keep the directories and the case of a failing seed")
    p.add_argument("--directory", default=os.environ.get("TMPDIR", "/tmp"), help="where the layers are made")
    p.add_argument("--replay", metavar="FILE", help="run a kept case")
    p.add_argument("--max-failures", default=0, type=int, metavar="N", help="stop after N failing seeds")
    p.add_argument("--known", action="store_true", help="list the known differences and end")
    args = p.parse_args(argv)
    if args.prog != runner.KERNEL:
        args.prog = shutil.which(args.prog) or args.prog
        args.prog = os.path.abspath(args.prog)
    return args


def make_case(args, seed, mode):
    rng = random.Random("case %s %s" % (seed, mode))
    sets = args.options or DEFAULT_SETS[mode]
    if "all" in sets:
        sets = OPTION_SETS[mode]
    count = rng.choice((1, 1, 2, 2, 3, 4, 6, 8))
    big = rng.random() < 0.06
    options = rng.choice(sets)
    spec = layers.LayerGen(random.Random("layers %s" % seed), mode, big).generate(count)
    return {"seed": seed, "mode": mode, "options": options, "lowers": count, "spec": spec, "ops": None, "length": args.ops,
            "stepcheck": rng.random() < 0.6, "switch": args.switch and rng.random() < 0.7,
            "eager": rng.random() < 0.5,
            "reference": args.reference, "program": args.prog, "program_options": args.program_options,
            "extra": [e for e in args.extra.split(",") if e], "ignore": args.ignore}


def unable():
    """Why this machine cannot run the oracle, or None."""
    if os.geteuid():
        return "needs root"
    base = tempfile.mkdtemp(prefix="oracle-probe.")
    os.chmod(base, 0o755)
    case = {"seed": 0, "mode": "root", "options": "", "lowers": 1, "spec": [], "ops": [], "length": 0, "stepcheck": False,
            "switch": False, "eager": False, "reference": runner.KERNEL, "program": runner.KERNEL, "program_options": "", "extra": [], "ignore": []}
    try:
        result = runner.run_case(case, base + "/c", 20)
    finally:
        runner.remove(base)
    return None if result["ok"] else "kernel overlayfs cannot be mounted: " + result["diff"]["lines"][-1]


class Report:
    """TAP."""

    def __init__(self):
        self.number = self.failed = 0
        self.known = {}
        self.totals = {}
        self.categories = {}

    def comment(self, text):
        for line in text.splitlines():
            print("# " + line, flush=True)

    def case(self, case, result, seconds):
        self.number += 1
        for name, n in result["known"].items():
            self.known[name] = self.known.get(name, 0) + n
        for name, n in result["counts"].items():
            self.totals[name] = self.totals.get(name, 0) + n
        self.failed += not result["ok"]
        print("%sok %d - seed %d %s %s (%d layers, %d operations, %.1f s)" % (
            "" if result["ok"] else "not ", self.number, case["seed"], case["mode"], case["options"] or "-", case["lowers"],
            len(result["ops"]), seconds), flush=True)

    def end(self):
        print("1..%d" % self.number)
        totals = ", ".join("%d %s" % (n, name) for name, n in self.totals.items())
        self.comment("%d of %d seeds differ; %s" % (self.failed, self.number, totals))
        for name, n in sorted(self.known.items()):
            self.comment("known difference %s: %d times" % (name, n))


def handle_failure(args, report, case, result, base):
    category = ":".join(result["diff"]["category"])
    earlier = report.categories.setdefault(category, (case["seed"], case["mode"]))
    if earlier != (case["seed"], case["mode"]):
        if args.keep:
            with open(base + ".case", "w") as f:
                json.dump(dict(case, ops=result["ops"]), f)
            runner.remove(base)
        report.comment("again %s, as in seed %d %s" % (category, *earlier))
        return
    if args.shrink:
        small, shrunk = shrink.Shrinker(case, result, base + "-shrink", args.shrink_time, report.comment).run()
        runner.remove(base + "-shrink")
    else:
        small, shrunk = dict(case, ops=result["ops"]), result
    lines = list(shrink.script(small, shrunk))
    if len(lines) > 80:
        lines = lines[:10] + ["... (--keep and --replay for the whole)"] + lines[-60:]
    for line in lines:
        report.comment(line)
    report.comment("category: " + category)
    if args.keep:
        with open(base + ".case", "w") as f:
            json.dump(small, f)
        report.comment("kept: %s (directories), %s.case (replay with --replay)" % (base, base))


def run_one(args, report, case, directory):
    base = "%s/%s-%d" % (directory, case["mode"], case["seed"])
    start = time.monotonic()
    result = runner.run_case(case, base, args.case_timeout)
    report.case(case, result, time.monotonic() - start)
    if not result["ok"]:
        handle_failure(args, report, case, result, base)
    if result["ok"] or not args.keep:
        runner.remove(base)


def cases(args):
    if args.replay:
        with open(args.replay) as f:
            case = json.load(f)
        yield dict(case, program=args.prog, reference=args.reference, ignore=args.ignore)
        return
    for seed in args.seeds:
        for mode in args.mode.split(","):
            yield make_case(args, seed, mode)


def main(argv=None):
    args = arguments(argv)
    if args.known:
        for name, reason, *_ in known.RULES + known.AVOIDED:
            print("%s: %s" % (name, reason))
        return 0
    reason = unable()
    if reason:
        print("1..0 # SKIP " + reason)
        return 0
    # Daemons of runs that break off come to this process, which ends them.
    sysc.prctl(sysc.PR_SET_CHILD_SUBREAPER, 1)
    directory = tempfile.mkdtemp(prefix="oracle.", dir=args.directory)
    os.chmod(directory, 0o755)
    report = Report()
    start = time.monotonic()
    try:
        for case in cases(args):
            if args.time_limit and time.monotonic() - start > args.time_limit:
                report.comment("time limit reached")
                break
            run_one(args, report, case, directory)
            if args.max_failures and report.failed >= args.max_failures:
                break
    finally:
        if not args.keep or not report.failed:
            runner.remove(directory)
    report.end()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
