from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tmrl.agents import REDQAgent, SACAgent
from tmrl.agents.networks import EnsembleCritic, EnsembleLayerNorm
from tmrl.training.state_file import check_state

OBS_SPACE = spaces.Box(-1, 1, (3,), np.float32)
ACT_SPACE = spaces.Box(-2, 2, (2,), np.float32)
SIZE = 16
OPTIONS = {"hidden": (16, 16), "lr": 1e-2}


class Extended(tuple):
    discounts = None
    weights = None


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_batch(**beside):
    act = torch.rand(SIZE, 2) * 4 - 2
    zeros = torch.zeros(SIZE)
    batch = Extended((torch.randn(SIZE, 3), act, torch.randn(SIZE), torch.randn(SIZE, 3), zeros, zeros))
    for name, value in beside.items():
        setattr(batch, name, value)
    return batch


def spread_targets(agent):
    for parameter in agent.target_critics.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.5)


def test_targets_take_the_smallest_of_a_random_subset_of_the_critics():
    """Algorithm 1, lines 7 and 8, in a plain loop over the same random numbers."""
    agent = SACAgent(OBS_SPACE, ACT_SPACE, n_critics=7, n_target=3, **OPTIONS)
    spread_targets(agent)
    batch = make_batch()
    torch.manual_seed(1)
    found = agent.targets(batch[2], batch[3], torch.zeros(SIZE))
    torch.manual_seed(1)
    with torch.no_grad():
        act, log_prob = agent.actor.policy.sample(batch[3])
        members = torch.randperm(7)[:3].tolist()
        values = agent.target_critics(batch[3], act)
    assert len(set(members)) == 3
    for i in range(SIZE):
        value = min(values[member, i].item() for member in members) - log_prob[i].item()
        assert found[i].item() == pytest.approx(batch[2][i].item() + 0.99 * value, abs=1e-5)


def test_every_critic_has_its_turn_in_the_subset():
    """With one critic a target, each of five has its turn; missing one has a chance below 5 * 0.8**100."""
    agent = SACAgent(OBS_SPACE, ACT_SPACE, n_critics=5, n_target=1, **OPTIONS)
    spread_targets(agent)
    agent.log_temperature.data.fill_(-50.0)
    agent.actor.policy.body[-1].weight.data.zero_()
    agent.actor.policy.body[-1].bias.data.fill_(-20.0)  # always the same action
    obs = torch.randn(1, 3)
    seen = {round(agent.targets(torch.zeros(1), obs, torch.zeros(1)).item(), 4) for _ in range(100)}
    act = torch.full((1, 2), torch.tanh(torch.tensor(-20.0)).item())
    values = 0.99 * agent.target_critics(obs, act)[:, 0]
    assert seen == {round(value, 4) for value in values.tolist()}


def test_all_critics_learn_towards_one_target():
    agent = SACAgent(OBS_SPACE, ACT_SPACE, n_critics=5, n_target=2, **OPTIONS)
    agent.train(make_batch())
    for parameter in agent.critics.parameters():
        assert all(parameter.grad[member].abs().sum() > 0 for member in range(5))


def test_policy_rises_along_the_mean_of_all_critics_every_so_many_updates():
    """Algorithm 1, line 11; the gradient is computed apart with the new critics."""
    agent = REDQAgent(OBS_SPACE, ACT_SPACE, n_critics=4, policy_delay=3, **OPTIONS)
    sac = agent.sac
    policy = [parameter.clone() for parameter in sac.actor.policy.parameters()]
    names = [set(agent.train(make_batch())) for _ in range(2)]
    assert names == [{"loss_critic", "q_value"}] * 2
    assert all(torch.equal(a, b) for a, b in zip(policy, sac.actor.policy.parameters(), strict=True))
    temperature, batch = sac.log_temperature.exp().item(), make_batch()
    drawn = {}
    sample = sac.actor.policy.sample

    def noting(obs):
        drawn["state"] = torch.get_rng_state()
        return sample(obs)

    sac.actor.policy.sample = noting
    assert "loss_actor" in agent.train(batch)
    gradients = [parameter.grad.clone() for parameter in sac.actor.policy.parameters()]
    torch.set_rng_state(drawn["state"])
    with torch.no_grad():
        for parameter, old in zip(sac.actor.policy.parameters(), policy, strict=True):
            parameter.copy_(old)
    unit, log_prob = sample(batch[0])
    loss = (temperature * log_prob - sac.critics(batch[0], unit).mean(0)).mean()
    expected = torch.autograd.grad(loss, list(sac.actor.policy.parameters()))
    for found, gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


def test_the_discounts_of_n_step_returns_reach_the_targets():
    """B11."""
    agent = SACAgent(OBS_SPACE, ACT_SPACE, **OPTIONS)
    zeros = torch.zeros(SIZE)
    batch = make_batch(discounts=zeros)
    values = agent.critics(batch[0], agent.actor.unit_box.from_action(batch[1])).detach()
    agent.train(batch)
    expected = (values - batch[2]).abs().mean(0)  # nothing of the future is left
    torch.testing.assert_close(agent.td_errors, expected)


@pytest.mark.parametrize("make", [SACAgent, REDQAgent])
def test_errors_are_the_mean_distance_of_the_critics_from_their_target_unweighted(make):
    agent = make(OBS_SPACE, ACT_SPACE, **OPTIONS)
    sac = getattr(agent, "sac", agent)
    assert agent.td_errors is None
    batch = make_batch(weights=torch.rand(SIZE))
    values = sac.critics(batch[0], sac.actor.unit_box.from_action(batch[1])).detach()
    torch.manual_seed(1)
    target = sac.targets(batch[2], batch[3], batch[4])
    torch.manual_seed(1)
    agent.train(batch)
    assert agent.td_errors.shape == (SIZE,)
    assert not agent.td_errors.requires_grad
    for i in range(SIZE):
        errors = [abs(value - target[i].item()) for value in values[:, i].tolist()]
        assert agent.td_errors[i].item() == pytest.approx(sum(errors) / len(errors), abs=1e-5)


def test_layer_normalisation_equals_that_of_torch_member_by_member():
    norm = EnsembleLayerNorm(3, 8)
    norm.weight.data.uniform_(), norm.bias.data.uniform_()
    x = torch.randn(3, 5, 8) * 7 + 3
    for member in range(3):
        weight, bias = norm.weight[member, 0], norm.bias[member, 0]
        expected = torch.nn.functional.layer_norm(x[member], (8,), weight, bias)
        torch.testing.assert_close(norm(x)[member], expected)


def test_layer_normalisation_bounds_the_values_of_far_away_actions():
    """Ball et al. 2023, equation 2: the value is at most the norm of the last layer's weights."""
    obs, far = torch.zeros(1, 3), torch.full((1, 2), 1e6)
    plain, normed = (EnsembleCritic(3, 2, (64, 64), 2, layer_norm) for layer_norm in (False, True))
    assert plain(obs, far).abs().max() > 1e3
    last = normed.layers[-1]
    bound = last.weight.norm(dim=1).amax() * 64**0.5 + last.bias.abs().amax()
    assert normed(obs, far).abs().max() <= bound
    assert len(list(plain.parameters())) == 6
    assert len(list(normed.parameters())) == 10


def test_defaults_are_those_of_the_paper():
    agent = REDQAgent(OBS_SPACE, ACT_SPACE, layer_norm=True, hidden=(8,)).sac
    assert (agent.critics.members, agent.n_target, agent.policy_delay) == (10, 2, 20)
    assert (agent.policy_value, agent.gamma, agent.tau) == ("mean", 0.99, 0.005)
    assert isinstance(agent.critics.norms[0], EnsembleLayerNorm)


def test_a_checkpoint_holds_the_whole_agent_and_not_its_errors():
    agents = [REDQAgent(OBS_SPACE, ACT_SPACE, policy_delay=2, **OPTIONS) for _ in range(2)]
    batch = make_batch()
    agents[0].train(batch)
    state = agents[0].state_dict()
    check_state(state)
    assert "td_errors" not in state
    agents[1].load_state_dict(deepcopy(state))
    metrics = []
    for agent in agents:
        torch.manual_seed(1)
        metrics.append(agent.train(batch))
    assert metrics[0] == metrics[1]
    assert "loss_actor" in metrics[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_critics": 0}, "n_critics must be at least 1, got 0"),
        ({"n_critics": 3, "n_target": 4}, "n_target must be in 1 to n_critics=3, got 4"),
        ({"n_target": 0}, "n_target must be in 1 to n_critics=2, got 0"),
        ({"policy_delay": 0}, "policy_delay must be at least 1, got 0"),
    ],
)
def test_ensembles_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SACAgent(OBS_SPACE, ACT_SPACE, **arguments)
