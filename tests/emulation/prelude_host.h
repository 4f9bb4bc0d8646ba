// What the shared kernel text needs, on a CPU: lanes are fibers, tiles are emulated in the layout of either GPU.
// KV_LIKE_METAL chooses Metal's lane order; otherwise CUDA's.
#include <math.h>

#define KV_FUNC inline
#define KV_THREAD
#define KV_CONST static constexpr const
#define KV_DEVICE(T) kv::host::DevicePointer<T>
#define KV_SHARED(T) kv::host::GroupPointer<T>
#define KV_SHARED_ARRAY(T, name, count)                                                              \
  static_assert((count) * sizeof(T) <= kv::host::GROUP_MEMORY, "more than 32 KiB of threadgroup memory"); \
  kv::host::GroupPointer<T> name = kv::host::shared_array<T>(count)
#define KV_BOOK_COPIES 4
#define KV_UNROLL
#define KV_UNROLL_1
#define KV_UNROLL_4
#define thread_index_in_simdgroup (static_cast<unsigned>(kv::host::machine()->lane()))
#define simdgroup_index_in_threadgroup (static_cast<unsigned>(kv::host::machine()->simdgroup()))
#define threadgroup_position_in_grid (kv::host::machine()->group)

namespace kv {

using uint = unsigned int;
using uchar = unsigned char;
using ushort = unsigned short;
using i64 = int64_t;

template <typename T, typename S>
inline T bit_copy(S value) {
  static_assert(sizeof(T) == sizeof(S), "sizes differ");
  T out;
  memcpy(&out, &value, sizeof out);
  return out;
}
inline uint float_bits(float x) { return bit_copy<uint>(x); }
inline float bits_float(uint x) { return bit_copy<float>(x); }

inline ushort half_from_float(float x) {  // rounds to nearest even
  const uint bits = float_bits(x), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest >= 0x7f800000u) return ushort(sign | (rest > 0x7f800000u ? 0x7e00u : 0x7c00u));
  if (rest >= 0x477ff000u) return ushort(sign | 0x7c00u);
  if (rest < 0x38800000u) {  // below the smallest normal number: the float adder rounds at 2^-24
    const float shifted = bits_float(rest) + 0.5f;
    return ushort(sign | (float_bits(shifted) - 0x3f000000u));
  }
  const uint odd = (rest >> 13) & 1u;
  return ushort(sign | ((rest - 0x38000000u + 0xfffu + odd) >> 13));
}
inline float float_from_half(uint bits) {
  const uint sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return bits_float(sign | 0x7f800000u | (rest << 13));
  const float wide = bits_float(rest << 13) * bits_float((112u + 127u) << 23);
  return bits_float(sign | float_bits(wide));
}
inline ushort bfloat_from_float(float x) {
  const uint bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return ushort((bits >> 16) | 0x40u);
  return ushort((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
struct half_t {
  ushort bits;
};
struct bfloat_t {
  ushort bits;
};
inline float to_float(float x) { return x; }
inline float to_float(half_t x) { return float_from_half(x.bits); }
inline float to_float(bfloat_t x) { return bits_float(uint(x.bits) << 16); }

template <typename T>
struct Convert;
template <>
struct Convert<float> {
  static float from(float x) { return x; }
  static float word(uint x) { return bits_float(x); }
};
template <>
struct Convert<half_t> {
  static half_t from(float x) { return half_t{half_from_float(x)}; }
  static float word(uint x) { return float_from_half(x & 0xffffu); }
};
template <>
struct Convert<bfloat_t> {
  static bfloat_t from(float x) { return bfloat_t{bfloat_from_float(x)}; }
  static float word(uint x) { return bits_float(x << 16); }
};

inline uint and_xor(uint x, uint mask, uint flip) { return (x & mask) ^ flip; }
inline uint merge_low(uint a, uint b) { return (a & 0xffffu) | (b << 16); }
inline uint merge_high(uint a, uint b) { return (a >> 16) | (b & 0xffff0000u); }
inline uint joined_halves(uint a, uint b) { return (a >> 16) | (b << 16); }
inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_fma(float a, float b, float c) { return fmaf(a, b, c); }
inline float larger(float a, float b) { return a > b ? a : b; }
inline float magnitude(float a) { return fabsf(a); }
inline float round_even(float x) { return rintf(x); }
// Rounded on their own, never fused into what follows.
inline float product(float a, float b) { return a * b; }
inline float quotient(float a, float b) { return a / b; }
inline float root(float x) { return sqrtf(x); }
inline float hyperbolic_tangent(float x) { return tanhf(x); }

template <typename T>
KV_DEVICE(const uchar) bytes_of(KV_DEVICE(const T) p) {
  return KV_DEVICE(const uchar)(reinterpret_cast<const uchar*>(p.raw()), p.region());
}
template <typename T>
KV_DEVICE(const T) typed(KV_DEVICE(const uchar) p) {
  return KV_DEVICE(const T)(reinterpret_cast<const T*>(p.raw()), p.region());
}
template <int N>
struct Words {
  uint w[N];
};
template <int N>
void load_words(KV_DEVICE(const uchar) p, Words<N>& out) {
  constexpr size_t alignment = N % 4 == 0 ? 16 : N % 2 == 0 ? 8 : 4;
  memcpy(out.w, p.check(0, 4 * N, alignment), 4 * N);
}
inline uint load_16(KV_DEVICE(const uchar) p) {
  ushort value;
  memcpy(&value, p.check(0, 2, 2), 2);
  return value;
}
inline uint load_8(KV_DEVICE(const uchar) p) { return *p.check(0, 1); }
inline void prefetch(KV_DEVICE(const uchar) p) { p.check(0, 1); }

struct Pair {
  uint bits;
};
inline Pair pair_from_bits(uint bits) { return Pair{bits}; }
inline uint pair_bits(Pair p) { return p.bits; }
inline Pair make_pair(float low, float high) {
  return Pair{uint(half_from_float(low)) | uint(half_from_float(high)) << 16};
}
inline float pair_low(Pair p) { return float_from_half(p.bits & 0xffffu); }
inline float pair_high(Pair p) { return float_from_half(p.bits >> 16); }
inline Pair pair_fma(Pair a, float m, float c) {
  return make_pair(fmaf(pair_low(a), m, c), fmaf(pair_high(a), m, c));
}

inline Pair pair_times(Pair a, Pair b) { return make_pair(pair_low(a) * pair_low(b), pair_high(a) * pair_high(b)); }
inline Pair pair_mad(Pair a, Pair b, Pair c) {
  return make_pair(fmaf(pair_low(a), pair_low(b), pair_low(c)), fmaf(pair_high(a), pair_high(b), pair_high(c)));
}

#ifdef KV_LIKE_METAL
inline int lane_row(int lane) { return ((lane >> 2) & 4) + ((lane >> 1) & 3); }
inline int lane_quad(int lane) { return ((lane >> 2) & 2) + (lane & 1); }
inline int lane_at(int row, int quad) {
  return ((row & 4) << 2) + ((row & 3) << 1) + ((quad & 2) << 2) + (quad & 1);
}
constexpr int row_step(int i) { return i == 2 ? 16 : 2 << i; }
constexpr int quad_step(int i) { return i == 0 ? 1 : 8; }
inline int tile_b_lane(int row, int column) { return lane_at(row & 7, column >> 1); }
inline int tile_b_half(int, int column) { return column & 1; }
#else
inline int lane_row(int lane) { return lane >> 2; }
inline int lane_quad(int lane) { return lane & 3; }
inline int lane_at(int row, int quad) { return row * 4 + quad; }
constexpr int row_step(int i) { return 4 << i; }
constexpr int quad_step(int i) { return 1 << i; }
inline int tile_b_lane(int row, int column) { return column * 4 + ((row & 7) >> 1); }
inline int tile_b_half(int row, int) { return row & 1; }
#endif

}  // namespace kv
