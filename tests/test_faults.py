"""Faults, injected: kill -9, a full disk, no permission, Ctrl-C, no memory, a callback that dies.

XPMLP_FAULTS=n makes the random ones n times as long (nox -s faults).
"""

from __future__ import annotations

import copy
import errno
import gc
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import xpmlp
from xpmlp import MLP, MLPRegressor, config_context
from xpmlp.backends import State, probe
from xpmlp.faults import holding_interrupts, out_of_memory, telling_of_memory
from xpmlp.io import storage

LONGER = int(os.environ.get("XPMLP_FAULTS", "1"))
posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


def child(code: str, *arguments: object, **more) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def run(code: str, *arguments: object, **more) -> str:
    process = child(code, *arguments, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def temporaries(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix == ".tmp")


@pytest.fixture
def net():
    return MLP([2, 4, 1], random_state=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def data(n=64, features=2):
    rng = np.random.default_rng(7)
    X = rng.normal(size=(n, features))
    return X, np.sin(X.sum(axis=1))


# --- A save that is killed ---

SAVER = """
    import os, sys
    import numpy as np
    from xpmlp import MLP
    path, size = sys.argv[1], int(sys.argv[2])
    # One process forks saver after saver, so that a hundred kills cost no hundred imports.
    for line in sys.stdin:
        if os.fork() == 0:
            net = MLP([8, size, 1], random_state=0)
            os.write(1, f"{os.getpid()}\\n".encode())
            i = 0
            while True:
                i += 1
                net._p[:] = i
                net.save(path)
        os.wait()
        os.write(1, b"dead\\n")
"""


@posix
@pytest.mark.parametrize("size", [50, 20_000], ids=["small", "1.6 MB"])
def test_a_save_killed_at_a_random_moment_leaves_the_old_file_or_the_new(size, path, rng):
    # 60 kills of each size, 120 in all; a save takes 1 to 20 ms here, so a kill falls into one, wherever it will.
    kills = 60 * LONGER
    saver = child(SAVER, path, size, stdin=subprocess.PIPE)
    found = orphans = 0
    last = 0.0
    try:
        for _ in range(kills):
            saver.stdin.write("go\n")
            saver.stdin.flush()
            pid = int(saver.stdout.readline())
            time.sleep(float(rng.uniform(0.0, 0.05)))
            os.kill(pid, signal.SIGKILL)
            assert saver.stdout.readline() == "dead\n"
            if path.exists():
                values = np.unique(xpmlp.load(path).parameters)
                assert len(values) == 1  # of one save, not of two
                last = values[0]
                found += 1
            orphans += len(temporaries(path.parent))
    finally:
        saver.kill()
        saver.communicate()
    assert found > kills // 2
    assert last >= 1.0
    assert orphans > 0  # the kills did fall into saves
    MLP([8, size, 1]).save(path)
    assert temporaries(path.parent) == []
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@posix
def test_the_killer_kills(path, rng):
    # The test is tested: written in place, files are found cut.
    how_not_to = "import xpmlp.io.storage as s; s.replacing = lambda path: open(path, 'wb')"
    code = SAVER.replace("for line", f"{how_not_to}\n    for line")
    saver = child(code, path, 20_000, stdin=subprocess.PIPE)
    broken = 0
    try:
        for _ in range(40):
            saver.stdin.write("go\n")
            saver.stdin.flush()
            pid = int(saver.stdout.readline())
            time.sleep(float(rng.uniform(0.0, 0.05)))
            os.kill(pid, signal.SIGKILL)
            assert saver.stdout.readline() == "dead\n"
            try:
                xpmlp.load(path)
            except (xpmlp.FileFormatError, FileNotFoundError):
                broken += 1
    finally:
        saver.kill()
        saver.communicate()
    assert broken > 0


# --- A save that the system refuses ---


@pytest.fixture
def written(net, path):
    net.save(path)
    return path.read_bytes()


def demand_untouched(path, written):
    assert path.read_bytes() == written
    xpmlp.load(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@posix
@pytest.mark.parametrize("limit", [0, 1, 100, 1000, 4096, 100_000])
def test_a_full_disk_leaves_the_old_file(limit, path, written):
    run(
        """
        import resource, sys
        import xpmlp
        net = xpmlp.MLP([2, 10_000, 1], random_state=2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        try:
            net.save(sys.argv[1])
        except OSError as error:
            assert error.errno == 27, error
        else:
            raise SystemExit("it was written")
        """,
        path,
        limit,
    )
    demand_untouched(path, written)


@pytest.mark.parametrize("step", ["open", "fsync", "replace", "chmod"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_whichever_call_the_system_refuses_the_old_file_stays(step, number, net, path, written, monkeypatch):
    def refused(*args, **more):
        raise OSError(number, os.strerror(number))

    net._p = net._p + 1.0
    with monkeypatch.context() as patch:
        patch.setattr(os, step, refused)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            net.save(path)
    demand_untouched(path, written)


@pytest.mark.parametrize("at", range(6))
def test_a_write_that_fails_part_of_the_way_leaves_the_old_file(at, net, path, written, monkeypatch):
    real = os.fdopen

    class Filling:
        def __init__(self, file):
            self.file, self.writes = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *problem):
            self.file.close()

        def write(self, some):
            if self.writes == at:
                self.file.write(bytes(some)[: len(some) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            self.writes += 1
            return self.file.write(some)

        def __getattr__(self, name):
            return getattr(self.file, name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda *args: Filling(real(*args)))
        if at < 5:  # the header and four arrays
            with pytest.raises(OSError, match="No space left"):
                net.save(path)
        else:
            net.save(path)
    demand_untouched(path, written)


@posix
def test_a_folder_or_file_without_permission_is_an_error_and_the_old_file_stays(path, written):
    # As another user than root, who may everything.
    code = """
        import os, sys
        import xpmlp
        net = xpmlp.MLP([2, 4, 1], random_state=9)
        from xpmlp.io import storage
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            net.save(sys.argv[1])
        except PermissionError:
            pass
        else:
            raise SystemExit("it was written")
        """
    for folder in [path.parent, *path.parents]:  # the folders above let another user through
        if folder.stat().st_uid == os.getuid() and "pytest" in folder.name:
            folder.chmod(0o755)
    run(code, path)
    path.parent.chmod(0o777)
    path.chmod(0o444)
    run(code, path)
    path.chmod(0o600)
    demand_untouched(path, written)


def test_a_folder_that_is_not_there_is_an_error(net, tmp_path):
    with pytest.raises(FileNotFoundError):
        net.save(tmp_path / "nowhere" / "net.safetensors")


@posix
def test_a_link_is_followed_and_the_mode_of_a_file_is_kept(net, tmp_path):
    real = tmp_path / "disk" / "real.safetensors"
    real.parent.mkdir()
    net.save(real)
    real.chmod(0o640)
    link = tmp_path / "link.safetensors"
    link.symlink_to(real)
    net._p = net._p + 1.0
    net.save(link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    np.testing.assert_array_equal(xpmlp.load(real).parameters, net.parameters)


@posix
def test_the_file_and_its_folder_are_synced_before_and_after_the_replacing(net, path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def note(*args, name=name, real=real):
            kind = name
            if name == "fsync":
                kind = "fsync folder" if os.path.isdir(f"/dev/fd/{args[0]}") else "fsync file"
            calls.append(kind)
            return real(*args)

        monkeypatch.setattr(os, name, note)
    net.save(path)
    assert calls == ["fsync file", "replace", "fsync folder"]


def test_only_orphans_of_the_same_file_are_removed(net, path):
    theirs = path.with_name(".other.safetensors.0123abcd.tmp")
    users = path.with_name(f".{path.name}.notes.tmp")
    orphan = path.with_name(f".{path.name}.0123abcd.tmp")
    for file in (theirs, users, orphan):
        file.write_bytes(b"x")
    net.save(path)
    assert theirs.exists()
    assert users.exists()
    assert not orphan.exists()


# --- Ctrl-C ---

FITTER = """
    import sys, time, warnings
    import numpy as np
    from xpmlp import MLP
    rng = np.random.default_rng(7)
    X = rng.normal(size=(200, 4)); y = np.sin(X.sum(axis=1))
    optimizer, mode = sys.argv[1], sys.argv[2]
    net = MLP([4, 16, 16, 1], random_state=1)
    options = {"early_stopping": mode == "early", "patience": 10**6, "optimizer": optimizer, "learning_rate": 1e-3}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        net.fit(X, y, epochs=2, **options)
        for round in sys.stdin:
            old = net.parameters.copy()
            epochs = len(net.history["loss"])
            seen.clear()
            try:
                print("go", flush=True)
                net.fit(X, y, epochs=10**7, **options)
                outcome = "warned" if any("interrupted" in str(w.message) for w in seen) else "silent"
            except KeyboardInterrupt:
                same = np.array_equal(old, net.parameters) and len(net.history["loss"]) == epochs
                outcome = "old" if same else "mixed"
            except BaseException as error:
                outcome = repr(error)
            usable = bool(np.all(np.isfinite(net.parameters)) and np.all(np.isfinite(net.predict(X))))
            lengths = {len(values) for values in net.history.values()}
            print(outcome, usable and len(lengths) == 1, flush=True)
"""


ESTIMATOR_FITTER = """
    import sys, warnings
    import numpy as np
    from xpmlp import MLPRegressor
    rng = np.random.default_rng(7)
    X = rng.normal(size=(2000, 4)); y = np.sin(3 * X.sum(axis=1)) + rng.normal(size=2000)
    parameters = {"max_iter": 10**7, "max_fun": 10**9, "tol": 0.0, "n_iter_no_change": np.inf}
    reg = MLPRegressor(hidden_layer_sizes=(64, 64), solver=sys.argv[1], max_iter=1, random_state=1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reg.fit(X, y)
        for round in sys.stdin:
            old = dict(vars(reg))
            seen.clear()
            reg.set_params(**parameters)
            try:
                print("go", flush=True)
                reg.fit(X, y)
                outcome = "warned" if any("interrupted" in str(w.message) for w in seen) else "silent"
            except KeyboardInterrupt:
                fitted = [name for name in old if name.endswith("_")]
                outcome = "old" if all(vars(reg)[name] is old[name] for name in fitted) else "mixed"
            except BaseException as error:
                outcome = repr(error)
            print(outcome, bool(np.all(np.isfinite(reg.predict(X)))), flush=True)
"""


@posix
@pytest.mark.parametrize("mode", ["plain", "early"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_ctrl_c_at_a_random_moment_leaves_a_usable_network(optimizer, mode, rng):
    process = child(FITTER, optimizer, mode, stdin=subprocess.PIPE)
    outcomes = []
    try:
        for _ in range(10 * LONGER):
            process.stdin.write("round\n")
            process.stdin.flush()
            assert process.stdout.readline() == "go\n", process.communicate()[1]
            time.sleep(float(rng.uniform(0.0, 0.03)))
            process.send_signal(signal.SIGINT)
            assert select.select([process.stdout], [], [], 60)[0], "Ctrl-C was not heard"
            outcomes.append(process.stdout.readline().split())
    finally:
        process.kill()
        process.communicate()
    assert all(outcome in ("warned", "old") and usable == "True" for outcome, usable in outcomes), outcomes


def test_a_second_ctrl_c_strikes_at_once_and_leaves_the_old_network():
    def press(net, epoch, logs):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    X, y = data()
    net = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=2)
    before, history = net.parameters.copy(), copy.deepcopy(net.history)
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=5, callbacks=[press])
    np.testing.assert_array_equal(net.parameters, before)
    assert net.history == history


@posix
def test_ctrl_c_in_the_middle_of_a_checkpoint_leaves_a_whole_one(tmp_path, monkeypatch):
    X, y = data()
    real, presses = os.fsync, []

    def press(descriptor):
        real(descriptor)
        if (tmp_path / "last.safetensors").exists() and not presses:
            presses.append(signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(os, "fsync", press)
    with pytest.warns(UserWarning, match="interrupted"):
        MLP([2, 4, 1], random_state=1).fit(X, y, epochs=50, checkpoint=tmp_path)
    monkeypatch.undo()
    whole = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=4)
    again = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=4, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(again.parameters, whole.parameters)


# --- Divergence ---


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_divergence_leaves_the_old_network_or_the_best_finite_one():
    X, y = data()
    net = MLP([2, 8, 1], activations="identity", random_state=1).fit(X, y, epochs=2)
    before, history = net.parameters.copy(), copy.deepcopy(net.history)
    with pytest.raises(xpmlp.DivergenceError, match="diverged in epoch"):
        net.fit(X * 1e3, y, epochs=50, optimizer="sgd", learning_rate=10.0, on_divergence="raise")
    np.testing.assert_array_equal(net.parameters, before)
    assert net.history == history
    with pytest.warns(xpmlp.DivergenceWarning, match=re.escape("The best finite weights were put back.")):
        net.fit(X * 1e3, y, epochs=50, optimizer="sgd", learning_rate=10.0)
    assert np.all(np.isfinite(net.parameters))


# --- Memory ---


def library_error(name: str) -> Exception:
    """What a library raises when an allocation fails, as made by itself where that can be had."""
    if name == "torch":
        import torch

        try:
            torch.empty(2**60)
        except RuntimeError as error:
            return error
    if name == "jax":
        import jax

        return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.")
    if name == "numpy":
        try:
            np.empty(2**56)
        except MemoryError as error:
            return error
    if name == "cupy":
        import cupy

        return cupy.cuda.memory.OutOfMemoryError(2**40, 2**30)
    return MemoryError()


def test_whichever_allocation_fails_it_is_one_memory_error_and_the_old_network(backend):
    # A function of the user's own is what every runner calls as it is; JAX calls it while it compiles, and only then.
    X, y = data()
    dtype = backend.dtypes[0]
    X, y = backend.put(X, dtype), backend.put(y, dtype)
    for k in range(1, 3 if backend.name == "jax" else 21):
        calls = []

        def square(z, k=k, calls=calls):
            calls.append(z.shape)
            if len(calls) == k:
                raise library_error(backend.name)
            return z * z

        net = MLP(
            [2, 4, 1],
            activations=[(square, lambda z, a: 2.0 * z), "identity"],
            backend=backend.name,
            device=backend.place.device_name,
            dtype=dtype,
            random_state=1,
        )
        before = backend.get(net.parameters).copy()
        told = pytest.raises(MemoryError, match=re.escape("training with batch_size=16: "))
        with told as caught, config_context(captured="never"):  # else one is called no more once it is captured
            net.fit(X, y, epochs=20, batch_size=16, validation_data=(X, y))
        assert type(caught.value) is MemoryError
        assert "Lower batch_size" in str(caught.value)
        assert len(calls) == k
        np.testing.assert_array_equal(backend.get(net.parameters), before)
        assert net.history == {}


@posix
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_memory_that_really_runs_out_is_told(name):
    if probe(name).state is not State.OK:
        pytest.skip(f"{name} cannot run here")
    out = run(
        """
        import resource, sys
        import numpy as np
        import xpmlp
        net = xpmlp.MLP([10, 1_000, 1_000, 1], backend=sys.argv[1], random_state=0)
        X = xpmlp.to_backend(np.ones((20_000, 10)), sys.argv[1])
        y = xpmlp.to_backend(np.ones(20_000), sys.argv[1])
        net.fit(X[:64, :], y[:64], epochs=1)
        old = xpmlp.to_numpy(net.parameters).copy()
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
        try:
            net.fit(X, y, batch_size=None, epochs=1)
        except MemoryError as error:
            print(type(error).__name__, error)
        assert np.array_equal(old, xpmlp.to_numpy(net.parameters))
        net.fit(X[:64, :], y[:64], epochs=1)
        """,
        name,
    )
    assert out.startswith("MemoryError not enough memory on ")
    assert "training with batch_size=20000" in out
    assert "Lower batch_size" in out


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "cupy"])
def test_every_library_is_understood(name):
    pytest.importorskip(name)
    assert out_of_memory(library_error(name))


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shapes differ"), KeyboardInterrupt()])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)), telling_of_memory("NumPy", "training", "Lower it."):
        raise error


def test_the_memory_error_does_not_keep_the_arrays_that_filled_the_memory():
    # An exception keeps its frames, and they keep their arrays (pytorch#18853).
    seen = []

    def greedy():
        array = np.ones(10)
        seen.append(weakref.ref(array))
        raise MemoryError

    try:
        with telling_of_memory("NumPy", "training", "Lower it."):
            greedy()
    except MemoryError as error:
        kept = error
        gc.collect()
        assert seen[0]() is None
    assert kept is not None


# --- Callbacks that die ---


def test_a_callback_that_dies_does_not_take_what_was_learned_with_it(tmp_path):
    class PlotError(Exception):
        pass

    def plot(net, epoch, logs):
        if epoch == 3:
            raise PlotError("no display")

    X, y = data()
    net = MLP([2, 4, 1], random_state=1)
    with pytest.raises(PlotError, match="no display") as caught:
        net.fit(X, y, epochs=10, callbacks=[plot], checkpoint=tmp_path)
    assert caught.value.__notes__ == ["Training ended here; the network keeps what it had learned in 3 epochs."]
    assert caught.traceback[-1].name == "plot"
    three = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=3)
    np.testing.assert_array_equal(net.parameters, three.parameters)
    assert net.history == three.history
    # And the run goes on from its checkpoint as if nothing had happened.
    ten = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=10)
    again = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=10, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(again.parameters, ten.parameters)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_callback_of_an_estimator_that_dies_does_not_take_what_was_learned_with_it(solver):
    class PlotError(Exception):
        pass

    def plot(estimator, epoch, logs):
        if epoch == 3:
            raise PlotError("no display")

    X, y = data()
    reg = MLPRegressor(hidden_layer_sizes=4, solver=solver, random_state=1, callbacks=plot)
    with pytest.raises(PlotError, match="no display") as caught:
        reg.fit(X, y)
    assert caught.value.__notes__ == ["Training ended here; the estimator keeps what it had learned in 3 epochs."]
    with pytest.warns(ConvergenceWarning):
        three = MLPRegressor(hidden_layer_sizes=4, solver=solver, random_state=1, max_iter=3).fit(X, y)
    np.testing.assert_array_equal(reg.predict(X), three.predict(X))
    assert reg.n_iter_ == 3
    assert "_died" not in vars(reg)


@posix
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_ctrl_c_at_a_random_moment_leaves_a_usable_estimator(solver, rng):
    process = child(ESTIMATOR_FITTER, solver, stdin=subprocess.PIPE)
    outcomes = []
    try:
        for _ in range(7 * LONGER):  # 21 in all
            process.stdin.write("round\n")
            process.stdin.flush()
            assert process.stdout.readline() == "go\n", process.communicate()[1]
            time.sleep(float(rng.uniform(0.0, 0.05)))
            process.send_signal(signal.SIGINT)
            assert select.select([process.stdout], [], [], 60)[0], "Ctrl-C was not heard"
            outcomes.append(process.stdout.readline().split())
    finally:
        process.kill()
        process.communicate()
    assert all(outcome in ("warned", "old") and usable == "True" for outcome, usable in outcomes), outcomes


def test_a_full_disk_at_a_checkpoint_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    X, y = data()
    real, saves = storage.write, []

    def write(path, document, arrays):
        saves.append(path)
        if len(saves) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, document, arrays)

    monkeypatch.setattr(storage, "write", write)
    net = MLP([2, 4, 1], random_state=1)
    before = net.parameters.copy()
    with pytest.raises(OSError, match="No space left"):
        net.fit(X, y, epochs=10, checkpoint=tmp_path)
    np.testing.assert_array_equal(net.parameters, before)
    monkeypatch.undo()
    ten = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=10)
    again = MLP([2, 4, 1], random_state=1).fit(X, y, epochs=10, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(again.parameters, ten.parameters)


def test_ctrl_c_while_a_library_is_loaded_strikes_afterwards():
    # Python prints what is raised in a callback from C, or while some extensions begin, and goes on.
    done = []

    def load(*, pressed):
        with holding_interrupts():
            if pressed:
                signal.raise_signal(signal.SIGINT)
            done.append(pressed)

    with pytest.raises(KeyboardInterrupt):
        load(pressed=True)
    load(pressed=False)
    assert done == [True, False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@posix
@pytest.mark.skipif(find_spec("numba") is None, reason="only Numba's kernel loads a library when a fit begins")
def test_ctrl_c_is_heard_while_a_long_fit_begins(rng):
    for _ in range(3):  # each in a process of its own, where nothing is loaded yet
        process = child(FITTER, "momentum", "plain", stdin=subprocess.PIPE)
        try:
            process.stdin.write("round\n")
            process.stdin.flush()
            assert process.stdout.readline() == "go\n", process.communicate()[1]
            time.sleep(float(rng.uniform(0.0, 0.02)))
            process.send_signal(signal.SIGINT)
            assert select.select([process.stdout], [], [], 60)[0], "Ctrl-C was not heard"
        finally:
            process.kill()
            process.communicate()
