"""What a deploy needs: the schema, topics and rights, a rehearsal of what is in flight, the hand-over of the ledger."""
