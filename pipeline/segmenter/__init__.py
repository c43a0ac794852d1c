"""Trains a mmsegmentation network on pseudo masks, and segments images with it."""
