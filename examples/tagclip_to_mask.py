"""The whole method in one file: a photograph and names of classes in, a mask out.

No label is used. Read it from top to bottom, like a paper; :func:`main` at the end calls the steps:

1. a frozen CLIP embeds names and the photograph;
2. TagCLIP says which classes are there (Lin et al., AAAI 2024, arXiv 2312.12828);
3. CLIP-ES says where (Lin et al., CVPR 2023, arXiv 2212.09506);
4. a dense CRF draws their outlines (Krähenbühl and Koltun, NIPS 2011).

It is written to be read: one class, one crop and one tag at a time, in float32 on a CPU. It
computes what the package does with ``dataset=demo compat=released runtime.precision=fp32``.
Comments that begin with "quirk" mark behaviour of the released code that its paper does not
describe (docs/method.md, section 6, has the names). The photograph is not shrunk: give one of at
most about 1,000 pixels a side. After ``make demo``, which draws the scene:

    python examples/tagclip_to_mask.py data/demo/scenes/v1/val/00000.png mask.png
    python examples/tagclip_to_mask.py cat.jpg mask.png --model ViT-B-16-quickgelu \\
      --checkpoint openai --classes cat person cup --backgrounds grass wall sky

Notation, as in docs/method.md: h×w patches of P×P pixels, N = h·w; T = 1 + N tokens of width D,
the class token first; blocks 1 to L; embeddings of E numbers; C names, of which the first n are
classes and the others backgrounds; K tags, M backgrounds. S⁰, S¹ and S² are the N×C scores of
TagCLIP: coarse, and refined with its first mask and with both.
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
from scipy import ndimage
from torch import Tensor, nn

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo" / "clip.safetensors"
CLASSES = "disc square triangle star heart ring cross crescent arrow hexagon".split()
BACKGROUNDS = "grass gravel brick sky sand water".split()

# The constants of TagCLIP's released code; α, the votes and the blocks are also in its paper.
STARTS = "there is a", "there is the", "this is a", "this is the", "this is one"
SCENES = [f"{start} {{}} in the scene." for start in STARTS]
TAG_PROMPTS = [*(prompt("{}") for prompt in open_clip.OPENAI_IMAGENET_TEMPLATES), *SCENES]
ALPHA = 0.5  # α of both thresholds: which classes get a crop, and which are tags
VOTES = 4  # of L blocks, for an entry of the first mask of DMAR
DMAR_BLOCKS = slice(-4, -1)  # L−3 to L−1
OBJECT = 0.5  # scaled score of a patch that shows the object

# Those of CLIP-ES's released code, also in its paper.
CAM_PROMPTS = ["a clean origami {}."]
AFFINITY_BLOCKS = slice(-8, -1)  # L−7 to L−1
BOX_THRESHOLD = 0.4
SINKHORN_ROUNDS = 3
SMOOTHNESS = {"sxy": 1, "compat": 3}  # of the CRF: deviation in pixels, and weight
APPEARANCE = {"sxy": 67, "srgb": 3, "compat": 4}  # and deviation in colour
CRF_ITERATIONS = 10
CAFFE_MEAN = 104.008, 116.669, 122.675  # of ImageNet, in the order BGR


# 1. CLIP


def load_clip(model: str | None, checkpoint: str | None) -> tuple[nn.Module, Callable]:
    """Returns a CLIP with a ViT, and its tokenizer; without a name that of the demo.

    ``checkpoint`` is a word that open_clip knows, or a file. OpenAI's weights need a model whose
    name ends in -quickgelu. Pixels are normalised as in OpenAI's training, whatever the model.
    """
    if model is None:
        build = open_clip.model.build_model_from_openai_state_dict
        clip = build(load_file(DEMO), cast_dtype=torch.float32)
    else:
        clip = open_clip.create_model(model, pretrained=checkpoint)
    clip = clip.float().eval().requires_grad_(requires_grad=False)
    return clip, open_clip.get_tokenizer(model or "ViT-B-16")  # which all of OpenAI's CLIPs share


def embed(clip: nn.Module, tokenizer: Callable, name: str, prompts: Sequence[str]) -> Tensor:
    """Embeds a name: the mean over prompts (CLIP, section 3.1.4); a unit vector of E."""
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
    """Returns the tokens that enter the first block, 1×T×D, of 3×hP×wP pixels."""
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
    return found.half().float()  # quirk position_fp16: if stretched, all are rounded


def run_block(
    block: nn.Module, tokens: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Runs a block; returns its tokens and its attention, T×T, the mean over heads.

    ``bias``, T×T, is added to the logits of the attention.
    """
    normed = block.ln_1(tokens)
    attended, attention = block.attn(normed, normed, normed, need_weights=True, attn_mask=bias)
    tokens = tokens + attended
    return tokens + block.mlp(block.ln_2(tokens)), attention[0]


def run_backbone(clip: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the tokens that enter block L, 1×T×D, and the attention between patches, L×N×N.

    Block L runs for its attention alone.
    """
    attentions = []
    tokens = to_tokens(clip, pixels)
    *blocks, last = clip.visual.transformer.resblocks
    for block in blocks:
        tokens, attention = run_block(block, tokens)
        attentions.append(attention[1:, 1:])
    attentions.append(run_block(last, tokens)[1][1:, 1:])
    return tokens, torch.stack(attentions)


def classify(clip: nn.Module, tokens: Tensor, text: Tensor) -> Tensor:
    """Returns the probabilities of C names, a softmax over them, for each of the tokens: …×C."""
    features = F.normalize(clip.visual.ln_post(tokens) @ clip.visual.proj, dim=-1)
    return (clip.logit_scale.exp() * features @ text.T).softmax(-1)


# Boxes, which TagCLIP and CLIP-ES draw around strong regions


def min_max(values: np.ndarray) -> np.ndarray:
    """Scales an array to [0, 1]; a constant one becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def union_of_boxes(scaled: np.ndarray, threshold: float) -> np.ndarray:
    """Marks the boxes around the 8-connected regions above a share, ``threshold``, of the peak.

    Takes h×w numbers in [0, 1], and returns h×w bool.
    """
    levels = (scaled * 255).astype(np.uint8)
    union = np.zeros(scaled.shape, bool)
    regions, _ = ndimage.label(levels > int(float(threshold) * levels.max()), np.ones((3, 3)))
    for top, left, bottom, right in boxes_of(regions):
        union[top:bottom, left:right] = True
    return union


def boxes_of(regions: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Yields the box of each region 1, 2, …: top, left, and the row and column after its last."""
    h, w = regions.shape
    for rows, columns in ndimage.find_objects(regions):
        # quirk open_border: a box at the lower or right border loses its last row or column.
        yield rows.start, columns.start, min(rows.stop, h - 1), min(columns.stop, w - 1)


# 2. TagCLIP: which classes are there


def score_classes(clip: nn.Module, pixels: Tensor, text: Tensor, num_classes: int) -> np.ndarray:
    """Scores n classes in [0, 1], n float32.

    ``pixels`` are 3×hP×wP; ``text`` is C×E, of the classes and then of the backgrounds.
    """
    tokens, attentions = run_backbone(clip, pixels)
    coarse = classify(clip, value_features(clip, tokens)[0, 1:], text)
    grid = [side // clip.visual.patch_size[0] for side in pixels.shape[1:]]
    refined = refine_scores(attentions, coarse, grid)
    scores = refined.amax(0)[:num_classes]
    for c, crop, inside in propose_crops(clip, pixels, refined, num_classes):
        scores[c] = (scores[c] + classify_crop(clip, crop, inside, text)[c]) / 2
    return scores.numpy()


def value_features(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Runs block L with every token attending to itself alone; 1×T×D.

    CLIP is trained to gather the image in the class token, so its last attention blurs the patches
    (TagCLIP, patch-level classification).
    """
    itself = torch.full((tokens.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    return run_block(clip.visual.transformer.resblocks[-1], tokens, itself)[0]


def refine_scores(attentions: Tensor, coarse: Tensor, grid: Sequence[int]) -> Tensor:
    """Sums the coarse scores, N×C, over the patches that each patch attends to.

    They are weighted by the attention: TagCLIP's dual-masking attention refinement (DMAR). The
    first mask keeps entries that exceed the mean of their block in at least four of the L blocks;
    rows are not renormalised. The second, for each name, keeps the boxes around patches whose
    scores are high.
    """
    above = attentions > attentions.mean((1, 2), keepdim=True)
    attention = attentions[DMAR_BLOCKS].mean(0) * (above.sum(0) >= VOTES)
    once = attention @ coarse  # S¹ = A·S⁰
    refined = torch.zeros_like(once)  # S²
    for c, scores in enumerate(once.T):
        scaled = min_max(scores.view(*grid).numpy())
        # Scaled scores have a peak of 1, so that their mean is also a share of the peak.
        boxes = union_of_boxes(scaled, scaled.mean())
        refined[:, c] = attention @ (coarse[:, c] * torch.from_numpy(boxes).flatten())
    return refined


def propose_crops(
    clip: nn.Module, pixels: Tensor, scores: Tensor, num_classes: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields a crop for each class that may be there (class-wise reidentification, CWR).

    That is c; the crop, 3×S×S, S×S being the image size of CLIP's training; and S/P×S/P bool, true
    for patches that show the object.
    """
    patch, size = clip.visual.patch_size[0], clip.visual.image_size[0]
    low, high = scores.min(), scores.max()
    for c in range(num_classes):
        if scores[:, c].max() <= low + ALPHA * (high - low):
            continue
        h, w = (side // patch for side in pixels.shape[1:])
        is_object = min_max(scores[:, c].view(h, w).numpy()) > OBJECT
        [(top, left, bottom, right)] = boxes_of(is_object.astype(int))  # of all such patches
        if bottom <= top or right <= left:  # by open_border alone
            break  # quirk cwr_stop: an empty box ends the loop, for later classes, too
        inside = torch.from_numpy(is_object[top:bottom, left:right]).float()[None, None]
        cut = pixels[None, :, top * patch : bottom * patch, left * patch : right * patch]
        crop = F.interpolate(cut, size, mode="bilinear", align_corners=False)[0]
        yield c, crop, F.interpolate(inside, size // patch, mode="nearest")[0, 0] > 0


def classify_crop(clip: nn.Module, crop: Tensor, inside: Tensor, text: Tensor) -> Tensor:
    """Classifies a crop by the whole CLIP: probabilities of C names.

    The class token attends only to itself and to the patches of the object.
    """
    tokens = to_tokens(clip, crop)
    bias = torch.zeros((tokens.shape[1],) * 2)
    bias[0, 1:][~inside.flatten()] = -1000
    for block in clip.visual.transformer.resblocks:
        tokens, _ = run_block(block, tokens, bias)
    return classify(clip, tokens[0, 0], text)


def choose_tags(scores: np.ndarray) -> list[int]:
    """Returns the classes above min + α·(max − min) of an image's scores; at least the best."""
    chosen = np.flatnonzero(scores > scores.min() + ALPHA * (scores.max() - scores.min()))
    return chosen.tolist() if len(chosen) else [int(scores.argmax())]


# 3. CLIP-ES: where they are


def activation_maps(
    clip: nn.Module, pixels: Tensor, tags: Tensor, backgrounds: Tensor
) -> np.ndarray:
    """Returns a class activation map for each of K tags, K×h×w float32 in [0, 1].

    Embeddings of the tags are K×E, those of the backgrounds M×E.
    """
    # Again, for clarity; the package shares this pass.
    tokens, attentions = run_backbone(clip, pixels)
    grid = [side // clip.visual.patch_size[0] for side in pixels.shape[1:]]
    spread = affinity(attentions[AFFINITY_BLOCKS].mean(0))
    text = torch.cat([tags, backgrounds])
    maps = []
    for k in range(len(tags)):
        cam = softmax_gradcam(clip, tokens, text, k)
        boxes = union_of_boxes(cam.view(*grid).numpy(), BOX_THRESHOLD)
        maps.append(normalise(spread @ (cam * torch.from_numpy(boxes).flatten())).view(*grid))
    return torch.stack(maps).numpy()


def softmax_gradcam(clip: nn.Module, tokens: Tensor, text: Tensor, k: int) -> Tensor:
    """Returns the CAM of tag k in [0, 1], N (CLIP-ES, section 3.2: softmax-GradCAM).

    The score is a probability among tags and backgrounds, ``text``, so that similar names suppress
    each other; the target layer is the first layer norm of block L.
    """
    block = clip.visual.transformer.resblocks[-1]
    with torch.enable_grad():
        normed = block.ln_1(tokens).requires_grad_()
        tokens = tokens + block.attn(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + block.mlp(block.ln_2(tokens))
        # The mean of the patches stands for the image; it is taken before the projection.
        image = F.normalize(clip.visual.ln_post(tokens)[0, 1:].mean(0) @ clip.visual.proj, dim=-1)
        probability = (clip.logit_scale.exp() * text @ image).softmax(0)[k]
        [gradient] = torch.autograd.grad(probability, normed)
    weights = gradient[0, 1:].mean(0)  # of D channels
    cam = torch.relu(normed[0, 1:].detach() @ weights)
    return normalise(normalise(cam))  # twice, as released: the peak is then always 254 of 255


def affinity(attention: Tensor) -> Tensor:
    """Returns which patches belong together, N×N, from an attention (CLIP-ES, section 3.4)."""
    for _ in range(SINKHORN_ROUNDS):  # towards rows and columns of sum 1
        attention = attention / attention.sum(0, keepdim=True)
        attention = attention / attention.sum(1, keepdim=True)
    symmetric = (attention + attention.T) / 2
    return symmetric @ symmetric


def normalise(cam: Tensor) -> Tensor:
    """Scales a CAM to [0, 1) as the released code does, by its peak + 1e-7."""
    cam = cam - cam.min()
    return cam / (1e-7 + cam.max())


# 4. The mask


def draw_mask(image: np.ndarray, cams: np.ndarray, tags: Sequence[int]) -> np.ndarray:
    """Labels the pixels of the original image, H×W×3 uint8, by K CAMs: H×W uint8, 0 or class + 1.

    The score of the background is 1 − max cam; the CRF aligns all scores with edges.
    """
    height, width, _ = image.shape
    stored = torch.from_numpy(cams).half().float()  # the package stores float16
    enlarged = F.interpolate(stored[None], (height, width), mode="bilinear")[0].numpy()
    enlarged = enlarged.astype(np.float16)  # quirk crf_fp16: float16, the logarithm included
    scores = np.concatenate([1 - enlarged.max(0, keepdims=True), enlarged])
    unary = -np.log(scores.clip(1e-5, 1)).astype(np.float32)
    # quirk crf_bgr: BGR minus a mean; negative values wrap around when they become bytes
    compared = image[..., ::-1] - np.array(CAFFE_MEAN, np.float32)
    compared = np.ascontiguousarray(compared.astype(np.int32).astype(np.uint8))
    crf = densecrf.DenseCRF2D(width, height, len(scores))
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(scores), -1)))
    crf.addPairwiseGaussian(**SMOOTHNESS)
    crf.addPairwiseBilateral(rgbim=compared, **APPEARANCE)
    best = np.array(crf.inference(CRF_ITERATIONS)).argmax(0).reshape(height, width)
    return np.array([0, *(k + 1 for k in tags)], np.uint8)[best]


def voc_palette() -> list[int]:
    """Returns PASCAL VOC's 256 colours, RGB: bits of the label, the lowest in the highest bits."""
    colours = []
    for index in range(256):
        bits = [[index >> 3 * i + channel & 1 for i in range(8)] for channel in range(3)]
        colours += [sum(bit << 7 - i for i, bit in enumerate(each)) for each in bits]
    return colours


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
        pixels = to_pixels(clip, image)
        names, count = [*given.classes, *given.backgrounds], len(given.classes)

        text = torch.stack([embed(clip, tokenizer, name, TAG_PROMPTS) for name in names])
        scores = score_classes(clip, pixels, text, count)
        tags = choose_tags(scores)
        print("tags:", ", ".join(f"{given.classes[k]} {scores[k]:.3f}" for k in tags))

        text = torch.stack([embed(clip, tokenizer, name, CAM_PROMPTS) for name in names])
        cams = activation_maps(clip, pixels, text[tags], text[count:])  # other classes are left out
    mask = Image.fromarray(draw_mask(np.array(image), cams, tags))
    mask.putpalette(voc_palette())
    mask.save(given.mask)


if __name__ == "__main__":
    main()
