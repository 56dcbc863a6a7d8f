// Every kernel for one instruction set, whose table the build names in SGEKIT_TABLE.
#include "interleaved_backward.h"
#include "interleaved_forward.h"
#include "interleaved_tail.h"
#include "planar_backward.h"
#include "planar_forward.h"
#include "planar_tail.h"

namespace {

template <class T> constexpr Kernel planar_kernel(Pass pass) {
    using namespace planar;
    switch (pass) {
    case FORWARD: return {3, 2, forward_sizes<Plain>, forward<T, Plain>, forward_finish<Plain>};
    case BACKWARD: return {3, 2, backward_sizes, backward<T>, backward_finish};
    case MOMENTS: return {1, 1, moments_sizes, moments<T>, moments_finish};
    case TAIL_FORWARD:
        return {3, 2, forward_sizes<Normed>, forward<T, Normed>, forward_finish<Normed>};
    case TAIL_SCORES: return {2, 2, tail_scores_sizes, tail_scores<T>, tail_scores_finish};
    default: return {2, 1, tail_gradient_sizes, tail_gradient<T>, tail_gradient_finish};
    }
}

template <class T> constexpr Kernel interleaved_kernel(Pass pass) {
    using namespace interleaved;
    switch (pass) {
    case FORWARD: return {3, 2, forward_sizes<Plain>, forward<T, Plain>, forward_finish<Plain>};
    case BACKWARD: return {2, 1, backward_sizes, backward<T>, backward_finish};
    case MOMENTS: return {1, 1, moments_sizes, moments<T>, moments_finish};
    case TAIL_FORWARD:
        return {3, 2, forward_sizes<Normed>, forward<T, Normed>, forward_finish<Normed>};
    case TAIL_SCORES: return {2, 2, tail_scores_sizes, tail_scores<T>, tail_scores_finish};
    default: return {2, 1, tail_gradient_sizes, tail_gradient<T>, tail_gradient_finish};
    }
}

// In the order of the constants in sgekit_cpu.h.
#define OF(pass)                                                                                   \
    {                                                                                              \
        {planar_kernel<float>(pass), planar_kernel<bf16>(pass), planar_kernel<f16>(pass)}, {       \
            interleaved_kernel<float>(pass), interleaved_kernel<bf16>(pass),                       \
                interleaved_kernel<f16>(pass)                                                      \
        }                                                                                          \
    }

} // namespace

extern const Kernels SGEKIT_TABLE = {
    W,
    {OF(FORWARD), OF(BACKWARD), OF(MOMENTS), OF(TAIL_FORWARD), OF(TAIL_SCORES), OF(TAIL_GRADIENT)},
};
