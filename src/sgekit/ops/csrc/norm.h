// What a batch norm in front of the gate changes, for either layout.
//
// With centre the float32 next to a sample's mean of x, z = offset + scale * (x - centre): where
// the mean is large, x - centre keeps the digits that scale * x + shift would lose. The gate's
// descriptor is g = z's mean, so that c = (x - centre) . (scale * g), but for a constant that
// its mean has as well.
#ifndef SGEKIT_NORM_H
#define SGEKIT_NORM_H

#include "kernels.h"
#include "statistics.h"

namespace {

// Numbers of an item's channels.
struct Table {
    float *centre, *along; // along: scale * g
    float *scale, *offset;
    float *constant, *slope; // of dx: constant + slope * (x - centre)
};

constexpr int64_t TABLES = 4, GRADIENT_TABLES = 6; // how many of them forward, backward have

INLINE Table table_of(const float *state, int64_t channels) {
    float *p = const_cast<float *>(state);
    return {p,
            p + channels,
            p + 2 * channels,
            p + 3 * channels,
            p + 4 * channels,
            p + 5 * channels};
}

// Channels of a sample: the number of the first in (channels) and in (samples, channels).
struct Range {
    int64_t channel, at, count;
};

struct Affine {
    double scale, bias, mean; // z = scale * (x - mean) + bias
};

INLINE Affine affine_of(const sgekit_norm &norm, int64_t channel) {
    const double weight = norm.weight ? norm.weight[channel] : 1.0f;
    const double bias = norm.bias ? norm.bias[channel] : 0.0f;
    return {norm.invstd[channel] * weight, bias, norm.mean[channel]};
}

INLINE void tabulate(const sgekit_norm &norm, Range of, const Table &table) {
    for (int64_t i = 0; i < of.count; ++i) {
        const Affine z = affine_of(norm, of.channel + i);
        const double mean = norm.means[of.at + i];
        const float centre = (float)mean;
        table.centre[i] = centre;
        table.scale[i] = (float)z.scale;
        table.offset[i] = (float)(z.bias + z.scale * (centre - z.mean));
        table.along[i] = (float)(z.scale * (z.bias + z.scale * (mean - z.mean)));
    }
}

// What dx needs beside the table, once the norm's gradients are known.
INLINE void tabulate_gradient(const Job &job, Range of, const Table &table) {
    const sgekit_norm &norm = job.call->norm;
    const double n = (double)job.call->samples * (double)job.call->positions;
    tabulate(norm, of, table);
    for (int64_t i = 0; i < of.count; ++i) {
        const int64_t channel = of.channel + i;
        const double scale = table.scale[i], h = job.kept.h[of.at + i];
        double constant = h, slope = 0;
        if (norm.batch) {
            slope = -norm.invstd[channel] * job.kept.products[channel] / n;
            constant += slope * (table.centre[i] - norm.mean[channel]);
            constant -= job.kept.sums[channel] / n;
        }
        table.constant[i] = (float)(scale * constant);
        table.slope[i] = (float)(scale * slope);
    }
}

// Of one channel of one sample, with v = x - centre and dz what arrives at z * s.
struct Alongs {
    double dz, dz_v; // sums of dz * s and of dz * s * v
    double da_v, t_v;
};

// Leaves h and the sums of the gradient that reaches z: dz * s + dc * g + h.
INLINE void share(const Job &job, const Slopes &group, double sum_of_t, Range of, int64_t i,
                  const Alongs &sums) {
    const sgekit_norm &norm = job.call->norm;
    const Affine z = affine_of(norm, of.channel + i);
    const double n = (double)job.call->positions, mean = norm.means[of.at + i];
    const double g = z.bias + z.scale * (mean - z.mean);
    // v sums to n times what the rounding of the centre took from the mean.
    const double centre = (float)mean, rest = mean - centre;
    const double mean_of_da = (double)group.mean_high + (double)group.mean_low;
    const double dc_v = group.slope * ((sums.da_v - n * rest * mean_of_da)
                                       - group.kappa * (sums.t_v - rest * sum_of_t));
    const double h = z.scale * dc_v / n;
    const double sum = sums.dz + n * h;
    job.kept.h[of.at + i] = h;
    job.kept.sums[of.at + i] = sum;
    job.kept.products[of.at + i] =
        sums.dz_v + g * dc_v + h * n * rest + (centre - z.mean) * sum;
}

// A group's slopes from one pass to the next.
INLINE void keep(const Job &job, int64_t at_group, const Slopes &of) {
    float *p = job.kept.slopes + 4 * at_group;
    p[0] = of.mean_high;
    p[1] = of.mean_low;
    p[2] = of.kappa;
    p[3] = of.slope;
}

// Of a position: the gate, what it is the sigmoid of, and the gradient there.
struct Scores {
    V s, t, da;
};

// v as float32 has it: no product that makes it is fused with a sum that takes it.
INLINE V rounded(V v) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__x86_64__)
    __asm__("" : "+x"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#else
    __asm__("" : "+m"(v));
#endif
    return v;
}

// q: dz . z. Both passes of backward must get the same da: of a constant map, what differs from
// its mean is magnified by 1 / eps. The statistics and parameters are the group's.
INLINE Scores scores_of(V c, V q, V mean, V inverse, V weight, V bias) {
    const V t = (c - mean) * inverse;
    const Gate of = gate(t * weight + bias);
    return {of.s, t, rounded(q * of.slope)};
}

// A mean and the squares around it, as ranges of positions add to them (Chan et al. 1979).
struct Moments {
    double n, mean, squares;

    INLINE void merge(double count, double other_mean, double other_squares) {
        if (count == 0) return;
        const double by = other_mean - mean, all = n + count;
        mean += by * (count / all);
        squares += other_squares + by * by * (n * count / all);
        n = all;
    }
};

} // namespace

#endif
