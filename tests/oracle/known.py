# SPDX-License-Identifier: GPL-2.0-or-later
"""
The one list of differences from kernel overlayfs that are known, each with its reason.

RULES apply when two results are compared: a rule sees a Difference and says whether it is its own. AVOIDED are those that
the generator or the operations keep clear of, since afterwards the two sides would stand in different states.
"""

import os


class Difference(Exception):
    """
    KIND: step (result of an operation), after (the names that it touched), view (the whole tree), lower, work, mount, died.
    REF and OURS are the values of the reference and of the program, whichever side they work on at the moment.
    """

    # Set by the runner: the mode, whether every open for writing is followed by a change, whether an upper became a lower.
    mode, eager, pushed, program, options = "root", False, False, "", ""

    def __init__(self, kind, field, ref, ours, op=None, path=None, note=None):
        super().__init__(kind, field)
        self.kind, self.field, self.ref, self.ours = kind, field, ref, ours
        self.op, self.path, self.note = op, path, note

    def category(self):
        """What makes two differences the same fault while a case is shrunk."""
        if self.kind in ("step", "after"):
            return self.kind, self.op[0], self.field, self._errno(self.ref), self._errno(self.ours)
        return self.kind, self.field, self._errno(self.ref), self._errno(self.ours)

    @staticmethod
    def _errno(value):
        if isinstance(value, str) and value.isupper():
            return value
        return type(value).__name__

    def lines(self):
        where = " at %r" % self.path if self.path is not None else ""
        yield "%s differs: %s%s" % (self.kind, self.field, where)
        yield "  reference: %s" % (self.ref,)
        yield "  program:   %s" % (self.ours,)
        if self.note:
            yield "  note: %s" % self.note

    def as_dict(self):
        return {"kind": self.kind, "category": [str(c) for c in self.category()], "lines": list(self.lines())}


def _ghost(diff):
    # The kernel passes through the listing of a directory that exists in one layer only, whiteouts and all.
    if diff.kind == "view" and diff.field == "exists":
        return isinstance(diff.ref, dict) and "ghost" in diff.ref and diff.ours is None
    if diff.kind == "step" and diff.op[0] == "readdir" and isinstance(diff.ref, list) and isinstance(diff.ours, list):
        extra = [e for e in diff.ref if e not in diff.ours]
        return all(e in diff.ref for e in diff.ours) and all(e[1] in (2, 8) for e in extra)
    return False


def _ro_map(diff):
    return diff.kind == "step" and diff.op[0] == "hmapread"


def _wrong_d_ino(diff):
    return diff.field == "d_ino" and diff.ref is False


def _stable_ino(diff):
    if diff.field != "ino" or not (diff.mode == "userns" or diff.pushed):
        return False
    # The kernel's own depends on what is cached, as two runs of it show.
    return not diff.eager or diff.ref == "new" or diff.program == "kernel" or "switch" in (diff.note or "")


def _unprivileged_links(diff):
    return diff.field == "links" and diff.mode == "userns"


def _exdev_first(diff):
    if diff.kind != "step" or diff.op[0] != "rename":
        return False
    return {diff.ref, diff.ours} == {"EXDEV", "ENOTEMPTY"}


def _rmdir_ghosts(diff):
    if diff.kind != "step" or diff.field != "result" or diff.op[0] not in ("rmdir", "rmtree", "rename"):
        return False
    if diff.ref != "ENOTEMPTY" and not (isinstance(diff.ref, list) and "ENOTEMPTY" in [e[1] for e in diff.ref]):
        return False
    return diff.ours in (None, []) and (diff.op[0] == "rename" or diff.ghost_directory(diff.op[2]))


def _setgid_non_member(diff):
    if diff.field != "mode" or not isinstance(diff.ref, int) or not isinstance(diff.ours, int):
        return False
    low, high = sorted((diff.ref, diff.ours))  # after a switch each shows what the other did
    return high == low | 0o2000 and not low & 0o010


def _nlink_of_unlinked(diff):
    if diff.field != "nlink" or diff.kind == "view" or diff.op[0] == "stat" or diff.path:
        return False
    return isinstance(diff.ours, int) and diff.ours < diff.ref


def _holes(diff):
    """Ours has the holes of the lower file, and data where the page cache wrote more of a fallocated range than was dirty."""
    if diff.kind != "step" or diff.op[0] != "hseek" or not isinstance(diff.ref, int):
        return False
    if diff.op[4] == os.SEEK_HOLE:
        return isinstance(diff.ours, int)
    return diff.ours == "ENXIO" or isinstance(diff.ours, int) and diff.ours > diff.ref


def _remove_absent(diff):
    return diff.kind == "step" and diff.op[0] == "removexattr" and (diff.ref, diff.ours) == ("EPERM", "ENODATA")


def _repeats(diff):
    return diff.kind == "step" and diff.field == "repeated or lost in readdir" and diff.ours == [] and bool(diff.ref)


def _nameless(diff):
    return diff.kind == "step" and diff.op[0].startswith("h") and diff.ref in ("EEXIST", "ENOENT") and not isinstance(diff.ours, str)


def _late_mtime(diff):
    values = (diff.ref, diff.ours)  # after a switch each shows what the other did
    return "metacopy" in diff.options and diff.field == "mtime" and "now" in values and any(isinstance(v, int) for v in values)


def _metacopy_link(diff):
    return ("metacopy" in diff.options and diff.kind == "step" and diff.op[0] in ("link", "rename") and diff.ref == "EXDEV"
            and diff.ours is None)


RULES = [
    ("kernel-repeats", "the kernel's listing of a directory that is opened, changed and read on repeats or loses whiteouts that it "
     "lists and does not show", _repeats),
    ("nameless-copy-up", "the kernel's copy-up of an open file whose name is gone fails where others left a copy, and where its "
     "directory is gone, too", _nameless),
    ("late-mtime", "with metacopy=on the kernel's copy-up of the data changes the mtime, ours keeps it", _late_mtime),
    ("metacopy-link", "with metacopy=on the kernel cannot link a file whose redirect would be too long; ours copies its data",
     _metacopy_link),
    ("setgid-non-member", "a write by somebody outside the file's group takes setgid without group execute away; the request does "
     "not tell the writer's groups", _setgid_non_member),
    ("nlink-of-unlinked", "fstat of an open lower file whose name is gone shows the lower's link count in the kernel, 0 here",
     _nlink_of_unlinked),
    ("holes-at-copy-up", "the kernel's copy-up fills holes that come after data within a chunk of a mebibyte, ours keeps them",
     _holes),
    ("remove-absent", "removing an xattr that is not there and may not be set: ENODATA goes before EPERM here", _remove_absent),
    ("stable-ino", "without privilege the kernel cannot follow overlay.origin, so st_ino changes at copy-up; ours stays. And a "
     "file that was opened for writing but not changed is in the kernel's upper and not in ours, which shows in st_ino after "
     "a remount", _stable_ino),
    ("unprivileged-links", "for the same reason the names of a hard link made after copy-up show different st_ino in the kernel",
     _unprivileged_links),
    ("exdev-first", "a rename that fails for two reasons: a redirect that cannot be and a target that is not empty",
     _exdev_first),
    ("rmdir-ghosts", "the kernel does not remove a directory in which it lists whiteouts that it does not show", _rmdir_ghosts),
    ("kernel-d_ino", "the kernel's listing keeps an old d_ino now and then; ours must equal st_ino", _wrong_d_ino),
    ("ghost-whiteouts", "kernel lists whiteouts of a directory that is not merged, though they cannot be looked up", _ghost),
    ("read-only-mapping", "a shared mapping made before copy-up stays on the lower file in the kernel; "
     "here it sees the writes, as POSIX says", _ro_map),
]

AVOIDED = [
    ("rename-whiteout", "RENAME_WHITEOUT from user space is EINVAL in the kernel's overlay; a program may support it"),
    ("copy-up-at-open", "the kernel copies up when a file is opened for writing, we at the first change; with several links "
     "that shows in st_nlink and st_ino, so the open operations make a harmless change at once"),
    ("seek-after-fsync", "FUSE passes SEEK_HOLE and SEEK_DATA on without flushing its own dirty pages, so fsync comes first"),
    ("pushed-index", "with index=on an upper that becomes a lower shows a change under the names that are linked in it: one in the "
     "kernel, all that are known here; such a case keeps its upper"),
    ("mapped-write-privileges", "a write through a mapping leaves setuid, setgid and capabilities in the kernel; here it reaches "
     "the layer as a write, which takes capabilities away, and without privilege the bits too. Where a file has them a "
     "write comes before"),
    ("truncate-same-size", "truncate(2) to the size that the file has: POSIX leaves st_mtime alone and so does FUSE with the "
     "writeback cache; ext4 sets it"),
    ("inherited-flags", "whether a new file inherits its directory's flags (chattr) depends in the kernel on where it was made; "
     "flags are set on files only"),
    ("nodump", "copy-up keeps the no-dump flag (chattr +d) here, not in the kernel"),
    ("seek-in-directory", "SEEK_END, SEEK_DATA and SEEK_HOLE on a directory"),
    ("times-now", "times that a clock made are compared as 'now' only: with the writeback cache they are a little off"),
    ("directories", "st_size, st_nlink and st_blocks of directories are each file system's own"),
    ("atime", "access times follow relatime of the layers in the kernel and are not kept here"),
    ("statfs-type", "f_type is FUSE's"),
    ("oci-whiteout-names", "names that begin with .wh. are ordinary in the kernel's lowers and whiteouts here, as container "
     "stores have them; they are not generated"),
]


# After these the two sides are no longer alike: the case ends there.
ENDS = ("rmdir-ghosts", "metacopy-link", "nameless-copy-up")


class End(Exception):
    """The case cannot go on."""


def find(diff):
    """Name of the rule that explains DIFF, or None."""
    for name, _, rule in RULES:
        if rule(diff):
            return name
    return None
