"""The one exception of the local stack.

Exception
└── StackError   the stack cannot run, for a reason that its user can mend
"""


class StackError(Exception):
    """Carry one line for the user: what does not work, and where to look. The command ends with exit code 1."""
