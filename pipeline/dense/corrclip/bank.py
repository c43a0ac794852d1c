"""The memory bank of CorrCLIPv2: regions of unlabelled pictures, which are searched exactly."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F

_ROWS = 1 << 15  # of the bank, which are compared together


@dataclass(frozen=True)
class Bank:
    """N regions of pictures: what a second backbone says of each, and what CLIP says.

    The authors search an approximate index instead.

    Attributes:
        keys: of the second backbone, N×C float16, of any length.
        values: of CLIP, N×E float16, of length 1.
        pictures: the number of each region's picture, N integers.
        contents: the fingerprint of each picture's file, texts.
    """

    keys: torch.Tensor
    values: torch.Tensor
    pictures: torch.Tensor
    contents: np.ndarray

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Of each key, N float32; computed once, and not for each image."""
        lengths = [keys.float().norm(dim=-1) for keys in self.keys.split(_ROWS)]
        return torch.cat(lengths).clamp(min=1e-12)

    @classmethod
    def read(cls, path: Path, device: torch.device) -> Self:
        """Reads the file of :class:`~pipeline.dense.corrclip.learning.LearnedBank`."""
        with np.load(path, allow_pickle=False) as bank:
            arrays = (bank[name] for name in ("keys", "values", "pictures"))
            tensors = [torch.from_numpy(each).to(device) for each in arrays]
            return cls(*tensors, bank["contents"])

    def support(self, queries: torch.Tensor, count: int, without: str = "") -> torch.Tensor:
        """Returns what CLIP says of the regions that are most alike, R×E float32, of length 1.

        It is the mean over ``count`` of them; 0 where there is none. The queries are of the second
        backbone, R×C float32; regions of pictures of the content ``without`` do not count.
        """
        queries = F.normalize(queries, dim=-1)
        is_own = torch.from_numpy(self.contents == without).to(queries.device)
        best = queries.new_empty(len(queries), 0)
        rows = best.long()
        for start in range(0, len(self.keys), _ROWS):
            keys = self.keys[start : start + _ROWS].float()
            found = queries @ keys.mT / self.lengths[start : start + _ROWS]
            found[:, is_own[self.pictures[start : start + _ROWS].long()]] = float("-inf")
            found, index = found.topk(min(count, len(keys)))
            best, rows = torch.cat([best, found], 1), torch.cat([rows, index + start], 1)
            best, index = best.topk(min(count, best.shape[1]))
            rows = rows.gather(1, index)
        values = self.values[rows].float() * best.isfinite()[..., None]
        return F.normalize(values.sum(1), dim=-1)
