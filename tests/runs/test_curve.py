import numpy as np
import pytest

from tmrl.runs.curve import CurvePoint, draw_curve, moving_average


def test_moving_average_is_that_of_the_last_values():
    values = np.random.default_rng(0).normal(size=25).tolist()
    expected = [np.mean(values[max(0, end - 10) : end]) for end in range(1, 26)]
    assert moving_average(values) == pytest.approx(expected)
    assert moving_average([]) == []


@pytest.mark.parametrize("episodes", [0, 1, 30])
def test_a_curve_is_drawn_of_any_number_of_episodes(tmp_path, episodes):
    points = [CurvePoint(200 * n, -1500.0 / (n + 1), is_test=n % 5 == 0) for n in range(episodes)]
    draw_curve(
        tmp_path / "curve.png", "SAC", points, target=-250.0, final_returns=[-150.0] if episodes else []
    )
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
