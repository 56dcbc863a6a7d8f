// Channels last, forward.
#ifndef SGEKIT_INTERLEAVED_FORWARD_H
#define SGEKIT_INTERLEAVED_FORWARD_H

#include "bundles.h"

namespace interleaved {
namespace {

Sizes forward_sizes(const Job &job) {
    int64_t channels = padded(job.block * job.call->depth), groups = padded(job.block);
    return {channels > 2 * groups ? channels : 2 * groups, groups * job.call->positions, groups};
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

// Whether c is kept from one phase to the next: where it is much smaller than x.
template <int R> constexpr bool kept = R <= 0 || R >= 4;

template <class T, int R>
void moments(const Job &job, const Place &at, int64_t begin, int64_t end, double *out,
             float *buffer) {
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
                if (kept<R>) store(buffer + j * groups + k, c);
                sum.add(c);
                squares.add_product(c, c);
            }
            sum.add_to(out + k);
            squares.add_to(out + groups + k);
        });
    }
}

template <class T, int R>
void emit(const Job &job, const Place &at, int64_t begin, int64_t end, const float *buffer,
          const float *slopes) {
    constexpr bool whole = R != 0;
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth, groups = padded(job.block);
    const T *x = start<const T>(call.x, job, at), *r = start<const T>(call.residual, job, at);
    T *y = start<T>(call.y, job, at);
    const float *g = call.g + at.at_channel;
    const bool with_residual = call.residual.data;
    const V floor = splat(call.relu ? 0.0f : -__builtin_inff());
    for (int64_t j = begin; j < end; ++j) {
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            const T *xj = x + j * call.x.outer + k * d, *rj = r + j * call.residual.outer + k * d;
            T *yj = y + j * call.y.outer + k * d;
            V c = kept<R> ? load(buffer + j * groups + k) : likeness<R>(xj, g + k * d, d, live);
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

template <class T>
void forward(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
             float *buffer, const float *state) {
    const Place all = place(job, item);
    if (phase == 0) {
        means<T>(job, all, begin, end, partial);
    } else if (phase == 1) {
        memset(partial, 0, sizeof(double) * (size_t)forward_sizes(job).partial);
        in_bundles(job, all, [&](const Place &at, auto r) {
            moments<T, r>(job, at, begin, end, partial, buffer);
        });
    } else {
        in_bundles(job, all, [&](const Place &at, auto r) {
            emit<T, r>(job, at, begin, end, buffer, state);
        });
    }
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

} // namespace
} // namespace interleaved

#endif
