// Channels last, backward.
//
// The equations are those of derivatives.py. Phase 0 leaves t and da of each position in the
// buffer and sums what dweight, dbias and h follow from, phase 1 writes dx. With x - g summing
// to 0, sum(dc * (x - g)) = slope * (sum(da * (x - g)) - kappa * sum(t * (x - g))).
#ifndef SGEKIT_INTERLEAVED_BACKWARD_H
#define SGEKIT_INTERLEAVED_BACKWARD_H

#include "bundles.h"

namespace interleaved {
namespace {

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
                        put<whole>(dzj + q, passes <= 0.0f ? V{} : v, count);
                    });
                    up = dzj;
                }
                V c = likeness<R>(xj, g + k * d, g + k * d, d, live);
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
