// What the shared kernel text needs, in the Metal shading language.
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

#define KV_FUNC inline
#define KV_THREAD thread
#define KV_CONST static constant constexpr const
#define KV_DEVICE(T) device T*
#define KV_SHARED(T) threadgroup T*
#define KV_SHARED_ARRAY(T, name, count) threadgroup T name[count]
#define KV_BOOK_COPIES 4
#define KV_UNROLL _Pragma("clang loop unroll(full)")
#define KV_UNROLL_1 _Pragma("clang loop unroll(disable)")
#define KV_UNROLL_4 _Pragma("clang loop unroll_count(4)")

namespace kv {

using uint = unsigned int;
using uchar = unsigned char;
using ushort = unsigned short;
using i64 = int64_t;
using half_t = half;
using bfloat_t = bfloat16_t;

KV_FUNC uint float_bits(float x) { return as_type<uint>(x); }
KV_FUNC float bits_float(uint x) { return as_type<float>(x); }
KV_FUNC float to_float(float x) { return x; }
KV_FUNC float to_float(half_t x) { return float(x); }
KV_FUNC float to_float(bfloat_t x) { return float(x); }

template <typename T>
struct Convert {
  static T from(float x) { return T(x); }
  static float word(uint x) { return float(as_type<T>(ushort(x))); }
};
template <>
struct Convert<float> {
  static float from(float x) { return x; }
  static float word(uint x) { return as_type<float>(x); }
};

KV_FUNC uint and_xor(uint x, uint mask, uint flip) { return (x & mask) ^ flip; }
KV_FUNC uint merge_low(uint a, uint b) { return (a & 0xffffu) | (b << 16); }
KV_FUNC uint merge_high(uint a, uint b) { return (a >> 16) | (b & 0xffff0000u); }
KV_FUNC uint joined_halves(uint a, uint b) { return (a >> 16) | (b << 16); }
KV_FUNC float fast_exp2(float x) { return fast::exp2(x); }
KV_FUNC float fast_fma(float a, float b, float c) { return fma(a, b, c); }
KV_FUNC float larger(float a, float b) { return fast::max(a, b); }
KV_FUNC float magnitude(float a) { return fabs(a); }
KV_FUNC float round_even(float x) { return rint(x); }
// Rounded on their own, never fused into what follows, where the kernel is compiled with safe arithmetic.
KV_FUNC float product(float a, float b) {
#pragma METAL fp contract(off)
  return a * b;
}
KV_FUNC float quotient(float a, float b) { return a / b; }
KV_FUNC float root(float x) { return precise::sqrt(x); }
KV_FUNC float hyperbolic_tangent(float x) { return precise::tanh(x); }

// Memory: byte pointers into device memory, and loads of a known alignment.
template <typename T>
KV_FUNC const device uchar* bytes_of(const device T* p) {
  return reinterpret_cast<const device uchar*>(p);
}
template <typename T>
KV_FUNC const device T* typed(const device uchar* p) {
  return reinterpret_cast<const device T*>(p);
}
template <int N>
struct Words {
  uint w[N];
};
template <int N>
KV_FUNC void load_words(const device uchar* p, thread Words<N>& out) {
  if (N % 4 == 0) {
    KV_UNROLL for (int i = 0; i < N / 4; ++i) {
      const uint4 v = reinterpret_cast<const device uint4*>(p)[i];
      out.w[4 * i] = v.x;
      out.w[4 * i + 1] = v.y;
      out.w[4 * i + 2] = v.z;
      out.w[4 * i + 3] = v.w;
    }
  } else if (N % 2 == 0) {
    KV_UNROLL for (int i = 0; i < N / 2; ++i) {
      const uint2 v = reinterpret_cast<const device uint2*>(p)[i];
      out.w[2 * i] = v.x;
      out.w[2 * i + 1] = v.y;
    }
  } else {
    KV_UNROLL for (int i = 0; i < N; ++i) out.w[i] = reinterpret_cast<const device uint*>(p)[i];
  }
}
KV_FUNC uint load_16(const device uchar* p) { return *reinterpret_cast<const device ushort*>(p); }
KV_FUNC uint load_8(const device uchar* p) { return *p; }
KV_FUNC void prefetch(const device uchar*) {}

// Two float16 values in one register.
struct Pair {
  half2 h;
};
KV_FUNC Pair pair_from_bits(uint bits) { return Pair{as_type<half2>(bits)}; }
KV_FUNC uint pair_bits(Pair p) { return as_type<uint>(p.h); }
KV_FUNC Pair make_pair(float low, float high) { return Pair{half2(half(low), half(high))}; }
KV_FUNC Pair pair_fma(Pair a, float m, float c) { return Pair{fma(a.h, half2(half(m)), half2(half(c)))}; }
KV_FUNC Pair pair_times(Pair a, Pair b) { return Pair{a.h * b.h}; }
KV_FUNC Pair pair_mad(Pair a, Pair b, Pair c) { return Pair{fma(a.h, b.h, c.h)}; }
KV_FUNC float pair_low(Pair p) { return float(p.h.x); }
KV_FUNC float pair_high(Pair p) { return float(p.h.y); }

// Lanes, in the order in which an 8 x 8 simdgroup matrix is spread over them: a row of a fragment is shared by four
// lanes, a column pair by eight.
KV_FUNC int lane_row(int lane) { return ((lane >> 2) & 4) + ((lane >> 1) & 3); }
KV_FUNC int lane_quad(int lane) { return ((lane >> 2) & 2) + (lane & 1); }
KV_FUNC int lane_at(int row, int quad) {
  return ((row & 4) << 2) + ((row & 3) << 1) + ((quad & 2) << 2) + (quad & 1);
}
KV_FUNC constexpr int row_step(int i) { return i == 2 ? 16 : 2 << i; }
KV_FUNC constexpr int quad_step(int i) { return i == 0 ? 1 : 8; }
KV_FUNC float simd_swap(float x, int mask) { return simd_shuffle_xor(x, ushort(mask)); }
KV_FUNC float simd_read(float x, int lane) { return simd_shuffle(x, ushort(lane)); }
KV_FUNC bool simd_some(bool x) { return simd_any(x); }
KV_FUNC void simd_sync() { simdgroup_barrier(mem_flags::mem_threadgroup); }
KV_FUNC void group_sync() { threadgroup_barrier(mem_flags::mem_threadgroup); }

// Matrix tiles: A is 16 x 16 and B 16 x 8 float16, C is 16 x 8 float32, each made of 8 x 8 simdgroup matrices.
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
KV_FUNC int tile_b_lane(int row, int column) { return lane_at(row & 7, column >> 1); }
KV_FUNC int tile_b_half(int, int column) { return column & 1; }
KV_FUNC void load_tile_b(threadgroup const half_t* p, thread TileB& b) {  // 8-byte aligned
  const half4 v = *reinterpret_cast<threadgroup const half4*>(p);
  b.v[0].h = v.xy;
  b.v[1].h = v.zw;
}
KV_FUNC TileC tile_c_zero() { return TileC{{0.0f, 0.0f, 0.0f, 0.0f}}; }
KV_FUNC void multiply_add(thread TileC& c, thread const TileA& a, TileB b) {
  KV_UNROLL for (int r = 0; r < 2; ++r) {
    simdgroup_matrix<float, 8, 8> sum;
    reinterpret_cast<thread float2&>(sum.thread_elements()) = float2(c.v[2 * r], c.v[2 * r + 1]);
    KV_UNROLL for (int k = 0; k < 2; ++k) {
      simdgroup_matrix<half, 8, 8> left;
      simdgroup_matrix<half, 8, 8> right;
      reinterpret_cast<thread half2&>(left.thread_elements()) = a.v[r + 2 * k].h;
      reinterpret_cast<thread half2&>(right.thread_elements()) = b.v[k].h;
      simdgroup_multiply_accumulate(sum, left, right, sum);
    }
    const float2 result = reinterpret_cast<thread float2&>(sum.thread_elements());
    c.v[2 * r] = result.x;
    c.v[2 * r + 1] = result.y;
  }
}
// The values of a C tile, rounded to float16, as the B tile of the next product.
KV_FUNC TileB tile_b_from_c(float c0, float c1, float c2, float c3) {
  TileB b;
  b.v[0] = make_pair(c0, c1);
  b.v[1] = make_pair(c2, c3);
  return b;
}

}  // namespace kv
