"""What makes sure that an accepted request is published: its messages, and the sweeper that repeats what was lost."""
