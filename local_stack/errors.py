"""The one exception of the local stack.

Exception
└── StackError   the stack can't run, for a reason that its user can remove
"""


class StackError(Exception):
    """Says in one line what does not work, and where to look. The command ends with exit code 1."""
