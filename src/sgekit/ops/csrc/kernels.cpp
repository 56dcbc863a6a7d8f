// Every kernel for one instruction set, whose table the build names in SGEKIT_TABLE.
#include "interleaved_backward.h"
#include "interleaved_forward.h"
#include "planar.h"

namespace {

template <class T> constexpr Kernel planar_forward() {
    return {3, planar::forward_sizes, planar::forward<T>, planar::forward_finish};
}
template <class T> constexpr Kernel planar_backward() {
    return {3, planar::backward_sizes, planar::backward<T>, planar::backward_finish};
}
template <class T> constexpr Kernel interleaved_forward() {
    return {3, interleaved::forward_sizes, interleaved::forward<T>, interleaved::forward_finish};
}
template <class T> constexpr Kernel interleaved_backward() {
    return {2, interleaved::backward_sizes, interleaved::backward<T>, interleaved::backward_finish};
}

} // namespace

// In the order of the constants in sgekit_cpu.h.
extern const Kernels SGEKIT_TABLE = {
    W,
    {{planar_forward<float>(), planar_forward<bf16>(), planar_forward<f16>()},
     {interleaved_forward<float>(), interleaved_forward<bf16>(), interleaved_forward<f16>()}},
    {{planar_backward<float>(), planar_backward<bf16>(), planar_backward<f16>()},
     {interleaved_backward<float>(), interleaved_backward<bf16>(), interleaved_backward<f16>()}},
};
