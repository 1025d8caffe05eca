/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What --help and --version print. */

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include "params.h"

static const char help_text[] =
	"Usage: " OV_PROGRAM " [-f] [-d] [-s] -o lowerdir=DIR[:DIR...][,OPTION...] [SOURCE] MOUNTPOINT\n"
	"       mount -t fuse." OV_PROGRAM " -o lowerdir=DIR[:DIR...][,OPTION...] SOURCE MOUNTPOINT\n"
	"       fusermount3 -u MOUNTPOINT\n"
	"       " OV_PROGRAM " --upgrade MOUNTPOINT\n"
	"\n"
	"Overlay directories as kernel overlayfs does: lower ones are read, all changes go to the upper.\n"
	"\n"
	"Arguments:\n"
	"  -o OPTION[,OPTION...]     options as below; may be given several times\n"
	"  -f                        stay in the foreground\n"
	"  -d, --debug               log every step, stay in the foreground (also -o debug)\n"
	"  -s                        use one thread only\n"
	"  -h, --help                show this text\n"
	"  -V, --version             show versions\n"
	"  --                        no more arguments that begin with '-'\n"
	"\n"
	"In option values a backslash makes the next character an ordinary one: '\\,' '\\:' '\\\\'.\n"
	"A value in double quotes may hold commas. BOOL is 1 or 0 (also on/off, true/false, yes/no).\n"
	"\n"
	"Layers:\n"
	"  lowerdir=DIR[:DIR...][::DATADIR...]\n"
	"                            lower directories, uppermost first; behind each '::' one that is\n"
	"                            reached through metacopy files only\n"
	"  lowerdir+=DIR             add one more lower directory below the others\n"
	"  datadir+=DIR              add one more data-only directory\n"
	"  upperdir=DIR              where changes go; without it the mount is read-only\n"
	"  workdir=DIR               for temporary files, on upperdir's file system; goes with upperdir\n"
	"\n"
	"Format on disk:\n"
	"  redirect_dir=MODE         renamed directories: on (make and follow redirects), follow, nofollow,\n"
	"                            off (make none, trusted ones are followed; the default)\n"
	"  metacopy=BOOL             copy only metadata up until data changes; implies redirect_dir=on\n"
	"  index=BOOL                keep hard links of lowers together across copy-up (default 0)\n"
	"  userxattr                 keep the overlay's marks in user xattrs also where trusted ones\n"
	"                            could be written\n"
	"  xino=off|auto|on          layer number in the high bits of inode numbers (default auto)\n"
	"  ino32_t                   inode numbers of 32 bits\n"
	"\n"
	"Durability:\n"
	"  fsync=BOOL                0: nothing is forced to disk, fsync does nothing (default 1);\n"
	"                            sync=BOOL is the same\n"
	"  volatile                  as fsync=0, and mark workdir as not to be trusted after a crash\n"
	"\n"
	"Owners, modes and attributes:\n"
	"  uidmapping=IN:OUT:LEN[:IN:OUT:LEN...]\n"
	"                            user id OUT+n on disk shows as IN+n, and back\n"
	"  gidmapping=IN:OUT:LEN[:IN:OUT:LEN...]\n"
	"                            the same for group ids\n"
	"  squash_to_root            everything belongs to 0:0\n"
	"  squash_to_uid=ID          everything belongs to user ID\n"
	"  squash_to_gid=ID          everything belongs to group ID\n"
	"  xattr_permissions=0|1|2   keep owner and mode in an xattr override_stat: 1 in a security one,\n"
	"                            2 in a user one (default 0: no)\n"
	"  static_nlink              directories have link count 1\n"
	"  noacl                     no POSIX ACLs\n"
	"  noxattrs=BOOL             no extended attributes\n"
	"\n"
	"Caching and threads:\n"
	"  timeout=SECONDS           how long the kernel trusts names and attributes (default unlimited)\n"
	"  writeback=BOOL            let the kernel gather writes (default 1)\n"
	"  threaded=BOOL             0: use one thread only (default 1)\n"
	"  max_threads=N             at most so many threads (default 0: as fits the machine)\n"
	"  supervise=BOOL            a second process replaces the one that serves the mount if it dies (default 1)\n"
	"  nosupervise               as supervise=0\n"
	"  poll=MICROSECONDS         wait awake so long for the next of quick requests (default 50, 0: never)\n"
	"  uring=BOOL                FUSE over io_uring, where the kernel offers it; no supervisor then (default 0)\n"
	"  uring_depth=N             threads for each processor then, 2 to 64 (default 4)\n"
	"\n"
	"Mounting:\n"
	"  allow_other               all users have access (the default for root)\n"
	"  allow_root                the mounting user and root have access\n"
	"  default_permissions       the kernel checks permissions (always on)\n"
	"  auto_unmount              unmount when the process ends\n"
	"  fsname=NAME, subtype=NAME source and type shown in /proc/mounts\n"
	"  ro, rw                    read-only or not\n"
	"  [no]dev, [no]suid, [no]exec, [no]atime\n"
	"                            as mount(8); root gets dev and suid, all get noatime\n"
	"  sync, async, dirsync      as mount(8)\n"
	"  context=LABEL, fscontext=LABEL, defcontext=LABEL, rootcontext=LABEL\n"
	"                            SELinux labels, passed to the kernel\n"
	"  blksize=N, max_read=N     passed to the kernel\n"
	"\n"
	"Messages:\n"
	"  debug                     as -d\n"
	"  log_level=LEVEL           error, warning, info or debug, or 0 to 3\n"
	"\n"
	"Accepted for compatibility, without effect: clone_fd, fast_ino, fast_ino_check, max_idle_threads, uuid,\n"
	"nfs_export=off, verity=off, private, lazytime, relatime and what concerns mount(8) only.\n"
	"With a warning: plugins, [no]override_creds, strictatime, iversion, mand, and unknown options.\n"
	"\n"
	"Environment:\n"
	"  FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT=1   write no device 0/0 as whiteout\n";

void ov_params_help(FILE *out)
{
	fputs(help_text, out);
}

void ov_params_version(FILE *out)
{
	fprintf(out, OV_PROGRAM ": version %s\n", PACKAGE_VERSION);
	fprintf(out, "FUSE library version %s\n", fuse_pkgversion());
	fprintf(out, "using FUSE kernel interface version %d.%d\n", FUSE_KERNEL_VERSION, FUSE_KERNEL_MINOR_VERSION);
}
