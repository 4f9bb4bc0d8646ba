// Operations of a whole simdgroup on the host: shuffles, votes, barriers and the emulated matrix tiles.

namespace kv {

struct ShuffleOperand {
  float value;
  int from;
  float result;
};
inline void shuffle_all(void** operands) {
  for (int i = 0; i < host::SIMD; ++i) {
    ShuffleOperand* mine = static_cast<ShuffleOperand*>(operands[i]);
    if (mine->from < 0 || mine->from >= host::SIMD) throw host::Failure("a shuffle reads a lane that does not exist");
    mine->result = static_cast<ShuffleOperand*>(operands[mine->from])->value;
  }
}
inline float simd_read(float x, int lane) {
  ShuffleOperand operand{x, lane, 0.0f};
  host::machine()->meet_simd(&shuffle_all, &operand);
  return operand.result;
}
inline float simd_swap(float x, int mask) { return simd_read(x, host::machine()->lane() ^ mask); }

inline void vote_all(void** operands) {
  bool some = false;
  for (int i = 0; i < host::SIMD; ++i) some |= *static_cast<bool*>(operands[i]);
  for (int i = 0; i < host::SIMD; ++i) *static_cast<bool*>(operands[i]) = some;
}
inline bool simd_some(bool x) {
  host::machine()->meet_simd(&vote_all, &x);
  return x;
}
inline void simd_sync() { host::machine()->meet_simd_barrier(); }
inline void group_sync() { host::machine()->meet_group_barrier(); }

struct TileA {
  Pair v[4];
};
struct TileB {
  Pair v[2];
};
struct TileC {
  float v[4];
};
inline float pair_part(Pair p, int j) { return j ? pair_high(p) : pair_low(p); }

inline TileC tile_c_zero() { return TileC{{0.0f, 0.0f, 0.0f, 0.0f}}; }
inline void load_tile_b(KV_SHARED(half_t) p, TileB& b) {
  for (int k = 0; k < 2; ++k) {
    const half_t low = p[2 * k], high = p[2 * k + 1];
    b.v[k].bits = uint(low.bits) | uint(high.bits) << 16;
  }
}

struct ProductOperand {
  TileC* c;
  const TileA* a;
  const TileB* b;
};
inline void multiply_all(void** operands) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < host::SIMD; ++lane) {
    const TileA* mine = static_cast<ProductOperand*>(operands[lane])->a;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 2; ++j)
        a[lane_row(lane) + 8 * (i & 1)][2 * lane_quad(lane) + j + 8 * (i >> 1)] = pair_part(mine->v[i], j);
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      const TileB* tile = static_cast<ProductOperand*>(operands[tile_b_lane(row, column)])->b;
      b[row][column] = pair_part(tile->v[row >> 3], tile_b_half(row, column));
    }
  for (int lane = 0; lane < host::SIMD; ++lane) {
    TileC* c = static_cast<ProductOperand*>(operands[lane])->c;
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 16; ++k)
        c->v[i] += a[lane_row(lane) + 8 * (i >> 1)][k] * b[k][2 * lane_quad(lane) + (i & 1)];
  }
}
inline void multiply_add(TileC& c, const TileA& a, TileB b) {
  ProductOperand operand{&c, &a, &b};
  host::machine()->meet_simd(&multiply_all, &operand);
}

#ifdef KV_LIKE_METAL
inline TileB tile_b_from_c(float c0, float c1, float c2, float c3) {
  return TileB{{make_pair(c0, c1), make_pair(c2, c3)}};
}
#else
inline void transpose_all(void** operands) {
  ushort values[16][8];
  for (int lane = 0; lane < host::SIMD; ++lane)
    for (int i = 0; i < 4; ++i)
      values[lane_row(lane) + 8 * (i >> 1)][2 * lane_quad(lane) + (i & 1)] =
          ushort(static_cast<TileB*>(operands[lane])->v[i >> 1].bits >> (16 * (i & 1)));
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      uint& bits = static_cast<TileB*>(operands[tile_b_lane(row, column)])->v[row >> 3].bits;
      const int shift = 16 * tile_b_half(row, column);
      bits = (bits & ~(0xffffu << shift)) | uint(values[row][column]) << shift;
    }
}
inline TileB tile_b_from_c(float c0, float c1, float c2, float c3) {
  TileB tile{{make_pair(c0, c1), make_pair(c2, c3)}};
  host::machine()->meet_simd(&transpose_all, &tile);
  return tile;
}
#endif

}  // namespace kv
