"""Methods that lie outside the package, as those of a user do."""
