"""The saga itself, pure: values, the table of phases, and the two functions that interpret it. No I/O, no clock."""
