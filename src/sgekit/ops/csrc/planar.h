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
        D v[W / 2] = {};
        for (int k = 0; k < W / 2 && i + k < rows; ++k) v[k] = row(i + k);
        D sums = segment_sums<W / 2>([&](auto k) ALWAYS { return v[k]; });
        memcpy(out + i, &sums, sizeof sums);
    }
}

template <class T> INLINE D sum_of(const T *x, int64_t begin, int64_t end) {
    Sum sum;
    int64_t j = begin;
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

// ---------------------------------------------------------------- forward

Sizes forward_sizes(const Job &job) {
    int64_t d = job.call->depth;
    return {padded(d), padded(job.call->positions), 0};
}

template <class T> void means(const Job &job, Place at, int64_t begin, int64_t end, double *out) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at);
    totals(call.depth, out,
           [&](int64_t i) ALWAYS { return sum_of(x + i * call.x.outer, begin, end); });
}

// c = (x - g) . g of each position into the buffer; its sum and that of its squares.
template <class T>
void likeness(const Job &job, Place at, int64_t begin, int64_t end, double *out, float *buffer) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at);
    const float *g = call.g + at.at * call.depth;
    const int64_t d = call.depth, step = call.x.outer;
    Sum sum, squares;
    tiles(begin, end, [&](int64_t j, int count, auto tile) ALWAYS {
        constexpr int K = size_of<tile>;
        V c[K] = {};
        const T *p = x + j;
        for (int64_t i = 0; i < d; ++i, p += step) {
            V gi = splat(g[i]);
            UNROLL
            for (int k = 0; k < K; ++k) c[k] += (fetch<tile>(p, k, count) - gi) * gi;
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

template <class T, bool WithResidual>
void emit(const Job &job, Place at, int64_t begin, int64_t end, const float *buffer) {
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
            UNROLL
            for (int k = 0; k < K; ++k) {
                V v = fetch<tile>(x + i * x_step + j, k, count) * s[k];
                if (WithResidual) v += fetch<tile>(r + i * r_step + j, k, count);
                put_back<tile>(y + i * y_step + j, k, count, v < floor ? floor : v);
            }
        }
    });
}

template <class T>
void forward(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
             float *buffer, const float *) {
    Place at = place(job, item);
    if (phase == 0) {
        means<T>(job, at, begin, end, partial);
    } else if (phase == 1) {
        likeness<T>(job, at, begin, end, partial, buffer);
    } else if (job.call->residual.data) {
        emit<T, true>(job, at, begin, end, buffer);
    } else {
        emit<T, false>(job, at, begin, end, buffer);
    }
}

void forward_finish(const Job &job, int phase, int64_t item, const double *partial, int64_t ranges,
                    float *) {
    const sgekit_call &call = *job.call;
    const int64_t stride = forward_sizes(job).partial;
    const double n = (double)call.positions;
    if (phase == 0) {
        for (int64_t i = 0; i < call.depth; ++i) {
            double sum = 0;
            for (int64_t k = 0; k < ranges; ++k) sum += partial[k * stride + i];
            call.g[item * call.depth + i] = (float)(sum / n);
        }
        return;
    }
    double sum = 0, squares = 0;
    for (int64_t k = 0; k < ranges; ++k) {
        sum += partial[k * stride];
        squares += partial[k * stride + 1];
    }
    call.mean[item] = (float)(sum / n);
    call.std[item] = deviation(sum, squares, n);
}

// ---------------------------------------------------------------- backward
// The equations are those of derivatives.py. Phase 0 leaves s, t and da of each position in
// the buffer, phase 1 makes da into dc and sums h, phase 2 writes dx.

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
                    up = fetch<tile>(y + i * y_step + j, k, count) > 0.0f ? up : V{};
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
            double sum = 0;
            for (int64_t k = 0; k < ranges; ++k) sum += partial[k * stride + i];
            state[H + i] = (float)(sum / n);
        }
        return;
    }
    double da = 0, t = 0, both = 0;
    for (int64_t k = 0; k < ranges; ++k) {
        da += partial[k * stride];
        t += partial[k * stride + 1];
        both += partial[k * stride + 2];
    }
    Slopes of = slopes_of(da, t, both, n, call.std[item], call.eps, call.weight[item % call.groups]);
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
