"""Settings: what a program decides once, and not with every call."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_SETTINGS = {  # the first is the default
    "fallback": ("warn", "error"),
    "compiled": ("auto", "always", "never"),
    "threads": ("auto", "all"),
    "captured": ("auto", "fused", "step", "never"),
}
_values = {name: ContextVar(f"xpmlp_{name}", default=choices[0]) for name, choices in _SETTINGS.items()}


def get_config() -> dict[str, str]:
    """Return the settings in force, as a dict that `set_config` takes."""
    return {name: value.get() for name, value in _values.items()}


def set_config(
    *,
    fallback: str | None = None,
    compiled: str | None = None,
    threads: str | None = None,
    captured: str | None = None,
) -> None:
    """Change settings for what follows in this thread (as scikit-learn does); None leaves a setting as it is.

    Parameters
    ----------
    fallback : {"warn", "error"}, optional
        What happens when a named backend or device cannot run here: "warn" issues a `BackendFallbackWarning` and goes
        on with NumPy, "error" raises `BackendUnavailableError`.
    compiled : {"auto", "always", "never"}, optional
        Whether Numba (the extra `numba`) compiles training on NumPy: for networks of up to 100,000 parameters whole
        epochs (relu, leaky_relu, tanh, sigmoid, identity; softmax, sigmoid and identity outputs with their losses;
        sgd, momentum, nesterov, adam, adamw), for larger ones the update of Adam and AdamW, and with it relu, silu and
        the masks of dropout. "auto" does where it wins back what it costs, as far as the task alone tells: epochs after
        65,536 steps of a fit that plans 131,072 more, updates where an epoch updates at least 8 million parameters,
        batches times parameters (for each sample a unit under dropout counts two, one of silu one). "always" does
        wherever it can, and raises ImportError without Numba: the first fit on a machine then takes some seconds
        longer. The results are the same to rounding.
    threads : {"auto", "all"}, optional
        How many threads NumPy's BLAS may take in a fit, and in a prediction of more than 1000 rows: "auto" gives it one
        where a step is of less than 100 million flops (50 million on four cores or more), which more threads hardly
        make faster on a free machine and many times slower on a busy one, and leaves it alone above; "all" leaves it
        alone everywhere. It is never more than BLAS may take now (`OMP_NUM_THREADS`, threadpoolctl). The limit holds
        for the whole process while the fit runs.
    captured : {"auto", "fused", "step", "never"}, optional
        Whether training on CuPy, and with PyTorch on CUDA, captures its step as a CUDA graph. On CuPy "fused" is the
        step of few kernels made for the network, "step" the array functions as they are, which every row and function
        of your own can use; "auto" tries them in this order, and what cannot be captured runs without. "never" runs
        array by array. On PyTorch every setting but "never" captures.
    """
    given = (("fallback", fallback), ("compiled", compiled), ("threads", threads), ("captured", captured))
    changes = {name: value for name, value in given if value is not None}
    for name, value in changes.items():
        if value not in _SETTINGS[name]:
            *some, last = map(repr, _SETTINGS[name])
            raise ValueError(f"{name} must be {', '.join(some)} or {last}; got {value!r}.")
    for name, value in changes.items():
        _values[name].set(value)


@contextlib.contextmanager
def config_context(
    *,
    fallback: str | None = None,
    compiled: str | None = None,
    threads: str | None = None,
    captured: str | None = None,
) -> Iterator[None]:
    """Change settings inside a `with` block; see `set_config`.

    Examples
    --------
    >>> import xpmlp
    >>> with xpmlp.config_context(fallback="error"):
    ...     xpmlp.get_config()
    {'fallback': 'error', 'compiled': 'auto', 'threads': 'auto', 'captured': 'auto'}
    """
    before = get_config()
    set_config(fallback=fallback, compiled=compiled, threads=threads, captured=captured)
    try:
        yield
    finally:
        set_config(**before)
