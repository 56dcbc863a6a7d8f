// Channels last: an item is `block` neighbouring groups of one sample, whose channels are
// adjacent in every position. Groups are taken W at a time, a "bundle".
//
// R says how channels lie in vectors. R > 0: a group has R < W channels, a power of two, and R
// vectors hold a bundle. R < 0: a group has exactly -R vectors. Neither has a cut vector or a
// bundle of fewer groups; R = 0 has what it takes for them.
#ifndef SGEKIT_BUNDLES_H
#define SGEKIT_BUNDLES_H

#include "kernels.h"
#include "statistics.h"

namespace interleaved {
namespace {

constexpr int ROWS = 8; // positions at a time

INLINE int64_t padded(int64_t n) { return (n + W - 1) / W * W; }

struct Place {
    int64_t sample, group; // the first group of the block
    int64_t groups, channels;
    int64_t at_group, at_channel; // in (samples, groups) and (samples, groups, depth)
    int64_t first, last;          // the groups of the block, [first, last), that are meant
};

INLINE Place place(const Job &job, int64_t item) {
    const sgekit_call &call = *job.call;
    Place p;
    p.sample = item / job.blocks;
    p.group = item % job.blocks * job.block;
    p.groups = call.groups - p.group < job.block ? call.groups - p.group : job.block;
    p.channels = p.groups * call.depth;
    p.at_group = p.sample * call.groups + p.group;
    p.at_channel = p.at_group * call.depth;
    p.first = 0;
    p.last = p.groups;
    return p;
}

template <class T> INLINE T *start(const sgekit_map &map, const Job &job, const Place &p) {
    return (T *)map.data + p.sample * map.sample + p.group * job.call->depth;
}

// Calls f(k, live) for each bundle: its first group and how many it has.
template <int R, class F> INLINE void bundles(const Place &at, F f) {
    for (int64_t k = at.first; k < at.last; k += W) {
        f(k, R != 0 || at.last - k >= W ? W : (int)(at.last - k));
    }
}

// Calls f(offset, count, m) for each vector of a bundle: m numbers it (R > 0) or its group.
template <int R, class F> INLINE void vectors(int64_t depth, int live, F f) {
    if constexpr (R > 0) {
        UNROLL
        for (int m = 0; m < R; ++m) f((int64_t)m * W, W, m);
    } else if constexpr (R < 0) {
        for (int m = 0; m < W; ++m) {
            UNROLL
            for (int i = 0; i < -R; ++i) f((int64_t)(i - m * R) * W, W, m);
        }
    } else {
        for (int m = 0; m < live; ++m) {
            for (int64_t i = 0; i < depth; i += W) {
                f(m * depth + i, depth - i < W ? (int)(depth - i) : W, m);
            }
        }
    }
}

// Per-group values of a bundle, spread over the channels of the vector that `m` numbers.
template <int R> struct Spread {
    V all;
    float one[W];

    INLINE explicit Spread(V v) : all(v) {
        if constexpr (R <= 0) store(one, v);
    }
    INLINE V operator()(int m) const {
        if constexpr (R > 0) {
            return repeat<R>(all, m);
        } else {
            return splat(one[m]);
        }
    }
};

// Sums over the channels of each group of a bundle; term(offset, count) gives a vector.
template <int R, class F> INLINE V over_channels(int64_t depth, int live, F term) {
    if constexpr (R > 0) {
        return segment_sums<R>([&](auto m) ALWAYS { return term((int64_t)m * W, W); });
    } else if constexpr (R < 0) {
        return segment_sums<W>([&](auto m) ALWAYS {
            V sum = term((int64_t)-R * m * W, W);
            UNROLL
            for (int i = 1; i < -R; ++i) sum += term((int64_t)(i - m * R) * W, W);
            return sum;
        });
    } else {
        V v[W] = {};
        for (int m = 0; m < live; ++m) {
            V sum = {};
            int64_t i = m * depth, end = i + depth;
            for (; i + W <= end; i += W) sum += term(i, W);
            if (i < end) sum += term(i, (int)(end - i));
            v[m] = sum;
        }
        return segment_sums<W>([&](auto m) ALWAYS { return v[m]; });
    }
}

// c = (x - centre) . along of the groups of a bundle in one position.
template <int R, class T>
INLINE V likeness(const T *x, const float *centre, const float *along, int64_t depth, int live) {
    return over_channels<R>(depth, live, [&](int64_t offset, int count) ALWAYS {
        V from = get<(R != 0)>(centre + offset, count);
        return (get<(R != 0)>(x + offset, count) - from) * get<(R != 0)>(along + offset, count);
    });
}

// Calls f with the R of a depth.
template <class F> INLINE void with_packing(int64_t depth, F f) {
#if defined(SGEKIT_X86) && SGEKIT_W == 4
    // Processors this old are rare: half the time that it takes to build is worth more.
    return f(std::integral_constant<int, 0>());
#endif
    if (depth == 1) return f(std::integral_constant<int, 1>());
    if (depth == 2) return f(std::integral_constant<int, 2>());
    if constexpr (W > 4) {
        if (depth == 4) return f(std::integral_constant<int, 4>());
    }
    if constexpr (W > 8) {
        if (depth == 8) return f(std::integral_constant<int, 8>());
    }
    if (depth == W) return f(std::integral_constant<int, -1>());
    if (depth == 2 * W) return f(std::integral_constant<int, -2>());
    if constexpr (W < 16) {
        if (depth == 4 * W) return f(std::integral_constant<int, -4>());
    }
    f(std::integral_constant<int, 0>());
}

// Calls f with the R of a depth for the whole bundles of a block, and with 0 for the rest.
template <class F> INLINE void in_bundles(const Job &job, Place at, F f) {
    with_packing(job.call->depth, [&](auto r) {
        if constexpr (r != 0) at.last = at.groups / W * W;
        if (at.first < at.last) f(at, r);
        at.first = at.last;
        at.last = at.groups;
        if (at.first < at.last) f(at, std::integral_constant<int, 0>());
    });
}

} // namespace
} // namespace interleaved

#endif
