// Codes that become numbers with their scales before a product: of kivi's keys and of polarquant, which are no scale times a
// code of a group of channels.

namespace kv {

// Two numbers of float32, where precision counts; Pair holds two of float16, as tiles take them.
struct Two {
  float low, high;
};
template <typename N>
struct Numbers;
template <>
struct Numbers<Pair> {
  KV_CONST int words = 1;  // of an entry of a table
  static KV_FUNC Pair of(Pair codes) { return codes; }
  static KV_FUNC Pair both(float x) { return make_pair(x, x); }
  static KV_FUNC Pair times(Pair a, Pair b) { return pair_times(a, b); }
  static KV_FUNC Pair times_plus(Pair a, Pair b, Pair c) { return pair_mad(a, b, c); }
  static KV_FUNC Pair read(KV_SHARED(uint) table, uint at) { return pair_from_bits(table[at]); }
  static KV_FUNC void write(KV_SHARED(uint) table, int at, float low, float high) {
    table[at] = pair_bits(make_pair(low, high));
  }
};
template <>
struct Numbers<Two> {
  KV_CONST int words = 2;
  static KV_FUNC Two made(float low, float high) {
    Two x = {low, high};
    return x;
  }
  static KV_FUNC Two of(Pair codes) { return made(pair_low(codes), pair_high(codes)); }
  static KV_FUNC Two both(float x) { return made(x, x); }
  static KV_FUNC Two times(Two a, Two b) { return made(a.low * b.low, a.high * b.high); }
  static KV_FUNC Two times_plus(Two a, Two b, Two c) {
    return made(fast_fma(a.low, b.low, c.low), fast_fma(a.high, b.high, c.high));
  }
  static KV_FUNC Two read(KV_SHARED(uint) table, uint at) { return made(bits_float(table[2 * at]), bits_float(table[2 * at + 1])); }
  static KV_FUNC void write(KV_SHARED(uint) table, int at, float low, float high) {
    table[2 * at] = float_bits(low);
    table[2 * at + 1] = float_bits(high);
  }
};

// Codes of bits below a whole number of groups, without center, in runs of 16 at most of each of SHARERS lanes.
template <typename F, int SHARERS>
struct Flat : Format<F::bits, least(lowest_bit(F::dim), 16 * SHARERS), F::dim, F::minifloat ? CODES_MINIFLOAT : CODES_UNSIGNED,
                     META_NONE, 0, 0, SCALES_FLOAT, typename F::Scale> {
  KV_CONST int center = 0;
};

// How the codes of a token become numbers, in runs of a lane that are cut like those of Slices: `out` [run / 2] holds, of
// word w, the numbers of positions i and i + pairs. `gain` is what they are to be multiplied with at last.
template <typename F, int SHARERS, int KIND>
struct Decoder;
enum DecoderKind { DECODES_CHANNELS, DECODES_POLAR, DECODES_BLOCKS, DECODES_SMALL };

// Of two tokens, each decoded by itself: their numbers of the same channel become pairs.
template <typename By>
KV_FUNC void decode_apart(KV_THREAD const typename By::Raw& a, KV_THREAD const typename By::Raw& b, int u, int member,
                          KV_SHARED(uint) book, KV_THREAD Pair (&out)[By::run]) {
  Pair first[By::run / 2], second[By::run / 2];
  By::template decode<Pair>(a, u, member, book, first);
  By::template decode<Pair>(b, u, member, book, second);
  KV_UNROLL for (int j = 0; j < By::run / 2; ++j) {
    out[2 * j] = pair_from_bits(merge_low(pair_bits(first[j]), pair_bits(second[j])));
    out[2 * j + 1] = pair_from_bits(merge_high(pair_bits(first[j]), pair_bits(second[j])));
  }
}

// kivi's keys: a scale and a bias of every channel for GROUP tokens.
template <typename F, int SHARERS>
struct Decoder<F, SHARERS, DECODES_CHANNELS> {
  typedef Flat<F, SHARERS> Codes;
  typedef Slices<Codes, SHARERS> Cut;
  KV_CONST int run = Cut::run, words = Cut::words, codes = Cut::codes, pairs = Cut::pairs, unit = Cut::unit;
  KV_CONST int table = 4;

  struct Raw {
    Run<Cut::words> codes;
    uint scales[run / 2], biases[run / 2];
  };
  static KV_FUNC constexpr float gain() { return 1.0f; }
  static KV_FUNC constexpr int channel(int position) { return position; }
  static KV_FUNC int offset(int member) { return run_offset<Codes, SHARERS>(member); }

  template <typename G>
  static KV_FUNC void load(KV_THREAD const Rows<G>& rows, int token, int u, int member, KV_THREAD Raw& raw) {
    load_slice<Codes, SHARERS>(rows.codes + token * F::row_bytes, u, member, raw.codes);
    const int at = (rows.first + token) / F::group * F::dim + u * unit + member * run;
    load_halves(bytes_of(rows.scales + at), raw.scales);
    load_halves(bytes_of(rows.biases + at), raw.biases);
  }
  static KV_FUNC void load_halves(KV_DEVICE(const uchar) p, KV_THREAD uint (&out)[run / 2]) {
    Words<run / 2> words;
    load_words<run / 2>(p, words);
    KV_UNROLL for (int i = 0; i < run / 2; ++i) out[i] = words.w[i];
  }
  // Of a word's 16-bit numbers those of codes i and i + pairs.
  static KV_FUNC Pair pair_of(KV_THREAD const uint (&x)[run / 2], int w, int i) {
    const int first = w * pairs + i / 2;
    if (pairs == 1) return pair_from_bits(x[w]);
    return pair_from_bits(i & 1 ? merge_high(x[first], x[first + pairs / 2]) : merge_low(x[first], x[first + pairs / 2]));
  }
  template <typename N>
  static KV_FUNC void decode(KV_THREAD const Raw& raw, int, int, KV_SHARED(uint) book, KV_THREAD N (&out)[run / 2]) {
    KV_UNROLL for (int w = 0; w < words; ++w) {
      KV_UNROLL for (int i = 0; i < pairs; ++i)
        out[w * pairs + i] = Numbers<N>::times_plus(Numbers<N>::of(pair_at<Codes>(raw.codes.w[w], i, book)),
                                                    Numbers<N>::of(pair_of(raw.scales, w, i)),
                                                    Numbers<N>::of(pair_of(raw.biases, w, i)));
    }
  }
  static KV_FUNC void decode_two(KV_THREAD const Raw& a, KV_THREAD const Raw& b, int u, int member, KV_SHARED(uint) book,
                                 KV_THREAD Pair (&out)[run]) {
    decode_apart<Decoder>(a, b, u, member, book, out);
  }
};

// polarquant: a radius of 16 channels, and angles of BITS - 2 bits that halve them three times, of BITS bits for pairs.
template <typename F, int SHARERS>
struct Decoder<F, SHARERS, DECODES_POLAR> {
  KV_CONST int run = least(16, lowest_bit(F::dim) / SHARERS), unit = SHARERS * run;
  KV_CONST int words = most(1, run / 4), codes = least(4, run), pairs = codes / 2;
  KV_CONST int upper_bits = F::bits - 2, blocks = most(1, run / 16);
  KV_CONST int first_bins = 1 << F::bits, bins = 1 << upper_bits;  // level 1 comes first in the table, then 2, 3 and 4
  KV_CONST int table = 2 * (first_bins + 3 * bins);

  struct Raw {
    uint radius, angles[most(1, run / 8)], level[3];
  };
  static KV_FUNC constexpr float gain() { return 1.0f; }
  static KV_FUNC int offset(int) { return 0; }
  // Neighbours make a pair.
  static KV_FUNC constexpr int channel(int position) {
    return pairs == 1 ? position : (position & ~3) + 2 * (position & 1) + ((position >> 1) & 1);
  }
  static KV_FUNC constexpr int angle_bits(int level) { return most(1, run >> level) * upper_bits; }
  static KV_FUNC constexpr int level_at(int level) {  // its first bit
    return F::dim / 2 * F::bits + (level == 2 ? 0 : level == 3 ? F::dim / 4 : F::dim / 4 + F::dim / 8) * upper_bits;
  }

  template <typename G>
  static KV_FUNC void load(KV_THREAD const Rows<G>& rows, int token, int u, int member, KV_THREAD Raw& raw) {
    KV_DEVICE(const uchar) row = rows.codes + token * F::row_bytes;
    const int first = u * unit + member * run;
    raw.radius = load_16(bytes_of(rows.scales + member * run / 16) + 2 * (token * F::groups + u * (unit / 16)));
    KV_CONST int width = least(4, run / 2) * F::bits;  // four angles at a time
    KV_UNROLL for (int i = 0; i < most(1, run / 8); ++i)
      raw.angles[i] = field<width, 0>(row, member * (run / 2 * F::bits), u * (unit / 2 * F::bits) + i * width);
    raw.level[0] = field<angle_bits(2), level_at(2)>(row, (member * run >> 2) * upper_bits, (u * unit >> 2) * upper_bits);
    raw.level[1] = field<angle_bits(3), level_at(3)>(row, (member * run >> 3) * upper_bits, (u * unit >> 3) * upper_bits);
    raw.level[2] = field<angle_bits(4), level_at(4)>(row, (member * run >> 4) * upper_bits, (u * unit >> 4) * upper_bits);
  }
  // WIDTH bits from bit START + own + further on, own of this lane; without crossing a byte or a half where none is crossed.
  template <int WIDTH, int START>
  static KV_FUNC uint field(KV_DEVICE(const uchar) row, int own, int further) {
    if (WIDTH == 16 && START % 16 == 0 && F::row_bytes % 2 == 0 && unit / 2 * F::bits % 16 == 0)
      return load_16(row + own / 8 + (START + further) / 8);
    if (8 % WIDTH == 0 && START % 8 == 0 && further % 8 == 0)
      return load_8(row + own / 8 + (START + further) / 8) >> (own % 8);
    return load_bits<WIDTH>(row, START + own + further);
  }

  // One level down: a radius becomes the two that it stands for, or the one of them that holds the run.
  template <int LEVEL, typename N>
  static KV_FUNC void halve(KV_THREAD const Raw& raw, int first, KV_SHARED(uint) book, KV_THREAD float (&r)[8]) {
    const int start = Numbers<N>::words * first_bins + 2 * (LEVEL - 2) * bins, count = most(1, run >> LEVEL);
    float from[4];
    KV_UNROLL for (int n = 0; n < least(4, count); ++n) from[n] = r[n];
    KV_UNROLL for (int n = 0; n < count; ++n) {
      const uint code = (raw.level[LEVEL - 2] >> (n * upper_bits)) & uint(bins - 1);
      const float cosine = bits_float(book[start + 2 * code]), sine = bits_float(book[start + 2 * code + 1]);
      if (run >> (LEVEL - 1) >= 2) {
        r[2 * n] = from[n] * cosine;
        r[2 * n + 1] = from[n] * sine;
      } else {
        r[n] = from[n] * ((first >> (LEVEL - 1)) & 1 ? sine : cosine);
      }
    }
  }
  template <typename N>
  static KV_FUNC void decode(KV_THREAD const Raw& raw, int u, int member, KV_SHARED(uint) book,
                             KV_THREAD N (&out)[run / 2]) {
    const int first = u * unit + member * run;
    float r[8];
    r[0] = Convert<half_t>::word(raw.radius);
    halve<4, N>(raw, first, book, r);
    halve<3, N>(raw, first, book, r);
    halve<2, N>(raw, first, book, r);
    KV_UNROLL for (int j = 0; j < run / 2; ++j) {
      const uint code = (raw.angles[j / 4] >> (j % 4 * F::bits)) & uint(first_bins - 1);
      out[j] = Numbers<N>::times(Numbers<N>::read(book, code), Numbers<N>::both(r[j]));
    }
  }
  static KV_FUNC void decode_two(KV_THREAD const Raw& a, KV_THREAD const Raw& b, int u, int member, KV_SHARED(uint) book,
                                 KV_THREAD Pair (&out)[run]) {
    decode_apart<Decoder>(a, b, u, member, book, out);
  }
};

}  // namespace kv
