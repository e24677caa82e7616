"""The demo: every way an order can end, played on a real system."""
