"""Anomaly scores from the heads of pretext tasks; higher = more anomalous.

Those that take `log` are one minus a probability, s in [0, 1]. With it they are
-log(1 - s) instead, minus the log of the probability, from 0 up: of the same
order, but where s rounds to 1 it still has differences and a gradient to
explain. Others, a log-density, a distance or an error, of any scale, have both
already.
"""
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

_MOST_STEPS = 200  # each up to doubles the parameters
_CONVERGED = 1e-9  # a step, as a share of them


def upright(logits: jax.Array, *, log: bool = False) -> jax.Array:
  """One minus the probability of no turn, 1 - p(0°|x).

  Args:
    logits: f32[n, 4], of the upright images.
    log: see above.

  Returns:
    f32[n] in [0, 1].
  """
  if log:
    return -jax.nn.log_softmax(logits)[:, 0]
  return 1 - jax.nn.softmax(logits)[:, 0]


def rotation(logits: jax.Array, *, log: bool = False) -> jax.Array:
  """One minus the product over turns, 1 - Π_i p(i·90° | x turned i times).

  Args:
    logits: f32[n, 4, 4]; the second axis is the turn applied.
    log: see above.

  Returns:
    f32[n] in [0, 1]. Computed as -expm1(Σ log p), which keeps scores near
    zero apart where 1 - Π p would round them together.
  """
  log_p = jnp.diagonal(jax.nn.log_softmax(logits), axis1=1, axis2=2)
  total = log_p.sum(axis=-1)
  return -total if log else -jnp.expm1(total)


def transformation(log_p: jax.Array, *, log: bool = False) -> jax.Array:
  """One minus the mean probability of what was applied, 1 - mean p.

  The mean is over transformations and, where each factor has a classifier of
  its own, over factors: the simple score of Golan and El-Yaniv, NeurIPS 2018,
  and that of Hendrycks et al., NeurIPS 2019.

  Args:
    log_p: f32[n, m, k], log-probabilities of what was applied in each of m
      transformations by each of k classifiers.
    log: see above.

  Returns:
    f32[n] in [0, 1]. Computed as -mean expm1(log p), which keeps scores near
    zero apart.
  """
  if log:
    return jnp.log(log_p[0].size) - jax.nn.logsumexp(log_p, axis=(1, 2))
  return -jnp.expm1(log_p).mean(axis=(1, 2))


def centres(square_distance: jax.Array) -> jax.Array:
  """Minus the log-probability of all transformations, -Σ_m log p(m | z_m).

  p is the softmax of minus the square distances to all centres: the score of
  Bergman and Hoshen, ICLR 2020, without their ε.

  Args:
    square_distance: f32[n, m, m], of the m-th transformation to all centres.

  Returns:
    f32[n], 0 or more.
  """
  log_p = jax.nn.log_softmax(-square_distance)
  return -jnp.diagonal(log_p, axis1=1, axis2=2).sum(axis=-1)


def dirichlet(log_p: jax.Array, mean_log_p: jax.Array, alpha: jax.Array
              ) -> jax.Array:
  """Minus the mean logarithm of Dirichlet densities, -mean_t Σ_k (α - 1) log p.

  The score of Golan and El-Yaniv, NeurIPS 2018, whose α are of greatest
  likelihood for training images, less its mean over these: that can be so large
  that float32 would leave nothing of the differences between images.

  Args:
    log_p: f32[n, m, k], log-probabilities of k classes in each of m
      transformations.
    mean_log_p: f32[m, k], their means over training images.
    alpha: f32[m, k], of `dirichlet_parameters`.

  Returns:
    f32[n], of any sign.
  """
  return -jnp.einsum(
      'nmk,mk->n', log_p - mean_log_p, alpha - 1) / log_p.shape[1]


def dirichlet_parameters(mean_log_p: np.ndarray) -> np.ndarray:
  """Returns the α > 0 of greatest likelihood, given the means of log p.

  By Newton's method, whose step is of order k for a Dirichlet density (Minka,
  "Estimating a Dirichlet distribution", 2000), until it has converged. Golan
  and El-Yaniv iterate towards the same fixed point and stop at a step below
  1e-9 or after a thousand, converged or not.

  Args:
    mean_log_p: f64[m, k].

  Returns:
    f64[m, k].
  """
  alpha = 1 / np.maximum(-mean_log_p, 1)
  for _ in range(_MOST_STEPS):
    total = alpha.sum(axis=1, keepdims=True)
    gradient = special.psi(total) - special.psi(alpha) + mean_log_p
    diagonal = -special.polygamma(1, alpha)
    common = (gradient / diagonal).sum(axis=1, keepdims=True) / (
        1 / special.polygamma(1, total)
        + (1 / diagonal).sum(axis=1, keepdims=True))
    old = alpha
    alpha = np.maximum(alpha - (gradient - common) / diagonal, alpha / 4)
    if np.abs(alpha / old - 1).max() < _CONVERGED:
      break
  return alpha
