"""The name by which a plug-in declares a setting."""

from pipeline.configuration.settings import setting

__all__ = ["setting"]
