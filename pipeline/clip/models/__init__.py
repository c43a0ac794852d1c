"""Image-text models beside open_clip's, a file each; see :mod:`pipeline.clip.image_text`."""
