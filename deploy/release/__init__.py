"""A release: `make release VERSION=0.3.0`. docs/releasing.md tells the steps."""
