"""The same methods written plainly: one image, one class, one crop and one tag at a time.

This is how the reference implementations do it, with open_clip's own modules: the attentions of all
blocks are kept, every class has matrix products of its own, every crop and every tag a pass of its
own. The benchmark measures against it, and tests compare our results with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock

from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.architectures import ClipModel
from pipeline.clip.compute.boxes import minmax_scale, union_of_boxes
from pipeline.clip.encoder import ClipEncoder
from pipeline.tags.reidentification import Proposal
from pipeline.tags.tagclip.method import TagClip


def embed_name(
    clip: ClipModel, tokenizer: Callable, name: str, templates: Sequence[str]
) -> torch.Tensor:
    """Embeds one name by its prompts, in the whole context: E float32, of length 1."""
    with torch.no_grad():
        tokens = tokenizer([template.format(name) for template in templates])
        features = F.normalize(clip.encode_text(tokens), dim=-1)
        return F.normalize(features.mean(0), dim=-1)


def _see(
    encoder: ClipEncoder, image: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Returns pixels, the tokens that enter block L, and all blocks' attentions between patches."""
    pixels = encoder.prepare(image)[None]
    x = encoder.embed_patches(pixels)
    attentions = []
    *blocks, last = encoder.tower.blocks
    for block in blocks:
        x, weights = _block(block, x)
        attentions.append(weights[:, 1:, 1:])
    normed = last.ln_1(x)
    _, weights = last.attn(normed, normed, normed, need_weights=True)
    return pixels, x, [*attentions, weights[:, 1:, 1:]]


def tag(encoder: ClipEncoder, tagger: TagClip, image: np.ndarray) -> np.ndarray:
    """Scores the classes of an image, H×W×3 uint8, as TagCLIP does with ``open_border``: n float32.

    ``tagger`` has the class embeddings and the constants, and cuts the crops of CWR.
    """
    text, window = tagger.text, tagger.window
    with torch.no_grad():
        pixels, x, attentions = _see(encoder, image)
        grid = tuple(side // encoder.patch_size for side in pixels.shape[-2:])
        last, count = encoder.tower.blocks[-1], x.shape[1]
        itself = torch.full((count, count), -100.0, device=x.device).fill_diagonal_(0)
        coarse = _classify(encoder, _block(last, x, itself)[0][0, 1:], text)
        stacked = torch.cat(attentions)
        means = stacked.flatten(1).mean(1).view(-1, 1, 1).repeat(1, *stacked.shape[1:])
        mask = (stacked > means).float().sum(0) >= tagger.options.votes
        attention = stacked[window.start - 1 : window.stop - 1].mean(0) * mask.float()
        first = attention @ coarse
        refined = first.clone()
        for k in range(first.shape[1]):
            if first[:, k].max() > 0:
                scaled = minmax_scale(first[:, k].reshape(grid).cpu().numpy())
                box = union_of_boxes(scaled, float(scaled.mean()), open_border=True)
                of_class = attention * torch.from_numpy(box).to(attention).view(1, -1)
                refined[:, k] = (of_class @ coarse[:, k : k + 1])[:, 0]
        scores = refined.amax(0)[: tagger.num_classes]
        for proposal in tagger.cwr.propose(pixels[0], refined.cpu().numpy()):
            probability = _look_again(encoder, text, proposal)
            k = proposal.class_index
            scores[k] = 0.5 * scores[k] + 0.5 * probability
        return scores.cpu().numpy()


def cams(
    encoder: ClipEncoder, method: ClipEs, image: np.ndarray, tags: Sequence[int]
) -> np.ndarray:
    """Returns CLIP-ES's refined CAMs of K tags with the quirk ``open_border``: K×h×w float32.

    The image is H×W×3 uint8; ``method`` has the class embeddings and the constants.
    """
    text = torch.cat([method.class_text[list(tags)], method.background_text])
    threshold = method.options.box_threshold
    with torch.no_grad():
        pixels, x, attentions = _see(encoder, image)
    grid = tuple(side // encoder.patch_size for side in pixels.shape[-2:])
    last = encoder.tower.blocks[-1]
    found = []
    for k in range(len(tags)):
        normed = last.ln_1(x).detach().requires_grad_()
        attended = last.attn(normed, normed, normed, need_weights=True)[0]
        y = x + attended
        y = encoder.tower.norm_after(y + last.mlp(last.ln_2(y)))
        feature = F.normalize(y[0, 1:].mean(0) @ encoder.tower.projection, dim=0)
        (encoder.temperature * text @ feature).softmax(0)[k].backward()
        weight, patches = normed.grad[0, 1:].mean(0), normed[0, 1:].detach()
        cam = _normalise(_normalise(torch.relu(patches @ weight)))
        affinity = torch.stack([attentions[b - 1][0] for b in method.blocks]).mean(0)
        for _ in range(3):
            affinity = affinity / affinity.sum(0, keepdim=True)
            affinity = affinity / affinity.sum(1, keepdim=True)
        affinity = (affinity + affinity.T) / 2
        affinity = affinity @ affinity
        box = union_of_boxes(cam.reshape(grid).cpu().numpy(), threshold, open_border=True)
        affinity = affinity * torch.from_numpy(box).to(affinity).view(1, -1)
        found.append(_normalise(affinity @ cam).reshape(grid).cpu().numpy())
    return np.stack(found)


def _block(
    block: ResidualAttentionBlock, x: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    normed = block.ln_1(x)
    attended, weights = block.attn(normed, normed, normed, need_weights=True, attn_mask=mask)
    x = x + block.ls_1(attended)
    return x + block.ls_2(block.mlp(block.ln_2(x))), weights


def _look_again(encoder: ClipEncoder, text: torch.Tensor, proposal: Proposal) -> float:
    x = encoder.embed_patches(proposal.crop[None])
    mask = torch.zeros(x.shape[1], x.shape[1], device=x.device)
    mask[0, 1:] = torch.where(proposal.inside.to(x.device).flatten(), 0.0, -1000.0)
    for block in encoder.tower.blocks:
        x, _ = _block(block, x, mask)
    return float(_classify(encoder, x[0, :1], text)[0, proposal.class_index])


def _classify(encoder: ClipEncoder, tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    features = F.normalize(encoder.tower.norm_after(tokens) @ encoder.tower.projection, dim=-1)
    return (encoder.temperature * features @ text.T).softmax(-1)


def _normalise(cam: torch.Tensor) -> torch.Tensor:
    cam = cam - cam.min()
    return cam / (1e-7 + cam.max())
