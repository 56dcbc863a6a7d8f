// NCHW, forward, of x itself or of its batch norm.
#ifndef SGEKIT_PLANAR_FORWARD_H
#define SGEKIT_PLANAR_FORWARD_H

#include "norm.h"
#include "planar.h"

namespace planar {
namespace {

INLINE Range range_of(const Job &job, int64_t item) {
    const int64_t depth = job.call->depth;
    return {item % job.call->groups * depth, item * depth, depth};
}

// x itself.
struct Plain {
    static constexpr int64_t tables = 0; // in the state, of `depth` numbers each
    const float *g;

    Plain(const Job &job, Place at, const float *) : g(job.call->g + at.at * job.call->depth) {}
    INLINE float centre(int64_t i) const { return g[i]; }
    INLINE float along(int64_t i) const { return g[i]; }
    INLINE auto value(int64_t) const {
        return [](V x) ALWAYS { return x; };
    }
    static void finish(const Job &job, int64_t item, int64_t i, double mean) {
        job.call->g[item * job.call->depth + i] = (float)mean;
    }
    static void tabulate_for(const Job &, int64_t, float *) {}
};

// A batch norm of x.
struct Normed {
    static constexpr int64_t tables = TABLES;
    Table table;

    Normed(const Job &job, Place, const float *state) : table(table_of(state, job.call->depth)) {}
    INLINE float centre(int64_t i) const { return table.centre[i]; }
    INLINE float along(int64_t i) const { return table.along[i]; }
    INLINE auto value(int64_t i) const {
        const V centre = splat(table.centre[i]), scale = splat(table.scale[i]);
        const V offset = splat(table.offset[i]);
        return [=](V x) ALWAYS { return (x - centre) * scale + offset; };
    }
    static void finish(const Job &job, int64_t item, int64_t i, double mean) {
        job.call->norm.means[item * job.call->depth + i] = mean;
    }
    static void tabulate_for(const Job &job, int64_t item, float *state) {
        tabulate(job.call->norm, range_of(job, item), table_of(state, job.call->depth));
    }
};

template <class Of> Sizes forward_sizes(const Job &job) {
    int64_t d = job.call->depth;
    return {padded(d), padded(job.call->positions), Of::tables * d};
}

template <class T, bool Exact>
void means(const Job &job, Place at, int64_t begin, int64_t end, double *out) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at);
    totals(call.depth, out,
           [&](int64_t i) ALWAYS { return sum_of<Exact>(x + i * call.x.outer, begin, end); });
}

// c = (x - centre) . along of each position into the buffer; its sum and that of its squares.
template <class T, class Of>
void likeness(const Job &job, Place at, int64_t begin, int64_t end, double *out, float *buffer,
              const Of &of) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at);
    const int64_t d = call.depth, step = call.x.outer;
    Sum sum, squares;
    tiles(begin, end, [&](int64_t j, int count, auto tile) ALWAYS {
        constexpr int K = size_of<tile>;
        V c[K] = {};
        const T *p = x + j;
        for (int64_t i = 0; i < d; ++i, p += step) {
            V centre = splat(of.centre(i)), along = splat(of.along(i));
            UNROLL
            for (int k = 0; k < K; ++k) c[k] += (fetch<tile>(p, k, count) - centre) * along;
        }
        UNROLL
        for (int k = 0; k < K; ++k) {
            c[k] = valid<tile>(c[k], k, count);
            store(buffer + j + k * W, c[k]);
            sum.add(c[k]);
            squares.add_product(c[k], c[k]);
        }
    });
    out[0] = sum.total();
    out[1] = squares.total();
}

template <class T, class Of, bool WithResidual>
void emit(const Job &job, Place at, int64_t begin, int64_t end, const float *buffer, const Of &of) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at);
    const T *r = start<const T>(WithResidual ? call.residual : call.x, job, at);
    T *y = start<T>(call.y, job, at);
    const int64_t d = call.depth, x_step = call.x.outer, y_step = call.y.outer;
    const int64_t r_step = call.residual.outer;
    const V slope = splat(call.weight[at.group] / (call.std[at.at] + call.eps));
    const V mean = splat(call.mean[at.at]), bias = splat(call.bias[at.group]);
    const V floor = splat(call.relu ? 0.0f : -__builtin_inff());
    tiles(begin, end, [&](int64_t j, int count, auto tile) ALWAYS {
        constexpr int K = size_of<tile>;
        V s[K];
        UNROLL
        for (int k = 0; k < K; ++k) s[k] = gate((load(buffer + j + k * W) - mean) * slope + bias).s;
        for (int64_t i = 0; i < d; ++i) {
            const auto z = of.value(i);
            UNROLL
            for (int k = 0; k < K; ++k) {
                V v = z(fetch<tile>(x + i * x_step + j, k, count)) * s[k];
                if (WithResidual) v += fetch<tile>(r + i * r_step + j, k, count);
                put_back<tile>(y + i * y_step + j, k, count, v < floor ? floor : v);
            }
        }
    });
}

template <class T, class Of>
void forward(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
             float *buffer, const float *state) {
    const Place at = place(job, item);
    const Of of(job, at, state);
    if (phase == 0) {
        if (!job.call->norm.given) means<T, Of::tables != 0>(job, at, begin, end, partial);
    } else if (phase == 1) {
        likeness<T>(job, at, begin, end, partial, buffer, of);
    } else if (job.call->residual.data) {
        emit<T, Of, true>(job, at, begin, end, buffer, of);
    } else {
        emit<T, Of, false>(job, at, begin, end, buffer, of);
    }
}

template <class Of>
void forward_finish(const Job &job, int phase, int64_t item, const double *partial, int64_t ranges,
                    float *state) {
    const sgekit_call &call = *job.call;
    const int64_t stride = forward_sizes<Of>(job).partial;
    const double n = (double)call.positions;
    if (phase == 0) {
        for (int64_t i = 0; i < call.depth && !call.norm.given; ++i) {
            Of::finish(job, item, i, total(partial + i, ranges, stride) / n);
        }
        return Of::tabulate_for(job, item, state);
    }
    const double sum = total(partial, ranges, stride), squares = total(partial + 1, ranges, stride);
    call.mean[item] = (float)(sum / n);
    call.std[item] = deviation(sum, squares, n);
}

} // namespace
} // namespace planar

#endif
