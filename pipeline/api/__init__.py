"""The library: what ``import pipeline`` offers, loaded when it is first used."""
