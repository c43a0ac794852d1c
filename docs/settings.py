"""Writes docs/settings.md, all settings as their declarations have them.

Run it after a change of a setting: ``python -m docs.settings``.
"""

from __future__ import annotations

import textwrap
from itertools import groupby
from pathlib import Path

from pipeline.commands.settings_help import (
    Choice,
    described_choices,
    described_settings,
    only_with,
    unmarked,
)
from pipeline.configuration.hydra import choices

PAGE = Path(__file__).with_suffix(".md")

HEAD = """<!-- Written by python -m docs.settings from the declarations; edit those. -->
# All settings

The command `python -m docs.settings` writes this page from the code. The same text in the terminal,
also for the methods of your plug-ins:

```sh run
python tools/run_stage.py help tags.min_score
python tools/run_stage.py help masks=crf
```

A setting is given as `KEY=VALUE`; for none, type `null`. *Computed anew* names the stages that run
again after a change. They still reuse results that other settings computed in the same way
([the cache](command-line.md#the-cache)).
"""

ORDER = (
    *("", "dataset", "images", "clip", "tags", "cams", "masks", "segmenter", "self_training"),
    *("runtime", "executor", "report", "compat"),
)
"""The groups in the order of the page; "" stands for the keys outside groups."""


def write_page() -> str:
    """Returns the page; it is the same on every machine."""
    described = {group: list(own) for group, own in groupby(described_choices(), lambda c: c.group)}
    assert {*described} == {*ORDER}, "put the new group into ORDER"
    return "\n".join([HEAD, *(_section(group, described[group]) for group in ORDER)])


def _section(group: str, own: list[Choice]) -> str:
    texts = [unmarked(each.text, "`") for each in own if group and not each.name]
    names = sorted(choices().get(group, ()))
    listed = [f"Choices: {', '.join(f'`{name}`' for name in names)}."] if names else []
    lines = ["| setting | default | meaning | values | computed anew |", "|---|---|---|---|---|"]
    for entry, having in described_settings(own).items():
        some = f" {only.capitalize()}." if (only := only_with(having, own)) else ""
        default = textwrap.shorten(entry.default, 60, placeholder=" …")
        anew, _, _ = entry.anew.partition(" (")
        cells = [f"`{entry.key}`", default and f"`{default}`"]
        cells += [unmarked(entry.meaning, "`") + some, entry.values, anew]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    title = f"## `{group}`" if group else "## Outside groups"
    return "\n\n".join([title, *texts, *listed, "\n".join(lines)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
