"""The market of the reference asset service, in an operator's hands: prices, trading states, and the feed."""
