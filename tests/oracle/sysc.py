# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that the standard library lacks, and the switch to another user for one operation."""

import ctypes
import os
import struct
from contextlib import contextmanager

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME = 2, 4, 8, 32, 1024
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PR_SET_CHILD_SUBREAPER = 36
PR_SET_PDEATHSIG = 1

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH, FALLOC_ZERO = 1, 2, 16

_offt = ctypes.c_int64
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, _offt, _offt]
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_libc.linkat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.getdents64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.getdents64.restype = ctypes.c_ssize_t
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.faccessat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]


_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, _offt]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


def _check(ret):
    if ret < 0:
        err = ctypes.get_errno()
        raise OSError(err, os.strerror(err))
    return ret


def unshare(flags):
    _check(_libc.unshare(flags))


def prctl(option, arg):
    _check(_libc.prctl(option, arg, 0, 0, 0))


def mount(source, target, fstype, flags, data):
    _check(_libc.mount(source, target, fstype, flags, data))


def umount(target, flags=0):
    _check(_libc.umount2(target, flags))


def rename(old, new, flags):
    _check(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))


def link_fd(fd, new):
    """Give a name to an open file, as O_TMPFILE users do."""
    _check(_libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, new, AT_SYMLINK_FOLLOW))


def fallocate(fd, mode, offset, length):
    _check(_libc.fallocate(fd, mode, offset, length))


def syncfs(fd):
    _check(_libc.syncfs(fd))


def access(path, mode):
    """access(2) with the ids that the operation runs with (AT_EACCESS)."""
    _check(_libc.faccessat(AT_FDCWD, path, mode, 0x200))


def utimens(path, times, nofollow=False):
    """TIMES: (atime_sec, atime_nsec, mtime_sec, mtime_nsec), nsec may be UTIME_NOW or UTIME_OMIT."""
    spec = (_Timespec * 2)((times[0], times[1]), (times[2], times[3]))
    _check(_libc.utimensat(AT_FDCWD, path, spec, AT_SYMLINK_NOFOLLOW if nofollow else 0))


def futimens(fd, times):
    spec = (_Timespec * 2)((times[0], times[1]), (times[2], times[3]))
    _check(_libc.futimens(fd, spec))


_DENTS_SIZE = 65536
_dents = ctypes.create_string_buffer(_DENTS_SIZE)


def getdents(fd, size=_DENTS_SIZE):
    """One getdents64: a list of (name, d_ino, d_type, d_off); empty at the end."""
    got = _check(_libc.getdents64(fd, _dents, min(size, _DENTS_SIZE)))
    raw = _dents.raw[:got] if got < 4096 else ctypes.string_at(_dents, got)
    out = []
    pos = 0
    while pos < got:
        ino, off, reclen, dtype = struct.unpack_from("<QqHB", raw, pos)
        name = raw[pos + 19:pos + reclen]
        out.append((name[:name.index(b"\0")], ino, dtype, off))
        pos += reclen
    return out


def listdir(path):
    """The whole directory as getdents gives it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        out = []
        while True:
            part = getdents(fd)
            if not part:
                return out
            out += part
    finally:
        os.close(fd)


class Mapping:
    """A shared read-only mapping whose missing pages are an error and not a signal."""

    def __init__(self, fd, size):
        addr = _libc.mmap(None, size, 1, 1, fd, 0)
        if addr == ctypes.c_void_p(-1).value:
            err = ctypes.get_errno()
            raise OSError(err, os.strerror(err))
        self.addr, self.size = addr, size

    def read(self, size):
        """The first SIZE bytes; None if a page of them is not there."""
        mem = os.open("/proc/self/mem", os.O_RDONLY)
        try:
            size = min(size, self.size)
            got = os.pread(mem, size, self.addr)
            return got if len(got) == size else None
        except OSError:
            return None
        finally:
            os.close(mem)

    def close(self):
        _libc.munmap(self.addr, self.size)


_CAP_HEADER = struct.pack("<II", 0x20080522, 0)
_CAPS_NONE_EFFECTIVE = None
_CAPS_ALL = None
_current = 0


def _capget():
    buf = ctypes.create_string_buffer(24)
    _check(_libc.capget(ctypes.create_string_buffer(_CAP_HEADER, 8), buf))
    return buf.raw


def _capset(data):
    _check(_libc.capset(ctypes.create_string_buffer(_CAP_HEADER, 8), ctypes.create_string_buffer(data, 24)))


def _become(uid):
    global _CAPS_ALL, _CAPS_NONE_EFFECTIVE, _current
    if uid == _current:
        return
    if _CAPS_ALL is None:
        _CAPS_ALL = _capget()
        _, per0, inh0, _, per1, inh1 = struct.unpack("<6I", _CAPS_ALL)
        _CAPS_NONE_EFFECTIVE = struct.pack("<6I", 0, per0, inh0, 0, per1, inh1)
    _capset(_CAPS_ALL)
    _libc.setfsgid(uid)
    _libc.setfsuid(uid)
    # A change of the fsuid moves some capabilities by itself.
    _capset(_CAPS_NONE_EFFECTIVE if uid else _CAPS_ALL)
    _current = uid


@contextmanager
def as_user(uid):
    """Do file operations as UID with the group of the same number, and with no capability unless it is root."""
    before = _current
    _become(uid)
    try:
        yield
    finally:
        _become(before)
