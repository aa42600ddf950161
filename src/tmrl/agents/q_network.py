"""The network of DQN: an observation in, the value of each numbered action out."""

import math
from collections.abc import Sequence
from typing import Any

from gymnasium.spaces import Space
from torch import Tensor, nn

from tmrl.agents.networks import mlp
from tmrl.agents.spaces import flat_observation, flat_observation_size, is_image

SMALLEST_IMAGE = 36
"""Height and width of which the three convolutions leave one pixel."""


class QNetwork(nn.Module):
    """Action values `Q(s, a)` of all actions at once.

    Images are seen by the three convolutions of Mnih et al. 2015 (Nature 518, "Model architecture"), vectors
    as they are; fully connected layers follow, in one stream or in the two of `DuelingHead`.

    Args:
        observation_space: A Box of uint8 images with channels first, `(H, W)`, `(C, H, W)` or a stack
            `(k, C, H, W)` of them; or any nest of Dict and Tuple with a Box of vectors as leaves.
        n_actions: Number of actions.
        hidden: Widths of the hidden layers; None stands for 512 on images and 128, 128 on vectors.
        is_dueling: Whether the head is a `DuelingHead`.

    Raises:
        ValueError: The observations are something else; the message says why and what would do.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        n_actions: int,
        hidden: Sequence[int] | None = None,
        is_dueling: bool = True,
    ) -> None:
        super().__init__()
        self.n_actions = n_actions
        if is_image(observation_space):
            shape = _image_shape(observation_space)
            self.body: nn.Module = Convolutions(shape[0])
            n_features, hidden = _n_features(*shape[1:]), (512,) if hidden is None else hidden
        else:
            self.body = nn.Identity()
            n_features = flat_observation_size(observation_space)
            hidden = (128, 128) if hidden is None else hidden
        self._sees_images = is_image(observation_space)
        self.head = (
            DuelingHead(n_features, hidden, n_actions)
            if is_dueling
            else mlp([n_features, *hidden, n_actions])
        )

    def forward(self, obs: Any) -> Tensor:
        """Values `(B, n_actions)` of a batch of observations."""
        return self.head(self.body(obs if self._sees_images else flat_observation(obs)))


class Convolutions(nn.Module):
    """The convolutions of Mnih et al. 2015; they scale uint8 to [0, 1] themselves.

    Args:
        n_channels: Channels of an image, or of all images of a stack.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(n_channels, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU()),
            nn.Flatten(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps uint8 images `(B, ..., H, W)` to features `(B, n)`; all dimensions between are channels."""
        channels_first = images.reshape(len(images), -1, *images.shape[-2:])
        return self.layers(channels_first.float().div_(255.0))


class DuelingHead(nn.Module):
    """Wang et al. 2016 (arXiv 1511.06581), equation 9: a value of the state and advantages of the actions.

        Q(s, a) = V(s) + A(s, a) - mean over a' of A(s, a')

    Taking the mean away makes the two identifiable: a constant cannot move from one stream to the other. The
    paper's rescaling and clipping of gradients are left to the optimiser.

    Args:
        n_in: Length of the features.
        hidden: Widths of the hidden layers, of each of the two streams.
        n_actions: Number of actions.
    """

    def __init__(self, n_in: int, hidden: Sequence[int], n_actions: int) -> None:
        super().__init__()
        self.value = mlp([n_in, *hidden, 1])
        self.advantage = mlp([n_in, *hidden, n_actions])

    def forward(self, features: Tensor) -> Tensor:
        """Maps features `(B, n_in)` to values `(B, n_actions)`."""
        advantage = self.advantage(features)
        return self.value(features) + advantage - advantage.mean(dim=-1, keepdim=True)


def _image_shape(space: Any) -> tuple[int, int, int]:
    """Channels of all images of a stack, height and width."""
    *channels, height, width = space.shape
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(
            f"images must have channels first and at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE} pixels, got "
            f"the shape {space.shape}; transpose or resize them, as with "
            "gymnasium.wrappers.TransformObservation"
        )
    return math.prod(channels), height, width


def _n_features(height: int, width: int) -> int:
    sides = [height, width]
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        sides = [(side - kernel) // stride + 1 for side in sides]
    return 64 * math.prod(sides)
