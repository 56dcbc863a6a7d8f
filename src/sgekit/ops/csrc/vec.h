// Vectors of W numbers, the widest that the instruction set of this translation unit has.
//
// Compiled once for each instruction set. Everything is in an unnamed namespace, and nothing
// of the standard library that has code is used: the linker must not share a function
// between the sets.
#ifndef SGEKIT_VEC_H
#define SGEKIT_VEC_H

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define SGEKIT_W 16
#elif defined(__AVX2__)
#define SGEKIT_W 8
#else
#define SGEKIT_W 4
#endif

#ifdef SGEKIT_CALLS // under sanitizers, for which whole kernels in one function are too large
#define INLINE inline
#define ALWAYS
#else
#define INLINE inline __attribute__((always_inline))
#define ALWAYS __attribute__((always_inline)) // of a lambda
#endif
// Of a loop over vectors in an array: unrolled, they stay in registers.
#define UNROLL _Pragma("GCC unroll 16")

namespace {

constexpr int W = SGEKIT_W;

typedef float V __attribute__((vector_size(4 * W)));
typedef double D __attribute__((vector_size(4 * W))); // W / 2 numbers
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint16_t U16 __attribute__((vector_size(2 * W)));
typedef int64_t L64 __attribute__((vector_size(4 * W)));

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

// f - 0 is f for every f; f + 0 is not for -0.
INLINE V splat(float f) { return f - V{}; }
INLINE U splat_bits(uint32_t u) { return u + U{}; }

template <class A, class B> INLINE A bits_as(B b) {
    static_assert(sizeof(A) == sizeof(B), "same size");
    A a;
    memcpy(&a, &b, sizeof a);
    return a;
}

// ---------------------------------------------------------------- conversions
// Intrinsics: GCC takes __builtin_convertvector apart where the two vectors differ in size.

struct Wide {
    D low, high;
};

#if defined(__AVX512F__)
INLINE U longer(U16 h) { return bits_as<U>(_mm512_cvtepu16_epi32(bits_as<__m256i>(h))); }
INLINE U16 shorter(U u) { return bits_as<U16>(_mm512_cvtepi32_epi16(bits_as<__m512i>(u))); }
INLINE Wide widen(V v) {
    __m512 m = bits_as<__m512>(v);
    return {bits_as<D>(_mm512_cvtps_pd(_mm512_castps512_ps256(m))),
            bits_as<D>(_mm512_cvtps_pd(_mm512_extractf32x8_ps(m, 1)))};
}
#elif defined(__AVX2__)
INLINE U longer(U16 h) { return bits_as<U>(_mm256_cvtepu16_epi32(bits_as<__m128i>(h))); }
INLINE U16 shorter(U u) {
    __m256i m = bits_as<__m256i>(u);
    m = _mm256_permute4x64_epi64(_mm256_packus_epi32(m, m), 0x08);
    return bits_as<U16>(_mm256_castsi256_si128(m));
}
INLINE Wide widen(V v) {
    __m256 m = bits_as<__m256>(v);
    return {bits_as<D>(_mm256_cvtps_pd(_mm256_castps256_ps128(m))),
            bits_as<D>(_mm256_cvtps_pd(_mm256_extractf128_ps(m, 1)))};
}
#elif defined(__x86_64__)
INLINE U longer(U16 h) {
    __m128i m = _mm_cvtsi64_si128(bits_as<int64_t>(h));
    return bits_as<U>(_mm_unpacklo_epi16(m, _mm_setzero_si128()));
}
INLINE U16 shorter(U u) {
    // The instruction saturates as signed numbers.
    __m128i m = _mm_sub_epi32(bits_as<__m128i>(u), _mm_set1_epi32(0x8000));
    m = _mm_add_epi16(_mm_packs_epi32(m, m), _mm_set1_epi16(-0x8000));
    return bits_as<U16>(_mm_cvtsi128_si64(m));
}
INLINE Wide widen(V v) {
    __m128 m = bits_as<__m128>(v);
    return {bits_as<D>(_mm_cvtps_pd(m)), bits_as<D>(_mm_cvtps_pd(_mm_movehl_ps(m, m)))};
}
#elif defined(__aarch64__)
INLINE U longer(U16 h) { return bits_as<U>(vmovl_u16(bits_as<uint16x4_t>(h))); }
INLINE U16 shorter(U u) { return bits_as<U16>(vmovn_u32(bits_as<uint32x4_t>(u))); }
INLINE Wide widen(V v) {
    float32x4_t m = bits_as<float32x4_t>(v);
    return {bits_as<D>(vcvt_f64_f32(vget_low_f32(m))), bits_as<D>(vcvt_high_f64_f32(m))};
}
#else
INLINE U longer(U16 h) { return __builtin_convertvector(h, U); }
INLINE U16 shorter(U u) { return __builtin_convertvector(u, U16); }
INLINE Wide widen(V v) { return {D{v[0], v[1]}, D{v[2], v[3]}}; }
#endif

INLINE V widen(U16 h, bf16) { return bits_as<V>(longer(h) << 16); }

INLINE U16 narrow(V v, bf16) {
    U u = bits_as<U>(v);
    U nearest_even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    // Rounding up could make a NaN an infinity.
    return shorter(v == v ? nearest_even : (u >> 16) | 0x40u);
}

#if defined(__AVX512F__)
INLINE V widen(U16 h, f16) { return bits_as<V>(_mm512_cvtph_ps(bits_as<__m256i>(h))); }
INLINE U16 narrow(V v, f16) {
    return bits_as<U16>(_mm512_cvtps_ph(bits_as<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__AVX2__)
INLINE V widen(U16 h, f16) { return bits_as<V>(_mm256_cvtph_ps(bits_as<__m128i>(h))); }
INLINE U16 narrow(V v, f16) {
    return bits_as<U16>(_mm256_cvtps_ph(bits_as<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__aarch64__)
INLINE V widen(U16 h, f16) { return bits_as<V>(vcvt_f32_f16(bits_as<float16x4_t>(h))); }
INLINE U16 narrow(V v, f16) { return bits_as<U16>(vcvt_f16_f32(bits_as<float32x4_t>(v))); }
#else
INLINE V widen(U16 h, f16) {
    U u = longer(h);
    U magnitude = (u & 0x7fffu) << 13;
    // The exponents' biases differ by 112; the product also makes subnormals normal.
    V value = bits_as<V>(magnitude) * 0x1p112f;
    U special = bits_as<U>(value) | 0x7f800000u;
    U finite = bits_as<U>(value);
    return bits_as<V>((magnitude >= splat_bits(0x7c00u << 13) ? special : finite)
                      | ((u & 0x8000u) << 16));
}
INLINE U16 narrow(V v, f16) {
    U u = bits_as<U>(v);
    U sign = (u >> 16) & 0x8000u;
    U m = u & 0x7fffffffu;
    // Between 0.5 and 1 the last bit is 2^-24, that of float16's subnormals: the sum rounds.
    U small = bits_as<U>(bits_as<V>(m) + 0.5f) - 0x3f000000u;
    U normal = (m - (112u << 23) + 0xfffu + ((m >> 13) & 1u)) >> 13;
    U nan = 0x7e00u | ((m >> 13) & 0x3ffu);
    U r = m < splat_bits(113u << 23) ? small : normal;
    r = m >= splat_bits(0x477ff000u) ? splat_bits(0x7c00u) : r; // 65520 and more
    r = m > splat_bits(0x7f800000u) ? nan : r;
    return shorter(r | sign);
}
#endif

// ---------------------------------------------------------------- loads and stores
// Through memcpy: any alignment. `some` moves the first `count` numbers, 0 < count < W, and
// touches no others; lanes that are not loaded are 0.

INLINE V load(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, V v) { memcpy(p, &v, sizeof v); }

template <class T> INLINE V load(const T *p) {
    U16 h;
    memcpy(&h, p, sizeof h);
    return widen(h, T());
}
template <class T> INLINE void store(T *p, V v) {
    U16 h = narrow(v, T());
    memcpy(p, &h, sizeof h);
}

#if defined(__AVX512F__)
INLINE __mmask16 first(int count) { return (__mmask16)((1u << count) - 1u); }
INLINE V load_some(const float *p, int count) {
    return bits_as<V>(_mm512_maskz_loadu_ps(first(count), p));
}
INLINE void store_some(float *p, V v, int count) {
    _mm512_mask_storeu_ps(p, first(count), bits_as<__m512>(v));
}
template <class T> INLINE V load_some(const T *p, int count) {
    return widen(bits_as<U16>(_mm256_maskz_loadu_epi16(first(count), p)), T());
}
template <class T> INLINE void store_some(T *p, V v, int count) {
    _mm256_mask_storeu_epi16(p, first(count), bits_as<__m256i>(narrow(v, T())));
}
#else
template <class T> INLINE V load_some(const T *p, int count) {
    U16 h = {};
    memcpy(&h, p, sizeof(T) * (unsigned)count);
    return widen(h, T());
}
template <class T> INLINE void store_some(T *p, V v, int count) {
    U16 h = narrow(v, T());
    memcpy(p, &h, sizeof(T) * (unsigned)count);
}
#if defined(__AVX2__)
INLINE __m256i first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE V load_some(const float *p, int count) {
    return bits_as<V>(_mm256_maskload_ps(p, first(count)));
}
INLINE void store_some(float *p, V v, int count) {
    _mm256_maskstore_ps(p, first(count), bits_as<__m256>(v));
}
#else
INLINE V load_some(const float *p, int count) {
    V v = {};
    memcpy(&v, p, sizeof(float) * (unsigned)count);
    return v;
}
INLINE void store_some(float *p, V v, int count) { memcpy(p, &v, sizeof(float) * (unsigned)count); }
#endif
#endif

// `Full` promises that count is at least W.
template <bool Full, class T> INLINE V get(const T *p, int count) {
    return Full || count >= W ? load(p) : load_some(p, count);
}
template <bool Full, class T> INLINE void put(T *p, V v, int count) {
    if (Full || count >= W) {
        store(p, v);
    } else {
        store_some(p, v, count);
    }
}

// The first `count` lanes of v, 0 in the others.
INLINE V only(V v, int count) {
    I lane;
    UNROLL
    for (int i = 0; i < W; ++i) lane[i] = i;
    return lane < count ? v : V{};
}

// ---------------------------------------------------------------- shuffles

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, Index, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, Index, ...) __builtin_shuffle(a, b, Index{__VA_ARGS__})
#endif

template <int... L> INLINE V halve(V a, V b, std::integer_sequence<int, L...>) {
    return SHUFFLE(a, b, I, (2 * L)...) + SHUFFLE(a, b, I, (2 * L + 1)...);
}
template <int... L> INLINE D halve(D a, D b, std::integer_sequence<int, L...>) {
    return SHUFFLE(a, b, L64, (2 * L)...) + SHUFFLE(a, b, L64, (2 * L + 1)...);
}
// Sums of neighbours: those of a, then those of b.
INLINE V halve(V a, V b) { return halve(a, b, std::make_integer_sequence<int, W>()); }
INLINE D halve(D a, D b) { return halve(a, b, std::make_integer_sequence<int, W / 2>()); }

// The M vectors leaf(0), leaf(1), ... end to end hold segments of M numbers each; their sums.
template <int M, int First = 0, class F> INLINE auto segment_sums(F leaf) {
    if constexpr (M == 1) {
        return leaf(std::integral_constant<int, First>());
    } else {
        auto left = segment_sums<M / 2, First>(leaf);
        return halve(left, segment_sums<M / 2, First + M / 2>(leaf));
    }
}

template <int R, int P, int... L> INLINE V repeat(V s, std::integer_sequence<int, L...>) {
    return SHUFFLE(s, s, I, ((P * W + L) / R)...);
}
// Every lane of s R times in a row, and of the R vectors that makes the one numbered `part`.
template <int R, int P = 0> INLINE V repeat(V s, int part) {
    if constexpr (P + 1 < R) {
        if (part != P) return repeat<R, P + 1>(s, part);
    }
    return repeat<R, P>(s, std::make_integer_sequence<int, W>());
}

// ---------------------------------------------------------------- sums in float64
// float64 holds the sum of 2^29 equal float32 exactly, so that their mean is their value:
// a constant map has no deviation, and a constant gradient none from its mean.

struct Sum {
    Wide s = {};

    INLINE void add(V v) {
        Wide w = widen(v);
        s.low += w.low;
        s.high += w.high;
    }
    INLINE void add_product(V a, V b) {
        Wide p = widen(a), q = widen(b);
        s.low += p.low * q.low;
        s.high += p.high * q.high;
    }
    // As W / 2 sums, and as one.
    INLINE D lanes() const { return s.low + s.high; }
    INLINE double total() const {
        return segment_sums<W / 2>([&](auto k) ALWAYS { return k == 0 ? lanes() : D{}; })[0];
    }
    // Adds to W numbers in memory.
    INLINE void add_to(double *p) const {
        Wide old;
        memcpy(&old, p, sizeof old);
        old.low += s.low;
        old.high += s.high;
        memcpy(p, &old, sizeof old);
    }
};

// Adds the first `count` lanes of v to numbers in memory.
INLINE void add_to(double *p, V v, int count = W) {
    if (count >= W) {
        Sum sum;
        sum.add(v);
        sum.add_to(p);
    } else {
        for (int i = 0; i < count; ++i) p[i] += (double)v[i];
    }
}

// Of 8 equal numbers exact: every partial sum is a power of two of them.
INLINE V pairwise(V a, V b, V c, V d, V e, V f, V g, V h) {
    return ((a + b) + (c + d)) + ((e + f) + (g + h));
}

// ---------------------------------------------------------------- the gate

// exp(-a), correct to 2 units in the last place between the bounds below.
INLINE V exp_minus(V a) {
    // Written so that a NaN passes. 1 + exp(87) has a normal inverse.
    const V most = splat(87.0f), least = splat(-87.0f);
    V x = most < a ? most : a;
    x = least > x ? least : x;
    // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits.
    V shifted = x * -1.44269504f + 12582912.0f;
    V k = shifted - 12582912.0f;
    I exponent = bits_as<I>(shifted) - 0x4b400000;
    // ln 2 in two parts, of which the first has zeros enough for an exact product with k.
    V r = k * -0.693359375f - x;
    r = r + k * 2.12194440e-4f;
    // Taylor's series; the next term is 5e-9 where |r| <= ln 2 / 2.
    V p = splat(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bits_as<V>((exponent + 127) << 23);
}

// 1 / v for normal v with a normal inverse, correct to 1 unit in the last place.
INLINE V inverse(V v) {
#if defined(__AVX512F__)
    // The division of this width takes as long as sixteen products.
    V guess = bits_as<V>(_mm512_rcp14_ps(bits_as<__m512>(v)));
    return guess + guess * (1.0f - v * guess);
#else
    return 1.0f / v;
#endif
}

struct Gate {
    V s;     // sigmoid(a)
    V slope; // s * (1 - s), without cancellation
};

INLINE Gate gate(V a) {
    V e = exp_minus(a);
    V s = inverse(1.0f + e);
    return {s, s * (e * s)};
}

} // namespace

#endif
