# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise whose other part nobody can tell who knows one part of it. May import: privacy, numpy.

Each number is Box-Muller of 106 bits of a ChaCha20 key stream (RFC 8439). Each chunk of numbers has a key of
its own, 256 bits of getrandom(2), used for nothing else. That is how the kernel makes its random bytes, too;
asking it for all of them takes seven times as long and was a third of the work on an update.
No generator of numpy is used: whoever knows a part of an update learns a part of the noise, and PCG64 and
Mersenne Twister can then be run back and forth; Philox is fast but was never meant to resist that.
53 bits make no noise beyond 8.57 deviations: a difference of 1e-17 for each value, far below any delta.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from homebound.guard.privacy import Float64


def key_stream(count: int, randomness: Callable[[int], bytes] = os.urandom) -> bytes:
    """``count`` bytes that nobody can tell from random ones, made from 32 that are."""
    cipher = Cipher(ChaCha20(randomness(32), nonce=bytes(16)), mode=None)
    return cipher.encryptor().update(bytes(count))


def gaussian(count: int, randomness: Callable[[int], bytes] = key_stream) -> Float64:
    """``count`` standard normal numbers by the method of Box and Muller (1958).

    With t = tan(a / 2), cos(a) = (2 - (1 + t^2)) / (1 + t^2) and sin(a) = 2 t / (1 + t^2): one slow function
    in place of two. At a = pi, t is large and no infinity. Arrays are changed in place to stay in the cache.
    """
    half = (count + 1) // 2
    words = np.frombuffer(randomness(16 * half), dtype="<u8") >> np.uint64(11)
    # Uniform in (0, 1]: the logarithm of 0 must not occur.
    radius = (words[:half] + np.uint64(1)) * 2.0**-53
    np.sqrt(np.multiply(np.log(radius, out=radius), -2.0, out=radius), out=radius)
    tangent = words[half:] * (math.pi * 2.0**-53)
    np.tan(tangent, out=tangent)
    scale = np.square(tangent)
    scale += 1.0
    radius /= scale
    result = np.empty(2 * half)
    np.multiply(radius, np.subtract(2.0, scale, out=scale), out=result[:half])
    tangent *= 2.0
    np.multiply(radius, tangent, out=result[half:])
    return result[:count]
