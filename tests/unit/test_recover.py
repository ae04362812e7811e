"""Which copy of a state that was cut off is restored; where the state's folder is, and whether it has room."""

import json
import os
import resource

import pytest

from components.state_folder import room_problem, state_folder
from ops.exits import OpsError
from ops.recover import remove_broken_attributes, restore


def state(*urns):
    latest = {"manifest": {}, "resources": [{"urn": urn, "inputs": {"text": 'a "]}" of its own'}} for urn in urns]}
    return json.dumps({"version": 3, "checkpoint": {"stack": "s", "latest": latest}})


@pytest.fixture
def folder(tmp_path):
    for part in ("stacks/p", "backups/p/s", "history/p/s"):
        (tmp_path / part).mkdir(parents=True)
    return tmp_path


def urns(folder):
    return [
        one["urn"] for one in json.loads((folder / "stacks/p/s.json").read_text())["checkpoint"]["latest"]["resources"]
    ]


def cut(folder, name, text, at=0.7):
    (folder / name).write_text(text[: int(len(text) * at)])


def test_a_state_that_can_be_read_is_left_as_it_is(folder):
    (folder / "stacks/p/s.json").write_text(state("a", "b"))
    (folder / "stacks/p/s.json.bak").write_text(state("a"))
    restore(folder, "p", "s")
    assert urns(folder) == ["a", "b"]


def test_the_copy_beside_a_state_is_taken_first_and_what_was_cut_off_is_kept(folder):
    cut(folder, "stacks/p/s.json", state("a", "b", "c"))
    (folder / "stacks/p/s.json.bak").write_text(state("a", "b"))
    (folder / "backups/p/s/s.17.json").write_text(state("a"))
    assert restore(folder, "p", "s").endswith("stacks/p/s.json.bak")
    assert urns(folder) == ["a", "b"]
    assert (folder / "stacks/p/s.json.cut-off").exists()


def test_where_that_one_is_cut_off_too_the_newest_of_an_earlier_update_is_taken(folder):
    for name in ("stacks/p/s.json", "stacks/p/s.json.bak", "backups/p/s/s.19.json"):
        cut(folder, name, state("a", "b", "c"))
    for age, name in ((9, "backups/p/s/s.17.json"), (5, "history/p/s/s-18.checkpoint.json")):
        (folder / name).write_text(state(name))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    restore(folder, "p", "s")
    assert urns(folder) == ["history/p/s/s-18.checkpoint.json"]


@pytest.mark.parametrize(("at", "left"), [(0.99, ["a", "b", "c"]), (0.8, ["a", "b"]), (0.6, ["a"])])
def test_without_a_whole_copy_the_resources_that_a_cut_off_one_has_whole_are_taken(folder, at, left):
    cut(folder, "stacks/p/s.json", state("a", "b", "c"), at)
    restore(folder, "p", "s")
    assert urns(folder) == left


def test_of_files_that_are_empty_no_state_is_made(folder):
    for name in ("stacks/p/s.json", "stacks/p/s.json.bak"):
        (folder / name).write_text("")
    assert "empty now" in restore(folder, "p", "s")
    assert not (folder / "stacks/p/s.json").exists()


@pytest.mark.parametrize("text", ["", '{"user.cache_control":"","us'])
def test_attributes_that_a_killed_pulumi_has_not_completed_are_removed(folder, text):
    (folder / "stacks/p/s.json").write_text(state("a"))
    (folder / "stacks/p/s.json.attrs").write_text(text)
    (folder / "history/p/s/s-18.checkpoint.json.attrs").write_text('{"md5": "x"}')
    remove_broken_attributes(folder)
    assert [path.name for path in folder.glob("**/*.attrs")] == ["s-18.checkpoint.json.attrs"]
    assert restore(folder, "p", "s") == "the state is complete"


def test_a_compressed_state_is_left_alone(folder):
    (folder / "stacks/p/s.json.gz").write_bytes(b"\x1f\x8b")
    (folder / "stacks/p/s.json.bak").write_text(state("a"))
    with pytest.raises(OpsError, match="is compressed"):
        restore(folder, "p", "s")
    assert not (folder / "stacks/p/s.json").exists()


def test_the_folder_is_that_of_the_environment_else_of_the_project_else_of_the_login(tmp_path):
    project, home = tmp_path / "project", tmp_path / "home"
    (home / ".pulumi").mkdir(parents=True)
    project.mkdir()
    file = project / "Pulumi.yaml"
    file.write_text("name: p\n")
    env = {"HOME": str(home)}
    assert state_folder(env, project) is None
    (home / ".pulumi" / "credentials.json").write_text('{"current": "file://~/state"}')
    assert state_folder(env, project) == home / "state"
    file.write_text("name: p\nbackend: {url: 'file://./here'}\n")
    assert state_folder(env, project) == project / "here"
    assert (
        state_folder({**env, "PULUMI_BACKEND_URL": "file:///srv/a%20b?metadata=skip"}, project).as_posix() == "/srv/a b"
    )
    assert state_folder({**env, "PULUMI_BACKEND_URL": "s3://bucket"}, project) is None


def test_a_folder_without_room_or_that_is_not_there_is_a_problem_and_nothing_is_left_of_looking(tmp_path):
    assert room_problem(tmp_path) == ""
    assert "No such file" in room_problem(tmp_path / "nowhere")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        assert "File too large" in room_problem(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
