import jax
import numpy as np


def device_array(data, sharding=None, **kwargs):
    return jax.tree.map(lambda array: jax.device_put(np.asarray(array), sharding), data)
