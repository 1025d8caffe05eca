#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests run once more where memory errors, undefined behaviour, leaks and data races show.

The programs are built by "make check" with -fsanitize (tests/sanitize/*-asan, *-tsan), valgrind takes the ordinary ones.
Each is one test here; what it runs prints its own results into the log. A report of a sanitizer fails the test, also where
the tests of the program passed, and also that of a daemon that nobody looks at.

usage: test_sanitize.py [-k SUBSTRING] [-v]
"""

import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("OV_BUILDDIR", os.getcwd())
PROGRAMS = BUILD + "/tests/sanitize/"
E2E = TOP + "/tests/e2e/"


class Skip(Exception):
    pass


def find(name):
    path = PROGRAMS + name
    if not os.access(path, os.X_OK):
        raise Skip("the compiler has no such sanitizer here, or the whole build has one")
    return path


def environment(logs, **more):
    env = dict(os.environ, srcdir=TOP, **more)
    env.update({name: options + ":log_path=" + logs + "/report" for name, options in (
        ("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1"),
        ("LSAN_OPTIONS", "print_suppressions=0:suppressions=" + HERE + "/lsan.supp"),
        ("UBSAN_OPTIONS", "print_stacktrace=1"),
        ("TSAN_OPTIONS", "report_thread_leaks=0:second_deadlock_stack=1"))})
    return env


def run(argv, logs, env=None, timeout=600, wrapper=()):
    """Run to its end; a failure, or a report in LOGS, fails the test."""
    p = subprocess.run([*wrapper, *argv], env=environment(logs, **(env or {})), stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=timeout)
    text = p.stdout.decode(errors="replace")
    for line in text.splitlines():
        print("#  ", line)
    reports = [open(f, errors="replace").read() for f in sorted(glob.glob(logs + "/*"))]
    for r in reports:
        print("# ", r[:6000].replace("\n", "\n#  "))
    if p.returncode:
        raise Exception("%s: status %d" % (os.path.basename(argv[0]), p.returncode))
    if reports:
        raise Exception("%d reports of the sanitizer" % len(reports))
    if not re.search(r"^ok ", text, re.M):
        raise Skip("nothing was run")


def aslr_off():
    """ThreadSanitizer of older compilers does not start where addresses are random in many bits."""
    return ["setarch", "-R"] if shutil.which("setarch") else []


def mounts(name, tests, logs, words=("",), foreground=False, wrapper=(), opts=""):
    """The tests of an e2e file that have one of WORDS in their names. FOREGROUND: the daemon frees all at its end."""
    prog = find(name)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Skip("no /dev/fuse")
    os.chmod(logs, 0o1777)
    env = {"OV_PROG": HERE + "/foreground" if foreground else prog, "OV_FOREGROUND": prog, "OV_MODES": "root", "OV_OPTS": opts}
    for word in words:
        run([sys.executable, "-B", E2E + tests, "-k", word], logs, env, wrapper=wrapper)


def unit_asan(logs):
    """the unit tests, with AddressSanitizer and UBSan"""
    run([find("unit-asan")], logs, {"CK_FORK": "no"})


def inputs_asan(logs):
    """the kept inputs, with AddressSanitizer and UBSan"""
    run([find("replay-asan")], logs)


def calls_asan(logs):
    """the kept sequences of calls, with AddressSanitizer and UBSan"""
    run([find("replay-core-asan")], logs)


def ops_asan(logs):
    """operations on a mount, with AddressSanitizer and UBSan"""
    mounts("fuse-overlay-asan", "test_ops.py", logs)


def index_leaks(logs):
    """hard links and renames on a mount, leaks at the end of the daemon"""
    words = "copy_up_keeps", "unlink_counts", "link_and_rename", "exchange_of", "metacopy_in"
    mounts("fuse-overlay-asan", "test_index.py", logs, words, foreground=True)


def parallel_tsan(logs):
    """many processes on a mount, with ThreadSanitizer"""
    words = "copy_up_of", "renames_lose", "listings_during", "side_by_side", "walks_beside"
    mounts("fuse-overlay-tsan", "test_parallel.py", logs, words, wrapper=aslr_off(), opts="nosupervise")


def restart_asan(logs):
    """workers that are replaced, with AddressSanitizer and UBSan"""
    words = "open_files", "directories", "metacopy_and", "files_come_and_go", "upgrade"
    mounts("fuse-overlay-asan", "test_restart.py", logs, words)


def valgrind(logs, argv, env):
    if not shutil.which("valgrind"):
        raise Skip("no valgrind")
    run(argv, logs, env, wrapper=["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--track-fds=no",
                                  "--errors-for-leak-kinds=definite", "--child-silent-after-fork=no"])


def unit_valgrind(logs):
    """the unit tests of what others wrote, with valgrind"""
    if not os.access(BUILD + "/tests/unit/unit", os.X_OK):
        raise Skip("built without Check")
    valgrind(logs, [BUILD + "/tests/unit/unit"], {"CK_FORK": "no", "CK_RUN_SUITE": "format"})


TESTS = [unit_asan, inputs_asan, calls_asan, ops_asan, restart_asan, index_leaks, parallel_tsan, unit_valgrind]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", default="", help="only tests whose name has this")
    parser.add_argument("-v", action="store_true", help="(accepted, as elsewhere)")
    args = parser.parse_args()
    tests = [t for t in TESTS if args.k in t.__name__]
    failed = 0
    print("1..%d" % len(tests), flush=True)
    for n, test in enumerate(tests, 1):
        logs = tempfile.mkdtemp(prefix="sanitize-")
        try:
            test(logs)
            print("ok %d - %s" % (n, test.__doc__), flush=True)
        except Skip as e:
            print("ok %d - %s # SKIP %s" % (n, test.__doc__, e), flush=True)
        except Exception as e:  # pylint: disable=broad-except
            failed += 1
            print("#", str(e).replace("\n", "\n# "))
            print("not ok %d - %s" % (n, test.__doc__), flush=True)
        finally:
            shutil.rmtree(logs, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
