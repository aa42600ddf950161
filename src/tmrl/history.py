"""Histories: which parts of an observation say again what earlier samples said, declared once for both ends.

A stack of frames holds one new frame, and a buffer of actions holds one new action, which the sample has
anyway. A `History` names such parts. The worker's compressor (`tmrl.compressor`) proves that they are what
they are said to be and leaves out what earlier samples hold; the memory cuts the whole observation from
several rows. Neither end has code of its own that could disagree with the other.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from optree import PyTreeSpec

from tmrl.errors import DatasetError, HistoryError
from tmrl.history_rules import ActionBuffer, Latest, Quantized, Rule, Stacked
from tmrl.nest import flatten, leaf_names, unflatten


@dataclass(frozen=True)
class History:
    """One declaration of what an observation repeats, for `RolloutWorker` and `ReplayMemory` alike.

    Args:
        spec: A rule for the whole observation, or a dict or tuple of rules beside it, nested as it is; a
            tuple stands for lists and namedtuples too. A rule stands for all leaves below it. An
            `ActionBuffer(k)` can be the last entry of the outermost tuple, and stands for `k` entries.

    Raises:
        TypeError: `spec` holds something else.
        ValueError: An `ActionBuffer` is anywhere else.
    """

    spec: Any

    def __post_init__(self) -> None:
        _check_spec("spec", self._rules)

    @property
    def n_actions(self) -> int:
        """Entries of the action buffer; 0 without one."""
        last = self.spec[-1] if isinstance(self.spec, tuple) and self.spec else None
        return last.k if isinstance(last, ActionBuffer) else 0

    @property
    def behind(self) -> int:
        """Rows before an observation's own that it is rebuilt from."""
        return max(self.n_actions, *(rule.depth for rule in _leaves_of(self._rules)), 1) - 1

    @property
    def _rules(self) -> Any:
        return self.spec[:-1] if self.n_actions else self.spec

    def split(self, obs: Any) -> tuple[Any, list[Any]]:
        """An observation without its action buffer, and the entries of that.

        Raises:
            HistoryError: It is too short, or neither a tuple nor a list.
        """
        n = self.n_actions
        if not n:
            return obs, []
        if type(obs) not in {tuple, list} or len(obs) < n:
            found = (
                f"{type(obs).__name__} of {len(obs)}" if isinstance(obs, tuple | list) else type(obs).__name__
            )
            raise HistoryError(
                f"obs must be a tuple or a list of at least {n} entries to end with an ActionBuffer({n}), "
                f"got a {found}; leave the ActionBuffer out, or return a tuple in an obs_preprocessor"
            )
        return obs[:-n], list(obs[-n:])

    @staticmethod
    def join(rest: Any, actions: list[Any]) -> Any:
        """The observation that `split` took apart."""
        return rest + type(rest)(actions) if actions else rest

    def rules(self, treespec: PyTreeSpec) -> list[Rule]:
        """The rule of each leaf of an observation without its action buffer.

        Raises:
            HistoryError: The observation is nested in another way.
        """
        rules: list[Rule] = []
        used: set[int] = set()
        for name, path in zip(leaf_names("obs", treespec), treespec.paths(), strict=True):
            node = self._rules
            for entry in path:
                if isinstance(node, Rule):
                    break
                is_there = entry in node if isinstance(node, dict) else entry in range(len(node))
                if not is_there:
                    raise HistoryError(
                        f"{name} has no rule in {self}; declare Latest() for what is kept as it is"
                    )
                node = node[entry]
            if not isinstance(node, Rule):
                raise HistoryError(
                    f"{name} is one array, but the spec of {self} goes further down; put a rule there"
                )
            rules.append(node)
            used.add(id(node))
        for rule in _leaves_of(self._rules):
            if id(rule) not in used:
                raise HistoryError(
                    f"obs has {len(rules)} leaves beside its action buffer, and none for {rule} in {self}; "
                    "nest the spec as the observation is"
                )
        return rules

    def kept(self, obs: Any) -> Any:
        """What is kept of an observation, without a proof that the rest can be rebuilt.

        Raises:
            HistoryError: It is not shaped as the history says.
        """
        leaves, treespec = flatten(self.split(obs)[0])
        named = zip(self.rules(treespec), leaves, leaf_names("obs", treespec), strict=True)
        return unflatten(treespec, [rule.kept(leaf, name) for rule, leaf, name in named])

    def to_json(self) -> Any:
        """This declaration as what `json.dumps` takes."""
        return _spec_to_json(self.spec)

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """The declaration that `to_json` wrote.

        Raises:
            DatasetError: It is no such document.
        """
        try:
            return cls(_spec_from_json(document))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DatasetError(f"a saved history must be what this package writes, but: {error!r}") from error


_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Latest, Quantized, Stacked, ActionBuffer)}


def _check_spec(name: str, spec: Any) -> None:
    if isinstance(spec, ActionBuffer):
        raise ValueError(  # noqa: TRY004 - a rule, in the wrong place
            f"an ActionBuffer must be the last entry of the outermost tuple, got one at {name}; move it "
            "there in an obs_preprocessor, or declare Latest()"
        )
    if isinstance(spec, dict | tuple):
        parts = spec.items() if isinstance(spec, dict) else enumerate(spec)
        for key, part in parts:
            _check_spec(f"{name}[{key!r}]", part)
    elif not isinstance(spec, Rule):
        raise TypeError(
            f"{name} must be a rule (Latest, Stacked, Quantized, ActionBuffer), or a dict or tuple of rules, "
            f"got {spec!r}"
        )


def _leaves_of(spec: Any) -> list[Rule]:
    if isinstance(spec, Rule):
        return [spec]
    parts = spec.values() if isinstance(spec, dict) else spec
    return [rule for part in parts for rule in _leaves_of(part)]


def _spec_to_json(spec: Any) -> Any:
    if isinstance(spec, dict):
        return {"dict": [[key, _spec_to_json(part)] for key, part in spec.items()]}
    if isinstance(spec, tuple):
        return {"tuple": [_spec_to_json(part) for part in spec]}
    values = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return {"kind": type(spec).__name__} | {
        name: _spec_to_json(value) if isinstance(value, Rule) else value for name, value in values.items()
    }


def _spec_from_json(document: Any) -> Any:
    if "dict" in document:
        return {key: _spec_from_json(part) for key, part in document["dict"]}
    if "tuple" in document:
        return tuple(_spec_from_json(part) for part in document["tuple"])
    values = {name: value for name, value in document.items() if name != "kind"}
    return _KINDS[document["kind"]](
        **{n: _spec_from_json(v) if isinstance(v, dict) else v for n, v in values.items()}
    )
