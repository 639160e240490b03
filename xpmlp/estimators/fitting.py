"""How an estimator is fitted: check, encode, let the core train, and only then change the estimator."""

import functools
import numbers
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace, warn
from xpmlp.estimators import recipe
from xpmlp.estimators.constraints import InvalidParameterError, check_parameters
from xpmlp.estimators.inputs import Inputs, InvalidInputError, SparseData, check_inputs, our_errors, working_place
from xpmlp.estimators.monitor import HeldOut, History, Monitor, rows_at_once
from xpmlp.estimators.resuming import NO_CHECKPOINTS, Asked, Run, generator, known, position_of, snapshot_of
from xpmlp.faults import interruptible, telling_of_memory
from xpmlp.lbfgs import minimize, objective
from xpmlp.losses import check_targets
from xpmlp.network import Network
from xpmlp.optimizers import OPTIMIZERS, Optimizer
from xpmlp.runners import Data, eager, find_runner
from xpmlp.runners.step import State, Task
from xpmlp.training import BEGINNING, DivergenceError, Plan, Report, Result, Standing, train

SMALLER = "Lower batch_size, or the layers' sizes, or train in float32."
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)


class Samples(NamedTuple):
    """What is trained on."""

    inputs: Inputs
    y: HostArray  # as the caller has it
    targets: HostArray  # of shape (n, n_outputs)
    w: HostArray | None

    def take(self, rows: HostArray) -> "Samples":
        """Some of the samples."""
        w = None if self.w is None else self.w[rows]
        return Samples(self.inputs.take(rows), self.y[rows], self.targets[rows], w)


class Carried(NamedTuple):
    """What `partial_fit` goes on with, the weights apart."""

    optimizer: Optimizer
    slots: tuple[Array, ...]
    t: int
    standing: Standing


def all_or_nothing(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that leaves the estimator as it was if it fails, whatever it had changed by then."""

    @functools.wraps(method)
    def careful(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            result = method(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        error = vars(self).pop("_died", None)  # what a callback raised: training ended there, and is kept
        if error is not None:
            error.add_note(f"Training ended here; the estimator keeps what it had learned in {self.n_iter_} epochs.")
            raise error
        return result

    return careful


class Fitting:
    """The part of an estimator that learns.

    An estimator says what its targets are: `_encode`, `_loss_row`, `_score_outputs`.
    """

    @all_or_nothing
    @with_callbacks  # type: ignore[untyped-decorator]
    def _fit(
        self: Any,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        incremental: bool = False,
        validation: tuple[Any, Any, Any] = (None, None, None),
        asked: Asked = NO_CHECKPOINTS,
        **targets: Any,
    ) -> Any:
        check_parameters(self)
        if incremental and self.early_stopping:
            raise InvalidInputError("partial_fit does not support early_stopping=True: one pass has nothing to stop.")
        anew = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        with our_errors():
            place = working_place(self.backend, self.device, X)
            inputs = check_inputs(
                self, X, place=place, dtype=self.dtype, reset=anew or not hasattr(self, "n_features_in_")
            )
            samples = self._encode(y, sample_weight, inputs, anew=anew, incremental=incremental, **targets)
            held_out = self._check_validation(validation, inputs)
            network = self._build_network(samples)
        before = known(self, asked, place, inputs.dtype)
        run = Run(asked, before, rng := generator(self, before))
        if before is not None:
            anew = before.anew
        run.anew, run.seen = anew, 0 if anew else int(getattr(self, "t_", 0) if before is None else before.seen)
        with our_errors():
            # A run that goes on draws again what it drew when it began; a warm start's weights are in the checkpoint.
            p = self._start(network, inputs, rng, anew) if anew or before is None else before.snapshot.state.p
            stochastic = self.solver != "lbfgs"
            if self.early_stopping and stochastic and held_out is None:
                samples, held_out = self._hold_out(samples, rng)

        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        task = {"X": X, "y": y, "metadata": metadata}
        # With nobody to tell of it, no context: it would be a third of what happens between two epochs.
        listened = not incremental and bool(getattr(self, "_skl_callbacks", None))
        context = self._init_callback_context(max_subtasks=self.max_iter) if listened else None
        if context is not None:
            context.call_on_fit_task_begin(estimator=self, **task)
        show = functools.partial(self._show, network)
        history = run.history(lambda: self._history(anew or not stochastic, held_out is not None))
        with our_errors():
            monitor = Monitor(self, network, show, held_out, history, context, task)
            run.open(monitor, network, samples, held_out, show)
        solve = functools.partial(self._train, anew=anew, incremental=incremental) if stochastic else self._minimize
        memory = telling_of_memory(place, f"training with batch_size={self.batch_size}", SMALLER)
        with np.errstate(all="ignore"), memory:  # what is not finite ends training, and the message says where it began
            try:
                fitted = solve(network, samples, p, monitor, run)
            finally:
                monitor.close()
        for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_", "validation_loss_curve_"):
            vars(self).pop(name, None)
        vars(self).pop("best_validation_score_", None)
        vars(self).update(fitted)
        self._asked = None if self.backend is None else (self.backend, self.device)
        self._settled = True
        self._died = monitor.error
        if context is not None:
            context.call_on_fit_task_end(estimator=self, reconstruction_attributes={}, **task)
        return self

    # --- Before ---

    def _build_network(self: Any, samples: Samples) -> Network:
        loss = self._loss_row(samples.targets.shape[1])
        check_targets(loss, samples.targets.astype(samples.inputs.dtype, copy=False))
        n_outputs = loss.n_outputs or samples.targets.shape[1]
        sizes = (int(samples.inputs.x.shape[1]), *recipe.hidden_sizes(self), n_outputs)
        network = recipe.build_network(self, sizes, loss)
        if network.dropout and self.solver == "lbfgs":
            raise InvalidParameterError("dropout makes the loss change from call to call, and lbfgs cannot follow it.")
        return network

    def _check_validation(self: Any, validation: tuple[Any, Any, Any], inputs: Inputs) -> HeldOut | None:
        X, y, w = validation
        if X is None and y is None and w is None:
            return None
        if X is None or y is None:
            raise InvalidInputError("X_val and y_val come together; got one of them, or sample_weight_val, alone.")
        held = check_inputs(self, X, place=inputs.place, dtype=inputs.dtype, reset=False)
        y, targets, w = self._encode_held_out(y, w, held)
        return HeldOut(held, y, targets, w)

    def _start(self: Any, network: Network, inputs: Inputs, rng: np.random.RandomState, anew: bool) -> Array:
        """The flat vector that training begins from; training owns it."""
        if anew:
            return inputs.place.asarray(recipe.first_weights(self, network, rng, inputs.dtype))
        return network.layout.pack(*recipe.known_weights(self, network, inputs.place, inputs.dtype))

    def _hold_out(self: Any, samples: Samples, rng: np.random.RandomState) -> tuple[Samples, HeldOut]:
        rows = np.arange(samples.inputs.n)
        split = {"random_state": rng, "test_size": self.validation_fraction, "stratify": self._strata(samples)}
        train_rows, held_rows = train_test_split(rows, **split)
        if len(held_rows) < 2:
            raise InvalidInputError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        trained, held = samples.take(train_rows), samples.take(held_rows)
        for part, which in ((held, "holds out"), (trained, "leaves to train on")):
            if part.w is not None and not np.any(part.w):
                raise InvalidInputError(
                    f"all that validation_fraction={self.validation_fraction:g} {which} has weight 0; pass X_val, "
                    "y_val, or other weights."
                )
        return trained, HeldOut(*held)

    def _history(self: Any, anew: bool, validated: bool) -> History:
        def before(name: str) -> list[float]:
            return [] if anew else list(getattr(self, name, None) or [])

        curve, scores = before("validation_loss_curve_"), before("validation_scores_")
        return History(before("loss_curve_"), curve if validated else None, scores if validated else None)

    # --- Training ---

    def _train(
        self: Any,
        network: Network,
        samples: Samples,
        p: Array,
        monitor: Monitor,
        run: Run,
        *,
        anew: bool,
        incremental: bool,
    ) -> dict[str, Any]:
        data = samples.inputs.data(samples.targets, samples.w, self._batch_size(samples.inputs.n))
        optimizer = recipe.build_optimizer(self)
        schedule, on_plateau = recipe.build_schedule(self)
        carried = self._carry_on(p, optimizer, data.place, anew, incremental)
        task = Task(
            network,
            optimizer,
            l2=float(self.alpha),
            clip_norm=None if self.clip_norm is None else float(self.clip_norm),
            decays=_decays(network, data.place, samples.inputs.dtype) if optimizer.weight_decay else None,
        )
        plan = Plan(
            n_epochs=1 if incremental else int(self.max_iter),
            learning_rate=float(self.learning_rate_init),
            schedule=schedule,
            n_batches=data.n_batches,
            n_samples=data.n,
            patience=float(self.n_iter_no_change),
            tol=float(self.tol),
            keep_best=bool(self.early_stopping),
            on_plateau=on_plateau,
            on_divergence="restore" if self.early_stopping else "raise",
            max_time=float("inf") if self.max_time is None else float(self.max_time),
            know_best=run.keep is not None,
        )
        # Without early stopping what is held out is looked at, but decides nothing.
        watches = monitor.held_out is not None and self.early_stopping

        def end(report: Report) -> bool:
            if monitor.held_out is not None and not watches:
                monitor.validate(report.state.p)
            return monitor.end(report)

        # One batch of everything is the same in any order; nobody sees whether a seeded generator was asked for it.
        draws = self.shuffle and (data.n_batches > 1 or not isinstance(self.random_state, numbers.Integral))
        seed = self._dropout_seed(network, data.place, run.rng)
        run.go_on()  # all that a fit draws before it trains has been drawn
        try:
            result = train(
                _runner(task, data, seed),
                State(p, carried.slots, carried.t),
                plan,
                data.place,
                network.layout,
                orders=_orders(run, monitor.begin) if draws else monitor.begin,
                validate=monitor.validate if watches else None,
                greater_is_better=monitor.greater_is_better,
                on_epoch=[end],
                standing=carried.standing,
                on_snapshot=lambda snapshot: run(snapshot, failed=monitor.error is not None),
                start=run.start,
            )
        except DivergenceError as error:
            raise DivergenceError(f"{NOT_FINITE} {error}") from None
        self._say_how_it_ended(result, monitor, incremental)
        learned: dict[str, Any] = self._learned(network, result, optimizer, monitor, data.n, run.seen, incremental)
        return learned

    def _say_how_it_ended(self: Any, result: Result, monitor: Monitor, incremental: bool) -> None:
        if result.stopped_by == "epochs" and monitor.epochs == self.max_iter and not incremental:
            warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
            )
        elif result.stopped_by == "patience" and self.verbose:
            print(f"{monitor.plateau()} Stopping.")  # noqa: T201 - verbose is for printing

    def _learned(
        self: Any,
        network: Network,
        result: Result,
        optimizer: Optimizer,
        monitor: Monitor,
        n: int,
        seen: int,
        incremental: bool,
    ) -> dict[str, Any]:
        history, best = monitor.history, float(result.best)
        fitted: dict[str, Any] = self._show(network, result.p, copy=False)
        fitted["t_"] = seen + n * monitor.epochs
        fitted["n_iter_"] = monitor.epochs
        if history.losses:
            fitted["loss_"] = history.losses[-1]
        fitted["loss_curve_"] = history.losses
        fitted["validation_scores_"] = history.validation_scores
        fitted["validation_loss_curve_"] = history.validation_losses
        fitted["best_loss_"], fitted["best_validation_score_"] = best, None
        if self.early_stopping:
            fitted["best_loss_"] = None
            fitted["best_validation_score_"] = best if monitor.greater_is_better else -best
        fitted["_carried"] = Carried(optimizer, result.state.slots, result.state.t, result.standing)
        fitted["_slim"] = not incremental
        return fitted

    def _carry_on(self: Any, p: Array, optimizer: Optimizer, place: Place, anew: bool, incremental: bool) -> Carried:
        """What training goes on with: everything in partial_fit, all but the optimizer in a warm start."""
        fresh = optimizer.init(p)
        known: Carried | None = None if anew else getattr(self, "_carried", None)
        if known is None:
            standing = BEGINNING if anew else BEGINNING._replace(samples=getattr(self, "t_", 0))
            return Carried(optimizer, fresh.slots, fresh.t, standing)
        same = known.optimizer.name == optimizer.name and [s.shape for s in known.slots] == [
            s.shape for s in fresh.slots
        ]
        if incremental and same:
            dtype = str(p.dtype).rpartition(".")[2]
            # Copies: the slots are donated to the training, and what is remembered must outlive one that fails.
            slots = tuple(place.xp.asarray(recipe.on_place(slot, place, dtype), copy=True) for slot in known.slots)
            return known._replace(slots=slots)
        return Carried(optimizer, fresh.slots, fresh.t, known.standing._replace(scale=1.0))

    def _batch_size(self: Any, n: int) -> int:
        if self.batch_size == "auto":
            return min(200, n)
        if self.batch_size > n:
            warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", UserWarning)
        return min(int(self.batch_size), n)

    def _dropout_seed(self: Any, network: Network, place: Place, rng: np.random.RandomState) -> Array | None:
        if not network.dropout:
            return None
        return place.asarray(rng.randint(2**31 - 1, size=(1, 1)).astype(np.int32))

    def _minimize(
        self: Any, network: Network, samples: Samples, p: Array, monitor: Monitor, run: Run
    ) -> dict[str, Any]:
        data = samples.inputs.data(samples.targets, samples.w, rows_at_once(network.layout.sizes))
        task = Task(network, OPTIMIZERS["sgd"], l2=float(self.alpha))
        with interruptible() as interrupted:
            follow = _Follower(self, monitor, interrupted)
            found = minimize(
                objective(task, data),
                p,
                max_iter=int(self.max_iter),
                max_fun=int(self.max_fun),
                tol=float(self.tol),
                on_iteration=follow,
                on_position=lambda position: run(snapshot_of(position, follow.why), failed=monitor.error is not None),
                begin=None if run.start is None else position_of(run.start),
            )
        if found.stopped_by == "not finite":
            raise DivergenceError(f"{NOT_FINITE} The loss of the first weights is not finite: scale X and y.")
        if interrupted():
            warn("Training interrupted by user; what was learned is kept.", UserWarning)
        elif found.stopped_by in ("iterations", "calls", "line search"):
            limit = {"iterations": "max_iter", "calls": "max_fun"}.get(found.stopped_by)
            cure = f"Increase {limit}, or scale the data" if limit else "Scale the data, or train in float64"
            stop = f"lbfgs failed to converge after {found.n_iter} iteration(s), stopped by its {found.stopped_by}."
            warn(f"{stop} {cure}.", ConvergenceWarning)
        fitted: dict[str, Any] = self._show(network, found.p, copy=False)
        fitted |= {"t_": 0, "n_iter_": found.n_iter, "loss_": found.loss, "_carried": None, "_slim": True}
        if monitor.held_out is not None:
            fitted["validation_scores_"] = monitor.history.validation_scores
            fitted["validation_loss_curve_"] = monitor.history.validation_losses
        return fitted

    # --- After ---

    def _show(self: Any, network: Network, p: Array, copy: bool = True) -> dict[str, Any]:
        """The fitted attributes that parameters make."""
        if copy:  # the next step will write into p
            p = array_namespace(p).asarray(p, copy=True)
        W, b = network.layout.unpack(p)
        output = network.activations[-1].name
        return {
            "coefs_": W[1:],
            "intercepts_": b[1:],
            "n_layers_": network.layout.n_layers + 1,
            "n_outputs_": network.layout.sizes[-1],
            "out_activation_": recipe.SCIKIT_LEARN_NAMES.get(output, output),
            "_network": network,
            **self._fitted_targets(),
        }


class _Follower:
    """L-BFGS's iterations as epochs of a Monitor."""

    def __init__(self, estimator: Any, monitor: Monitor, interrupted: Callable[[], bool]) -> None:
        self.monitor, self.interrupted = monitor, interrupted
        self.why = ""  # it was stopped from here
        monitor.begin()
        self.max_iter = estimator.max_iter
        self.until = time.perf_counter() + (estimator.max_time or float("inf"))

    def __call__(self, n_iter: int, loss: float, p: Array) -> bool:
        if self.monitor.held_out is not None:
            self.monitor.validate(p)
        report = Report(n_iter, np.asarray(loss), None, float("nan"), State(p, (), n_iter))
        stop = self.monitor.end(report)
        if n_iter < self.max_iter:
            self.monitor.begin()
        if stop or self.interrupted() or time.perf_counter() > self.until:
            self.why = "callback" if stop else "interrupt" if self.interrupted() else "time"
        return bool(self.why)


def _orders(run: Run, begin: Callable[[], None]) -> Callable[[], HostArray]:
    """The order of each epoch, as scikit-learn draws it: each shuffles the one before."""

    def next_order() -> HostArray:
        begin()
        shuffled = np.arange(len(run.order))
        run.rng.shuffle(shuffled)
        run.order = run.order[shuffled]
        return run.order

    return next_order


def _runner(task: Task, data: Data, seed: Array | None) -> Any:
    # A sparse matrix stays on the host; runners that want all of X on the device cannot take it.
    return eager.Runner(task, data, seed) if isinstance(data, SparseData) else find_runner(task, data, seed)


def _decays(network: Network, place: Place, dtype: str) -> Array:
    flat = np.zeros(network.layout.size)
    flat[: network.layout.n_weights] = 1.0
    return place.asarray(flat, dtype)
