"""For a root who can lend PostgreSQL's user no right: server and data in a folder which that user reaches by itself.

PostgreSQL refuses to run as root, so it runs as another user, who gets root's right to reach private folders (see
`child`). A kernel or a container may have taken that right from root (CAP_DAC_OVERRIDE, or CAP_SETPCAP, which its use
with access(2) needs). Then what it needs lies in a folder of the system's: a copy of the server, and the data, which
the stack's own folder points to. The user gets in by the group of root, and so can root get at the data.
"""

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path

from local_stack.errors import StackError
from local_stack.processes import Account, run_to_end

_CHILD = Path(__file__).with_name("child.py")
_BASES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108  a folder of root's that is there already is not taken over
_NO_OTHER_USER = 2


async def reaches(account: Account, folder: Path, program: Path) -> bool:
    """Say whether `account`, with the right that we can give it, can write in `folder` and run `program`.

    Raise `StackError` when we are a root who can become nobody else.
    """
    words = ("try", *map(str, account), str(folder), str(program))
    asking = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", str(_CHILD), *words)
    if (answer := await asking.wait()) == _NO_OTHER_USER:
        raise StackError(
            "PostgreSQL refuses to run as root, and this root may become no other user (CAP_SETUID and CAP_SETGID are "
            "missing): run the command as a user who is not root"
        )
    return answer == 0


def make_place(folder: Path) -> Path:
    """Make the folder outside for what `folder` can't hold, always the same one; raise `StackError` if none can be."""
    name = f"order-saga-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    for base in _BASES:
        place = base / name
        try:
            place.mkdir(exist_ok=True)
            if place.is_symlink() or place.stat().st_uid != 0:
                continue
            os.chown(place, 0, 0)
            place.chmod(0o750)
        except OSError:
            continue
        return place
    raise StackError(
        f"PostgreSQL can't run as root, its user can't reach {folder}, and neither {_BASES[0]} nor {_BASES[1]} can be "
        "written: run the command as a user who is not root"
    )


def copy_server(place: Path, server: Path, version: str) -> Path:
    """Copy the folder of the server, and the libraries that lie beside its package, unless that was done; return it."""
    package = server.parent
    copy = place / f"server-{version}"
    if not copy.exists():
        unfinished = place / "server.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(server, unfinished / package.name / server.name, symlinks=True)
        if (libraries := package.with_name(f"{package.name}.libs")).exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (path.stat().st_mode & 0o500) >> 3)  # whatever the umask was
        unfinished.rename(copy)
    return copy / package.name / server.name


async def empty(folder: Path, account: Account, logs: Path) -> None:
    """Remove what the user has put into a folder, if there is such a folder: this root can't do it itself."""
    if await asyncio.to_thread(folder.exists):
        find = shutil.which("find") or "/usr/bin/find"
        await run_to_end("remove", [find, str(folder), "-mindepth", "1", "-delete"], logs, account=account)
