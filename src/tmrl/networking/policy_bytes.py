"""Policies as bytes: what an actor's own `save` writes and its own `load` reads, never a pickle."""

import tempfile
from pathlib import Path

from tmrl.actor import ActorModule
from tmrl.errors import PolicyError

FILE = "policy.safetensors"
"""The name tells a `TorchActorModule` which format to write and to expect."""


def save_policy(actor: ActorModule) -> bytes:
    """What the actor writes.

    Raises:
        PolicyError: It would write a pickle, which no line carries.
    """
    if type(actor).save is ActorModule.save:
        raise PolicyError(
            f"{type(actor).__name__} would be pickled, and no line carries pickles: to read one is to run "
            "it; override its save and load, or make it a TorchActorModule"
        )
    with tempfile.TemporaryDirectory(prefix="tmrl-") as folder:
        file = Path(folder) / FILE
        actor.save(file)
        return file.read_bytes()


def load_policy(actor: ActorModule, body: bytes | memoryview) -> ActorModule:
    """The policy that another actor of this class wrote.

    Raises:
        PolicyError: It is none.
    """
    with tempfile.TemporaryDirectory(prefix="tmrl-") as folder:
        file = Path(folder) / FILE
        file.write_bytes(body)
        try:
            return actor.load(file, getattr(actor, "device", "cpu"))
        except PolicyError:
            raise
        except Exception as error:
            raise PolicyError(
                f"a policy that came could not be read by {type(actor).__name__}.load: {error}"
            ) from error
