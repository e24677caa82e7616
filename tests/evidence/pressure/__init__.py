"""Pressure: a participant that is away for long, or a flood of messages that nobody can read, while orders go on."""
