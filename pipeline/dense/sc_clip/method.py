"""SC-CLIP: repairs anomalous patches and aggregates similar ones (Bai et al., 2024)."""

import torch
import torch.nn.functional as F

from pipeline.clip.attention import attention_to_alike, attention_weights
from pipeline.clip.block import Block
from pipeline.clip.dimensions import block_at, block_window
from pipeline.clip.encoder import BlockHook, ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.hooks import TokensAfter
from pipeline.dense.method import DenseMethod
from pipeline.errors import ImageError


class ScClip(DenseMethod):
    """SC-CLIP: patches of middle blocks decide which patches attend to each other in the last one.

    Anomalous patches, after block −1 and after block −3, become the mean of their neighbours. The
    similarities S of the latter aggregate the patches, and replace half of the attention of block
    L, ½(softmax(3(S − mean S), where it is above 0) + softmax(KKᵀ/√d)); a share of the class token
    is added. The similarities after block −8 aggregate the result. The sum of the tokens after
    blocks −8 to −2 passes the same last two steps, and is added.
    """

    def hooks(self, encoder: ClipEncoder) -> list[BlockHook]:
        """Returns the hook that keeps tokens of earlier blocks."""
        depth, options = encoder.depth, self.options
        pair = options.middle_block, options.shallow_block
        middle, shallow = (block_at(each, depth) for each in pair)
        several = block_window("stream_blocks", options.stream_blocks, depth)
        return [TokensAfter([middle], [shallow], several)]

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32; an ImageError if these are too few."""
        tokens = shared_pass.last_block_input.tokens
        middle, shallow, several = shared_pass.for_cams[0].unbind(1)
        grid, size = shared_pass.grid, shared_pass.pixels.shape[-2:]
        patches = encoder.patches(tokens)
        anomalous = self.anomalous(patches)
        similarity = _similarity(repair(encoder.patches(middle), anomalous, grid))
        patches = self._aggregate(similarity, repair(patches, anomalous, grid))
        by_shallow = _similarity(encoder.patches(shallow))
        output = 0.0
        streams = (patches, tokens[:, :1]), (encoder.patches(several), several[:, :1])
        for stream, class_token in streams:
            attended = self._attend(encoder.last_block, stream, size, similarity)
            with_class = attended + self.options.class_token * class_token
            output = output + self._aggregate(by_shallow, with_class)
        return encoder.embed(output)

    def anomalous(self, patches: torch.Tensor) -> torch.Tensor:
        """Returns which patches are outliers among their neighbours, B×N bool.

        The local outlier factor as the authors compute it: of squared distances, and with the
        distance to a patch's own k-th neighbour as the reachability from all its neighbours. Then
        the local density is the inverse of that distance.
        """
        neighbours = self.options.neighbours
        if patches.shape[1] <= neighbours:
            raise ImageError(
                f"has {patches.shape[1]} patches, too few for neighbours={neighbours} of SC-CLIP:"
                " set fewer, or choose another method"
            )
        distances = torch.cdist(patches, patches, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.square().topk(neighbours + 1, largest=False)
        reach = nearest.values[..., -1]
        density = 1 / reach.clamp(min=1e-20)  # of patches that are all equal
        around = density[:, None].expand_as(distances).gather(2, nearest.indices[..., 1:])
        factor = around.mean(-1) / density
        return factor > factor.quantile(1 - self.options.anomalies, dim=1, keepdim=True)

    def attention_of(self, similarity: torch.Tensor, heads: int) -> torch.Tensor:
        """Returns the attention by similarities, B×heads×N×N: only those above average count."""
        attending = self.above(similarity, similarity.mean((1, 2), keepdim=True))
        return attending[:, None].expand(-1, heads, -1, -1)

    def above(self, similarity: torch.Tensor, average: torch.Tensor) -> torch.Tensor:
        """Returns the attention by those similarities that are above an average, B×N×N."""
        return attention_to_alike(self.options.sharpness * (similarity - average))

    def _attend(
        self, block: Block, patches: torch.Tensor, size: tuple[int, int], similarity: torch.Tensor
    ) -> torch.Tensor:
        _, key, value = block.project(block.ln_1(patches), size)
        weights = self.attention_of(similarity, key.shape[1]) + attention_weights(key, key)
        return block.attention_output((weights / 2).to(value.dtype) @ value)

    def _aggregate(self, similarity: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        weights = similarity.where(similarity >= self.options.floor, 0.0)
        return (weights / (weights.sum(-1, keepdim=True) + 1e-6)) @ features


def _similarity(patches: torch.Tensor) -> torch.Tensor:
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.mT


def repair(patches: torch.Tensor, anomalous: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Replaces anomalous patches by the mean of their neighbours that are not, of eight.

    A patch without such a neighbour stays. Patches are B×N×D, ``anomalous`` is B×N bool.
    """

    def sum_of_nine(values: torch.Tensor) -> torch.Tensor:
        return 9 * F.avg_pool2d(values.mT.unflatten(-1, grid), 3, 1, 1).flatten(2).mT

    sound = (~anomalous).unsqueeze(-1).to(patches.dtype)
    count = sum_of_nine(sound)
    mean = sum_of_nine(patches * sound) / count.clamp(min=0.5)
    return torch.where(anomalous.unsqueeze(-1) & (count > 0.5), mean, patches)
