// Channels last: the moments of a batch norm, and the backward of a block's tail.
//
// The scores' pass reads the maps from memory, ROWS positions at a time, and leaves sums; the
// gradient's pass takes the scores again from x and dz, which costs less than keeping them.
#ifndef SGEKIT_INTERLEAVED_TAIL_H
#define SGEKIT_INTERLEAVED_TAIL_H

#include "interleaved_forward.h"

namespace interleaved {
namespace {

// ---------------------------------------------------------------- moments

// The range's positions, and of each channel the mean and the squares around it.
Sizes moments_sizes(const Job &job) { return {W + 2 * padded(job.block * job.call->depth), 0, 0}; }

// W channels' Moments, with those of `count` rows merged into them.
struct Merge {
    double share, weight; // count / all, n * count / all

    Merge(double n, double count) : share(count / (n + count)), weight(n * share) {}

    INLINE void half(D &mean, D &squares, D other_mean, D other_squares) const {
        const D by = other_mean - mean;
        mean += by * share;
        squares += other_squares + by * by * weight;
    }
    // The other mean is in two parts.
    INLINE void operator()(double *mean, double *squares, V high, V low, V other_squares) const {
        const Wide h = widen(high), l = widen(low), s = widen(other_squares);
        Wide m, q;
        memcpy(&m, mean, sizeof m);
        memcpy(&q, squares, sizeof q);
        half(m.low, q.low, h.low + l.low, s.low);
        half(m.high, q.high, h.high + l.high, s.high);
        memcpy(mean, &m, sizeof m);
        memcpy(squares, &q, sizeof q);
    }
};

template <class T>
void moments(const Job &job, int, int64_t item, int64_t begin, int64_t end, double *partial,
             float *, const float *) {
    const Place at = place(job, item);
    const int64_t step = job.call->x.outer, channels = padded(job.block * job.call->depth);
    double *mean = partial + W, *squares = mean + channels;
    memset(partial, 0, sizeof(double) * (size_t)moments_sizes(job).partial);
    partial[0] = (double)(end - begin);
    const T *row = start<const T>(job.call->x, job, at) + begin * step;
    int64_t j = begin;
    for (; j + ROWS <= end; j += ROWS, row += ROWS * step) {
        const Merge merge((double)(j - begin), ROWS);
        const auto of_rows = [&](int64_t q, auto whole, int count) ALWAYS {
            V v[ROWS], of_squares = {};
            UNROLL
            for (int k = 0; k < ROWS; ++k) v[k] = get<whole>(row + q + k * step, count);
            const auto sum = [&]() ALWAYS {
                return pairwise(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
            };
            const V centre = sum() * (1.0f / ROWS);
            UNROLL
            for (int k = 0; k < ROWS; ++k) {
                v[k] -= centre;
                of_squares += v[k] * v[k];
            }
            merge(mean + q, squares + q, centre, sum() * (1.0f / ROWS), of_squares);
        };
        int64_t q = 0;
        for (; q + W <= at.channels; q += W) of_rows(q, std::true_type(), W);
        if (q < at.channels) of_rows(q, std::false_type(), (int)(at.channels - q));
    }
    for (; j < end; ++j, row += step) {
        const Merge merge((double)(j - begin), 1);
        for (int64_t q = 0; q < at.channels; q += W) {
            const int count = (int)(at.channels - q < W ? at.channels - q : W);
            merge(mean + q, squares + q, get<false>(row + q, count), V{}, V{});
        }
    }
}

void moments_finish(const Job &job, int, int64_t item, const double *partial, int64_t ranges,
                    float *) {
    const Place at = place(job, item);
    const int64_t stride = moments_sizes(job).partial;
    const int64_t channels = padded(job.block * job.call->depth);
    for (int64_t q = 0; q < at.channels; ++q) {
        Moments all = {0, 0, 0};
        for (int64_t k = 0; k < ranges; ++k) {
            const double *p = partial + k * stride;
            all.merge(p[0], p[W + q], p[W + channels + q]);
        }
        job.call->norm.means[at.at_channel + q] = all.mean;
        job.kept.products[at.at_channel + q] = all.squares;
    }
}

// ---------------------------------------------------------------- backward, sums

struct TailPartial {
    double *da, *t, *both;           // of groups
    double *dz, *dz_v, *da_v, *t_v;  // of channels
};

INLINE TailPartial tail_partial_of(const double *partial, const Job &job) {
    double *p = const_cast<double *>(partial);
    const int64_t groups = padded(job.block), channels = padded(job.block * job.call->depth);
    double *q = p + 3 * groups;
    return {p, p + groups, p + 2 * groups, q, q + channels, q + 2 * channels, q + 3 * channels};
}

Sizes tail_scores_sizes(const Job &job) {
    const int64_t channels = job.block * job.call->depth;
    return {3 * padded(job.block) + 4 * padded(channels), 0, TABLES * channels};
}

// Of W per-group numbers in memory, those of the vector that `m` numbers.
template <int R> INLINE V spread(const float *p, int m) {
    if constexpr (R > 0) {
        return repeat<R>(load(p), m);
    } else {
        return splat(p[m]);
    }
}

// The statistics and parameters of a bundle.
struct Bundle {
    V mean, inverse, weight, bias;

    template <bool Whole>
    static INLINE Bundle of(const sgekit_call &call, const Place &at, int64_t k, int live) {
        return {get<Whole>(call.mean + at.at_group + k, live),
                1.0f / (get<Whole>(call.std + at.at_group + k, live) + call.eps),
                get<Whole>(call.weight + at.group + k, live),
                get<Whole>(call.bias + at.group + k, live)};
    }
    INLINE Scores scores(V c, V q) const { return scores_of(c, q, mean, inverse, weight, bias); }
};

// dz . z of the groups of a bundle in one position; `first` is its first channel.
template <int R, class T>
INLINE V along_z(const T *dz, const T *x, const Table &of, int64_t first, int64_t depth, int live) {
    constexpr bool whole = R != 0;
    return over_channels<R>(depth, live, [&](int64_t q, int count) ALWAYS {
        const V v = get<whole>(x + q, count) - get<whole>(of.centre + first + q, count);
        const V z = v * get<whole>(of.scale + first + q, count)
                  + get<whole>(of.offset + first + q, count);
        return get<whole>(dz + q, count) * z;
    });
}

template <class T, int R>
void tail_scores_of(const Job &job, const Place &at, int64_t begin, int64_t end, double *partial,
                    const float *state) {
    constexpr bool whole = R != 0;
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth;
    const sgekit_map &source = call.relu ? call.dz : call.dy;
    const T *x = start<const T>(call.x, job, at), *dy = start<const T>(call.dy, job, at);
    const T *y = start<const T>(call.y, job, at), *dz = start<const T>(source, job, at);
    T *written = start<T>(call.dz, job, at);
    const Table of = table_of(state, job.block * d);
    const TailPartial sums = tail_partial_of(partial, job);
    for (int64_t from = begin; from < end; from += ROWS) {
        const int64_t to = from + ROWS < end ? from + ROWS : end;
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            const Bundle group = Bundle::of<whole>(call, at, k, live);
            float s[ROWS * W], t[ROWS * W], da[ROWS * W];
            Sum of_da, of_t, of_both;
            for (int64_t j = from; j < to; ++j) {
                const T *xj = x + j * call.x.outer + k * d, *up = dz + j * source.outer + k * d;
                if (call.relu) {
                    const T *dyj = dy + j * call.dy.outer + k * d;
                    const T *yj = y + j * call.y.outer + k * d;
                    T *dzj = written + j * call.dz.outer + k * d;
                    vectors<R>(d, live, [&](int64_t q, int count, int) ALWAYS {
                        V v = get<whole>(dyj + q, count);
                        V passes = get<whole>(yj + q, count);
                        put<whole>(dzj + q, passes <= 0.0f ? V{} : v, count);
                    });
                }
                const V c = likeness<R>(xj, of.centre + k * d, of.along + k * d, d, live);
                const Scores one = group.scores(c, along_z<R>(up, xj, of, k * d, d, live));
                store(s + (j - from) * W, one.s);
                store(t + (j - from) * W, one.t);
                store(da + (j - from) * W, one.da);
                of_da.add(one.da);
                of_t.add(one.t);
                of_both.add_product(one.da, one.t);
            }
            of_da.add_to(sums.da + k);
            of_t.add_to(sums.t + k);
            of_both.add_to(sums.both + k);
            // The rows are still in the first cache.
            vectors<R>(d, live, [&](int64_t q, int count, int m) ALWAYS {
                const int64_t p = k * d + q;
                const V centre = get<whole>(of.centre + p, count);
                V of_dz = {}, dz_v = {}, da_v = {}, t_v = {};
                for (int64_t j = from; j < to; ++j) {
                    const V v = get<whole>(x + j * call.x.outer + p, count) - centre;
                    const V gated = get<whole>(dz + j * source.outer + p, count)
                                  * spread<R>(s + (j - from) * W, m);
                    of_dz += gated;
                    dz_v += gated * v;
                    da_v += spread<R>(da + (j - from) * W, m) * v;
                    t_v += spread<R>(t + (j - from) * W, m) * v;
                }
                add_to(sums.dz + p, of_dz, count);
                add_to(sums.dz_v + p, dz_v, count);
                add_to(sums.da_v + p, da_v, count);
                add_to(sums.t_v + p, t_v, count);
            });
        });
    }
}

template <class T>
void tail_scores(const Job &job, int phase, int64_t item, int64_t begin, int64_t end,
                 double *partial, float *, const float *state) {
    if (phase == 0) return;
    memset(partial, 0, sizeof(double) * (size_t)tail_scores_sizes(job).partial);
    in_bundles(job, place(job, item), [&](const Place &at, auto r) {
        tail_scores_of<T, r>(job, at, begin, end, partial, state);
    });
}

void tail_scores_finish(const Job &job, int phase, int64_t item, const double *partial,
                        int64_t ranges, float *state) {
    const sgekit_call &call = *job.call;
    const Place at = place(job, item);
    const Range range = range_of(job, at);
    const int64_t stride = tail_scores_sizes(job).partial, d = call.depth;
    if (phase == 0) return tabulate(call.norm, range, table_of(state, job.block * d));
    const TailPartial sums = tail_partial_of(partial, job);
    for (int64_t k = 0; k < at.groups; ++k) {
        const double da = total(sums.da + k, ranges, stride), t = total(sums.t + k, ranges, stride);
        const Slopes of = slopes_of(da, t, total(sums.both + k, ranges, stride),
                                    (double)call.positions, call.std[at.at_group + k], call.eps,
                                    call.weight[at.group + k]);
        call.dweight[at.at_group + k] = of.dweight;
        call.dbias[at.at_group + k] = (float)da;
        keep(job, at.at_group + k, of);
        for (int64_t q = k * d; q < (k + 1) * d; ++q) {
            share(job, of, t, range, q,
                  {total(sums.dz + q, ranges, stride), total(sums.dz_v + q, ranges, stride),
                   total(sums.da_v + q, ranges, stride), total(sums.t_v + q, ranges, stride)});
        }
    }
}

// ---------------------------------------------------------------- backward, dx

constexpr int64_t SLOPES = 4; // of a group, in front of the tables

Sizes tail_gradient_sizes(const Job &job) {
    const int64_t channels = job.block * job.call->depth;
    return {0, 0, SLOPES * padded(job.block) + GRADIENT_TABLES * channels};
}

template <class T, int R>
void tail_gradient_of(const Job &job, const Place &at, int64_t begin, int64_t end,
                      const float *state) {
    constexpr bool whole = R != 0;
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth, groups = padded(job.block);
    const sgekit_map &source = call.relu ? call.dz : call.dy;
    const T *x = start<const T>(call.x, job, at), *dz = start<const T>(source, job, at);
    T *dx = start<T>(call.dx, job, at);
    const Table of = tables_in(job, state, SLOPES * groups);
    for (int64_t j = begin; j < end; ++j) {
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            const T *xj = x + j * call.x.outer + k * d, *dzj = dz + j * source.outer + k * d;
            T *dxj = dx + j * call.dx.outer + k * d;
            const V c = likeness<R>(xj, of.centre + k * d, of.along + k * d, d, live);
            const V q = along_z<R>(dzj, xj, of, k * d, d, live);
            const Scores one = Bundle::of<whole>(call, at, k, live).scores(c, q);
            const float *p = state + k;
            const V centred = (one.da - load(p)) - load(p + groups);
            const Spread<R> s(one.s);
            const Spread<R> dc((centred - load(p + 2 * groups) * one.t) * load(p + 3 * groups));
            vectors<R>(d, live, [&](int64_t i, int count, int m) ALWAYS {
                const int64_t w = k * d + i;
                const V v = get<whole>(xj + i, count) - get<whole>(of.centre + w, count);
                const V gated = get<whole>(dzj + i, count) * s(m);
                const V around = dc(m) * get<whole>(of.along + w, count)
                               + (get<whole>(of.slope + w, count) * v
                                  + get<whole>(of.constant + w, count));
                put<whole>(dxj + i, gated * get<whole>(of.scale + w, count) + around, count);
            });
        });
    }
}

template <class T>
void tail_gradient(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *,
                   float *, const float *state) {
    if (phase == 0) return;
    in_bundles(job, place(job, item), [&](const Place &at, auto r) {
        tail_gradient_of<T, r>(job, at, begin, end, state);
    });
}

void tail_gradient_finish(const Job &job, int, int64_t item, const double *, int64_t,
                          float *state) {
    const Place at = place(job, item);
    const int64_t groups = padded(job.block);
    tabulate_gradient(job, range_of(job, at), tables_in(job, state, SLOPES * groups));
    for (int64_t k = 0; k < at.groups; ++k) {
        const float *slopes = job.kept.slopes + SLOPES * (at.at_group + k);
        for (int64_t m = 0; m < SLOPES; ++m) state[m * groups + k] = slopes[m];
    }
}

} // namespace
} // namespace interleaved

#endif
