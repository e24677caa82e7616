"""The trigger engine: consumes prices and decides which resting orders they fire."""
