"""Malicious files in a process with little memory: each is refused in a message, and nothing else happens."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recordings import dataset_of, schema_like
from tmrl.datasets import export, files

CHILD = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
from tmrl.datasets import open_dataset
from tmrl.errors import DatasetError
outcomes = {}
for path in sys.argv[1:]:
    try:
        for episode in open_dataset(path).episodes():
            episode.rows.tobytes()
        outcomes[path] = "was read"
    except DatasetError as error:
        outcomes[path] = None
    except BaseException as error:
        outcomes[path] = repr(error)
print(json.dumps(outcomes))
"""


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("hacked",)


def npz_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("obs.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": (1 << 29,)}
        )
        for _ in range(1 << 9):
            stream.write(bytes(1 << 20))


def forged(path: Path, **changes: Any) -> None:
    export(dataset_of(schema_like(1.0), [4]), path)
    body, _ = files.read_manifest(path)
    files.replace_manifest(path, body | changes)


def minari_bomb(path: Path) -> None:
    export(dataset_of(schema_like(1.0), [4]), path, to="minari")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/actions"]
        file["episode_0"].create_dataset("actions", (1 << 36,), np.float64, chunks=(1 << 10,))


@pytest.mark.skipif(os.name == "nt", reason="limits memory in the manner of POSIX")
def test_malicious_files_are_refused_within_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    for name, code in (("code", Code()), ("objects", [np.array([Code()], object)] * 6)):
        (folder / name).mkdir()
        (folder / name / "data.pkl").write_bytes(pickle.dumps(code))
    npz_bomb(folder / "bomb.npz")
    np.savez(folder / "objects.npz", obs=np.array([Code()], object))
    huge = {"name": "0", "n_rows": 1 << 47, "rows_crc": 0, "checks_crc": 0}
    counts = {"rows": [1 << 47], "origin": [0], "gaps": [], "changes": []}
    forged(folder / "huge", segments=[huge], episodes=counts)
    forged(folder / "escaping", segments=[huge | {"name": "../../thesis", "n_rows": 4}])
    leaf = {"dtype": "float32", "shape": [1 << 30]}
    forged(folder / "schema", schema={"obs": leaf, "act": leaf, "info": [], "with_crc": False})
    box = {"Box": {"dtype": "float32", "shape": [1 << 30], "low": 0, "high": 1}}
    forged(folder / "space", environment={"id": None, "observation_space": box})
    minari_bomb(folder / "minari")
    (folder / "memory").mkdir()
    files.replace_manifest(folder / "memory", {"kind": "snapshot", "schema": None, "state": {"tally": []}})
    (folder / "deep").mkdir()
    (folder / "deep" / "manifest.json").write_text("[" * 100_000)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, sorted(folder.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    outcomes = json.loads(ended.stdout)
    assert len(outcomes) == 11
    assert {path: outcome for path, outcome in outcomes.items() if outcome is not None} == {}
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
