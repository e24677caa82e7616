"""What becomes of old data: orders that ended long ago are archived, users are erased."""
