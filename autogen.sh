#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Make ./configure from configure.ac; needed once in a tree from git.
set -e
cd "$(dirname "$0")"
exec autoreconf --install --force --warnings=all "$@"
