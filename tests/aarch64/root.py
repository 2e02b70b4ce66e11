"""The root of Debian for arm64: made once, checked in every run, made again if it is broken."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from aarch64.board import CPU, write_board
from aarch64.table import Check, MissingError, StepError, run

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
# zlib1g-dev: its header and library are what the runner is linked with here.
PACKAGES = ("python3", "python3-venv", "python3-pip", "zlib1g-dev", "libstdc++6", "libgomp1")
# Without it, debootstrap warns and takes packages that nobody signed.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBOOTSTRAP = (
    "debootstrap",
    "--arch=arm64",
    "--variant=minbase",
    "--foreign",
    f"--keyring={KEYRING}",
)
TOOLS = {
    "debootstrap": "debootstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "cmake": "cmake",
    "unshare": "util-linux",
}
CHANGING = {"checked", "dev", "opt", "proc", "root", "run", "sys", "tmp", "var"}
"""Folders whose files do not belong to the packages."""

MOUNTED = ("proc", "sys")

# The folders are private to the command: nothing stays mounted, however it ends.
_ENTER = (
    'mount -t proc proc "$1/proc" && mount --bind "$2/machine/cpuinfo" "$1/proc/cpuinfo" '
    '&& mount --bind "$2/machine/sys" "$1/sys" '
    '&& mkdir -p "$1/checked" && mount --bind "$2" "$1/checked" '
    '&& root=$1 && shift 2 && exec chroot "$root" "$@"'
)
_EXTRACT = (
    'for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --fsys-tarfile "$deb" '
    '| tar -C "$1" --keep-directory-symlink -xf - || exit 1; done'
)


def command_there(check: Check, *command: object, **env: str) -> tuple[list[str], dict[str, str]]:
    """Return the words and the environment that run a command in the root.

    The program replaces the shells before it, so a signal to the process reaches it.
    """
    folder = check.work / "machine"
    if not folder.exists():
        write_board(folder, len(os.sched_getaffinity(0)))
    environment = {
        "PATH": "/opt/fer-edge/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        **{"HOME": "/root", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "QEMU_CPU": CPU},
        **env,
    }
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
    return [*words, *map(str, (check.root, check.work, *command))], environment


def there(check: Check, *command: object, **env: str) -> str:
    """Run a command in the root and return its stdout."""
    return run(*command_there(check, *command, **env))


def tools(check: Check) -> str:
    if os.geteuid() != 0:
        raise MissingError("chroot needs root: sudo make test-aarch64")
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if not KEYRING.is_file():
        missing.add("debian-archive-keyring")
    if missing:
        raise MissingError(f"apt-get install {' '.join(sorted(missing))}")
    registered = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
    if not registered.exists():
        # Both need no more than root; in a container the file system may not be mounted yet.
        mount = ["mount", "-t", "binfmt_misc", "none", str(registered.parent)]
        subprocess.run(mount, capture_output=True, check=False)
        enable = ["update-binfmts", "--enable", "qemu-aarch64"]
        subprocess.run(enable, capture_output=True, check=False)
    if not registered.exists():
        raise MissingError("the kernel does not run aarch64 programs: update-binfmts --enable")
    version = run(["qemu-aarch64-static", "--version"], dict(os.environ)).splitlines()[0]
    return f"{version}, CPU {CPU}"


def debian(check: Check) -> str:
    """Make the root, unless there is a whole one of the same packages."""
    record = check.cache / "root.json"
    wanted = hashlib.sha256(" ".join([SUITE, *PACKAGES]).encode()).hexdigest()
    reason = why_not_whole(check.root, record, wanted)
    if reason:
        make_root(check.root, record, wanted)
    if there(check, "uname", "-m").strip() != "aarch64":
        raise StepError("the root is not aarch64")
    for compiler in ("cc", "gcc", "g++", "clang"):
        if (check.root / "usr/bin" / compiler).exists():
            raise StepError(f"there is a compiler in the root: {compiler}")
    python = there(check, "/usr/bin/python3", "--version").strip()
    version = (check.root / "etc/debian_version").read_text().strip()
    made = f"made now: {reason}" if reason else "from the cache"
    return f"Debian {version}, {python}, no compiler; {made}"


def why_not_whole(root: Path, record: Path, wanted: str) -> str | None:
    """Return why a root has to be made, or None if it is whole.

    ``record`` is written after a root is complete. It has the digest of what was asked for
    (``wanted``) and the size of each file.
    """
    if not root.is_dir() or not record.is_file():
        return "there was none" if not root.exists() else "the root was not complete"
    try:
        written = json.loads(record.read_text())
        packages, files = written["packages"], dict(written["files"])
    except (ValueError, KeyError, TypeError):
        return f"{record.name} cannot be read"
    if packages != wanted:
        return "the list of packages has changed"
    if any((root / name).is_symlink() or not (root / name).is_dir() for name in MOUNTED):
        return f"{' or '.join(MOUNTED)} is no folder"
    present = dict(files_of(root))
    broken = [name for name, size in files.items() if present.get(name) != size]
    if broken:
        return f"{len(broken)} files were missing or changed, such as {broken[0]}"
    return None


def files_of(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the path and the size of each regular file of the packages."""
    for top in sorted(path for path in root.iterdir() if path.name not in CHANGING):
        for folder, _, names in os.walk(top):
            for name in names:
                path = Path(folder, name)
                # Python writes these whenever it runs.
                if not path.is_symlink() and path.suffix != ".pyc":
                    yield str(path.relative_to(root)), path.stat().st_size


def make_root(root: Path, record: Path, wanted: str) -> None:
    """Make a root beside the old one, then put it in its place."""
    new = root.with_name("root.new")
    shutil.rmtree(new, ignore_errors=True)
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path}
    run([*DEBOOTSTRAP, f"--include={','.join(PACKAGES)}", SUITE, str(new), MIRROR], environment)
    # Only unpacked: what packages do when they are installed takes an hour under qemu, and
    # nothing here needs it.
    run(["sh", "-c", _EXTRACT, "sh", str(new)], environment)
    # In a container, debootstrap makes a link to /proc, which inside the root is a circle.
    for name in MOUNTED:
        if (new / name).is_symlink():
            (new / name).unlink()
            (new / name).mkdir()
    record.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    new.rename(root)
    written = record.with_suffix(".new")
    written.write_text(json.dumps({"packages": wanted, "files": dict(files_of(root))}))
    written.replace(record)
