"""Batches on their devices, read ahead. The rest of jaxgpt.data does without jax."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Sharding
from jaxtyping import Int

from jaxgpt.data.batches import Batches

AHEAD = 8
"""Batches that are read ahead."""
THREADS = 4


def device_put_batch(
    read: Callable[[slice], np.ndarray], shape: tuple[int, int], sharding: Sharding
) -> Int[Array, "B S"]:
    """A batch on its devices; `read` gets the rows of this process's devices and no others."""
    return jax.make_array_from_callback(shape, sharding, lambda index: read(index[0] if index else slice(None)))


class DeviceBatches:
    """`batches(step)` on its devices. While steps are requested one after another, threads read the next ones.

    What a step gets does not depend on that: any step may be asked for at any time.
    """

    def __init__(self, batches: Batches, shape: tuple[int, int], sharding: Sharding) -> None:
        self.batches, self.shape, self.sharding = batches, shape, sharding
        slices = [index[0] for index in sharding.addressable_devices_indices_map(shape).values() if index]
        bounds = [each.indices(shape[0]) for each in slices] or [(0, shape[0], 1)]
        self.first, self.last = min(bound[0] for bound in bounds), max(bound[1] for bound in bounds)
        self._next: int | None = None
        self._ahead: Iterator[np.ndarray] = iter(())

    def __call__(self, step: int) -> Int[Array, "B T+1"]:
        if step != self._next:
            self._ahead = self._from(step)
        rows, self._next = next(self._ahead), step + 1
        return device_put_batch(lambda wanted: rows[self._own(wanted)], self.shape, self.sharding)

    def _own(self, wanted: slice) -> slice:
        """Rows of the batch as rows of this process's."""
        start, stop, _ = wanted.indices(self.shape[0])
        return slice(start - self.first, stop - self.first)

    def _from(self, step: int) -> Iterator[Any]:
        import grain

        steps = grain.MapDataset.range(step, step + 2**40)
        read = steps.map(lambda number: self.batches(int(number), slice(self.first, self.last)))
        return iter(read.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)))
