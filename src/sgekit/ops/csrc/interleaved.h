// Channels last: an item is `block` neighbouring groups of one sample, whose channels are
// adjacent in every position. Groups are taken W at a time, a "bundle".
//
// R says how channels lie in vectors. R > 0: a group has R < W channels, a power of two, and R
// vectors hold a bundle. R < 0: a group has exactly -R vectors. Neither has a cut vector or a
// bundle of fewer groups; R = 0 has what it takes for them.
#ifndef SGEKIT_INTERLEAVED_H
#define SGEKIT_INTERLEAVED_H

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

// c = (x - g) . g of the groups of a bundle in one position.
template <int R, class T> INLINE V likeness(const T *x, const float *g, int64_t depth, int live) {
    return over_channels<R>(depth, live, [&](int64_t offset, int count) ALWAYS {
        V gi = get<(R != 0)>(g + offset, count);
        return (get<(R != 0)>(x + offset, count) - gi) * gi;
    });
}

// ---------------------------------------------------------------- forward

Sizes forward_sizes(const Job &job) {
    int64_t channels = padded(job.block * job.call->depth), groups = padded(job.block);
    return {channels > 2 * groups ? channels : 2 * groups, 0, groups};
}

template <class T>
void means(const Job &job, const Place &at, int64_t begin, int64_t end, double *out) {
    const int64_t step = job.call->x.outer;
    memset(out, 0, sizeof(double) * (size_t)padded(at.channels));
    const T *row = start<const T>(job.call->x, job, at) + begin * step;
    int64_t j = begin;
    for (; j + ROWS <= end; j += ROWS, row += ROWS * step) {
        for (int64_t q = 0; q < at.channels; q += W) {
            const T *p = row + q;
            Sum sum;
            if (q + W <= at.channels) {
                sum.add(pairwise(load(p), load(p + step), load(p + 2 * step), load(p + 3 * step),
                                 load(p + 4 * step), load(p + 5 * step), load(p + 6 * step),
                                 load(p + 7 * step)));
            } else {
                const int count = (int)(at.channels - q);
                UNROLL
                for (int k = 0; k < ROWS; ++k) sum.add(load_some(p + k * step, count));
            }
            sum.add_to(out + q);
        }
    }
    for (; j < end; ++j, row += step) {
        for (int64_t q = 0; q < at.channels; q += W) {
            Sum sum;
            sum.add(get<false>(row + q, (int)(at.channels - q < W ? at.channels - q : W)));
            sum.add_to(out + q);
        }
    }
}

template <class T, int R>
void moments(const Job &job, const Place &at, int64_t begin, int64_t end, double *out) {
    const sgekit_call &call = *job.call;
    const int64_t step = call.x.outer, d = call.depth, groups = padded(job.block);
    const T *x = start<const T>(call.x, job, at);
    const float *g = call.g + at.at_channel;
    for (int64_t from = begin; from < end; from += ROWS) {
        const int64_t to = from + ROWS < end ? from + ROWS : end;
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            Sum sum, squares;
            for (int64_t j = from; j < to; ++j) {
                V c = likeness<R>(x + j * step + k * d, g + k * d, d, live);
                sum.add(c);
                squares.add_product(c, c);
            }
            sum.add_to(out + k);
            squares.add_to(out + groups + k);
        });
    }
}

template <class T, int R>
void emit(const Job &job, const Place &at, int64_t begin, int64_t end, const float *slopes) {
    constexpr bool whole = R != 0;
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth;
    const T *x = start<const T>(call.x, job, at), *r = start<const T>(call.residual, job, at);
    T *y = start<T>(call.y, job, at);
    const float *g = call.g + at.at_channel;
    const bool with_residual = call.residual.data;
    const V floor = splat(call.relu ? 0.0f : -__builtin_inff());
    for (int64_t j = begin; j < end; ++j) {
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            const T *xj = x + j * call.x.outer + k * d, *rj = r + j * call.residual.outer + k * d;
            T *yj = y + j * call.y.outer + k * d;
            V c = likeness<R>(xj, g + k * d, d, live);
            V mean = get<whole>(call.mean + at.at_group + k, live);
            V bias = get<whole>(call.bias + at.group + k, live);
            const Spread<R> s(gate((c - mean) * load(slopes + k) + bias).s);
            vectors<R>(d, live, [&](int64_t q, int count, int m) ALWAYS {
                V v = get<whole>(xj + q, count) * s(m);
                if (with_residual) v += get<whole>(rj + q, count);
                put<whole>(yj + q, v < floor ? floor : v, count);
            });
        });
    }
}

// Calls f with the R of a depth.
template <class F> INLINE void with_packing(int64_t depth, F f) {
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

template <class T>
void forward(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
             float *, const float *state) {
    const Place all = place(job, item);
    if (phase == 0) {
        means<T>(job, all, begin, end, partial);
    } else if (phase == 1) {
        memset(partial, 0, sizeof(double) * (size_t)forward_sizes(job).partial);
        in_bundles(job, all, [&](const Place &at, auto r) {
            moments<T, r>(job, at, begin, end, partial);
        });
    } else {
        in_bundles(job, all, [&](const Place &at, auto r) {
            emit<T, r>(job, at, begin, end, state);
        });
    }
}

INLINE double total(const double *partial, int64_t ranges, int64_t stride) {
    double sum = 0;
    for (int64_t k = 0; k < ranges; ++k) sum += partial[k * stride];
    return sum;
}

void forward_finish(const Job &job, int phase, int64_t item, const double *partial, int64_t ranges,
                    float *state) {
    const sgekit_call &call = *job.call;
    const Place at = place(job, item);
    const int64_t stride = forward_sizes(job).partial;
    const double n = (double)call.positions;
    if (phase == 0) {
        for (int64_t q = 0; q < at.channels; ++q) {
            call.g[at.at_channel + q] = (float)(total(partial + q, ranges, stride) / n);
        }
        return;
    }
    for (int64_t k = 0; k < at.groups; ++k) {
        double sum = total(partial + k, ranges, stride);
        double squares = total(partial + padded(job.block) + k, ranges, stride);
        call.mean[at.at_group + k] = (float)(sum / n);
        const float std = call.std[at.at_group + k] = deviation(sum, squares, n);
        state[k] = call.weight[at.group + k] / (std + call.eps);
    }
}

// ---------------------------------------------------------------- backward
// The equations are those of derivatives.py. Phase 0 leaves t and da of each position in the
// buffer and sums what dweight, dbias and h follow from, phase 1 writes dx. With x - g summing
// to 0, sum(dc * (x - g)) = slope * (sum(da * (x - g)) - kappa * sum(t * (x - g))).

struct State {
    float *mean_high, *mean_low, *kappa, *slope, *h;
};

INLINE State state_of(const float *state, int64_t block) {
    float *p = const_cast<float *>(state);
    const int64_t groups = padded(block);
    return {p, p + groups, p + 2 * groups, p + 3 * groups, p + 4 * groups};
}

struct Partial {
    double *da, *t, *both, *da_x, *t_x;
};

INLINE Partial partial_of(const double *partial, const Job &job) {
    double *p = const_cast<double *>(partial);
    const int64_t groups = padded(job.block), channels = padded(job.block * job.call->depth);
    return {p, p + groups, p + 2 * groups, p + 3 * groups, p + 3 * groups + channels};
}

Sizes backward_sizes(const Job &job) {
    const int64_t groups = padded(job.block), channels = padded(job.block * job.call->depth);
    return {3 * groups + 2 * channels, 2 * groups * job.call->positions, 4 * groups + channels};
}

// What rows of a bundle, `k` its first group, add to sum(da * (x - g)) and sum(t * (x - g)).
template <class T, int R>
INLINE void along_x(const Job &job, const Place &at, int64_t k, int live, int64_t from, int64_t to,
                    const float *buffer, const Partial &sums) {
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth, step = call.x.outer, row = 2 * padded(job.block);
    const T *x = start<const T>(call.x, job, at) + k * d;
    const float *g = call.g + at.at_channel + k * d;
    double *of_da = sums.da_x + k * d, *of_t = sums.t_x + k * d;
    if constexpr (R > 0) {
        V da_x[R] = {}, t_x[R] = {};
        for (int64_t j = from; j < to; ++j) {
            const float *p = buffer + j * row + k;
            const Spread<R> t(load(p)), da(load(p + row / 2));
            vectors<R>(d, live, [&](int64_t q, int, int m) ALWAYS {
                V v = load(x + j * step + q) - load(g + q);
                da_x[m] += da(m) * v;
                t_x[m] += t(m) * v;
            });
        }
        vectors<R>(d, live, [&](int64_t q, int, int m) ALWAYS {
            add_to(of_da + q, da_x[m], W);
            add_to(of_t + q, t_x[m], W);
        });
    } else {
        vectors<R>(d, live, [&](int64_t q, int count, int m) ALWAYS {
            V gi = get<(R != 0)>(g + q, count), da_x = {}, t_x = {};
            for (int64_t j = from; j < to; ++j) {
                const float *p = buffer + j * row + k + m;
                V v = get<(R != 0)>(x + j * step + q, count) - gi;
                da_x += p[row / 2] * v;
                t_x += p[0] * v;
            }
            add_to(of_da + q, da_x, count);
            add_to(of_t + q, t_x, count);
        });
    }
}

template <class T, int R>
void scores(const Job &job, const Place &at, int64_t begin, int64_t end, double *partial,
            float *buffer) {
    constexpr bool whole = R != 0;
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth, groups = padded(job.block);
    const T *x = start<const T>(call.x, job, at), *dy = start<const T>(call.dy, job, at);
    const T *y = start<const T>(call.y, job, at);
    T *dz = start<T>(call.dz, job, at);
    const float *g = call.g + at.at_channel;
    const Partial sums = partial_of(partial, job);
    for (int64_t from = begin; from < end; from += ROWS) {
        const int64_t to = from + ROWS < end ? from + ROWS : end;
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            V inverse = 1.0f / (get<whole>(call.std + at.at_group + k, live) + call.eps);
            V mean = get<whole>(call.mean + at.at_group + k, live);
            V weight = get<whole>(call.weight + at.group + k, live);
            V bias = get<whole>(call.bias + at.group + k, live);
            Sum of_da, of_t, of_both;
            for (int64_t j = from; j < to; ++j) {
                const T *xj = x + j * call.x.outer + k * d, *up = dy + j * call.dy.outer + k * d;
                if (call.relu) {
                    const T *yj = y + j * call.y.outer + k * d;
                    T *dzj = dz + j * call.dz.outer + k * d;
                    vectors<R>(d, live, [&](int64_t q, int count, int) ALWAYS {
                        V v = get<whole>(up + q, count);
                        V passes = get<whole>(yj + q, count);
                        put<whole>(dzj + q, passes > 0.0f ? v : V{}, count);
                    });
                    up = dzj;
                }
                V c = likeness<R>(xj, g + k * d, d, live);
                V along = over_channels<R>(d, live, [&](int64_t q, int count) ALWAYS {
                    return get<whole>(up + q, count) * get<whole>(xj + q, count);
                });
                V t = (c - mean) * inverse;
                V da = along * gate(t * weight + bias).slope;
                float *p = buffer + j * 2 * groups + k;
                store(p, t);
                store(p + groups, da);
                of_da.add(da);
                of_t.add(t);
                of_both.add_product(da, t);
            }
            of_da.add_to(sums.da + k);
            of_t.add_to(sums.t + k);
            of_both.add_to(sums.both + k);
            // The rows are still in the first cache.
            along_x<T, R>(job, at, k, live, from, to, buffer, sums);
        });
    }
}

template <class T, int R>
void emit_gradient(const Job &job, const Place &at, int64_t begin, int64_t end, const float *buffer,
                   const float *state) {
    constexpr bool whole = R != 0;
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth, groups = padded(job.block);
    const sgekit_map &source = call.relu ? call.dz : call.dy;
    const T *dz = start<const T>(source, job, at);
    T *dx = start<T>(call.dx, job, at);
    const State of = state_of(state, job.block);
    for (int64_t j = begin; j < end; ++j) {
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            const T *dzj = dz + j * source.outer + k * d;
            T *dxj = dx + j * call.dx.outer + k * d;
            const float *p = buffer + j * 2 * groups + k;
            const float *g = call.g + at.at_channel + k * d, *h = of.h + k * d;
            V t = load(p), da = load(p + groups);
            V weight = get<whole>(call.weight + at.group + k, live);
            V bias = get<whole>(call.bias + at.group + k, live);
            V centred = (da - load(of.mean_high + k)) - load(of.mean_low + k);
            const Spread<R> s(gate(t * weight + bias).s);
            const Spread<R> dc((centred - load(of.kappa + k) * t) * load(of.slope + k));
            vectors<R>(d, live, [&](int64_t q, int count, int m) ALWAYS {
                V around = dc(m) * get<whole>(g + q, count) + get<whole>(h + q, count);
                put<whole>(dxj + q, get<whole>(dzj + q, count) * s(m) + around, count);
            });
        });
    }
}

template <class T>
void backward(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
              float *buffer, const float *state) {
    const Place all = place(job, item);
    if (phase == 0) {
        memset(partial, 0, sizeof(double) * (size_t)backward_sizes(job).partial);
        in_bundles(job, all, [&](const Place &at, auto r) {
            scores<T, r>(job, at, begin, end, partial, buffer);
        });
    } else {
        in_bundles(job, all, [&](const Place &at, auto r) {
            emit_gradient<T, r>(job, at, begin, end, buffer, state);
        });
    }
}

void backward_finish(const Job &job, int, int64_t item, const double *partial, int64_t ranges,
                     float *state) {
    const sgekit_call &call = *job.call;
    const Place at = place(job, item);
    const int64_t stride = backward_sizes(job).partial, d = call.depth;
    const double n = (double)call.positions;
    const Partial sums = partial_of(partial, job);
    const State of = state_of(state, job.block);
    for (int64_t k = 0; k < at.groups; ++k) {
        const double da = total(sums.da + k, ranges, stride);
        const Slopes s = slopes_of(da, total(sums.t + k, ranges, stride),
                                   total(sums.both + k, ranges, stride), n,
                                   call.std[at.at_group + k], call.eps, call.weight[at.group + k]);
        of.mean_high[k] = s.mean_high;
        of.mean_low[k] = s.mean_low;
        of.kappa[k] = s.kappa;
        of.slope[k] = s.slope;
        call.dweight[at.at_group + k] = s.dweight;
        call.dbias[at.at_group + k] = (float)da;
        for (int64_t q = k * d; q < (k + 1) * d; ++q) {
            const double da_x = total(sums.da_x + q, ranges, stride);
            const double t_x = total(sums.t_x + q, ranges, stride);
            of.h[q] = (float)(s.slope * (da_x - s.kappa * t_x) / n);
        }
    }
}

} // namespace
} // namespace interleaved

#endif
