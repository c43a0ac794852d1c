"""Training-free dense CLIP: methods whose patch features can be compared with names.

Importing this package registers them in :data:`pipeline.dense.method.DENSE_METHODS`.
"""

from pipeline.dense import (  # noqa: F401
    clearclip,
    gem,
    itaclip,
    maskclip,
    naclip,
    resclip,
    sc_clip,
    sclip,
)
