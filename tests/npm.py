"""Packages of npm for a test: those of a folder's package-lock.json, in a copy of the folder."""

import shutil
import subprocess

import pytest


def npm(folder, *args):
    done = subprocess.run(["npm", *args], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_with_packages(source, folder):
    """Copy the folder's files, and install its packages there; skip the test if there is no npm."""
    if not shutil.which("npm"):
        pytest.skip("no npm on PATH")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    npm(folder, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    return folder
