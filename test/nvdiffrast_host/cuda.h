// Stands in for CUDA's own header where nvdiffrast's kernels are compiled for the CPU.
//
// One thread runs at a time, from beginning to end: a block has one thread as far as barriers,
// votes and shared memory go, and atomic operations are plain ones. Of CUDA's types, built-in
// variables and functions there is what nvdiffrast/common/*.cu uses, with CUDA's meaning.
#pragma once

#define __CUDACC__ 1
#define __CUDA_ARCH__ 500  // before warps could match values: no coalescing of atomics
#define __global__
#define __device__
#define __constant__
#define __shared__
#define __forceinline__ inline

#include <math.h>
#include <stdint.h>
#include <string.h>

#define VECTOR_TYPES(T, NAME)                                                     \
    struct NAME##2 { T x, y; };                                                   \
    struct NAME##3 { T x, y, z; };                                                \
    struct NAME##4 { T x, y, z, w; };                                             \
    static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }             \
    static inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }     \
    static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR_TYPES(float, float)
VECTOR_TYPES(int, int)
VECTOR_TYPES(unsigned int, uint)

struct dim3 {
    unsigned int x, y, z;
    dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};
static dim3 threadIdx, blockIdx, blockDim;

template <class To, class From> static inline To reinterpret_bits(From value)
{
    static_assert(sizeof(To) == sizeof(From), "bits are reinterpreted, not converted");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline int __float_as_int(float x) { return reinterpret_bits<int>(x); }
static inline float __int_as_float(int x) { return reinterpret_bits<float>(x); }
static inline unsigned int __float_as_uint(float x) { return reinterpret_bits<unsigned int>(x); }
static inline float __uint_as_float(unsigned int x) { return reinterpret_bits<float>(x); }

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
#define __log2f log2f  // glibc has a function of that name

// Rounds down; saturates, and gives 0 for NaN.
static inline int __float2int_rd(float x)
{
    x = floorf(x);
    if (!(x >= -2147483648.f))
        return x < 0.f ? INT32_MIN : 0;
    return x < 2147483648.f ? (int)x : INT32_MAX;
}

// 1/x rounded toward zero.
static inline float __frcp_rz(float x)
{
    float nearest = 1.f / x;
    double exact = 1. / (double)x;
    return fabs((double)nearest) > fabs(exact) ? nextafterf(nearest, 0.f) : nearest;
}

template <class T> static inline T atomicAdd(T* target, T value)
{
    T before = *target;
    *target += value;
    return before;
}
template <class T> static inline T swap_if_equal(T* target, T expected, T value)
{
    T before = *target;
    if (before == expected)
        *target = value;
    return before;
}
static inline int atomicCAS(int* t, int e, int v) { return swap_if_equal(t, e, v); }
static inline unsigned long long atomicCAS(unsigned long long* t, unsigned long long e,
                                           unsigned long long v)
{
    return swap_if_equal(t, e, v);
}

static inline void __syncthreads() {}
static inline int __all_sync(unsigned int, int vote) { return vote; }
static inline unsigned int __ballot_sync(unsigned int, int vote) { return vote != 0; }
