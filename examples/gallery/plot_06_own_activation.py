"""
An activation of your own
=========================

A pair of functions, f(z) and its derivative f'(z, a), is accepted wherever a name is. A sine lets a network of one
hidden layer follow a wave; ``check_gradients`` says whether the derivative is the right one.
"""

import matplotlib.pyplot as plt
import numpy as np

import xpmlp


def sine(z):
    xp = z.__array_namespace__()
    return xp.sin(z)


def sine_derivative(z, a):
    xp = z.__array_namespace__()
    return xp.cos(z)


rng = np.random.default_rng(0)
x = rng.uniform(-4, 4, size=(600, 1))
y = np.sin(3 * x) * np.exp(-0.1 * x**2) + 0.05 * rng.normal(size=x.shape)

figure, ax = plt.subplots(figsize=(9, 4.4), layout="constrained")
ax.plot(x, y, ".", color="gray", markersize=3, label="data")
line = np.linspace(-6, 6, 500)[:, None]
for name, f in (("sine", (sine, sine_derivative)), ("tanh", "tanh")):
    net = xpmlp.MLP([1, 48, 1], activations=[f, "identity"], initializer=xpmlp.normal(1.5), random_state=0)
    net.fit(x, y, epochs=300, learning_rate=0.01, schedule="cosine")
    ax.plot(line, net.predict(line), linewidth=2, label=f"{name}: loss {net.evaluate(x, y):.4f}")
    if name == "sine":
        print(xpmlp.check_gradients(net, x[:20], y[:20]))
ax.axvspan(-6, -4, color="gray", alpha=0.12)
ax.axvspan(4, 6, color="gray", alpha=0.12)
ax.set(xlabel="x", ylabel="y", title="48 hidden units, 300 epochs; nothing was learned of the grey parts", ylim=(-2, 2))
ax.legend()

# %%
# A derivative that is wrong is found before any training. Here the author forgot that the derivative of sin(z) is
# cos(z):

net = xpmlp.MLP([1, 8, 1], activations=[(sine, lambda z, a: a), "identity"], random_state=0)
report = xpmlp.check_gradients(net, x[:20], y[:20])
print(report.ok, report.hint)
