import warnings

# Pillow warns of much that is odd in a file; all that matters is raised as an error or refused.
warnings.filterwarnings("ignore", module=r"PIL\.")
