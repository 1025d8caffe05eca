#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""One page cache per file: mappings, old descriptors and reads agree, before and after copy-up."""

from ovtest import *

PAGE = 4096
DATA = b"".join(bytes([65 + i]) * PAGE for i in range(8))
OLD_REAL_FILE = "a descriptor or mapping from before copy-up stays on the lower file there"


def low():
    return Overlay({"f": File(DATA)})


def mapped(path, writable=False, private=False, length=len(DATA)):
    fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    m = mmap.mmap(fd, length, mmap.MAP_PRIVATE if private else mmap.MAP_SHARED,
                  mmap.PROT_READ | (mmap.PROT_WRITE if writable or private else 0))
    os.close(fd)
    return m


def evict(path):
    """Clean pages of PATH leave the page cache, as far as they may."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    if is_root_mode():
        drop_caches()


@test
def test_shared_mapping_of_a_lower_file_reads():
    with low() as ov:
        m = mapped(ov.m("f"))
        eq(m[:], DATA)
        m.close()
        ok(not exists(ov.u("f")))


@test
def test_private_mapping_does_not_copy_up():
    with low() as ov:
        m = mapped(ov.m("f"), private=True)
        m[0:3] = b"xyz"
        eq(m[:4], b"xyzA")
        m.close()
        eq(read(ov.m("f")), DATA)
        ok(not exists(ov.u("f")))


@test
def test_shared_writable_mapping_reaches_upper():
    with low() as ov:
        m = mapped(ov.m("f"), writable=True)
        m[100:105] = b"hello"
        m[5 * PAGE:5 * PAGE + 2] = b"hi"
        eq(read(ov.m("f"))[100:105], b"hello", "read() sees the mapping")
        m.flush()
        want = bytearray(DATA)
        want[100:105], want[5 * PAGE:5 * PAGE + 2] = b"hello", b"hi"
        eq(read(ov.u("f")), bytes(want), "upper after msync")
        m[200:203] = b"bye"
        m.close()
        want[200:203] = b"bye"
        ov.remount()
        eq(read(ov.m("f")), bytes(want), "after remount")
        eq(read(ov.l("f")), DATA)


@test
def test_mapping_sees_later_write():
    with Overlay({}) as ov:
        write(ov.m("f"), DATA)
        m = mapped(ov.m("f"))
        eq(m[0:1], b"A")
        with open(ov.m("f"), "r+b") as f:
            f.write(b"zzz")
        eq(m[:4], b"zzzA")
        m.close()


@test(not_kernel=OLD_REAL_FILE)
def test_mapping_from_before_copy_up_sees_later_write():
    with low() as ov:
        m = mapped(ov.m("f"))
        eq(m[0:1], b"A")
        with open(ov.m("f"), "r+b") as f:
            f.write(b"zzz")
        eq(m[:4], b"zzzA", "a page that was touched")
        with open(ov.m("f"), "r+b") as f:
            f.seek(3 * PAGE)
            f.write(b"yyy")
        eq(m[3 * PAGE:3 * PAGE + 4], b"yyyD", "a page that was not")
        m.close()


@test(not_kernel=OLD_REAL_FILE)
def test_mapping_from_before_copy_up_and_eviction():
    with low() as ov:
        m = mapped(ov.m("f"))
        eq(m[0:1], b"A")
        write_at(ov.m("f"), 0, b"1" * len(DATA))
        evict(ov.m("f"))
        eq(m[:], b"1" * len(DATA))
        m.close()


def write_at(path, off, data):
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, off)
    os.close(fd)


@test
def test_read_only_fd_from_before_copy_up_sees_later_write():
    with low() as ov:
        fd = os.open(ov.m("f"), os.O_RDONLY)
        eq(os.pread(fd, 1, 0), b"A")
        write_at(ov.m("f"), 0, b"new")
        eq(os.pread(fd, 4, 0), b"newA")
        append(ov.m("f"), "tail")
        eq(os.fstat(fd).st_size, len(DATA) + 4)
        eq(os.pread(fd, 10, len(DATA)), b"tail")
        os.close(fd)


@test
def test_old_fd_after_copy_up_and_eviction_reads_upper():
    with low() as ov:
        a = os.open(ov.m("f"), os.O_RDONLY)
        os.pread(a, 10, 0)
        b = os.open(ov.m("f"), os.O_RDWR)
        os.pwrite(b, b"2" * len(DATA), 0)
        os.fsync(b)
        evict(ov.m("f"))
        eq(os.pread(a, len(DATA), 0), b"2" * len(DATA))
        os.close(a)
        os.close(b)


@test
def test_stale_page_never_flushed_over_new_data():
    """Old descriptor, new data, eviction, a read through the old one, a small write into its page."""
    with low() as ov:
        a = os.open(ov.m("f"), os.O_RDONLY)
        b = os.open(ov.m("f"), os.O_RDWR)
        new = b"N" * len(DATA)
        os.pwrite(b, new, 0)
        os.fsync(b)
        evict(ov.m("f"))
        eq(os.pread(a, PAGE, PAGE), new[:PAGE], "the old descriptor")
        write_at(ov.m("f"), PAGE + 10, b"0123456789")
        os.fsync(b)
        want = new[:PAGE + 10] + b"0123456789" + new[PAGE + 20:]
        eq(os.pread(a, len(DATA), 0), want)
        eq(read(ov.u("f")), want, "on disk")
        eq(read(ov.l("f")), DATA, "lower")
        os.close(a)
        os.close(b)
        ov.remount()
        eq(read(ov.m("f")), want, "after remount")


@test
def test_small_write_into_a_file_read_by_an_old_fd():
    """Partial pages: what is not written must come from the lower, unchanged."""
    with low() as ov:
        a = os.open(ov.m("f"), os.O_RDONLY)
        for off in (1, PAGE - 1, PAGE, 3 * PAGE + 17, len(DATA) - 1):
            write_at(ov.m("f"), off, b"#")
            evict(ov.m("f"))
            eq(os.pread(a, 1, off), b"#")
        want = bytearray(DATA)
        for off in (1, PAGE - 1, PAGE, 3 * PAGE + 17, len(DATA) - 1):
            want[off] = 35
        eq(os.pread(a, len(DATA), 0), bytes(want))
        eq(read(ov.u("f")), bytes(want))
        os.close(a)


@test
def test_mapped_write_and_pwrite_of_one_page_both_survive():
    with low() as ov:
        m = mapped(ov.m("f"), writable=True)
        fd = os.open(ov.m("f"), os.O_RDWR)
        m[0:4] = b"mmap"
        os.pwrite(fd, b"pwrite", 100)
        m[200:204] = b"mmap"
        os.fsync(fd)
        m.flush()
        got = read(ov.u("f"))
        eq((got[0:4], got[100:106], got[200:204]), (b"mmap", b"pwrite", b"mmap"))
        eq(os.pread(fd, 204, 0), got[:204])
        m.close()
        os.close(fd)


@test
def test_two_mappings_share():
    with low() as ov:
        a, b = mapped(ov.m("f"), writable=True), mapped(ov.m("f"), writable=True)
        a[10] = 1
        eq(b[10], 1)
        b[11] = 2
        eq(a[11], 2)
        a.close()
        b.close()


@test
def test_mapping_survives_unlink():
    with low() as ov:
        m = mapped(ov.m("f"), writable=True)
        os.unlink(ov.m("f"))
        eq(m[PAGE:PAGE + 2], b"BB")
        m[0:3] = b"xyz"
        m.flush()
        eq(m[0:4], b"xyzA")
        m.close()
        ov.remount()
        eq(names(ov.mnt), [])


@test
def test_mapping_survives_rename_over():
    with low() as ov:
        m = mapped(ov.m("f"), writable=True)
        write(ov.m("g"), "other")
        os.rename(ov.m("g"), ov.m("f"))
        evict(ov.m("f"))
        m[PAGE:PAGE + 2] = b"zz"
        m.flush()
        eq(m[PAGE - 1:PAGE + 3], b"AzzB")
        eq(read(ov.m("f")), b"other")
        m.close()
        ov.remount()
        eq(read(ov.m("f")), b"other")


@test
def test_truncate_under_a_mapping():
    with low() as ov:
        m = mapped(ov.m("f"), writable=True)
        os.truncate(ov.m("f"), PAGE + 10)
        eq(m[PAGE:PAGE + 12], b"B" * 10 + b"\0\0")
        os.truncate(ov.m("f"), 2 * PAGE)
        eq(m[PAGE + 8:PAGE + 12], b"BB\0\0")
        m.close()
        eq(read(ov.m("f")), DATA[:PAGE + 10] + b"\0" * (PAGE - 10))


@test
def test_mapping_beyond_eof_is_sigbus():
    with low() as ov:
        os.truncate(ov.m("f"), PAGE)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            libc.prctl(4, 0, 0, 0, 0)
            fd = os.open(ov.m("f"), os.O_RDONLY)
            libc.mmap.restype = ctypes.c_void_p
            p = libc.mmap(None, ctypes.c_size_t(8 * PAGE), 1, 1, fd, ctypes.c_long(0))
            ctypes.string_at(p + 3 * PAGE, 1)
            os._exit(0)
        eq(os.waitpid(pid, 0)[1] & 0x7f, signal.SIGBUS)


@test
def test_mapped_write_moves_mtime():
    with low() as ov:
        os.utime(ov.m("f"), ns=(10**18, 10**18))
        m = mapped(ov.m("f"), writable=True)
        m[0] = 1
        m.flush()
        m.close()
        os.sync()
        ok(lstat(ov.m("f")).st_mtime_ns > 10**18, "mtime")


@test
def test_mapping_after_metadata_copy_up():
    with low() as ov:
        m = mapped(ov.m("f"))
        os.chmod(ov.m("f"), 0o600)
        evict(ov.m("f"))
        eq(m[:], DATA)
        m.close()


@test
def test_fault_in_write_buffer_of_the_same_file():
    """write() whose source is a mapping of the file written: must neither hang nor tear."""
    with low() as ov:
        m = mapped(ov.m("f"))
        evict(ov.m("f"))
        fd = os.open(ov.m("f"), os.O_RDWR)
        with memoryview(m) as whole, whole[7 * PAGE:8 * PAGE] as last:
            eq(os.pwrite(fd, last, 0), PAGE)
        eq(os.pread(fd, PAGE, 0), b"H" * PAGE)
        os.close(fd)
        m.close()


def list_into(tops, path, current):
    """For ever: the listing of the CURRENT of TOPS into one page after the other of a mapping of PATH, none of which is there."""
    size = os.stat(path).st_size
    getdents64 = 217 if os.uname().machine == "x86_64" else 61
    dirs = [os.open(d, os.O_RDONLY | os.O_DIRECTORY) for d in tops]
    fd = os.open(path, os.O_RDONLY)
    while True:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        m = mapped(path, private=True, length=size)
        m.madvise(mmap.MADV_RANDOM)
        first = ctypes.c_char.from_buffer(m)
        for page in range(0, size, PAGE):
            d = dirs[current[0]]
            os.lseek(d, 0, os.SEEK_SET)
            for _ in range(2):  # the second time for the end: only then the kernel keeps it
                libc.syscall(getdents64, d, ctypes.c_void_p(ctypes.addressof(first) + page), PAGE)
        del first
        m.close()


def forked(fn, *args):
    pid = os.fork()
    if pid == 0:
        try:
            fn(*args)
        finally:
            os._exit(0)
    return pid


def abort(mnt, dev):
    path = "/sys/fs/fuse/connections/%d/abort" % os.minor(dev)
    if not exists(path):
        mount("fusectl", "/sys/fs/fuse/connections", "fusectl")
    write(path, "1")


@test(modes=("root",))
def test_listing_into_a_mapping_while_links_are_broken():
    """Who reads a cached listing holds its page, also while a READ brings the page of his buffer: who drops it must not serve."""
    files, dirs = 60, 40
    spec = {"big": File(b"x" * (4 << 20))}
    for n in range(dirs):
        spec["d%d" % n] = {"f%d" % i: File("x") for i in range(files)}
        spec["e%d" % n] = {"f%d" % i: Hardlink("d%d/f%d" % (n, i)) for i in range(files)}
    with Overlay(spec) as ov:
        dev = os.stat(ov.mnt).st_dev
        tops = [ov.m("d%d" % n) for n in range(dirs)]
        current = mmap.mmap(-1, PAGE)

        def break_all():
            for n, d in enumerate(tops):
                eq(len(names(d)), files)
                current[0] = n
                for i in range(files):
                    os.chmod(d + "/f%d" % i, 0o600)
                    time.sleep(0.0003)
        reader = forked(list_into, tops, ov.m("big"), current)
        breaker = forked(break_all)
        end = time.monotonic() + 40
        while not (ended := os.waitpid(breaker, os.WNOHANG)[0]) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(reader, signal.SIGKILL)
        if not ended:
            abort(ov.mnt, dev)
            os.waitpid(breaker, 0)
        os.waitpid(reader, 0)
        ok(ended, "it hangs")
        eq([f for d in tops for f in names(d) if lstat(d + "/" + f).st_mode & 0o777 != 0o600], [])


@test
def test_read_through_old_fd_while_a_writer_copies_up():
    with Overlay({"f": File(b"a" * (4 << 20))}) as ov:
        a = os.open(ov.m("f"), os.O_RDONLY)
        pid = os.fork()
        if pid == 0:
            try:
                fd = os.open(ov.m("f"), os.O_RDWR)
                for off in range(0, 4 << 20, 65536):
                    os.pwrite(fd, b"b" * 65536, off)
                os.fsync(fd)
            finally:
                os._exit(0)
        done = False
        while not done:
            done = os.waitpid(pid, os.WNOHANG)[0] != 0
            got = set(os.pread(a, 4 << 20, 0))
            ok(got <= {97, 98}, got)
        eq(set(os.pread(a, 4 << 20, 0)), {98})
        os.close(a)


@test
def test_write_in_mapped_hole():
    with Overlay({}) as ov:
        with open(ov.m("f"), "wb") as f:
            f.truncate(16 * PAGE)
        m = mapped(ov.m("f"), writable=True, length=16 * PAGE)
        m[9 * PAGE] = 7
        m.close()
        ov.remount()
        data = read(ov.m("f"))
        eq((len(data), data[9 * PAGE], data.count(0)), (16 * PAGE, 7, 16 * PAGE - 1))


@test
def test_append_while_mapped():
    with low() as ov:
        m = mapped(ov.m("f"), writable=True)
        m[0:2] = b"!!"
        append(ov.m("f"), "tail")
        m[PAGE:PAGE + 2] = b"??"
        m.close()
        ov.remount()
        want = b"!!" + DATA[2:PAGE] + b"??" + DATA[PAGE + 2:] + b"tail"
        eq(read(ov.m("f")), want)


@test
def test_punch_hole_under_a_mapping():
    with low() as ov:
        m = mapped(ov.m("f"), writable=True)
        eq(m[2 * PAGE:2 * PAGE + 1], b"C")
        fd = os.open(ov.m("f"), os.O_RDWR)
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE, PAGE)
        eq(m[2 * PAGE:3 * PAGE], b"\0" * PAGE)
        eq(m[3 * PAGE:3 * PAGE + 1], b"D")
        m.close()
        os.close(fd)


if __name__ == "__main__":
    main()
