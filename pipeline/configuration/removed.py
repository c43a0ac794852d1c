"""Settings, values, tools and options that went, and what to give instead."""

from pathlib import Path

import yaml


def _read(name: str) -> dict[str, str]:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


REMOVED_KEYS = _read("removed_keys.yaml")
"""Settings that went → what to give instead."""

REMOVED_WORDS = _read("removed_words.yaml")
"""Values of settings, as KEY=VALUE, tools, as TOOL.py, and their options, as TOOL.py --OPTION, that
went → what to give instead."""
