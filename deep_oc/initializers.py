"""How weights begin, where that is not Flax's default."""
from flax import linen as nn

# He et al., ICCV 2015, by what goes out of a layer: a normal distribution, and
# one that Keras cuts at two deviations and widens again.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
he_truncated = nn.initializers.variance_scaling(
    2.0, 'fan_out', 'truncated_normal')

# U(-1/sqrt(k), 1/sqrt(k)) of k inputs, PyTorch's default.
pytorch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
