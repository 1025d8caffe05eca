#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
make check's share of the oracle: fixed seeds, a couple of minutes. TAP on stdout.

FUSE_OVERLAY    the program (default: ../../src/fuse-overlay or ./fuse-overlay from the build directory)
ORACLE_SEEDS    other seeds, e.g. 1..500
ORACLE_OPTIONS  mount options, or 'all'
ORACLE_ARGS     more arguments of the oracle, e.g. "--keep --ops 1000"
"""

import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

import cli  # noqa: E402


def program():
    if os.environ.get("FUSE_OVERLAY"):
        return os.environ["FUSE_OVERLAY"]
    built = os.environ.get("top_builddir") or os.environ.get("abs_top_builddir") or os.path.join(HERE, "..", "..")
    for name in ("fuse-overlay", "src/fuse-overlay"):
        path = os.path.join(built, name)
        if os.access(path, os.X_OK):
            return path
    return None


def main():
    prog = program()
    if not prog:
        print("1..0 # SKIP fuse-overlay is not built (set FUSE_OVERLAY)")
        return 0
    args = ["--prog", prog, "--seeds", os.environ.get("ORACLE_SEEDS", "1..40"), "--ops", "300", "--time-limit", "150",
            "--shrink-time", "45", "--max-failures", "5"]
    args += ["--options", os.environ.get("ORACLE_OPTIONS", "all")]
    return cli.main(args + os.environ.get("ORACLE_ARGS", "").split())


if __name__ == "__main__":
    sys.exit(main())
