"""The holds of services over REST: asked for, captured and released here, and decided by the balance service."""
