"""What a participant of the saga needs: the barrier, by which each command takes effect at most once."""
