from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tmrl.agents import DQNActor, DQNAgent
from tmrl.agents.dqn import huber_loss
from tmrl.agents.q_network import DuelingHead, QNetwork
from tmrl.training.state_file import check_state

OBS_SPACE = spaces.Box(-1, 1, (3,), np.float32)
ACT_SPACE = spaces.Discrete(4)
SIZE = 16


class Extended(tuple):
    discounts = None
    weights = None


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_agent(**options):
    agent = DQNAgent(OBS_SPACE, ACT_SPACE, **{"hidden": (16,), "lr": 1e-2, **options})
    for parameter in agent.target_network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.5)
    return agent


def make_batch(**beside):
    act, terminated = torch.randint(4, (SIZE,)), (torch.arange(SIZE) % 3 == 0).float()
    parts = (torch.randn(SIZE, 3), act, torch.randn(SIZE), torch.randn(SIZE, 3), terminated)
    batch = Extended((*parts, torch.zeros(SIZE)))
    for name, value in beside.items():
        setattr(batch, name, value)
    return batch


@pytest.mark.parametrize("is_double", [True, False])
def test_targets_equal_a_plain_loop_over_the_equation(is_double):
    """Van Hasselt et al. 2016, equation 4, and Mnih et al. 2015: who chooses the next action."""
    agent, batch = make_agent(is_double=is_double), make_batch()
    found = agent.targets(batch[2], batch[3], batch[4])
    for i in range(SIZE):
        online = agent.actor.network(batch[3][i : i + 1])[0].tolist()
        target = agent.target_network(batch[3][i : i + 1])[0].tolist()
        judge = online if is_double else target
        value = target[judge.index(max(judge))]
        expected = batch[2][i].item() + (0.0 if batch[4][i] else 0.99 * value)
        assert found[i].item() == pytest.approx(expected, abs=1e-5)
    assert not found.requires_grad


def test_double_targets_are_not_the_single_ones():
    agent, batch = make_agent(), make_batch()
    double = agent.targets(batch[2], batch[3], batch[4])
    agent.is_double = False
    single = agent.targets(batch[2], batch[3], batch[4])
    assert (single >= double - 1e-6).all()
    assert (single > double + 1e-3).any()


def test_truncation_bootstraps_and_termination_does_not():
    """B01: an episode that was cut short still has a future."""
    losses = []
    for flags in ((0, 0), (0, 1), (1, 0)):
        torch.manual_seed(0)
        agent, batch = make_agent(), make_batch()
        terminated, truncated = (torch.full((SIZE,), float(flag)) for flag in flags)
        losses.append(agent.train((*batch[:4], terminated, truncated))["loss"].item())
    assert losses[0] == losses[1] != losses[2]


def test_the_discounts_of_n_step_returns_reach_the_targets():
    """B11."""
    agent = make_agent()
    batch = make_batch(discounts=torch.full((SIZE,), 0.5))
    expected = agent.targets(batch[2], batch[3], batch[4], 0.5)
    values = agent.actor.network(batch[0]).detach()[torch.arange(SIZE), batch[1]]
    agent.train(batch)
    torch.testing.assert_close(agent.td_errors, (values - expected).abs())


def test_the_loss_is_hubers_of_the_action_taken_weighted_sample_by_sample():
    """B32."""
    agent, weights = make_agent(), torch.rand(SIZE)
    batch = make_batch(weights=weights)
    target = agent.targets(batch[2], batch[3], batch[4]).tolist()
    values = agent.actor.network(batch[0])
    expected = 0.0
    for i in range(SIZE):
        error = abs(values[i, batch[1][i]].item() - target[i])
        huber = error**2 / 2 if error <= 1 else error - 0.5
        expected += weights[i].item() * huber / SIZE
    metrics = agent.train(batch)
    assert metrics["loss"].item() == pytest.approx(expected, abs=1e-5)
    assert set(metrics) == {"loss", "q_value", "epsilon"}
    assert agent.td_errors.shape == (SIZE,)
    before = {name: value.clone() for name, value in agent.actor.network.state_dict().items()}
    fresh = make_agent()
    fresh.actor.network.load_state_dict(before)
    fresh.train(make_batch(weights=torch.zeros(SIZE)))
    assert all(torch.equal(value, before[name]) for name, value in fresh.actor.network.state_dict().items())


def test_hubers_gradient_is_the_clipped_error():
    values = torch.tensor([0.0, 0.5, -0.5, 7.0, -7.0], requires_grad=True)
    (huber_loss(values, torch.zeros(5)) * 5).backward()
    torch.testing.assert_close(values.grad, torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0]))


def test_the_two_streams_are_identifiable():
    """Wang et al. 2016, equation 9: the mean over the actions is V, whatever is added to the advantages."""
    head, features = DuelingHead(5, (8,), 3), torch.randn(6, 5)
    values, state_value = head(features), head.value(features)
    torch.testing.assert_close(values.mean(-1, keepdim=True), state_value)
    head.advantage[-1].bias.data += 100.0
    torch.testing.assert_close(head(features), values, rtol=0, atol=1e-4)
    assert (head.value(features) == state_value).all()
    advantage = head.advantage(features)
    for i in range(6):
        for j in range(3):
            expected = state_value[i, 0] + advantage[i, j] - sum(advantage[i, k] for k in range(3)) / 3
            torch.testing.assert_close(head(features)[i, j], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("period", "tau", "moves"), [(1, 0.1, [True] * 4), (3, 1.0, [False, False, True, False])]
)
def test_the_target_moves_by_polyak_averaging_or_is_a_copy_now_and_then(period, tau, moves):
    agent = make_agent(target_period=period, tau=tau)
    for is_due in moves:
        before = [parameter.clone() for parameter in agent.target_network.parameters()]
        agent.train(make_batch())
        trios = zip(agent.target_network.parameters(), before, agent.actor.network.parameters(), strict=True)
        for target, old, source in trios:
            expected = old.lerp(source.detach(), tau) if is_due else old
            torch.testing.assert_close(target, expected)
            assert target.grad is None


def test_epsilon_falls_in_a_straight_line_and_travels_with_the_policy(tmp_path):
    agent = make_agent(initial_epsilon=0.9, final_epsilon=0.1, epsilon_updates=4)
    epsilons = [agent.actor.epsilon.item()]
    epsilons += [agent.train(make_batch())["epsilon"].item() for _ in range(6)]
    assert epsilons == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1, 0.1, 0.1])
    agent.get_actor().save(tmp_path / "policy.safetensors")
    other = DQNActor(OBS_SPACE, ACT_SPACE, hidden=(16,)).load(tmp_path / "policy.safetensors", "cpu")
    assert other.epsilon.item() == pytest.approx(0.1)
    obs = np.ones(3, np.float32)
    assert other.act_(obs, test=True) == agent.get_actor().act_(obs, test=True)


def test_the_actor_explores_as_often_as_epsilon_says_and_never_in_a_test():
    """2,000 draws; 0.3 * 3/4 of them differ from the best, within five standard deviations."""
    actor, obs = DQNActor(OBS_SPACE, ACT_SPACE, hidden=(8,)), np.ones(3, np.float32)
    actor.epsilon.fill_(0.3)
    best = actor.act_(obs, test=True)
    assert {actor.act_(obs, test=True) for _ in range(50)} == {best}
    others = sum(actor.act_(obs) != best for _ in range(2000))
    assert others == pytest.approx(2000 * 0.225, abs=5 * (2000 * 0.225 * 0.775) ** 0.5)


def test_actions_that_do_not_begin_at_zero_are_those_of_the_space():
    space = spaces.Discrete(3, start=5)
    agent = DQNAgent(OBS_SPACE, space, hidden=(8,))
    acts = [agent.get_actor().act_(np.ones(3, np.float32)) for _ in range(100)]
    assert {int(act) for act in acts} == {5, 6, 7}
    assert all(space.contains(act) for act in acts)
    assert agent.actor.index_of(torch.tensor([5, 7])).tolist() == [0, 2]
    batch = make_batch()
    agent.train((batch[0], torch.randint(5, 8, (SIZE,)), *batch[2:]))


@pytest.mark.parametrize("shape", [(84, 84), (3, 84, 84), (4, 84, 84), (4, 3, 40, 36)])
def test_images_go_through_the_convolutions_of_the_paper(shape):
    network = QNetwork(spaces.Box(0, 255, shape, np.uint8), 6)
    assert network(torch.randint(256, (2, *shape), dtype=torch.uint8)).shape == (2, 6)
    convolutions = [layer for layer in network.body.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        *((32, 8, 4), (64, 4, 2), (64, 3, 1))
    ]
    if shape[-2:] == (84, 84):
        assert network.head.value[0].in_features == 7 * 7 * 64
        assert network.head.value[0].out_features == 512


def test_images_are_scaled_within_the_network_and_stay_as_they_are():
    network = QNetwork(spaces.Box(0, 255, (4, 84, 84), np.uint8), 2)
    images = torch.randint(256, (3, 4, 84, 84), dtype=torch.uint8)
    seen = []
    network.body.layers.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    before = images.clone()
    network(images)
    torch.testing.assert_close(seen[0], images / 255)
    assert torch.equal(images, before)


def test_nested_and_stacked_vectors_become_one():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (4, 2)), "b": spaces.Tuple([spaces.Box(-1, 1, (4, 1))])})
    agent = DQNAgent(space, spaces.Discrete(2), hidden=(8,), is_dueling=False)
    obs = {"a": torch.randn(5, 4, 2), "b": (torch.randn(5, 4, 1),)}
    zeros = torch.zeros(5)
    agent.train((obs, torch.zeros(5, dtype=torch.int64), zeros, obs, zeros, zeros))
    assert agent.actor.act_(space.sample()) in (0, 1)


def test_a_checkpoint_holds_the_whole_agent():
    agents, batch = [make_agent(target_period=2) for _ in range(2)], make_batch()
    agents[0].train(batch)
    state = agents[0].state_dict()
    check_state(state)
    agents[1].load_state_dict(deepcopy(state))
    assert agents[0].train(batch) == agents[1].train(batch)
    assert agents[1].updates == 2


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (
            OBS_SPACE,
            spaces.Box(-1, 1, (2,)),
            "the action space must be Discrete for DQN, got Box.*, or an agent for continuous ones",
        ),
        (
            spaces.Box(0, 255, (84, 84, 3), np.uint8),
            ACT_SPACE,
            r"channels first and at least 36 x 36 pixels, got the shape \(84, 84, 3\); transpose",
        ),
        (spaces.Box(0, 255, (1, 35, 84), np.uint8), ACT_SPACE, "at least 36 x 36 pixels"),
        (spaces.Discrete(3), ACT_SPACE, "observation must be a Box for this agent"),
    ],
)
def test_spaces_that_do_not_suit_are_refused(observation_space, action_space, message):
    with pytest.raises(ValueError, match=message):
        DQNAgent(observation_space, action_space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": -0.1}, r"gamma must be in \[0, 1\], got -0.1"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"tau": 2.0}, r"tau must be in \(0, 1\], got 2.0"),
        ({"target_period": 0}, "target_period must be at least 1, got 0"),
        ({"initial_epsilon": 1.5}, r"initial_epsilon must be in \[0, 1\], got 1.5"),
        ({"final_epsilon": -1.0}, r"final_epsilon must be in \[0, 1\], got -1.0"),
        ({"epsilon_updates": 0}, "epsilon_updates must be at least 1, got 0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DQNAgent(OBS_SPACE, ACT_SPACE, **arguments)
