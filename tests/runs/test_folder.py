import re

import pytest

from tmrl.runs.folder import RunFolder


def test_two_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
    folders = {RunFolder.create(None, "ALE/Pong-v5", tmp_path).path for _ in range(3)}
    assert len(folders) == 3
    for folder in folders:
        assert re.fullmatch(r"ALE-Pong-v5-\d{8}-\d{6}(-\d)?", folder.name)
        assert folder.is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="--name must be the name of a folder to make in"):
        RunFolder.create(name, "Pendulum-v1", tmp_path)


def test_an_existing_name_is_refused(tmp_path):
    RunFolder.create("one", "Pendulum-v1", tmp_path)
    with pytest.raises(FileExistsError, match="one exists and is left as it is; give another --name"):
        RunFolder.create("one", "Pendulum-v1", tmp_path)
