/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 314
#include "transport.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <unistd.h>

#include "ledger.h"

/* INIT flags that libfuse of the floor does not offer (the numbers are those of the kernel's header). */
#define INIT_HANDLE_KILLPRIV_V2 (1ULL << 28)
#define INIT_SETXATTR_EXT (1ULL << 29)
#define INIT_INIT_EXT (1ULL << 30)
#define INIT_MAX_PAGES (1ULL << 22)
#define INIT_WANTED (INIT_HANDLE_KILLPRIV_V2 | INIT_SETXATTR_EXT)

#define WRITE_KILL_SUIDGID (1u << 2)
#define SETATTR_KILL_SUIDGID (1u << 11)

static __thread struct ov_request current;
static __thread struct ov_transport *current_transport;
static __thread struct ov_reply *current_reply;

const struct ov_request *ov_transport_current(void)
{
	return &current;
}

/* The kernel's flags as offered. */
static void read_init(struct ov_transport *t, const struct fuse_buf *buf)
{
	const struct fuse_in_header *in = buf->mem;
	struct fuse_init_in init;

	memset(&init, 0, sizeof(init));
	if (buf->size <= sizeof(*in))
		return;
	memcpy(&init, in + 1, buf->size - sizeof(*in) < sizeof(init) ? buf->size - sizeof(*in) : sizeof(init));
	t->offered = init.flags;
	if (init.flags & INIT_INIT_EXT)
		t->offered |= (uint64_t)init.flags2 << 32;
}

void ov_transport_prepare(struct ov_transport *t, const struct fuse_buf *buf, struct ov_reply *reply)
{
	const struct fuse_in_header *in = buf->mem;
	const void *body = in + 1;

	current = (struct ov_request){
		.buf = buf, .opcode = in->opcode, .unique = in->unique, .nodeid = in->nodeid, .uid = in->uid, .pid = in->pid,
		.gid = in->gid};
	current_transport = t;
	current_reply = reply;
	ov_stats_count(&t->stats, in->opcode);
	if (reply)
		__atomic_add_fetch(reply->later ? &t->stats.posted : &t->stats.uring, 1, __ATOMIC_RELAXED);
	switch (in->opcode) {
	case FUSE_INIT:
		read_init(t, buf);
		break;
	case FUSE_WRITE:
		if (buf->size >= sizeof(*in) + sizeof(struct fuse_write_in))
			current.kill_suidgid = ((const struct fuse_write_in *)body)->write_flags & WRITE_KILL_SUIDGID;
		break;
	case FUSE_SETATTR:
		if (buf->size >= sizeof(*in) + sizeof(struct fuse_setattr_in))
			current.kill_suidgid = ((const struct fuse_setattr_in *)body)->valid & SETATTR_KILL_SUIDGID;
		break;
	default:
		break;
	}
}

/* As the kernel reckons the size of the buffers that it wants. */
static size_t max_payload(const struct fuse_init_out *out)
{
	size_t pages = out->flags & INIT_MAX_PAGES ? out->max_pages : 32;
	size_t size = pages * (size_t)sysconf(_SC_PAGESIZE);

	if (size < out->max_write)
		size = out->max_write;
	return size < FUSE_MIN_READ_BUFFER ? FUSE_MIN_READ_BUFFER : size;
}

/* Put our flags into libfuse's answer to INIT, as far as the kernel offers them. */
static void patch_init(struct ov_transport *t, const struct iovec *iov, int count)
{
	struct fuse_init_out *out;
	uint64_t add = t->offered & INIT_WANTED;

	if (count < 2 || iov[1].iov_len < sizeof(*out))
		return;
	out = iov[1].iov_base;
	if ((t->offered & OV_INIT_OVER_IO_URING) && t->agree_uring && t->agree_uring(t->agree_uring_arg, max_payload(out)))
		add |= OV_INIT_OVER_IO_URING;
	out->flags |= (uint32_t)add;
	t->setxattr_ext = out->flags & INIT_SETXATTR_EXT;
	if (t->offered & INIT_INIT_EXT) {
		out->flags |= (uint32_t)INIT_INIT_EXT;
		out->flags2 |= (uint32_t)(add >> 32);
	}
	t->agreed = true;
}

/* Errors that no caller has made: something is wrong with the machine or the layers. */
static bool is_trouble(int error)
{
	switch (error) {
	case EIO:
	case ENOSPC:
	case EDQUOT:
	case ENOMEM:
	case EMFILE:
	case ENFILE:
	case ESTALE:
		return true;
	default:
		return false;
	}
}

static void tell_trouble(int error)
{
	if (error < 0 && is_trouble(-error) && current_transport && current_transport->failed)
		current_transport->failed(current_transport->failed_arg, &current, -error);
}

static __thread const void *present;

void ov_transport_use_buffer(const void *mem)
{
	present = mem;
}

#define PAGE 4096 /* the smallest that there are */

/* Zero the first words of every page of BUF up to LEN: the opcode, and nodeids if it were entries of BATCH_FORGET. */
static void make_blank(char *buf, size_t len)
{
	for (size_t at = 0; at + sizeof(uint64_t) <= len; at += PAGE)
		__atomic_store_n((uint64_t *)(void *)(buf + at), 0, __ATOMIC_RELEASE);
}

/*
 * The process may die while it is handed a request, of which the kernel then has written all or some pages, or none: what an
 * earlier request has left there must not be taken for a part of it (ov_inflight_forget_rest()).
 */
static ssize_t io_read(int fd, void *buf, size_t len, void *userdata OV_UNUSED)
{
	const struct fuse_in_header *earlier = buf;

	if (len > OV_LEDGER_REQUEST)
		len = OV_LEDGER_REQUEST;
	/* the first time all of it, which gives every page its memory, too */
	make_blank(buf, buf == present && earlier->len < len ? earlier->len : len);
	present = buf;
	return read(fd, buf, len);
}

/* The reply that begins behind iov[0] becomes REPLY. */
static ssize_t take_reply(struct ov_reply *reply, int error, const struct iovec *iov, int count)
{
	ssize_t total = (ssize_t)iov[0].iov_len;

	reply->done = true;
	reply->error = error;
	reply->size = 0;
	for (int n = 1; n < count && !error; n++) {
		char *at = (char *)reply->data + reply->size;

		if (iov[n].iov_len > reply->room - reply->size) {
			reply->error = -ERANGE;
			reply->size = 0;
			errno = ERANGE;
			return -1;
		}
		if (iov[n].iov_base != at && iov[n].iov_len)
			memmove(at, iov[n].iov_base, iov[n].iov_len);
		reply->size += iov[n].iov_len;
		total += (ssize_t)iov[n].iov_len;
	}
	return total;
}

static ssize_t send_reply(int fd, struct iovec *iov, int count)
{
	const struct fuse_out_header *out = iov[0].iov_base;

	if (current_reply && out->unique == current.unique)
		return take_reply(current_reply, out->error, iov, count);
	return writev(fd, iov, count); /* notifications have no unique */
}

void *ov_transport_room(size_t size)
{
	return current_reply && size <= current_reply->room ? current_reply->data : NULL;
}

bool ov_transport_is_device(void)
{
	return !current_reply;
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata OV_UNUSED)
{
	const struct fuse_out_header *out = iov[0].iov_base;

	if (current.opcode == FUSE_INIT && current_transport && out->unique == current.unique && out->error == 0)
		patch_init(current_transport, iov, count);
	if (current_transport && current_transport->mute)
		return out->len;
	if (out->unique == current.unique)
		tell_trouble(out->error);
	return send_reply(fd, iov, count);
}

int ov_transport_attach(struct ov_transport *t, struct fuse_session *se, int fd)
{
	const struct fuse_custom_io io = {.read = io_read, .writev = io_writev};

	memset(t, 0, sizeof(*t));
	return fuse_session_custom_io(se, &io, fd);
}

int ov_transport_reply(int fd, int error, const void *data, size_t size)
{
	struct fuse_out_header out = {.unique = current.unique, .error = error};
	struct iovec iov[2] = {{.iov_base = &out, .iov_len = sizeof(out)},
			       {.iov_base = (void *)(uintptr_t)data, .iov_len = error ? 0 : size}};

	tell_trouble(error);
	out.len = (uint32_t)(sizeof(out) + iov[1].iov_len);
	return send_reply(fd, iov, error || !size ? 1 : 2) < 0 ? -errno : 0;
}

int ov_transport_refuse(int fd, uint64_t unique, int error)
{
	struct fuse_out_header out = {.len = sizeof(out), .unique = unique, .error = error};

	return write(fd, &out, sizeof(out)) < 0 ? -errno : 0;
}

#define NOTIFY_RESEND 7 /* include/uapi/linux/fuse.h 7.41 */

int ov_transport_resend(int fd)
{
	return ov_transport_refuse(fd, 0, NOTIFY_RESEND); /* a notification is a reply to nothing */
}
