"""Pressure: a participant is away for a long time, or a flood of unreadable messages comes, while orders go on."""
