// NCHW: the moments of a batch norm, and the backward of a block's tail.
//
// The scores' pass reads the maps from memory, `CHUNK` positions at a time, and leaves sums; the
// gradient's pass takes the scores again from x and dz, which costs less than keeping them.
#ifndef SGEKIT_PLANAR_TAIL_H
#define SGEKIT_PLANAR_TAIL_H

#include "planar_forward.h"

namespace planar {
namespace {

constexpr int64_t CHUNK = 256;          // positions, a multiple of a tile
constexpr int64_t LONG = 1024;          // a row that shares the first cache with no other
constexpr int64_t PART = 16 * TILE * W; // positions of a float32 sum: 16 numbers a lane

// ---------------------------------------------------------------- moments

// The range's positions, and of each row the mean and the squares around it; `totals` writes
// past the last.
INLINE int64_t rows_room(const Job &job) { return padded(job.call->depth) + W; }

Sizes moments_sizes(const Job &job) { return {W + 2 * rows_room(job), 0, 0}; }

template <class T> INLINE D squares_of(const T *x, int64_t begin, int64_t end, float around) {
    const V centre = splat(around);
    Sum sum;
    for (int64_t from = begin; from < end; from += PART) {
        V squares[TILE] = {};
        const int64_t to = from + PART < end ? from + PART : end;
        tiles(from, to, [&](int64_t j, int count, auto tile) ALWAYS {
            UNROLL
            for (int k = 0; k < size_of<tile>; ++k) {
                V v = valid<tile>(fetch<tile>(x + j, k, count) - centre, k, count);
                squares[k] += v * v;
            }
        });
        sum.add((squares[0] + squares[1]) + (squares[2] + squares[3]));
    }
    return sum.lanes();
}

template <class T>
void moments(const Job &job, int, int64_t item, int64_t begin, int64_t end, double *partial,
             float *, const float *) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, place(job, item));
    const int64_t d = call.depth, step = call.x.outer;
    const double n = (double)(end - begin);
    double *mean = partial + W, *squares = mean + rows_room(job);
    partial[0] = n;
    if (begin == end) return;
    const int64_t together = end - begin > LONG ? 1 : W / 2;
    for (int64_t i = 0; i < d; i += together, x += together * step) {
        const int64_t rows = d - i < together ? d - i : together;
        totals(rows, mean + i,
               [&](int64_t k) ALWAYS { return sum_of<true>(x + k * step, begin, end); });
        for (int64_t k = i; k < i + rows; ++k) mean[k] /= n;
        totals(rows, squares + i, [&](int64_t k) ALWAYS {
            return squares_of(x + k * step, begin, end, (float)mean[i + k]);
        });
        for (int64_t k = i; k < i + rows; ++k) {
            const double rest = mean[k] - (float)mean[k], left = squares[k] - n * rest * rest;
            squares[k] = left < 0 ? 0 : left;
        }
    }
}

void moments_finish(const Job &job, int, int64_t item, const double *partial, int64_t ranges,
                    float *) {
    const int64_t d = job.call->depth, stride = moments_sizes(job).partial;
    for (int64_t i = 0; i < d; ++i) {
        Moments all = {0, 0, 0};
        for (int64_t k = 0; k < ranges; ++k) {
            const double *p = partial + k * stride;
            all.merge(p[0], p[W + i], p[W + rows_room(job) + i]);
        }
        job.call->norm.means[item * d + i] = all.mean;
        job.kept.products[item * d + i] = all.squares;
    }
}

// ---------------------------------------------------------------- backward, sums

enum { OF_DZ, OF_DZ_V, OF_DA_V, OF_T_V, ALONGS };

// Three numbers of the group; ALONGS times those of the channels; and their W / 2 sums each.
Sizes tail_scores_sizes(const Job &job) {
    const int64_t d = job.call->depth;
    return {W + ALONGS * (padded(d) + d * (W / 2)), 0, TABLES * d};
}

template <class T, bool Relu>
void tail_scores_of(const Job &job, Place at, int64_t begin, int64_t end, double *out,
                    const float *state) {
    const sgekit_call &call = *job.call;
    const T *x = start<const T>(call.x, job, at), *dy = start<const T>(call.dy, job, at);
    const T *y = start<const T>(Relu ? call.y : call.x, job, at);
    T *dz = start<T>(Relu ? call.dz : call.dx, job, at);
    const Normed of(job, at, state);
    const int64_t d = call.depth, x_step = call.x.outer, dy_step = call.dy.outer;
    const int64_t y_step = call.y.outer, dz_step = call.dz.outer;
    const T *source = Relu ? dz : dy;
    const int64_t source_step = Relu ? dz_step : dy_step;
    const V inverse = splat(1.0f / (call.std[at.at] + call.eps)), mean = splat(call.mean[at.at]);
    const V weight = splat(call.weight[at.group]), bias = splat(call.bias[at.group]);
    double *sums = out + W, *lanes = sums + ALONGS * padded(d);
    // Of no positions, as the last range of a map may have.
    if (begin == end) memset(lanes, 0, sizeof(double) * (size_t)(ALONGS * d * (W / 2)));
    Sum of_da, of_t, of_both;
    float s[CHUNK], t[CHUNK], da[CHUNK];
    for (int64_t from = begin; from < end; from += CHUNK) {
        const int64_t to = from + CHUNK < end ? from + CHUNK : end;
        tiles(from, to, [&](int64_t j, int count, auto tile) ALWAYS {
            constexpr int K = size_of<tile>;
            V c[K] = {}, q[K] = {};
            for (int64_t i = 0; i < d; ++i) {
                const V centre = splat(of.centre(i)), along = splat(of.along(i));
                const V scale = splat(of.table.scale[i]), offset = splat(of.table.offset[i]);
                UNROLL
                for (int k = 0; k < K; ++k) {
                    V v = fetch<tile>(x + i * x_step + j, k, count) - centre;
                    V up = fetch<tile>(dy + i * dy_step + j, k, count);
                    if (Relu) {
                        up = fetch<tile>(y + i * y_step + j, k, count) <= 0.0f ? V{} : up;
                        put_back<tile>(dz + i * dz_step + j, k, count, up);
                    }
                    c[k] += v * along;
                    q[k] += up * (v * scale + offset);
                }
            }
            UNROLL
            for (int k = 0; k < K; ++k) {
                Scores one = scores_of(c[k], q[k], mean, inverse, weight, bias);
                one.t = valid<tile>(one.t, k, count);
                one.da = valid<tile>(one.da, k, count);
                const int64_t p = j - from + k * W;
                store(s + p, one.s);
                store(t + p, one.t);
                store(da + p, one.da);
                of_da.add(one.da);
                of_t.add(one.t);
                of_both.add_product(one.da, one.t);
            }
        });
        // The chunk is still in the cache.
        for (int64_t i = 0; i < d; ++i) {
            const V centre = splat(of.centre(i));
            V sum[ALONGS] = {};
            tiles(from, to, [&](int64_t j, int count, auto tile) ALWAYS {
                UNROLL
                for (int k = 0; k < size_of<tile>; ++k) {
                    const int64_t p = j - from + k * W;
                    V v = fetch<tile>(x + i * x_step + j, k, count) - centre;
                    V gated = fetch<tile>(source + i * source_step + j, k, count) * load(s + p);
                    sum[OF_DZ] += gated;
                    sum[OF_DZ_V] += gated * v;
                    sum[OF_DA_V] += load(da + p) * v;
                    sum[OF_T_V] += load(t + p) * v;
                }
            });
            UNROLL
            for (int m = 0; m < ALONGS; ++m) {
                double *p = lanes + (i * ALONGS + m) * (W / 2);
                Sum wide;
                wide.add(sum[m]);
                D all = wide.lanes();
                if (from > begin) {
                    D before;
                    memcpy(&before, p, sizeof before);
                    all += before;
                }
                memcpy(p, &all, sizeof all);
            }
        }
    }
    out[0] = of_da.total();
    out[1] = of_t.total();
    out[2] = of_both.total();
    totals(ALONGS * d, sums, [&](int64_t i) ALWAYS {
        D v;
        memcpy(&v, lanes + i * (W / 2), sizeof v);
        return v;
    });
}

template <class T>
void tail_scores(const Job &job, int phase, int64_t item, int64_t begin, int64_t end,
                 double *partial, float *, const float *state) {
    if (phase == 0) return;
    const Place at = place(job, item);
    if (job.call->relu) {
        tail_scores_of<T, true>(job, at, begin, end, partial, state);
    } else {
        tail_scores_of<T, false>(job, at, begin, end, partial, state);
    }
}

void tail_scores_finish(const Job &job, int phase, int64_t item, const double *partial,
                        int64_t ranges, float *state) {
    const sgekit_call &call = *job.call;
    if (phase == 0) return Normed::tabulate_for(job, item, state);
    const int64_t d = call.depth, stride = tail_scores_sizes(job).partial;
    const double da = total(partial, ranges, stride), t = total(partial + 1, ranges, stride);
    const Slopes of = slopes_of(da, t, total(partial + 2, ranges, stride), (double)call.positions,
                                call.std[item], call.eps, call.weight[item % call.groups]);
    call.dweight[item] = of.dweight;
    call.dbias[item] = (float)da;
    keep(job, item, of);
    const Range range = range_of(job, item);
    for (int64_t i = 0; i < d; ++i) {
        const double *p = partial + W + i * ALONGS;
        share(job, of, t, range, i,
              {total(p + OF_DZ, ranges, stride), total(p + OF_DZ_V, ranges, stride),
               total(p + OF_DA_V, ranges, stride), total(p + OF_T_V, ranges, stride)});
    }
}

// ---------------------------------------------------------------- backward, dx

Sizes tail_gradient_sizes(const Job &job) { return {0, 0, GRADIENT_TABLES * job.call->depth}; }

template <class T>
void tail_gradient(const Job &job, int phase, int64_t item, int64_t begin, int64_t end, double *,
                   float *, const float *state) {
    if (phase == 0) return;
    const sgekit_call &call = *job.call;
    const Place at = place(job, item);
    const sgekit_map &source = call.relu ? call.dz : call.dy;
    const T *x = start<const T>(call.x, job, at), *dz = start<const T>(source, job, at);
    T *dx = start<T>(call.dx, job, at);
    const int64_t d = call.depth, x_step = call.x.outer, dz_step = source.outer;
    const int64_t dx_step = call.dx.outer;
    const Table of = table_of(state, d);
    const float *slopes = job.kept.slopes + 4 * at.at;
    const V high = splat(slopes[0]), low = splat(slopes[1]);
    const V kappa = splat(slopes[2]), slope = splat(slopes[3]);
    const V inverse = splat(1.0f / (call.std[at.at] + call.eps)), mean = splat(call.mean[at.at]);
    const V weight = splat(call.weight[at.group]), bias = splat(call.bias[at.group]);
    tiles(begin, end, [&](int64_t j, int count, auto tile) ALWAYS {
        constexpr int K = size_of<tile>;
        V c[K] = {}, q[K] = {};
        for (int64_t i = 0; i < d; ++i) {
            const V centre = splat(of.centre[i]), along = splat(of.along[i]);
            const V scale = splat(of.scale[i]), offset = splat(of.offset[i]);
            UNROLL
            for (int k = 0; k < K; ++k) {
                V v = fetch<tile>(x + i * x_step + j, k, count) - centre;
                c[k] += v * along;
                q[k] += fetch<tile>(dz + i * dz_step + j, k, count) * (v * scale + offset);
            }
        }
        V s[K], dc[K];
        UNROLL
        for (int k = 0; k < K; ++k) {
            const Scores one = scores_of(c[k], q[k], mean, inverse, weight, bias);
            s[k] = one.s;
            dc[k] = (((one.da - high) - low) - kappa * one.t) * slope;
        }
        for (int64_t i = 0; i < d; ++i) {
            const V centre = splat(of.centre[i]), along = splat(of.along[i]);
            const V scale = splat(of.scale[i]);
            const V constant = splat(of.constant[i]), by_v = splat(of.slope[i]);
            UNROLL
            for (int k = 0; k < K; ++k) {
                V v = fetch<tile>(x + i * x_step + j, k, count) - centre;
                V gated = fetch<tile>(dz + i * dz_step + j, k, count) * s[k];
                V around = dc[k] * along + (by_v * v + constant);
                put_back<tile>(dx + i * dx_step + j, k, count, gated * scale + around);
            }
        }
    });
}

void tail_gradient_finish(const Job &job, int, int64_t item, const double *, int64_t,
                          float *state) {
    tabulate_gradient(job, range_of(job, item), table_of(state, job.call->depth));
}

} // namespace
} // namespace planar

#endif
