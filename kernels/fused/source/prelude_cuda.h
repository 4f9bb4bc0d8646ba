// What the shared kernel text needs, in CUDA C++ (compiled by NVRTC).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define KV_FUNC __device__ __forceinline__
#define KV_THREAD
#define KV_CONST static constexpr const
#define KV_DEVICE(T) T*
#define KV_SHARED(T) T*
#define KV_SHARED_ARRAY(T, name, count) __shared__ __align__(16) T name[count]
#define KV_BOOK_COPIES 16
#define KV_UNROLL _Pragma("unroll")
#define KV_UNROLL_1 _Pragma("unroll 1")
#define KV_UNROLL_4 _Pragma("unroll 4")
#define thread_index_in_simdgroup (threadIdx.x & 31u)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)
#define threadgroup_position_in_grid blockIdx

namespace kv {

using uint = unsigned int;
using uchar = unsigned char;
using ushort = unsigned short;
using i64 = long long;
using half_t = __half;
using bfloat_t = __nv_bfloat16;

KV_FUNC uint float_bits(float x) { return __float_as_uint(x); }
KV_FUNC float bits_float(uint x) { return __uint_as_float(x); }
KV_FUNC float to_float(float x) { return x; }
KV_FUNC float to_float(half_t x) { return __half2float(x); }
KV_FUNC float to_float(bfloat_t x) { return __bfloat162float(x); }

template <typename T>
struct Convert;
template <>
struct Convert<float> {
  KV_FUNC static float from(float x) { return x; }
  KV_FUNC static float word(uint x) { return __uint_as_float(x); }
};
template <>
struct Convert<half_t> {
  KV_FUNC static half_t from(float x) { return __float2half_rn(x); }
  KV_FUNC static float word(uint x) { return __half2float(__ushort_as_half((ushort)x)); }
};
template <>
struct Convert<bfloat_t> {
  KV_FUNC static bfloat_t from(float x) { return __float2bfloat16_rn(x); }
  KV_FUNC static float word(uint x) { return __uint_as_float(x << 16); }
};

KV_FUNC uint and_xor(uint x, uint mask, uint flip) {  // (x & mask) ^ flip: one instruction, which nvcc does not find
  uint y;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(y) : "r"(x), "r"(mask), "r"(flip));
  return y;
}
KV_FUNC uint merge_low(uint a, uint b) { return __byte_perm(a, b, 0x5410); }
KV_FUNC uint merge_high(uint a, uint b) { return __byte_perm(a, b, 0x7632); }
KV_FUNC uint joined_halves(uint a, uint b) { return __byte_perm(a, b, 0x5432); }
KV_FUNC float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
KV_FUNC float fast_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
KV_FUNC float larger(float a, float b) { return fmaxf(a, b); }
KV_FUNC float magnitude(float a) { return fabsf(a); }
KV_FUNC float round_even(float x) { return rintf(x); }
// Rounded on their own, never fused into what follows.
KV_FUNC float product(float a, float b) { return __fmul_rn(a, b); }
KV_FUNC float quotient(float a, float b) { return __fdiv_rn(a, b); }
KV_FUNC float root(float x) { return __fsqrt_rn(x); }
KV_FUNC float hyperbolic_tangent(float x) { return tanhf(x); }

// Memory: byte pointers into device memory, and loads of a known alignment.
template <typename T>
KV_FUNC const uchar* bytes_of(const T* p) {
  return reinterpret_cast<const uchar*>(p);
}
template <typename T>
KV_FUNC const T* typed(const uchar* p) {
  return reinterpret_cast<const T*>(p);
}
template <int N>
struct Words {
  uint w[N];
};
template <int N>
KV_FUNC void load_words(const uchar* p, Words<N>& out) {
  if (N % 4 == 0) {
    KV_UNROLL for (int i = 0; i < N / 4; ++i) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(p) + i);
      out.w[4 * i] = v.x;
      out.w[4 * i + 1] = v.y;
      out.w[4 * i + 2] = v.z;
      out.w[4 * i + 3] = v.w;
    }
  } else if (N % 2 == 0) {
    KV_UNROLL for (int i = 0; i < N / 2; ++i) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(p) + i);
      out.w[2 * i] = v.x;
      out.w[2 * i + 1] = v.y;
    }
  } else {
    KV_UNROLL for (int i = 0; i < N; ++i) out.w[i] = __ldg(reinterpret_cast<const uint*>(p) + i);
  }
}
KV_FUNC uint load_16(const uchar* p) { return __ldg(reinterpret_cast<const ushort*>(p)); }
KV_FUNC uint load_8(const uchar* p) { return __ldg(p); }
KV_FUNC void prefetch(const uchar* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Two float16 values in one register.
struct Pair {
  uint bits;
};
KV_FUNC Pair pair_from_bits(uint bits) { return Pair{bits}; }
KV_FUNC uint pair_bits(Pair p) { return p.bits; }
KV_FUNC Pair make_pair(float low, float high) {
  Pair p;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(p.bits) : "f"(high), "f"(low));
#else
  p.bits = __half_as_ushort(__float2half_rn(low)) | uint(__half_as_ushort(__float2half_rn(high))) << 16;
#endif
  return p;
}
KV_FUNC uint half_splat(float x) {
  const uint h = __half_as_ushort(__float2half_rn(x));
  return h | (h << 16);
}
KV_FUNC Pair pair_fma(Pair a, float m, float c) {
  Pair p;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(p.bits) : "r"(a.bits), "r"(half_splat(m)), "r"(half_splat(c)));
  return p;
}
KV_FUNC Pair pair_times(Pair a, Pair b) {
  Pair p;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(p.bits) : "r"(a.bits), "r"(b.bits));
  return p;
}
KV_FUNC Pair pair_mad(Pair a, Pair b, Pair c) {
  Pair p;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(p.bits) : "r"(a.bits), "r"(b.bits), "r"(c.bits));
  return p;
}
KV_FUNC float pair_low(Pair p) { return Convert<half_t>::word(p.bits & 0xffffu); }
KV_FUNC float pair_high(Pair p) { return Convert<half_t>::word(p.bits >> 16); }

// Lanes. A row of a fragment is shared by four lanes, a column pair by eight.
KV_FUNC int lane_row(int lane) { return lane >> 2; }
KV_FUNC int lane_quad(int lane) { return lane & 3; }
KV_FUNC int lane_at(int row, int quad) { return row * 4 + quad; }
KV_FUNC constexpr int row_step(int i) { return 4 << i; }
KV_FUNC constexpr int quad_step(int i) { return 1 << i; }
KV_FUNC float simd_swap(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
KV_FUNC float simd_read(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
KV_FUNC bool simd_some(bool x) { return __any_sync(0xffffffffu, x); }
KV_FUNC void simd_sync() { __syncwarp(); }
KV_FUNC void group_sync() { __syncthreads(); }

// Matrix tiles: A is 16 x 16 and B 16 x 8 float16, C is 16 x 8 float32.
// A.v[r + 2 k]: row lane_row + 8 r, columns 2 lane_quad + {0, 1} + 8 k.   C.v[2 r + j]: row lane_row + 8 r, column 2 lane_quad + j.
struct TileA {
  Pair v[4];
};
struct TileB {
  Pair v[2];
};
struct TileC {
  float v[4];
};
// The lane and the half of its pair that hold element (row, column) of B; the pair is row / 8.
KV_FUNC int tile_b_lane(int row, int column) { return column * 4 + ((row & 7) >> 1); }
KV_FUNC int tile_b_half(int row, int) { return row & 1; }
KV_FUNC void load_tile_b(const half_t* p, TileB& b) {  // 8-byte aligned
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  b.v[0].bits = v.x;
  b.v[1].bits = v.y;
}
KV_FUNC TileC tile_c_zero() { return TileC{{0.0f, 0.0f, 0.0f, 0.0f}}; }
KV_FUNC void multiply_add(TileC& c, const TileA& a, TileB b) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c.v[0]), "+f"(c.v[1]), "+f"(c.v[2]), "+f"(c.v[3])
      : "r"(a.v[0].bits), "r"(a.v[1].bits), "r"(a.v[2].bits), "r"(a.v[3].bits), "r"(b.v[0].bits), "r"(b.v[1].bits));
#else  // Turing multiplies eight columns of A at a time
  KV_UNROLL for (int k = 0; k < 2; ++k)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c.v[0]), "+f"(c.v[1]), "+f"(c.v[2]), "+f"(c.v[3])
        : "r"(a.v[2 * k].bits), "r"(a.v[2 * k + 1].bits), "r"(b.v[k].bits));
#endif
}
// The values of a C tile, rounded to float16, as the B tile of the next product.
KV_FUNC TileB tile_b_from_c(float c0, float c1, float c2, float c3) {
  TileB b;
  const uint upper = make_pair(c0, c1).bits;
  const uint lower = make_pair(c2, c3).bits;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(b.v[0].bits) : "r"(upper));
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(b.v[1].bits) : "r"(lower));
  return b;
}

}  // namespace kv
