"""The stages of a configuration; no other package lists them."""
