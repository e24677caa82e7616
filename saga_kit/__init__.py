"""What every service of a saga shares: batches, outbox, dead letters, health, and the participants' barrier."""
