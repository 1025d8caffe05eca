/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line: every caller's shape, every option, escapes, refusals, and junk. */

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/params.h"

Suite *params_suite(void);

#define MAX_ARGS 16
#define RW "lowerdir=l,upperdir=u,workdir=w"

/* The state of one parse: P, its result and what it wrote. */
struct run {
	struct ov_params p;
	int r;
	char *text;
};

static struct run parse_args(const char *const *args)
{
	struct run run = {.r = 0};
	char *copy[MAX_ARGS + 1] = {NULL};
	size_t size = 0;
	FILE *err = open_memstream(&run.text, &size);
	int n = 0;

	/* Exact heap copies, so that the sanitizer sees a read past an end. */
	for (; args[n] != NULL; n++)
		copy[n] = strdup(args[n]);
	run.r = ov_params_parse(&run.p, n, copy, err);
	for (int i = 0; i < n; i++) {
		ck_assert_str_eq(copy[i], args[i]);
		free(copy[i]);
	}
	fclose(err);
	return run;
}

#define parse(...) parse_args((const char *const[]){"fuse-overlay", __VA_ARGS__, NULL})

static void done(struct run *run)
{
	ov_params_clear(&run->p);
	ov_params_clear(&run->p); /* may be called twice */
	free(run->text);
}

/* Parses, without a word. */
#define quiet(run)                                             \
	do {                                                   \
		ck_assert_msg((run).r == 0, "%s", (run).text); \
		ck_assert_str_eq((run).text, "");              \
	} while (0)

/* -o OPTS is refused with exactly one line that holds each of WORDS. */
static void refused(const char *opts, const char *word)
{
	struct run run = parse("-o", opts, "mnt");
	size_t len = strlen(run.text);

	ck_assert_msg(run.r == -EINVAL, "accepted: %s", opts);
	ck_assert_msg(len > 0 && run.text[len - 1] == '\n' && strchr(run.text, '\n') == run.text + len - 1,
		      "%s: not one line: '%s'", opts, run.text);
	ck_assert_msg(strncmp(run.text, "fuse-overlay: ", 14) == 0, "%s: %s", opts, run.text);
	ck_assert_msg(strstr(run.text, word) != NULL, "%s: '%s' not in: %s", opts, word, run.text);
	done(&run);
}

static struct run accepted(const char *opts)
{
	struct run run = parse("-o", opts, "mnt");

	quiet(run);
	return run;
}

/* Accepted with one warning line that holds WORD. */
static struct run warned(const char *opts, const char *word)
{
	struct run run = parse("-o", opts, "mnt");

	ck_assert_msg(run.r == 0, "%s: %s", opts, run.text);
	ck_assert_msg(strncmp(run.text, "fuse-overlay: warning: ", 23) == 0, "%s: %s", opts, run.text);
	ck_assert_msg(strchr(run.text, '\n') == run.text + strlen(run.text) - 1, "%s: %s", opts, run.text);
	ck_assert_msg(strstr(run.text, word) != NULL, "%s: '%s' not in: %s", opts, word, run.text);
	return run;
}

static bool has_kernel_opt(const struct ov_params *p, const char *text)
{
	size_t found = 0;

	ck_assert(p->kernel_opts != NULL && p->kernel_opts[p->nkernel_opts] == NULL);
	for (size_t i = 0; i < p->nkernel_opts; i++)
		found += strcmp(p->kernel_opts[i], text) == 0;
	ck_assert_uint_le(found, 1);
	return found == 1;
}

static void lowers_are(const struct ov_params *p, size_t ndata, ...)
{
	va_list ap;
	size_t n = 0;

	va_start(ap, ndata);
	for (const char *s; (s = va_arg(ap, const char *)) != NULL; n++) {
		ck_assert_uint_lt(n, p->ov.nlower);
		ck_assert_str_eq(p->ov.lower[n], s);
	}
	va_end(ap);
	ck_assert_uint_eq(p->ov.nlower, n);
	ck_assert_uint_eq(p->ov.ndata, ndata);
}

START_TEST(defaults)
{
	struct run run = accepted(RW);
	const struct ov_params *p = &run.p;

	ck_assert_int_eq(p->action, OV_RUN);
	ck_assert_str_eq(p->mountpoint, "mnt");
	ck_assert_str_eq(p->program, "fuse-overlay");
	ck_assert_str_eq(p->fsname, "fuse-overlay");
	ck_assert(!p->foreground && !p->debug && !p->single_thread && !p->clone_fd && !p->auto_unmount);
	ck_assert_uint_eq(p->max_threads, 0);
	ck_assert(!p->uring);
	ck_assert_uint_eq(p->uring_depth, OV_URING_DEPTH_DEFAULT);
	ck_assert(p->timeout < 0);
	ck_assert(p->writeback && p->default_permissions && !p->allow_root);
	ck_assert_int_eq(p->allow_other, geteuid() == 0);
	ck_assert_int_eq(p->log_level, -1);
	ck_assert_int_eq(has_kernel_opt(p, "suid"), geteuid() == 0);
	ck_assert_int_eq(has_kernel_opt(p, "dev"), geteuid() == 0);
	ck_assert(has_kernel_opt(p, "noatime"));
	ck_assert(!has_kernel_opt(p, "ro"));
	lowers_are(p, 0, "l", NULL);
	ck_assert_str_eq(p->ov.upper, "u");
	ck_assert_str_eq(p->ov.work, "w");
	ck_assert_int_eq(p->ov.redirect, OV_REDIRECT_OFF);
	ck_assert(!p->ov.redirect_set && !p->ov.metacopy && !p->ov.index && !p->ov.userxattr && !p->ov.volatile_);
	ck_assert_int_eq(p->ov.xino, OV_XINO_AUTO);
	ck_assert_int_eq(p->ov.sync, OV_SYNC_ON);
	ck_assert_int_eq(p->ov.squash_uid, -1);
	ck_assert_int_eq(p->ov.squash_gid, -1);
	ck_assert(!p->ov.squash_to_root && !p->ov.force_read_only && !p->ov.no_char_whiteout);
	ck_assert_int_eq(p->ov.xattr_permissions, 0);
	ck_assert_uint_eq(p->ov.uidmap.n, 0);
	done(&run);
}
END_TEST

/* ---- callers ---- */

START_TEST(caller_podman)
{
	struct run run = parse("-o",
			       "lowerdir=/s/overlay/l/AAA:/s/overlay/l/BBB,upperdir=/s/u,workdir=/s/w,volatile,"
			       "context=\"system_u:object_r:container_file_t:s0:c1,c2\","
			       "uidmapping=:0:1000:1:1:100000:65536,gidmapping=:0:1000:1:1:100000:65536,"
			       "xattr_permissions=2",
			       "/s/overlay/ID/merged");

	quiet(run);
	lowers_are(&run.p, 0, "/s/overlay/l/AAA", "/s/overlay/l/BBB", NULL);
	ck_assert(run.p.ov.volatile_);
	ck_assert_int_eq(run.p.ov.sync, OV_SYNC_OFF);
	ck_assert(has_kernel_opt(&run.p, "context=\"system_u:object_r:container_file_t:s0:c1,c2\""));
	ck_assert_uint_eq(run.p.ov.uidmap.n, 2);
	ck_assert_uint_eq(run.p.ov.uidmap.ranges[1].view, 100000);
	ck_assert_uint_eq(run.p.ov.gidmap.n, 2);
	ck_assert_int_eq(run.p.ov.xattr_permissions, 2);
	ck_assert_str_eq(run.p.mountpoint, "/s/overlay/ID/merged");
	done(&run);

	/* Empty mappings, and the form for a single id. */
	run = accepted(RW ",uidmapping=,gidmapping=");
	ck_assert_uint_eq(run.p.ov.uidmap.n, 0);
	done(&run);
	run = accepted(RW ",squash_to_uid=1000,squash_to_gid=4294967294");
	ck_assert_int_eq(run.p.ov.squash_uid, 1000);
	ck_assert_int_eq(run.p.ov.squash_gid, 4294967294);
	done(&run);

	/* Read-only: lowers alone. */
	run = accepted("lowerdir=own:l1:l2");
	ck_assert_ptr_null(run.p.ov.upper);
	ck_assert(has_kernel_opt(&run.p, "ro"));
	done(&run);
}
END_TEST

START_TEST(caller_buildah)
{
	struct run run = parse("-o",
			       "lowerdir=/src\\:x,upperdir=/u,workdir=/w,private,"
			       "context=\"system_u:object_r:x:s0:c1,c2\"",
			       "/merge");

	quiet(run);
	lowers_are(&run.p, 0, "/src:x", NULL);
	ck_assert(has_kernel_opt(&run.p, "context=\"system_u:object_r:x:s0:c1,c2\""));
	done(&run);
}
END_TEST

START_TEST(caller_containerd)
{
	struct run run = parse_args((const char *const[]){"/usr/bin/fuse-overlayfs", "overlay", "/target", "-o",
							  "workdir=/w,lowerdir=/a:/b,upperdir=/u,dev,suid", NULL});

	quiet(run);
	ck_assert_str_eq(run.p.mountpoint, "/target");
	ck_assert_str_eq(run.p.fsname, "overlay");
	ck_assert_str_eq(run.p.program, "fuse-overlayfs");
	ck_assert(has_kernel_opt(&run.p, "dev") && has_kernel_opt(&run.p, "suid"));
	ck_assert(!has_kernel_opt(&run.p, "nodev"));
	done(&run);
}
END_TEST

START_TEST(caller_mount)
{
	struct run run = parse("none", "/mnt", "-o",
			       "rw,nodev,nosuid,noexec,relatime,user=me,_netdev,x-systemd.automount", "-olowerdir=/a",
			       "-o", "upperdir=u,workdir=w");

	quiet(run);
	ck_assert_str_eq(run.p.mountpoint, "/mnt");
	ck_assert_str_eq(run.p.fsname, "none");
	ck_assert(has_kernel_opt(&run.p, "rw") && has_kernel_opt(&run.p, "nodev") && has_kernel_opt(&run.p, "nosuid"));
	ck_assert(has_kernel_opt(&run.p, "noexec"));
	ck_assert(!has_kernel_opt(&run.p, "dev") && !has_kernel_opt(&run.p, "suid"));
	done(&run);
}
END_TEST

START_TEST(help_and_version)
{
	struct run run = parse("--version");

	quiet(run);
	ck_assert_int_eq(run.p.action, OV_SHOW_VERSION);
	done(&run);
	run = parse("-V");
	ck_assert_int_eq(run.p.action, OV_SHOW_VERSION);
	done(&run);
	run = parse("-h");
	ck_assert_int_eq(run.p.action, OV_SHOW_HELP);
	done(&run);
	run = parse("-f", "--help", "a", "b", "c");
	quiet(run);
	ck_assert_int_eq(run.p.action, OV_SHOW_HELP);
	done(&run);
}
END_TEST

START_TEST(texts)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	ov_params_version(f);
	fclose(f);
	ck_assert(strncmp(text, "fuse-overlay: version ", 22) == 0);
	ck_assert_ptr_nonnull(strstr(text, "\nFUSE library version "));
	ck_assert_ptr_nonnull(strstr(text, "\nusing FUSE kernel interface version 7."));
	free(text);

	f = open_memstream(&text, &size);
	ov_params_help(f);
	fclose(f);
	ck_assert(strncmp(text, "Usage: ", 7) == 0);
	ck_assert_ptr_nonnull(strstr(text, "squash_to_gid="));
	free(text);
}
END_TEST

/* ---- arguments ---- */

START_TEST(arguments)
{
	struct run run = parse("-fso", RW, "--", "-mnt");

	quiet(run);
	ck_assert(run.p.foreground && run.p.single_thread && !run.p.debug);
	ck_assert_str_eq(run.p.mountpoint, "-mnt");
	done(&run);

	run = parse("-d", "/dev/fd/3", "-o" RW);
	quiet(run);
	ck_assert(run.p.debug && run.p.foreground);
	ck_assert_int_eq(run.p.log_level, OV_LOG_DEBUG);
	ck_assert_str_eq(run.p.mountpoint, "/dev/fd/3");
	done(&run);

	run = parse("--debug", "mnt", "-o" RW ",log_level=1");
	quiet(run);
	ck_assert(run.p.debug);
	ck_assert_int_eq(run.p.log_level, OV_LOG_WARNING);
	done(&run);

	/* A name given by option wins over the source. */
	run = parse("src", "mnt", "-o" RW ",fsname=name,subtype=other");
	quiet(run);
	ck_assert_str_eq(run.p.fsname, "name");
	ck_assert_str_eq(run.p.program, "other");
	done(&run);
}
END_TEST

static void args_refused(struct run run, const char *word)
{
	ck_assert_int_eq(run.r, -EINVAL);
	ck_assert_msg(strstr(run.text, word) != NULL, "%s", run.text);
	ck_assert_ptr_eq(strchr(run.text, '\n'), run.text + strlen(run.text) - 1);
	done(&run);
}

START_TEST(arguments_refused)
{
	struct run run;

	args_refused(parse("-o", RW), "no mountpoint");
	args_refused(parse("-o", RW, ""), "empty");
	args_refused(parse("a", "b", "c", "-o", RW), "'c'");
	args_refused(parse("-x", "a"), "'-x'");
	args_refused(parse("--nonsense", "a"), "'--nonsense'");
	args_refused(parse("a", "-o"), "'-o'");
	args_refused(parse("mnt"), "no lower layer");

	run = parse_args((const char *const[]){NULL});
	ck_assert_int_eq(run.r, -EINVAL);
	done(&run);
}
END_TEST

/* ---- splitting ---- */

START_TEST(escapes)
{
	struct run run = accepted("lowerdir=a\\:b:c\\,d:e\\\\:f\\\"g,upperdir=u\\,v,workdir=w\\:x");

	lowers_are(&run.p, 0, "a:b", "c,d", "e\\", "f\"g", NULL);
	ck_assert_str_eq(run.p.ov.upper, "u,v");
	ck_assert_str_eq(run.p.ov.work, "w:x");
	done(&run);

	run = accepted("lowerdir=\"a,b:c\",upperdir=\"u,v\",workdir=w,fsname=\"x,y\"");
	lowers_are(&run.p, 0, "a,b", "c", NULL);
	ck_assert_str_eq(run.p.ov.upper, "u,v");
	ck_assert_str_eq(run.p.fsname, "x,y");
	done(&run);

	/* A quote that nothing closes, or inside a path, is an ordinary character and swallows nothing. */
	run = accepted("lowerdir=a\"b,upperdir=u\"v,workdir=\"w");
	lowers_are(&run.p, 0, "a\"b", NULL);
	ck_assert_str_eq(run.p.ov.upper, "u\"v");
	ck_assert_str_eq(run.p.ov.work, "\"w");
	done(&run);

	/* Empty options, a backslash at the end. */
	run = accepted(",,lowerdir=a\\");
	lowers_are(&run.p, 0, "a\\", NULL);
	done(&run);
}
END_TEST

START_TEST(lowers)
{
	struct run run = accepted("lowerdir=a:b::d1::d2");

	lowers_are(&run.p, 2, "a", "b", "d1", "d2", NULL);
	done(&run);
	run = accepted("lowerdir+=a:b,lowerdir+=c\\,d,datadir+=e:f");
	lowers_are(&run.p, 1, "a:b", "c,d", "e:f", NULL);
	done(&run);
	run = accepted("lowerdir=a,lowerdir+=b,datadir+=c");
	lowers_are(&run.p, 1, "a", "b", "c", NULL);
	done(&run);
	/* A later list replaces. */
	run = accepted("lowerdir=a:b::c,lowerdir=d");
	lowers_are(&run.p, 0, "d", NULL);
	done(&run);
	run = accepted("lowerdir=l,upperdir=a,workdir=b,upperdir=u,workdir=w");
	ck_assert_str_eq(run.p.ov.upper, "u");
	ck_assert_str_eq(run.p.ov.work, "w");
	done(&run);

	refused("lowerdir=", "needs a value");
	refused("lowerdir", "needs a value");
	refused("lowerdir=:a", "layer 1 is empty");
	refused("lowerdir=a:", "layer 2 is empty");
	refused("lowerdir=a::", "layer 2 is empty");
	refused("lowerdir=::a", "layer 1 is empty");
	refused("lowerdir=a:::b", "layer 2 is empty");
	refused("lowerdir=a::b:", "layer 3 is empty");
	refused("lowerdir=a::b:c", "cannot follow");
	refused("lowerdir=a::b,lowerdir+=c", "cannot follow");
	refused("lowerdir=\"\"", "empty");
	refused("lowerdir+=", "needs a value");
	refused("lowerdir+=\"\"", "needs a value");
	refused("datadir+=a", "data-only");
	refused("lowerdir=a,upperdir=,workdir=w", "'upperdir='");
	refused("upperdir=u,workdir=w", "lowerdir=DIR");
	refused("lowerdir=a,upperdir=u", "workdir=DIR");

	run = warned("lowerdir=a,workdir=w", "workdir");
	ck_assert_ptr_null(run.p.ov.work);
	done(&run);
	run = warned("lowerdir=a,volatile", "volatile");
	ck_assert(!run.p.ov.volatile_);
	done(&run);
	run = warned("lowerdir=a,index=on", "index");
	ck_assert(!run.p.ov.index);
	done(&run);
}
END_TEST

START_TEST(long_options)
{
	char *opts = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&opts, &size);
	struct run run;

	fputs("workdir=w,upperdir=u,lowerdir=", f);
	for (int i = 0; i < 500; i++)
		fprintf(f, "%s/var/lib/containers/storage/overlay/%0110d/diff", i > 0 ? ":" : "", i);
	fputs(",noacl", f);
	fclose(f);
	ck_assert_uint_gt(size, 65536);
	run = accepted(opts);
	ck_assert_uint_eq(run.p.ov.nlower, 500);
	ck_assert(run.p.ov.noacl);
	ck_assert_ptr_nonnull(strstr(run.p.ov.lower[499], "499/diff"));
	done(&run);
	free(opts);

	/* A long value in a message is cut. */
	f = open_memstream(&opts, &size);
	fputs("lowerdir=", f);
	for (int i = 0; i < 70000; i++)
		fputc('x', f);
	fputs(":", f);
	fclose(f);
	run = parse("-o", opts, "mnt");
	ck_assert_int_eq(run.r, -EINVAL);
	ck_assert_uint_lt(strlen(run.text), 300);
	done(&run);
	free(opts);
}
END_TEST

/* ---- single options ---- */

START_TEST(booleans)
{
	static const char *const yes[] = {"", "=1", "=on", "=true", "=yes"};
	static const char *const no[] = {"=0", "=off", "=false", "=no"};
	char opts[128];
	struct run run;

	for (size_t i = 0; i < OV_ARRAY_SIZE(yes); i++) {
		snprintf(opts, sizeof(opts), RW ",noxattrs%s,static_nlink%s,ino32_t%s,clone_fd%s,uring%s", yes[i], yes[i],
			 yes[i], yes[i], yes[i]);
		run = accepted(opts);
		ck_assert(run.p.ov.noxattrs && run.p.ov.static_nlink && run.p.ov.ino32 && run.p.clone_fd && run.p.uring);
		done(&run);
	}
	for (size_t i = 0; i < OV_ARRAY_SIZE(no); i++) {
		snprintf(opts, sizeof(opts), RW ",noacl,noacl%s,writeback%s,threaded%s,fsync%s", no[i], no[i], no[i],
			 no[i]);
		run = accepted(opts);
		ck_assert(!run.p.ov.noacl && !run.p.writeback && run.p.single_thread);
		ck_assert_int_eq(run.p.ov.sync, OV_SYNC_OFF);
		done(&run);
	}
	refused(RW ",writeback=2", "'writeback=2'");
	refused(RW ",noacl=", "'noacl='");
	refused(RW ",fsync=maybe", "give 0 or 1");
	refused(RW ",threaded=-1", "'threaded=-1'");
	refused(RW ",fast_ino=x", "'fast_ino=x'");
}
END_TEST

START_TEST(numbers)
{
	struct run run = accepted(RW ",max_threads=7,uring_depth=6,xattr_permissions=1,max_idle_threads=-1,squash_to_uid=007");

	ck_assert_uint_eq(run.p.max_threads, 7);
	ck_assert_uint_eq(run.p.uring_depth, 6);
	ck_assert_int_eq(run.p.ov.xattr_permissions, 1);
	ck_assert_int_eq(run.p.ov.squash_uid, 7);
	done(&run);

	refused(RW ",squash_to_uid=abc",
		"option 'squash_to_uid=abc': not a number; give an id between 0 and 4294967294\n");
	refused(RW ",squash_to_uid=", "not a number");
	refused(RW ",squash_to_uid", "not a number");
	refused(RW ",squash_to_uid=-", "not a number");
	refused(RW ",squash_to_uid=-1", "negative");
	refused(RW ",squash_to_gid=4294967295", "too large");
	refused(RW ",squash_to_gid=99999999999999999999999", "too large");
	refused(RW ",squash_to_gid=1 ", "not a number");
	refused(RW ",squash_to_gid=+1", "not a number");
	refused(RW ",squash_to_gid=0x1", "not a number");
	refused(RW ",xattr_permissions=3", "between 0 and 2");
	refused(RW ",max_threads=100000", "between 0 and 4096");
	refused(RW ",uring_depth=65", "between 0 and 64");
	refused(RW ",max_idle_threads=-2", "negative");
	refused(RW ",max_read=x", "not a number");
}
END_TEST

START_TEST(timeouts)
{
	static const struct {
		const char *opts;
		double expect;
	} good[] = {{RW ",timeout=0", 0},	{RW ",timeout=0.5", 0.5},  {RW ",timeout=.25", 0.25},
		    {RW ",timeout=3600", 3600}, {RW ",timeout=1e3", 1000}, {RW ",timeout=1000000000.0", -1}};
	static const char *const bad[] = {"",	"x",  "-1", "-0", "1x", "inf",	 "nan", "0x10",
					  " 1", "1 ", "1e", "e",  ".",	"1.2.3", "+1"};
	char opts[80];

	for (size_t i = 0; i < OV_ARRAY_SIZE(good); i++) {
		struct run run = accepted(good[i].opts);

		ck_assert_double_eq(run.p.timeout, good[i].expect);
		done(&run);
	}
	for (size_t i = 0; i < OV_ARRAY_SIZE(bad); i++) {
		snprintf(opts, sizeof(opts), RW ",timeout=%s", bad[i]);
		refused(opts, "timeout");
	}
}
END_TEST

START_TEST(choices)
{
	struct run run =
		accepted(RW ",redirect_dir=nofollow,xino=off,log_level=info,uuid=null,verity=off,nfs_export=off");

	ck_assert_int_eq(run.p.ov.redirect, OV_REDIRECT_NOFOLLOW);
	ck_assert(run.p.ov.redirect_set);
	ck_assert_int_eq(run.p.ov.xino, OV_XINO_OFF);
	ck_assert_int_eq(run.p.log_level, OV_LOG_INFO);
	done(&run);
	run = accepted(RW ",redirect_dir=off,xino=on,log_level=3,index=on");
	ck_assert_int_eq(run.p.ov.redirect, OV_REDIRECT_OFF);
	ck_assert(run.p.ov.redirect_set && run.p.ov.index);
	ck_assert_int_eq(run.p.ov.xino, OV_XINO_ON);
	ck_assert_int_eq(run.p.log_level, OV_LOG_DEBUG);
	done(&run);

	refused(RW ",redirect_dir=maybe", "off follow nofollow on");
	refused(RW ",redirect_dir", "needs a value");
	refused(RW ",xino=2", "off auto on");
	refused(RW ",log_level=4", "error warning");
	refused(RW ",uuid=x", "'uuid=x'");
	refused(RW ",nfs_export=on", "nfs_export=off");
	refused(RW ",verity=on", "verity=off");
	refused(RW ",verity=require", "verity=off");
	refused(RW ",verity", "needs a value");
}
END_TEST

START_TEST(durability)
{
	struct run run = accepted(RW ",volatile,fsync=1");

	ck_assert(run.p.ov.volatile_);
	ck_assert_int_eq(run.p.ov.sync, OV_SYNC_OFF);
	done(&run);
	run = accepted(RW ",sync=0");
	ck_assert_int_eq(run.p.ov.sync, OV_SYNC_OFF);
	ck_assert(!has_kernel_opt(&run.p, "sync"));
	done(&run);
	run = accepted(RW ",sync,dirsync");
	ck_assert_int_eq(run.p.ov.sync, OV_SYNC_ON);
	ck_assert(has_kernel_opt(&run.p, "sync") && has_kernel_opt(&run.p, "dirsync"));
	done(&run);
	run = accepted(RW ",sync,async");
	ck_assert(!has_kernel_opt(&run.p, "sync"));
	done(&run);
	run = accepted(RW ",fsync=volatile");
	ck_assert(run.p.ov.volatile_);
	done(&run);
	run = accepted(RW ",fsync=0,fsync=strict");
	ck_assert_int_eq(run.p.ov.sync, OV_SYNC_ON);
	done(&run);
}
END_TEST

/* The kernel's rules, as it enforces them. */
START_TEST(conflicts)
{
	struct run run = accepted(RW ",metacopy=on");

	ck_assert(run.p.ov.metacopy);
	ck_assert_int_eq(run.p.ov.redirect, OV_REDIRECT_ON);
	done(&run);
	run = accepted("lowerdir=a:b,metacopy=on,redirect_dir=follow");
	ck_assert_int_eq(run.p.ov.redirect, OV_REDIRECT_FOLLOW);
	done(&run);
	run = accepted("lowerdir=a:b,metacopy=on,redirect_dir=off");
	ck_assert_int_eq(run.p.ov.redirect, OV_REDIRECT_FOLLOW);
	done(&run);
	run = accepted(RW ",userxattr,redirect_dir=nofollow,metacopy=off");
	ck_assert(run.p.ov.userxattr);
	done(&run);
	run = accepted(RW ",userxattr,redirect_dir=off");
	done(&run);

	refused(RW ",metacopy=on,redirect_dir=off", "redirect_dir=off");
	refused(RW ",metacopy=on,redirect_dir=follow", "redirect_dir=follow");
	refused(RW ",redirect_dir=nofollow,metacopy=on", "redirect_dir=nofollow");
	refused("lowerdir=a:b,metacopy=on,redirect_dir=nofollow", "redirect_dir=nofollow");
	refused(RW ",userxattr,redirect_dir=on", "conflicting options userxattr");
	refused(RW ",userxattr,redirect_dir=follow", "conflicting options userxattr");
	refused(RW ",userxattr,metacopy=on", "conflicting options userxattr");
}
END_TEST

START_TEST(idmaps)
{
	/* As fuse-overlayfs's manual writes them: triples joined by commas. */
	struct run run = accepted(RW ",uidmapping=0:1000:1,1:110000:65536,gidmapping=0:1000:1:1:110000:65536,noacl");

	ck_assert_uint_eq(run.p.ov.uidmap.n, 2);
	ck_assert_uint_eq(run.p.ov.uidmap.ranges[1].length, 65536);
	ck_assert_uint_eq(run.p.ov.gidmap.n, 2);
	ck_assert(run.p.ov.noacl);
	done(&run);
	run = accepted(RW ",uidmapping=0:1000:1\\,1:110000:65536,uidmapping=0:5:1");
	ck_assert_uint_eq(run.p.ov.uidmap.n, 1);
	done(&run);

	refused(RW ",uidmapping=0:1", "triples");
	refused(RW ",gidmapping=0:0:0", "gidmapping=0:0:0");
	refused(RW ",gidmapping=0:0:x", "not a number");
	run = warned(RW ",uidmapping=0:1000:1,noacl,1:110000:65536", "unknown option '1:110000:65536'");
	done(&run);
}
END_TEST

START_TEST(kernel_options)
{
	struct run run = accepted(RW ",dev,nodev,suid,nosuid,noexec,exec,atime,ro,max_read=131072,max_read=65536,"
				     "fscontext=a,defcontext=\"b,c\",rootcontext=d,context=first,context=\"e\"");
	static const char *const expect[] = {"nodev",
					     "nosuid",
					     "exec",
					     "atime",
					     "ro",
					     "max_read=65536",
					     "fscontext=a",
					     "defcontext=\"b,c\"",
					     "rootcontext=d",
					     "context=\"e\""};

	ck_assert_uint_eq(run.p.nkernel_opts, OV_ARRAY_SIZE(expect));
	for (size_t i = 0; i < OV_ARRAY_SIZE(expect); i++)
		ck_assert_str_eq(run.p.kernel_opts[i], expect[i]);
	ck_assert(run.p.ov.force_read_only);
	done(&run);

	run = accepted(RW ",ro,rw");
	ck_assert(!run.p.ov.force_read_only && has_kernel_opt(&run.p, "rw") && !has_kernel_opt(&run.p, "ro"));
	done(&run);

	refused(RW ",context=\"a,b", "quotes");
	refused(RW ",context=\"a\"b", "quotes");
	refused(RW ",context=", "needs a value");
	refused(RW ",ro=1", "takes no value");
}
END_TEST

START_TEST(access_options)
{
	struct run run = accepted(RW ",allow_other,auto_unmount,default_permissions");

	ck_assert(run.p.allow_other && run.p.auto_unmount && run.p.default_permissions);
	done(&run);
	run = accepted(RW ",allow_other,allow_root");
	ck_assert(!run.p.allow_other && run.p.allow_root);
	done(&run);
	run = accepted(RW ",allow_root,allow_other");
	ck_assert(run.p.allow_other && !run.p.allow_root);
	done(&run);
	run = accepted(RW ",allow_other=0");
	ck_assert(!run.p.allow_other);
	done(&run);
	run = warned(RW ",default_permissions=0", "always");
	ck_assert(run.p.default_permissions);
	done(&run);
}
END_TEST

START_TEST(unknown)
{
	struct run run = warned(RW ",frobnicate=3", "ignoring unknown option 'frobnicate'");

	done(&run);
	run = warned(RW ",plugins=a.so", "plugins=a.so");
	done(&run);
	run = warned(RW ",strictatime", "strictatime");
	done(&run);
	run = warned(RW ",override_creds=on", "override_creds");
	done(&run);
	run = accepted(RW ",plugins=,lazytime,private,nonempty,comment=x,X-mount.mkdir,x-foo=bar,noauto,users,nofail,"
			  "fast_ino=1,fast_ino_check=0,max_idle_threads=5,remote,user");
	done(&run);

	/* A flood is cut. */
	run = parse("-o", RW ",q,q,q,q,q,q,q,q,q,q,q,q,q,q,q,q,q,q,q", "mnt");
	ck_assert_int_eq(run.r, 0);
	ck_assert_ptr_nonnull(strstr(run.text, "3 more warnings"));
	done(&run);
}
END_TEST

START_TEST(environment)
{
	struct run run;

	setenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "y", 1);
	run = accepted(RW);
	ck_assert(run.p.ov.no_char_whiteout);
	done(&run);
	setenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "0", 1);
	run = accepted(RW);
	ck_assert(!run.p.ov.no_char_whiteout);
	done(&run);
	setenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "", 1);
	run = accepted(RW);
	ck_assert(!run.p.ov.no_char_whiteout);
	done(&run);
	unsetenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT");
}
END_TEST

/* ---- junk ---- */

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* Strings of pieces that mean something and of noise: whatever comes, no crash, whole lines, consistent results. */
START_TEST(junk)
{
	static const char *const pieces[] = {
		"lowerdir",
		"=",
		":",
		"::",
		",",
		"\\",
		"\"",
		"lowerdir+=",
		"datadir+=",
		"upperdir=",
		"workdir=",
		"a",
		"/x/y",
		"uidmapping=",
		"0:1000:1",
		"1:2:3",
		"gidmapping",
		"timeout=",
		"1",
		"-",
		".",
		"4294967295",
		"squash_to_uid=",
		"context=\"",
		"fsname=",
		"ro",
		"metacopy=on",
		"redirect_dir=",
		"follow",
		"userxattr",
		"\n",
		"\xff\xc3",
		"volatile",
		"x-",
		"sync",
		"index=",
		"on",
		"max_read=",
		"99999999999999999999",
		"%s%n",
	};
	uint32_t state = 20240229;
	const char *rounds = getenv("OV_JUNK_ROUNDS");
	long n = rounds != NULL ? atol(rounds) : 20000;

	for (long i = 0; i < n; i++) {
		char opts[1024];
		size_t len = 0;
		unsigned count = 1 + next_random(&state) % 40;
		struct run run;

		if (next_random(&state) % 2 == 0)
			len = (size_t)sprintf(opts, "%s,", RW);
		for (unsigned k = 0; k < count; k++)
			len += (size_t)sprintf(opts + len, "%s", pieces[next_random(&state) % OV_ARRAY_SIZE(pieces)]);
		run = parse("-o", opts, "mnt");
		ck_assert(run.r == 0 || run.r == -EINVAL);
		ck_assert(run.r == 0 || *run.text != '\0');
		ck_assert(*run.text == '\0' || run.text[strlen(run.text) - 1] == '\n');
		for (const char *line = run.text; *line != '\0'; line = strchr(line, '\n') + 1)
			ck_assert_msg(strncmp(line, "fuse-overlay: ", 14) == 0, "%s", run.text);
		if (run.r == 0) {
			ck_assert(run.p.ov.nlower > run.p.ov.ndata);
			ck_assert((run.p.ov.upper == NULL) == (run.p.ov.work == NULL));
			ck_assert_str_eq(run.p.mountpoint, "mnt");
			for (size_t k = 0; k < run.p.ov.nlower; k++)
				ck_assert(*run.p.ov.lower[k] != '\0');
		}
		done(&run);
	}
}
END_TEST

Suite *params_suite(void)
{
	Suite *s = suite_create("params");
	TCase *tc = tcase_create("params");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, defaults);
	tcase_add_test(tc, caller_podman);
	tcase_add_test(tc, caller_buildah);
	tcase_add_test(tc, caller_containerd);
	tcase_add_test(tc, caller_mount);
	tcase_add_test(tc, help_and_version);
	tcase_add_test(tc, texts);
	tcase_add_test(tc, arguments);
	tcase_add_test(tc, arguments_refused);
	tcase_add_test(tc, escapes);
	tcase_add_test(tc, lowers);
	tcase_add_test(tc, long_options);
	tcase_add_test(tc, booleans);
	tcase_add_test(tc, numbers);
	tcase_add_test(tc, timeouts);
	tcase_add_test(tc, choices);
	tcase_add_test(tc, durability);
	tcase_add_test(tc, conflicts);
	tcase_add_test(tc, idmaps);
	tcase_add_test(tc, kernel_options);
	tcase_add_test(tc, access_options);
	tcase_add_test(tc, unknown);
	tcase_add_test(tc, environment);
	tcase_add_test(tc, junk);
	suite_add_tcase(s, tc);
	return s;
}
