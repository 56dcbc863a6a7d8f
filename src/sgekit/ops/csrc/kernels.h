// What a translation unit of kernels offers to dispatch.cpp. No code here: see vec.h.
#ifndef SGEKIT_KERNELS_H
#define SGEKIT_KERNELS_H

#include "sgekit_cpu.h"

// What one pass over all items leaves for the next.
struct Kept {
    double *sums;     // (samples, channels), of the gradient that reaches z
    double *products; // (samples, channels), of it times x - mean; for MOMENTS, of squares
    double *h;        // (samples, channels), the mean's share of that gradient
    float *slopes;    // (samples, groups, 4)
};

// A call cut into items: one group of one sample (planar), or `block` neighbouring groups of
// one sample (interleaved; the last block of a sample may have fewer).
struct Job {
    const sgekit_call *call;
    int64_t block, blocks; // blocks: of one sample
    Kept kept;
};

// Working memory of one item.
struct Sizes {
    int64_t partial; // float64 numbers that `run` leaves for `finish`, for each range
    int64_t buffer;  // float32 numbers, by position, from one phase to the next
    int64_t state;   // float32 numbers that `finish` leaves for later phases
};

// Phases of an item run one after another. `run` handles the positions from begin to end and
// leaves sums in `partial`; ranges of one phase may run at the same time. `finish` follows each
// of the first `finishes` phases, once, with the partial sums of all ranges, `sizes.partial` apart.
struct Kernel {
    int phases, finishes;
    Sizes (*sizes)(const Job &);
    void (*run)(const Job &, int phase, int64_t item, int64_t begin, int64_t end, double *partial,
                float *buffer, const float *state);
    void (*finish)(const Job &, int phase, int64_t item, const double *partial, int64_t ranges,
                   float *state);
};

// Backward of the tail takes two, for every sample has a share in a channel's gradients.
enum Pass { FORWARD, BACKWARD, MOMENTS, TAIL_FORWARD, TAIL_SCORES, TAIL_GRADIENT, PASSES };

struct Kernels {
    int width; // W of vec.h
    Kernel of[PASSES][2][3]; // [pass][layout][dtype]
};

extern const Kernels sgekit_baseline;
extern const Kernels sgekit_avx2;
extern const Kernels sgekit_avx512;

#endif
