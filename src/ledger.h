/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_LEDGER_H
#define OV_LEDGER_H

/*
 * What a worker leaves to the one that goes on after its death: this header of the arena, and the inodes and names behind it
 * (inode.h). Written with plain stores as things happen; nothing of it is needed to read what is on disk.
 */

#include <stdint.h>

#define OV_LEDGER_MAGIC 0x4f564c47u
/* Changes with the layout of the ledger, of inodes and of names: a program of another version cannot go on with it. */
#define OV_LEDGER_VERSION 3u

#define OV_LEDGER_THREADS 128
#define OV_LEDGER_STRIKES 64
#define OV_LEDGER_NAME 256
#define OV_LEDGER_BUFFERS 64
#define OV_LEDGER_REQUEST ((1u << 20) + 4096) /* bytes of a request at most: 1 MiB of data, and a page for what precedes it */
#define OV_LEDGER_RAISED 6656 /* inodes that one request counts at most: READDIRPLUS, with an answer of 1 MiB, 160 bytes each */

/*
 * The rename that is being carried out (there is one at a time, under the namespace lock): whether it has happened is seen from
 * where the object with inode number INO is.
 */
struct ov_intent {
	uint32_t live;
	uint32_t flags;    /* of renameat2(2) */
	uint32_t whiteout; /* one belongs under the old name */
	uint64_t request;  /* the front's number of it */
	uint64_t olddir, newdir; /* nodeids, like those of what is moved and of what is in its way or exchanged (0: nothing) */
	uint64_t src, dst;
	uint64_t ino;      /* on disk, in the upper, of what is moved */
	char oldname[OV_LEDGER_NAME];
	char newname[OV_LEDGER_NAME];
};

/* The request that a thread is serving. */
struct ov_inflight {
	uint64_t unique; /* 0: none */
	uint64_t nodeid;
	uint32_t opcode;
	uint32_t done;   /* carried out in full, though not answered yet */
	uint64_t served; /* requests answered so far */
	uint32_t nraised; /* entries of its raised[] that are in use */
	uint8_t pad[28]; /* a cache line each */
};

/* A request during which workers have died. */
struct ov_strike {
	uint64_t unique;
	uint32_t nraised; /* entries of its strike_raised[] that are in use */
	uint32_t crashes; /* by its own fault, as far as can be told */
	uint32_t deaths;  /* of any kind */
	uint32_t useless; /* of those that had served nothing else since the death before */
	uint32_t restart; /* the number of the last of these deaths */
	uint32_t done;    /* it was carried out, only the answer is missing */
};

/*
 * A lookup count that is being changed, and the note of that, which are to be true both or neither: what they become. Complete
 * when INODE is set. There is one at a time, under ov_itable.lock. Places are bytes from the start of the ledger.
 */
struct ov_recount {
	uint64_t inode; /* where it is; 0: nothing is being changed */
	uint64_t count;
	uint64_t note;  /* where a uint64_t is */
	uint64_t value;
};

struct ov_ledger {
	uint32_t magic, version;
	uint64_t base;        /* where the arena was mapped by whoever used it last */
	uint64_t next_id;     /* the next nodeid */
	uint64_t tmp_counter; /* names of temporaries */
	struct ov_intent intent;
	uint64_t blame;       /* unique of the request that the dying thread was at */
	uint32_t flushing;    /* threads that wait for the kernel to write back to us: they cannot be killed until that is done */
	uint32_t restarts;    /* workers that have died */
	uint32_t renewals;    /* programs that have taken over */
	uint32_t nbuffers;    /* of BUFFERS, that were ever used */
	struct ov_recount recount;
	struct ov_strike strikes[OV_LEDGER_STRIKES];
	struct ov_inflight inflight[OV_LEDGER_THREADS];
	/* What follows is large, but takes memory only where it is used. */

	/*
	 * Nodeids whose lookup count the thread's request, or the one that was struck, has raised by one for an answer that has
	 * perhaps not been sent, or for the time that it takes. 0: none (any more).
	 */
	uint64_t raised[OV_LEDGER_THREADS][OV_LEDGER_RAISED];
	uint64_t strike_raised[OV_LEDGER_STRIKES][OV_LEDGER_RAISED];
	/*
	 * Requests are read into these. FORGET and BATCH_FORGET are not given again, but are found here: an entry is yet to be
	 * carried out as long as its count is not 0.
	 */
	char buffers[OV_LEDGER_BUFFERS][OV_LEDGER_REQUEST] __attribute__((aligned(4096)));
};

#endif
