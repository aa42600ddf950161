"""The package as a whole: what importing it does, what it exports, and that its files stay readable."""

import ast
import importlib
import json
import logging
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tmrl

ROOT = Path(__file__).parents[1]
SOURCE = Path(tmrl.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = [
    "tmrl",
    *(m.name for m in pkgutil.walk_packages([str(SOURCE)], "tmrl.") if "__main__" not in m.name),
]
HEAVY = ("torch", "grpc", "ray", "matplotlib", "tensorboard", "rich", "tyro")

# Reports what the statement in argv[1] loaded, opened, wrote, connected and logged.
WITNESS = """
import json, logging, os, sys

source, events, reads = sys.argv[2], [], []

def watch(event, args):
    # The interpreter reads the modules themselves.
    if event == "open" and "importlib" not in sys._getframe(1).f_code.co_filename:
        events.append(f"open {args[0]}")
    elif event.startswith(("socket.", "subprocess.", "os.")) and event not in ("os.listdir", "os.scandir"):
        events.append(event)

class Environ(type(os.environ)):
    def __getitem__(self, key):
        frame = sys._getframe(1)
        while "_collections_abc" in frame.f_code.co_filename or frame.f_code.co_filename.endswith("os.py"):
            frame = frame.f_back
        if frame.f_code.co_filename.startswith(source) or "frozen os" in frame.f_code.co_filename:
            reads.append(key)
        return super().__getitem__(key)

os.environ.__class__ = Environ
sys.dont_write_bytecode = True
if sys.argv[3] == "watch":
    sys.addaudithook(watch)
before = dict(os.environ)
exec(sys.argv[1])
print(json.dumps({
    "modules": sorted(sys.modules),
    "events": events,
    "reads": reads,
    "is_environment_same": dict(os.environ) == before,
    "root_handlers": len(logging.getLogger().handlers),
    "our_loggers": [
        name for name, logger in logging.root.manager.loggerDict.items()
        if name.split(".")[0] == "tmrl" and isinstance(logger, logging.Logger)
        and (logger.handlers or logger.level or not logger.propagate)
    ],
}))
"""


def after(statement: str, watch: bool = False) -> dict[str, object]:
    """What a fresh interpreter looks like after a statement."""
    arguments = [statement, str(SOURCE), "watch" if watch else "no"]
    result = subprocess.run(
        [sys.executable, "-c", WITNESS, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "statement",
    [
        "import tmrl",
        "from tmrl.networking import Buffer",
        "import tmrl.chunk",
        "import tmrl.chunk_buffer",
        "import tmrl.networking.parcel",
        "import tmrl.packing",
        "import tmrl.schema",
        "import tmrl.integrity",
        "import tmrl.datasets",
        "import tmrl.datasets.damage",
        "import tmrl.inspection.contents",
        "import tmrl.memory.ring",
        "import tmrl.memory.streams",
        "import tmrl.memory.anchors",
        "import tmrl.memory.store",
        "from tmrl.memory import Epoch, Mixture, Prioritized, Recent, Uniform",
        "import tmrl; dir(tmrl)",
    ],
)
def test_light_parts_load_nothing_heavy(statement: str) -> None:
    modules = after(statement)["modules"]
    assert isinstance(modules, list)
    assert sorted({name.split(".")[0] for name in modules} & set(HEAVY)) == []


def test_package_alone_loads_not_even_numpy() -> None:
    modules = after("import tmrl")["modules"]
    assert isinstance(modules, list)
    assert "numpy" not in modules
    assert "gymnasium" not in modules


def test_importing_every_module_touches_nothing() -> None:
    """No file, socket, logger or environment variable, and no global configuration."""
    # What others do when they are loaded is their business, so they are loaded before.
    others = "import torch, gymnasium, optree, numpy, rich.live, tyro, safetensors.torch, matplotlib.figure"
    others += "\ntry:\n    import torch.utils.tensorboard\nexcept ImportError:\n    pass\n"
    ours = "\n".join(f"import {name}" for name in MODULES)
    found = after(
        f"{others}\nevents.clear(); reads.clear(); before.clear(); before.update(os.environ)\n{ours}", True
    )
    assert found["events"] == []
    assert found["reads"] == []
    assert found["is_environment_same"]
    assert found["root_handlers"] == 0
    assert found["our_loggers"] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_exported_name_resolves(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert [item for item in exported if not hasattr(module, item)] == []
    assert list(exported) == sorted(exported)
    assert len(set(exported)) == len(exported)
    if module.__file__ and module.__file__.endswith("__init__.py"):
        assert {item for item in exported if not item.startswith("__")} <= set(dir(module))


@pytest.mark.parametrize(
    "path",
    [
        *("tmrl.memory.Memory", "tmrl.memory.TorchMemory", "tmrl.memory.ReplayMemory", "tmrl.ReplayMemory"),
        *("tmrl.networking.Buffer", "tmrl.networking.RolloutWorker", "tmrl.networking.Trainer"),
        *("tmrl.training.TrainingAgent", "tmrl.training_offline.TrainingOffline"),
        *(
            "tmrl.training_offline.TorchTrainingOffline",
            "tmrl.actor.ActorModule",
            "tmrl.actor.TorchActorModule",
        ),
        *("tmrl.envs.GenericGymEnv", "tmrl.util.partial", "tmrl.util.collate_torch"),
    ],
)
def test_documented_path_works(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name).__doc__


def test_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="module 'tmrl' has no attribute 'Memoryy'"):
        tmrl.Memoryy  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tmrl.__version__ == project["version"]


def test_package_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_is_short_and_opens_with_a_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text))


def test_loggers_are_named_after_their_modules() -> None:
    for name in MODULES:
        logger = getattr(importlib.import_module(name), "logger", None)
        assert logger is None or (isinstance(logger, logging.Logger) and logger.name == name)
