import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from tmrl.agents.networks import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    EnsembleCritic,
    EnsembleLinear,
    SquashedGaussian,
    mlp,
    squash,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_log_probability_equals_that_of_torch_distributions():
    mean, log_std = torch.randn(512, 3, dtype=torch.float64), torch.rand(512, 3, dtype=torch.float64) * 3 - 2
    noise = torch.randn_like(mean)
    pre_tanh = mean + log_std.exp() * noise
    action, log_prob = squash(pre_tanh, noise, log_std)
    normal = Normal(mean, log_std.exp())
    reference = Independent(TransformedDistribution(normal, TanhTransform(cache_size=1)), 1)
    torch.testing.assert_close(action, torch.tanh(pre_tanh), rtol=0, atol=0)
    inner = action.abs().amax(-1) < 0.999999  # beyond, atanh(action) of the reference itself is inexact
    assert inner.sum() > 400
    torch.testing.assert_close(log_prob[inner], reference.log_prob(action)[inner], rtol=0, atol=1e-5)


def test_log_probability_stays_finite_and_right_where_tanh_saturates():
    noise = torch.zeros(1, 1)
    _, log_prob = squash(torch.full((1, 1), 40.0), noise, torch.zeros(1, 1))
    # 1 - tanh(u)^2 = 4 exp(-2u) for large u, which float32 cannot tell from 0
    expected = Normal(0.0, 1.0).log_prob(torch.tensor(0.0)) - (torch.tensor(4.0).log() - 80.0)
    torch.testing.assert_close(log_prob[0], expected)


def test_samples_have_the_log_probability_of_the_policy_that_drew_them():
    policy = SquashedGaussian(4, 2, (16,))
    obs = torch.randn(64, 4)
    mean, log_std = policy(obs)
    action, log_prob = policy.sample(obs)
    transform = TanhTransform(cache_size=0)
    reference = Independent(TransformedDistribution(Normal(mean, log_std.exp()), transform), 1)
    torch.testing.assert_close(log_prob, reference.log_prob(action), rtol=0, atol=1e-3)
    assert action.abs().max() < 1.0
    assert action.requires_grad


def test_mode_is_the_squashed_mean_and_draws_no_noise():
    policy, obs = SquashedGaussian(4, 2, (16,)), torch.randn(8, 4)
    torch.testing.assert_close(policy.mode(obs), torch.tanh(policy(obs)[0]), rtol=0, atol=0)
    torch.testing.assert_close(policy.mode(obs), policy.mode(obs), rtol=0, atol=0)


def test_log_std_stays_within_its_bounds():
    policy = SquashedGaussian(4, 2, (16,))
    _, log_std = policy(torch.randn(64, 4) * 1e6)
    assert log_std.min() == LOG_STD_MIN
    assert log_std.max() == LOG_STD_MAX


@pytest.mark.parametrize("members", [1, 2, 10])
def test_ensemble_equals_its_members_computed_one_by_one(members):
    critic = EnsembleCritic(3, 2, (8, 8), members)
    obs, act = torch.randn(5, 3), torch.randn(5, 2)
    values = critic(obs, act)
    assert values.shape == (members, 5)
    for member in range(members):
        x = torch.cat((obs, act), -1)
        for layer in critic.layers[:-1]:
            x = torch.relu(x @ layer.weight[member] + layer.bias[member])
        last = critic.layers[-1]
        x = x @ last.weight[member] + last.bias[member]
        torch.testing.assert_close(values[member], x[:, 0])


def test_members_start_different_and_learn_apart():
    critic = EnsembleCritic(3, 2, (8,), 2)
    obs, act = torch.randn(5, 3), torch.randn(5, 2)
    values = critic(obs, act)
    assert not torch.allclose(values[0], values[1])
    values[0].sum().backward()
    for parameter in critic.parameters():
        assert parameter.grad[0].abs().sum() > 0
        assert parameter.grad[1].abs().sum() == 0


def test_ensemble_layers_start_as_linear_layers_do():
    layer, reference = EnsembleLinear(2, 400, 300), torch.nn.Linear(400, 300)
    for ours, theirs in ((layer.weight, reference.weight), (layer.bias, reference.bias)):
        torch.testing.assert_close(ours.abs().max(), theirs.abs().max(), rtol=0.02, atol=0)
        torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.1, atol=0)


def test_mlp_has_no_activation_after_its_last_layer():
    layers = mlp([3, 4, 2])
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear"]
    assert layers(torch.randn(7, 3)).shape == (7, 2)
