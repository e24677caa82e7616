"""The documentation site: every page of `docs/`, made by Sphinx into a folder that needs no other host."""
