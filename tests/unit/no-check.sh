#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Stands in for the unit tests where configure did not find Check.
echo '1..0 # SKIP the unit tests need Check (libcheck), which configure did not find'
