"""The models of the golden files."""

from tests.golden_models import arrays, build, models_folder, radseg_weights, tips_weights  # noqa: F401
