"""How a training step is executed: eagerly on every backend, compiled or captured where it pays."""
