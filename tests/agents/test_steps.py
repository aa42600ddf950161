import pytest
import torch
from torch import nn

from tmrl.agents.steps import bootstrapped, check, discount_of, track, weights_of


class Extended(tuple):
    discounts = torch.tensor([0.9, 0.81])
    weights = torch.tensor([1.0, 0.5])


def test_the_discounts_of_a_batch_stand_in_for_gamma():
    assert discount_of((), 0.99) == 0.99
    assert discount_of(Extended(), 0.99) is Extended.discounts
    assert weights_of(()) is None
    assert weights_of(Extended()) is Extended.weights


def test_n_step_targets_use_each_samples_own_discount_and_stop_at_termination():
    """B11: two rewards summed up where the episode went on, one where it ended; computed by hand."""
    rew = torch.tensor([1.0 + 0.9 * 2.0, 3.0, 4.0])
    discounts = torch.tensor([0.81, 0.9, 0.9])
    terminated = torch.tensor([0.0, 1.0, 0.0])
    target = bootstrapped(rew, discounts, terminated, torch.tensor([10.0, 10.0, 10.0]))
    torch.testing.assert_close(target, torch.tensor([2.8 + 8.1, 3.0, 4.0 + 9.0]))


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_a_network_tracks_another_by_exactly_tau(tau):
    target, source = nn.Linear(3, 2), nn.Linear(3, 2)
    before = [parameter.clone() for parameter in target.parameters()]
    track(target, source, tau)
    for found, old, new in zip(target.parameters(), before, source.parameters(), strict=True):
        torch.testing.assert_close(found, (1 - tau) * old + tau * new)


def test_numbers_out_of_range_are_refused_by_name():
    check("lr", 0.1, is_valid=True, rule="above 0")
    with pytest.raises(ValueError, match=r"lr must be above 0, got 0\.0"):
        check("lr", 0.0, is_valid=False, rule="above 0")
