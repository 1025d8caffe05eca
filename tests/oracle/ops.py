# SPDX-License-Identifier: GPL-2.0-or-later
"""
The operations. One is a list [name, uid, arguments...] of strings and numbers: it can be printed, stored and replayed.
SPEC says what the arguments are; op_NAME does it on one side and returns what can be compared.
"""

import fcntl
import hashlib
import mmap
import os
import stat
import struct

import sysc
import view
from layers import data, enc, shown

# P: a path, S: a slot of an open handle, anything else: a value.
SPEC = {
    "create": "Pmode,size,pattern", "open": "SPflags,mode", "tmpfile": "SPflags,mode", "opendir": "SP",
    "hread": "Soffset,length", "hwrite": "Soffset,length,pattern", "happend": "Slength,pattern", "hmmap": "Soffset,length,pattern",
    "hmap": "S", "hmapread": "S",
    "htruncate": "Ssize", "hstat": "S", "hchmod": "Smode", "hchown": "Suid,gid", "hutimens": "Stimes", "hfsync": "S",
    "hfallocate": "Smode,offset,length", "hseek": "Soffset,whence", "hcopy": "SSfrom_offset,to_offset,length",
    "hsetxattr": "Sname,value,flags", "hgetxattr": "Sname", "hlink": "SP", "hclose": "S", "hreaddir": "Scount", "hrewind": "S",
    "hdontneed": "S", "hflags": "Sset,clear",
    "truncate": "Psize", "write": "Poffset,length,pattern", "append": "Plength,pattern", "read": "P",
    "mmapwrite": "Poffset,length,pattern", "mkdir": "Pmode", "rmdir": "P", "unlink": "P", "rename": "PPflags",
    "link": "PP", "symlink": "Ptarget", "mknod": "Pmode,dev", "readlink": "P", "rmtree": "P",
    "chmod": "Pmode", "chown": "Puid,gid,nofollow", "utimens": "Ptimes,nofollow",
    "setxattr": "Pname,value,flags,nofollow", "getxattr": "Pname,nofollow", "listxattr": "P", "removexattr": "Pname,nofollow",
    "stat": "P", "readdir": "P", "access": "Pmode", "flags": "Pset,clear", "statfs": "P", "syncfs": "", "copytree": "PP",
    "check": "", "remount": "", "switch": "", "push": "", "shrink": "",
}

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_NOATIME, FS_SYNC, FS_APPEND, FS_IMMUTABLE = 0x80, 0x8, 0x20, 0x10
FLAG_MASK = FS_NOATIME | FS_SYNC | FS_APPEND | FS_IMMUTABLE

OPEN_FLAGS = [(os.O_CREAT, "CREAT"), (os.O_EXCL, "EXCL"), (os.O_TRUNC, "TRUNC"), (os.O_APPEND, "APPEND"),
              (os.O_NOFOLLOW, "NOFOLLOW"), (os.O_DIRECTORY, "DIRECTORY"), (os.O_DIRECT, "DIRECT"), (os.O_SYNC, "SYNC")]


def paths(op):
    """The paths among an operation's arguments."""
    kinds = SPEC[op[0]].lstrip("S")
    lead = len(SPEC[op[0]]) - len(kinds)
    count = len(kinds) - len(kinds.lstrip("P"))
    return op[2 + lead:2 + lead + count]


def describe(op):
    spec = SPEC[op[0]]
    kinds = spec.lstrip("SP")
    lead = spec[:len(spec) - len(kinds)]
    names = kinds.split(",") if kinds else []
    words = []
    for kind, value in zip(list(lead) + names, op[2:]):
        if kind == "P" or kind == "target":
            words.append(shown(value))
        elif kind == "S":
            words.append("h%d" % value)
        elif kind in ("mode", "flags") and op[0] in ("open", "tmpfile") and kind == "flags":
            acc = ("RDONLY", "WRONLY", "RDWR", "3")[value & 3]
            words.append("|".join(["O_" + acc] + [n for bit, n in OPEN_FLAGS if value & bit == bit]))
        elif kind == "mode":
            words.append("mode=%#o" % value)
        else:
            words.append("%s=%s" % (kind, value))
    return "%s%s %s" % ("[uid %d] " % op[1] if op[1] else "", op[0], " ".join(words))


class Handle:
    def __init__(self, fd, path=None):
        self.fd = fd
        self.path = path
        self.map = None
        self.seen = []
        self.stable = None
        self.eof = False


class Side:
    """One of the two: directories, the program that mounts them, open handles."""

    def __init__(self, name, mnt):
        self.name = name
        self.mnt = mnt
        self.handles = {}
        self.start = 0
        self.labels = {}
        self.eager = False

    def path(self, rel):
        rel = enc(rel)
        return self.mnt + b"/" + rel if rel else self.mnt

    def put(self, slot, handle):
        self.drop(slot)
        self.handles[slot] = handle

    def drop(self, slot):
        old = self.handles.pop(slot, None)
        if old:
            if old.map:
                old.map.close()
            os.close(old.fd)

    def close_all(self):
        for slot in list(self.handles):
            self.drop(slot)

    def fd(self, slot):
        return self.handles[slot].fd


def run(side, op):
    """Result of OP on SIDE: ("ok", value) or ("error", errno name)."""
    try:
        with sysc.as_user(op[1]):
            return "ok", _FUNCS[op[0]](side, *op[2:])
    except OSError as e:
        return "error", view.err_name(e)
    except KeyError:
        return "error", "no such handle"


def _digest(raw):
    return "%d bytes %s" % (len(raw), hashlib.blake2b(raw, digest_size=6).hexdigest())


def _write_all(fd, off, length, pattern):
    done = os.pwrite(fd, data(pattern, length), off)
    if done != length:
        return "short write %d of %d" % (done, length)
    return done


def _copy_up(side, fd, before):
    """
    Open for writing copies up in the kernel; ours waits for the first change. With several links that shows
    (known.py: copy-up-at-open), so make a change at once.
    """
    if before and (before.st_nlink > 1 or side.eager) and stat.S_ISREG(before.st_mode):
        with sysc.as_user(0):
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode))


def _stat_before(path, flags):
    if flags & 3 == os.O_RDONLY:
        return None
    try:
        with sysc.as_user(0):
            return os.stat(path)
    except OSError:
        return None


def _size_before(path):
    try:
        with sysc.as_user(0):
            return os.stat(path).st_size
    except OSError:
        return None


def _open_write(side, path, flags):
    full = side.path(path)
    before = _stat_before(full, flags)
    fd = os.open(full, flags | os.O_NONBLOCK)
    try:
        _copy_up(side, fd, before)
    except OSError:
        os.close(fd)
        raise
    return fd


def op_create(side, path, mode, size, pattern):
    fd = os.open(side.path(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        return _write_all(fd, 0, size, pattern) if size else 0
    finally:
        os.close(fd)


def op_open(side, slot, path, flags, mode):
    full = side.path(path)
    before = _stat_before(full, flags)
    fd = os.open(full, flags | os.O_NONBLOCK, mode)
    side.put(slot, Handle(fd, path))
    _copy_up(side, fd, before)
    return True


def op_tmpfile(side, slot, path, flags, mode):
    side.put(slot, Handle(os.open(side.path(path), flags | os.O_TMPFILE, mode)))
    return True


def op_opendir(side, slot, path):
    # What is there now and is not touched meanwhile must be read exactly once.
    stable = {d[0] for d in sysc.listdir(side.path(path))}
    handle = Handle(os.open(side.path(path), os.O_RDONLY | os.O_DIRECTORY), path)
    handle.stable = stable
    side.put(slot, handle)
    return True


def op_hread(side, slot, off, length):
    return _digest(os.pread(side.fd(slot), length, off))


def op_hwrite(side, slot, off, length, pattern):
    return _write_all(side.fd(slot), off, length, pattern)


def op_happend(side, slot, length, pattern):
    fd = side.fd(slot)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return "not a file"
    os.lseek(fd, 0, os.SEEK_END)
    return os.write(fd, data(pattern, length))


def _mmap_write(fd, off, length, pattern):
    size = os.fstat(fd).st_size
    if not stat.S_ISREG(os.fstat(fd).st_mode) or size == 0:
        return "nothing to map"
    if os.fstat(fd).st_mode & 0o6000 or "security.capability" in os.listxattr(fd):
        # Through a mapping these survive in the kernel (known.py: mapped-write-privileges); by a write they go on both.
        os.pwrite(fd, os.pread(fd, 1, 0), 0)
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as m:
        off %= size
        length = min(length, size - off)
        m[off:off + length] = data(pattern, length)
    return length


def op_hmmap(side, slot, off, length, pattern):
    return _mmap_write(side.fd(slot), off, length, pattern)


def op_hmap(side, slot):
    handle = side.handles[slot]
    size = os.fstat(handle.fd).st_size
    if not stat.S_ISREG(os.fstat(handle.fd).st_mode) or size == 0:
        return "nothing to map"
    if handle.map:
        handle.map.close()
    handle.map = sysc.Mapping(handle.fd, size)
    return True


def op_hmapread(side, slot):
    handle = side.handles[slot]
    if not handle.map:
        return "no mapping"
    # Beyond the present end there is nothing.
    raw = handle.map.read(os.fstat(handle.fd).st_size)
    return "SIGBUS" if raw is None else _digest(raw)


def op_htruncate(side, slot, size):
    os.ftruncate(side.fd(slot), size)


def op_hstat(side, slot):
    out = view.attributes(os.fstat(side.fd(slot)), side.start, side.labels)
    return out


def op_hchmod(side, slot, mode):
    os.fchmod(side.fd(slot), mode)


def op_hchown(side, slot, uid, gid):
    os.fchown(side.fd(slot), uid, gid)


def op_hutimens(side, slot, times):
    sysc.futimens(side.fd(slot), times)
    return op_hstat(side, slot)


def op_hfsync(side, slot):
    os.fsync(side.fd(slot))


def op_hfallocate(side, slot, mode, off, length):
    sysc.fallocate(side.fd(slot), mode, off, length)


def op_hseek(side, slot, off, whence):
    fd = side.fd(slot)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return "not a file"
    # Where the holes are is known once the data is on disk (known.py: seek-after-fsync).
    os.fsync(fd)
    return os.lseek(fd, off, whence)


def op_hcopy(side, from_slot, to_slot, from_off, to_off, length):
    done = 0
    while done < length:
        part = os.copy_file_range(side.fd(from_slot), side.fd(to_slot), length - done, from_off + done, to_off + done)
        if part == 0:
            break
        done += part
    return done


def op_hsetxattr(side, slot, name, value, flags):
    os.setxattr(side.fd(slot), name, bytes.fromhex(value), flags)


def op_hgetxattr(side, slot, name):
    return os.getxattr(side.fd(slot), name).hex()


def op_hlink(side, slot, path):
    sysc.link_fd(side.fd(slot), side.path(path))


def op_hclose(side, slot):
    side.fd(slot)
    side.drop(slot)


def op_hreaddir(side, slot, count):
    """Some entries; what they must be is for the runner to say, the order is each file system's own."""
    handle = side.handles[slot]
    if handle.stable is None:
        sysc.getdents(handle.fd)
        return None
    for _ in range(count):
        part = sysc.getdents(handle.fd, 1024)
        if not part:
            handle.eof = True
            break
        handle.seen += [d[0] for d in part]
    return None


def op_hrewind(side, slot):
    handle = side.handles[slot]
    os.lseek(handle.fd, 0, os.SEEK_SET)
    handle.seen = []
    handle.eof = False


def op_hdontneed(side, slot):
    os.posix_fadvise(side.fd(slot), 0, 0, os.POSIX_FADV_DONTNEED)


def _change_flags(fd, to_set, to_clear):
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        # known.py: inherited-flags
        to_set = 0
    before = struct.unpack("<i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, b"\0" * 4))[0]
    if to_set or to_clear:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("<q", (before | to_set) & ~to_clear))
    return before & FLAG_MASK


def op_hflags(side, slot, to_set, to_clear):
    return _change_flags(side.fd(slot), to_set, to_clear)


def op_flags(side, path, to_set, to_clear):
    fd = os.open(side.path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return _change_flags(fd, to_set, to_clear)
    finally:
        os.close(fd)


def op_truncate(side, path, size):
    full = side.path(path)
    # known.py: truncate-same-size
    if _size_before(full) == size:
        size += 1
    os.truncate(full, size)


def op_write(side, path, off, length, pattern):
    fd = _open_write(side, path, os.O_WRONLY)
    try:
        return _write_all(fd, off, length, pattern)
    finally:
        os.close(fd)


def op_append(side, path, length, pattern):
    fd = _open_write(side, path, os.O_WRONLY | os.O_APPEND)
    try:
        return os.write(fd, data(pattern, length))
    finally:
        os.close(fd)


def op_read(side, path):
    fd = os.open(side.path(path), os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "not a file"
        return _digest(b"".join(iter(lambda: os.read(fd, 1 << 17), b"")))
    finally:
        os.close(fd)


def op_mmapwrite(side, path, off, length, pattern):
    fd = _open_write(side, path, os.O_RDWR)
    try:
        return _mmap_write(fd, off, length, pattern)
    finally:
        os.close(fd)


def op_mkdir(side, path, mode):
    os.mkdir(side.path(path), mode)


def op_rmdir(side, path):
    os.rmdir(side.path(path))


def op_unlink(side, path):
    os.unlink(side.path(path))


def op_rename(side, old, new, flags):
    sysc.rename(side.path(old), side.path(new), flags)


def op_link(side, old, new):
    os.link(side.path(old), side.path(new), follow_symlinks=False)


def op_symlink(side, path, target):
    os.symlink(enc(target), side.path(path))


def op_mknod(side, path, mode, dev):
    os.mknod(side.path(path), mode, dev)


def op_readlink(side, path):
    return os.readlink(side.path(path))


def _rmtree(path, rel, errors):
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        for name in sorted(os.listdir(path)):
            _rmtree(path + b"/" + name, rel + b"/" + name, errors)
        os.rmdir(path)
    except FileNotFoundError:
        # Listed but not there (known.py: ghost-whiteouts). In ours that would be found by the next check.
        pass
    except OSError as e:
        errors.append((rel, view.err_name(e)))


def op_rmtree(side, path):
    errors = []
    _rmtree(side.path(path), b"", errors)
    return errors


def _copytree(src, dst, rel, errors):
    """As cp -r does: directories and files only."""
    try:
        st = os.lstat(src)
        if stat.S_ISDIR(st.st_mode):
            names = sorted(os.listdir(src))
            os.mkdir(dst, 0o700)
            for name in names:
                _copytree(src + b"/" + name, dst + b"/" + name, rel + b"/" + name, errors)
            os.chmod(dst, stat.S_IMODE(st.st_mode))
            os.utime(dst, ns=(st.st_mtime_ns, st.st_mtime_ns))
        elif stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(src), dst)
        elif stat.S_ISREG(st.st_mode):
            with open(src, "rb") as i, open(dst, "xb") as o:
                o.write(i.read())
            os.utime(dst, ns=(st.st_mtime_ns, st.st_mtime_ns))
    except FileNotFoundError:
        pass
    except OSError as e:
        errors.append((rel, view.err_name(e)))


def op_copytree(side, src, dst):
    errors = []
    # Into itself it would go on for ever.
    if (dst + "/").startswith(src + "/") or not src:
        return "into itself"
    if len(os.listdir(side.path(src))) > 100:
        return "too many"
    _copytree(side.path(src), side.path(dst), b"", errors)
    return errors


def op_chmod(side, path, mode):
    os.chmod(side.path(path), mode)


def op_chown(side, path, uid, gid, nofollow):
    os.chown(side.path(path), uid, gid, follow_symlinks=not nofollow)


def op_utimens(side, path, times, nofollow):
    full = side.path(path)
    sysc.utimens(full, times, nofollow)
    st = os.stat(full, follow_symlinks=not nofollow)
    return view.time_class(st.st_mtime_ns, side.start)


def op_setxattr(side, path, name, value, flags, nofollow):
    os.setxattr(side.path(path), name, bytes.fromhex(value), flags, follow_symlinks=not nofollow)


def op_getxattr(side, path, name, nofollow):
    return os.getxattr(side.path(path), name, follow_symlinks=not nofollow).hex()


def op_listxattr(side, path):
    return sorted(os.listxattr(side.path(path)))


def op_removexattr(side, path, name, nofollow):
    os.removexattr(side.path(path), name, follow_symlinks=not nofollow)


def op_stat(side, path):
    return view.attributes(os.stat(side.path(path)), side.start, side.labels)


def op_readdir(side, path):
    return sorted((d[0], d[2]) for d in sysc.listdir(side.path(path)))


def op_access(side, path, mode):
    sysc.access(side.path(path), mode)


def op_syncfs(side):
    """The kernel's flusher threads write back, which is not the same as what close and fsync do."""
    fd = os.open(side.mnt, os.O_RDONLY)
    try:
        sysc.syncfs(fd)
    finally:
        os.close(fd)


def op_statfs(side, path):
    return os.statvfs(side.path(path)).f_namemax


_FUNCS = {name[3:]: func for name, func in list(globals().items()) if name.startswith("op_")}
