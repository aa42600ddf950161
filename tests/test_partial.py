"""`partial` and the documented old path."""

from typing import Any

import pytest

from tmrl import util
from tmrl.collate import collate_torch
from tmrl.partial import partial


def engine(cylinders: int = 4, fuel: str = "petrol") -> Any:
    return cylinders, fuel


def car(name: str, motor: Any = engine, wheels: int = 4) -> Any:
    return name, motor(), wheels


def test_it_is_a_partial() -> None:
    assert partial(car, "a", wheels=3)() == ("a", (4, "petrol"), 3)


def test_a_nested_partial_configures_the_default_of_its_argument() -> None:
    assert partial(car, "a", motor=partial(cylinders=8))() == ("a", (8, "petrol"), 4)


def test_nests_may_be_deep_and_defaults_may_be_partials() -> None:
    named = partial(car, "a", motor=partial(cylinders=8))

    def fleet(car: Any = named) -> Any:
        return car()

    assert partial(fleet, car=partial(wheels=6))() == ("a", (8, "petrol"), 6)

    def garage(fleet: Any = fleet) -> Any:
        return fleet()

    assert partial(garage, fleet=partial(car=partial(wheels=2)))()[2] == 2


def test_an_argument_without_a_default_cannot_be_configured() -> None:
    with pytest.raises(ValueError, match=r"name=partial\(...\) needs an argument 'name' with a default"):
        partial(car, name=partial(x=1))
    with pytest.raises(ValueError, match="needs an argument 'doors' with a default"):
        partial(car, doors=partial(x=1))


def test_a_partial_of_nothing_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="stands for the default of an argument of another partial"):
        partial(cylinders=8)()


def test_the_old_path_leads_to_the_same_functions() -> None:
    assert util.partial is partial
    assert util.collate_torch is collate_torch
