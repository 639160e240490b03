"""The command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xpmlp
from xpmlp.backends import BACKENDS, Probe, State
from xpmlp.cli import main, table


def test_backends_prints_a_table(capsys):
    assert main(["backends"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["backend", "version", "state", "devices"]
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == list(BACKENDS)


def test_backends_prints_json_for_programs(capsys):
    assert main(["backends", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(BACKENDS)
    assert found["numpy"]["state"] == "ok"
    assert found["numpy"]["devices"] == ["cpu"]
    assert set(found["numpy"]) == {"state", "version", "devices", "message", "hint"}


def test_the_table_fits_80_columns_and_says_what_to_do():
    found = {
        "numpy": Probe(State.OK, "2.4.6", ("cpu",), "NumPy 2.4.6 works on cpu", ""),
        "cupy": Probe(State.LIBRARIES_MISSING, "14.2.0", ("cuda:0",), "one word " * 20, "pip install 'xpmlp[cuda13]'"),
        "array_api_strict": Probe(State.OK, "2.6.1", tuple(f"device{i}" for i in range(9)), "", ""),
        "jax": Probe(State.NOT_INSTALLED, None, (), "JAX is not installed", "pip install 'xpmlp[jax]'"),
    }
    lines = table(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert "numpy             2.4.6    ok                 cpu" in lines
    assert "jax               -        not installed      -" in lines
    assert "    What to do: pip install 'xpmlp[cuda13]'." in lines


def test_without_a_command_it_helps(capsys):
    assert main([]) == 0
    assert "usage: python -m xpmlp" in capsys.readouterr().out


def test_a_command_that_does_not_exist_has_status_2(capsys):
    with pytest.raises(SystemExit) as left:
        main(["frontends"])
    assert left.value.code == 2
    assert "invalid choice: 'frontends'" in capsys.readouterr().err


def test_it_runs_as_a_module():
    path = os.pathsep.join(filter(None, [str(Path(xpmlp.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "xpmlp", "--help"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert "backends" in done.stdout
