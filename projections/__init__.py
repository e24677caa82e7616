"""What is made of the events of orders for those who read them another way; each can be made again from nothing."""
