// The C interface of the fused CPU kernels; `sgekit.ops.cpu_library` packs the same structs.
#ifndef SGEKIT_CPU_H
#define SGEKIT_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Raised with every change of a struct or of a function's meaning.
#define SGEKIT_ABI 3

enum { SGEKIT_PLANAR = 0, SGEKIT_INTERLEAVED = 1 };
enum { SGEKIT_FLOAT32 = 0, SGEKIT_BFLOAT16 = 1, SGEKIT_FLOAT16 = 2 };
enum { SGEKIT_ISA_BEST = 0, SGEKIT_ISA_BASELINE = 1, SGEKIT_ISA_AVX2 = 2, SGEKIT_ISA_AVX512 = 3 };

// A feature map of the call's dtype; strides count numbers, not bytes.
// Planar: positions are adjacent and `outer` is from channel to channel (NCHW).
// Interleaved: channels are adjacent and `outer` is from position to position (channels last).
typedef struct {
    void *data;
    int64_t sample;
    int64_t outer;
} sgekit_map;

// A batch norm in front of the gate: z = weight * invstd * (x - mean) + bias takes x's place.
typedef struct {
    double *mean;               // (channels), of x or a constant; sgekit_moments writes it
    double *var;                // (channels), over samples and positions; sgekit_moments writes it
    const double *invstd;       // (channels)
    const float *weight, *bias; // (channels), or null for 1 and 0
    double *means;              // (samples, channels), of x; sgekit_moments writes them
    float *dweight, *dbias;     // (channels)
    int32_t given;              // the means are there; if not, sgekit_tail_forward writes them
    int32_t batch;              // mean and invstd are those of x, not constants
} sgekit_norm;

// What every function needs. Maps and pointers that a function does not name may be
// zero.
typedef struct {
    int32_t layout, dtype, isa, threads;
    int64_t samples, groups, depth, positions; // depth: channels of a group
    float eps;
    int32_t relu;
    const float *weight, *bias; // (groups)
    float *g;                   // (samples, groups, depth)
    float *mean, *std;          // (samples, groups), of c
    sgekit_map x;
    // Forward reads x and residual (or none) and writes y, g, mean, std. y may be x or residual.
    sgekit_map residual, y;
    // Backward reads x, dy, g, mean, std and, after a ReLU, y; it writes dx, dweight, dbias
    // and, after a ReLU, dz. dx may be dy or dz where there is no y.
    sgekit_map dy, dx, dz;
    float *dweight, *dbias; // (samples, groups)
    // The tail of a residual block, y = relu(gate(norm(x)) + residual), has functions of its own.
    // They take and leave norm's numbers, and not g; else they are as forward and backward, but
    // that dx may be no other map. sgekit_moments reads x and nothing else.
    sgekit_norm norm;
} sgekit_call;

// Returned by the functions below where they do nothing.
enum {
    SGEKIT_OK = 0,
    SGEKIT_BAD_CALL = -1,       // a layout, dtype, size or pointer that makes no sense
    SGEKIT_NO_SUCH_ISA = -2,    // not compiled in, or not on this processor
    SGEKIT_SMALL_WORKSPACE = -3 // less than sgekit_*_workspace said
};

int32_t sgekit_abi(void);
// sizeof(sgekit_call).
int32_t sgekit_call_size(void);
// The instruction set that SGEKIT_ISA_BEST means here.
int32_t sgekit_best_isa(void);
// Bytes of working memory that a call needs, or a negative code. Follows no pointer.
int64_t sgekit_forward_workspace(const sgekit_call *call);
int64_t sgekit_backward_workspace(const sgekit_call *call);
int64_t sgekit_moments_workspace(const sgekit_call *call);
int64_t sgekit_tail_forward_workspace(const sgekit_call *call);
int64_t sgekit_tail_backward_workspace(const sgekit_call *call);
// `workspace` is aligned to 64 bytes.
int32_t sgekit_forward(const sgekit_call *call, void *workspace, int64_t bytes);
int32_t sgekit_backward(const sgekit_call *call, void *workspace, int64_t bytes);
int32_t sgekit_moments(const sgekit_call *call, void *workspace, int64_t bytes);
int32_t sgekit_tail_forward(const sgekit_call *call, void *workspace, int64_t bytes);
int32_t sgekit_tail_backward(const sgekit_call *call, void *workspace, int64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
