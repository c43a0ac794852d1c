"""The dense methods written plainly from their papers: one image, one head, one patch at a time.

Each function takes open_clip's model, an image's pixels, 3×H×W float32, and the constants, and
returns the embeddings of its patches, N×E. Only open_clip's own modules do arithmetic with weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock
from skimage.segmentation import slic
from torchvision.transforms.functional import gaussian_blur

from pipeline.clip.dimensions import OPENAI_NORMALISATION as OPENAI
from pipeline.clip.encoder import ClipEncoder
from pipeline.dense.method import DenseMethod
from pipeline.dense.pixel_adaptive import pamr
from tests.tiny_second import build_dino

Head = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, keys and values of a head, each T×d."""


def grid_of(clip: CLIP, pixels: torch.Tensor) -> tuple[int, int]:
    patch = clip.visual.patch_size[0]
    return pixels.shape[1] // patch, pixels.shape[2] // patch


def cells_of(grid: tuple[int, int]) -> list[tuple[int, int]]:
    return list(product(range(grid[0]), range(grid[1])))


def tokens_of(clip: CLIP, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Returns x_0 to x_{L−1}, the tokens that enter each block: (1+N)×D, the class token first."""
    visual, side = clip.visual, clip.visual.grid_size[0]
    embedding = visual.positional_embedding
    places = embedding[1:].T.reshape(1, -1, side, side)
    places = F.interpolate(places, grid_of(clip, pixels), mode="bilinear")[0].flatten(1).T
    patches = visual.conv1(pixels[None])[0].flatten(1).T + places
    x = visual.ln_pre(torch.cat([(visual.class_embedding + embedding[0])[None], patches]))
    tokens = [x]
    for block in visual.transformer.resblocks[:-1]:
        tokens.append(block(tokens[-1][None])[0])
    return tokens


def heads_of(block: ResidualAttentionBlock, x: torch.Tensor) -> list[Head]:
    packed = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    parts = [part.split(block.attn.head_dim, -1) for part in packed.chunk(3, -1)]
    return list(zip(*parts))


def project_out(block: ResidualAttentionBlock, heads: list[torch.Tensor]) -> torch.Tensor:
    return block.attn.out_proj(torch.cat(heads, -1))


def embed(clip: CLIP, y: torch.Tensor) -> torch.Tensor:
    return clip.visual.ln_post(y) @ clip.visual.proj


def weights_of(
    left: torch.Tensor,
    right: torch.Tensor,
    scale: float,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns softmax(scale · left rightᵀ + bias), row by row."""
    rows = []
    for i, row in enumerate(left):
        logits = scale * (right @ row)
        rows.append((logits if bias is None else logits + bias[i]).softmax(0))
    return torch.stack(rows)


def itself(head: Head) -> torch.Tensor:
    """Returns SCLIP's attention of a head, whose rows sum to 2."""
    q, k, _ = head
    scale = q.shape[-1] ** -0.5
    return weights_of(q, q, scale) + weights_of(k, k, scale)


def maskclip(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    block = clip.visual.transformer.resblocks[-1]
    heads = [v for _, _, v in heads_of(block, tokens_of(clip, pixels)[-1])]
    return embed(clip, project_out(block, heads))[1:]


def value_path(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    block, x = clip.visual.transformer.resblocks[-1], tokens_of(clip, pixels)[-1]
    x = x + project_out(block, [v for _, _, v in heads_of(block, x)])
    return embed(clip, x + block.mlp(block.ln_2(x)))[1:]


def as_trained(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    x = tokens_of(clip, pixels)[-1]
    return embed(clip, clip.visual.transformer.resblocks[-1](x[None])[0])[1:]


talk2dino = as_trained  # whose maps of names are compared elsewhere


def sclip(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    block, x = clip.visual.transformer.resblocks[-1], tokens_of(clip, pixels)[-1]
    x = x + project_out(block, [itself(head) @ head[2] for head in heads_of(block, x)])
    return embed(clip, x + block.mlp(block.ln_2(x)))[1:]


def clearclip(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    block, x = clip.visual.transformer.resblocks[-1], tokens_of(clip, pixels)[-1]
    heads = [weights_of(q, q, q.shape[-1] ** -0.5) @ v for q, _, v in heads_of(block, x)]
    return embed(clip, project_out(block, heads))[1:]


def omega_of(clip: CLIP, grid: tuple[int, int]) -> torch.Tensor:
    """Returns NACLIP's ω: a Gaussian of 80 pixels between patches."""
    sigma, cells = 80 / clip.visual.patch_size[0], cells_of(grid)
    omega = torch.zeros(1 + len(cells), 1 + len(cells))
    for (i, a), (j, b) in product(enumerate(cells, 1), repeat=2):
        omega[i, j] = math.exp(-(math.dist(a, b) ** 2) / (2 * sigma**2))
    return omega


def naclip(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    block, x = clip.visual.transformer.resblocks[-1], tokens_of(clip, pixels)[-1]
    omega = omega_of(clip, grid_of(clip, pixels))
    heads = [weights_of(k, k, k.shape[-1] ** -0.5, omega) @ v for _, k, v in heads_of(block, x)]
    return embed(clip, project_out(block, heads))[1:]


def at(clip: CLIP, offset: int) -> int:
    """Returns the number of the block at an offset from the last; never less than that of 1."""
    return max(1, clip.visual.transformer.layers + offset)


def itaclip(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    blocks, tokens = clip.visual.transformer.resblocks, tokens_of(clip, pixels)
    middle = {at(clip, offset) for offset in (-5, -4, -2)}
    helping = [
        [itself(head) for head in heads_of(blocks[n - 1], tokens[n - 1])] for n in sorted(middle)
    ]
    heads = []
    for index, head in enumerate(heads_of(blocks[-1], tokens[-1])):
        mean = sum(of_block[index] for of_block in helping) / len(helping)
        heads.append((itself(head) / 2 + mean / 2) @ head[2])
    return embed(clip, tokens[-1] + project_out(blocks[-1], heads))[1:]


def itaclip_similarities(clip: CLIP, pixels: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Returns the similarities over all five views, N×C."""
    grey = 0.2989 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    views = [pixels, torch.stack([grey] * 3)]
    views.append(gaussian_blur(pixels[None], [11, 11], [5.0, 5.0])[0])
    upright = sum(F.normalize(itaclip(clip, view), dim=-1) for view in views) / 3
    rows, columns = grid_of(clip, pixels)
    mirrored = torch.zeros(len(upright), len(text))
    for vertically in (True, False):
        found = F.normalize(itaclip(clip, pixels.flip(1 if vertically else 2)), dim=-1) @ text.T
        for i, (row, column) in enumerate(cells_of((rows, columns))):
            row, column = (rows - 1 - row, column) if vertically else (row, columns - 1 - column)
            mirrored[i] += found[row * columns + column] / 2
    return 0.7 * upright @ text.T + 0.3 * mirrored


def gem(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    blocks, tokens = clip.visual.transformer.resblocks, tokens_of(clip, pixels)
    first = at(clip, -5)
    g = tokens[first - 1]
    for number in range(first, len(blocks) + 1):
        block, x = blocks[number - 1], tokens[number - 1]
        length = sum(token.norm() for token in block.ln_1(x)) / len(x)
        heads = []
        for head in heads_of(block, x):
            tau, mean = float(length) * head[0].shape[-1] ** -0.5, 0.0
            for m in head:
                u = F.normalize(m, dim=-1)
                u = F.normalize(weights_of(u, u, tau) @ u, dim=-1)
                mean = mean + weights_of(u, u, tau) @ head[2] / 3
            heads.append(mean)
        g = g + project_out(block, heads)
    return embed(clip, g)[1:]


def resclip(
    clip: CLIP,
    pixels: torch.Tensor,
    text: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    confidence: float,
) -> torch.Tensor:
    blocks, tokens = clip.visual.transformer.resblocks, tokens_of(clip, pixels)
    grid, patch = grid_of(clip, pixels), clip.visual.patch_size[0]
    omega, heads = omega_of(clip, grid), heads_of(blocks[-1], tokens[-1])
    scale = heads[0][0].shape[-1] ** -0.5
    middle = range(at(clip, -6), at(clip, -3) + 1)
    cross = [
        [weights_of(q, k, scale) for q, k, _ in heads_of(blocks[n - 1], tokens[n - 1])]
        for n in middle
    ]

    def features(factor: float, feedback: torch.Tensor | float, share: float) -> torch.Tensor:
        attended = []
        for index, (_, k, v) in enumerate(heads):
            logits = factor * ((1 - share) * scale * (k @ k.T) + share * feedback)
            mean = sum(of_block[index] for of_block in cross) / len(cross)
            attended.append(2 * (0.7 * (logits + omega).softmax(-1) + 0.3 * mean) @ v)
        return embed(clip, project_out(blocks[-1], attended))[1:]

    cosines = F.normalize(features(1, 0.0, 0.0), dim=-1) @ text.T
    cosines = cosines.T.reshape(1, -1, *grid)
    cosines = F.interpolate(cosines, pixels.shape[1:], mode="bilinear", align_corners=False)
    best, name = (temperature * pamr(pixels[None], cosines)[0]).softmax(0).max(0)
    of_pixels = torch.where(best < confidence, 0, labels[name])
    of_patches = torch.zeros(grid, dtype=torch.int64)
    for row, column in cells_of(grid):
        cell = of_pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        of_patches[row, column] = cell.flatten().bincount().argmax()  # of equal ones the smallest
    feedback = torch.zeros_like(omega)
    feedback[1:, 1:] = feedback_of(of_patches, 80 / patch)
    return features(2.2, feedback, 0.7)


def is_line_of_one_label(labels: torch.Tensor, a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Tells whether the first samples of the line from a to b have the label of a."""
    longest = max(labels.shape) - 1
    for k in range(max(abs(a[0] - b[0]), abs(a[1] - b[1])) + 1):
        t = k / longest
        row, column = (round(start + t * (stop - start)) for start, stop in zip(a, b))
        if labels[row, column] != labels[a]:
            return False
    return True


def feedback_of(labels: torch.Tensor, blur_sigma: float = 5.0) -> torch.Tensor:
    """Returns ResCLIP's F of the labels of patches, h×w: N×N."""
    cells = cells_of(labels.shape)
    count, farthest = len(cells), max(labels.shape) - 1
    raw = torch.zeros(count, count)
    for (i, a), (j, b) in product(enumerate(cells), repeat=2):
        if labels[a] == labels[b]:
            apart = max(abs(a[0] - b[0]), abs(a[1] - b[1]))
            alone = is_line_of_one_label(labels, a, b)
            raw[i, j] = 1.0 if alone else math.exp(-apart / farthest)
    reach = min(count, int(6 * blur_sigma) + 1) // 2
    kernel = [math.exp(-(step**2) / (2 * blur_sigma**2)) for step in range(-reach, reach + 1)]
    blurred = torch.zeros_like(raw)
    for j, step in product(range(count), range(-reach, reach + 1)):
        if 0 <= j + step < count:
            blurred[:, j] += kernel[step + reach] / sum(kernel) * raw[:, j + step]
    blurred = torch.stack([row / (row.sum() + 1e-8) for row in blurred])
    return blurred / blurred.max()


def mean_of_alike(rows: torch.Tensor, values: torch.Tensor, shift: bool) -> torch.Tensor:
    """Returns RADSeg's mean of the values of rows that are similar to each row."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    mean = sum(float(a @ b) for a in unit for b in unit) / len(rows) ** 2 if shift else 0.0
    found = []
    for row in unit:
        logits = [10 * (float(row @ other) - mean) for other in unit]
        weights = torch.tensor([math.exp(each) if each >= 0 else 0.0 for each in logits])
        found.append(weights / weights.sum() @ values)
    return torch.stack(found)


def radseg(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    block, x = clip.visual.transformer.resblocks[-1], tokens_of(clip, pixels)[-1]
    heads = heads_of(block, x)
    output = project_out(block, [weights_of(q, k, q.shape[-1] ** -0.5) @ v for q, k, v in heads])
    parts = output.split(block.attn.head_dim, -1)
    again = [mean_of_alike(part, v, False) for part, (_, _, v) in zip(parts, heads)]
    x = x + project_out(block, again)
    patches = (x + block.mlp(block.ln_2(x)))[1:]
    return embed(clip, mean_of_alike(patches, patches, True))


def outliers_of(patches: torch.Tensor, neighbours: int) -> list[bool]:
    """Returns SC-CLIP's anomalous patches by its local outlier factor."""
    count, near, density = len(patches), [], []
    for i in range(count):
        squared = [float(((patches[i] - patches[j]) ** 2).sum()) for j in range(count)]
        order = sorted(range(count), key=lambda j: squared[j])[1 : neighbours + 1]
        farthest = squared[order[-1]]
        reach = [max(squared[j], farthest) for j in order]  # of the k-th neighbour of i, not of j
        near.append(order)
        density.append(neighbours / (sum(reach) / neighbours))
    factors = torch.tensor(
        [sum(density[j] for j in near[i]) / neighbours / density[i] for i in range(count)]
    )
    return (factors > torch.quantile(factors, 0.95)).tolist()


def repaired(patches: torch.Tensor, anomalous: list[bool], grid: tuple[int, int]) -> torch.Tensor:
    result = patches.clone()
    for i, (row, column) in enumerate(cells_of(grid)):
        sound = [
            patches[y * grid[1] + x]
            for y, x in product(range(row - 1, row + 2), range(column - 1, column + 2))
            if 0 <= y < grid[0] and 0 <= x < grid[1] and not anomalous[y * grid[1] + x]
        ]
        if anomalous[i] and sound:
            result[i] = sum(sound) / len(sound)
    return result


def sc_clip(clip: CLIP, pixels: torch.Tensor, neighbours: int) -> torch.Tensor:
    return sc_clip_batch(clip, [pixels], neighbours)[0]


def sc_clip_batch(
    clip: CLIP, images: Sequence[torch.Tensor], neighbours: int
) -> list[torch.Tensor]:
    """Returns the features of images of one batch, with the quirks of PIAA's copy of SC-CLIP.

    Of one image alone they are SC-CLIP's.
    """
    block, grid = clip.visual.transformer.resblocks[-1], grid_of(clip, images[0])
    tokens_of_all = [tokens_of(clip, pixels) for pixels in images]
    anomalous = outliers_of(tokens_of_all[0][-1][1:], neighbours)

    def cosines(patches: torch.Tensor) -> torch.Tensor:
        return F.normalize(patches, dim=-1) @ F.normalize(patches, dim=-1).T

    def aggregated(similarity: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        rows = []
        for row in similarity:
            kept = torch.tensor([float(each) if each >= 0.4 else 0.0 for each in row])
            rows.append((kept[:, None] * patches).sum(0) / (kept.sum() + 1e-6))
        return torch.stack(rows)

    by_middle = [
        cosines(repaired(tokens[at(clip, -3)][1:], anomalous, grid)) for tokens in tokens_of_all
    ]
    mean = sum(float(each.mean()) for each in by_middle) / len(images)
    gains = []
    for similarity in by_middle:
        gain = 3 * (similarity - mean)
        gain[gain < 0] = -math.inf
        gains.append(gain.softmax(-1))

    features = []
    for b, tokens in enumerate(tokens_of_all):
        by_shallow = cosines(tokens[at(clip, -8)][1:])

        def run_block(
            patches: torch.Tensor,
            class_token: torch.Tensor,
            b: int = b,
            by_shallow: torch.Tensor = by_shallow,
        ) -> torch.Tensor:
            of_heads = heads_of(block, patches)
            heads = []
            for h, (_, k, v) in enumerate(of_heads):
                other = gains[(b * len(of_heads) + h) % len(images)]
                heads.append((other + weights_of(k, k, k.shape[-1] ** -0.5)) / 2 @ v)
            return aggregated(by_shallow, project_out(block, heads) + 0.3 * class_token)

        stream = sum(tokens[n] for n in range(at(clip, -8), at(clip, -2) + 1))
        patches = aggregated(by_middle[b], repaired(tokens[-1][1:], anomalous, grid))
        found = run_block(patches, tokens[-1][0]) + run_block(stream[1:], stream[0])
        features.append(embed(clip, found))
    return features


# With a second backbone: the small one of tests, by timm's own modules


def second_tokens(pixels: torch.Tensor) -> tuple[list[torch.Tensor], tuple[int, int]]:
    """Returns what enters each block and what leaves the last, (1+M)×C each, and the grid.

    Of pixels for CLIP, 3×H×W, which are resized to whole patches.
    """
    vit = build_dino()
    patch, side = vit.patch_embed.patch_size[0], vit.patch_embed.grid_size[0]
    grid = tuple(math.ceil(length / patch) for length in pixels.shape[1:])
    sizes = [patch * count for count in grid]
    pixels = F.interpolate(pixels[None], sizes, mode="bilinear")[0]
    mean, std = (torch.tensor(each)[:, None, None] for each in (OPENAI.mean, OPENAI.std))
    pixels = pixels * std + mean
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    places = vit.pos_embed[0, 1:].T.reshape(1, -1, side, side)
    if grid != (side, side):
        factors = [(count + 0.1) / side for count in grid]
        places = F.interpolate(places, scale_factor=factors, mode="bicubic")
    patches = vit.patch_embed.proj(pixels[None])[0].flatten(1).T + places[0].flatten(1).T
    tokens = [torch.cat([vit.cls_token[0] + vit.pos_embed[0, :1], patches])]
    for block in vit.blocks:
        tokens.append(block(tokens[-1][None])[0])
    return tokens, grid


def apply_to_values(
    clip: CLIP, tokens: torch.Tensor, coarse: tuple[int, int], weights: torch.Tensor
) -> torch.Tensor:
    """Returns what the last block's attention adds, (M)×D, by weights between finer patches."""
    block = clip.visual.transformer.resblocks[-1]
    grid = round(len(weights) ** 0.5 * (coarse[0] / coarse[1]) ** 0.5)
    grid = next(g for g in (grid, grid - 1, grid + 1) if len(weights) % g == 0)
    heads = []
    for _, _, value in heads_of(block, tokens):
        on_grid = value[1:].T.reshape(1, -1, *coarse)
        fine = F.interpolate(on_grid, (grid, len(weights) // grid), mode="bilinear")
        heads.append(weights @ fine[0].flatten(1).T)
    return project_out(block, heads)


def proxyclip(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    tokens, _ = second_tokens(pixels)
    features = F.normalize(build_dino().norm(tokens[-1])[1:], dim=-1)
    similarity = features @ features.T
    rows = []
    for row in 3 * (similarity - 1.2 * similarity.mean()):
        exponentials = torch.where(row < 0, 0, row.exp())
        rows.append(exponentials / exponentials.sum())
    coarse, last = grid_of(clip, pixels), tokens_of(clip, pixels)[-1]
    return embed(clip, apply_to_values(clip, last, coarse, torch.stack(rows)))


def corrclip(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    """Returns CorrCLIP's features, with SLIC's superpixels as regions."""
    coarse = grid_of(clip, pixels)
    mean, std = (np.array(each)[:, None, None] for each in (OPENAI.mean, OPENAI.std))
    image = np.clip(np.rint(255 * (pixels.numpy() * std + mean)), 0, 255).astype(np.uint8)
    numbers = slic(image.transpose(1, 2, 0), 500, 10, sigma=1, start_label=1)
    second, grid = second_tokens(pixels)
    block = build_dino().blocks[-1]
    query, key, _ = block.attn.qkv(block.norm1(second[-2]))[1:].chunk(3, -1)
    alike = F.normalize(query + key, dim=-1)

    def to_grid(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        rows, columns = (
            [n * old // new for n in range(new)] for new, old in zip(size, values.shape)
        )
        return values[rows][:, columns]

    regions = to_grid(numbers, grid)
    apart = regions.min()
    known = [n for n in np.unique(regions) if n != apart]
    if len(known) > 1:
        means = {n: F.normalize(alike[regions.ravel() == n].mean(0), dim=0) for n in known}
        most = max(float(means[a] @ means[b]) for a in known for b in known)
        cluster = {n: n for n in known}
        for a, b in product(known, known):
            if most - float(means[a] @ means[b]) <= 0.2:
                old, new = cluster[a], cluster[b]
                cluster = {n: new if c == old else c for n, c in cluster.items()}
        regions = np.vectorize(lambda n: cluster.get(n, n))(regions)
    flat, similarity = regions.ravel(), alike @ alike.T
    rows = []
    for i, row in enumerate(similarity):
        loose = torch.from_numpy((flat == apart) | (flat[i] == apart))
        same = torch.from_numpy(flat == flat[i])
        allowed = torch.where(loose, row > similarity.mean(), same)
        rows.append(torch.where(allowed, 4 * row, -math.inf).softmax(0))
    every = tokens_of(clip, pixels)
    earlier = torch.stack(every[max(1, at(clip, -6)) : at(clip, -2) + 1]).mean(0)
    found = sum(
        embed(clip, apply_to_values(clip, tokens, coarse, torch.stack(rows)))
        for tokens in (every[-1], earlier)
    )
    of_patches = to_grid(regions, coarse)
    semantic = torch.zeros(*coarse, clip.visual.proj.shape[1])
    for number in np.unique(of_patches):
        inside = [0, *(1 + np.flatnonzero(of_patches.ravel() == number))]
        token = every[0][:1]
        for block, tokens in zip(clip.visual.transformer.resblocks, every):
            outputs = [
                (q @ k.T * q.shape[-1] ** -0.5).softmax(-1) @ v
                for (q, _, _), (_, k, v) in zip(
                    heads_of(block, token), heads_of(block, tokens[inside])
                )
            ]
            token = token + project_out(block, outputs)
            token = token + block.mlp(block.ln_2(token))
        semantic[of_patches == number] = embed(clip, token)[0]
    fine = np.stack([to_grid(channel, grid) for channel in semantic.permute(2, 0, 1).numpy()])
    return found + 0.5 * torch.from_numpy(fine).flatten(1).T


def embed_patches(method: DenseMethod, encoder: ClipEncoder, pixels: torch.Tensor) -> torch.Tensor:
    """Returns what a method itself computes: the embeddings of patches, B×N×E."""
    return method.patch_features(encoder, method.run_pass(encoder, pixels))
