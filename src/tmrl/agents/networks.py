"""The networks of actor-critic agents: small parts that know tensors, and neither spaces nor memories.

Critics come as an ensemble whose members share one batched matrix product per layer: two critics cost one
pass of small kernels instead of two, and ten (REDQ) cost no more kernels than two.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the bounds in the code that the SAC authors published
HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Fully connected layers from `sizes[0]` inputs to `sizes[-1]` outputs, with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class EnsembleLinear(nn.Module):
    """One linear layer for each member of an ensemble, applied by one batched matrix product.

    Each member starts as `torch.nn.Linear` does.

    Args:
        members: Size of the ensemble.
        n_in: Inputs of each member.
        n_out: Outputs of each member.
    """

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = n_in**-0.5
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(members, B, n_in)` to `(members, B, n_out)`."""
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleLayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450), with a scale and a shift for each member.

    Args:
        members: Size of the ensemble.
        width: Outputs of each member's layer.
    """

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each vector of `(members, B, width)`."""
        return torch.addcmul(self.bias, functional.layer_norm(x, x.shape[-1:]), self.weight)


class EnsembleCritic(nn.Module):
    """An ensemble of independent action-value functions `Q_i(s, a)`.

    Args:
        obs_size: Length of the flat observation.
        act_size: Length of the flat action.
        hidden: Widths of the hidden layers.
        members: Size of the ensemble.
        layer_norm: Whether the hidden layers are normalised before their ReLU, which bounds the values of
            actions that no data tell of (Ball et al. 2023, arXiv 2302.02948, section 4.2).
    """

    def __init__(
        self,
        obs_size: int,
        act_size: int,
        hidden: Sequence[int],
        members: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [obs_size + act_size, *hidden, 1]
        self.layers = nn.ModuleList(EnsembleLinear(members, n_in, n_out) for n_in, n_out in pairwise(sizes))
        self.norms = nn.ModuleList(
            EnsembleLayerNorm(members, width) if layer_norm else nn.Identity() for width in hidden
        )
        self.members = members

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        """Values `(members, B)` of flat observations `(B, obs_size)` and actions `(B, act_size)`."""
        x = torch.cat((obs, act), dim=-1).expand(self.members, -1, -1)
        *hidden, last = self.layers
        for layer, norm in zip(hidden, self.norms, strict=True):
            x = functional.relu(norm(layer(x)))
        return last(x).squeeze(-1)


class SquashedGaussian(nn.Module):
    """A Gaussian policy squashed by tanh into the open box (-1, 1).

    Args:
        obs_size: Length of the flat observation.
        act_size: Length of the flat action.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, obs_size: int, act_size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = mlp([obs_size, *hidden, 2 * act_size])

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation, `(B, act_size)` each, before the squashing."""
        mean, log_std = self.body(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def mode(self, obs: Tensor) -> Tensor:
        """The squashed mean, `(B, act_size)`: what the policy does when it does not explore."""
        return torch.tanh(self(obs)[0])

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions `(B, act_size)` by reparameterisation, with their log-probabilities `(B,)`.

        The noise comes from torch's global generator of the observation's device.
        """
        mean, log_std = self(obs)
        noise = torch.randn_like(mean)
        return squash(mean + log_std.exp() * noise, noise, log_std)


def squash(pre_tanh: Tensor, noise: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """Squashes `u = mean + std * noise` by tanh and gives the log-probability of the result.

    Haarnoja et al. 2018 (arXiv 1812.05905), appendix C:

        log pi(a|s) = log mu(u|s) - sum_i log(1 - tanh(u_i)^2)

    The logarithm in the sum is computed as `2 (log 2 - u - softplus(-2u))`, which is the same and does not
    cancel at large `|u|`.

    Args:
        pre_tanh: `(B, act_size)` Gaussian draws `u`.
        noise: `(B, act_size)` standard normal draws that made them.
        log_std: `(B, act_size)`.

    Returns:
        Actions `(B, act_size)` in (-1, 1) and log-probabilities `(B,)`.
    """
    log_normal = -0.5 * noise.square() - log_std - HALF_LOG_2_PI
    log_slope = 2.0 * (math.log(2.0) - pre_tanh - functional.softplus(-2.0 * pre_tanh))
    return torch.tanh(pre_tanh), (log_normal - log_slope).sum(dim=-1)
