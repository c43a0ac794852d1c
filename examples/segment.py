"""Segments a photograph with an exported network; needs onnxruntime, NumPy and Pillow alone.

python segment.py model.onnx photograph.jpg mask.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photograph, mask = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
about = session.get_modelmeta().custom_metadata_map
limits, names = json.loads(about["limits"]), json.loads(about["class_names"])
image = ImageOps.exif_transpose(Image.open(photograph))
if image.has_transparency_data:  # what is transparent becomes white
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
image = image.convert("RGB")

# Shrink it to the longest side that the network takes.
factor = min(1, limits["longest_side"] / max(image.size))
limited = [max(1, round(side * factor)) for side in image.size]
small = image.resize(limited, Image.Resampling.BICUBIC)

# Then to its number of patches, or to the one size of a graph that was exported without --dynamic.
height, width = session.get_inputs()[0].shape[2:]
if not isinstance(height, int):
    width, height = small.size
    if limits["patches"]:
        patch, most = limits["patches"]
        rows, columns = -(-height // patch), -(-width // patch)
        if rows * columns > most:
            factor = np.sqrt(most / (rows * columns))
            rows = max(1, min(int(rows * factor), most))
            columns = max(1, min(int(columns * factor), most // rows))
            height, width = min(height, rows * patch), min(width, columns * patch)
small = small.resize((width, height), Image.Resampling.BICUBIC)
pixels = np.asarray(small, np.float32).transpose(2, 0, 1)[None]  # 1×3×H×W, RGB in [0, 255]
[logits] = session.run(["logits"], {"image": pixels})[0]


def resized(scores, size):  # one class after the other, since a photograph is large
    return (Image.fromarray(each).resize(size, Image.Resampling.BILINEAR) for each in scores)


# The best class of every pixel of the photograph.
logits = np.stack([*map(np.asarray, resized(logits, limited))])
scores = np.exp(logits - logits.max(0))
best, labels = np.zeros((image.height, image.width), np.float32), np.zeros((), np.uint8)
for label, score in enumerate(resized(scores / scores.sum(0), image.size)):
    labels = np.where(np.asarray(score) > best, np.uint8(label), labels)
    best = np.maximum(best, score)

picture = Image.fromarray(labels)
picture.putpalette([value for colour in json.loads(about["palette"]) for value in colour])
picture.save(mask)
for label, count in zip(*np.unique(labels, return_counts=True)):
    print(f"{names[label]}: {count / labels.size:.1%}")
