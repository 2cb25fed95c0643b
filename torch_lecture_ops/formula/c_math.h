// What the emitted loops compute with: float functions that vectorize, and float16/bfloat16 in memory.
//
// Each function is straight-line code with selections, no branch and no table, so the compiler turns a loop over it
// into vector code. Checked against float64 over all floats: at most 2 ulp. NaN, infinities, signed zeros and
// subnormals come out as in IEEE 754. Double precision uses the C library, which is exact to 1 ulp.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __FMA__
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

#define ROUND 12582912.0f  // 1.5 * 2^23: adding and subtracting it rounds to an integer
#define LN2_HIGH 0x1.62e4p-1f  // the product with an integer up to 2^8 is exact
#define LN2_LOW 0x1.7f7d1cp-20f

static inline uint32_t bits(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
static inline float from_bits(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }
static inline float power_of_two(int32_t n) { return from_bits((uint32_t)(n + 127) << 23); }  // -126 <= n <= 127

// e^r - 1 for |r| <= ln2 / 2: r + r^2 q(r), with the polynomial of degree 4 that is best there (error 0.2 ulp of e^r)
static inline float expm1_reduced(float r) {
    float square = r * r;
    float low = FMA(r, 0x1.5554e8p-5f, 0x1.5554dcp-3f), high = FMA(r, 0x1.6d444ep-10f, 0x1.120c68p-7f);
    return FMA(square, FMA(r, FMA(square, high, low), 0.5f), r);
}

// e^x = 2^n e^r with n = round(x / ln2), in two factors: 2^n alone leaves the range of float at both ends
static inline float exp_float(float x) {
    float z = 170.0f < __builtin_fabsf(x) ? __builtin_copysignf(170.0f, x) : x;  // NaN passes
    float shifted = FMA(z, 0x1.715476p0f, ROUND), n = shifted - ROUND;
    float r = FMA(n, -LN2_LOW, FMA(n, -LN2_HIGH, z));
    int32_t k = (int32_t)(bits(shifted) - bits(ROUND)), half = k >> 1;
    return (1.0f + expm1_reduced(r)) * power_of_two(half) * power_of_two(k - half);
}

// e^x - 1 = 2 (2^(n-1) (e^r - 1) + (2^(n-1) - 1/2)), for -20 <= x <= 89: nothing cancels for n = 0
static inline float expm1_inside(float x) {
    float shifted = FMA(x, 0x1.715476p0f, ROUND), n = shifted - ROUND;
    float r = FMA(n, -LN2_LOW, FMA(n, -LN2_HIGH, x));
    float half = power_of_two((int32_t)(bits(shifted) - bits(ROUND)) - 1);
    return 2.0f * FMA(half, expm1_reduced(r), half - 0.5f);
}

static inline float expm1_float(float x) {
    float z = x < -20.0f ? -20.0f : x;
    float y = expm1_inside(z > 89.0f ? 89.0f : z);
    return x == 0.0f ? x : y;  // keeps -0
}

// ln(2^k (1 + f)) = k ln2 + 2 atanh(s) with s = f / (2 + f), by its series, for 1 + f in [sqrt(1/2), sqrt 2)
static inline float log_reduced(float k, float f) {
    float s = f / (2.0f + f), z = s * s, half = 0.5f * f * f;
    float series = z * FMA(z, FMA(z, FMA(z, 2.0f / 9, 2.0f / 7), 2.0f / 5), 2.0f / 3);
    return k * LN2_HIGH - ((half - FMA(s, half + series, k * LN2_LOW)) - f);
}

static inline int32_t log2_rounded(float x) { return (int32_t)(bits(x) - 0x3f3504f3u) >> 23; }

static inline float log_float(float x) {
    int tiny = x < 0x1p-126f;
    float scaled = tiny ? x * 0x1p23f : x;
    int32_t k = log2_rounded(scaled);
    float y = log_reduced((float)(tiny ? k - 23 : k), from_bits(bits(scaled) - ((uint32_t)k << 23)) - 1.0f);
    y = x == 0.0f ? -INFINITY : y;
    y = x < 0.0f ? NAN : y;
    return x < INFINITY ? y : x;  // +inf and NaN pass
}

// 1 + x = u + what rounding took from u; that is nothing where 2^-k would leave the range of float
static inline float log1p_float(float x) {
    float u = 1.0f + x, lost = x - (u - 1.0f);
    int32_t k = log2_rounded(u);
    float f = from_bits(bits(u) - ((uint32_t)k << 23)) - 1.0f;
    float y = log_reduced((float)k, FMA(lost, power_of_two(k < 126 ? -k : -126), f));
    y = x == 0.0f ? x : y;  // keeps -0
    y = x == -1.0f ? -INFINITY : y;
    y = x < -1.0f ? NAN : y;
    return x < INFINITY ? y : x;
}

// ln(1 + e^x) = max(x, 0) + ln(1 + t) with t = e^-|x| <= 1, that is 2 atanh(s) with s = t / (2 + t), by its series;
// 2 s = t - s t, so that little depends on the rounding of s
static inline float softplus_float(float x) {
    float t = exp_float(-__builtin_fabsf(x)), s = t / (2.0f + t), z = s * s;
    float low = FMA(z, FMA(z, 2.0f / 7, 2.0f / 5), 2.0f / 3), high = FMA(z, FMA(z, 2.0f / 13, 2.0f / 11), 2.0f / 9);
    float series = z * FMA(z * z * z, high, low);
    return (x > 0.0f ? x : 0.0f) + FMA(-s, t - series, t);
}

static inline double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

// tanh |x| = t / (t + 2) with t = e^(2|x|) - 1; below 0.3, where t and the quotient lose 2 ulp, the Taylor series
static inline float tanh_float(float x) {
    float a = __builtin_fabsf(x), z = x * x;
    float t = expm1_inside(2.0f * (a > 10.0f ? 10.0f : a));
    float q = FMA(z, -1382.0f / 155925, 62.0f / 2835);
    q = FMA(z, q, -17.0f / 315);
    q = FMA(z, q, 2.0f / 15);
    q = FMA(z, q, -1.0f / 3);
    float y = a < 0.3f ? FMA(a * z, q, a) : t / (t + 2.0f);
    return __builtin_copysignf(y, x);
}

static inline float load_bfloat16(uint16_t h) { return from_bits((uint32_t)h << 16); }

static inline uint16_t store_bfloat16(float x) {
    uint32_t b = bits(x);
    uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1)) >> 16;  // to nearest, ties to even
    return (uint16_t)(x != x ? 0x7fc0u : rounded);
}

static inline float load_float16(uint16_t h) {
    uint32_t magnitude = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    float finite = from_bits(magnitude << 13) * 0x1p112f;  // moves the exponent's bias from 15 to 127, subnormals too
    uint32_t b = magnitude < 0x7c00u ? bits(finite) : (magnitude << 13 | 0x7f800000u);
    return from_bits(b | sign);
}

static inline uint16_t store_float16(float x) {
    uint32_t b = bits(x), sign = b >> 16 & 0x8000u, magnitude = b & 0x7fffffffu;
    uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1)) >> 13;
    uint32_t subnormal = bits(from_bits(magnitude) + 0.5f) - bits(0.5f);  // 0.5 has float16's smallest step as its ulp
    uint32_t h = magnitude < 0x38800000u ? subnormal : normal;
    h = magnitude >= 0x477ff000u ? 0x7c00u : h;  // 65520 and above round to infinity
    h = magnitude > 0x7f800000u ? 0x7e00u : h;
    return (uint16_t)(h | sign);
}
