// Calls the kernels on maps that lie in memory of exactly their size, at odd addresses too, and
// compares with the equations in float64. Prints what it did; 1 where a number is wrong.
#include "sgekit_cpu.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

struct Case {
    int32_t layout, dtype, isa, threads;
    int64_t samples, groups, depth, positions;
    bool relu, residual;
    int offset; // of every map, in bytes
};

uint32_t seed = 1;
float uniform() {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 16777216.0f;
}

size_t size_of(int32_t dtype) { return dtype == SGEKIT_FLOAT32 ? 4 : 2; }

// A multiple of 1/64 below 2 is exact in every type, and all types agree on how to write it.
void write(char *p, int32_t dtype, float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    uint16_t half = (uint16_t)(bits >> 16);
    if (dtype == SGEKIT_FLOAT16) {
        half = v == 0 ? 0 : (uint16_t)(((bits >> 16) & 0x8000u) | (((bits & 0x7fffffffu) - (112u << 23)) >> 13));
    }
    memcpy(p, dtype == SGEKIT_FLOAT32 ? (void *)&bits : (void *)&half, size_of(dtype));
}

double read(const char *p, int32_t dtype) {
    uint32_t bits = 0;
    uint16_t half;
    if (dtype == SGEKIT_FLOAT32) {
        memcpy(&bits, p, 4);
    } else {
        memcpy(&half, p, 2);
        if (dtype == SGEKIT_FLOAT16) {
            double v = std::ldexp((half & 0x3ff) | (half & 0x7c00 ? 0x400 : 0),
                                  ((half & 0x7c00) ? (half >> 10 & 0x1f) : 1) - 25);
            return half & 0x8000 ? -v : v;
        }
        bits = (uint32_t)half << 16;
    }
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

// A map in memory of its own size, so that the byte before it and the one after are forbidden.
struct Map {
    std::unique_ptr<char[]> memory;
    sgekit_map map;
    const Case *c;

    explicit Map(const Case &of) : c(&of) {
        const int64_t channels = of.groups * of.depth;
        memory.reset(new char[of.offset + of.samples * channels * of.positions * size_of(of.dtype)]);
        map = {memory.get() + of.offset, channels * of.positions,
               of.layout == SGEKIT_PLANAR ? of.positions : channels};
    }
    char *at(int64_t b, int64_t channel, int64_t j) const {
        int64_t k = c->layout == SGEKIT_PLANAR ? channel * map.outer + j : j * map.outer + channel;
        return (char *)map.data + (b * map.sample + k) * (int64_t)size_of(c->dtype);
    }
    double get(int64_t b, int64_t channel, int64_t j) const { return read(at(b, channel, j), c->dtype); }
    void fill() {
        for (int64_t b = 0; b < c->samples; ++b) {
            for (int64_t q = 0; q < c->groups * c->depth; ++q) {
                for (int64_t j = 0; j < c->positions; ++j) {
                    write(at(b, q, j), c->dtype, std::floor(uniform() * 100) / 64 - 0.5f);
                }
            }
        }
    }
};

using Size = int64_t (*)(const sgekit_call *);
using Run = int32_t (*)(const sgekit_call *, void *, int64_t);

// Runs one function in memory exactly as large as it says, and aligned: 0, or a code.
int32_t run(const sgekit_call &call, Size size_of_workspace, Run function) {
    const int64_t size = size_of_workspace(&call);
    if (size < 0) return (int32_t)size;
    std::unique_ptr<char, void (*)(void *)> workspace((char *)aligned_alloc(64, size ? size : 64), free);
    memset(workspace.get(), 0xff, size);
    return function(&call, workspace.get(), size);
}

// The equations of one group of one sample in float64, of z(channel, position).
struct Gated {
    std::vector<double> s;
    template <class Z> Gated(int64_t d, int64_t n, double weight, double bias, Z z) : s(n) {
        std::vector<double> means(d, 0), likeness(n, 0);
        for (int64_t i = 0; i < d; ++i) {
            for (int64_t j = 0; j < n; ++j) means[i] += z(i, j) / n;
        }
        double of_c = 0, var = 0;
        for (int64_t j = 0; j < n; ++j) {
            for (int64_t i = 0; i < d; ++i) likeness[j] += (z(i, j) - means[i]) * means[i];
            of_c += likeness[j] / n;
        }
        for (double v : likeness) var += (v - of_c) * (v - of_c);
        const double spread = std::sqrt(var / (n > 1 ? n - 1 : 1)) + 1e-5;
        for (int64_t j = 0; j < n; ++j) {
            s[j] = 1 / (1 + std::exp(-(weight * (likeness[j] - of_c) / spread + bias)));
        }
    }
};

// The tail of a block: its moments, y, dz and the gradients of SGE's and the norm's biases.
double worst_of_tail(const Case &c, bool given) {
    const int64_t channels = c.groups * c.depth, n = c.positions, d = c.depth, b_n = c.samples * n;
    Map x(c), r(c), y(c), dy(c), dz(c), dx(c);
    x.fill();
    r.fill();
    dy.fill();
    std::vector<float> weight(c.groups), bias(c.groups), mean(c.samples * c.groups), std(mean);
    std::vector<float> dweight(mean), dbias(mean), norm_weight(channels), norm_bias(channels);
    std::vector<float> dnorm_weight(channels), dnorm_bias(channels);
    std::vector<double> of_batch(channels), var(channels), invstd(channels);
    std::vector<double> means(c.samples * channels);
    for (float &v : weight) v = uniform() - 0.5f;
    for (float &v : bias) v = uniform();
    for (float &v : norm_weight) v = uniform() + 0.5f;
    for (float &v : norm_bias) v = uniform() + 0.5f;
    sgekit_call call;
    memset(&call, 0, sizeof call);
    call.layout = c.layout, call.dtype = c.dtype, call.isa = c.isa, call.threads = c.threads;
    call.samples = c.samples, call.groups = c.groups, call.depth = d, call.positions = n;
    call.x = x.map;
    call.norm.mean = of_batch.data(), call.norm.var = var.data(), call.norm.means = means.data();
    if (int32_t code = run(call, sgekit_moments_workspace, sgekit_moments)) {
        return code == SGEKIT_NO_SUCH_ISA ? -1 : 1e9 + code;
    }
    double error = 0;
    for (int64_t q = 0; q < channels; ++q) {
        double sum = 0, squares = 0;
        for (int64_t b = 0; b < c.samples; ++b) {
            for (int64_t j = 0; j < n; ++j) sum += x.get(b, q, j) / b_n;
        }
        for (int64_t b = 0; b < c.samples; ++b) {
            for (int64_t j = 0; j < n; ++j) squares += std::pow(x.get(b, q, j) - sum, 2) / b_n;
        }
        error = std::fmax(error, std::fabs(sum - of_batch[q]));
        error = std::fmax(error, std::fabs(squares - var[q]));
        // Of few positions the deviation may be 0.
        invstd[q] = 1 / std::sqrt(var[q] + 0.25);
    }
    call.eps = 1e-5f, call.relu = c.relu;
    call.weight = weight.data(), call.bias = bias.data();
    call.mean = mean.data(), call.std = std.data();
    call.dweight = dweight.data(), call.dbias = dbias.data();
    call.y = y.map, call.dy = dy.map, call.dx = dx.map;
    if (c.residual) call.residual = r.map;
    if (c.relu) call.dz = dz.map;
    call.norm.invstd = invstd.data(), call.norm.given = given, call.norm.batch = given;
    call.norm.weight = norm_weight.data(), call.norm.bias = norm_bias.data();
    call.norm.dweight = dnorm_weight.data(), call.norm.dbias = dnorm_bias.data();
    if (int32_t code = run(call, sgekit_tail_forward_workspace, sgekit_tail_forward)) return 1e9 + code;
    if (int32_t code = run(call, sgekit_tail_backward_workspace, sgekit_tail_backward)) return 1e9 + code;

    for (int64_t b = 0; b < c.samples; ++b) {
        for (int64_t k = 0; k < c.groups; ++k) {
            const auto z = [&](int64_t i, int64_t j) {
                const int64_t q = k * d + i;
                return norm_weight[q] * invstd[q] * (x.get(b, q, j) - of_batch[q]) + norm_bias[q];
            };
            const Gated gated(d, n, weight[k], bias[k], z);
            double db = 0;
            for (int64_t j = 0; j < n; ++j) {
                for (int64_t i = 0; i < d; ++i) {
                    const int64_t q = k * d + i;
                    double wanted = z(i, j) * gated.s[j] + (c.residual ? r.get(b, q, j) : 0);
                    double up = dy.get(b, q, j);
                    if (c.relu) {
                        wanted = wanted > 0 ? wanted : 0;
                        up = y.get(b, q, j) > 0 ? up : 0;
                        if (dz.get(b, q, j) != up) return 1e9;
                    }
                    error = std::fmax(error, std::fabs(y.get(b, q, j) - wanted));
                    if (!std::isfinite(dx.get(b, q, j))) return 1e9;
                    db += up * z(i, j) * gated.s[j] * (1 - gated.s[j]);
                }
            }
            error = std::fmax(error, std::fabs(dbias[b * c.groups + k] - db) / (1 + d * n));
        }
    }
    for (int64_t q = 0; q < channels; ++q) {
        if (!std::isfinite(dnorm_weight[q]) || !std::isfinite(dnorm_bias[q])) return 1e9;
    }
    return error;
}

double worst(const Case &c) {
    const int64_t channels = c.groups * c.depth, n = c.positions, d = c.depth;
    Map x(c), r(c), y(c), dy(c), dz(c), dx(c);
    x.fill();
    r.fill();
    dy.fill();
    std::vector<float> weight(c.groups), bias(c.groups), g(c.samples * channels);
    std::vector<float> mean(c.samples * c.groups), std(mean), dweight(mean), dbias(mean);
    for (float &v : weight) v = uniform() - 0.5f;
    for (float &v : bias) v = uniform();
    sgekit_call call;
    memset(&call, 0, sizeof call);
    call.layout = c.layout, call.dtype = c.dtype, call.isa = c.isa, call.threads = c.threads;
    call.samples = c.samples, call.groups = c.groups, call.depth = d, call.positions = n;
    call.eps = 1e-5f, call.relu = c.relu;
    call.weight = weight.data(), call.bias = bias.data();
    call.g = g.data(), call.mean = mean.data(), call.std = std.data();
    call.dweight = dweight.data(), call.dbias = dbias.data();
    call.x = x.map, call.y = y.map, call.dy = dy.map, call.dx = dx.map;
    if (c.residual) call.residual = r.map;
    if (c.relu) call.dz = dz.map;

    if (int32_t code = run(call, sgekit_forward_workspace, sgekit_forward)) {
        return code == SGEKIT_NO_SUCH_ISA ? -1 : 1e9 + code;
    }
    if (int32_t code = run(call, sgekit_backward_workspace, sgekit_backward)) return 1e9 + code;

    double error = 0;
    for (int64_t b = 0; b < c.samples; ++b) {
        for (int64_t k = 0; k < c.groups; ++k) {
            const Gated gated(d, n, weight[k], bias[k],
                              [&](int64_t i, int64_t j) { return x.get(b, k * d + i, j); });
            double db = 0;
            for (int64_t j = 0; j < n; ++j) {
                const double s = gated.s[j];
                for (int64_t i = 0; i < d; ++i) {
                    const int64_t q = k * d + i;
                    double wanted = x.get(b, q, j) * s + (c.residual ? r.get(b, q, j) : 0);
                    double up = dy.get(b, q, j);
                    if (c.relu) {
                        wanted = wanted > 0 ? wanted : 0;
                        up = y.get(b, q, j) > 0 ? up : 0;
                        if (dz.get(b, q, j) != up) return 1e9;
                    }
                    error = std::fmax(error, std::fabs(y.get(b, q, j) - wanted));
                    if (!std::isfinite(dx.get(b, q, j))) return 1e9;
                    db += up * x.get(b, q, j) * s * (1 - s);
                }
            }
            error = std::fmax(error, std::fabs(dbias[b * c.groups + k] - db) / (1 + d * n));
        }
    }
    return error;
}

} // namespace

int main() {
    const int64_t depths[] = {1, 2, 3, 4, 8, 12, 16, 32, 40, 64, 67};
    const int64_t positions[] = {1, 2, 3, 15, 16, 17, 49, 64, 65, 137, 256, 300};
    const char *names[] = {"best", "baseline", "AVX2", "AVX-512"};
    const double allowed[] = {2e-6, 1.0 / 64, 1.0 / 512};
    int64_t done = 0;
    for (int32_t isa = SGEKIT_ISA_BASELINE; isa <= SGEKIT_ISA_AVX512; ++isa) {
        double error[3] = {0, 0, 0};
        const int64_t before = done;
        for (int32_t layout = 0; layout < 2; ++layout) {
            for (int32_t dtype = 0; dtype < 3; ++dtype) {
                for (int64_t d : depths) {
                    for (int64_t n : positions) {
                        const uint32_t k = (uint32_t)(done * 2654435761u >> 8);
                        const int64_t groups[] = {1, 3, 17, 20};
                        Case c{layout, dtype, isa, k & 1 ? 3 : 1, 1 + k / 2 % 3, groups[k / 8 % 4],
                               d, n, (k / 32 & 1) != 0, (k / 64 & 1) != 0, (int)(k / 128 % 3)};
                        double e = worst(c);
                        if (e < 0) goto absent;
                        if (e <= allowed[dtype]) e = worst_of_tail(c, (k / 512 & 1) != 0);
                        if (!(e <= allowed[dtype])) {
                            printf("wrong by %g: layout %d dtype %d isa %s threads %d, %ld x %ld x %ld "
                                   "channels, %ld positions, relu %d, residual %d, offset %d\n",
                                   e, c.layout, c.dtype, names[isa], c.threads, (long)c.samples,
                                   (long)c.groups, (long)d, (long)n, c.relu, c.residual, c.offset);
                            return 1;
                        }
                        error[dtype] = std::fmax(error[dtype], e);
                        ++done;
                    }
                }
            }
        }
        // Large enough to be cut into ranges.
        for (int32_t layout = 0; layout < 2; ++layout) {
            const Case cut{layout, 0, isa, 3, 1, 1, 5, 12007, true, true, 0};
            const double e = std::fmax(worst(cut), worst_of_tail(cut, layout != 0));
            if (!(e <= 1e-6)) {
                printf("wrong by %g where a map is cut\n", e);
                return 1;
            }
            ++done;
        }
    absent:
        if (done == before) {
            printf("%s: not on this machine\n", names[isa]);
        } else {
            printf("%s: %ld calls, off by at most %.1e (float32), %.1e (bfloat16), %.1e (float16)\n",
                   names[isa], (long)(done - before), error[0], error[1], error[2]);
        }
    }
    return 0;
}
