"""Segments a folder of photographs with SAM 3, and writes the masks as COCO's JSON.

python examples/masks/sam3.py PHOTOS cat person cup

It requires transformers, and access to the weights: request it at
https://huggingface.co/facebook/sam3, and log in with `hf auth login`. It writes sam3.json, and a
file for each photograph to the folder sam3, from which an interrupted run continues. If you replace
a photograph, delete its file there.
"""

import argparse
import json
from pathlib import Path

import torch
from coco_file import run_lengths, write_coco
from PIL import Image, ImageOps
from transformers import Sam3Model, Sam3Processor

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("photos", type=Path)
parser.add_argument("names", nargs="+")
parser.add_argument("--output", type=Path, default="sam3.json")
parser.add_argument("--model", default="facebook/sam3")
options = parser.parse_args()

DONE = options.output.with_suffix("")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
processor = Sam3Processor.from_pretrained(options.model)
model = Sam3Model.from_pretrained(options.model).to(DEVICE).eval()
prompts = {name: processor(text=name, return_tensors="pt").to(DEVICE) for name in options.names}


@torch.inference_mode()
def segment(image):
    """Returns name, score and run lengths of each instance in an image of Pillow.

    The backbone runs once, and the other parts once for each name. Scores and masks are those of
    `post_process_instance_segmentation` in transformers: the score is that of the mask times that
    of the presence of the name in the image.
    """
    pixels, instances = processor(images=image, return_tensors="pt").pixel_values, []
    features = model.get_vision_features(pixels.to(DEVICE))
    for name, prompt in prompts.items():
        found = model(vision_embeds=features, **prompt)
        scores = (found.pred_logits.sigmoid() * found.presence_logits.sigmoid())[0]
        for i in torch.nonzero(scores > 0.3).flatten().tolist():  # one at a time in full size
            mask = found.pred_masks[:, i : i + 1].sigmoid()
            mask = torch.nn.functional.interpolate(mask, image.size[::-1], mode="bilinear")
            instances.append((name, scores[i].item(), run_lengths((mask[0, 0] > 0.5).cpu())))
    return instances


def segment_all():
    """Yields file name, height, width and instances of each photograph."""
    for path in sorted(options.photos.rglob("*")):
        if path.suffix.lower() not in (".jpeg", ".jpg", ".png", ".webp"):
            continue
        name = path.relative_to(options.photos).as_posix()
        done = DONE / f"{name}.json"
        kept = json.loads(done.read_text()) if done.exists() else {}
        if kept.get("names") != options.names:
            try:
                image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            except OSError as error:
                print(f"skipped {path}: {error}")
                continue
            size = image.size[::-1]
            kept = {"names": options.names, "image": [name, *size, segment(image)]}
            done.parent.mkdir(parents=True, exist_ok=True)
            done.with_suffix(".part").write_text(json.dumps(kept))
            done.with_suffix(".part").replace(done)
        yield kept["image"]


write_coco(options.output, segment_all())
