#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The short run of the oracle that "make check" does: fixed seeds, at most a few minutes. More: make oracle SEEDS=a..b
exec "${PYTHON:-python3}" -B "$(dirname "$0")/oracle" --prog "$OV_PROG" --seeds "${ORACLE_SEEDS:-1..40}" \
	--time-limit "${ORACLE_TIME:-150}" --shrink-time 30 --max-failures 5
