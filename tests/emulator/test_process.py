"""One process of a container: its exit code, its family, and that no other process is taken for it."""

import os
import subprocess

import pytest

from emulator.process import NotExecutable, Process, start_time
from harness.wait import until

ENV = {"PATH": os.environ["PATH"]}


def run(script, folder):
    return Process.start(["bash", "-c", script], ENV, folder)


def test_the_exit_code_is_kept_whoever_starts_a_process_meanwhile(tmp_path):
    process = run("exit 3", tmp_path)
    until(lambda: start_time(process.pid) is None)
    subprocess.run(["true"], check=True)
    assert process.poll() == 3
    assert process.poll() == 3


def test_a_signal_that_ended_it_is_the_negative_exit_code(tmp_path):
    process = run("kill -TERM $$", tmp_path)
    assert until(process.poll) == -15


def test_nothing_is_left_of_a_process_whose_end_was_seen(tmp_path):
    process = run("exit 0", tmp_path)
    until(lambda: process.poll() is not None)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_kill_takes_all_that_it_started_along_even_what_ignores_signals(tmp_path):
    process = run("trap '' TERM HUP; sleep 100 & setsid -f true; echo $! >child; wait", tmp_path)
    child = int(until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text()))
    process.kill()
    assert process.poll() == -9
    assert start_time(child) is None


def test_another_process_of_the_same_id_is_neither_seen_nor_killed():
    other = subprocess.Popen(["sleep", "100"], start_new_session=True)
    try:
        impostor = Process(other.pid, (start_time(other.pid) or 0) + 1)
        assert impostor.poll() == -1
        impostor.kill()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_output_of_both_kinds_is_added_to_the_log(tmp_path):
    (tmp_path / "log").write_text("before\n")
    process = run("echo out; echo err >&2", tmp_path)
    until(lambda: process.poll() is not None)
    assert (tmp_path / "log").read_text() == "before\nout\nerr\n"


def test_a_program_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotExecutable, match="no-such-program"):
        Process.start(["no-such-program"], ENV, tmp_path)
