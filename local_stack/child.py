"""Become another program that ends when the process that started it ends.

Run as a script by `processes`, between fork and exec: `child.py PARENT SIGNAL UID GID PROGRAM ARGUMENT...`. It gives up
root where a program refuses root, asks the kernel for SIGNAL when the parent dies, and then executes the program in its
own process, with the same id and the same files. It is a script because `preexec_fn` is not safe in a program with
threads. It imports only a little of the standard library, because every process of the stack starts through it.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_SECUREBITS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
_SECBIT_NO_SETUID_FIXUP = 4
_CAP_DAC_OVERRIDE = 1
_CAPABILITIES_V3 = 0x20080522


def become(parent: int, orphan_signal: int, uid: int, gid: int, argv: list[str]) -> None:
    """Replace this process by `argv`, run as `uid` and `gid` when we are root; return only if `parent` is dead."""
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0 and uid != 0:
        _give_up_root(libc, uid, gid)
    if sys.platform == "linux":  # after the change of user, which clears it
        libc.prctl(_PR_SET_PDEATHSIG, orphan_signal, 0, 0, 0)
    if os.getppid() == parent:  # else it died before the kernel knew that we want the signal
        os.execvp(argv[0], argv)  # noqa: S606  the program is named by our own code


def _give_up_root(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Switch to another user, and keep root's right to use private folders: a checkout in root's home is one (0700).

    The alternative is to open every parent folder to everybody, which we must not. Where a container has taken the
    right from root, the calls fail without harm, and the program has its user's rights only: see `elsewhere`.
    """
    if sys.platform == "linux":
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        # Without this bit access(2) answers as if there were no right at all, whatever open(2) would do.
        libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if sys.platform == "linux":
        kept = 1 << _CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
        libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0))
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def may_use(uid: int, gid: int, folder: str, program: str) -> int:
    """Give up root; return 0 if what is left may write in `folder` and run `program`, 1 if not, 2 if we stay root."""
    try:
        _give_up_root(ctypes.CDLL(None), uid, gid)
    except OSError:
        return 2
    return 0 if os.access(folder, os.W_OK | os.X_OK) and os.access(program, os.X_OK) else 1


if __name__ == "__main__":
    if sys.argv[1] == "try":
        sys.exit(may_use(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:6]))
    parent, orphan_signal, uid, gid = map(int, sys.argv[1:5])
    become(parent, orphan_signal, uid, gid, sys.argv[5:])
