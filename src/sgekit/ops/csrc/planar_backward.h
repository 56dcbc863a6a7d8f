// NCHW, backward.
//
// The equations are those of derivatives.py. Phase 0 leaves s, t and da of each position in
// the buffer, phase 1 makes da into dc and sums h, phase 2 writes dx.
#ifndef SGEKIT_PLANAR_BACKWARD_H
#define SGEKIT_PLANAR_BACKWARD_H

#include "planar.h"

namespace planar {
namespace {

enum { MEAN_HIGH, MEAN_LOW, KAPPA, SLOPE, H }; // the state; h has `depth` numbers

Sizes backward_sizes(const Job &job) {
    int64_t d = job.call->depth;
    return {padded(d), 3 * padded(job.call->positions), H + d};
}

template <class T, bool Relu>
void scores(const Job &job, Place at, int64_t begin, int64_t end, double *out, float *buffer) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at), *dy = start<const T>(call.dy, job, at);
    const T *y = start<const T>(Relu ? call.y : call.x, job, at);
    T *dz = start<T>(Relu ? call.dz : call.dx, job, at);
    const float *g = call.g + at.at * call.depth;
    const int64_t d = call.depth, n = padded(call.positions);
    const int64_t x_step = call.x.outer, dy_step = call.dy.outer;
    const int64_t y_step = call.y.outer, dz_step = call.dz.outer;
    const V inverse = splat(1.0f / (call.std[at.at] + call.eps)), mean = splat(call.mean[at.at]);
    const V weight = splat(call.weight[at.group]), bias = splat(call.bias[at.group]);
    Sum of_da, of_t, of_both;
    tiles(begin, end, [&](int64_t j, int count, auto tile) ALWAYS {
        constexpr int K = size_of<tile>;
        V c[K] = {}, q[K] = {};
        for (int64_t i = 0; i < d; ++i) {
            V gi = splat(g[i]);
            UNROLL
            for (int k = 0; k < K; ++k) {
                V xi = fetch<tile>(x + i * x_step + j, k, count);
                V up = fetch<tile>(dy + i * dy_step + j, k, count);
                if (Relu) {
                    up = fetch<tile>(y + i * y_step + j, k, count) <= 0.0f ? V{} : up;
                    put_back<tile>(dz + i * dz_step + j, k, count, up);
                }
                c[k] += (xi - gi) * gi;
                q[k] += up * xi;
            }
        }
        UNROLL
        for (int k = 0; k < K; ++k) {
            V t = valid<tile>((c[k] - mean) * inverse, k, count);
            Gate gate_k = gate(t * weight + bias);
            V da = valid<tile>(q[k] * gate_k.slope, k, count);
            float *p = buffer + j + k * W;
            store(p, gate_k.s);
            store(p + n, t);
            store(p + 2 * n, da);
            of_da.add(da);
            of_t.add(t);
            of_both.add_product(da, t);
        }
    });
    out[0] = of_da.total();
    out[1] = of_t.total();
    out[2] = of_both.total();
}

template <class T>
void slopes(const Job &job, Place at, int64_t begin, int64_t end, double *out, float *buffer,
            const float *state) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at);
    const float *g = call.g + at.at * call.depth;
    const int64_t n = padded(call.positions);
    const float *t = buffer + n;
    float *dc = buffer + 2 * n;
    const V high = splat(state[MEAN_HIGH]), low = splat(state[MEAN_LOW]);
    const V kappa = splat(state[KAPPA]), slope = splat(state[SLOPE]);
    tiles(begin, end, [&](int64_t j, int count, auto tile) ALWAYS {
        UNROLL
        for (int k = 0; k < size_of<tile>; ++k) {
            const int64_t at_k = j + k * W;
            V v = (((load(dc + at_k) - high) - low) - kappa * load(t + at_k)) * slope;
            store(dc + at_k, valid<tile>(v, k, count));
        }
    });
    totals(call.depth, out, [&](int64_t i) ALWAYS {
        const T *p = x + i * call.x.outer;
        const V gi = splat(g[i]);
        Sum of_h;
        // float32 sums of at most 64 numbers a lane.
        constexpr int64_t part = 64 * TILE * W;
        for (int64_t from = begin; from < end; from += part) {
            V h[TILE] = {};
            const int64_t to = from + part < end ? from + part : end;
            tiles(from, to, [&](int64_t j, int count, auto tile) ALWAYS {
                UNROLL
                for (int k = 0; k < size_of<tile>; ++k) {
                    h[k] += load(dc + j + k * W) * (fetch<tile>(p + j, k, count) - gi);
                }
            });
            of_h.add((h[0] + h[1]) + (h[2] + h[3]));
        }
        return of_h.lanes();
    });
}

template <class T>
void emit_gradient(const Job &job, Place at, int64_t begin, int64_t end, const float *buffer,
                   const float *state) {
    const sgekit_call &call = *job.call;
    const sgekit_map &source = call.relu ? call.dz : call.dy;
    const T *dz = start<const T>(source, job, at);
    T *dx = start<T>(call.dx, job, at);
    const float *g = call.g + at.at * call.depth, *h = state + H;
    const int64_t d = call.depth, n = padded(call.positions);
    const int64_t dz_step = source.outer, dx_step = call.dx.outer;
    tiles(begin, end, [&](int64_t j, int count, auto tile) ALWAYS {
        constexpr int K = size_of<tile>;
        V s[K], dc[K];
        UNROLL
        for (int k = 0; k < K; ++k) {
            s[k] = load(buffer + j + k * W);
            dc[k] = load(buffer + 2 * n + j + k * W);
        }
        for (int64_t i = 0; i < d; ++i) {
            V gi = splat(g[i]), hi = splat(h[i]);
            UNROLL
            for (int k = 0; k < K; ++k) {
                V v = fetch<tile>(dz + i * dz_step + j, k, count) * s[k] + (dc[k] * gi + hi);
                put_back<tile>(dx + i * dx_step + j, k, count, v);
            }
        }
    });
}

template <class T>
void backward(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
              float *buffer, const float *state) {
    Place at = place(job, item);
    if (phase == 1) {
        slopes<T>(job, at, begin, end, partial, buffer, state);
    } else if (phase == 2) {
        emit_gradient<T>(job, at, begin, end, buffer, state);
    } else if (job.call->relu) {
        scores<T, true>(job, at, begin, end, partial, buffer);
    } else {
        scores<T, false>(job, at, begin, end, partial, buffer);
    }
}

void backward_finish(const Job &job, int phase, int64_t item, const double *partial, int64_t ranges,
                     float *state) {
    const sgekit_call &call = *job.call;
    const int64_t stride = backward_sizes(job).partial;
    const double n = (double)call.positions;
    if (phase == 1) {
        for (int64_t i = 0; i < call.depth; ++i) {
            state[H + i] = (float)(total(partial + i, ranges, stride) / n);
        }
        return;
    }
    const double da = total(partial, ranges, stride), t = total(partial + 1, ranges, stride);
    const double both = total(partial + 2, ranges, stride);
    const Slopes of = slopes_of(da, t, both, n, call.std[item], call.eps,
                                call.weight[item % call.groups]);
    state[MEAN_HIGH] = of.mean_high;
    state[MEAN_LOW] = of.mean_low;
    state[KAPPA] = of.kappa;
    state[SLOPE] = of.slope;
    call.dweight[item] = of.dweight;
    call.dbias[item] = (float)da;
}

} // namespace
} // namespace planar

#endif
