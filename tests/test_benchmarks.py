"""The benchmarks' workloads and our side of them run; speed itself is never asserted in a test."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import bench_network
import bench_sampling
import contenders
import network_report
import report
import results
from limit import Limit, index_select, take
from line_processes import Line
from timing import interleaved
from workloads import WORKLOADS, samples

SMALL = 40


@pytest.mark.parametrize("name", WORKLOADS)
def test_an_episode_is_the_same_whenever_it_is_made(name):
    workload = WORKLOADS[name].with_capacity(SMALL)
    one, other = workload.episode(3), workload.episode(3)
    for column, again in zip((*one.obs, one.act, one.rew), (*other.obs, other.act, other.rew), strict=True):
        np.testing.assert_array_equal(column, again)
    assert len(samples(one)) == workload.episode_length + 1


@pytest.mark.parametrize("name", WORKLOADS)
def test_our_memory_hands_out_what_the_workload_stored(name):
    workload = WORKLOADS[name].with_capacity(SMALL)
    ours = contenders.Tmrl(workload)
    bench_sampling.fill([ours], workload)
    assert SMALL - workload.episodes_to_fill <= len(ours.memory) <= SMALL
    contenders.check(ours, workload, batch_size=64)


def test_the_check_notices_a_wrong_next_observation():
    workload = WORKLOADS["W1"].with_capacity(SMALL)
    ours = contenders.Tmrl(workload)
    bench_sampling.fill([ours], workload)

    class Wrong(contenders.Contender):
        name = "wrong"

        def sampler(self, batch_size):
            prev_obs, act, rew, _, *flags = ours.sampler(batch_size)()
            return lambda: (prev_obs, act, rew, prev_obs, *flags)

    with pytest.raises(AssertionError, match="wrong"):
        contenders.check(Wrong(), workload)


@pytest.mark.parametrize("gather", [take, index_select])
def test_the_limit_gathers_rows_that_follow_each_other(gather):
    workload = WORKLOADS["W1"].with_capacity(SMALL)
    limit = Limit(workload)
    limit.rows["rew"] = np.arange(len(limit.rows))
    block = np.asarray(gather(limit.rows, 8)()).reshape(-1).view(workload.row)
    np.testing.assert_array_equal(block["rew"][8:], block["rew"][:8] + 1)


def test_contenders_take_turns():
    calls = []
    seconds = interleaved({name: lambda name=name: calls.append(name) for name in "AB"}, rounds=2, turn_s=0)
    assert list(seconds) == ["A", "B"]
    assert "".join(calls).endswith("AABB" + "BBAA")


def test_a_miss_stands_in_the_table():
    seconds = {"limit, np.take": 1e-5, "tmrl": 9e-5, "cpprb": 1e-4, "Tianshou": 2e-4}
    measured = results.Results("2 cores", "2026-01-01", {"torch": "2"}, {"W1": {256: seconds}})
    page = report.page(measured)
    assert "fastest peer (cpprb) | 0.9 | at most 0.4 | **not reached** |" in page
    assert "| cpprb | 100.0 |" in page


def test_the_line_carries_what_its_benchmark_sends_and_stands_in_the_page(tmp_path):
    bench_network._make_credentials(tmp_path / "line")
    line = Line("98 bytes", tmp_path / "line", packs=True, spool=None, serves=True, n_parcels=3)
    measured = bench_network.measure_line(line)
    assert measured.samples_per_s > 0
    assert measured.cpu_s_per_gb.keys() == {"workers", "trainer"}
    kinds = dict.fromkeys((network_report.NEAREST, bench_network.PICKLES), measured)
    network = bench_network.NetworkResults(dict.fromkeys(bench_network.PARCELS, kinds), 0.1, {"RAM": 0.002})
    page = report.page(results.Results("2 cores", "2026-01-01", {"torch": "2"}, network=network))
    assert (
        "| line, `send` with no network, outbox in RAM, p99 | 2 ms | at most 1 ms | **not reached** |" in page
    )
    assert f"| {bench_network.PICKLES} | {measured.samples_per_s:,.0f} | 1.0 |" in page
