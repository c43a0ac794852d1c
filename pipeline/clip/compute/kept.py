"""What CLIP found in images and names, kept for calls with other names and thresholds."""

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock

import torch

Tensors = tuple[torch.Tensor, ...]


class KeptFeatures:
    """Tensors by what they were computed from; threads can share it.

    Args:
        limit: bytes that they may take. Beyond it, those that were used longest ago go first.
    """

    def __init__(self, limit: int):
        self._limit, self._bytes = limit, 0
        self._found: OrderedDict[Hashable, Tensors] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self):
        return KeptFeatures, (self._limit,)  # another process keeps its own

    def get(self, key: Hashable) -> Tensors | None:
        """Returns what is kept under a key."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Hashable, tensors: Tensors) -> None:
        """Keeps tensors, unless they alone exceed the limit."""
        if _bytes_of(tensors) > self._limit:
            return
        with self._lock:
            self._bytes += _bytes_of(tensors) - _bytes_of(self._found.pop(key, ()))
            self._found[key] = tensors
            while self._bytes > self._limit:
                self._bytes -= _bytes_of(self._found.popitem(last=False)[1])

    def get_or(self, key: Hashable | None, make: Callable[[], Tensors]) -> Tensors:
        """Returns what is kept under a key, or makes it; without a key, nothing is kept."""
        if key is None:
            return make()
        if (found := self.get(key)) is None:
            self.put(key, found := make())
        return found

    def rows(
        self, keys: Sequence[Hashable], make: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        """Returns a row for each key; those at the places that lack one are made together."""
        found = {key: self.get(key) for key in keys}
        if missing := [keys.index(key) for key, row in found.items() if row is None]:
            for place, row in zip(missing, make(missing)):
                found[keys[place]] = (row.clone(),)  # its batch need not stay in memory
                self.put(keys[place], found[keys[place]])
        return torch.stack([found[key][0] for key in keys])


def digest(*given: object) -> bytes | None:
    """Returns what tells apart tensors, and any other objects by their state.

    None tells that the state of an object, such as a hook of a plug-in, cannot be written.
    """
    found = hashlib.sha256()  # which processors have instructions for
    for each in given:
        if isinstance(each, torch.Tensor):
            found.update(repr((each.shape, each.dtype)).encode())
            found.update(each.contiguous().cpu().numpy())
            continue
        try:
            found.update(pickle.dumps(each))
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
    return found.digest()


def _bytes_of(tensors: Sequence[torch.Tensor]) -> int:
    return sum(each.untyped_storage().nbytes() for each in tensors)  # a view keeps all of it
