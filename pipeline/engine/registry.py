"""The names by which a plug-in declares a method."""

from pipeline.configuration.registry import TEMPLATES, Quirk, register

__all__ = ["TEMPLATES", "Quirk", "register"]
