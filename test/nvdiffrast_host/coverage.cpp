// Which triangle covers a pixel: CudaRaster's set-up of triangles (snapping, clipping, culling,
// depth planes) and its coverage masks, from its unmodified sources. The queues by which warps
// share that work are left out: here every triangle visits every tile, in order.
#include "cuda_runtime.h"

#include <vector>

#include "common/cudaraster/CudaRaster.hpp"
#include "common/cudaraster/impl/PrivateDefs.hpp"
#include "common/cudaraster/impl/Constants.hpp"

#define asm PTX_ASM
#include "common/cudaraster/impl/Util.inl"
#undef asm

namespace CR
{
#include "common/cudaraster/impl/TriangleSetup.inl"
#include "common/cudaraster/impl/FineRaster.inl"
}

using namespace CR;

// One image: triangles [first, first + count), size = {width, height}; id is 0 where none is seen.
extern "C" void visible(const float* pos, const int* tri, int vertices, int triangles, int first,
                        int count, const int* size, int* id)
{
    CRAtomics atomics = {count};
    CRParams p = {};
    p.atomics = &atomics;
    p.numImages = 1;
    p.numVertices = vertices;
    p.numTriangles = triangles;
    p.vertexBuffer = (void*)pos;
    p.indexBuffer = (void*)tri;
    p.imageParamsFirst[0] = {first, count, 0};
    p.widthPixelsVp = size[0];
    p.heightPixelsVp = size[1];
    p.xs = p.ys = 1.f;
    p.maxSubtris = 8 * count;
    std::vector<U8> subtris(p.maxSubtris);
    std::vector<CRTriangleHeader> header(p.maxSubtris);
    std::vector<CRTriangleData> data(p.maxSubtris);
    p.triSubtris = subtris.data();
    p.triHeader = header.data();
    p.triData = data.data();
    for (int task = 0; task < count; task++)
    {
        threadIdx = dim3(task % 32, task / 32 % CR_SETUP_WARPS);
        blockIdx = dim3(task / (32 * CR_SETUP_WARPS));
        triangleSetupImpl(p);
    }
    threadIdx = dim3(0, 0);
    U64 lut[CR_COVER8X8_LUT_SIZE];
    cover8x8_setupLUT(lut);

    std::vector<U32> depth(size[0] * size[1], CR_DEPTH_MAX);
    for (int task = 0; task < count; task++)
        for (int part = 0; part < subtris[task]; part++)
        {
            int at = subtris[task] == 1 ? task : header[task].misc + part;
            uint4 packed = reinterpret_bits<uint4>(header[at]);
            for (int tile_y = 0; tile_y * CR_TILE_SIZE < size[1]; tile_y++)
                for (int tile_x = 0; tile_x * CR_TILE_SIZE < size[0]; tile_x++)
                    for (U64 mask = trianglePixelCoverage(p, packed, tile_x, tile_y, lut); mask; mask &= mask - 1)
                    {
                        int bit = __builtin_ctzll(mask);
                        int x = tile_x * CR_TILE_SIZE + bit % CR_TILE_SIZE;
                        int y = tile_y * CR_TILE_SIZE + bit / CR_TILE_SIZE;
                        U32 z = data[at].zx * x + data[at].zy * y + data[at].zb;
                        if (x < size[0] && y < size[1] && z <= depth[x + size[0] * y])
                        {
                            depth[x + size[0] * y] = z;
                            id[x + size[0] * y] = data[at].id;
                        }
                    }
        }
}
