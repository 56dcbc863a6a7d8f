// The C interface: chooses the instruction set, cuts a call into items and runs them on
// PyTorch's threads.
#include "kernels.h"

#include <atomic>
#include <cstddef>

// What GCC compiles `#pragma omp parallel` to: runs f on a team of at most `threads`, this
// thread among them. GCC's runtime and LLVM's both have it, while clang compiles the pragma
// to calls that GCC's lacks. The library is not linked to either: the one that PyTorch loaded
// has to serve, so that there is one pool of threads.
extern "C" void GOMP_parallel(void (*f)(void *), void *data, unsigned threads, unsigned flags);

namespace {

constexpr int64_t GRAIN = 16384;      // numbers that are worth a thread
constexpr int64_t BLOCK = 1024;       // channels of an interleaved item: long rows
constexpr int64_t NARROWEST = 32;     // and at least, where a core would be idle
constexpr int64_t SHORTEST = 256;     // positions of a range
constexpr double BALANCED = 0.8;      // of all threads' time is used

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t lines(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

// ---------------------------------------------------------------- instruction set

#if defined(SGEKIT_X86)
const Kernels *kernels_of(int32_t isa) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
             && __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
               && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
    case SGEKIT_ISA_BASELINE: return &sgekit_baseline;
    case SGEKIT_ISA_AVX2: return avx2 ? &sgekit_avx2 : nullptr;
    case SGEKIT_ISA_AVX512: return avx512 ? &sgekit_avx512 : nullptr;
    case SGEKIT_ISA_BEST: return avx512 ? &sgekit_avx512 : avx2 ? &sgekit_avx2 : &sgekit_baseline;
    default: return nullptr;
    }
}
#else
const Kernels *kernels_of(int32_t isa) {
    return isa == SGEKIT_ISA_BEST || isa == SGEKIT_ISA_BASELINE ? &sgekit_baseline : nullptr;
}
#endif

// ---------------------------------------------------------------- how a call is cut

struct Plan {
    const Kernel *kernel;
    Job job;
    Sizes sizes;
    int64_t items, ranges, threads; // ranges: of the positions of an item
    int64_t places;                 // working memories: one an item if it is cut, or a thread
    int64_t buffer, state, bytes;   // offsets in bytes, and how many there are
};

bool balanced(int64_t items, int64_t threads) {
    return (double)items >= BALANCED * (double)(ceil_div(items, threads) * threads);
}

int32_t plan(const sgekit_call *call, Pass pass, Plan *p) {
    if (call->layout < 0 || call->layout > 1 || call->dtype < 0 || call->dtype > 2) {
        return SGEKIT_BAD_CALL;
    }
    if (call->samples < 1 || call->groups < 1 || call->depth < 1 || call->positions < 1) {
        return SGEKIT_BAD_CALL;
    }
    const Kernels *kernels = kernels_of(call->isa);
    if (!kernels) return SGEKIT_NO_SUCH_ISA;
    const bool planar = call->layout == SGEKIT_PLANAR;
    p->kernel = &kernels->of[pass][call->layout][call->dtype];

    const int64_t numbers = call->samples * call->groups * call->depth * call->positions;
    int64_t threads = call->threads > 1 ? call->threads : 1;
    if (threads > ceil_div(numbers, GRAIN)) threads = ceil_div(numbers, GRAIN);

    int64_t block = 1;
    if (!planar) {
        block = ceil_div(BLOCK, call->depth);
        if (block < kernels->width) block = kernels->width;
        if (block > call->groups) block = call->groups;
        while (block > 1 && block * call->depth > NARROWEST
               && !balanced(call->samples * ceil_div(call->groups, block), threads)) {
            block = ceil_div(block, 2);
        }
    }
    p->job = {call, block, ceil_div(call->groups, block), {}};
    p->items = call->samples * p->job.blocks;
    p->ranges = 1;
    if (!balanced(p->items, threads)) {
        p->ranges = ceil_div(4 * threads, p->items);
        const int64_t most = ceil_div(call->positions, SHORTEST);
        if (p->ranges > most) p->ranges = most;
    }
    p->threads = threads < p->items * p->ranges ? threads : p->items * p->ranges;
    p->places = p->ranges > 1 ? p->items : p->threads;

    p->sizes = p->kernel->sizes(p->job);
    p->buffer = lines(p->places * p->ranges * p->sizes.partial * (int64_t)sizeof(double));
    p->state = p->buffer + p->places * lines(p->sizes.buffer * (int64_t)sizeof(float));
    p->bytes = p->state + p->places * lines(p->sizes.state * (int64_t)sizeof(float));
    return SGEKIT_OK;
}

// ---------------------------------------------------------------- threads

struct Work {
    const Plan *plan;
    char *memory;
    int phase; // where items are cut into ranges
    std::atomic<int64_t> next, place;
};

struct Memory {
    double *partial;
    float *buffer, *state;
};

Memory memory_of(const Plan &p, char *base, int64_t place) {
    return {(double *)base + place * p.ranges * p.sizes.partial,
            (float *)(base + p.buffer + place * lines(p.sizes.buffer * (int64_t)sizeof(float))),
            (float *)(base + p.state + place * lines(p.sizes.state * (int64_t)sizeof(float)))};
}

// Every phase of one item after another; the item stays in this core's cache.
void whole_items(void *data) {
    Work &work = *(Work *)data;
    const Plan &p = *work.plan;
    const Kernel &kernel = *p.kernel;
    const Memory m = memory_of(p, work.memory, work.place++);
    for (int64_t item = work.next++; item < p.items; item = work.next++) {
        for (int phase = 0; phase < kernel.phases; ++phase) {
            kernel.run(p.job, phase, item, 0, p.job.call->positions, m.partial, m.buffer, m.state);
            if (phase < kernel.finishes) {
                kernel.finish(p.job, phase, item, m.partial, 1, m.state);
            }
        }
    }
}

// One phase of every range of every item.
void ranges_of_items(void *data) {
    Work &work = *(Work *)data;
    const Plan &p = *work.plan;
    // Whole lines of cache for every range.
    const int64_t each = ceil_div(ceil_div(p.job.call->positions, p.ranges), 64) * 64;
    for (int64_t k = work.next++; k < p.items * p.ranges; k = work.next++) {
        const int64_t item = k / p.ranges, range = k % p.ranges;
        const int64_t n = p.job.call->positions;
        const int64_t begin = range * each < n ? range * each : n;
        const int64_t end = begin + each < n ? begin + each : n;
        const Memory m = memory_of(p, work.memory, item);
        double *partial = m.partial + range * p.sizes.partial;
        p.kernel->run(p.job, work.phase, item, begin, end, partial, m.buffer, m.state);
    }
}

void in_parallel(void (*f)(void *), const Plan &p, char *memory, int phase) {
    Work work{&p, memory, phase, {0}, {0}};
    if (p.threads == 1) {
        f(&work);
    } else {
        GOMP_parallel(f, &work, (unsigned)p.threads, 0);
    }
}

int32_t execute(const sgekit_call *call, Pass pass, const Kept &kept, char *memory) {
    Plan p;
    if (int32_t code = plan(call, pass, &p)) return code;
    p.job.kept = kept;
    if (p.ranges == 1) {
        in_parallel(whole_items, p, memory, 0);
        return SGEKIT_OK;
    }
    for (int phase = 0; phase < p.kernel->phases; ++phase) {
        in_parallel(ranges_of_items, p, memory, phase);
        for (int64_t item = 0; phase < p.kernel->finishes && item < p.items; ++item) {
            const Memory m = memory_of(p, memory, item);
            p.kernel->finish(p.job, phase, item, m.partial, p.ranges, m.state);
        }
    }
    return SGEKIT_OK;
}

// ---------------------------------------------------------------- functions

// What stays from pass to pass, in front of what a pass needs.
int64_t kept_bytes(const sgekit_call &call, Pass pass) {
    const int64_t channels = call.samples * call.groups * call.depth;
    const int64_t numbers = lines(channels * (int64_t)sizeof(double));
    if (pass == MOMENTS) return numbers;
    if (pass != TAIL_SCORES) return 0;
    return 3 * numbers + lines(call.samples * call.groups * 4 * (int64_t)sizeof(float));
}

Kept kept_in(const sgekit_call &call, Pass pass, char *memory) {
    const int64_t channels = call.samples * call.groups * call.depth;
    const int64_t numbers = lines(channels * (int64_t)sizeof(double));
    Kept kept = {};
    if (pass != MOMENTS && pass != TAIL_SCORES) return kept;
    kept.products = (double *)memory;
    if (pass == MOMENTS) return kept;
    kept.sums = (double *)(memory + numbers);
    kept.h = (double *)(memory + 2 * numbers);
    kept.slopes = (float *)(memory + 3 * numbers);
    return kept;
}

bool any_null(const sgekit_call &c, Pass pass) {
    const sgekit_norm &norm = c.norm;
    if (!c.x.data) return true;
    if (pass == MOMENTS) return !norm.mean || !norm.var || !norm.means;
    if (!c.weight || !c.bias || !c.mean || !c.std) return true;
    if (pass == TAIL_FORWARD || pass == TAIL_SCORES) {
        if (!norm.mean || !norm.invstd || !norm.means) return true;
    } else if (!c.g) {
        return true;
    }
    if (pass == FORWARD || pass == TAIL_FORWARD) return !c.y.data;
    if (!c.dy.data || !c.dx.data || !c.dweight || !c.dbias) return true;
    if (pass == TAIL_SCORES && (!norm.dweight || !norm.dbias)) return true;
    return c.relu && (!c.y.data || !c.dz.data);
}

// TAIL_SCORES stands for the function that runs TAIL_GRADIENT after it.
int64_t workspace(const sgekit_call *call, Pass pass) {
    Plan p;
    if (int32_t code = plan(call, pass, &p)) return code;
    int64_t bytes = p.bytes;
    if (pass == TAIL_SCORES) {
        plan(call, TAIL_GRADIENT, &p);
        if (p.bytes > bytes) bytes = p.bytes;
    }
    return bytes + kept_bytes(*call, pass);
}

// Over the samples, in order, whatever the threads did.
void moments_of_all(const sgekit_call &call, const Kept &kept) {
    const sgekit_norm &norm = call.norm;
    const int64_t channels = call.groups * call.depth;
    const double samples = (double)call.samples, n = (double)call.positions;
    for (int64_t c = 0; c < channels; ++c) norm.mean[c] = norm.var[c] = 0;
    for (int64_t b = 0; b < call.samples; ++b) {
        for (int64_t c = 0; c < channels; ++c) norm.mean[c] += norm.means[b * channels + c];
    }
    for (int64_t c = 0; c < channels; ++c) norm.mean[c] /= samples;
    for (int64_t b = 0; b < call.samples; ++b) {
        for (int64_t c = 0; c < channels; ++c) {
            const double from = norm.means[b * channels + c] - norm.mean[c];
            norm.var[c] += kept.products[b * channels + c] / n + from * from;
        }
    }
    for (int64_t c = 0; c < channels; ++c) norm.var[c] /= samples;
}

// The norm's gradients; in float64 they take the first sample's place, where TAIL_GRADIENT
// finds them.
void gradients_of_norm(const sgekit_call &call, const Kept &kept) {
    const sgekit_norm &norm = call.norm;
    const int64_t channels = call.groups * call.depth;
    for (int64_t b = 1; b < call.samples; ++b) {
        for (int64_t c = 0; c < channels; ++c) {
            kept.sums[c] += kept.sums[b * channels + c];
            kept.products[c] += kept.products[b * channels + c];
        }
    }
    for (int64_t c = 0; c < channels; ++c) {
        kept.products[c] *= norm.invstd[c];
        norm.dbias[c] = (float)kept.sums[c];
        norm.dweight[c] = (float)kept.products[c];
    }
}

int32_t run(const sgekit_call *call, Pass pass, void *memory, int64_t bytes) {
    if (any_null(*call, pass)) return SGEKIT_BAD_CALL;
    const int64_t needed = workspace(call, pass);
    if (needed < 0) return (int32_t)needed;
    if (!memory || bytes < needed) return SGEKIT_SMALL_WORKSPACE;
    const Kept kept = kept_in(*call, pass, (char *)memory);
    char *rest = (char *)memory + kept_bytes(*call, pass);
    int32_t code = execute(call, pass, kept, rest);
    if (code == SGEKIT_OK && pass == MOMENTS) moments_of_all(*call, kept);
    if (code == SGEKIT_OK && pass == TAIL_SCORES) {
        gradients_of_norm(*call, kept);
        code = execute(call, TAIL_GRADIENT, kept, rest);
    }
    return code;
}

} // namespace

#define PUBLIC extern "C" __attribute__((visibility("default")))

PUBLIC int32_t sgekit_abi(void) { return SGEKIT_ABI; }

PUBLIC int32_t sgekit_call_size(void) { return (int32_t)sizeof(sgekit_call); }

PUBLIC int32_t sgekit_best_isa(void) {
#if defined(SGEKIT_X86)
    const Kernels *best = kernels_of(SGEKIT_ISA_BEST);
    return best == &sgekit_avx512 ? SGEKIT_ISA_AVX512
         : best == &sgekit_avx2   ? SGEKIT_ISA_AVX2
                                  : SGEKIT_ISA_BASELINE;
#else
    return SGEKIT_ISA_BASELINE;
#endif
}

#define FUNCTION(name, pass)                                                                       \
    PUBLIC int64_t name##_workspace(const sgekit_call *call) { return workspace(call, pass); }     \
    PUBLIC int32_t name(const sgekit_call *call, void *memory, int64_t bytes) {                    \
        return run(call, pass, memory, bytes);                                                     \
    }

FUNCTION(sgekit_forward, FORWARD)
FUNCTION(sgekit_backward, BACKWARD)
FUNCTION(sgekit_moments, MOMENTS)
FUNCTION(sgekit_tail_forward, TAIL_FORWARD)
FUNCTION(sgekit_tail_backward, TAIL_SCORES)
