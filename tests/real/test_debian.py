#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian system as lower, and its own programs at work on the overlay: compiler, git, python, sqlite, dpkg, apt.

After each: the lower is unchanged by a byte, an owner, a mode, a time or an xattr; kernel overlayfs mounted on the same
three directories shows the same tree; so do we after a remount.
"""

import hashlib
import os
import re
import subprocess
import sys

if not os.environ.get("OV_REAL"):
    print("1..0 # SKIP takes minutes and a mirror: set OV_REAL=1 to run it")
    sys.exit(0)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from realtest import file_of, ovtest, System, unpack  # noqa: E402
from ovtest import eq, lstat, need, ok, read, run, test  # noqa: E402

HELLO = """#include <stdio.h>
#include "part.h"
int main(void) { printf("%d\\n", part(6)); return 0; }
"""


def compile_something(s):
    os.mkdir(s.m("root/c"))
    file_of(s.m("root/c/main.c"), HELLO)
    file_of(s.m("root/c/part.h"), "int part(int);\n")
    file_of(s.m("root/c/part.c"), '#include "part.h"\nint part(int i) { return 7 * i; }\n')
    file_of(s.m("root/c/Makefile"), "prog: main.o part.o\n\t$(CC) -o $@ $^\n%.o: %.c part.h\n\t$(CC) -O2 -c $<\n")
    eq(s.sh("cd c; make >log 2>&1; ./prog"), "42\n")
    eq(s.sh("cd c; make"), "make: 'prog' is up to date.\n")
    eq(s.sh("cd c; sleep 1.1; touch part.h; make -j2 >/dev/null; rm *.o; ./prog"), "42\n")
    # A header of the system changed: copied up under the compiler's eyes.
    s.sh("cd c; echo '#define CHANGED 1' >>/usr/include/stdio.h; printf '#include <stdio.h>\\nint x = CHANGED;\\n' >x.c; cc -c x.c")


def git_something(s):
    out = s.sh("""
        git config --global user.email me@example.org; git config --global user.name Me
        git config --global init.defaultBranch main
        mkdir origin; cd origin; git init -q; cp -r /usr/lib/python3*/json . ; cp /etc/passwd .; mkdir d; echo 1 >d/1
        git add .; git commit -qm first
        cd ..; git clone -q origin clone; cd clone
        echo more >>passwd; git mv d/1 d/2; rm -r json; git add -A; git commit -qm second; git status --short
        git push -q origin HEAD:refs/heads/side; git gc -q --aggressive --prune=now; git fsck --strict
        git checkout -q HEAD~1; ls; git checkout -q main; git log --oneline | wc -l; git diff HEAD~1 --stat | tail -n 1
        cd ../origin; git merge -q side; git status --short; git stash list; git worktree add -q ../tree HEAD~1; ls ../tree
        """)
    ok("2\n" in out and "json" in out, out)
    ok("error" not in out and "fatal" not in out, out)


def python_something(s):
    out = s.sh("""python3 - <<'EOF'
import json, os, mmap, hashlib, subprocess, sys, zipfile
os.makedirs("py/pkg")
open("py/pkg/__init__.py", "w").write("value = 41\\n")
sys.path.insert(0, "py")
import pkg
with zipfile.ZipFile("py/z.zip", "w") as z:
    for n in sorted(os.listdir("/etc")):
        if os.path.isfile("/etc/" + n): z.write("/etc/" + n)
assert zipfile.ZipFile("py/z.zip").testzip() is None
with open("py/map", "w+b") as f:
    f.truncate(1 << 20)
    m = mmap.mmap(f.fileno(), 0)
    m[5000:5005] = b"hello"; m.flush()
    f.seek(5000); assert f.read(5) == b"hello"
with open("/etc/services" if os.path.exists("/etc/services") else "/etc/passwd", "r+b") as f:
    old = f.read(); m = mmap.mmap(f.fileno(), 0); m[0:1] = b"#"; m.close()
    f.seek(0); assert f.read() == b"#" + old[1:]
for i in range(300): open("py/f%d" % i, "w").write(str(i))
for i in range(0, 300, 2): os.unlink("py/f%d" % i)
assert len(os.listdir("py")) == 150 + 3, os.listdir("py")
print(pkg.value + 1, subprocess.check_output(["uname"]).decode().strip())
EOF
ls py/pkg/__pycache__; python3 -m compileall -q /usr/lib/python3*/json; sleep 1.1; rm -r py/pkg; ls py | wc -l
""")
    eq(out.splitlines()[0], "42 Linux")
    ok("__init__" in out, out)
    eq(out.splitlines()[-1], "152")


def sqlite_something(s):
    for journal in ("delete", "truncate", "persist", "wal"):
        out = s.sh("""db=%s.db; sqlite3 $db 'pragma journal_mode=%s; create table t(a integer primary key, b text);'
            for i in 1 2 3 4 5 6 7 8 9 10; do sqlite3 $db "begin; insert into t(b) values(hex(randomblob(3000))); update t set b = b || 'x'; commit;"; done
            sqlite3 $db 'delete from t where a %% 2; vacuum; pragma integrity_check; select count(*) from t;'
            """ % (journal, journal))
        eq(out.splitlines()[-2:], ["ok", "5"], journal)
    # Two at once on one data base, which locks decide.
    out = s.sh("""sqlite3 two.db 'create table t(a);'
        for p in 1 2 3; do (for i in 1 2 3 4 5 6 7 8; do sqlite3 -cmd '.timeout 60000' two.db "insert into t values($p);"; done) & done; wait
        sqlite3 two.db 'select count(*) from t; pragma integrity_check;'""")
    eq(out, "24\nok\n")


def shell_something(s):
    """The tools that everybody uses, on whole trees of the lower."""
    s.sh("""
        cp -a /usr/lib/git-core copy; diff -r /usr/lib/git-core copy; rm -r copy
        tar -C /usr/share -cf t.tar perl5; mkdir t; tar -C t -xf t.tar; diff -r /usr/share/perl5 t/perl5; rm -r t t.tar
        mv /usr/share/perl5 /usr/share/perl5.old || exit 1; ls /usr/share/perl5.old >/dev/null; test ! -e /usr/share/perl5
        mkdir /usr/share/perl5; test -z "$(ls -A /usr/share/perl5)"
        rm -r /usr/share/perl5; mv /usr/share/perl5.old /usr/share/perl5
        chown -R 1:1 /etc/default; chmod -R g+w /etc/default; chown -R 0:0 /etc/pam.d
        rm -rf /usr/share/zoneinfo /usr/share/common-licenses; mkdir /usr/share/common-licenses; touch /usr/share/common-licenses/GPL
        sed -i s/root/toor/ /etc/group; sed -i s/toor/root/ /etc/group
        ln /etc/passwd /etc/passwd.link; echo x:x:99:99::/:/bin/sh >>/etc/passwd; cmp /etc/passwd /etc/passwd.link
        ln -sf nowhere /etc/issue; find / -xdev -type f -size +0 -newer /etc/debian_version >/dev/null
        install -m 4755 /bin/true /usr/local/bin/true; touch -d @1000000000.123456789 /etc/fstab
        mkdir -p /srv/a/b/c; mv /srv/a /srv/z; rmdir /srv/z/b/c /srv/z/b /srv/z
        """)
    eq(oct(lstat(s.m("usr/local/bin/true")).st_mode & 0o7777), "0o4755")
    eq(lstat(s.m("etc/fstab")).st_mtime_ns, 1000000000123456789)


@test(timeout=400)
def test_programs():
    """gcc and make, git, python, sqlite, and the shell's tools."""
    need("chroot", "tar")
    with System() as s:
        s.enter()
        for step in (compile_something, git_something, python_something, sqlite_something, shell_something):
            step(s)
        s.check()


def make_deb(s):
    """A package made on the spot: a conffile, scripts, a setuid program, a link, a diversion, a directory over one of
    the lower's."""
    top = s.m("root/mine")
    os.makedirs(top + "/DEBIAN")
    file_of(top + "/DEBIAN/control", "Package: mine\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.org>\n"
            "Description: a test\n")
    file_of(top + "/DEBIAN/conffiles", "/etc/mine.conf\n")
    file_of(top + "/DEBIAN/preinst", "#!/bin/sh -e\nif [ \"$1\" = install ]; then\n"
            "dpkg-divert --package mine --add --rename --divert /usr/bin/id.real /usr/bin/id >/dev/null\nfi\n", 0o755)
    file_of(top + "/DEBIAN/postrm", "#!/bin/sh -e\nif [ \"$1\" = remove ]; then\n"
            "dpkg-divert --package mine --remove --rename --divert /usr/bin/id.real /usr/bin/id >/dev/null\nfi\n", 0o755)
    for d in ("etc", "usr/bin", "usr/share/perl5/mine", "usr/lib/mine"):
        os.makedirs(os.path.join(top, d))
    file_of(top + "/etc/mine.conf", "a = 1\n")
    file_of(top + "/usr/bin/id", "#!/bin/sh\necho mine\n", 0o755)
    file_of(top + "/usr/bin/mine", "#!/bin/sh\nexit 0\n", 0o755)
    os.chmod(top + "/usr/bin/mine", 0o4755)
    os.link(top + "/usr/bin/mine", top + "/usr/bin/mine2")
    os.symlink("../../bin/mine", top + "/usr/lib/mine/mine")
    file_of(top + "/usr/share/perl5/mine/x", "x")
    s.sh("dpkg-deb --root-owner-group -b mine mine1.deb")
    file_of(top + "/DEBIAN/control", read(top + "/DEBIAN/control").decode().replace("Version: 1", "Version: 2"))
    os.unlink(top + "/usr/lib/mine/mine")
    os.rmdir(top + "/usr/lib/mine")
    file_of(top + "/usr/lib/mine", "a file now")
    s.sh("dpkg-deb --root-owner-group -b mine mine2.deb")


def dpkg_something(s):
    make_deb(s)
    id_before = read(s.m("usr/bin/id"))
    s.sh("dpkg -i mine1.deb")
    eq(s.sh("id; id.real -u"), "mine\n0\n")
    a, b = lstat(s.m("usr/bin/mine")), lstat(s.m("usr/bin/mine2"))
    eq((oct(a.st_mode), a.st_ino, a.st_nlink), ("0o104755", b.st_ino, 2))
    s.sh("echo changed >>/etc/mine.conf; dpkg --force-confold -i mine2.deb")
    eq(read(s.m("usr/lib/mine")), b"a file now")
    eq(s.sh("dpkg-query -W -f '${Version} ${Status}' mine"), "2 install ok installed")
    s.sh("dpkg -r mine")
    ok(not os.path.lexists(s.m("usr/bin/mine")) and os.path.exists(s.m("etc/mine.conf")))
    eq(read(s.m("usr/bin/id")), id_before)
    s.sh("dpkg -P mine")
    ok(not os.path.lexists(s.m("etc/mine.conf")))
    eq(s.sh("dpkg --audit"), "")


def local_repository(s):
    """Packages and nothing else: what apt needs of the packages that are kept in the system."""
    names = sorted(n for n in os.listdir(s.m("root/debs")) if n.endswith(".deb"))
    entries = []
    for n in names:
        data = read(s.m("root/debs", n))
        fields = run("dpkg-deb", "-f", s.m("root/debs", n)).stdout.rstrip("\n")
        entries.append("%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n" % (fields, n, len(data), hashlib.sha256(data).hexdigest()))
    file_of(s.m("root/debs/Packages"), "\n".join(entries))
    for d in ("etc/apt/sources.list.d",):
        for n in os.listdir(s.m(d)):
            os.unlink(s.m(d, n))
    file_of(s.m("etc/apt/sources.list"), "deb [trusted=yes] file:/root/debs ./\n")
    return [n.split("_")[0] for n in names]


def apt_something(s):
    need("dpkg-deb")
    packages = local_repository(s)
    s.sh("apt-get -o APT::Sandbox::User=root update")
    out = s.sh("apt-get -o APT::Sandbox::User=root install -y --no-install-recommends " + " ".join(packages))
    ok(not re.search("^(E:|dpkg: error)", out, re.M), "\n".join(re.findall("^(?:E:|dpkg: error).*", out, re.M)))
    for p in packages:
        eq(s.sh("dpkg-query -W -f '${Status}' " + p), "install ok installed", p)
    eq(s.sh("hello -g hi"), "hi\n")
    ok(s.sh("readlink -f /usr/bin/pager").startswith("/usr/bin/"))
    eq(oct(lstat(s.m("usr/bin/sudo")).st_mode & 0o7777), "0o4755")
    caps = s.sh("getcap /usr/bin/ping || getcap /bin/ping")
    ok(re.search("cap_net_raw", caps) or lstat(s.m("usr/bin/ping")).st_mode & 0o4000, "ping has no privilege: %r" % caps)
    eq(s.sh("dpkg --audit; dpkg --verify less sudo hello | grep -v /usr/share/ || :"), "")
    s.sh("apt-get purge -y hello less; apt-get autoremove -y; apt-get clean")
    ok(not os.path.lexists(s.m("usr/bin/hello")))
    s.sh("apt-get install -y --reinstall --no-install-recommends ./debs/hello_*.deb", timeout=120)
    eq(s.sh("hello -g again"), "again\n")


@test(timeout=400)
def test_packages():
    """dpkg installs, upgrades, diverts, removes and purges a package made on the spot; apt-get installs from a repository."""
    need("chroot", "tar")
    with System() as s:
        s.enter()
        dpkg_something(s)
        apt_something(s)
        s.check()


@test(timeout=400)
def test_layers():
    """The system, an upper with a package in it, and a third on top: an image of layers; the middle is unchanged."""
    need("chroot", "tar")
    with System() as s:
        s.enter()
        s.sh("dpkg -i debs/hello_*.deb; rm -r /usr/lib/git-core; echo middle >/etc/motd")
        s.umount()
        middle = ovtest.tree_snapshot(s.upper)
        s.stack_up()
        s.enter()
        eq(s.sh("hello -g hi; cat /etc/motd; test ! -e /usr/lib/git-core && echo gone"), "hi\nmiddle\ngone\n")
        s.sh("dpkg -P hello; mkdir /usr/lib/git-core; echo x >/usr/lib/git-core/x; echo top >/etc/motd; apt-get clean")
        eq(os.listdir(s.m("usr/lib/git-core")), ["x"])
        s.before = ovtest.tree_snapshot(s.lowers[1])
        s.leave()
        ours = ovtest.tree_snapshot(s.mnt)
        s.umount()
        ovtest.assert_same(middle, ovtest.tree_snapshot(s.lowers[0]), "middle before", "middle after")
        with s.by_kernel() as view:
            ovtest.assert_same(ours, ovtest.tree_snapshot(view), "ours", "kernel's")


def some_files(top, n):
    """N regular files below TOP."""
    files = []
    for path, _, names in os.walk(top):
        files += [p for p in (os.path.join(path, f) for f in names) if os.path.isfile(p) and not os.path.islink(p)]
        if len(files) >= n:
            break
    return files[:n]


def count_messages(mnt, name, work):
    """Run WORK three times; the messages of the last. The first is cold; the second asks for the access times that the
    first one's reads made stale."""
    for temperature in ("cold", "second", "warm"):
        with ovtest.Count(mnt) as c:
            work()
        print("%s, %s: %r" % (name, temperature, c.all))
    return dict(c.all)


@test(timeout=300, modes=("root",), not_kernel="it sends no messages")
def test_messages():
    """Messages of a warm find, and of a warm cat of 1000 files: none; one GETATTR a file where there is a writeback cache."""
    for writable in (False, True):
        with ovtest.Overlay(unpack, upper=None if writable else False) as s:
            files = some_files(s.m("usr"), 1000)

            def cat(files=files):
                with open("/dev/null", "wb") as null:
                    subprocess.run(["cat"] + files, stdout=null, check=True)
            what = "writable" if writable else "read-only"
            found = count_messages(s.mnt, what + ": find", lambda: run("find", s.mnt, "-printf", "%s %n %m %u %T@\n", timeout=120))
            found.pop("STATFS", None)  # one, by which find learns what it walks on
            eq(found, {}, "%s: messages of a warm find" % what)
            got = count_messages(s.mnt, what + ": cat of %d files" % len(files), cat)
            # With a writeback cache the kernel takes the block count for stale after each close, and cat asks for it.
            ok(got in ({}, {"GETATTR": len(files)} if writable else {}), "%s: messages of a warm cat: %r" % (what, got))
            sys.stdout.flush()


if __name__ == "__main__":
    ovtest.main()
