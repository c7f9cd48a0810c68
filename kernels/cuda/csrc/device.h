// The few device operations that the kernels are written with: PTX on a GPU, emulator.h on a host.
//
// Fragment layouts are those of the PTX ISA, "Matrix multiply-accumulate": mma.m16n8k16 for f16, ldmatrix.

#pragma once

#include <cstddef>
#include <cstdint>

#ifdef POSTER_EDGE_EMULATE
#include "emulator.h"
#else

#include <cuda_fp16.h>

#define PE_DEVICE __device__ __forceinline__
#define PE_KERNEL(threads) extern "C" __global__ __launch_bounds__(threads)

namespace poster_edge {

using half_t = unsigned short;

PE_DEVICE int thread_index() { return threadIdx.x; }
PE_DEVICE int block_x() { return blockIdx.x; }
PE_DEVICE int block_y() { return blockIdx.y; }
PE_DEVICE void barrier() { __syncthreads(); }
PE_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
PE_DEVICE float inverse_root(float x) { return rsqrtf(x); }

PE_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <int BYTES>
PE_DEVICE unsigned char* shared_memory() {
  __shared__ __align__(16) unsigned char bytes[BYTES];
  return bytes;
}

PE_DEVICE float to_float(half_t x) { return __half2float(__ushort_as_half(x)); }

PE_DEVICE uint32_t pack(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

PE_DEVICE void unpack(uint32_t pair, float& low, float& high) {
  const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
  low = both.x;
  high = both.y;
}

PE_DEVICE uint32_t load_pair(const half_t* from) { return *reinterpret_cast<const uint32_t*>(from); }

PE_DEVICE void store_pair(half_t* to, float low, float high) { *reinterpret_cast<uint32_t*>(to) = pack(low, high); }

PE_DEVICE void load16(uint32_t (&v)[4], const half_t* from) {
  const uint4 all = *reinterpret_cast<const uint4*>(from);
  v[0] = all.x;
  v[1] = all.y;
  v[2] = all.z;
  v[3] = all.w;
}

PE_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, or zeros where there is nothing to copy.  Done after wait_copies.
PE_DEVICE void copy16(half_t* to, const half_t* from, bool inside) {
#if __CUDA_ARCH__ >= 800
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
#else
  *reinterpret_cast<uint4*>(to) = inside ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}

PE_DEVICE void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait until at most PENDING of the committed groups are under way.
template <int PENDING>
PE_DEVICE void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Four 8 x 8 matrices of halves; lanes 8i..8i+7 give the addresses of matrix i's rows.
PE_DEVICE void load_matrices(uint32_t (&r)[4], const half_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

PE_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const half_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b: (16 x 16) (16 x 8), FP32 sums.  Turing has half the depth: two instructions.
PE_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#pragma unroll
  for (int half = 0; half < 2; ++half)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(half ? b1 : b0));
#endif
}

}  // namespace poster_edge

#endif
