"""The stages of a configuration: the only place that knows which there are."""
