// From sums to the statistics of a group, in float64.
#ifndef SGEKIT_STATISTICS_H
#define SGEKIT_STATISTICS_H

#include "vec.h"

namespace {

// Of the partial sums of all ranges.
INLINE double total(const double *partial, int64_t ranges, int64_t stride) {
    double sum = 0;
    for (int64_t k = 0; k < ranges; ++k) sum += partial[k * stride];
    return sum;
}

// Of c over n - 1; 0 for a single position.
INLINE float deviation(double sum, double squares, double n) {
    double var = (squares - sum * (sum / n)) / (n > 1 ? n - 1 : 1);
    // Written so that a NaN passes.
    return (float)__builtin_sqrt(var < 0 ? 0 : var);
}

// What dc = slope * (da - mean(da) - kappa * t) needs, and dweight.
struct Slopes {
    float mean_high, mean_low, kappa, slope, dweight;
};

INLINE Slopes slopes_of(double da, double t, double both, double n, float std, float eps,
                        float weight) {
    Slopes r;
    const double mean = da / n, d = (double)std + eps, dweight = both - mean * t;
    // In two parts, so that what remains of a constant da is 0.
    r.mean_high = (float)mean;
    r.mean_low = (float)(mean - r.mean_high);
    r.kappa = std == 0 ? 0.0f : (float)(dweight * d / ((n > 1 ? n - 1 : 1) * std));
    r.slope = (float)(weight / d);
    r.dweight = (float)dweight;
    return r;
}

} // namespace

#endif
