// Channels last, forward, of x itself or of its batch norm.
#ifndef SGEKIT_INTERLEAVED_FORWARD_H
#define SGEKIT_INTERLEAVED_FORWARD_H

#include "bundles.h"
#include "norm.h"

namespace interleaved {
namespace {

INLINE Range range_of(const Job &job, const Place &at) {
    return {at.group * job.call->depth, at.at_channel, at.channels};
}

// The tables of a block's channels, behind `groups` numbers for its groups.
INLINE Table tables_in(const Job &job, const float *state, int64_t groups) {
    return table_of(state + groups, job.block * job.call->depth);
}

// x itself.
struct Plain {
    static constexpr int64_t tables = 0; // of the state, a number for each channel
    const float *g;

    Plain(const Job &job, const Place &at, const float *) : g(job.call->g + at.at_channel) {}
    INLINE const float *centre() const { return g; }
    INLINE const float *along() const { return g; }
    template <bool Whole> INLINE V value(V x, int64_t, int) const { return x; }
    static void finish(const Job &job, const Place &at, int64_t q, double mean) {
        job.call->g[at.at_channel + q] = (float)mean;
    }
    static void tabulate_for(const Job &, const Place &, float *) {}
};

// A batch norm of x.
struct Normed {
    static constexpr int64_t tables = TABLES;
    Table table;

    Normed(const Job &job, const Place &, const float *state)
        : table(tables_in(job, state, padded(job.block))) {}
    INLINE const float *centre() const { return table.centre; }
    INLINE const float *along() const { return table.along; }
    template <bool Whole> INLINE V value(V x, int64_t q, int count) const {
        return (x - get<Whole>(table.centre + q, count)) * get<Whole>(table.scale + q, count)
             + get<Whole>(table.offset + q, count);
    }
    static void finish(const Job &job, const Place &at, int64_t q, double mean) {
        job.call->norm.means[at.at_channel + q] = mean;
    }
    static void tabulate_for(const Job &job, const Place &at, float *state) {
        const Table table = tables_in(job, state, padded(job.block));
        tabulate(job.call->norm, range_of(job, at), table);
    }
};

template <class Of> Sizes forward_sizes(const Job &job) {
    const int64_t channels = job.block * job.call->depth, groups = padded(job.block);
    const int64_t sums = padded(channels) > 2 * groups ? padded(channels) : 2 * groups;
    return {sums, groups * job.call->positions, groups + Of::tables * channels};
}

// Float32 sums of equal numbers are exact; `Exact` takes those of any numbers in float64.
template <class T, bool Exact>
void means(const Job &job, const Place &at, int64_t begin, int64_t end, double *out) {
    const int64_t step = job.call->x.outer;
    memset(out, 0, sizeof(double) * (size_t)padded(at.channels));
    const T *row = start<const T>(job.call->x, job, at) + begin * step;
    int64_t j = begin;
    for (; j + ROWS <= end; j += ROWS, row += ROWS * step) {
        for (int64_t q = 0; q < at.channels; q += W) {
            const T *p = row + q;
            Sum sum;
            if (Exact && q + W <= at.channels) {
                UNROLL
                for (int k = 0; k < ROWS; ++k) sum.add(load(p + k * step));
            } else if (q + W <= at.channels) {
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

template <class T, int R, class Of>
void scores_moments(const Job &job, const Place &at, int64_t begin, int64_t end, double *out,
                    float *buffer, const Of &of) {
    const sgekit_call &call = *job.call;
    const int64_t step = call.x.outer, d = call.depth, groups = padded(job.block);
    const T *x = start<const T>(call.x, job, at);
    const float *centre = of.centre(), *along = of.along();
    for (int64_t from = begin; from < end; from += ROWS) {
        const int64_t to = from + ROWS < end ? from + ROWS : end;
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            Sum sum, squares;
            for (int64_t j = from; j < to; ++j) {
                V c = likeness<R>(x + j * step + k * d, centre + k * d, along + k * d, d, live);
                if (kept<R>) store(buffer + j * groups + k, c);
                sum.add(c);
                squares.add_product(c, c);
            }
            sum.add_to(out + k);
            squares.add_to(out + groups + k);
        });
    }
}

template <class T, int R, class Of>
void emit(const Job &job, const Place &at, int64_t begin, int64_t end, const float *buffer,
          const float *slopes, const Of &of) {
    constexpr bool whole = R != 0;
    const sgekit_call &call = *job.call;
    const int64_t d = call.depth, groups = padded(job.block);
    const T *x = start<const T>(call.x, job, at), *r = start<const T>(call.residual, job, at);
    T *y = start<T>(call.y, job, at);
    const bool with_residual = call.residual.data;
    const V floor = splat(call.relu ? 0.0f : -__builtin_inff());
    for (int64_t j = begin; j < end; ++j) {
        bundles<R>(at, [&](int64_t k, int live) ALWAYS {
            const T *xj = x + j * call.x.outer + k * d, *rj = r + j * call.residual.outer + k * d;
            T *yj = y + j * call.y.outer + k * d;
            V c = kept<R> ? load(buffer + j * groups + k)
                          : likeness<R>(xj, of.centre() + k * d, of.along() + k * d, d, live);
            V mean = get<whole>(call.mean + at.at_group + k, live);
            V bias = get<whole>(call.bias + at.group + k, live);
            const Spread<R> s(gate((c - mean) * load(slopes + k) + bias).s);
            vectors<R>(d, live, [&](int64_t q, int count, int m) ALWAYS {
                V z = of.template value<whole>(get<whole>(xj + q, count), k * d + q, count);
                V v = z * s(m);
                if (with_residual) v += get<whole>(rj + q, count);
                put<whole>(yj + q, v < floor ? floor : v, count);
            });
        });
    }
}

template <class T, class Of>
void forward(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
             float *buffer, const float *state) {
    const Place all = place(job, item);
    const Of of(job, all, state);
    if (phase == 0) {
        if (!job.call->norm.given) means<T, Of::tables != 0>(job, all, begin, end, partial);
    } else if (phase == 1) {
        memset(partial, 0, sizeof(double) * (size_t)forward_sizes<Of>(job).partial);
        in_bundles(job, all, [&](const Place &at, auto r) {
            scores_moments<T, r>(job, at, begin, end, partial, buffer, of);
        });
    } else {
        in_bundles(job, all, [&](const Place &at, auto r) {
            emit<T, r>(job, at, begin, end, buffer, state, of);
        });
    }
}

template <class Of>
void forward_finish(const Job &job, int phase, int64_t item, const double *partial, int64_t ranges,
                    float *state) {
    const sgekit_call &call = *job.call;
    const Place at = place(job, item);
    const int64_t stride = forward_sizes<Of>(job).partial;
    const double n = (double)call.positions;
    if (phase == 0) {
        for (int64_t q = 0; q < at.channels && !call.norm.given; ++q) {
            Of::finish(job, at, q, total(partial + q, ranges, stride) / n);
        }
        return Of::tabulate_for(job, at, state);
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
