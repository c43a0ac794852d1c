"""The base of the settings of dense methods, each of which lies in a folder of its own.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from dataclasses import dataclass

from pipeline.clip.settings import MethodOptions

REMAINDERS = ("stretch", "pad")
"""How pixels beside the last whole patch are treated: they are ignored, and similarities
are stretched over them; or zeros around the window complete the patches."""


@dataclass
class DenseSettings(MethodOptions):
    """The base of the settings of all dense methods."""
