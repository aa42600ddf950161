"""RolloutWorker, as documented: the worker of `tmrl.worker`, which makes its own line to the server."""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tmrl.worker
from tmrl.actor import ActorModule
from tmrl.history import History
from tmrl.networking.delivery import WhenFull
from tmrl.retired import warn_retired
from tmrl.sink import Sink

if TYPE_CHECKING:
    from tmrl.networking.credentials import ClientCredential


class RolloutWorker(tmrl.worker.RolloutWorker):
    """Acts in an environment, sends its samples to a server, and takes the policies that come from there.

    Everything but the line is `tmrl.worker.RolloutWorker`, where the arguments not listed here are described.

    Args:
        env_cls, actor_module_cls, sample_compressor, device, max_samples_per_episode: See there.
        model_path, obs_preprocessor, crc_debug, model_path_history, model_history: See there.
        standalone: Whether the worker works without a line and keeps its samples in `buffer`.
        server_ip: Name or address of the server; by default this machine, or what the credential says.
        server_port: Its port; likewise.
        password, local_port, header_size, max_buf_len, security, keys_dir, hostname: Accepted and ignored,
            with one warning: they configured the original's transport.
        worker_id: Name; by default that of the credential, else the machine's and random characters.
        source, crc_samples, seed, allow_pickle, wait_limit_s, frame_stack, history: See there.
        sink: A line to use instead of one to a server.
        credential: File that `tmrl credentials worker` made, or what was read of it; needed where the server
            is another machine.
        outbox: Folder to keep samples in until they are safe with the server, each worker's in one of its
            own; or `ram`. By default `outbox` for a worker that has a name, by which it is found again, else
            `ram`.
        outbox_bytes: Most bytes to keep.
        when_full: Whether a full outbox makes the worker wait (`block`) or drops the oldest episodes
            (`drop`), as a real-time environment needs it.
        compress: Fields to compress, losslessly, as in `("obs",)`.
        close_s: How long `close` waits for samples to be safe with the server.

    Raises:
        ValueError: The server is another machine, and there is no credential.
    """

    def __init__(
        self,
        env_cls: Callable[[], Any],
        actor_module_cls: Callable[..., ActorModule],
        sample_compressor: Callable[..., tuple[Any, ...]] | None = None,
        device: Any = "cpu",
        max_samples_per_episode: float = np.inf,
        model_path: str | Path | None = None,
        obs_preprocessor: Callable[[Any], Any] | None = None,
        crc_debug: bool = False,
        model_path_history: str | Path | None = None,
        model_history: int = 0,
        standalone: bool = False,
        server_ip: str | None = None,
        server_port: int | None = None,
        password: Any = None,
        local_port: Any = None,
        header_size: Any = None,
        max_buf_len: Any = None,
        security: Any = None,
        keys_dir: Any = None,
        hostname: Any = None,
        *,
        worker_id: str | None = None,
        source: str = "online",
        crc_samples: bool = False,
        sink: Sink | None = None,
        seed: int | None = None,
        allow_pickle: bool = False,
        wait_limit_s: float = 600.0,
        frame_stack: int = 1,
        history: History | None = None,
        credential: "str | Path | ClientCredential | None" = None,
        outbox: str | Path | None = None,
        outbox_bytes: int = 10**9,
        when_full: WhenFull = "block",
        compress: Sequence[str] = (),
        close_s: float = 10.0,
    ) -> None:
        warn_retired(
            "RolloutWorker",
            "credential=",
            password=password,
            local_port=local_port,
            header_size=header_size,
            max_buf_len=max_buf_len,
            security=security,
            keys_dir=keys_dir,
            hostname=hostname,
        )
        if credential is not None:
            from tmrl.networking.connecting import credential_of

            credential = credential_of(credential)
            worker_id = credential.name if worker_id is None else worker_id
        super().__init__(
            env_cls,
            actor_module_cls,
            sample_compressor,
            device,
            max_samples_per_episode,
            model_path,
            obs_preprocessor,
            crc_debug,
            model_path_history,
            model_history,
            standalone=True,
            worker_id=worker_id,
            source=source,
            crc_samples=crc_samples,
            seed=seed,
            allow_pickle=allow_pickle,
            wait_limit_s=wait_limit_s,
            frame_stack=frame_stack,
            history=history,
        )
        self.sink, self._own_line = sink, None
        if sink is not None or standalone:
            return
        from tmrl.networking.connecting import connect_worker, outbox_place

        try:
            self.sink = self._own_line = connect_worker(
                self.worker_id,
                server_ip,
                server_port,
                credential,
                outbox_place(worker_id, outbox),
                outbox_bytes,
                when_full,
                compress,
                wait_limit_s,
                close_s,
            )
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        """Sends what is left, closes the environment, waits a little for samples to be safe, and hangs up."""
        with nullcontext() if self._own_line is None else closing(self._own_line):
            super().close()
