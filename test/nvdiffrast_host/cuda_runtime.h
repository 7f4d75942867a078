// What CudaRaster takes from CUDA beyond cuda.h, and the PTX instructions it is written in.
//
// Its one-line functions name their operands a, b, c and their result v, and hold one asm
// statement each. While they are compiled, asm stands for ptx(), which reads the statement's text.
#pragma once
#include "cuda.h"

#include <stdlib.h>

typedef void* cudaStream_t;

static inline unsigned int min(unsigned int a, unsigned int b) { return a < b ? a : b; }
static inline unsigned int max(unsigned int a, unsigned int b) { return a > b ? a : b; }
static inline int __popc(unsigned int x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline double __longlong_as_double(long long x) { return reinterpret_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return reinterpret_bits<long long>(x); }
static inline int __double2loint(double x) { return (int)__double_as_longlong(x); }
static inline int __double2hiint(double x) { return (int)(__double_as_longlong(x) >> 32); }
static inline double __hiloint2double(int hi, int lo)
{
    return __longlong_as_double((long long)((uint64_t)(uint32_t)hi << 32 | (uint32_t)lo));
}

// Of the stage that a plain loop replaces here; compiled, never run.
static inline int __any_sync(unsigned int, int vote) { return vote; }
static inline void __syncwarp(unsigned int = ~0u) {}
static inline void atomicMin(uint32_t*, uint32_t) { abort(); }
static inline void atomicMax(uint32_t*, uint32_t) { abort(); }

// What a function lacks of these, the macro below finds here.
static int a, b, c, v;
#define PTX_ASM(...) ptx(#__VA_ARGS__, v, a, b, c)

// Half h of a register, as a signed number.
static inline int64_t half(int64_t value, char h)
{
    return (int16_t)(value >> (h == '1' ? 16 : 0));
}

template <class Float> static inline int64_t saturated(Float value, int64_t low, int64_t high)
{
    return value > (Float)low ? (value < (Float)high ? (int64_t)value : high) : low;
}

// Carry out the instruction at the start of text (after a quote), whose operands follow there.
template <class V, class A, class B, class C>
static void ptx(const char* text, V& result, A a, B b, C c)
{
    auto is = [text](const char* name) { return !strncmp(text + 1, name, strlen(name)); };
    // Operands in the order of the statement: ... : "=r"(v) : "r"(a), "r"(c), "r"(b)
    double named[3] = {(double)a, (double)b, (double)c}, x[3] = {};
    int count = -1;
    for (const char* at = strchr(text, '('); at && count < 3; at = strchr(at + 1, '('), count++)
        if (count >= 0 && at[1] >= 'a' && at[1] <= 'c')
            x[count] = named[at[1] - 'a'];
    int64_t i = (int64_t)x[0], j = (int64_t)x[1], k = (int64_t)x[2];
    const char *first = strstr(text, "%1.h"), *second = strstr(text, "%2.h");
    if (is("cvt.rni.sat.s32.f32"))
        result = (V)saturated(rint(x[0]), INT32_MIN, INT32_MAX);
    else if (is("cvt.rni.sat.u32.f32"))
        result = (V)saturated(rint(x[0]), 0, UINT32_MAX);
    else if (is("cvt.rni.s64.f32"))
        result = (V)llrint(x[0]);
    else if (is("vsub.s32.s32.s32 ") && first && second)
        result = (V)(half(i, first[4]) - half(j, second[4]));
    else if (is("vsub.u32.u32.u32.add"))
        result = (V)(i - j + k);
    else if (is("vadd.u32.u32.u32.add"))
        result = (V)(i + j + k);
    else if (is("vadd.u32.s32.s32.sat.min"))
        result = (V)(i + j < 0 ? 0 : i + j < k ? i + j : k);
    else if (is("vmax.s32.s32.s32.max"))
        result = (V)(i > j ? (i > k ? i : k) : (j > k ? j : k));
    else if (is("vmin.s32.s32.s32.min"))
        result = (V)(i < j ? (i < k ? i : k) : (j < k ? j : k));
    else if (is("slct."))
        result = (V)(k >= 0 ? x[0] : x[1]);
    else if (is("prmt.b32"))
    {
        uint64_t bytes = (uint64_t)(uint32_t)j << 32 | (uint32_t)i;
        uint32_t packed = 0;
        for (int n = 0; n < 4; n++)
            packed |= (uint32_t)(bytes >> 8 * (k >> 4 * n & 7) & 255) << 8 * n;
        result = (V)packed;
    }
    else
        abort();
}
