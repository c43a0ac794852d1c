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
height, width = session.get_inputs()[0].shape[2:]  # names if the graph takes any size

image = ImageOps.exif_transpose(Image.open(photograph)).convert("RGB")
if isinstance(height, int):
    small = image.resize((width, height), Image.Resampling.BILINEAR)
else:  # to at most 1,024 pixels a side, and no more patches than the network takes
    side, most = json.loads(about["patches"]) or (1, 1024 * 1024)
    factor = min(1, 1024 / max(image.size), side * (most / image.width / image.height) ** 0.5)
    small = image.resize([max(1, round(s * factor)) for s in image.size], Image.Resampling.BICUBIC)
pixels = np.asarray(small, np.float32).transpose(2, 0, 1)[None]  # 1×3×H×W, RGB in [0, 255]
logits, labels = session.run(None, {"image": pixels})

picture = Image.fromarray(labels[0])
picture.putpalette([value for colour in json.loads(about["palette"]) for value in colour])
picture.resize(image.size, Image.Resampling.NEAREST).save(mask)
names = json.loads(about["class_names"])
for label, count in zip(*np.unique(labels, return_counts=True)):
    print(f"{names[label]}: {count / labels.size:.1%}")
