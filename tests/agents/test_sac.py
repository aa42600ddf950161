import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tmrl.agents import SACAgent, SquashedGaussianActor
from tmrl.agents.sac import residual_loss

OBS_SPACE = spaces.Box(-1, 1, (3,), np.float32)
ACT_SPACE = spaces.Box(np.float32([-2, 0]), np.float32([2, 1]), dtype=np.float32)
SIZE = 32


@pytest.fixture(autouse=True)
def seed_and_one_thread():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def agent():
    return SACAgent(OBS_SPACE, ACT_SPACE, "cpu", hidden=(16, 16), lr=1e-2)


class WeightedBatch(tuple):
    weights = None


def weighted(six, weights):
    batch = WeightedBatch(six)
    batch.weights = weights
    return batch


def make_batch():
    low, high = torch.from_numpy(ACT_SPACE.low), torch.from_numpy(ACT_SPACE.high)
    act = low + torch.rand(SIZE, 2) * (high - low)
    return (
        torch.randn(SIZE, 3),
        act,
        torch.randn(SIZE),
        torch.randn(SIZE, 3),
        torch.zeros(SIZE),
        torch.zeros(SIZE),
    )


def snapshot(module):
    return deepcopy(module.state_dict())


def is_unchanged(module, before):
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def critic_metric(agent, batch):
    torch.manual_seed(1)
    return deepcopy(agent).train(batch)["loss_critic"].item()


def test_targets_equal_a_plain_loop_over_equations_2_and_3(agent):
    agent.log_temperature.data.fill_(math.log(0.3))
    for parameter in agent.target_critics.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    batch = make_batch()
    terminated = (torch.arange(SIZE) % 3 == 0).float()
    torch.manual_seed(1)
    found = agent.targets(batch[2], batch[3], terminated)
    torch.manual_seed(1)
    with torch.no_grad():
        act, log_prob = agent.actor.policy.sample(batch[3])
        for i in range(SIZE):
            first, second = agent.target_critics(batch[3][i : i + 1], act[i : i + 1])[:, 0].tolist()
            value = min(first, second) - 0.3 * log_prob[i].item()
            future = 0.0 if terminated[i] else 0.99 * value
            assert found[i].item() == pytest.approx(batch[2][i].item() + future, abs=1e-5)
    assert not found.requires_grad


def test_truncation_bootstraps_and_termination_does_not(agent):
    """B01: an episode that was cut short still has a future."""
    batch = make_batch()
    plain = critic_metric(agent, batch)
    assert critic_metric(agent, (*batch[:5], torch.ones(SIZE))) == plain
    assert critic_metric(agent, (*batch[:4], torch.ones(SIZE), batch[5])) != plain
    torch.testing.assert_close(agent.targets(batch[2], batch[3], torch.ones(SIZE)), batch[2])


def test_importance_weights_reach_the_critics_gradient(agent):
    """B32: the loss is weighted, sample by sample."""
    weights = torch.rand(SIZE)
    batch = make_batch()
    values, target = torch.randn(2, SIZE), torch.randn(SIZE)
    expected = sum(
        weights[i] * (values[member, i] - target[i]) ** 2 / 2 / SIZE
        for member in range(2)
        for i in range(SIZE)
    )
    torch.testing.assert_close(residual_loss(values, target, weights), expected)
    unweighted = critic_metric(agent, batch)
    assert critic_metric(agent, weighted(batch, torch.ones(SIZE))) == unweighted
    assert critic_metric(agent, weighted(batch, weights)) != unweighted
    before = snapshot(agent.critics)
    agent.train(weighted(batch, torch.zeros(SIZE)))
    assert is_unchanged(agent.critics, before)


def test_training_reports_losses_and_state(agent):
    assert set(agent.train(make_batch())) == {
        "loss_critic",
        "loss_actor",
        "q_value",
        "entropy",
        "temperature",
    }


def test_policy_loss_leaves_the_critics_gradients_alone(agent):
    """The critics' step is the gradient of the residual alone, compared with a step computed apart."""
    batch = make_batch()
    twin = deepcopy(agent)
    torch.manual_seed(1)
    agent.train(batch)
    torch.manual_seed(1)
    target = twin.targets(batch[2], batch[3], batch[4])
    unit_act = (batch[1] - torch.tensor([0.0, 0.5])) / torch.tensor([2.0, 0.5])
    loss = (0.5 * (twin.critics(batch[0], unit_act) - target) ** 2).mean(1).sum()
    expected = torch.autograd.grad(loss, list(twin.critics.parameters()))
    for parameter, gradient in zip(agent.critics.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


def test_policy_step_is_the_gradient_of_equation_9_with_the_new_critics(agent):
    batch = make_batch()
    twin = deepcopy(agent)
    torch.manual_seed(1)
    agent.train(batch)
    torch.manual_seed(1)
    twin.targets(batch[2], batch[3], batch[4])  # draws the same noise first
    act, log_prob = twin.actor.policy.sample(batch[0])
    values = agent.critics(batch[0], act)
    loss = (1.0 * log_prob - torch.minimum(values[0], values[1])).mean()
    expected = torch.autograd.grad(loss, list(twin.actor.policy.parameters()))
    for parameter, gradient in zip(agent.actor.policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


def test_target_critics_get_no_gradient_and_all_networks_can_still_learn(agent):
    agent.train(make_batch())
    assert all(parameter.grad is None for parameter in agent.target_critics.parameters())
    assert all(parameter.requires_grad for parameter in agent.critics.parameters())
    for module in (agent.critics, agent.actor.policy):
        before = snapshot(module)
        agent.train(make_batch())
        assert not is_unchanged(module, before)


@pytest.mark.parametrize(("entropy", "direction"), [(-5.0, +1), (+5.0, -1)])
def test_temperature_rises_when_the_entropy_is_below_its_target_and_falls_above(agent, entropy, direction):
    agent.target_entropy = 0.0
    loss = agent.temperature_loss(torch.full((SIZE,), -entropy, requires_grad=True))
    loss.backward()
    assert loss.item() == pytest.approx(entropy, abs=1e-5)  # alpha is 1
    assert torch.sign(-agent.log_temperature.grad) == direction


def test_training_moves_the_temperature_towards_the_target_entropy(agent):
    for target, direction in ((100.0, 1), (-100.0, -1)):
        agent.target_entropy = target
        before = agent.log_temperature.item()
        agent.train(make_batch())
        assert math.copysign(1, agent.log_temperature.item() - before) == direction


def test_target_entropy_is_minus_the_size_of_the_action_unless_given(agent):
    assert agent.target_entropy == -2.0
    assert SACAgent(OBS_SPACE, ACT_SPACE, target_entropy=-0.5).target_entropy == -0.5


def test_targets_track_the_critics_by_exactly_tau(agent):
    for parameter in agent.critics.parameters():
        parameter.data.normal_()
    before = [parameter.clone() for parameter in agent.target_critics.parameters()]
    agent.track_targets()
    trios = zip(agent.target_critics.parameters(), before, agent.critics.parameters(), strict=True)
    for target, old, source in trios:
        torch.testing.assert_close(target, 0.995 * old + 0.005 * source.detach())


def test_targets_start_equal_and_move_once_per_update(agent):
    assert is_unchanged(agent.target_critics, snapshot(agent.critics))
    before = snapshot(agent.target_critics)
    agent.train(make_batch())
    for name, target in agent.target_critics.state_dict().items():
        expected = before[name].lerp(agent.critics.state_dict()[name], 0.005)
        torch.testing.assert_close(target, expected)


def test_actor_stays_within_the_bounds_and_explores_only_in_training():
    actor = SquashedGaussianActor(OBS_SPACE, ACT_SPACE)
    obs = np.zeros(3, np.float32)
    draws = [actor.act_(obs) for _ in range(200)]
    assert all(ACT_SPACE.contains(act) for act in draws)
    assert np.ptp(draws, axis=0) == pytest.approx([4.0, 1.0], rel=0.3)
    assert np.array_equal(actor.act_(obs, test=True), actor.act_(obs, test=True))


def test_actor_and_agent_take_nested_observations():
    space = spaces.Dict({"speed": spaces.Box(-1, 1, (2,)), "history": spaces.Tuple([ACT_SPACE, ACT_SPACE])})
    agent = SACAgent(space, ACT_SPACE, hidden=(8,))
    obs = {"speed": torch.randn(4, 2), "history": (torch.randn(4, 2), torch.randn(4, 2))}
    agent.train((obs, torch.zeros(4, 2), torch.zeros(4), obs, torch.zeros(4), torch.zeros(4)))
    space.seed(0)
    assert ACT_SPACE.contains(agent.get_actor().act_(space.sample()))


def test_actor_of_an_agent_is_saved_and_loaded(agent, tmp_path):
    agent.get_actor().save(tmp_path / "policy.safetensors")
    other = SquashedGaussianActor(OBS_SPACE, ACT_SPACE, hidden=(16, 16))
    other = other.load(tmp_path / "policy.safetensors", "cpu")
    obs = np.ones(3, np.float32)
    assert np.array_equal(other.act_(obs, test=True), agent.get_actor().act_(obs, test=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
        ({"tau": 0.0}, r"tau must be in \(0, 1\], got 0.0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"initial_temperature": -1.0}, "initial_temperature must be above 0, got -1.0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SACAgent(OBS_SPACE, ACT_SPACE, **arguments)


def test_agent_learns_to_reach_the_point_it_sees():
    """One step, one component: the best action equals the observation, and the best return is 0."""
    space = spaces.Box(-1, 1, (1,), np.float32)
    agent = SACAgent(space, space, hidden=(32, 32), lr=3e-3, initial_temperature=0.1, target_entropy=-2.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        obs, act = torch.rand(2, 128, 1, generator=generator) * 2 - 1
        rew = -((act - obs) ** 2)[:, 0]
        agent.train((obs, act, rew, obs, torch.ones(128), torch.zeros(128)))
    grid = np.linspace(-0.9, 0.9, 19, dtype=np.float32)[:, None]
    acts = np.stack([agent.get_actor().act_(obs, test=True) for obs in grid])
    assert np.abs(acts - grid).mean() < 0.1
