"""Where root can give PostgreSQL's user no access to private folders: server and data in a folder of the system.

PostgreSQL refuses to run as root, so it runs as another user, with root's right to use private folders (see `child`). A
kernel or a container may have taken that right from root (CAP_DAC_OVERRIDE, or CAP_SETPCAP, which its use with
access(2) needs). Then a copy of the server and the data are in a folder of the system, and the stack's own folder has a
link to the data. That folder belongs to root's group: so the user can enter it, and root can read the data.
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
_BASES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108  only a folder that root owns is used
_NO_OTHER_USER = 2


async def reaches(account: Account, folder: Path, program: Path) -> bool:
    """Say whether `account`, with the right that we can give it, can write in `folder` and run `program`.

    Raise `StackError` when we are root and can't switch to another user.
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
    """Make the folder outside for the stack in `folder`, always the same one. Raise `StackError` if that fails."""
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
    """Copy the server's folder and the libraries beside its package, unless that was done; return the copy."""
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
    """Remove, as that user, the user's files from a folder, if there is one: root can't here."""
    if await asyncio.to_thread(folder.exists):
        find = shutil.which("find") or "/usr/bin/find"
        await run_to_end("remove", [find, str(folder), "-mindepth", "1", "-delete"], logs, account=account)
