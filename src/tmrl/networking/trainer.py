"""Trainer: runs a training from its first epoch, or from a checkpoint, to its last."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.retired import warn_retired
from tmrl.training.checkpoint import Checkpoint
from tmrl.training.offline import TrainingOffline
from tmrl.training.source import Line, SampleSource, attach, line_of

if TYPE_CHECKING:
    from tmrl.networking.credentials import ClientCredential

Dump = Callable[[TrainingOffline, Any], Any]
"""Writes a training to a path."""
Load = Callable[[Any], TrainingOffline]
"""Reads a training from a path."""
Updater = Callable[[TrainingOffline, Callable[[], TrainingOffline]], TrainingOffline]
"""Changes a training just loaded, given also what makes a new one."""


def iterate_epochs(
    run_cls: Callable[[], TrainingOffline],
    interface: SampleSource,
    checkpoint_path: str | Path | None = None,
    dump_run_instance_fn: Dump | None = None,
    load_run_instance_fn: Load | None = None,
    epochs_between_checkpoints: int = 1,
    updater_fn: Updater | None = None,
) -> Iterator[list[dict[str, float]]]:
    """Trains epoch by epoch.

    Args:
        run_cls: Makes a new training; not called if `load_run_instance_fn` reads one.
        interface: Where samples come from and policies go.
        checkpoint_path: The checkpoint to resume if it exists, and to write, at the start and after epochs;
            None reads and writes nothing. Without the two functions it is the folder of a `Checkpoint`.
        dump_run_instance_fn: Writes the training to the path instead.
        load_run_instance_fn: Reads it back.
        epochs_between_checkpoints: Epochs from one checkpoint to the next.
        updater_fn: Changes a training that was loaded, before it goes on.

    Yields:
        What `TrainingOffline.run_epoch` returned.

    Raises:
        ValueError: One of the two functions is missing.
        TypeError: The agent or the memory holds what cannot be saved; known at the start, or, for samples in
            a memory of the user's own, when the first have arrived.
    """
    if epochs_between_checkpoints < 1:
        raise ValueError(f"epochs_between_checkpoints must be at least 1, got {epochs_between_checkpoints}")
    checkpoint = _checkpoint(checkpoint_path, dump_run_instance_fn, load_run_instance_fn, line_of(interface))
    run = checkpoint.load(run_cls) if checkpoint else None
    if run is None:
        run = run_cls()
        if checkpoint:
            checkpoint.dump(run)
    elif updater_fn is not None:
        run = updater_fn(run, run_cls)
    attach(interface, run.memory)
    if isinstance(checkpoint, _Folder):
        interface = _CheckingSource(interface, checkpoint.folder, run)
    while run.epoch < run.epochs:
        yield run.run_epoch(interface)
        if checkpoint and run.epoch % epochs_between_checkpoints == 0:
            checkpoint.dump(run)


@dataclass(frozen=True, slots=True)
class _Functions:
    """A checkpoint that the caller's functions write and read."""

    path: str | Path
    dump_fn: Dump
    load_fn: Load

    def load(self, run_cls: Callable[[], TrainingOffline]) -> TrainingOffline | None:  # noqa: ARG002
        return self.load_fn(self.path) if Path(self.path).exists() else None

    def dump(self, run: TrainingOffline) -> None:
        self.dump_fn(run, self.path)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A checkpoint of ours."""

    folder: Checkpoint
    line: Line | None
    """Where samples come from, if that has to know what is safe."""

    def load(self, run_cls: Callable[[], TrainingOffline]) -> TrainingOffline | None:
        if not self.folder.exists:
            return None
        run = run_cls()
        notes = self.folder.load(run)
        if self.line is not None and notes:
            self.line.restore(notes["line"])
        return run

    def dump(self, run: TrainingOffline) -> None:
        self.folder.save(run, line=self.line)


def _checkpoint(
    path: str | Path | None, dump_fn: Dump | None, load_fn: Load | None, line: Line | None = None
) -> _Functions | _Folder | None:
    if (dump_fn is None) != (load_fn is None):
        raise ValueError(
            "dump_run_instance_fn and load_run_instance_fn must be given both or neither, got one; without "
            "them checkpoint_path is a folder that this package writes and reads"
        )
    if path is None:
        return None
    if dump_fn is None or load_fn is None:
        return _Folder(Checkpoint(path), line)
    return _Functions(path, dump_fn, load_fn)


class _CheckingSource:
    """A source that checks, once the first samples are in the memory, that they can be saved.

    Otherwise a memory of the user's own could hold the bad news back until the first epoch is over.
    """

    def __init__(self, source: SampleSource, checkpoint: Checkpoint, run: TrainingOffline) -> None:
        self.source = source
        self._checkpoint = checkpoint
        self._run = run
        self._is_checked = False

    def retrieve_buffer(self) -> Buffer:
        if not self._is_checked and self._run.total_samples:
            self._checkpoint.check(self._run)
            self._is_checked = True
        return self.source.retrieve_buffer()

    def broadcast_model(self, actor: ActorModule) -> None:
        self.source.broadcast_model(actor)


class Trainer:
    """Runs a training to its end.

    Args:
        training_cls: Makes the training, usually a `partial` of `TorchTrainingOffline`.
        server_ip: Name or address of the server; by default this machine, or what the credential says.
        server_port: Its port; likewise.
        password, local_com_port, header_size, max_buf_len, security, keys_dir, hostname: Accepted and
            ignored, with one warning: they configured the original's transport.
        model_path: File to which every policy is written before it is sent; None writes none.
        checkpoint_path: See `iterate_epochs`, as for the three after it.
        dump_run_instance_fn: Writes the training to the path instead.
        load_run_instance_fn: Reads it back.
        updater_fn: Changes a training that was loaded, before it goes on.
        source: Where samples come from and policies go, instead of a server; closed with the trainer if it
            can be.
        credential: File `trainer.json` that `tmrl credentials init` made, or what was read of it; needed
            where the server is another machine.

    Raises:
        ValueError: The server is another machine, and there is no credential.
    """

    def __init__(
        self,
        training_cls: Callable[[], TrainingOffline],
        server_ip: str | None = None,
        server_port: int | None = None,
        password: Any = None,
        local_com_port: Any = None,
        header_size: Any = None,
        max_buf_len: Any = None,
        security: Any = None,
        keys_dir: Any = None,
        hostname: Any = None,
        model_path: str | Path | None = None,
        checkpoint_path: str | Path | None = None,
        dump_run_instance_fn: Dump | None = None,
        load_run_instance_fn: Load | None = None,
        updater_fn: Updater | None = None,
        *,
        source: SampleSource | None = None,
        credential: "str | Path | ClientCredential | None" = None,
    ) -> None:
        warn_retired(
            "Trainer",
            "credential=",
            password=password,
            local_com_port=local_com_port,
            header_size=header_size,
            max_buf_len=max_buf_len,
            security=security,
            keys_dir=keys_dir,
            hostname=hostname,
        )
        _checkpoint(checkpoint_path, dump_run_instance_fn, load_run_instance_fn)
        if source is None:
            from tmrl.networking.connecting import connect_trainer

            source = connect_trainer(server_ip, server_port, credential)
        self._source = source
        self._epochs = partial(
            iterate_epochs,
            training_cls,
            source if model_path is None else _SavingSource(source, model_path),
            checkpoint_path,
            dump_run_instance_fn,
            load_run_instance_fn,
            updater_fn=updater_fn,
        )

    def run(self) -> None:
        """Trains until the last epoch is done; returns when it is."""
        for _ in self._epochs():
            pass

    def run_with_wandb(self, entity: str, project: str, run_id: str, key: str | None = None) -> None:
        """Trains as `run` does, and logs every round to Weights & Biases.

        Args:
            entity: Who owns the project there.
            project: Its name.
            run_id: Name of the run; a run of that name is resumed.
            key: API key; by default the one that `wandb login` has stored.

        Raises:
            ImportError: The extra is not installed.
        """
        try:
            import wandb  # pyright: ignore[reportMissingImports] - an extra
        except ImportError as error:
            raise ImportError(
                'run_with_wandb needs wandb, which is not installed; pip install "tmrl-memory[wandb]"'
            ) from error
        if key is not None:
            wandb.login(key=key)
        with wandb.init(entity=entity, project=project, id=run_id, resume="allow") as run:
            for epoch in self._epochs():
                for metrics in epoch:
                    run.log(metrics)

    def close(self) -> None:
        """Closes the source, if it has a `close()`."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _SavingSource:
    """A source that writes every policy to a file before it is sent."""

    def __init__(self, source: SampleSource, model_path: str | Path) -> None:
        self.source = source
        self._model_path = model_path

    def retrieve_buffer(self) -> Buffer:
        return self.source.retrieve_buffer()

    def broadcast_model(self, actor: ActorModule) -> None:
        actor.save(self._model_path)
        self.source.broadcast_model(actor)
