// What the emitted loops compute with: functions that vectorize, and float16/bfloat16 in memory.
//
// Each function is straight-line code with selections, no branch and no table, so the compiler turns a loop over it
// into vector code, also for AVX2, which has neither arithmetic shifts of 64 bits nor instructions between integers of
// 64 bits and doubles. At most 2 ulp (2.1 where the CPU has no FMA), checked over all floats and over many doubles. NaN,
// infinities, signed zeros and subnormals come out as in IEEE 754. What is computed once an item, not once an element,
// takes the C library's.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __FMA__
#define IS_FUSED 1
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#define FMA_DOUBLE(a, b, c) __builtin_fma(a, b, c)
#else
#define IS_FUSED 0
#define FMA(a, b, c) ((a) * (b) + (c))
#define FMA_DOUBLE(a, b, c) ((a) * (b) + (c))
#endif

#define ROUND 12582912.0f  // 1.5 * 2^23: adding and subtracting it rounds to an integer
#define ROUND_TWICE 12583166.0f  // ROUND + 2 * 127: the low bits of the sum are those of a power of two, twice its bias
#define LN2_HIGH 0x1.62e4p-1f  // the product with an integer up to 2^8 is exact
#define LN2_LOW 0x1.7f7d1cp-20f

static inline uint32_t bits(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
static inline float from_bits(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }

// Selections without a condition: gcc makes no vector code of one between what is the same for all elements, or by what is
static inline uint32_t chosen(int condition, uint32_t a, uint32_t b) { return b ^ ((a ^ b) & -(uint32_t)condition); }
static inline float chosen_float(float condition, float a, float b) {
    return from_bits(chosen(condition != 0.0f, bits(a), bits(b)));
}

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
    float shifted = FMA(z, 0x1.715476p0f, ROUND_TWICE), n = shifted - ROUND_TWICE;
    float r = FMA(n, -LN2_LOW, FMA(n, -LN2_HIGH, z));
    uint32_t k = bits(shifted), half = k >> 1;
    return (1.0f + expm1_reduced(r)) * from_bits(half << 23) * from_bits((k - half) << 23);
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
// 2 s = t - s t, so that little depends on the rounding of s. (A power of z would be subnormal for most x, and slow.)
static inline float softplus_float(float x) {
    float t = exp_float(-__builtin_fabsf(x)), s = t / (2.0f + t), z = s * s;
    float q = FMA(z, FMA(z, FMA(z, 2.0f / 13, 2.0f / 11), 2.0f / 9), 2.0f / 7);
    float series = z * FMA(z, FMA(z, q, 2.0f / 5), 2.0f / 3);
    return (x > 0.0f ? x : 0.0f) + FMA(-s, t - series, t);
}

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

// ---------------------------------------------------------------- double precision, the same with longer polynomials

#define ROUND_DOUBLE 0x1.8p52  // the low bits of x + this are those of x rounded to an integer
#define LN2_HIGH_DOUBLE 0x1.62e42fee00000p-1  // the product with an integer up to 2^11 is exact
#define LN2_LOW_DOUBLE 0x1.a39ef35793c76p-33

static inline uint64_t bits_double(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
static inline double from_bits_double(uint64_t b) { double x; memcpy(&x, &b, 8); return x; }
static inline double chosen_double(double condition, double a, double b) {
    return from_bits_double(bits_double(b) ^ ((bits_double(a) ^ bits_double(b)) & -(uint64_t)(condition != 0.0)));
}

// e^r - 1 - r for |r| <= ln2 / 2: r^2 q(r), with the polynomial of degree 10 that is best there (error 2^-61 of e^r - 1)
static inline double curve_double(double r) {
    double z = r * r, y = z * z;
    double a = FMA_DOUBLE(r, 0x1.5555555555559p-3, 0x1.0000000000000p-1);
    double b = FMA_DOUBLE(r, 0x1.111111110f6aep-7, 0x1.555555555555ap-5);
    double c = FMA_DOUBLE(r, 0x1.a01a01afe52e9p-13, 0x1.6c16c16c14468p-10);
    double d = FMA_DOUBLE(r, 0x1.71ddf8538edb7p-19, 0x1.a01a01b0afaa4p-16);
    double e = FMA_DOUBLE(r, 0x1.af5ebf1dcc2efp-26, 0x1.27e4c5b0de900p-22);
    e = FMA_DOUBLE(z, 0x1.1f954a4f901efp-29, e);
    return z * FMA_DOUBLE(y, FMA_DOUBLE(y, e, FMA_DOUBLE(z, d, c)), FMA_DOUBLE(z, b, a));
}

// As exp_float
static inline double exp_double(double x) {
    double z = 1400.0 < __builtin_fabs(x) ? __builtin_copysign(1400.0, x) : x;  // NaN passes
    double shifted = FMA_DOUBLE(z, 0x1.71547652b82fep0, ROUND_DOUBLE + 2046), n = shifted - (ROUND_DOUBLE + 2046);
    double r = FMA_DOUBLE(n, -LN2_LOW_DOUBLE, FMA_DOUBLE(n, -LN2_HIGH_DOUBLE, z));
    uint64_t k = bits_double(shifted), half = k >> 1;
    return (1.0 + (r + curve_double(r))) * from_bits_double(half << 52) * from_bits_double((k - half) << 52);
}

// For -40 <= x <= 710, as 2 (shift + 2^(n-1) (r + curve)); what rounding takes from r and from a first sum goes into it
static inline double expm1_inside_double(double x) {
    double shifted = FMA_DOUBLE(x, 0x1.71547652b82fep0, ROUND_DOUBLE + 1022), n = shifted - (ROUND_DOUBLE + 1022);
    double high = FMA_DOUBLE(n, -LN2_HIGH_DOUBLE, x), r = FMA_DOUBLE(n, -LN2_LOW_DOUBLE, high);
    double half = from_bits_double(bits_double(shifted) << 52), shift = half - 0.5, sum = FMA_DOUBLE(half, r, shift);
    double lost = FMA_DOUBLE(n, -LN2_LOW_DOUBLE, high - r), of_sum = FMA_DOUBLE(half, r, shift - sum);
    return 2.0 * (sum + FMA_DOUBLE(half, curve_double(r) + lost, of_sum));
}

static inline double expm1_double(double x) {
    double z = x < -40.0 ? -40.0 : x;
    double y = expm1_inside_double(z > 710.0 ? 710.0 : z);
    return __builtin_fabs(x) < 0x1p-54 ? x : y;
}

static inline double log_reduced_double(double k, double f) {
    double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f, y = z * z;
    double a = FMA_DOUBLE(z, 0x1.999999997fd74p-2, 0x1.5555555555592p-1);
    double b = FMA_DOUBLE(z, 0x1.c71c5205eb710p-3, 0x1.24924941f523fp-2);
    double c = FMA_DOUBLE(z, 0x1.39a1a67c7f150p-3, 0x1.74663fa75f35ap-3);
    double series = z * FMA_DOUBLE(y, FMA_DOUBLE(y, FMA_DOUBLE(y, 0x1.2f0638fc59049p-3, c), b), a);
    return k * LN2_HIGH_DOUBLE - ((half - FMA_DOUBLE(s, half + series, k * LN2_LOW_DOUBLE)) - f);
}

// k + 1023 of x = 2^k (1 + f), as log2_rounded; a logical shift, as AVX2 has no other of 64 bits
static inline uint64_t exponent_double(double x) { return (bits_double(x) + 0x00095f619980c433u) >> 52; }
// An integer below 2^52 as double, for which AVX2 has no instruction
static inline double of_integer(uint64_t n) { return from_bits_double(n | 0x4330000000000000u) - 0x1p52; }

static inline double log_double(double x) {
    int tiny = x < 0x1p-1022;
    double scaled = tiny ? x * 0x1p54 : x;
    uint64_t e = exponent_double(scaled);
    double f = from_bits_double(bits_double(scaled) - (e << 52) + 0x3ff0000000000000u) - 1.0;
    double y = log_reduced_double(of_integer(e) - (tiny ? 1077.0 : 1023.0), f);
    y = x == 0.0 ? -INFINITY : y;
    y = x < 0.0 ? NAN : y;
    return x < INFINITY ? y : x;
}

static inline double log1p_double(double x) {
    double u = 1.0 + x, lost = x - (u - 1.0);
    uint64_t e = exponent_double(u);
    double f = from_bits_double(bits_double(u) - (e << 52) + 0x3ff0000000000000u) - 1.0;
    double part = lost == 0.0 ? 0.0 : lost * from_bits_double((2046 - e) << 52);  // nothing is lost of a large u
    double y = log_reduced_double(of_integer(e) - 1023.0, f + part);
    y = x == 0.0 ? x : y;
    y = x == -1.0 ? -INFINITY : y;
    y = x < -1.0 ? NAN : y;
    return x < INFINITY ? y : x;
}

static inline double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

// ln(1 + t) for t <= 1
static inline double softplus_double(double x) {
    double t = exp_double(-__builtin_fabs(x));
    int large = t > 0.41421356237309503;
    double y = log_reduced_double(large ? 1.0 : 0.0, large ? 0.5 * (t - 1.0) : t);
    return (x > 0.0 ? x : 0.0) + y;
}

// As tanh_float. What rounding took from d and from y goes into y, as 1 / d = (1 - y) / 2
static inline double tanh_double(double x) {
    double a = __builtin_fabs(x), t = expm1_inside_double(2.0 * (a > 20.0 ? 20.0 : a)), d = t + 2.0, y = t / d;
    double lost = t < 0x1p20 ? t - (d - 2.0) : 0.0, rest = IS_FUSED ? FMA_DOUBLE(-y, d, t) : 0.0;
    y = FMA_DOUBLE(FMA_DOUBLE(-y, lost, rest), 0.5 - 0.5 * y, y);
    return a < 0x1p-54 ? x : __builtin_copysign(y, x);
}

// ---------------------------------------------------------------- half types

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
    uint32_t h = chosen(magnitude < 0x38800000u, subnormal, normal);
    h = chosen(magnitude >= 0x477ff000u, 0x7c00u, h);  // 65520 and above round to infinity
    h = chosen(magnitude > 0x7f800000u, 0x7e00u, h);
    return (uint16_t)(h | sign);
}
