"""Groups of settings without a whole configuration."""

from __future__ import annotations

from omegaconf import OmegaConf


def to_settings(kind: type, values):
    """Returns settings of a kind from plain values, which OmegaConf checks and converts."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
