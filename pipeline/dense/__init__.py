"""Training-free dense CLIP: methods whose patch features can be compared with names."""
