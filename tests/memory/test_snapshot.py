"""Saved and loaded memories go on as if nothing had happened, whatever happens to the files."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from damage import damage
from makers import buffer_of, plain_episode, stamped, with_crc
from nests import SampleMaker, is_identical, makers
from tmrl.datasets import files
from tmrl.errors import DatasetError, SchemaError
from tmrl.memory import ReplayMemory, snapshot
from tmrl.transition import Sample, Stamp
from twins import assert_goes_on_alike, contents

CAPACITY = 40


def memory_of(n: int, **kwargs: Any) -> ReplayMemory:
    """A memory to which `n` samples of three interleaved workers were appended."""
    memory = ReplayMemory(**{"memory_size": CAPACITY, "batch_size": 8, "seed": 0, **kwargs})
    append(memory, 0, n)
    return memory


def append(memory: ReplayMemory, start: int, stop: int) -> None:
    for i in range(start, stop):
        step, worker = divmod(i, 3)
        episode, episode_step = divmod(step, 7)
        obs = np.array([i], np.float32)
        values = (None if episode_step == 0 else -obs, obs, float(i), episode_step == 6, False, {})
        memory.append(buffer_of([Sample(values, Stamp(f"w{worker}", 1, step, episode, episode_step))]))


@pytest.mark.parametrize("n", [0, 4, 5, 20, CAPACITY, CAPACITY + 1, CAPACITY + 2, 2 * CAPACITY + 3, 200])
def test_load_and_go_on_is_the_same_as_not_having_stopped(n: int, tmp_path: Path) -> None:
    """B47, B48, B49: empty, partial, full, wrapped; mid-episode, streams interleaved; twice in a row."""
    memory = memory_of(n)
    if len(memory):
        memory.sample()
    for _ in range(2):
        memory.save(tmp_path)
        loaded = ReplayMemory.load(tmp_path)
        assert_goes_on_alike(memory, loaded)
        append(memory, n, n + 25)
        append(loaded, n, n + 25)
        n += 25
        assert_goes_on_alike(memory, loaded)
        memory = loaded


def test_resets_that_wait_for_a_first_action_are_saved(tmp_path: Path) -> None:
    """Saved before the memory has seen an action, with one worker's reset and another's default action."""
    memory, twin = ReplayMemory(batch_size=4, seed=0), ReplayMemory(batch_size=4, seed=0)
    ann, bob = stamped(plain_episode(3)), stamped(plain_episode(3, first=50), worker="bob")
    for each in (memory, twin):
        each.append(buffer_of(ann[:1]))
        each.append(buffer_of(bob[:1]), source="demo")
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path)
    for each in (loaded, twin):
        each.append(buffer_of(ann[1:]))
        each.append(buffer_of(bob[1:]), source="demo")
    assert len(loaded) == 6
    assert loaded.stats().sources["demo"].appended == 4
    assert_goes_on_alike(twin, loaded)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(make=makers())
def test_any_nest_and_dtype_survives(make: SampleMaker, tmp_path: Path) -> None:
    folder = tmp_path / str(make.seed)
    shutil.rmtree(folder, ignore_errors=True)
    memory = ReplayMemory(memory_size=10, batch_size=4, seed=1)
    memory.append(buffer_of(make(is_reset=i % 5 == 0, terminated=i % 5 == 4) for i in range(17)))
    memory.save(folder)
    loaded = ReplayMemory.load(folder)
    bits = [[np.asarray(leaf).tobytes() for leaf in _leaves(memory, i)] for i in range(len(memory))]
    assert bits == [[np.asarray(leaf).tobytes() for leaf in _leaves(loaded, i)] for i in range(len(loaded))]
    # The worker's own samples still fit, namedtuples of its own class included.
    loaded.append(buffer_of([make(is_reset=True), make(is_reset=False)]))


def _leaves(memory: ReplayMemory, index: int) -> list[Any]:
    import optree

    return optree.tree_leaves(memory.get_transition(index)[:4])


def test_checksums_and_info_are_saved(tmp_path: Path) -> None:
    episode = with_crc(stamped(plain_episode(6)))
    for sample in episode:
        sample[5]["success"] = True
    memory = ReplayMemory(crc_debug=True, info_keys=("success",), batch_size=4)
    memory.append(buffer_of(episode))
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path)
    assert loaded.sample().info["success"].all()
    assert loaded.stats().crc_checked == 4


def test_statistics_and_settings_are_saved_and_can_be_replaced(tmp_path: Path) -> None:
    """B51, B53: what is given at load wins."""
    memory = memory_of(100, nb_steps=3, contiguous=True)
    memory.stat_train_return = 5.5
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path, device="meta", batch_size=5, memory_size=12)
    assert (loaded.stat_train_return, loaded.nb_steps, loaded.contiguous) == (5.5, 3, True)
    assert loaded.sample().prev_obs.shape == (5, 1)
    assert loaded.sample().prev_obs.device.type == "meta"
    assert (loaded.memory_size, len(loaded) <= 12) == (12, True)
    assert is_identical(contents(memory)[-len(loaded) :], contents(loaded))


def test_loading_twice_does_not_double_anything(tmp_path: Path) -> None:
    """B50: a load makes a memory; it adds to none."""
    memory_of(30).save(tmp_path)
    assert len(ReplayMemory.load(tmp_path)) == len(ReplayMemory.load(tmp_path)) == len(memory_of(30))


def test_a_restore_replaces_what_is_there_and_keeps_what_the_memory_was_made_with(tmp_path: Path) -> None:
    """B50, B51, B53: other rows, another layout even; sizes, device and preprocessors stay."""
    memory = memory_of(100)
    memory.save(tmp_path / "full")
    memory_of(0).save(tmp_path / "empty")
    other = ReplayMemory(
        "meta", memory_size=20, batch_size=3, seed=9, batch_preprocessor=lambda batch: batch.rew
    )
    other.append(buffer_of(plain_episode(30)))
    other.sample()
    other.restore(tmp_path / "full")
    assert (other.memory_size, len(other) <= 20) == (20, True)
    assert is_identical(contents(memory)[-len(other) :], contents(other))
    assert (other.sample().shape, other.sample().device.type) == ((3,), "meta")
    other.restore(tmp_path / "empty")
    assert (len(other), other.stats().appended) == (0, 0)
    append(other, 0, 30)
    assert is_identical(contents(memory_of(30, memory_size=20)), contents(other))


def test_a_restore_into_a_memory_that_keeps_other_fields_is_refused(tmp_path: Path) -> None:
    memory_of(10).save(tmp_path)
    with pytest.raises(SchemaError, match="than this memory: crc_debug: expected True, found False"):
        ReplayMemory(crc_debug=True).restore(tmp_path)
    with pytest.raises(SchemaError, match=r"info_keys: expected \['success'\], found \[\]"):
        ReplayMemory.load(tmp_path, info_keys=("success",))


def test_duplicates_are_recognised_after_a_load(tmp_path: Path) -> None:
    memory = memory_of(30)
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path)
    append(loaded, 10, 30)
    assert loaded.stats().duplicates == 20
    assert is_identical(contents(memory), contents(loaded))


def test_saving_again_writes_only_what_is_new(tmp_path: Path) -> None:
    memory = memory_of(600, memory_size=640)
    memory.save(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    append(memory, 600, 625)
    memory.save(tmp_path)
    after = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    new = sum(np.load(tmp_path / name, mmap_mode="r").shape[0] for name in after.keys() - before.keys())
    assert new <= 2 * (25 + snapshot.segment_rows(641))
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    assert_goes_on_alike(memory, ReplayMemory.load(tmp_path))


def test_a_memory_can_be_saved_within_a_larger_document(tmp_path: Path) -> None:
    """Its segments are used again, too."""
    memory = memory_of(600, memory_size=640)
    memory.save(tmp_path, within={"kind": "checkpoint", "updates": 1})
    first = {file.name for file in tmp_path.glob("*.npy")}
    append(memory, 600, 625)
    memory.save(tmp_path, within={"kind": "checkpoint", "updates": 2})
    assert len(first & {file.name for file in tmp_path.glob("*.npy")}) >= 20
    assert files.read_manifest(tmp_path)[0]["updates"] == 2
    assert_goes_on_alike(memory, ReplayMemory.load(tmp_path))


def test_what_is_evicted_is_removed_from_the_folder(tmp_path: Path) -> None:
    memory = memory_of(100, memory_size=640)
    for stop in range(100, 3000, 100):
        append(memory, stop, stop + 100)
        memory.save(tmp_path)
    rows = sum(np.load(file, mmap_mode="r").shape[0] for file in tmp_path.glob("*.rows.npy"))
    assert 641 <= rows <= 641 * 1.05


def test_segments_of_somebody_else_are_not_used_again(tmp_path: Path) -> None:
    """Two memories that were loaded from one snapshot have the same ids for different rows."""
    memory_of(600, memory_size=640).save(tmp_path)
    first, second = ReplayMemory.load(tmp_path), ReplayMemory.load(tmp_path)
    append(first, 600, 700)
    first.save(tmp_path)
    second.append(buffer_of(plain_episode(150, first=5000)))
    second.save(tmp_path)
    assert_goes_on_alike(second, ReplayMemory.load(tmp_path))


@pytest.mark.parametrize("failing_call", range(12))
def test_a_save_that_fails_leaves_the_snapshot_that_was_there(
    failing_call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_of(100)
    memory.save(tmp_path)
    expected = contents(memory)
    append(memory, 100, 130)
    calls = 0
    sync = files.sync

    def full_disk(stream: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > failing_call:
            raise OSError(28, "No space left on device")
        sync(stream)

    monkeypatch.setattr(files, "sync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        memory.save(tmp_path)
    assert is_identical(expected, contents(ReplayMemory.load(tmp_path)))
    monkeypatch.undo()
    memory.save(tmp_path)
    assert_goes_on_alike(memory, ReplayMemory.load(tmp_path))
    named = {segment["name"] for segment in files.read_manifest(tmp_path)[0]["segments"]}
    assert {file.name.split(".")[0] for file in tmp_path.glob("*.npy")} == named


def test_one_flipped_bit_or_a_cut_file_is_reported(tmp_path: Path) -> None:
    """A hundred cases: refused with a message that names the file, never wrong data."""
    memory = memory_of(100)
    memory.save(tmp_path / "good")
    rng = np.random.default_rng(0)
    for case in range(100):
        folder = tmp_path / str(case)
        shutil.copytree(tmp_path / "good", folder)
        file = sorted(folder.iterdir())[rng.integers(len(list(folder.iterdir())))]
        damage(file, rng, is_cut=case % 4 == 0)
        loaded, message = load_or_refuse(folder)
        if loaded is None:
            assert str(folder) in message
        else:
            # Space between the values of a manifest may change without a change of what it says.
            assert is_identical(contents(memory), contents(loaded))
        shutil.rmtree(folder)


def load_or_refuse(folder: Path) -> tuple[ReplayMemory | None, str]:
    try:
        return ReplayMemory.load(folder), ""
    except DatasetError as error:
        return None, str(error)


def test_missing_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"must be a folder that this package wrote, but holds no manifest\.json"
    ):
        ReplayMemory.load(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        DatasetError, match=r"must be empty or written by this package, but holds 'thesis\.tex'"
    ):
        memory_of(10).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_missing_segment_is_named(tmp_path: Path) -> None:
    memory_of(10).save(tmp_path)
    next(tmp_path.glob("*.links.npy")).unlink()
    with pytest.raises(DatasetError, match=r"is incomplete: '.*links\.npy' is missing"):
        ReplayMemory.load(tmp_path)


def forge(folder: Path, **changes: Any) -> None:
    """Changes a manifest and makes its checksum right."""
    body, _ = files.read_manifest(folder)
    files.replace_manifest(folder, body | changes)


def test_newer_version_is_refused(tmp_path: Path) -> None:
    memory_of(10).save(tmp_path)
    forge(tmp_path, version=99)
    with pytest.raises(DatasetError, match="of version 99, this package reads up to 1; upgrade tmrl-memory"):
        ReplayMemory.load(tmp_path)


def test_segment_that_names_a_path_is_refused(tmp_path: Path) -> None:
    """Nothing outside the folder is opened."""
    memory_of(10).save(tmp_path / "run")
    body, _ = files.read_manifest(tmp_path / "run")
    segment = body["segments"][0]
    for file in (tmp_path / "run").glob(f"{segment['name']}*"):
        shutil.copy(file, tmp_path / file.name)
    forge(tmp_path / "run", segments=[segment | {"name": f"../{segment['name']}"}])
    with pytest.raises(DatasetError, match="is incomplete"):
        ReplayMemory.load(tmp_path / "run")


def test_manifest_that_contradicts_its_rows_is_refused(tmp_path: Path) -> None:
    memory_of(600, memory_size=640).save(tmp_path)
    body, _ = files.read_manifest(tmp_path)
    forge(tmp_path, segments=body["segments"][:3] + body["segments"][4:])
    with pytest.raises(DatasetError, match="its segments do not follow each other"):
        ReplayMemory.load(tmp_path)
    forge(tmp_path, segments=body["segments"], state=body["state"] | {"tally": []})
    with pytest.raises(DatasetError, match="the rows contradict their manifest"):
        ReplayMemory.load(tmp_path)
    for state in (None, {}, body["state"] | {"sampler": {"generator": {}, "numbers": ""}}):
        forge(tmp_path, state=state)
        with pytest.raises(DatasetError, match="the saved state must be what this package writes"):
            ReplayMemory.load(tmp_path)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    memory_of(10).save(tmp_path)
    file = next(tmp_path.glob("*.rows.npy"))
    np.save(file, np.array([print], object), allow_pickle=True)
    with pytest.raises(DatasetError, match="is damaged"):
        ReplayMemory.load(tmp_path)
    body, _ = files.read_manifest(tmp_path)
    segment = body["segments"][0] | {"name": file.name.split(".")[0], "rows_crc": crc32(file.read_bytes())}
    forge(tmp_path, segments=[segment])
    with pytest.raises(DatasetError, match="holds no plain array"):
        ReplayMemory.load(tmp_path)


def test_snapshot_can_be_moved(tmp_path: Path) -> None:
    memory = memory_of(50)
    memory.save(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert_goes_on_alike(memory, ReplayMemory.load(tmp_path / "there"))


def test_manifest_is_json_and_rows_are_plain_npy(tmp_path: Path) -> None:
    memory_of(10).save(tmp_path)
    schema = json.loads((tmp_path / "manifest.json").read_text())["body"]["schema"]
    assert schema["obs"] == {"dtype": "float32", "shape": [1]}
    rows = np.concatenate([np.load(file) for file in sorted(tmp_path.glob("*.rows.npy"))])
    assert rows["obs"].ravel().tolist() == list(range(10))


def test_two_threads_may_save_at_once(tmp_path: Path) -> None:
    memory = memory_of(100)
    threads = [threading.Thread(target=memory.save, args=(tmp_path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert_goes_on_alike(memory, ReplayMemory.load(tmp_path))


def test_a_save_that_is_outrun_makes_appends_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are evicted before they are copied; in the end the lock is held for the whole save."""
    memory = memory_of(100)
    copied = memory._state.copy_rows
    outrun = 0

    def evict_first(ids: range, source: str = "") -> Any:
        nonlocal outrun
        if outrun < 3:
            outrun += 1
            append(memory, 100 * outrun, 100 * outrun + 60)
        return copied(ids, source)

    monkeypatch.setattr(memory._state, "copy_rows", evict_first)
    memory.save(tmp_path)
    assert outrun == 3
    assert_goes_on_alike(memory, ReplayMemory.load(tmp_path))


def test_saving_while_another_thread_appends_saves_one_instant(tmp_path: Path) -> None:
    memory = memory_of(300, memory_size=200)
    stop = threading.Event()

    def keep_appending() -> None:
        i = 300
        while not stop.is_set():
            append(memory, i, i + 10)
            i += 10

    thread = threading.Thread(target=keep_appending)
    thread.start()
    try:
        for _ in range(10):
            memory.save(tmp_path)
            loaded = ReplayMemory.load(tmp_path)
            assert loaded.stats().rows == 201
            ids = loaded.take(range(len(loaded))).ids
            assert len(ids) > 150
            assert ids[-1] - ids[0] <= 201
            assert all(int(t[3][0]) == int(t[0][0]) + 3 for t in contents(loaded))
    finally:
        stop.set()
        thread.join(30)
