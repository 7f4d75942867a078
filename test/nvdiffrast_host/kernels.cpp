// Nvdiffrast's kernels, compiled from its own unmodified sources for the CPU, behind C functions.
//
// Arguments are contiguous arrays laid out as in nvdiffrast's Python interface; NULL stands for
// what is not given. Image sizes come as size = {width, height, images}. What its kernels add to
// must arrive as zeros (or as the base that nvdiffrast's own launch code gives).
#include "cuda.h"

#include <stdexcept>
#include <stdio.h>
#include <string>
#include <vector>

#define NVDR_TORCH
#define TORCH_CHECK(condition, message) if (!(condition)) throw std::runtime_error(message);

#include "common/antialias.h"
// Persistent threads hand their block's next pieces of work to each other: blocks of one thread.
#undef AA_ANALYSIS_KERNEL_THREADS_PER_BLOCK
#undef AA_GRAD_KERNEL_THREADS_PER_BLOCK
#define AA_ANALYSIS_KERNEL_THREADS_PER_BLOCK 1
#define AA_GRAD_KERNEL_THREADS_PER_BLOCK 1

#include "common/antialias.cu"
#include "common/interpolate.cu"
#include "common/rasterize.cu"
#include "common/texture.cpp"
#if __has_include("common/texture_kernel.cu")  // since 0.4
#include "common/texture_kernel.cu"
#define calculate_mip_info calculateMipInfo
#else
#include "common/texture.cu"
#define calculate_mip_info(...) calculateMipInfo(NVDR_CTX_PARAMS, __VA_ARGS__)
#endif

// Dynamic shared memory of the kernel that pulls gradients out of mip levels: a texel.
float s_texelAccum[4096];

// Run a kernel for every (x, y, z) of a grid, in blocks whose size nvdiffrast leaves open.
template <class Params>
static void launch(void (*kernel)(const Params), const Params& p, int width, int height, int depth,
                   dim3 block = dim3())
{
    blockDim = block;
    for (int z = 0; z < depth; z++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
            {
                blockIdx = dim3(x / block.x, y / block.y, z);
                threadIdx = dim3(x % block.x, y % block.y, 0);
                kernel(p);
            }
}

//------------------------------------------------------------------------
// Rasterise: what follows the search for visible triangles.

template <class Params>
static void describe(Params& p, int vertices, int triangles, const int* size, int instances)
{
    p.numTriangles = triangles;
    p.numVertices = vertices;
    p.depth = size[2];
    p.instance_mode = instances;
    p.xs = 2.f / size[0];
    p.xo = 1.f / size[0] - 1.f;
    p.ys = 2.f / size[1];
    p.yo = 1.f / size[1] - 1.f;
}

extern "C" void rasterize(const float* pos, const int* tri, const int* id, int vertices,
                          int triangles, const int* size, int instances, float* out, float* out_db)
{
    RasterizeCudaFwdShaderParams p = {};
    p.pos = pos;
    p.tri = tri;
    p.in_idx = id;
    p.out = out;
    p.out_db = out_db;
    p.width_in = p.width_out = size[0];
    p.height_in = p.height_out = size[1];
    describe(p, vertices, triangles, size, instances);
    launch(RasterizeCudaFwdShaderKernel, p, size[0], size[1], size[2]);
}

extern "C" void rasterize_grad(const float* pos, const int* tri, const float* rast,
                               const float* grad_rast, const float* grad_db, int vertices,
                               int triangles, const int* size, int instances, float* grad_pos)
{
    RasterizeGradParams p = {};
    p.pos = pos;
    p.tri = tri;
    p.out = rast;
    p.dy = grad_rast;
    p.ddb = grad_db;
    p.grad = grad_pos;
    p.width = size[0];
    p.height = size[1];
    describe(p, vertices, triangles, size, instances);
    launch(grad_db ? RasterizeGradKernelDb : RasterizeGradKernel, p, size[0], size[1], size[2]);
}

//------------------------------------------------------------------------
// Interpolate. With grad_out given, the outputs are the three gradients.

extern "C" void interpolate(const float* attr, const float* rast, const int* tri,
                            const float* rast_db, const int* diff_attrs, int diff_count,
                            int vertices, int attributes, int triangles, const int* size,
                            int instances, int broadcast, const float* grad_out,
                            const float* grad_da, float* out, float* out_da, float* grad_attr,
                            float* grad_rast, float* grad_db)
{
    InterpolateKernelParams p = {};
    p.tri = tri;
    p.attr = attr;
    p.rast = rast;
    p.rastDB = rast_db;
    p.dy = grad_out;
    p.dda = grad_da;
    p.out = out;
    p.outDA = out_da;
    p.gradAttr = grad_attr;
    p.gradRaster = grad_rast;
    p.gradRasterDB = grad_db;
    p.numTriangles = triangles;
    p.numVertices = vertices;
    p.numAttr = attributes;
    p.numDiffAttr = diff_count;
    p.width = size[0];
    p.height = size[1];
    p.depth = size[2];
    p.attrBC = broadcast;
    p.instance_mode = instances;
    for (int i = 0; i < diff_count; i++)
        p.diffAttrs[i] = diff_attrs[i];
    auto forward = rast_db ? InterpolateFwdKernelDa : InterpolateFwdKernel;
    auto backward = rast_db ? InterpolateGradKernelDa : InterpolateGradKernel;
    launch(grad_out ? backward : forward, p, size[0], size[1], size[2]);
}

//------------------------------------------------------------------------
// Texture. shape = {width, height, images, channels}; mips holds the levels after the base.

static TextureKernelParams texture_params(const float* tex, float* mips, const int* shape,
                                          int boundary_mode, int max_mip_level, float* grad_tex,
                                          float* grad_mips, int* total)
{
    TextureKernelParams p = {};
    p.boundaryMode = boundary_mode;
    p.mipLevelLimit = max_mip_level;
    p.texWidth = shape[0];
    p.texHeight = shape[1];
    p.texDepth = shape[2];
    p.channels = shape[3];
    int offsets[TEX_MAX_MIP_LEVEL];
    *total = calculate_mip_info(p, offsets);
    p.tex[0] = tex;
    p.gradTex[0] = grad_tex;
    for (int level = 1; level <= p.mipLevelMax; level++)
    {
        p.tex[level] = mips ? mips + offsets[level] : NULL;
        p.gradTex[level] = grad_mips ? grad_mips + offsets[level] : NULL;
    }
    return p;
}

static int faces(const TextureKernelParams& p)
{
    return p.texDepth * (p.boundaryMode == TEX_BOUNDARY_MODE_CUBE ? 6 : 1);
}

// Fill mips, unless it is NULL, and return how many numbers it holds.
extern "C" int build_mips(const float* tex, float* mips, const int* shape, int boundary_mode,
                          int max_mip_level)
{
    int total;
    auto p = texture_params(tex, mips, shape, boundary_mode, max_mip_level, NULL, NULL, &total);
    auto kernel = p.channels % 4 == 0 ? MipBuildKernel4 : p.channels % 2 ? MipBuildKernel1 : MipBuildKernel2;
    for (p.mipLevelOut = 1; mips && p.mipLevelOut <= p.mipLevelMax; p.mipLevelOut++)
    {
        int2 size = mipLevelSize(p, p.mipLevelOut);
        launch(kernel, p, size.x, size.y, faces(p));
    }
    return total;
}

template <bool CUBE, bool BIAS_ONLY, int MODE>
static void look_up(const TextureKernelParams& p)
{
    auto forward1 = TextureFwdKernelTemplate<float, 1, CUBE, BIAS_ONLY, MODE>;
    auto forward2 = TextureFwdKernelTemplate<float2, 2, CUBE, BIAS_ONLY, MODE>;
    auto forward4 = TextureFwdKernelTemplate<float4, 4, CUBE, BIAS_ONLY, MODE>;
    auto forward = p.channels % 4 == 0 ? forward4 : p.channels % 2 ? forward1 : forward2;
    auto backward = TextureGradKernelTemplate<CUBE, BIAS_ONLY, MODE>;
    launch(p.dy ? backward : forward, p, p.imgWidth, p.imgHeight, p.n);
}

template <bool CUBE>
static void look_up(const TextureKernelParams& p)
{
    if (p.filterMode == TEX_MODE_NEAREST)
        look_up<CUBE, false, TEX_MODE_NEAREST>(p);
    else if (p.filterMode == TEX_MODE_LINEAR)
        look_up<CUBE, false, TEX_MODE_LINEAR>(p);
    else if (p.filterMode == TEX_MODE_LINEAR_MIPMAP_NEAREST)
        (p.uvDA ? look_up<CUBE, false, TEX_MODE_LINEAR_MIPMAP_NEAREST>
                : look_up<CUBE, true, TEX_MODE_LINEAR_MIPMAP_NEAREST>)(p);
    else
        (p.uvDA ? look_up<CUBE, false, TEX_MODE_LINEAR_MIPMAP_LINEAR>
                : look_up<CUBE, true, TEX_MODE_LINEAR_MIPMAP_LINEAR>)(p);
}

// With grad_out given, the outputs are the gradients; pull adds those of the mips to grad_tex.
extern "C" void texture(const float* tex, float* mips, const float* uv, const float* uv_da,
                        const float* bias, const int* shape, const int* size, int filter_mode,
                        int boundary_mode, int max_mip_level, const float* grad_out, float* out,
                        float* grad_tex, float* grad_mips, float* grad_uv, float* grad_da,
                        float* grad_bias, int pull)
{
    int total;
    auto p = texture_params(tex, mips, shape, boundary_mode, max_mip_level, grad_tex, grad_mips,
                            &total);
    p.uv = uv;
    p.uvDA = uv_da;
    p.mipLevelBias = bias;
    p.dy = grad_out;
    p.out = out;
    p.gradUV = grad_uv;
    p.gradUVDA = grad_da;
    p.gradMipLevelBias = grad_bias;
    p.filterMode = filter_mode;
    p.enableMip = filter_mode >= TEX_MODE_LINEAR_MIPMAP_NEAREST;
    p.imgWidth = size[0];
    p.imgHeight = size[1];
    p.n = size[2];
    (boundary_mode == TEX_BOUNDARY_MODE_CUBE ? look_up<true> : look_up<false>)(p);
    if (grad_out && p.enableMip && pull)
    {
        auto kernel = p.channels % 4 == 0 ? MipGradKernel4 : p.channels % 2 ? MipGradKernel1 : MipGradKernel2;
        launch(kernel, p, p.texWidth, p.texHeight, faces(p));
    }
}

//------------------------------------------------------------------------
// Antialias, and its gradient when grad_out is given; the output arrays hold color or grad_out.

extern "C" void antialias(const float* color, const float* rast, const float* pos, const int* tri,
                          int vertices, int triangles, int channels, const int* size,
                          int instances, float* out, const float* grad_out, float* grad_color,
                          float* grad_pos)
{
    AntialiasKernelParams p = {};
    p.color = color;
    p.rasterOut = rast;
    p.tri = tri;
    p.pos = pos;
    p.output = out;
    p.dy = grad_out;
    p.gradColor = grad_color;
    p.gradPos = grad_pos;
    p.numTriangles = triangles;
    p.numVertices = vertices;
    p.width = size[0];
    p.height = size[1];
    p.n = size[2];
    p.channels = channels;
    p.xh = .5f * size[0];
    p.yh = .5f * size[1];
    p.instance_mode = instances;
    for (p.allocTriangles = 64; p.allocTriangles < triangles;)
        p.allocTriangles <<= 1;
    std::vector<uint4> hash(p.allocTriangles * AA_HASH_ELEMENTS_PER_TRIANGLE(p.allocTriangles));
    std::vector<int4> work(2 * size[0] * size[1] * size[2] + 1);
    p.evHash = hash.data();
    p.workBuffer = work.data();
    launch(AntialiasFwdMeshKernel, p, triangles, 1, 1);
    launch(AntialiasFwdDiscontinuityKernel, p, size[0], size[1], size[2],
           dim3(AA_DISCONTINUITY_KERNEL_BLOCK_WIDTH, AA_DISCONTINUITY_KERNEL_BLOCK_HEIGHT));
    launch(AntialiasFwdAnalysisKernel, p, 1, 1, 1);
    if (grad_out)
    {
        p.workBuffer[0].y = 0;
        launch(AntialiasGradKernel, p, 1, 1, 1);
    }
}
