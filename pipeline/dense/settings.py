"""The base of the settings of dense methods, each of which lies in a folder of its own.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from dataclasses import dataclass
from functools import partial

from pipeline.clip.settings import MethodOptions
from pipeline.engine.registry import register

register_dense = partial(register, "dense", section="Dense methods")
"""The decorator by which a dense method is declared."""

REMAINDERS = ("stretch", "pad", "enlarge")
"""How pixels beside the last whole patch are treated: they are ignored, and similarities are
stretched over them; or zeros around the window complete the patches; or the window is enlarged to
whole patches (bicubic, without antialiasing)."""


@dataclass
class DenseSettings(MethodOptions):
    """The base of the settings of all dense methods."""
