"""The whole method in one file: a photograph and names of classes in, a mask out.

No label is used. It reads downward, as the papers do:

1. a frozen CLIP embeds names and looks at the photograph;
2. TagCLIP says which classes are there (Lin et al., AAAI 2024, arXiv 2312.12828);
3. CLIP-ES says where (Lin et al., CVPR 2023, arXiv 2212.09506);
4. a dense CRF draws their outlines (Krähenbühl and Koltun, NIPS 2011).

It is written to be read: one class, one crop and one tag at a time, in float32 on a CPU. It
computes what the package does with ``compat=released``. A comment that begins with "quirk" marks
what the released code does, and its paper does not say.

    python examples/tagclip_to_mask.py data/demo/scenes/v1/val/00000.png mask.png
    python examples/tagclip_to_mask.py cat.jpg mask.png --model ViT-B-16-quickgelu \\
      --checkpoint openai --classes cat person cup --backgrounds grass wall sky

Notation: h×w patches of P pixels on a side, N = h·w; T = 1 + N tokens of width D, the first of the
class; L blocks; E numbers in an embedding; C names, of which the first n are classes.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import pydensecrf.densecrf as densecrf
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from scipy.ndimage import find_objects, label
from torch import Tensor, nn

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo" / "clip.safetensors"
CLASSES = "disc square triangle star heart ring cross crescent arrow hexagon".split()
BACKGROUNDS = "grass gravel brick sky sand water".split()
STARTS = "there is a", "there is the", "this is a", "this is the", "this is one"
SCENES = [f"{start} {{}} in the scene." for start in STARTS]
TAG_PROMPTS = [*(prompt("{}") for prompt in open_clip.OPENAI_IMAGENET_TEMPLATES), *SCENES]
CAM_PROMPTS = ["a clean origami {}."]
ALPHA = 0.5  # α of TagCLIP's thresholds


# 1. CLIP


def load_clip(model: str | None, checkpoint: str | None) -> tuple[nn.Module, Callable]:
    """Returns a CLIP with a ViT, and its tokenizer; without a name that of the demo.

    ``checkpoint`` is a word that open_clip knows, or a file. OpenAI's weights need the models whose
    names end in -quickgelu.
    """
    if model is None:
        build = open_clip.model.build_model_from_openai_state_dict
        clip = build(load_file(DEMO), cast_dtype=torch.float32)
    else:
        clip = open_clip.create_model(model, pretrained=checkpoint)
    clip = clip.float().eval().requires_grad_(requires_grad=False)
    return clip, open_clip.get_tokenizer(model or "ViT-B-16")


def embed(clip: nn.Module, tokenizer: Callable, name: str, prompts: Sequence[str]) -> Tensor:
    """Embeds a name: the mean over prompts (CLIP, section 3.1.4); E, of length 1."""
    features = clip.encode_text(tokenizer([prompt.format(name) for prompt in prompts]))
    return F.normalize(F.normalize(features, dim=-1).mean(0), dim=-1)


def to_pixels(clip: nn.Module, image: Image.Image) -> Tensor:
    """Resizes an image to whole patches, rounded up, and normalises it: 3×hP×wP."""
    patch = clip.visual.patch_size[0]
    width, height = (-(-side // patch) * patch for side in image.size)
    resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(resized).permute(2, 0, 1).float() / 255
    of_openai = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in of_openai)
    return (pixels - mean) / std


def to_tokens(clip: nn.Module, pixels: Tensor) -> Tensor:
    """Returns the tokens that enter the first block, 1×T×D, of 3×H×W pixels."""
    visual = clip.visual
    patches = visual.conv1(pixels[None])
    tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches.flatten(2).mT], 1)
    return visual.ln_pre(tokens + positions(visual.positional_embedding, *patches.shape[2:]))


def positions(trained: Tensor, h: int, w: int) -> Tensor:
    """Stretches the position embeddings of a square of patches to h×w; T×D."""
    side = int((len(trained) - 1) ** 0.5)
    if (h, w) == (side, side):
        return trained
    square = trained[1:].T.unflatten(1, (side, side))[None]
    stretched = F.interpolate(square, (h, w), mode="bilinear", align_corners=False)
    found = torch.cat([trained[:1], stretched[0].flatten(1).T])
    return found.half().float()  # quirk position_fp16: stretched ones are rounded


def run(block: nn.Module, tokens: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Runs a block; returns its tokens and its attention, T×T, the mean over heads.

    ``bias``, T×T, is added to the logits of the attention.
    """
    normed = block.ln_1(tokens)
    attended, attention = block.attn(normed, normed, normed, need_weights=True, attn_mask=bias)
    tokens = tokens + attended
    return tokens + block.mlp(block.ln_2(tokens)), attention[0]


def look(clip: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the tokens that enter block L, and the attention of all blocks among patches.

    They are 1×T×D and L×N×N; the attention that block L would have is among them.
    """
    tokens, attentions = to_tokens(clip, pixels), []
    *blocks, last = clip.visual.transformer.resblocks
    for block in blocks:
        tokens, attention = run(block, tokens)
        attentions.append(attention[1:, 1:])
    attentions.append(run(last, tokens)[1][1:, 1:])
    return tokens, torch.stack(attentions)


def classify(clip: nn.Module, tokens: Tensor, text: Tensor) -> Tensor:
    """Returns the probabilities of C names, a softmax over them, for each of the tokens: …×C."""
    features = F.normalize(clip.visual.ln_post(tokens) @ clip.visual.proj, dim=-1)
    return (clip.logit_scale.exp() * features @ text.T).softmax(-1)


# 2. TagCLIP: which classes are there


def score_classes(
    clip: nn.Module, pixels: Tensor, text: Tensor, num_classes: int, propose: Callable
) -> np.ndarray:
    """Scores n classes in [0, 1], n float32.

    ``pixels`` are 3×hP×wP; ``text`` is C×E, of the classes and then of the backgrounds; ``propose``
    is :func:`propose_crops`.
    """
    tokens, attentions = look(clip, pixels)
    coarse = classify(clip, run_alone(clip, tokens)[0, 1:], text)
    grid = [side // clip.visual.patch_size[0] for side in pixels.shape[1:]]
    refined = refine_scores(attentions, coarse, grid)
    scores = refined.amax(0)[:num_classes]
    for k, crop, inside in propose(clip, pixels, refined, num_classes):
        scores[k] = (scores[k] + look_again(clip, crop, inside, text)[k]) / 2
    return scores.numpy()


def run_alone(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Runs block L with every token attending to itself alone (section 3.2); 1×T×D.

    CLIP was trained to gather the image in the class token, so that its last attention blurs what
    the patches know.
    """
    itself = torch.full((tokens.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    return run(clip.visual.transformer.resblocks[-1], tokens, itself)[0]


def refine_scores(attentions: Tensor, coarse: Tensor, grid: Sequence[int]) -> Tensor:
    """Averages scores of patches, N×C, over the patches that they attend to (DMAR, section 3.3).

    The first mask keeps entries of the attention that at least four of all L blocks have above
    their mean. The second, for each class, keeps the boxes around patches of high scores.
    """
    above = attentions > attentions.mean((1, 2), keepdim=True)
    attention = attentions[-4:-1].mean(0) * (above.sum(0) >= 4)  # blocks L−3 to L−1
    first = attention @ coarse
    refined = torch.zeros_like(first)
    for k, scores in enumerate(first.T):
        scaled = scale(scores.view(*grid).numpy())
        boxes = union_of_boxes(scaled, scaled.mean()) if scaled.any() else np.zeros(grid, bool)
        refined[:, k] = attention @ (coarse[:, k] * torch.from_numpy(boxes).flatten())
    return refined


def propose_crops(
    clip: nn.Module, pixels: Tensor, scores: Tensor, num_classes: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields a crop for each class that may be there (CWR, section 3.4).

    A class, its crop, 3×S×S in CLIP's own size, and which of its patches show the object, bool.
    """
    patch, size = clip.visual.patch_size[0], clip.visual.image_size[0]
    low, high = scores.min(), scores.max()
    for k in range(num_classes):
        if scores[:, k].max() <= low + ALPHA * (high - low):
            continue
        h, w = (side // patch for side in pixels.shape[1:])
        is_object = scale(scores[:, k].view(h, w).numpy()) > 0.5
        [(top, left, bottom, right)] = boxes_of(is_object.astype(int))
        if bottom <= top or right <= left:
            break  # quirk cwr_stop: an empty box ends the loop, for later classes, too
        inside = torch.from_numpy(is_object[top:bottom, left:right]).float()[None, None]
        cut = pixels[None, :, top * patch : bottom * patch, left * patch : right * patch]
        crop = F.interpolate(cut, size, mode="bilinear", align_corners=False)[0]
        yield k, crop, F.interpolate(inside, size // patch, mode="nearest")[0, 0] > 0


def look_again(clip: nn.Module, crop: Tensor, inside: Tensor, text: Tensor) -> Tensor:
    """Classifies a crop by the whole CLIP, whose class token sees the object's patches alone; C."""
    tokens = to_tokens(clip, crop)
    bias = torch.zeros((tokens.shape[1],) * 2)
    bias[0, 1:][~inside.flatten()] = -torch.inf
    for block in clip.visual.transformer.resblocks:
        tokens, _ = run(block, tokens, bias)
    return classify(clip, tokens[0, 0], text)


def choose_tags(scores: np.ndarray) -> list[int]:
    """Returns the classes above min + α·(max − min) of an image's scores; at least the best."""
    chosen = np.flatnonzero(scores > scores.min() + ALPHA * (scores.max() - scores.min()))
    return (chosen if len(chosen) else [scores.argmax()]).tolist()


def scale(values: np.ndarray) -> np.ndarray:
    """Scales an array to [0, 1]; a constant one becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def union_of_boxes(scaled: np.ndarray, threshold: float) -> np.ndarray:
    """Marks the boxes around the regions, 8-connected, above a share of the peak; h×w bool."""
    levels = (scaled * 255).astype(np.uint8)
    union = np.zeros(scaled.shape, bool)
    regions, _ = label(levels > int(float(threshold) * levels.max()), np.ones((3, 3)))
    for top, left, bottom, right in boxes_of(regions):
        union[top:bottom, left:right] = True
    return union


def boxes_of(regions: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Yields the box of each region 1, 2, …: top, left, and the row and column after its last."""
    h, w = regions.shape
    for rows, columns in find_objects(regions):
        # Quirk open_border: a box at the lower or right border loses its last row or column.
        yield rows.start, columns.start, min(rows.stop, h - 1), min(columns.stop, w - 1)


# 3. CLIP-ES: where they are


def activation_maps(
    clip: nn.Module, pixels: Tensor, tags: Tensor, backgrounds: Tensor
) -> np.ndarray:
    """Returns a class activation map for each of K tags, K×h×w float32 in [0, 1].

    Embeddings of the tags are K×E, those of the backgrounds M×E.
    """
    tokens, attentions = look(clip, pixels)
    grid = [side // clip.visual.patch_size[0] for side in pixels.shape[1:]]
    spread = affinity(attentions[-8:-1].mean(0))  # blocks L−7 to L−1
    text, maps = torch.cat([tags, backgrounds]), []
    for k in range(len(tags)):
        cam = softmax_gradcam(clip, tokens, text, k)
        boxes = union_of_boxes(cam.view(*grid).numpy(), 0.4)
        maps.append(normalise(spread @ (cam * torch.from_numpy(boxes).flatten())).view(*grid))
    return torch.stack(maps).numpy()


def softmax_gradcam(clip: nn.Module, tokens: Tensor, text: Tensor, k: int) -> Tensor:
    """Returns the CAM of name k in [0, 1], N (softmax-GradCAM, section 3.2).

    The score is a probability among tags and backgrounds, so that similar names suppress each
    other; the features are what the first layer norm of block L gives.
    """
    block = clip.visual.transformer.resblocks[-1]
    with torch.enable_grad():
        normed = block.ln_1(tokens).requires_grad_()
        tokens = tokens + block.attn(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + block.mlp(block.ln_2(tokens))
        # The mean of the patches stands for the image.
        image = F.normalize(clip.visual.ln_post(tokens)[0, 1:].mean(0) @ clip.visual.proj, dim=-1)
        probability = (clip.logit_scale.exp() * text @ image).softmax(0)[k]
        [gradient] = torch.autograd.grad(probability, normed)
    weights = gradient[0, 1:].mean(0)  # of D channels
    return normalise(normalise(torch.relu(normed[0, 1:].detach() @ weights)))


def affinity(attention: Tensor) -> Tensor:
    """Returns which patches belong together, N×N, of an attention (section 3.4)."""
    for _ in range(3):  # Sinkhorn: rows and columns of sum 1
        attention = attention / attention.sum(0, keepdim=True)
        attention = attention / attention.sum(1, keepdim=True)
    symmetric = (attention + attention.T) / 2
    return symmetric @ symmetric


def normalise(cam: Tensor) -> Tensor:
    """Scales a CAM to [0, 1]."""
    cam = cam - cam.min()
    return cam / (1e-7 + cam.max())


# 4. The mask


def draw_mask(image: np.ndarray, cams: np.ndarray, tags: Sequence[int]) -> np.ndarray:
    """Labels the pixels of an image, H×W×3 uint8, by K CAMs: H×W uint8, 0 or class + 1.

    The background scores 1 − max cam; the CRF aligns all scores with edges.
    """
    height, width, _ = image.shape
    stored = torch.from_numpy(cams.astype(np.float16).astype(np.float32))  # as in their file
    enlarged = F.interpolate(stored[None], (height, width), mode="bilinear")[0].numpy()
    enlarged = enlarged.astype(np.float16)  # quirk crf_fp16: to the logarithm in float16
    scores = np.concatenate([1 - enlarged.max(0, keepdims=True).clip(max=1), enlarged])
    unary = -np.log(scores.clip(1e-5, 1)).astype(np.float32)
    # Quirk crf_bgr: BGR less a mean, whose negative numbers wrap around as bytes.
    compared = image[..., ::-1] - np.array([104.008, 116.669, 122.675], np.float32)
    compared = np.ascontiguousarray(compared.astype(np.int32).astype(np.uint8))
    crf = densecrf.DenseCRF2D(width, height, len(scores))
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(scores), -1)))
    crf.addPairwiseGaussian(sxy=1, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=compared, compat=4)
    best = np.array(crf.inference(10)).argmax(0).reshape(height, width)
    return np.array([0, *(k + 1 for k in tags)], np.uint8)[best]


def main() -> None:
    """Tags a photograph, and writes its mask as a PNG in the colours of PASCAL VOC."""
    parser = argparse.ArgumentParser(description="A photograph and names in, a mask out.")
    parser.add_argument("photograph", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--model", help="open_clip's name of a CLIP with a ViT; the demo's")
    parser.add_argument("--checkpoint", help="its weights: a word that open_clip knows, or a file")
    parser.add_argument("--classes", nargs="+", default=CLASSES)
    parser.add_argument("--backgrounds", nargs="+", default=BACKGROUNDS)
    given = parser.parse_args()
    with torch.no_grad():
        clip, tokenizer = load_clip(given.model, given.checkpoint)
        image = Image.open(given.photograph).convert("RGB")  # quirk exif: as it lies in the file
        pixels, names = to_pixels(clip, image), [*given.classes, *given.backgrounds]

        text = torch.stack([embed(clip, tokenizer, name, TAG_PROMPTS) for name in names])
        count = len(given.classes)
        scores = score_classes(clip, pixels, text, count, propose_crops)
        tags = choose_tags(scores)
        print("tags:", ", ".join(f"{given.classes[k]} {scores[k]:.3f}" for k in tags))

        text = torch.stack([embed(clip, tokenizer, name, CAM_PROMPTS) for name in names])
        cams = activation_maps(clip, pixels, text[tags], text[count:])
    mask = Image.fromarray(draw_mask(np.array(image), cams, tags))
    bits = ((k >> 3 * i + c & 1) << 7 - i for k in range(256) for c in range(3) for i in range(8))
    mask.putpalette([sum(each) for each in zip(*[bits] * 8)])
    mask.save(given.mask)


if __name__ == "__main__":
    main()
