// Packs one new token behind the recent ones of its side; they move with it, since an output is a new array.

namespace kv {

// What is stored of a group's scale x: a 16-bit type, or the byte that stands for it.
template <typename S>
struct Field;
template <>
struct Field<half_t> {
  static KV_FUNC uint bits(float x, uint) { return half_bits(x); }
};
template <>
struct Field<bfloat_t> {
  static KV_FUNC uint bits(float x, uint) { return float_bits(to_float(Convert<bfloat_t>::from(x))) >> 16; }
};
template <>
struct Field<uchar> {
  static KV_FUNC uint bits(float, uint code) { return code; }
};

// One token of one (batch, KV head) and side, by one simdgroup. `planes` and `out` are where its side begins.
template <typename F, int KIND, int ROOM>
struct Append {
  typedef Planes<F, ROOM> At;

  static KV_FUNC void keep(int token, KV_DEVICE(const uchar) planes, KV_DEVICE(uchar) out, int lane) {
    for (int i = token * F::row_bytes + lane; i < (token + 1) * F::row_bytes; i += 32) out[i] = planes[i];
    for (int i = token * At::field + lane; i < (token + 1) * At::field; i += 32) {
      out[At::scales + i] = planes[At::scales + i];
      if (F::meta == META_BIAS) out[At::biases + i] = planes[At::biases + i];
    }
  }

  template <typename X, typename Edges>
  static KV_FUNC void pack(int token, KV_DEVICE(const X) values, i64 stride, KV_THREAD const Edges& edges,
                           KV_DEVICE(uchar) out, KV_SHARED(uchar) codes, int lane) {
    typedef GroupEncoder<KIND, F::bits, F::group> Group;
    KV_CONST int width = int(sizeof(typename F::Scale));
    KV_CONST int block = F::row_bytes / F::groups, header = F::header > 0 ? width * F::meta : 0, body = block - header;
    Group group;
    for (int g = 0; g < F::groups; ++g) {
      group.load(values, stride, g * F::group, lane);
      group.measure();
      for (int i = 0; i < Group::each; ++i)
        if (group.present(i)) codes[g * F::group + lane + 32 * i] = uchar(group.code(i, edges));
      if (lane < width * F::meta) {
        const uint field = Field<typename F::Scale>::bits(lane < width ? group.scale : group.bias, group.scale_code);
        const int byte = lane % width, plane = (lane < width ? At::scales : At::biases) + token * At::field + width * g;
        out[header > 0 ? token * F::row_bytes + g * block + lane : plane + byte] = uchar(field >> (8 * byte));
      }
    }
    simd_sync();
    for (int i = lane; i < F::groups * body; i += 32)
      out[token * F::row_bytes + i / body * block + header + i % body] =
          uchar(stream_byte<F::bits, F::halves>(codes, i));
  }
};

}  // namespace kv
