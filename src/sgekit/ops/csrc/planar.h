// NCHW: an item is one group of one sample, whose positions are adjacent.
#ifndef SGEKIT_PLANAR_H
#define SGEKIT_PLANAR_H

#include "kernels.h"
#include "statistics.h"

namespace planar {
namespace {

constexpr int TILE = 4; // vectors of positions at a time: as many independent sums

struct Place {
    int64_t sample, group;
    int64_t at; // in (samples, groups)
};

INLINE Place place(const Job &job, int64_t item) {
    return {item / job.call->groups, item % job.call->groups, item};
}

template <class T> INLINE T *start(const sgekit_map &map, const Job &job, Place p) {
    return (T *)map.data + p.sample * map.sample + p.group * job.call->depth * map.outer;
}

INLINE int64_t padded(int64_t n) { return (n + W - 1) / W * W; }

// Calls f(j, count, tile) for tiles of TILE vectors, then once for what is left; `tile` is an
// integral constant, how many vectors there are, negative where `count` says how many numbers
// the last one has.
template <class F> INLINE void tiles(int64_t begin, int64_t end, F f) {
    int64_t j = begin;
    for (; j + TILE * W <= end; j += TILE * W) f(j, W, std::integral_constant<int, TILE>());
    const int left = (int)(end - j), last = (left - 1) % W + 1;
    if (left > 3 * W) return f(j, last, std::integral_constant<int, -4>());
    if (left > 2 * W) return f(j, last, std::integral_constant<int, -3>());
    if (left > W) return f(j, last, std::integral_constant<int, -2>());
    if (left > 0) f(j, last, std::integral_constant<int, -1>());
}

// How the vector k of a tile is loaded and stored.
template <int Tile> constexpr int size_of = Tile > 0 ? Tile : -Tile;
template <int Tile, class T> INLINE V fetch(const T *p, int k, int count) {
    return get<(Tile > 0)>(p + k * W, k == size_of<Tile> - 1 ? count : W);
}
template <int Tile, class T> INLINE void put_back(T *p, int k, int count, V v) {
    put<(Tile > 0)>(p + k * W, v, k == size_of<Tile> - 1 ? count : W);
}
// Lanes past the end as 0.
template <int Tile> INLINE V valid(V v, int k, int count) {
    return Tile > 0 || k < size_of<Tile> - 1 ? v : only(v, count);
}

// Sums of rows: row(i) gives W / 2 sums of the one numbered i. `out` has room for padded(rows).
template <class F> INLINE void totals(int64_t rows, double *out, F row) {
    for (int64_t i = 0; i < rows; i += W / 2) {
        D v[W / 2];
        for (int k = 0; k < W / 2; ++k) v[k] = i + k < rows ? row(i + k) : D{};
        D sums = segment_sums<W / 2>([&](auto k) ALWAYS { return v[k]; });
        memcpy(out + i, &sums, sizeof sums);
    }
}

// Float32 sums of equal numbers are exact; `Exact` takes those of any numbers in float64.
template <bool Exact, class T> INLINE D sum_of(const T *x, int64_t begin, int64_t end) {
    Sum sum;
    int64_t j = begin;
    if (Exact) {
        Sum other;
        for (; j + 2 * W <= end; j += 2 * W) {
            sum.add(load(x + j));
            other.add(load(x + j + W));
        }
        for (; j < end; j += W) sum.add(get<false>(x + j, (int)(end - j < W ? end - j : W)));
        return sum.lanes() + other.lanes();
    }
    for (; j + 8 * W <= end; j += 8 * W) {
        const T *p = x + j;
        sum.add(pairwise(load(p), load(p + W), load(p + 2 * W), load(p + 3 * W), load(p + 4 * W),
                         load(p + 5 * W), load(p + 6 * W), load(p + 7 * W)));
    }
    // Pairs of equal numbers, or of one and a 0, are exact as well.
    for (; j + 2 * W <= end; j += 2 * W) sum.add(load(x + j) + load(x + j + W));
    const int left = (int)(end - j);
    if (left > W) {
        sum.add(load(x + j) + load_some(x + j + W, left - W));
    } else if (left > 0) {
        sum.add(get<false>(x + j, left));
    }
    return sum.lanes();
}

} // namespace
} // namespace planar

#endif
