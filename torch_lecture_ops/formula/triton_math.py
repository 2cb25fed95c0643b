"""What the emitted Triton kernels compute with: `c_math.h` once more, in Triton's language.

Triton's own exp and log of float32 lose up to 64 ulp on the way to the processor's fast instructions, and the functions
that it takes from the vendor's library do not run in its interpreter. These do, and they are within 2 ulp, too; NaN,
infinities, signed zeros and subnormals come out as in IEEE 754. Double precision needs the few functions that Triton
lacks. This module imports triton: only what is about to build a kernel imports it.
"""

# mypy: disable-error-code="no-untyped-def,misc"
from __future__ import annotations

import triton
import triton.language as tl

# Formulas of c_math.h, where the derivations stand. Triton kernels see globals only as constexpr.
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to an integer
ROUND_BITS = tl.constexpr(0x4B400000)
LN2_HIGH = tl.constexpr(float.fromhex("0x1.62e4p-1"))
LN2_LOW = tl.constexpr(float.fromhex("0x1.7f7d1cp-20"))
LOG2_E = tl.constexpr(float.fromhex("0x1.715476p0"))
TINY = tl.constexpr(float.fromhex("0x1p-126"))
TINY_DOUBLE = tl.constexpr(float.fromhex("0x1p-1022"))
SQRT_HALF_BITS = tl.constexpr(0x3FE6A09E667F3BCD)
LN2_HIGH_DOUBLE = tl.constexpr(float.fromhex("0x1.62e42feep-1"))  # a multiple of it by an exponent is exact
LN2_LOW_DOUBLE = tl.constexpr(float.fromhex("0x1.a39ef35793c76p-33"))
E2 = tl.constexpr(float.fromhex("0x1.5554dcp-3"))
E3 = tl.constexpr(float.fromhex("0x1.5554e8p-5"))
E4 = tl.constexpr(float.fromhex("0x1.120c68p-7"))
E5 = tl.constexpr(float.fromhex("0x1.6d444ep-10"))


@triton.jit
def number(x):
    """In double, what came as a number or was loaded. (Until Triton 3.8, fma takes a bare number for a float32.)"""
    return tl.full((), x, tl.float64)


@triton.jit
def load(pointers, mask, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(pointers, mask=mask, other=0)
    else:
        return tl.load(pointers)


@triton.jit
def store(pointers, values, mask, MASKED: tl.constexpr):
    if MASKED:
        tl.store(pointers, values, mask=mask)
    else:
        tl.store(pointers, values)


@triton.jit
def maximum(a, b):
    a, b = tl.broadcast(a, b)
    return tl.where((a < b) | (b != b), b, a)


@triton.jit
def minimum(a, b):
    a, b = tl.broadcast(a, b)
    return tl.where((a > b) | (b != b), b, a)


@triton.jit
def bits(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def from_bits(b):
    return b.to(tl.float32, bitcast=True)


@triton.jit
def power_of_two(n):
    return from_bits((n + 127) << 23)


@triton.jit
def copysign(magnitude, x):
    return from_bits((bits(magnitude) & 0x7FFFFFFF) | (bits(x) & -0x80000000))


@triton.jit
def expm1_reduced(r):
    square = r * r
    low = tl.fma(r, E3, E2)
    high = tl.fma(r, E5, E4)
    return tl.fma(square, tl.fma(r, tl.fma(square, high, low), 0.5), r)


@triton.jit
def exp_float(x):
    z = tl.where(tl.abs(x) > 170.0, tl.where(x < 0.0, -170.0, 170.0), x)
    shifted = tl.fma(z, LOG2_E, ROUND)
    n = shifted - ROUND
    r = tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, z))
    k = bits(shifted) - ROUND_BITS
    half = k >> 1
    return (1.0 + expm1_reduced(r)) * power_of_two(half) * power_of_two(k - half)


@triton.jit
def expm1_inside(x):
    shifted = tl.fma(x, LOG2_E, ROUND)
    n = shifted - ROUND
    r = tl.fma(n, -LN2_LOW, tl.fma(n, -LN2_HIGH, x))
    half = power_of_two(bits(shifted) - ROUND_BITS - 1)
    return 2.0 * tl.fma(half, expm1_reduced(r), half - 0.5)


@triton.jit
def expm1_float(x):
    z = tl.where(x < -20.0, -20.0, x)
    y = expm1_inside(tl.where(z > 89.0, 89.0, z))
    return tl.where(x == 0.0, x, y)


@triton.jit
def log_reduced(k, f):
    s = tl.div_rn(f, 2.0 + f)
    z = s * s
    half = 0.5 * f * f
    series = z * tl.fma(z, tl.fma(z, tl.fma(z, 2.0 / 9, 2.0 / 7), 2.0 / 5), 2.0 / 3)
    return k * LN2_HIGH - ((half - tl.fma(s, half + series, k * LN2_LOW)) - f)


@triton.jit
def log2_rounded(x):
    return (bits(x) - 0x3F3504F3) >> 23


@triton.jit
def log_float(x):
    tiny = x < TINY
    scaled = tl.where(tiny, x * 8388608.0, x)
    k = log2_rounded(scaled)
    f = from_bits(bits(scaled) - (k << 23)) - 1.0
    y = log_reduced(tl.where(tiny, k - 23, k).to(tl.float32), f)
    y = tl.where(x == 0.0, -float("inf"), y)
    y = tl.where(x < 0.0, float("nan"), y)
    return tl.where(x < float("inf"), y, x)


@triton.jit
def log1p_float(x):
    u = 1.0 + x
    lost = x - (u - 1.0)
    k = log2_rounded(u)
    f = from_bits(bits(u) - (k << 23)) - 1.0
    y = log_reduced(k.to(tl.float32), tl.fma(lost, power_of_two(tl.where(k < 126, -k, -126)), f))
    y = tl.where(x == 0.0, x, y)
    y = tl.where(x == -1.0, -float("inf"), y)
    y = tl.where(x < -1.0, float("nan"), y)
    return tl.where(x < float("inf"), y, x)


@triton.jit
def softplus_float(x):
    t = exp_float(-1.0 * tl.abs(x))
    s = tl.div_rn(t, 2.0 + t)
    z = s * s
    q = tl.fma(z, tl.fma(z, tl.fma(z, 2.0 / 13, 2.0 / 11), 2.0 / 9), 2.0 / 7)
    series = z * tl.fma(z, tl.fma(z, q, 2.0 / 5), 2.0 / 3)
    return tl.where(x > 0.0, x, 0.0) + tl.fma(-1.0 * s, t - series, t)


@triton.jit
def tanh_float(x):
    a = tl.abs(x)
    z = x * x
    t = expm1_inside(2.0 * tl.where(a > 10.0, 10.0, a))
    q = tl.fma(z, -1382.0 / 155925, 62.0 / 2835)
    q = tl.fma(z, q, -17.0 / 315)
    q = tl.fma(z, q, 2.0 / 15)
    q = tl.fma(z, q, -1.0 / 3)
    return copysign(tl.where(a < 0.3, tl.fma(a * z, q, a), tl.div_rn(t, t + 2.0)), x)


@triton.jit
def pow_float(x, y):
    return pow_double(x.to(tl.float64), y.to(tl.float64)).to(tl.float32)


@triton.jit
def expm1_double(x):
    # (e^x - 1) x / ln(e^x): what rounding did to e^x is in both factors (Kahan)
    u = tl.exp(x)
    inside = (u != 1.0) & (u - 1.0 != -1.0) & (u < float("inf"))
    safe = tl.where(inside, u, 2.0)
    y = (safe - 1.0) * (x / tl.log(safe))
    return tl.where(inside, y, tl.where(u == 1.0, x, u - 1.0))


@triton.jit
def log1p_double(x):
    u = 1.0 + x
    inside = (u != 1.0) & (u > 0.0) & (u < float("inf"))
    safe = tl.where(inside, u, 2.0)
    y = tl.log(safe) * (x / (safe - 1.0))
    return tl.where(inside, y, tl.where(u == 1.0, x, tl.log(u)))


@triton.jit
def softplus_double(x):
    return tl.where(x > 0.0, x, 0.0) + log1p_double(tl.exp(-1.0 * tl.abs(x)))


@triton.jit
def tanh_double(x):
    a = tl.abs(x)
    t = expm1_double(2.0 * tl.where(a > 20.0, 20.0, a))
    y = t / (t + 2.0)
    return tl.where(x == 0.0, x, tl.where(x < 0.0, -1.0 * y, y))


@triton.jit
def log_in_two(a):
    # ln a = k ln 2 + 2 atanh(f / (2 + f)) as in log_reduced, as the sum of two doubles: a power wants 10 bits more
    tiny = a < TINY_DOUBLE
    scaled = tl.where(tiny, a * 18014398509481984.0, a)
    b = scaled.to(tl.int64, bitcast=True)
    k = (b - SQRT_HALF_BITS) >> 52
    f = (b - (k << 52)).to(tl.float64, bitcast=True) - 1.0
    k = tl.where(tiny, k - 54, k).to(tl.float64)
    d = 2.0 + f
    s = f / d
    s_low = (tl.fma(-1.0 * s, d, f) - s * (f - (d - 2.0))) / d
    z = s * s
    series = number(1.0 / 23)
    for n in tl.static_range(21, 1, -2):
        series = tl.fma(z, series, number(1.0 / n))
    high = tl.fma(k, number(LN2_HIGH_DOUBLE), 2.0 * s)
    low = 2.0 * s - (high - k * LN2_HIGH_DOUBLE)
    low += tl.fma(k, number(LN2_LOW_DOUBLE), 2.0 * tl.fma(s * z, series, s_low))
    return high, low


@triton.jit
def pow_positive(a, y):
    # e^(y ln a), with what rounding took from the logarithm and from the product
    high, low = log_in_two(a)
    logarithm = tl.where((a > 0.0) & (a < float("inf")), high + low, tl.where(a == 0.0, -float("inf"), a))
    product = y * logarithm
    lost = tl.fma(y, logarithm, -1.0 * product) + y * (low - (logarithm - high))
    r = tl.exp(product)
    return tl.where((lost - lost == 0.0) & (r - r == 0.0), tl.fma(r, lost, r), r)


@triton.jit
def pow_double(x, y):
    x, y = tl.broadcast(x, y)
    a = tl.abs(x)
    r = pow_positive(a, y)
    r = tl.where((a == 1.0) & (y == y), 1.0, r)  # also to the power of infinity
    is_odd = (y == tl.floor(y)) & (y * 0.5 != tl.floor(y * 0.5))
    is_negative = x.to(tl.int64, bitcast=True) < 0
    r = tl.where((x < 0.0) & (a < float("inf")) & (y != tl.floor(y)), float("nan"), r)
    r = tl.where(is_negative & is_odd, -1.0 * r, r)
    return tl.where((y == 0.0) | (x == 1.0), 1.0, r)
