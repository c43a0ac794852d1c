"""The order of the pages on the site."""

NAVIGATION = {
    "Use": [
        "docs/installation",
        "docs/photographs",
        "docs/app",
        "docs/command-line",
        "docs/python",
        "docs/segmenters",
    ],
    "Method": [
        "docs/method",
        "docs/other-methods",
        "docs/compare-methods",
        "docs/experiments",
        "docs/published-results",
    ],
    "Data": [
        "docs/data-sets",
        "docs/import",
        "docs/export",
        "docs/licences",
        "data/demo/README",
        "data/demo/CLIP",
        "data/demo/SECOND",
        "data/demo_crowded/README",
    ],
    "Operate": ["docs/speed", "docs/clusters", "docs/reliability"],
    "Extend": ["docs/add-a-method", "docs/add-a-dataset", "docs/contributing"],
    "Reference": ["docs/settings", "docs/presets", "docs/changes", "docs/reference/api"],
}
"""The captions of the navigation, and the pages below each; every page is in it."""
