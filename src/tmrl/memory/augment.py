"""Changes of whole batches, on their device: for the memory's `batch_preprocessor`."""

from collections.abc import Callable, Collection
from typing import Any, final

import torch
from torch import Tensor

from tmrl.nest import flatten, leaf_names, unflatten
from tmrl.transition import Batch

Change = Callable[[Tensor], Tensor]


def to_float(batch: Batch) -> Batch:
    """Makes float32 in [0, 1] of the bytes of images: uint8 leaves of observations, divided by 255."""
    return _with(batch, *(_mapped(obs, _image_to_float) for obs in (batch.prev_obs, batch.new_obs)))


def _image_to_float(leaf: Tensor) -> Tensor:
    return leaf.to(torch.float32) / 255 if leaf.dtype == torch.uint8 else leaf


@final
class RandomShift:
    """Shifts images by a few pixels, those of each transition by their own: DrQ, arXiv 2004.13649.

    As in the paper (Kostrikov et al. 2020), an image is padded by repeating its border and cropped at random
    to its own size. `prev_obs` and `new_obs` are shifted each for itself; all leaves of one observation, and
    all frames of a stack, alike.

    Args:
        pad: Most pixels, up, down, left and right.
        leaves: Names of the leaves that are images, `(..., height, width)` behind the batch; none stands for
            all leaves with at least two dimensions.
        generator: Source of randomness; None for torch's own.

    Raises:
        ValueError: `pad` is below 1.
    """

    def __init__(
        self, pad: int = 4, leaves: Collection[str] = (), generator: torch.Generator | None = None
    ) -> None:
        if pad < 1:
            raise ValueError(f"pad must be at least 1, got {pad}")
        self._pad = pad
        self._leaves = frozenset(leaves)
        self._generator = generator

    def __call__(self, batch: Batch) -> Batch:
        """A batch with shifted images; the one given stays as it is."""
        prev_obs, new_obs = (self._shifted(obs, len(batch.rew)) for obs in (batch.prev_obs, batch.new_obs))
        return _with(batch, prev_obs, new_obs)

    def _shifted(self, obs: Any, batch_size: int) -> Any:
        leaves, treespec = flatten(obs)
        names = leaf_names("obs", treespec)
        device = self._generator.device if self._generator is not None else leaves[0].device
        shifts = torch.randint(
            -self._pad, self._pad + 1, (2, batch_size, 1), generator=self._generator, device=device
        )
        return unflatten(
            treespec,
            [
                _shift(leaf, shifts.to(leaf.device)) if self._is_image(name, leaf) else leaf
                for name, leaf in zip(names, leaves, strict=True)
            ],
        )

    def _is_image(self, name: str, leaf: Tensor) -> bool:
        if not self._leaves:
            return leaf.ndim >= 3
        return name in self._leaves or name.removeprefix("obs/") in self._leaves


def _shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Images `(B, ..., H, W)`, each shifted by its row of `shifts`, `(2, B, 1)`; borders are repeated."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)
    flat = images.reshape(len(images), -1, height, width)
    batch, channels = (torch.arange(n, device=images.device) for n in flat.shape[:2])
    places = (batch[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None])
    return flat[(*places, columns[:, None, None, :])].reshape(images.shape)


def _with(batch: Batch, prev_obs: Any, new_obs: Any) -> Batch:
    # The name that namedtuples give it; it is public there.
    return batch._replace(prev_obs=prev_obs, new_obs=new_obs)  # pyright: ignore[reportPrivateUsage]


def _mapped(obs: Any, change: Change) -> Any:
    leaves, treespec = flatten(obs)
    return unflatten(treespec, list(map(change, leaves)))
