"""The tools: ``run`` of a module takes a command line; whatever the user can fix is a UserError."""

import warnings

# Pillow warns of much that is odd in a file; all that matters is raised as an error or refused.
warnings.filterwarnings("ignore", module=r"PIL\.")
