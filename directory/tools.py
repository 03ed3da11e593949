"""Running slapd's programs: where they are, as which user, inside which folder; small files written for them.

Invariants
* slapd and its tools never run as root: started by root they become `openldap` (or `nobody`) and cannot gain privileges
  back; root enters the folder first, so its parents may be closed to that user.
* Every path given to them is relative to that folder (spaces and long paths do no harm).
* They die with the thread that started them (PR_SET_PDEATHSIG), also when it was gone before they could ask for that; so a
  killed import leaves no tool writing behind it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from directory.errors import DirectoryError

SEARCH_PATH: Final = "/usr/sbin:/usr/local/sbin:/sbin:/usr/bin:/bin:/usr/local/bin:/usr/lib/openldap:/usr/libexec"
TOOL_SECONDS: Final = 1800
_PACKAGES: Final = {"slap": "slapd", "mdb": "lmdb-utils"}
_USERS: Final = ("openldap", "nobody")
_NICE: Final = 10
_UNLESS_ORPHAN: Final = '[ "$PPID" = "$0" ] && exec "$@"'
_OPEN_FILES: Final = 4096  # slapd allocates a table of that many connections: an "unlimited" limit costs it gigabytes


def find_program(name: str) -> str:
    """Absolute path of a system program. Raises DirectoryError that says which package to install."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        package = next((one for start, one in _PACKAGES.items() if name.startswith(start)), "util-linux, coreutils")
        raise DirectoryError(
            f"Programme « {name} » introuvable : installer le paquet {package} (Debian : apt install {package}) "
            f"/ program {name} not found: install package {package}"
        )
    return path


def account() -> pwd.struct_passwd | None:
    """The unprivileged account to become; None when we are not root and stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise DirectoryError(
        "Lancé par root sans compte « openldap » ni « nobody » : créer l'un des deux "
        "/ run as root without an openldap or nobody account: create one of them"
    )


def own(folder: Path, parts: Iterable[str]) -> None:
    """Give slapd's user the parts of `folder` it reads and writes (only root needs to, only root can)."""
    user = account()
    if user is None:
        return
    for part in parts:
        for root, folders, files in os.walk(folder / part):
            for name in (".", *folders, *files):
                os.chown(Path(root) / name, user.pw_uid, user.pw_gid, follow_symlinks=False)


def prefix(folder: Path) -> list[str]:
    """Enter the folder, then drop every privilege, then exec: one process id from beginning to end.

    The calling process must be the one that starts the command: what it starts while being killed runs nothing.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    drop: list[str] = []
    user = account()
    if user is not None:
        drop = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [
        find_program("env"),
        f"--chdir={folder}",
        find_program("prlimit"),
        f"--nofile={files}:{files}",
        find_program("setpriv"),
        *drop,
        "--no-new-privs",
        "--pdeathsig=TERM",
        find_program("sh"),
        "-c",
        _UNLESS_ORPHAN,
        str(os.getpid()),
    ]


def give_way() -> None:
    """Let this process, and the tools it will start, pass after whoever serves: an import is long, a look-up is awaited."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    if os.getsid(0) == os.getpid():  # else the session is a person's, with other things in it
        _session_gives_way(os.getpid())


def start_tool(argv: Sequence[str], *, stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    """Start a program of slapd's in a session of its own, which gives way when we do."""
    process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    if os.getpriority(os.PRIO_PROCESS, 0) >= _NICE:
        _session_gives_way(process.pid)
    return process


def _session_gives_way(pid: int) -> None:
    """Linux shares the processor between sessions before it looks at the niceness of processes (sched(7), autogroups)."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE), "ascii")


def run_tool(folder: Path, command: Sequence[str], chunks: Iterable[bytes], what: str) -> None:
    """Run a slapd tool in `folder`, feeding it `chunks`. Raises DirectoryError with the tool's first words, and whatever
    `chunks` raises (the tool is then ended).
    """
    argv = [*prefix(folder), find_program(command[0]), *command[1:]]
    with start_tool(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        if process.stdin is None or process.stderr is None:
            raise DirectoryError(f"{command[0]} : pas de canal / no pipe")
        try:
            with contextlib.suppress(BrokenPipeError):  # it refused something and says what on stderr
                for chunk in chunks:
                    process.stdin.write(chunk)
                process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            said = process.stderr.read()
            code = process.wait(TOOL_SECONDS)
        except BaseException:
            process.kill()
            with contextlib.suppress(BrokenPipeError):  # closing writes what is left, to nobody
                process.stdin.close()
            raise
    if code != 0:
        raise DirectoryError(f"{command[0]} refuse {what} : {first_lines(said)}")


def open_tool(folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a slapd tool whose output is read as it comes. The caller waits for it and looks at its code."""
    argv = [*prefix(folder), find_program(command[0]), *command[1:]]
    return start_tool(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def first_lines(stderr: bytes) -> str:
    """The first words of a tool, for people."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return " | ".join(lines[:4])[:600] or "(rien / nothing)"


def write_private(path: Path, content: bytes) -> None:
    """Write a 0600 file atomically and durably: readers see the old content or the whole new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, not a path)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
