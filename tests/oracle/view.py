# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tree looks like, in a form in which two sides can be compared."""

import errno
import hashlib
import os
import stat
import time

import sysc

_DTYPE = {stat.S_IFREG: 8, stat.S_IFDIR: 4, stat.S_IFLNK: 10, stat.S_IFIFO: 1, stat.S_IFSOCK: 12, stat.S_IFCHR: 2,
          stat.S_IFBLK: 6}

# Directories above this size are sampled for what costs a message an entry.
_SAMPLE_ABOVE = 200


def err_name(exc):
    return errno.errorcode.get(exc.errno, str(exc.errno))


def time_class(ns, start):
    """A time that was set on purpose, exactly; one that a clock made, as 'now'."""
    if start - 3_000_000_000 <= ns <= time.time_ns() + 5_000_000_000:
        return "now"
    return ns


def xattrs(path):
    try:
        return tuple(sorted((n, os.getxattr(path, n, follow_symlinks=False).hex())
                            for n in os.listxattr(path, follow_symlinks=False)))
    except OSError as e:
        return "error:" + err_name(e)


def content(path, st):
    if stat.S_ISLNK(st.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(st.st_mode):
        return None
    try:
        digest = hashlib.blake2b(digest_size=12)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            while True:
                block = os.read(fd, 1 << 18)
                if not block:
                    break
                digest.update(block)
        finally:
            os.close(fd)
        return digest.hexdigest()
    except OSError as e:
        return "error:" + err_name(e)


def attributes(st, start, labels):
    """The comparable part of a stat. Directories: size and nlink are each file system's own affair."""
    isdir = stat.S_ISDIR(st.st_mode)
    return {
        "type": stat.S_IFMT(st.st_mode),
        "mode": stat.S_IMODE(st.st_mode),
        "uid": st.st_uid,
        "gid": st.st_gid,
        "size": None if isdir else st.st_size,
        "nlink": None if isdir else st.st_nlink,
        "rdev": st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else None,
        "mtime": time_class(st.st_mtime_ns, start),
        "ino": labels.get(st.st_ino, "new"),
    }


def one(path, start, labels):
    """One name, without content."""
    try:
        st = os.lstat(path)
    except OSError as e:
        return {"error": err_name(e)}
    out = attributes(st, start, labels)
    out["xattrs"] = xattrs(path)
    return out


def _entry(path, dent, start, labels, groups, key, cheap):
    st = os.lstat(path)
    out = attributes(st, start, labels)
    if not cheap:
        out["xattrs"] = xattrs(path)
        out["content"] = content(path, st)
    out["links"] = groups.setdefault(st.st_ino, key)
    if dent:
        out["d_ino"] = dent[1] == st.st_ino
        out["d_type"] = dent[2] in (0, _DTYPE[stat.S_IFMT(st.st_mode)])
    return out


def snapshot(root, start, labels):
    """Every name below ROOT. A name that is listed but cannot be found has the key 'ghost'."""
    groups = {}
    view = {b"": _entry(root, None, start, labels, groups, b"", False)}
    todo = [b""]
    while todo:
        rel = todo.pop()
        try:
            dents = sorted(sysc.listdir(root + b"/" + rel))
        except OSError as e:
            view[rel]["list"] = "error:" + err_name(e)
            continue
        names = [d[0] for d in dents]
        view[rel]["list"] = None if len(set(names)) == len(names) else "name repeated"
        if b"." not in names or b".." not in names:
            view[rel]["list"] = "no . or .."
        for i, dent in enumerate(dents):
            name = dent[0]
            if name in (b".", b".."):
                continue
            key = rel + b"/" + name if rel else name
            try:
                view[key] = _entry(root + b"/" + key, dent, start, labels, groups, key,
                                   len(dents) > _SAMPLE_ABOVE and i % 16)
            except OSError as e:
                view[key] = {"ghost": err_name(e)}
                continue
            if view[key]["type"] == stat.S_IFDIR:
                todo.append(key)
    return view


def raw(root):
    """A layer as it is on disk, to the nanosecond; access times apart."""
    out = {}
    for top, dirs, files in os.walk(root):
        for name in [b""] + files + [d for d in dirs if os.path.islink(os.path.join(top, d))]:
            path = os.path.join(top, name) if name else top
            st = os.lstat(path)
            out[path[len(root):]] = (st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_nlink, st.st_rdev, st.st_ino,
                                     st.st_mtime_ns, st.st_ctime_ns, st.st_blocks, xattrs(path), content(path, st))
    return out


RAW_FIELDS = ("mode", "uid", "gid", "size", "nlink", "rdev", "ino", "mtime", "ctime", "blocks", "xattrs", "content")


def raw_changes(before, after):
    """(path, field, before, after) for everything that differs."""
    for path in sorted(before.keys() | after.keys()):
        a, b = before.get(path), after.get(path)
        if a is None or b is None:
            yield path, "exists", a is not None, b is not None
        elif a != b:
            for field, x, y in zip(RAW_FIELDS, a, b):
                # Delayed allocation of the generator's own writes.
                if x != y and field != "blocks":
                    yield path, field, x, y


def label_inodes(roots, labels):
    """Number of a lower's inode -> a name for it that is the same on both sides."""
    for index, root in enumerate(roots):
        for top, dirs, files in os.walk(root):
            dirs.sort()
            for name in [b"."] + sorted(files) + dirs:
                path = os.path.join(top, name) if name != b"." else top
                st = os.lstat(path)
                labels.setdefault(st.st_ino, "lower%d:%s" % (index, path[len(root):].decode("utf-8", "backslashreplace")))
